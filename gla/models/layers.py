"""What the blocks of every backbone share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gla.models.config import ModelConfig


def compute_dtype(config: ModelConfig) -> Any:
    """Return the type in which projections and attention are computed."""
    return jnp.dtype(config.dtype)


def residual_dense(config: ModelConfig) -> nn.Dense:
    """Return the last projection of a residual branch, small at first so that depth is harmless."""
    init = nn.initializers.normal(0.02 / (2 * config.layers) ** 0.5)
    return nn.Dense(config.width, kernel_init=init, dtype=compute_dtype(config))


def merge_heads(x: jax.Array) -> jax.Array:
    """Join the two last axes."""
    return x.reshape(*x.shape[:-2], -1)


def chunks(x: jax.Array, size: int) -> jax.Array:
    """Cut axis 1 into pieces of `size`, filling up with zeros: [B, T, ...] -> [N, B, size, ...]."""
    rows, length = x.shape[:2]
    count = -(-length // size)
    x = jnp.pad(x, ((0, 0), (0, count * size - length)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(rows, count, size, *x.shape[2:]), 1, 0)


def unchunk(x: jax.Array, length: int) -> jax.Array:
    """Undo `chunks`: [N, B, size, ...] -> [B, length, ...]."""
    count, rows, size = x.shape[:3]
    return jnp.moveaxis(x, 0, 1).reshape(rows, count * size, *x.shape[3:])[:, :length]


def scan_recomputing(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, size: int
) -> tuple[Any, Any]:
    """Scan as `jax.lax.scan` does, keeping the carry of every `size`-th step only.

    The backward pass recomputes the steps between, so that its memory does not hold a large state
    per step.

    Args:
        step: maps (carry, x) to (carry, y).
        carry: the first carry.
        xs: pytree of arrays with leading axis T.
        size: steps per piece.
    """
    length = jax.tree.leaves(xs)[0].shape[0]
    whole = length - length % size

    def piece(carry: Any, xs: Any) -> tuple[Any, Any]:
        return jax.lax.scan(step, carry, xs)

    outputs = []
    if whole:
        first = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), xs)
        carry, ys = jax.lax.scan(jax.checkpoint(piece), carry, first)
        outputs.append(jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), ys))
    if whole < length:
        carry, ys = piece(carry, jax.tree.map(lambda x: x[whole:], xs))
        outputs.append(ys)
    return carry, jax.tree.map(lambda *y: jnp.concatenate(y), *outputs)
