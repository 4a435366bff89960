"""The LSTM as a mixer of the residual trunk."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gla.models.config import ModelConfig
from gla.models.layers import compute_dtype, residual_dense

_UNROLL = 4


class LSTMState(NamedTuple):
    """What one layer carries.

    Attributes:
        hidden: f32[B, W], the last output.
        cell: f32[B, W].
    """

    hidden: jax.Array
    cell: jax.Array


class LSTM(nn.Module):
    """LSTM layer with forget gates (Gers et al. 2000), `width` cells, no peepholes.

    Attributes:
        config: size.
    """

    config: ModelConfig

    def setup(self):
        """Create the layers (called by flax)."""
        c = self.config
        self.input = nn.Dense(4 * c.width, dtype=compute_dtype(c))
        self.recurrent = self.param(
            "recurrent", nn.initializers.orthogonal(), (c.width, 4 * c.width)
        )
        self.out = residual_dense(c)

    @staticmethod
    def initial_state(config: ModelConfig, rows: int) -> LSTMState:
        """Return zeros: 2 x width numbers per row."""
        return LSTMState(*(jnp.zeros((rows, config.width)) for _ in range(2)))

    def _cell(self, state: LSTMState, gates: jax.Array) -> tuple[LSTMState, jax.Array]:
        """Advance by one position, given what the input adds to the gates, [B, 4 W]."""
        dtype = compute_dtype(self.config)
        gates = gates + jnp.dot(
            state.hidden.astype(dtype),
            self.recurrent.astype(dtype),
            preferred_element_type=jnp.float32,
        )
        enter, forget, new, leave = jnp.split(gates.astype(jnp.float32), 4, -1)
        # One is added to the forget gate so that memory lasts at the start of training.
        cell = jax.nn.sigmoid(forget + 1) * state.cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
        hidden = jax.nn.sigmoid(leave) * jnp.tanh(cell)
        return LSTMState(hidden, cell), hidden

    def __call__(
        self, x: jax.Array, state: LSTMState | None, count: jax.Array | None
    ) -> tuple[jax.Array, LSTMState]:
        """Mix whole sequences, f32[B, T, W], after what `state` holds."""
        del count
        before = self.initial_state(self.config, x.shape[0]) if state is None else state
        gates = self.input(jnp.swapaxes(x, 0, 1))
        after, hidden = jax.lax.scan(self._cell, before, gates, unroll=_UNROLL)
        return jnp.swapaxes(self.out(hidden), 0, 1), after

    def step(self, x: jax.Array, state: LSTMState, count: jax.Array) -> tuple[jax.Array, LSTMState]:
        """Mix one position per row, f32[B, W]."""
        del count
        state, hidden = self._cell(state, self.input(x))
        return self.out(hidden), state
