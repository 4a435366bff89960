"""An LSTM whose cell is a matrix: much state for few parameters."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gla.models.config import ModelConfig
from gla.models.layers import compute_dtype, merge_heads, residual_dense, scan_recomputing

_PIECE = 16  # steps between the states that the backward pass keeps


class OuterLSTMState(NamedTuple):
    """What one layer carries.

    Attributes:
        hidden: f32[B, W], the last output.
        cell: f32[B, H, D, D].
    """

    hidden: jax.Array
    cell: jax.Array


class OuterLSTM(nn.Module):
    """Outer-product LSTM of GPICL (Kirsch et al. 2022, appendix A.5).

    The token and the last output give, per head, three pairs of vectors (for input gate, new
    content and forget gate), a query and an output gate. With a, b the vectors of a pair and s a
    learned positive scale, the matrices are M = (s tanh a) (tanh b)^T, and

        C <- sigmoid(M_forget + 1) * C + sigmoid(M_input) * M_new
        h  = sigmoid(o) * tanh(C^T q)

    Gates are elementwise. The heads' outputs joined are the hidden state.

    Attributes:
        config: size.
    """

    config: ModelConfig

    def setup(self):
        """Create the layers (called by flax)."""
        c = self.config
        # Half the variance each: together they act as one projection of token and hidden state.
        init = nn.initializers.variance_scaling(0.5, "fan_in", "truncated_normal")
        self.input = nn.Dense(8 * c.width, kernel_init=init, dtype=compute_dtype(c))
        self.recurrent = self.param("recurrent", init, (c.width, 8 * c.width))
        self.key_scale = self.param("key_scale", nn.initializers.zeros, ())
        self.out = residual_dense(c)

    @staticmethod
    def initial_state(config: ModelConfig, rows: int) -> OuterLSTMState:
        """Return zeros: width x (head size + 1) numbers per row."""
        cell = (rows, config.heads, config.head_size, config.head_size)
        return OuterLSTMState(jnp.zeros((rows, config.width)), jnp.zeros(cell))

    def _cell(self, state: OuterLSTMState, gates: jax.Array) -> tuple[OuterLSTMState, jax.Array]:
        """Advance by one position, given what the input adds to the projection, [B, 8 W]."""
        heads, dtype = self.config.heads, compute_dtype(self.config)
        gates = gates + jnp.dot(
            state.hidden.astype(dtype),
            self.recurrent.astype(dtype),
            preferred_element_type=jnp.float32,
        )
        parts = gates.astype(jnp.float32).reshape(gates.shape[0], heads, 8, -1)
        left = jnp.tanh(parts[:, :, :3]) * jax.nn.softplus(self.key_scale)
        right = jnp.tanh(parts[:, :, 3:6])
        query, leave = parts[:, :, 6], parts[:, :, 7]
        enter, new, forget = (left[:, :, i, :, None] * right[:, :, i, None, :] for i in range(3))
        cell = jax.nn.sigmoid(forget + 1) * state.cell + jax.nn.sigmoid(enter) * new
        read = jnp.einsum("bhij,bhi->bhj", cell, query)
        hidden = merge_heads(jax.nn.sigmoid(leave) * jnp.tanh(read))
        return OuterLSTMState(hidden, cell), hidden

    def __call__(
        self, x: jax.Array, state: OuterLSTMState | None, count: jax.Array | None
    ) -> tuple[jax.Array, OuterLSTMState]:
        """Mix whole sequences, f32[B, T, W], after what `state` holds."""
        del count
        if state is None:
            state = self.initial_state(self.config, x.shape[0])
        gates = self.input(jnp.swapaxes(x, 0, 1))
        state, hidden = scan_recomputing(self._cell, state, gates, _PIECE)
        return jnp.swapaxes(self.out(hidden), 0, 1), state

    def step(
        self, x: jax.Array, state: OuterLSTMState, count: jax.Array
    ) -> tuple[jax.Array, OuterLSTMState]:
        """Mix one position per row, f32[B, W]."""
        del count
        state, hidden = self._cell(state, self.input(x))
        return self.out(hidden), state
