"""Meta-train a sequence model on learning histories (GLA, Algorithm 1).

One step samples a batch, projects it, evaluates the objective and updates the weights, all inside
one jitted program that runs several steps per dispatch. Every random number of step i comes from
the seed and i alone, so a resumed run repeats an uninterrupted one bit for bit on the same machine.

What happens when something goes wrong, and when training ends, is told in `gla.loop`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from gla import checkpoints, parallel, sampling
from gla.errors import GlaError
from gla.histories import HistoryStore, identity
from gla.learner import (
    TrainState,
    init_state,
    train_steps,
    validation_loss,
)
from gla.loading import Loader, LoadingConfig
from gla.loop import Job, check_minutes, memory_errors, train
from gla.models import ModelConfig, make_model
from gla.optimizers import OptimizerConfig
from gla.packages import package_versions
from gla.projection import ProjectionConfig, check_sizes
from gla.sampling import Histories
from gla.steps import begin
from gla.tokens import Interface
from gla.training_config import (
    MetaTrainConfig,
    ValidationConfig,
    config_from_json,
    make_interface,
)

# Tells the checkpoints of `gla.agents.rl2` from those of agents trained on histories.
RL2_KIND = "rl2"

__all__ = [
    "MetaTrainConfig",
    "RL2_KIND",
    "Sources",
    "TrainState",
    "Trained",
    "ValidationConfig",
    "config_from_json",
    "init_state",
    "load_sources",
    "load_trained",
    "make_interface",
    "meta_train",
]


class Sources:
    """What the stores hold; a context manager, or to be closed.

    Args:
        loaders: one per store.
        metas: `gla.histories.identity` of each, which tells collections apart wherever they lie.
        discrete: whether actions are discrete.
    """

    def __init__(self, loaders: Sequence[Loader], metas: list[dict[str, Any]], discrete: bool):
        self.loaders, self.metas, self.discrete = loaders, metas, discrete

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object):
        for loader in self.loaders:
            loader.close()

    @property
    def environments(self) -> list[str]:
        """Ids of the environments, in order."""
        return [meta["environment"] for meta in self.metas]

    def pool(self, index: int) -> list[Histories]:
        """Return the histories of each store that are in memory together (`gla.loading`)."""
        return [loader.pool(index) for loader in self.loaders]


def load_sources(
    config: MetaTrainConfig,
    paths: Sequence[str] | None = None,
    loading: LoadingConfig | None = None,
    mesh: Mesh | None = None,
) -> Sources:
    """Open and check every store, and read its first pool.

    Args:
        config: what to train.
        paths: other stores than the config's `histories`.
        loading: another way of loading than the config's.
        mesh: devices to copy the histories to.

    Raises:
        GlaError: no store, a damaged or incomplete one, a mixture of continuous and discrete
            actions, sizes that the projection does not take, sequences that do not fit.
    """
    paths = config.histories if paths is None else paths
    loading = config.loading if loading is None else loading
    if not paths:
        raise GlaError(
            "meta-train was given no histories", "at least one folder written by `gla collect`"
        )
    loaders: list[Loader] = []
    metas: list[dict[str, Any]] = []
    kinds = set()
    with contextlib.ExitStack() as opened:
        for i, path in enumerate(paths):
            store = HistoryStore.open(path)
            missing = store.missing_blocks()
            if missing:
                raise GlaError(
                    f"the histories in {path} are incomplete: {len(missing)} of "
                    f"{store.meta.blocks} blocks are missing",
                    mend="run the same `gla collect` again; it goes on where it stopped",
                )
            meta = store.meta
            check_sizes(
                config.projection, meta.observation_size, meta.action_size, meta.environment
            )
            if config.objective.told and meta.told > config.objective.told_size:
                raise GlaError(
                    f"{meta.told} numbers are told of the tasks in {path}, more than "
                    f"objective.told_size={config.objective.told_size}",
                    mend=f"raise objective.told_size to at least {meta.told}",
                )
            loader = opened.enter_context(
                Loader(
                    store,
                    loading,
                    (config.seed, i),
                    lambda pool: parallel.put(pool, mesh),
                    config.projection.logarithmic,
                )  # fmt: skip
            )
            sampling.check(config.sampling, loader.pool(0), meta.environment, loader.scores)
            loaders.append(loader)
            metas.append(identity(meta))
            kinds.add(meta.discrete)
        if len(kinds) > 1:
            raise GlaError(
                "the histories mix continuous and discrete actions",
                "stores of one action kind",
                "train one agent on each",
            )
        opened.pop_all()
    return Sources(loaders, metas, kinds.pop())


# The whole training

Validate = Callable[[Any], dict[str, float]]


def meta_train(
    config: MetaTrainConfig,
    path: str | os.PathLike,
    fresh: bool = False,
    progress: bool = True,
    minutes: float | None = None,
    validate: Validate | None = None,
) -> Path:
    """Train, or go on training, and keep checkpoints in a folder.

    A folder that was trained with the same settings is gone on with; a finished one is left alone.
    With several processes (`gla.parallel.start`) all call this alike, with a folder that all see;
    process 0 writes logs and descriptions.

    Args:
        config: what to train.
        path: checkpoint folder.
        fresh: delete a checkpoint folder that is there first.
        progress: show a progress bar with the loss by segment, early to late in the lifetime.
        minutes: stop, and count as finished, after this many minutes of training in this call.
        validate: called with the parameters to act with at every validation. Returns numbers to be
            logged, of which `score`, higher is better, decides which weights are best; without it
            minus the loss on `validation.histories` does. Must return the same for the same
            parameters.

    Returns:
        The absolute path of the folder.

    Raises:
        GlaError: see `load_sources` and the rules at the top of `gla.loop`; a folder with other
            settings; a validation without anything to validate on.
    """
    check_minutes(minutes)
    with contextlib.ExitStack() as opened:
        # Reading the histories takes memory too.
        opened.enter_context(memory_errors(_lower(config), Path(path).absolute()))
        job = _job(config, validate, opened)
        return train(job, path, fresh, progress, minutes)


class _Pools:
    """Gives every dispatch the histories that are in memory then.

    Args:
        sources: of the histories.
        refresh: steps after which they are exchanged.
    """

    def __init__(self, sources: Sources, refresh: int):
        self._sources, self._refresh = sources, refresh
        self._index = -1
        self._pool: list[Histories] | None = None

    def __call__(self, step: int) -> list[Histories] | None:
        index = step // self._refresh
        if index != self._index:
            self._pool = None  # dropped before the next is read
            self._index, self._pool = index, self._sources.pool(index)
        return self._pool


def _lower(config: MetaTrainConfig) -> str:
    """Say what takes less memory."""
    return (
        f"lower batch_size ({config.batch_size}), raise accumulate ({config.accumulate}), set "
        f"model.remat=True (now {config.model.remat}), or set bptt ({config.bptt}) to a part of "
        f"the {config.sampling.length} tokens of a sequence"
    )


def _job(config: MetaTrainConfig, validate: Validate | None, opened: contextlib.ExitStack) -> Job:
    """Open the histories and say what the loop is to do with them."""
    if config.validation.every and validate is None and not config.validation.histories:
        raise GlaError(
            "validation.every is set but there is nothing to validate on",
            "validation.histories or validation.environments",
        )
    if config.validation.environments and validate is None:
        raise GlaError(
            "validation.environments are named but nothing was given that acts in them",
            "a function for `validate`, as `gla meta-train` has",
        )
    mesh = parallel.make_mesh(config.mesh)
    parallel.check_batch(config.micro_batch, mesh)
    sources = opened.enter_context(load_sources(config, mesh=mesh))
    held_out: Sources | None = None
    if config.validation.histories:
        paths = config.validation.histories
        held_out = opened.enter_context(load_sources(config, paths, LoadingConfig(), mesh))
        if held_out.discrete != sources.discrete:
            raise GlaError(
                "the histories for validation have the other kind of actions",
                "the kind that is trained on",
            )
    interface = make_interface(config, sources.discrete)
    initial = _initial(config, interface) if config.initial else _Initial()
    loss = jax.jit(
        lambda params, histories: validation_loss(params, histories, config, interface, mesh)
    )

    def validated(params: Any) -> dict[str, float]:
        values: dict[str, float] = {}
        if held_out is not None:
            terms = loss(params, held_out.pool(0))
            values |= {name: float(x) for name, x in terms.items()}
            values["score"] = -values["loss"]
        if validate is not None:
            values |= validate(parallel.gathered(params, mesh))
        if "score" not in values:
            raise GlaError(
                "the function for `validate` returned no score",
                "a dictionary with `score`, or validation.histories",
            )
        return values

    return Job(
        config=config,
        title=f"meta-train on {', '.join(n.split('/')[-1] for n in sources.environments)}",
        description={
            "training": dataclasses.asdict(config),
            "interface": dataclasses.asdict(interface),
            # In order, each once.
            "sources": list(dict.fromkeys([*sources.environments, *initial.sources])),
            "histories": sources.metas,
            "validation": held_out.metas if held_out else [],
            "packages": package_versions(),
            **({"began": initial.began} if config.initial else {}),
        },
        defaults=json.loads(json.dumps(dataclasses.asdict(MetaTrainConfig()))),
        begin=lambda: init_state(config, interface, initial.params),
        take=lambda state, histories: train_steps(state, histories, config, interface, mesh),
        data=_Pools(sources, config.loading.refresh),
        validate=validated,
        note=_note,
        memory=_lower(config),
    )


class _Initial(NamedTuple):
    """Weights that training begins with, and what they learned from; by default, none.

    Attributes:
        params: the parameters, or None.
        sources: ids of the environments that they were meta-trained on.
        began: what tells them from others.
    """

    params: Any = None
    sources: tuple[str, ...] = ()
    began: dict[str, Any] | None = None


def _initial(config: MetaTrainConfig, interface: Interface) -> _Initial:
    """Read the weights of another agent, which must be of the same model and agent space."""
    folder = Path(config.initial).absolute()
    found = load_trained(folder)
    for name, theirs, ours in (
        ("model", found.config.model, config.model),
        ("interface", found.interface, interface),
    ):
        if theirs != ours:
            raise GlaError(
                f"the agent in {folder}, to begin with, has another {name}: {theirs}",
                f"{ours}",
                "give this training the same settings, or leave --initial out",
            )
    description = checkpoints.describe(folder)
    began = {
        "initial_step": checkpoints.latest_step(folder),
        **{name: description.get(name) for name in ("histories", "began")},
    }
    return _Initial(found.params, tuple(description["sources"]), began)


def _note(values: dict[str, Any]) -> str:
    """Say beside the progress bar how it goes."""
    if values["loss"] is None:
        return f"{values['skipped']} steps skipped"
    parts = " ".join(f"{x:.1f}" for x in values["by_segment"])
    skipped = f", {values['skipped']} skipped" if values["skipped"] else ""
    return f"loss {values['loss']:.2f}, early to late in the lifetime: {parts}{skipped}"


class Trained(NamedTuple):
    """What acts, out of a checkpoint folder.

    Attributes:
        config: what was trained. Of an agent that learned by reinforcement (`gla.agents.rl2`) only
            the model, the projection and the optimizer; the rest are defaults.
        interface: what the model reads and writes.
        params: its parameters, f32, on the first device.
    """

    config: MetaTrainConfig
    interface: Interface
    params: Any


def load_trained(path: str | os.PathLike, which: checkpoints.Which = "latest") -> Trained:
    """Load the parameters to act with.

    Where training kept an average of the weights (`optimizer.ema`), these are the average. Outputs
    that only training needed are left out.

    Args:
        path: checkpoint folder.
        which: `latest`, or `best` for those of the best validation.

    Raises:
        GlaError: if the folder is none, is of another version, or holds no such checkpoint or one
            that does not fit.
    """
    folder = Path(path).absolute()
    description = checkpoints.describe(folder)
    by_reinforcement = description.get("kind") == RL2_KIND
    try:
        if by_reinforcement:
            config = _acting_part(description["training"])
        else:
            config = config_from_json(description["training"])
        interface = Interface(**description["interface"])
    except (KeyError, TypeError) as error:
        raise GlaError(
            f"{folder / 'config.json'} lacks or adds settings ({error})",
            "a file written by this version of gla",
        ) from None
    # Reinforcement learning needs a value beside what the agent puts out; an exported agent has
    # none any more.
    with_value = by_reinforcement and "exported" not in description
    outputs = interface.outputs + with_value
    model = make_model(config.model, interface.token_size, outputs)
    shapes = jax.eval_shape(lambda: begin(model.init(jax.random.key(0)), config))
    params = checkpoints.restore_acting(folder, shapes, which)
    if with_value:
        params = _without_value(params, interface.outputs)
    return Trained(config, interface, params)


def _acting_part(training: dict[str, Any]) -> MetaTrainConfig:
    """Read of another training's settings what acting needs."""
    return MetaTrainConfig(
        projection=ProjectionConfig(**training["projection"]),
        model=ModelConfig(**training["model"]),
        optimizer=OptimizerConfig(**training["optimizer"]),
    )


def _without_value(params: Any, outputs: int) -> Any:
    """Keep the first outputs of a model."""
    layers = params["params"]
    head = jax.tree.map(lambda leaf: leaf[..., :outputs], layers["head"])
    return {**params, "params": {**layers, "head": head}}
