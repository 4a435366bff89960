"""Exact causal attention for CPUs, in blocks that stay in cache.

A plain softmax attention writes all T x T scores to memory, twice in the backward pass, and on a
CPU that costs more than the arithmetic. Here one or a few heads are worked on at a time
(`lax.map`), a block of queries against the keys that it can see. The backward pass computes the
scores again from one number per query, after Dao et al. 2022 (FlashAttention); it goes by blocks of
keys and works on transposed scores, so that no large matrix has to be transposed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_MASKED = -1e30
_BLOCK = 128  # queries (keys in the backward pass) per block
_MOST_BLOCKS = 16  # every block is code of its own, so long sequences get longer blocks
_SCORES = 2**17  # numbers in the largest matrix of scores of a group: 512 KiB, less than an L2


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def blocked_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, window: int, slopes: jax.Array
) -> jax.Array:
    """Attend from each position to itself and the `window - 1` before it.

    Args:
        q: f32[B, T, H, D].
        k: f32[B, T, H, D].
        v: f32[B, T, H, D].
        window: number of positions that a query sees, itself included.
        slopes: f32[H], subtracted per step of distance from a head's scores (ALiBi); 0 for none.
            Taken as constants: their gradient is 0.

    Returns:
        f32[B, T, H, D].
    """
    return _forward(q, k, v, window, slopes)[0]


def _forward(q, k, v, window, slopes):
    rows = q.shape[0]
    parts = (_by_head(q) * q.shape[-1] ** -0.5, _by_head(k), _by_head(v), jnp.tile(slopes, rows))
    out, log_sum = _over_heads(functools.partial(_attend, window), parts)
    return _by_row(out, rows), (*parts, out, log_sum)


def _backward(window, saved, gradient):
    rows, depth = gradient.shape[0], gradient.shape[-1]
    q, k, v, slopes, out, log_sum = saved
    gradient = _by_head(gradient)
    # What the softmax subtracts from every score's gradient.
    shared = jnp.sum(gradient * out, -1)
    parts = (q, k, v, slopes, gradient, log_sum, shared)
    dq, dk, dv = _over_heads(functools.partial(_attend_backward, window), parts)
    dq = jnp.swapaxes(dq, 1, 2) * depth**-0.5
    return _by_row(dq, rows), _by_row(dk, rows), _by_row(dv, rows), jnp.zeros(slopes.size // rows)


blocked_attention.defvjp(_forward, _backward)


def _by_head(x: jax.Array) -> jax.Array:
    """Reorder [B, T, H, D] to [B H, T, D]."""
    b, t, h, d = x.shape
    return jnp.reshape(jnp.swapaxes(x, 1, 2), (b * h, t, d))


def _by_row(x: jax.Array, rows: int) -> jax.Array:
    """Undo `_by_head`."""
    n, t, d = x.shape
    return jnp.swapaxes(jnp.reshape(x, (rows, n // rows, t, d)), 1, 2)


def _over_heads(function: Callable[..., Any], parts: tuple[jax.Array, ...]) -> Any:
    """Map over groups of the leading axis, as many at a time as fit into the cache."""
    n, length = parts[0].shape[:2]
    most = max(1, _SCORES // (_block(length) * length))
    group = max(size for size in range(1, min(n, most) + 1) if n % size == 0)
    grouped = [jnp.reshape(x, (n // group, group, *x.shape[1:])) for x in parts]
    results = jax.lax.map(lambda group: function(*group), tuple(grouped))
    return jax.tree.map(lambda x: jnp.reshape(x, (n, *x.shape[2:])), results)


def _block(length: int) -> int:
    return max(_BLOCK, -(-length // _MOST_BLOCKS))


def _blocks(length: int) -> list[tuple[int, int]]:
    size = _block(length)
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _attend(window, q, k, v, slopes):
    """Return outputs f32[G, T, D] and the logarithms of the softmax's sums f32[G, T]."""
    k_turned = jnp.swapaxes(k, 1, 2)
    outputs, log_sums = [], []
    for start, stop in _blocks(q.shape[1]):
        first = max(0, start - window + 1)
        scores = q[:, start:stop] @ k_turned[:, :, first:stop]
        away = jnp.arange(start, stop)[:, None] - jnp.arange(first, stop)[None, :]
        scores = _biased(scores, away, window, slopes)
        largest = jnp.max(scores, -1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = jnp.sum(weights, -1, keepdims=True)
        outputs.append(weights @ v[:, first:stop] / total)
        log_sums.append((largest + jnp.log(total))[..., 0])
    return jnp.concatenate(outputs, 1), jnp.concatenate(log_sums, 1)


def _attend_backward(window, q, k, v, slopes, gradient, log_sum, shared):
    """Return the gradients of q, transposed f32[G, D, T], k and v f32[G, T, D]."""
    length = q.shape[1]
    q_turned, k_turned, g_turned = (jnp.swapaxes(x, 1, 2) for x in (q, k, gradient))
    dq, dk, dv = jnp.zeros_like(q_turned), [], []
    for start, stop in _blocks(length):
        last = min(length, stop + window - 1)
        scores = k[:, start:stop] @ q_turned[:, :, start:last]  # [keys, queries]
        away = jnp.arange(start, last)[None, :] - jnp.arange(start, stop)[:, None]
        scores = _biased(scores, away, window, slopes)
        weights = jnp.exp(scores - log_sum[:, None, start:last])
        dv.append(weights @ gradient[:, start:last])
        d_weights = v[:, start:stop] @ g_turned[:, :, start:last]
        d_scores = weights * (d_weights - shared[:, None, start:last])
        dk.append(d_scores @ q[:, start:last])
        dq = dq.at[:, :, start:last].add(k_turned[:, :, start:stop] @ d_scores)
    return dq, jnp.concatenate(dk, 1), jnp.concatenate(dv, 1)


def _biased(scores: jax.Array, away: jax.Array, window: int, slopes: jax.Array) -> jax.Array:
    """Subtract slope times distance, and hide what lies ahead or behind the window."""
    biased = scores - slopes[:, None, None] * away
    return jnp.where((away >= 0) & (away < window), biased, _MASKED)
