"""The residual trunk that all backbones share: they differ in what mixes positions."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gla.models.config import ModelConfig
from gla.models.delta import DeltaRule
from gla.models.layers import compute_dtype, residual_dense
from gla.models.linear import LinearAttention
from gla.models.lstm import LSTM
from gla.models.outer_lstm import OuterLSTM
from gla.models.ssm import StateSpace
from gla.models.transformer import Attention

# A mixer has `__call__(x f32[B, T, W], state, count)` for sequences, `step(x f32[B, W], state,
# count)` for one position per row, both returning (y, new state), and a static
# `initial_state(config, rows)`. In `__call__` the state and the count are None at the start of
# lifetimes.
MIXERS: dict[str, Any] = {
    "transformer": Attention,
    "linear": LinearAttention,
    "delta": DeltaRule,
    "ssm": StateSpace,
    "lstm": LSTM,
    "outer-lstm": OuterLSTM,
}


class State(NamedTuple):
    """What lifetimes carry from one position to the next.

    Attributes:
        length: i32[B], positions that each row has seen; rows may differ.
        layers: one pytree per block, leading axis B; empty where nothing is remembered.
    """

    length: jax.Array
    layers: tuple[Any, ...]


def initial_state(config: ModelConfig, rows: int) -> State:
    """Return the state of `rows` lifetimes that have not begun."""
    mixer = MIXERS.get(config.backbone)
    layers = (mixer.initial_state(config, rows) if mixer else () for _ in range(config.layers))
    return State(jnp.zeros(rows, jnp.int32), tuple(layers))


class _Block(nn.Module):
    """Pre-norm block: x + mixer(norm(x)), then x + MLP(norm(x)). Memoryless ones lack the mixer."""

    config: ModelConfig

    def setup(self):
        c = self.config
        if c.backbone in MIXERS:
            self.norm1 = nn.LayerNorm()
            self.mixer = MIXERS[c.backbone](c)
        self.norm2 = nn.LayerNorm()
        self.up = nn.Dense(c.mlp * c.width, dtype=compute_dtype(c))
        self.down = residual_dense(c)

    def _mlp(self, x: jax.Array) -> jax.Array:
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x))))

    def __call__(self, x: jax.Array, state: Any, count: Any) -> tuple[jax.Array, Any]:
        if self.config.backbone not in MIXERS:
            return self._mlp(x), ()
        mixed, state = self.mixer(self.norm1(x), state, count)
        return self._mlp(x + mixed), state

    def step(self, x: jax.Array, state: Any, count: Any) -> tuple[jax.Array, Any]:
        if self.config.backbone not in MIXERS:
            return self._mlp(x), ()
        mixed, state = self.mixer.step(self.norm1(x), state, count)
        return self._mlp(x + mixed), state


class Trunk(nn.Module):
    """Embed, blocks, norm, head. The residual stream and the head are float32.

    Attributes:
        config: kind and size.
        outputs: numbers returned per token.
    """

    config: ModelConfig
    outputs: int

    def setup(self):
        """Create the layers (called by flax)."""
        c = self.config
        self.embed = nn.Dense(c.width, dtype=compute_dtype(c))
        if c.backbone == "transformer" and c.positions == "learned":
            self.places = self.param("places", nn.initializers.normal(0.02), (c.window, c.width))
        block = nn.remat(_Block) if c.remat else _Block
        self.blocks = [block(c) for _ in range(c.layers)]
        self.norm = nn.LayerNorm()
        self.head = nn.Dense(self.outputs, kernel_init=nn.initializers.normal(0.01))

    def _embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = self.embed(tokens).astype(jnp.float32)
        if self.config.backbone == "transformer" and self.config.positions == "learned":
            x = x + self.places[positions % self.config.window]
        return x

    def __call__(self, tokens: jax.Array, state: State | None = None) -> tuple[jax.Array, State]:
        """Run over sequences, f32[B, T, F] -> f32[B, T, outputs], going on from `state`."""
        rows, length = tokens.shape[:2]
        positions, count = jnp.arange(length), None
        before: tuple[Any, ...] = (None,) * self.config.layers
        if state is not None:
            count, before = state
            positions = count[:, None] + positions
        x, after = self._embed(tokens, positions), []
        for block, old in zip(self.blocks, before, strict=True):
            x, new = block(x, old, count)
            after.append(new)
        seen = jnp.full(rows, length, jnp.int32) + (0 if count is None else count)
        return self.head(self.norm(x)), State(seen, tuple(after))

    def step(self, token: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Append one token per row: f32[B, F] -> f32[B, outputs]."""
        x, after = self._embed(token, state.length), []
        for block, old in zip(self.blocks, state.layers, strict=True):
            x, new = block.step(x, old, state.length)
            after.append(new)
        return self.head(self.norm(x)), State(state.length + 1, tuple(after))
