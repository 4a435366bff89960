"""A diagonal state-space layer whose step size and read-out depend on the input."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gla.models.config import ModelConfig
from gla.models.layers import chunks, compute_dtype, residual_dense, unchunk

_CHUNK = 64
_SLOWEST, _FASTEST = 1e-3, 1e-1  # step sizes at the start of training


def state_space_scan(
    x: jax.Array,
    step: jax.Array,
    write: jax.Array,
    read: jax.Array,
    rates: jax.Array,
    state: jax.Array,
    size: int = _CHUNK,
) -> tuple[jax.Array, jax.Array]:
    """Run h <- exp(-step rate) h + step write x, y = read . h for every channel.

    An associative scan runs within a chunk, and only the states between chunks are kept for the
    backward pass, as all states of a sequence are N times the size of its activations.

    Args:
        x: f32[B, T, W].
        step: f32[B, T, W], above 0.
        write: f32[B, T, N], shared by the channels.
        read: f32[B, T, N], shared by the channels.
        rates: f32[W, N], above 0.
        state: f32[B, W, N], before the first position.
        size: positions per chunk.

    Returns:
        f32[B, T, W] and the state after the last position.
    """
    length = x.shape[1]
    size = min(size, length)

    def join(left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]):
        return left[0] * right[0], left[1] * right[0] + right[1]

    @jax.checkpoint
    def chunk(state: jax.Array, xs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        x, step, write, read = xs
        decay = jnp.exp(-step[..., None] * rates)
        drive = (step * x)[..., None] * write[:, :, None]
        drive = drive.at[:, 0].add(decay[:, 0] * state)
        _, states = jax.lax.associative_scan(join, (decay, drive), axis=1)
        return states[:, -1], jnp.einsum("btwn,btn->btw", states, read)

    # Past the end the step is zero, which leaves the state as it is.
    pieces = tuple(chunks(part, size) for part in (x, step, write, read))
    state, outputs = jax.lax.scan(chunk, state, pieces)
    return unchunk(outputs, length), state


def _rates_init(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Log of 1, 2, .. N for every channel (the real form of Gu et al. 2022, S4D)."""
    del key
    return jnp.broadcast_to(jnp.log(jnp.arange(1.0, shape[1] + 1)), shape)


def _step_init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Bias for which softplus gives step sizes spread evenly in their logarithm."""
    low, high = np.log(_SLOWEST), np.log(_FASTEST)
    return jnp.log(jnp.expm1(jnp.exp(jax.random.uniform(key, shape, dtype, low, high))))


class StateSpace(nn.Module):
    """Selective state space (Gu and Dao 2023, section 3) with a gated output.

    Each channel has `state` real states of different time constants. The input sets the step size
    of the discretisation, what is written and what is read. There is no convolution.

    Attributes:
        config: size.
    """

    config: ModelConfig

    def setup(self):
        """Create the layers (called by flax)."""
        c = self.config
        dtype = compute_dtype(c)
        self.inner = nn.Dense(2 * c.width, use_bias=False, dtype=dtype)
        self.read_write = nn.Dense(2 * c.state, use_bias=False, dtype=dtype)
        self.step_size = nn.Dense(c.width, bias_init=_step_init, dtype=dtype)
        self.log_rates = self.param("log_rates", _rates_init, (c.width, c.state))
        self.skip = self.param("skip", nn.initializers.ones, (c.width,))
        self.out = residual_dense(c)

    @staticmethod
    def initial_state(config: ModelConfig, rows: int) -> jax.Array:
        """Return states at zero, f32[B, W, N]: width x state numbers per row."""
        return jnp.zeros((rows, config.width, config.state))

    def _project(self, x: jax.Array):
        inner, gate = jnp.split(self.inner(x), 2, -1)
        write, read = jnp.split(self.read_write(inner).astype(jnp.float32), 2, -1)
        step = jax.nn.softplus(self.step_size(inner).astype(jnp.float32))
        return inner.astype(jnp.float32), step, write, read, gate

    def _finish(self, read: jax.Array, inner: jax.Array, gate: jax.Array) -> jax.Array:
        return self.out((read + self.skip * inner) * jax.nn.silu(gate))

    def __call__(
        self, x: jax.Array, state: jax.Array | None, count: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Mix whole sequences, f32[B, T, W], after what `state` holds."""
        del count
        if state is None:
            state = self.initial_state(self.config, x.shape[0])
        inner, step, write, read, gate = self._project(x)
        rates = jnp.exp(self.log_rates)
        mixed, state = state_space_scan(inner, step, write, read, rates, state)
        return self._finish(mixed, inner, gate), state

    def step(self, x: jax.Array, state: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mix one position per row, f32[B, W]."""
        del count
        inner, step, write, read, gate = self._project(x)
        decay = jnp.exp(-step[..., None] * jnp.exp(self.log_rates))
        state = decay * state + (step * inner)[..., None] * write[:, None]
        return self._finish(jnp.einsum("bwn,bn->bw", state, read), inner, gate), state
