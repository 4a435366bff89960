"""Causal attention in query blocks, rotary positions, and attention to a ring cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_MASKED = -1e30


def rotate(x: jax.Array, positions: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Apply rotary position embedding (Su et al. 2021).

    Args:
        x: f32[..., H, D], D even.
        positions: i32[...], one per leading index of x.
        base: wavelength base.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def causal_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, window: int, block: int = 128
) -> jax.Array:
    """Softmax attention of each position to itself and the `window - 1` before it.

    Queries are taken in blocks and each block only meets the keys that it can see, which saves
    almost half of the work of masking a full square and keeps the scores small.

    Args:
        q: f32[B, T, H, D].
        k: f32[B, T, H, D].
        v: f32[B, T, H, D].
        window: number of positions that a query sees, itself included.
        block: queries per block.

    Returns:
        f32[B, T, H, D].
    """
    length, depth = q.shape[1], q.shape[-1]
    scale = depth**-0.5
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # [B, H, T, D]
    outputs = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        first = max(0, start - window + 1)
        queries = jnp.arange(start, stop)[:, None]
        keys = jnp.arange(first, stop)[None, :]
        scores = jnp.einsum("bhqd,bhkd->bhqk", q[:, :, start:stop] * scale, k[:, :, first:stop])
        seen = (keys <= queries) & (keys > queries - window)
        weights = jax.nn.softmax(jnp.where(seen, scores, _MASKED), -1)
        outputs.append(jnp.einsum("bhqk,bhkd->bhqd", weights, v[:, :, first:stop]))
    return jnp.swapaxes(jnp.concatenate(outputs, 2), 1, 2)


def cached_attention(
    q: jax.Array, keys: jax.Array, values: jax.Array, seen: jax.Array
) -> jax.Array:
    """Attend from one new position per row to its ring cache.

    Args:
        q: f32[B, H, D].
        keys: f32[B, W, H, D].
        values: f32[B, W, H, D].
        seen: bool[B, W], which slots hold a visible position.

    Returns:
        f32[B, H, D].
    """
    scores = jnp.einsum("bhd,bwhd->bhw", q * q.shape[-1] ** -0.5, keys)
    weights = jax.nn.softmax(jnp.where(seen[:, None, :], scores, _MASKED), -1)
    return jnp.einsum("bhw,bwhd->bhd", weights, values)
