"""Linear attention: a sum of outer products of values and positive keys."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gla.models.config import ModelConfig
from gla.models.layers import chunks, compute_dtype, merge_heads, residual_dense, unchunk

_CHUNK = 64
_SMALL = 1e-6


class LinearState(NamedTuple):
    """What one layer carries.

    Attributes:
        memory: f32[B, H, D, D], sum of k^T v over the past.
        normalizer: f32[B, H, D], sum of k.
    """

    memory: jax.Array
    normalizer: jax.Array


def linear_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, state: LinearState, size: int = _CHUNK
) -> tuple[jax.Array, LinearState]:
    """Return sum_s (q_t . k_s) v_s / sum_s (q_t . k_s) over s <= t, at a cost linear in T.

    Positions of one chunk meet each other as in attention; what came before the chunk is met
    through the sums.

    Args:
        q: f32[B, T, H, D], positive.
        k: f32[B, T, H, D], positive.
        v: f32[B, T, H, D].
        state: the sums before the first position.
        size: positions per chunk.

    Returns:
        f32[B, T, H, D] and the sums after the last position.
    """
    length = q.shape[1]
    size = min(size, length)
    q, k, v = (chunks(x, size) for x in (q, k, v))  # [N, B, size, H, D]; k is zero past the end
    added = LinearState(jnp.einsum("nbshd,nbshe->nbhde", k, v), k.sum(2))

    def accumulate(before: LinearState, more: LinearState) -> tuple[LinearState, LinearState]:
        return jax.tree.map(jnp.add, before, more), before

    state, before = jax.lax.scan(accumulate, state, added)
    scores = jnp.tril(jnp.einsum("nbthd,nbshd->nbhts", q, k))
    numerator = jnp.einsum("nbhts,nbshe->nbthe", scores, v)
    numerator += jnp.einsum("nbthd,nbhde->nbthe", q, before.memory)
    denominator = jnp.moveaxis(scores.sum(-1), 3, 2)
    denominator += jnp.einsum("nbthd,nbhd->nbth", q, before.normalizer)
    return unchunk(numerator / (denominator[..., None] + _SMALL), length), state


class LinearAttention(nn.Module):
    """Linear Transformer (Katharopoulos et al. 2020) with the feature map elu(x) + 1.

    Attributes:
        config: size.
    """

    config: ModelConfig

    def setup(self):
        """Create the layers (called by flax)."""
        c = self.config
        self.qkv = nn.DenseGeneral(
            (3, c.heads, c.head_size), use_bias=False, dtype=compute_dtype(c)
        )
        self.out = residual_dense(c)

    @staticmethod
    def initial_state(config: ModelConfig, rows: int) -> LinearState:
        """Return empty sums: width x (head size + 1) numbers per row."""
        shape = (rows, config.heads, config.head_size)
        return LinearState(jnp.zeros((*shape, config.head_size)), jnp.zeros(shape))

    def _project(self, x: jax.Array):
        qkv = self.qkv(x).astype(jnp.float32)  # sums over a lifetime need all their digits
        q, k, v = qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]
        return jax.nn.elu(q) + 1, jax.nn.elu(k) + 1, v

    def __call__(
        self, x: jax.Array, state: LinearState | None, count: jax.Array | None
    ) -> tuple[jax.Array, LinearState]:
        """Mix whole sequences, f32[B, T, W], after what `state` holds."""
        del count
        if state is None:
            state = self.initial_state(self.config, x.shape[0])
        q, k, v = self._project(x)
        mixed, state = linear_attention(q, k, v, state)
        return self.out(merge_heads(mixed)), state

    def step(
        self, x: jax.Array, state: LinearState, count: jax.Array
    ) -> tuple[jax.Array, LinearState]:
        """Mix one position per row, f32[B, W]."""
        del count
        q, k, v = self._project(x)
        state = LinearState(state.memory + k[..., :, None] * v[..., None, :], state.normalizer + k)
        numerator = jnp.einsum("bhd,bhde->bhe", q, state.memory)
        denominator = jnp.sum(q * state.normalizer, -1, keepdims=True)
        return self.out(merge_heads(numerator / (denominator + _SMALL))), state
