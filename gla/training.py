"""Meta-train a sequence model on learning histories (GLA, Algorithm 1).

One step samples a batch, projects it, evaluates the objective and updates the weights, all inside
one jitted program that runs several steps per dispatch. Every random number of step i comes from
the seed and i alone, so a resumed run repeats an uninterrupted one bit for bit on the same machine.

What happens when something goes wrong:

- A step whose loss, gradient or update is not finite changes nothing but the step count, and is
  counted as skipped. After `max_skips` of them in a row training stops.
- Training stops when it diverges: when the smoothed loss, an average over about fifty steps, is
  above `diverged` times its first value, or times 1 where that is less.
- When memory does not suffice, training stops and names what to lower.
- Every such stop is a `GlaError`, one line. The last checkpoint before it stays, and the same
  command goes on from there: it says the same again, or, where the cause was the machine's, ends.
- Every `validation.every` steps the weights are validated on unseen tasks; the best are kept in
  `best/` beside the checkpoints. After `validation.patience` validations without a better one
  training ends, and `finished.json` says so. A kill at any moment, a validation included, costs
  the time since the last checkpoint and changes nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gla import checkpoints, parallel, sampling
from gla.errors import GlaError
from gla.histories import HistoryStore, identity
from gla.learner import (
    GOING,
    SKIPPED,
    Metrics,
    TrainState,
    init_state,
    train_steps,
    validation_loss,
)
from gla.loading import Loader, LoadingConfig
from gla.logs import Logs
from gla.packages import package_versions
from gla.progress import Progress
from gla.projection import check_sizes
from gla.sampling import Histories
from gla.tokens import Interface
from gla.training_config import (
    MetaTrainConfig,
    ValidationConfig,
    config_from_json,
    make_interface,
)

__all__ = [
    "MetaTrainConfig",
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
            loader = opened.enter_context(
                Loader(store, loading, (config.seed, i), lambda pool: parallel.put(pool, mesh))
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


@contextlib.contextmanager
def memory_errors(config: MetaTrainConfig, folder: Path) -> Iterator[None]:
    """Turn a lack of memory, of the device or of the machine, into a plain `GlaError`."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not (
            "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
        ):
            raise
        detail = text.splitlines()[0][:120] if text else "MemoryError"
        raise GlaError(
            f"memory does not suffice for meta-training ({detail})",
            mend=f"lower batch_size ({config.batch_size}), raise accumulate "
            f"({config.accumulate}), set model.remat=True (now {config.model.remat}), or set bptt "
            f"({config.bptt}) to a part of the {config.sampling.length} tokens of a sequence; the "
            f"last checkpoint in {folder}, if there is one, is kept",
        ) from None


def _why_stopped(state: TrainState, config: MetaTrainConfig, folder: Path) -> GlaError:
    """Say why the watch stopped training."""
    watch, step = jax.tree.map(np.asarray, state.watch), int(state.step)
    mend = (
        f"lower the learning rate ({config.optimizer.learning_rate:g}); the last good checkpoint "
        f"in {folder} is kept"
    )
    if watch.stopped == SKIPPED:
        return GlaError(
            f"meta-training stopped at step {step}: {config.max_skips} steps in a row had a loss "
            "or gradient that is not finite",
            "a finite loss and gradient",
            mend,
        )
    return GlaError(
        f"meta-training diverged: at step {step} the smoothed loss is {watch.smoothed:.4g}, and "
        f"the first was {watch.first:.4g}",
        f"at most {config.diverged:g} times max(first, 1)",
        mend + "; diverged=0 turns this check off",
    )


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
        GlaError: see `load_sources` and the rules at the top of this module; a folder with other
            settings; a validation without anything to validate on.
    """
    folder = Path(path).absolute()
    if minutes is not None and not minutes > 0:
        raise GlaError(f"minutes is {minutes}", "a number above 0")
    with contextlib.ExitStack() as opened:
        opened.enter_context(memory_errors(config, folder))
        training = _Training(config, folder, validate, opened)
        training.describe(fresh)
        state = training.first_state()
        if not checkpoints.finished(folder, int(state.step)):
            step, reason = training.run(state, progress, minutes)
            if parallel.is_first():
                checkpoints.finish(folder, step, reason)
            parallel.wait_for_all("finished")
    return folder


class _Training:
    """One call of `meta_train`."""

    def __init__(
        self,
        config: MetaTrainConfig,
        folder: Path,
        validate: Validate | None,
        opened: contextlib.ExitStack,
    ):
        self.config, self.folder, self.validate = config, folder, validate
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
        self.mesh = mesh = parallel.make_mesh(config.mesh)
        parallel.check_batch(config.micro_batch, mesh)
        self.sources = opened.enter_context(load_sources(config, mesh=mesh))
        self.held_out: Sources | None = None
        if config.validation.histories:
            paths = config.validation.histories
            self.held_out = opened.enter_context(load_sources(config, paths, LoadingConfig(), mesh))
            if self.held_out.discrete != self.sources.discrete:
                raise GlaError(
                    "the histories for validation have the other kind of actions",
                    "the kind that is trained on",
                )
        self.interface = interface = make_interface(config, self.sources.discrete)
        # jit keeps what it compiled by function, so these live as long as the training.
        self.steps = jax.jit(
            lambda state, histories: train_steps(state, histories, config, interface, mesh),
            donate_argnums=0,
        )
        self.loss = jax.jit(
            lambda params, histories: validation_loss(params, histories, config, interface, mesh)
        )

    def describe(self, fresh: bool):
        """Write the folder's description, or compare it with the one that is there."""
        description = {
            "training": dataclasses.asdict(self.config),
            "interface": dataclasses.asdict(self.interface),
            "sources": self.sources.environments,
            "histories": self.sources.metas,
            "validation": self.held_out.metas if self.held_out else [],
            "packages": package_versions(),
        }
        defaults = json.loads(json.dumps(dataclasses.asdict(MetaTrainConfig())))
        if parallel.is_first():
            checkpoints.prepare(self.folder, description, fresh, defaults)
        parallel.wait_for_all("description")
        if not parallel.is_first():
            checkpoints.prepare(self.folder, description, False, defaults)

    def first_state(self) -> TrainState:
        """Restore the newest checkpoint, or begin."""

        def make() -> TrainState:
            return init_state(self.config, self.interface)

        shapes = jax.eval_shape(make)
        shardings = parallel.divided(shapes, self.mesh)
        like = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        )
        found = checkpoints.restore_latest(self.folder, like, default=())
        return jax.jit(make, out_shardings=shardings)() if found == () else found

    def run(self, state: TrainState, progress: bool, minutes: float | None) -> tuple[int, str]:
        """Train to the end; return the last step and why it is the last."""
        config, folder, writes = self.config, self.folder, parallel.is_first()
        step = first = int(state.step)
        began = time.monotonic()
        title = f"meta-train on {', '.join(n.split('/')[-1] for n in self.sources.environments)}"
        histories, pool = None, -1
        whole = True  # state and logs are of the same step
        with (
            checkpoints.Checkpoints(folder) as saver,
            Logs(folder, step, config.tensorboard, writes) as logs,
            Progress(title, config.steps, "steps", step, progress and writes) as bar,
        ):
            try:
                while True:
                    if self.validation_is_due(state):
                        found = self.validated(state, saver)
                        whole = False
                        state = found[0]
                        logs.write(step=step, validation=found[1])
                        whole = True
                    reason = self.reason_to_end(state, step > first, began, minutes)
                    if step and (reason or step % config.checkpoint_every == 0):
                        logs.flush()
                        saver.save(step, state)
                    if reason:
                        return step, reason
                    if pool != step // config.loading.refresh:
                        pool, histories = step // config.loading.refresh, None
                        histories = self.sources.pool(pool)
                    whole, before = False, step
                    state, metrics = self.steps(state, histories)
                    step = int(state.step)
                    if int(state.watch.stopped) != GOING:
                        raise _why_stopped(state, config, folder)
                    values = _readable(metrics, state)
                    logs.write(step=step, **values)
                    whole = True
                    bar.advance(step - before, _note(values))
            except KeyboardInterrupt:
                # Inside a dispatch the old state is given away and the new one not there yet; of
                # several processes not all need be at the same step.
                if whole and step and jax.process_count() == 1:
                    logs.flush()
                    saver.save(step, state)
                raise

    def reason_to_end(
        self, state: TrainState, trained: bool, began: float, minutes: float | None
    ) -> str:
        """Say why training ends here; nothing if it goes on."""
        config, watch = self.config, state.watch
        if int(state.step) >= config.steps:
            return "all steps done"
        patience = config.validation.patience
        if patience and int(watch.worse) >= patience:
            return (
                f"no better score in {patience} validations; the best, {float(watch.best):.6g}, "
                f"was at step {int(watch.best_step)}"
            )
        if minutes is not None and trained:
            over = parallel.from_first(np.asarray(time.monotonic() - began > 60 * minutes))
            if over:
                return f"stopped after {minutes:g} minutes"
        return ""

    def validation_is_due(self, state: TrainState) -> bool:
        """Return whether these weights are to be validated and have not been."""
        every, step = self.config.validation.every, int(state.step)
        due = every and step and (step % every == 0 or step >= self.config.steps)
        return bool(due) and int(state.watch.validated) < step

    def validated(
        self, state: TrainState, saver: checkpoints.Checkpoints
    ) -> tuple[TrainState, dict[str, float]]:
        """Validate the weights, keep them if they are the best, and return what was found."""
        values: dict[str, float] = {}
        if self.held_out is not None:
            terms = self.loss(state.acting, self.held_out.pool(0))
            values |= {name: float(x) for name, x in terms.items()}
            values["score"] = -values["loss"]
        if self.validate is not None:
            values |= self.validate(parallel.gathered(state.acting, self.mesh))
        if "score" not in values:
            raise GlaError(
                "the function for `validate` returned no score",
                "a dictionary with `score`, or validation.histories",
            )
        step, watch = int(state.step), state.watch
        # A run that goes on compares what a checkpoint holds, so all compare float32.
        score = np.float32(parallel.from_first(np.float32(values["score"])))
        better = bool(score > np.float32(watch.best))
        if better:
            saver.save_best(step, state.acting)
        changes: dict[str, Any] = {
            "best": score if better else np.float32(watch.best),
            "best_step": np.int32(step if better else watch.best_step),
            "worse": np.int32(0 if better else int(watch.worse) + 1),
            "validated": np.int32(step),
        }
        for name, value in changes.items():
            sharding = getattr(watch, name).sharding
            changes[name] = jax.make_array_from_callback(
                (), sharding, functools.partial(_same, value)
            )
        return state._replace(watch=watch._replace(**changes)), values


def _same(value: np.generic, index: Any) -> np.ndarray:
    """Return every piece of a single number."""
    return np.asarray(value)[index]


def _readable(metrics: Metrics, state: TrainState) -> dict[str, Any]:
    """Return the metrics of a dispatch as plain numbers; None where every step was skipped."""
    found = jax.tree.map(np.asarray, metrics)
    none = not found.taken
    return {
        **{name: None if none else float(x) for name, x in found.terms.items()},
        "gradient_norm": None if none else float(found.gradient_norm),
        "learning_rate": float(found.learning_rate),
        "by_segment": [] if none else found.by_segment.tolist(),
        "smoothed_loss": float(state.watch.smoothed),
        "skipped": int(state.watch.skipped),
    }


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
        config: what was trained.
        interface: what the model reads and writes.
        params: its parameters, f32, on the first device.
    """

    config: MetaTrainConfig
    interface: Interface
    params: Any


def load_trained(path: str | os.PathLike, which: checkpoints.Which = "latest") -> Trained:
    """Load the parameters to act with.

    Where training kept an average of the weights (`optimizer.ema`), these are the average.

    Args:
        path: checkpoint folder.
        which: `latest`, or `best` for those of the best validation.

    Raises:
        GlaError: if the folder is none, is of another version, or holds no such checkpoint or one
            that does not fit.
    """
    folder = Path(path).absolute()
    description = checkpoints.describe(folder)
    try:
        config = config_from_json(description["training"])
        interface = Interface(**description["interface"])
    except (KeyError, TypeError) as error:
        raise GlaError(
            f"{folder / 'config.json'} lacks or adds settings ({error})",
            "a file written by this version of gla",
        ) from None
    shapes = jax.eval_shape(lambda: init_state(config, interface))
    if which == "best":
        params = checkpoints.restore(folder, shapes.params, "best")
    else:
        params = checkpoints.restore(folder, shapes, which).acting
    return Trained(config, interface, params)
