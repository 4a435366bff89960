"""Meta-train a sequence model on learning histories (GLA, Algorithm 1).

One step samples a batch, projects it, evaluates Eq. 1 and updates the weights, all inside one
jitted program that runs several steps per dispatch. Every random number of step i comes from the
seed and i alone, so a resumed run repeats an uninterrupted one bit for bit on the same machine.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gla import checkpoints, sampling
from gla.errors import GlaError
from gla.histories import HistoryStore, identity
from gla.models import Transformer, TransformerConfig
from gla.objectives import forward_reverse_kl
from gla.packages import package_versions
from gla.progress import Progress
from gla.projection import ProjectionConfig, check_sizes
from gla.sampling import Histories, SamplingConfig
from gla.tokens import Interface


@dataclass(frozen=True)
class MetaTrainConfig:
    """What to train, on what, for how long.

    Attributes:
        histories: folders of history stores, all continuous or all discrete.
        weights: relative share of each store in a batch; empty means equal shares.
        projection: agent space and the distribution of projections.
        sampling: how sequences are cut out of histories.
        model: size of the Transformer.
        batch_size: sequences per step.
        steps: optimiser steps.
        learning_rate: AdamW's step size after the warm-up.
        warmup: steps of linear warm-up.
        final_rate: share of the step size that is left at the end of the cosine decay.
        weight_decay: AdamW's.
        max_grad_norm: gradients are clipped to this global norm.
        seed: of initial weights and batches.
        steps_per_dispatch: steps in one call of the jitted program.
        checkpoint_every: steps between checkpoints, a multiple of steps_per_dispatch.
    """

    histories: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    model: TransformerConfig = field(default_factory=TransformerConfig)
    batch_size: int = 16
    steps: int = 2000
    learning_rate: float = 1e-3
    warmup: int = 50
    final_rate: float = 0.05
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    seed: int = 0
    steps_per_dispatch: int = 10
    checkpoint_every: int = 200

    def __post_init__(self):
        for name in ("batch_size", "steps", "steps_per_dispatch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise GlaError(f"meta-train {name} is {getattr(self, name)}", "a number >= 1")
        if self.warmup < 0 or self.seed < 0:
            raise GlaError("meta-train warmup or seed is negative", "numbers >= 0")
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise GlaError(f"meta-train {name} is {getattr(self, name)}", "a number above 0")
        if not 0 <= self.final_rate <= 1 or self.weight_decay < 0:
            raise GlaError(
                f"final_rate is {self.final_rate} and weight_decay {self.weight_decay}",
                "final_rate in [0, 1] and weight_decay >= 0",
            )
        if self.checkpoint_every % self.steps_per_dispatch:
            raise GlaError(
                f"checkpoint_every={self.checkpoint_every} is not a multiple of "
                f"steps_per_dispatch={self.steps_per_dispatch}"
            )
        if self.weights and len(self.weights) != len(self.histories):
            raise GlaError(
                f"{len(self.weights)} weights for {len(self.histories)} history stores",
                "one weight per store, or none for equal shares",
            )
        # Sizes of the batch are checked as early as everything else.
        if self.histories:
            sampling.allocate(self.batch_size, self.shares)

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights, filled in."""
        return self.weights or (1.0,) * len(self.histories)


class TrainState(NamedTuple):
    """Parameters, optimiser state and step number, i32[]."""

    params: Any
    optimizer: Any
    step: jax.Array


class Metrics(NamedTuple):
    """Means over a dispatch: loss f32[], gradient norm f32[], loss by segment f32[segments]."""

    loss: jax.Array
    gradient_norm: jax.Array
    by_segment: jax.Array


def make_optimizer(config: MetaTrainConfig) -> optax.GradientTransformation:
    """AdamW with warm-up, cosine decay and gradient clipping."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        min(config.warmup, config.steps - 1),
        max(config.steps, 2),
        config.learning_rate * config.final_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(rate, weight_decay=config.weight_decay),
    )


def make_interface(config: MetaTrainConfig, discrete: bool) -> Interface:
    """Return the sizes of agent space."""
    return Interface(config.projection.observation_dim, config.projection.action_dim, discrete)


def init_state(config: MetaTrainConfig, interface: Interface) -> TrainState:
    """Draw initial weights."""
    model = Transformer(config.model, interface.outputs)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    params = model.init(key, jnp.zeros((1, 2, interface.token_size)))
    return TrainState(params, make_optimizer(config).init(params), jnp.zeros((), jnp.int32))


def batch_loss(
    params: Any,
    key: jax.Array,
    histories: Sequence[Histories],
    config: MetaTrainConfig,
    interface: Interface,
) -> tuple[jax.Array, jax.Array]:
    """Sample a batch and return its mean loss f32[] and the loss by segment f32[segments]."""
    shares = sampling.allocate(config.batch_size, config.shares)
    model = Transformer(config.model, interface.outputs)
    parts = []
    for i, (source, share) in enumerate(zip(histories, shares, strict=True)):
        keys = jax.random.split(jax.random.fold_in(key, i), share)
        parts.append(
            jax.vmap(
                lambda k, source=source: sampling.sample_sequence(
                    k, source, config.sampling, config.projection
                )
            )(keys)
        )
    outputs: Any = model.apply(params, jnp.concatenate([part.tokens for part in parts]))
    losses, start = [], 0
    for part, share in zip(parts, shares, strict=True):
        losses.append(jax.vmap(forward_reverse_kl)(part.target, outputs[start : start + share]))
        start += share
    loss = jnp.reshape(jnp.concatenate(losses), (config.batch_size, config.sampling.segments, -1))
    return jnp.mean(loss), jnp.mean(loss, (0, 2))


def train_steps(
    state: TrainState,
    histories: Sequence[Histories],
    config: MetaTrainConfig,
    interface: Interface,
) -> tuple[TrainState, Metrics]:
    """Run `steps_per_dispatch` optimiser steps."""
    optimizer = make_optimizer(config)
    root = jax.random.fold_in(jax.random.key(config.seed), 1)

    def one(state: TrainState, _):
        key = jax.random.fold_in(root, state.step)
        (loss, by_segment), grads = jax.value_and_grad(batch_loss, has_aux=True)(
            state.params, key, histories, config, interface
        )
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        norm = optax.tree.norm(grads)
        return TrainState(params, optimizer_state, state.step + 1), Metrics(loss, norm, by_segment)

    state, metrics = jax.lax.scan(one, state, None, length=config.steps_per_dispatch)
    return state, jax.tree.map(lambda x: jnp.mean(x, 0), metrics)


class Sources(NamedTuple):
    """What the stores hold.

    Attributes:
        histories: one per store.
        metas: `gla.histories.identity` of each, which tells collections apart wherever they lie.
        discrete: whether actions are discrete.
    """

    histories: list[Histories]
    metas: list[dict[str, Any]]
    discrete: bool

    @property
    def environments(self) -> list[str]:
        """Ids of the environments, in order."""
        return [meta["environment"] for meta in self.metas]


def load_sources(config: MetaTrainConfig) -> Sources:
    """Read and check every store.

    Raises:
        GlaError: no store, a damaged or incomplete one, a mixture of continuous and discrete
            actions, sizes that the projection does not take, sequences that do not fit.
    """
    if not config.histories:
        raise GlaError(
            "meta-train was given no histories", "at least one folder written by `gla collect`"
        )
    sources: list[Histories] = []
    metas: list[dict[str, Any]] = []
    kinds = set()
    for path in config.histories:
        store = HistoryStore.open(path)
        missing = store.missing_blocks()
        if missing:
            raise GlaError(
                f"the histories in {path} are incomplete: {len(missing)} of "
                f"{store.meta.blocks} blocks are missing",
                mend="run the same `gla collect` again; it goes on where it stopped",
            )
        meta = store.meta
        check_sizes(config.projection, meta.observation_size, meta.action_size, meta.environment)
        histories = sampling.from_store(store)
        sampling.check(config.sampling, histories, meta.environment)
        sources.append(histories)
        metas.append(identity(meta))
        kinds.add(meta.discrete)
    if len(kinds) > 1:
        raise GlaError(
            "the histories mix continuous and discrete actions",
            "stores of one action kind",
            "train one agent on each",
        )
    return Sources(sources, metas, kinds.pop())


def meta_train(
    config: MetaTrainConfig,
    path: str | os.PathLike,
    fresh: bool = False,
    progress: bool = True,
    minutes: float | None = None,
) -> Path:
    """Meta-train into the checkpoint folder `path`; go on from its last checkpoint.

    The folder gets `config.json`, `metrics.jsonl` and Orbax checkpoints. An interrupt (Ctrl-C)
    saves a checkpoint first; after `kill -9` the last one counts.

    Args:
        config: what to train.
        path: checkpoint folder.
        fresh: delete a checkpoint folder that is there first.
        progress: show a progress bar with the loss by segment, early to late in the lifetime.
        minutes: stop, and count as finished, after this many minutes of training in this call.

    Returns:
        The absolute path of the folder.

    Raises:
        GlaError: see `load_sources`; a folder with other settings; a loss that is not finite.
    """
    folder = Path(path).absolute()
    sources = load_sources(config)
    names = sources.environments
    interface = make_interface(config, sources.discrete)
    description = {
        "training": dataclasses.asdict(config),
        "interface": dataclasses.asdict(interface),
        "sources": names,
        "histories": sources.metas,
        "packages": package_versions(),
    }
    defaults = json.loads(json.dumps(dataclasses.asdict(MetaTrainConfig())))
    checkpoints.prepare(folder, description, fresh, defaults)
    state = init_state(config, interface)
    state = checkpoints.restore_latest(folder, state, default=state)
    start = int(state.step)
    if start >= config.steps or checkpoints.finished(folder, start):
        return folder
    if minutes is not None and not minutes > 0:
        raise GlaError(f"minutes is {minutes}", "a number above 0")
    step_function = jax.jit(
        lambda state, histories: train_steps(state, histories, config, interface),
        donate_argnums=0,
    )
    title = f"meta-train on {', '.join(n.split('/')[-1] for n in names)}"
    log = checkpoints.MetricsLog(folder, start)
    began = time.monotonic()
    with Progress(title, config.steps, "steps", start, progress) as bar:
        try:
            while start < config.steps:
                state, metrics = step_function(state, sources.histories)
                values = jax.tree.map(np.asarray, metrics)
                # A gradient that is not finite spoils the weights before any loss shows it.
                if not np.isfinite(values.loss) or not np.isfinite(values.gradient_norm):
                    what = "loss" if not np.isfinite(values.loss) else "gradient_norm"
                    raise GlaError(
                        f"the meta-training {what.replace('_', ' ')} became "
                        f"{getattr(values, what)} by step {start + config.steps_per_dispatch}",
                        "a finite loss and gradient",
                        f"lower the learning rate ({config.learning_rate}); the last good "
                        f"checkpoint in {folder} is kept",
                    )
                start = int(state.step)
                log.write(step=start, **_as_json(values))
                if start % config.checkpoint_every == 0 or start >= config.steps:
                    checkpoints.save(folder, start, state)
                if minutes is not None and time.monotonic() - began > 60 * minutes:
                    checkpoints.save(folder, start, state)
                    checkpoints.finish(folder, start, f"stopped after {minutes:g} minutes")
                    return folder
                parts = " ".join(f"{x:.1f}" for x in values.by_segment)
                bar.advance(
                    config.steps_per_dispatch,
                    f"loss {values.loss:.2f}, early to late in the lifetime: {parts}",
                )
        except KeyboardInterrupt:
            # An interrupt inside a dispatch finds the old state given away and the new one lost.
            if not state.step.is_deleted():
                checkpoints.save(folder, int(state.step), state)
            raise
    checkpoints.finish(folder, start, "all steps done")
    return folder


def _as_json(metrics: Metrics) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in metrics._asdict().items()}


def config_from_json(value: dict[str, Any]) -> MetaTrainConfig:
    """Rebuild a `MetaTrainConfig` from the `training` part of a checkpoint's description."""
    # JSON has lists where the config has ranges.
    cuts: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in value["sampling"].items()
    }
    parts = {
        "projection": ProjectionConfig(**value["projection"]),
        "sampling": SamplingConfig(**cuts),
        "model": TransformerConfig(**value["model"]),
        "histories": tuple(value["histories"]),
        "weights": tuple(value["weights"]),
    }
    return MetaTrainConfig(**{**value, **parts})
