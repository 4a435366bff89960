"""What a step of meta-training minimises: a batch, the objective and its gradient, on the device.

How a gradient moves the weights, and what is done with one that is not finite, is `gla.steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gla import parallel, sampling
from gla.models import make_model
from gla.objectives import losses
from gla.projection import LiftedGaussian
from gla.sampling import Histories, Sequences
from gla.steps import Metrics, TrainState, begin, take_steps
from gla.tokens import Interface
from gla.training_config import MetaTrainConfig


def init_state(config: MetaTrainConfig, interface: Interface, initial: Any = None) -> TrainState:
    """Return the state before the first step, with drawn weights or with those of `initial`."""
    if initial is not None:
        return begin(jax.tree.map(jnp.copy, initial), config)
    model = make_model(config.model, interface.token_size, interface.outputs)
    return begin(model.init(jax.random.fold_in(jax.random.key(config.seed), 0)), config)


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
    rest = {n: jax.tree.map(cut, x) for n, x in sequences._asdict().items() if n != "target"}
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


def train_steps(
    state: TrainState,
    histories: Sequence[Histories],
    config: MetaTrainConfig,
    interface: Interface,
    mesh: Mesh | None = None,
) -> tuple[TrainState, Metrics]:
    """Run `steps_per_dispatch` optimiser steps, or as many as are left (`gla.steps`)."""

    def gradient(params: Any, key: jax.Array, progress: jax.Array):
        return loss_and_gradient(params, key, histories, progress, config, interface, mesh)

    return take_steps(state, gradient, config, mesh)
