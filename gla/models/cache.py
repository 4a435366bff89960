"""The ring of keys and values of one attention layer: the only place that knows its layout."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

_MASKED = -1e30
_BLOCK = 128  # queries that meet their keys at a time


class RingCache(NamedTuple):
    """The last `window` keys and values of each row; position p lies in slot p mod window.

    How many positions a row has seen is not kept here, as all layers share it.

    Attributes:
        keys: [B, H, W, D] of the compute type, rotated already where positions are rotary.
        values: [B, H, W, D] of the compute type.
    """

    keys: jax.Array
    values: jax.Array


def empty_ring(rows: int, window: int, heads: int, depth: int, dtype) -> RingCache:
    """Return the ring of rows that have seen nothing."""
    shape = (rows, heads, window, depth)
    # Two buffers, so that a jitted step may donate and update each in place.
    return RingCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def slot_positions(count: jax.Array, window: int) -> jax.Array:
    """Return the position that each slot holds, below zero where it is empty.

    Args:
        count: i32[B], positions seen by each row.
        window: number of slots.

    Returns:
        i32[B, W].
    """
    last = count[:, None] - 1
    return last - (last - jnp.arange(window)) % window


def append(cache: RingCache, keys: jax.Array, values: jax.Array, count: jax.Array) -> RingCache:
    """Write the newest positions over the oldest.

    Args:
        cache: the ring.
        keys: [B, T, H, D].
        values: [B, T, H, D].
        count: i32[B], positions that each row had seen before these.
    """
    (rows, heads, window, _), length = cache.keys.shape, keys.shape[1]
    skipped = max(0, length - window)  # overwritten by later ones of the same segment
    slots = (count[:, None] + jnp.arange(skipped, length)) % window
    # Written head by head: XLA:CPU turns the one write that a single row would be into an update
    # which it then repeats, out of place, wherever the ring is read.
    place = jnp.arange(rows)[:, None, None], jnp.arange(heads)[None, :, None], slots[:, None, :]

    def write(ring: jax.Array, new: jax.Array) -> jax.Array:
        new = jnp.swapaxes(new[:, skipped:], 1, 2).astype(ring.dtype)
        return ring.at[place].set(new, unique_indices=True, mode="promise_in_bounds")

    return RingCache(write(cache.keys, keys), write(cache.values, values))


def attend(
    q: jax.Array, cache: RingCache, count: jax.Array, slopes: jax.Array | None = None
) -> jax.Array:
    """Attend from the newest position of each row, which is in the ring already.

    Args:
        q: [B, H, D].
        cache: the ring, to which that position was appended.
        count: i32[B], positions that each row had seen before it.
        slopes: f32[H] of ALiBi, or None.

    Returns:
        [B, H, D], the type of `q`.
    """
    held = slot_positions(count + 1, cache.keys.shape[2])
    scores = jnp.einsum(
        "bhd,bhwd->bhw", q * q.shape[-1] ** -0.5, cache.keys, preferred_element_type=jnp.float32
    )
    if slopes is not None:
        distance = (count[:, None] - held).astype(jnp.float32)
        scores = scores - slopes[:, None] * distance[:, None]
    weights = jax.nn.softmax(jnp.where(held[:, None] >= 0, scores, _MASKED), -1)
    return jnp.einsum("bhw,bhwd->bhd", weights.astype(q.dtype), cache.values)


def attend_segment(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cache: RingCache,
    count: jax.Array,
    slopes: jax.Array | None = None,
) -> jax.Array:
    """Attend from new positions to themselves and to what the ring held before them.

    Args:
        q: [B, T, H, D].
        k: [B, T, H, D].
        v: [B, T, H, D].
        cache: the ring, to which these positions were not yet appended.
        count: i32[B], positions that each row had seen before these.
        slopes: f32[H] of ALiBi, or None.

    Returns:
        [B, T, H, D], the type of `q`.
    """
    length, window = q.shape[1], cache.keys.shape[2]
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))  # [B, H, T, D]
    fresh = jnp.arange(length)[None]  # places relative to the start of the segment
    held = slot_positions(count, window)
    held = jnp.where(held < 0, -window - length, held - count[:, None])  # empty: out of sight
    outputs = []
    for start in range(0, length, _BLOCK):
        stop, first = min(start + _BLOCK, length), max(0, start - window + 1)
        keys, values, places = k[:, :, first:stop], v[:, :, first:stop], fresh[:, first:stop]
        if start < window - 1:  # later blocks see nothing of the ring
            keys = jnp.concatenate([cache.keys, keys], 2)
            values = jnp.concatenate([cache.values, values], 2)
            places = jnp.broadcast_to(places, (held.shape[0], places.shape[1]))
            places = jnp.concatenate([held, places], 1)
        distance = fresh[:, start:stop, None] - places[:, None]  # [B or 1, queries, keys]
        scores = jnp.einsum(
            "bhqd,bhkd->bhqk", q[:, :, start:stop], keys, preferred_element_type=jnp.float32
        )
        if slopes is not None:
            scores = scores - slopes[:, None, None] * distance[:, None].astype(jnp.float32)
        seen = (distance >= 0) & (distance < window)
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, _MASKED), -1)
        outputs.append(jnp.einsum("bhqk,bhkd->bhqd", weights.astype(q.dtype), values))
    return jnp.swapaxes(jnp.concatenate(outputs, 2), 1, 2)
