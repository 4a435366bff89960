"""Multi-head attention over a sliding window, with a ring cache for acting."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from gla.models.attention import alibi_slopes, causal_attention, rotate
from gla.models.cache import RingCache, append, attend, attend_segment, empty_ring
from gla.models.config import ModelConfig
from gla.models.layers import compute_dtype, merge_heads, residual_dense


class Attention(nn.Module):
    """Softmax attention to the last `window` positions (Vaswani et al. 2017).

    Rotary and ALiBi positions live here; learned ones are added where tokens are embedded.

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
    def initial_state(config: ModelConfig, rows: int) -> RingCache:
        """Return empty rings: 2 x window x width numbers per row."""
        return empty_ring(
            rows, config.window, config.heads, config.head_size, compute_dtype(config)
        )

    def _project(self, x: jax.Array, positions: jax.Array):
        qkv = self.qkv(x)
        q, k, v = qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]
        if self.config.positions == "rotary":
            q, k = (rotate(part, positions).astype(v.dtype) for part in (q, k))
        return q, k, v

    def _slopes(self) -> jax.Array | None:
        if self.config.positions != "alibi":
            return None
        return jnp.asarray(alibi_slopes(self.config.heads))

    def __call__(
        self, x: jax.Array, state: RingCache | None, count: jax.Array | None
    ) -> tuple[jax.Array, RingCache]:
        """Mix whole sequences, f32[B, T, W], after what `state` holds."""
        positions, rows = jnp.arange(x.shape[1]), x.shape[0]
        if count is not None:
            positions = count[:, None] + positions
        q, k, v = self._project(x, positions)
        if state is None or count is None:
            mixed = causal_attention(q, k, v, self.config.window, slopes=self._slopes())
            state, count = self.initial_state(self.config, rows), jnp.zeros(rows, jnp.int32)
        else:
            mixed = attend_segment(q, k, v, state, count, self._slopes())
        return self.out(merge_heads(mixed)), append(state, k, v, count)

    def step(self, x: jax.Array, state: RingCache, count: jax.Array) -> tuple[jax.Array, RingCache]:
        """Mix one position per row, f32[B, W]."""
        q, k, v = self._project(x, count)
        state = append(state, k[:, None], v[:, None], count)
        return self.out(merge_heads(attend(q, state, count, self._slopes()))), state
