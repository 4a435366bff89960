"""Fast weights under the delta rule: a memory that replaces what a key stood for."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from gla.models.config import ModelConfig
from gla.models.layers import chunks, compute_dtype, merge_heads, residual_dense, unchunk

_CHUNK = 64


def _unit(x: jax.Array) -> jax.Array:
    """Scale the last axis to length one; a gradient exists at zero too."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)


def delta_rule(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    rate: jax.Array,
    memory: jax.Array,
    size: int = _CHUNK,
) -> tuple[jax.Array, jax.Array]:
    """Run S <- S + rate_t k_t^T (v_t - k_t S), y_t = q_t S over a sequence, chunk by chunk.

    Within a chunk the corrections u_t = rate_t (v_t - k_t S) of all positions solve one unit
    triangular system (the WY form of Yang et al. 2024, section 3), of which only the part that
    depends on the memory at the chunk's start has to wait for the chunks before.

    Args:
        q: f32[B, T, H, D].
        k: f32[B, T, H, D], of length one.
        v: f32[B, T, H, D].
        rate: f32[B, T, H] in [0, 1], how far the memory moves to the new value.
        memory: f32[B, H, D, D], keys x values, before the first position.
        size: positions per chunk.

    Returns:
        f32[B, T, H, D] and the memory after the last position.
    """
    length = q.shape[1]
    size = min(size, length)
    # [N, B, H, size, D]; rate and key are zero past the end, where nothing changes
    q, k, v = (jnp.swapaxes(chunks(x, size), 2, 3) for x in (q, k, v))
    rate = jnp.swapaxes(chunks(rate, size), 2, 3)[..., None]
    overlap = jnp.tril(rate * jnp.einsum("nbhtd,nbhsd->nbhts", k, k), -1)
    solved = jax.lax.linalg.triangular_solve(
        overlap,
        jnp.concatenate([rate * v, rate * k], -1),
        left_side=True,
        lower=True,
        unit_diagonal=True,
    )
    alone, shared = jnp.split(solved, 2, -1)
    scores = jnp.tril(jnp.einsum("nbhtd,nbhsd->nbhts", q, k))

    def chunk(memory: jax.Array, xs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, alone, shared, scores = xs
        corrections = alone - shared @ memory
        output = q @ memory + scores @ corrections
        return memory + jnp.swapaxes(k, -1, -2) @ corrections, output

    memory, outputs = jax.lax.scan(chunk, memory, (q, k, alone, shared, scores))
    return unchunk(jnp.swapaxes(outputs, 2, 3), length), memory


class DeltaRule(nn.Module):
    """Fast-weight programmer with the delta rule (Schlag et al. 2021, section 4.2).

    Keys and queries are SiLU features scaled to length one, and each head's output is scaled to
    unit mean square, as in Yang et al. 2024. The rate is a sigmoid of the input, one per head.

    Attributes:
        config: size.
    """

    config: ModelConfig

    def setup(self):
        """Create the layers (called by flax)."""
        c = self.config
        dtype = compute_dtype(c)
        self.qkv = nn.DenseGeneral((3, c.heads, c.head_size), use_bias=False, dtype=dtype)
        self.rate = nn.Dense(c.heads, dtype=dtype)
        self.norm = nn.RMSNorm()
        self.out = residual_dense(c)

    @staticmethod
    def initial_state(config: ModelConfig, rows: int) -> jax.Array:
        """Return an empty memory, f32[B, H, D, D]: width x head size numbers per row."""
        return jnp.zeros((rows, config.heads, config.head_size, config.head_size))

    def _project(self, x: jax.Array):
        qkv = self.qkv(x).astype(jnp.float32)
        q, k, v = qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]
        rate = jax.nn.sigmoid(self.rate(x).astype(jnp.float32))
        return _unit(jax.nn.silu(q)), _unit(jax.nn.silu(k)), v, rate

    def __call__(
        self, x: jax.Array, state: jax.Array | None, count: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Mix whole sequences, f32[B, T, W], after what `state` holds."""
        del count
        if state is None:
            state = self.initial_state(self.config, x.shape[0])
        q, k, v, rate = self._project(x)
        mixed, state = delta_rule(q, k, v, rate, state)
        return self.out(merge_heads(self.norm(mixed))), state

    def step(self, x: jax.Array, state: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mix one position per row, f32[B, W]."""
        del count
        q, k, v, rate = self._project(x)
        correction = rate[..., None] * (v - jnp.einsum("bhd,bhde->bhe", k, state))
        state = state + k[..., :, None] * correction[..., None, :]
        mixed = jnp.einsum("bhd,bhde->bhe", q, state)
        return self.out(merge_heads(self.norm(mixed))), state
