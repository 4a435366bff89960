"""The steps of meta-training: from a batch to new weights, as pure functions on the device.

A step whose loss, gradient or update is not finite changes nothing but the step count. What
decides whether training goes on, the `Watch`, is part of the state, so that a run that goes on
decides alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from gla import parallel, sampling
from gla.models import make_model
from gla.objectives import losses
from gla.optimizers import average, make_optimizer, make_schedule
from gla.projection import LiftedGaussian
from gla.sampling import Histories, Sequences
from gla.tokens import Interface
from gla.training_config import MetaTrainConfig

# The smoothed loss is 0.98 of itself and 0.02 of the new one.
SMOOTHING = 0.98
# Why training stopped, in `Watch.stopped`.
GOING, SKIPPED, DIVERGED = 0, 1, 2


class Watch(NamedTuple):
    """What decides whether training goes on.

    Attributes:
        in_row: i32[], skipped steps in a row up to now.
        skipped: i32[], skipped steps in all.
        first: f32[], first finite loss; 0 before.
        smoothed: f32[], smoothed loss; 0 before.
        stopped: i32[], GOING, SKIPPED or DIVERGED.
        best: f32[], best score of a validation; -inf before.
        best_step: i32[], its step.
        worse: i32[], validations since.
        validated: i32[], step of the last validation.
    """

    in_row: jax.Array
    skipped: jax.Array
    first: jax.Array
    smoothed: jax.Array
    stopped: jax.Array
    best: jax.Array
    best_step: jax.Array
    worse: jax.Array
    validated: jax.Array


class TrainState(NamedTuple):
    """Everything that training goes on from.

    Attributes:
        params: the model's parameters, f32.
        optimizer: the optimiser's state.
        ema: average of the parameters, f32, or None.
        step: i32[], steps done, skipped ones included.
        watch: see there.
    """

    params: Any
    optimizer: Any
    ema: Any
    step: jax.Array
    watch: Watch

    @property
    def acting(self) -> Any:
        """The parameters to act with and to validate: the average where there is one."""
        return self.params if self.ema is None else self.ema


class Metrics(NamedTuple):
    """Of a dispatch. Means are over its steps that were not skipped, 0 if there were none.

    Attributes:
        terms: mean of the loss and of each of its terms, f32[] each.
        gradient_norm: f32[], mean, before clipping.
        learning_rate: f32[], of the last step.
        by_segment: f32[segments], mean loss by segment, that is early to late in the lifetime.
        taken: i32[], steps that were not skipped.
    """

    terms: dict[str, jax.Array]
    gradient_norm: jax.Array
    learning_rate: jax.Array
    by_segment: jax.Array
    taken: jax.Array


def init_state(config: MetaTrainConfig, interface: Interface) -> TrainState:
    """Draw initial weights."""
    model = make_model(config.model, interface.token_size, interface.outputs)
    params = model.init(jax.random.fold_in(jax.random.key(config.seed), 0))
    optimizer = make_optimizer(config.optimizer, config.steps).init(params)
    ema = jax.tree.map(jnp.copy, params) if config.optimizer.ema else None
    whole, real = jnp.zeros((), jnp.int32), jnp.zeros(())
    watch = Watch(
        whole, whole, real, real, whole, jnp.full((), -jnp.inf, jnp.float32), *[whole] * 3
    )
    # Every leaf its own buffer, so that all may be given away.
    return TrainState(params, optimizer, ema, whole, jax.tree.map(jnp.copy, watch))


# The loss and its gradient


def _sample(
    keys: Sequence[jax.Array],
    histories: Sequence[Histories],
    progress: jax.Array,
    config: MetaTrainConfig,
    interface: Interface,
    mesh: Mesh | None,
) -> Sequences:
    """Draw sequences of every source, one per key; keys have leading axis [share]."""
    # Where every share can be divided among the devices, each draws and joins what it will use.
    even = mesh is not None and not any(own.shape[0] % mesh.size for own in keys)
    ways = mesh.size if mesh is not None and even else 1
    parts = []
    for own, source in zip(keys, histories, strict=True):

        def draw(key: jax.Array, source: Histories = source) -> Sequences:
            return sampling.sample_sequence(
                key, source, config.sampling, config.projection, interface, progress
            )

        parts.append(jax.vmap(draw)(parallel.split_batch(own, mesh) if even else own))
    parts = sampling.align_targets(parts)

    def join(*arrays: jax.Array) -> jax.Array:
        rest = arrays[0].shape[1:]
        joined = jnp.concatenate([x.reshape(ways, -1, *rest) for x in arrays], 1)
        return joined.reshape(-1, *rest)

    return parallel.split_batch(jax.tree.map(join, *parts), mesh)


def _stretch(sequences: Sequences, start: jax.Array, length: int) -> Sequences:
    """Cut `length` tokens out of a batch of sequences."""

    def cut(x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, start, length, 1)

    target = sequences.target
    if isinstance(target, LiftedGaussian):  # its action map has no axis of time
        times = {"mean": target.mean, "log_std": target.log_std, "null": target.null_log_std}
        times = {name: cut(x) for name, x in times.items()}
        target = target._replace(
            mean=times["mean"], log_std=times["log_std"], null_log_std=times["null"]
        )
    else:
        target = cut(target)
    rest = {n: cut(x) for n, x in sequences._asdict().items() if n != "target"}
    return Sequences(**rest, target=target)


def micro_loss(
    params: Any,
    batch: Sequences,
    state: Any,
    config: MetaTrainConfig,
    interface: Interface,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], jax.Array, Any]]:
    """Run the model over sequences and evaluate the objective.

    Args:
        params: the model's parameters.
        batch: leading axes [B, T].
        state: the model's state to go on from, or None to begin.
        config: what to train.
        interface: what the model reads and writes.

    Returns:
        The loss f32[], summed over positions with their weights and averaged over sequences, and
        (each term likewise at every position, f32[T]; the weight of every position, f32[T]; the
        model's state after the last token).
    """
    model = make_model(config.model, interface.token_size, interface.outputs)
    outputs, state = model.apply(params, batch.tokens, state)
    terms = jax.vmap(lambda o, s: losses(o, s, config.objective, interface))(outputs, batch)
    by_position = {name: jnp.mean(x * batch.weight, 0) for name, x in terms.items()}
    return jnp.sum(by_position["loss"]), (by_position, jnp.mean(batch.weight, 0), state)


class Found(NamedTuple):
    """Sums of `micro_loss` over a batch, before they are divided by the weights.

    Attributes:
        terms: by position, f32[L] each.
        weight: of every position, f32[L].
    """

    terms: dict[str, jax.Array]
    weight: jax.Array

    def means(self, segments: int) -> tuple[dict[str, jax.Array], jax.Array]:
        """Return the mean of each term, f32[], and the loss by segment, f32[segments]."""
        total = jnp.sum(self.weight)
        total = jnp.where(total == 0, 1.0, total)
        loss = self.terms["loss"].reshape(segments, -1).sum(-1)
        weight = self.weight.reshape(segments, -1).sum(-1)
        by_segment = loss / jnp.where(weight == 0, 1.0, weight)
        return {name: jnp.sum(x) / total for name, x in self.terms.items()}, by_segment


def _evaluate(
    params: Any,
    keys: Sequence[jax.Array],
    histories: Sequence[Histories],
    progress: jax.Array,
    config: MetaTrainConfig,
    interface: Interface,
    mesh: Mesh | None,
    gradient: bool,
) -> tuple[Any, Found]:
    """Evaluate one micro-batch, in stretches of `bptt` tokens, with its gradient if wanted."""
    batch = _sample(keys, histories, progress, config, interface, mesh)
    length = config.sampling.length
    stretch = config.bptt or length

    def run(params: Any, cut: Sequences, state: Any):
        if gradient:
            (_, aux), grads = jax.value_and_grad(micro_loss, has_aux=True)(
                params, cut, state, config, interface
            )
        else:
            _, aux = micro_loss(params, cut, state, config, interface)
            grads = None
        return grads, aux

    if stretch == length:
        grads, (terms, weight, _) = run(params, batch, None)
        return grads, Found(terms, weight)

    model = make_model(config.model, interface.token_size, interface.outputs)
    begin = parallel.split_batch(model.initial_state(batch.tokens.shape[0]), mesh)

    def one(carry: tuple[Any, Any], start: jax.Array):
        state, total = carry
        # The state comes in as a constant, so that gradients end at the border.
        grads, (terms, weight, state) = run(params, _stretch(batch, start, stretch), state)
        return (state, jax.tree.map(jnp.add, total, grads)), (terms, weight)

    zeros = jax.tree.map(jnp.zeros_like, params) if gradient else None
    (_, grads), found = jax.lax.scan(one, (begin, zeros), jnp.arange(0, length, stretch))
    return grads, Found(*jax.tree.map(lambda x: x.reshape(-1), found))


def _accumulate(
    params: Any,
    keys: Sequence[jax.Array],
    histories: Sequence[Histories],
    progress: jax.Array,
    config: MetaTrainConfig,
    interface: Interface,
    mesh: Mesh | None,
    gradient: bool,
) -> tuple[Any, Found]:
    """Average `_evaluate` over micro-batches, for keys of leading axes [parts, share]."""
    count = keys[0].shape[0]
    evaluate = lambda own: _evaluate(  # noqa: E731
        params, own, histories, progress, config, interface, mesh, gradient
    )
    if count == 1:
        return evaluate([own[0] for own in keys])

    def one(total: Any, own: Sequence[jax.Array]):
        return jax.tree.map(jnp.add, total, evaluate(own)), None

    shapes = jax.eval_shape(evaluate, [own[0] for own in keys])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(one, zeros, list(keys))
    return jax.tree.map(lambda x: x / count, total)


def loss_and_gradient(
    params: Any,
    key: jax.Array,
    histories: Sequence[Histories],
    progress: jax.Array,
    config: MetaTrainConfig,
    interface: Interface,
    mesh: Mesh | None = None,
) -> tuple[Any, dict[str, jax.Array], jax.Array]:
    """Sample a batch and return the gradient, the mean of each term and the loss by segment.

    Args:
        params: the model's parameters.
        key: decides the batch, in whichever parts and on however many devices it is computed.
        histories: one per store.
        progress: f32[] in [0, 1], share of the training that is done.
        config: what to train.
        interface: what the model reads and writes.
        mesh: devices to divide the work among.
    """
    counts = sampling.allocate(config.batch_size, config.shares)
    keys = [
        jax.random.split(
            jax.random.fold_in(key, i), (config.accumulate, count // config.accumulate)
        )
        for i, count in enumerate(counts)
    ]
    grads, found = _accumulate(
        params, keys, histories, progress, config, interface, mesh, gradient=True
    )
    # Gradients are of sums over positions; every sequence has the same sum of weights.
    total = jnp.sum(found.weight)
    grads = jax.tree.map(lambda x: x / jnp.where(total == 0, 1.0, total), grads)
    return grads, *found.means(config.sampling.segments)


def validation_loss(
    params: Any,
    histories: Sequence[Histories],
    config: MetaTrainConfig,
    interface: Interface,
    mesh: Mesh | None = None,
) -> dict[str, jax.Array]:
    """Return the mean of each term over the validation batches, which never change, f32[] each.

    Schedules of the sampler are taken where they end, at progress 1.
    """
    counts = sampling.allocate(config.micro_batch, (1.0,) * len(histories))
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    parts = config.validation.batches * config.accumulate
    keys = [
        jax.random.split(jax.random.fold_in(key, i), (parts, count))
        for i, count in enumerate(counts)
    ]
    _, found = _accumulate(
        params, keys, histories, jnp.ones(()), config, interface, mesh, gradient=False
    )
    return found.means(config.sampling.segments)[0]


# Steps


def _watched(watch: Watch, taken: jax.Array, loss: jax.Array, first: jax.Array, config) -> Watch:
    """Take note of a step: whether it was taken, and its loss."""
    in_row = jnp.where(taken, 0, watch.in_row + 1)
    start = jnp.where(taken & first, loss, watch.first)
    smoothed = jnp.where(first, loss, SMOOTHING * watch.smoothed + (1 - SMOOTHING) * loss)
    smoothed = jnp.where(taken, smoothed, watch.smoothed)
    stopped = jnp.where(in_row >= config.max_skips, SKIPPED, watch.stopped)
    if config.diverged:
        above = smoothed > config.diverged * jnp.maximum(start, 1.0)
        stopped = jnp.where(taken & above, DIVERGED, stopped)
    return watch._replace(
        in_row=in_row, skipped=watch.skipped + ~taken, first=start, smoothed=smoothed,
        stopped=stopped.astype(jnp.int32),
    )  # fmt: skip


def train_steps(
    state: TrainState,
    histories: Sequence[Histories],
    config: MetaTrainConfig,
    interface: Interface,
    mesh: Mesh | None = None,
) -> tuple[TrainState, Metrics]:
    """Run `steps_per_dispatch` optimiser steps, or as many as are left.

    Nothing changes any more once the watch has stopped training.
    """
    optimizer = make_optimizer(config.optimizer, config.steps)
    schedule = make_schedule(config.optimizer, config.steps)
    root = jax.random.fold_in(jax.random.key(config.seed), 1)

    def one(state: TrainState, _):
        going = (state.watch.stopped == GOING) & (state.step < config.steps)
        key = jax.random.fold_in(root, state.step)
        progress = state.step.astype(jnp.float32) / config.steps
        grads, terms, by_segment = loss_and_gradient(
            state.params, key, histories, progress, config, interface, mesh
        )
        norm = optax.tree.norm(grads)
        updates, new_optimizer = optimizer.update(grads, state.optimizer, state.params)
        finite = jnp.isfinite(terms["loss"]) & jnp.isfinite(norm)
        finite &= jnp.isfinite(optax.tree.norm(updates))
        taken = going & finite
        done = state.step - state.watch.skipped  # steps taken before, as the optimiser counts
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = average(ema, params, config.optimizer.ema, done)
        watch = _watched(state.watch, taken, terms["loss"], done == 0, config)

        def choose(condition: jax.Array, new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)

        new = TrainState(
            choose(taken, params, state.params),
            choose(taken, new_optimizer, state.optimizer),
            choose(taken, ema, state.ema),
            state.step + going,
            choose(going, watch, state.watch),
        )
        if mesh is not None:
            new = jax.lax.with_sharding_constraint(new, parallel.divided(new, mesh))
        rate = jnp.asarray(schedule(done), jnp.float32)
        return new, (Metrics(terms, norm, rate, by_segment, taken.astype(jnp.int32)), going)

    state, (metrics, going) = jax.lax.scan(one, state, None, length=config.steps_per_dispatch)
    taken = metrics.taken
    count = jnp.maximum(jnp.sum(taken), 1)

    def mean(x: jax.Array) -> jax.Array:
        kept = jnp.where(taken.reshape((-1,) + (1,) * (x.ndim - 1)), x, 0.0)
        return jnp.sum(kept, 0) / count

    return state, Metrics(
        jax.tree.map(mean, metrics.terms),
        mean(metrics.gradient_norm),
        metrics.learning_rate[jnp.maximum(jnp.sum(going) - 1, 0)],
        mean(metrics.by_segment),
        jnp.sum(taken),
    )
