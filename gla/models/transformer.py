"""The decoder-only causal Transformer of GLA, one token per transition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gla.errors import GlaError
from gla.models.attention import cached_attention, causal_attention, rotate


@dataclass(frozen=True)
class TransformerConfig:
    """Size of the model. The paper states none; the defaults suit two CPU cores.

    Attributes:
        width: size of the residual stream.
        layers: number of blocks.
        heads: attention heads; must divide `width` into an even head size.
        mlp: hidden units of a block's MLP, as a multiple of `width`.
        window: a position attends to itself and the `window - 1` transitions before it, in
            training and at meta-test (paper: about 4,096).
    """

    width: int = 128
    layers: int = 3
    heads: int = 4
    mlp: int = 4
    window: int = 512

    def __post_init__(self):
        for name in ("width", "layers", "heads", "mlp", "window"):
            if getattr(self, name) < 1:
                raise GlaError(f"model {name} is {getattr(self, name)}", "a whole number >= 1")
        if self.width % (2 * self.heads):
            raise GlaError(
                f"model width {self.width} does not split into {self.heads} heads of even size",
                mend="choose a width that is a multiple of 2 x heads",
            )


class Cache(NamedTuple):
    """What `step` carries: a ring of keys and values per layer.

    Attributes:
        keys: per layer f32[B, W, H, D], already rotated.
        values: per layer f32[B, W, H, D].
        length: i32[B], number of tokens seen by each row; rows may differ.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    length: jax.Array


class _Block(nn.Module):
    config: TransformerConfig

    def setup(self):
        c = self.config
        depth = c.width // c.heads
        self.norm1 = nn.LayerNorm()
        self.norm2 = nn.LayerNorm()
        self.qkv = nn.DenseGeneral((3, c.heads, depth), use_bias=False)
        residual_init = nn.initializers.normal(0.02 / (2 * c.layers) ** 0.5)
        self.out = nn.DenseGeneral(c.width, axis=(-2, -1), kernel_init=residual_init)
        self.up = nn.Dense(c.mlp * c.width)
        self.down = nn.Dense(c.width, kernel_init=residual_init)

    def project(self, x: jax.Array, positions: jax.Array):
        qkv = self.qkv(self.norm1(x))
        q, k, v = qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]
        return rotate(q, positions), rotate(k, positions), v

    def finish(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        x = x + self.out(attended)
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Pre-norm Transformer with rotary positions and a sliding window.

    Attributes:
        config: size.
        outputs: numbers returned per token.
    """

    config: TransformerConfig
    outputs: int

    def setup(self):
        """Create the layers (called by flax)."""
        self.embed = nn.Dense(self.config.width)
        self.blocks = [_Block(self.config) for _ in range(self.config.layers)]
        self.norm = nn.LayerNorm()
        self.head = nn.Dense(self.outputs, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Run over whole sequences: f32[B, T, F] -> f32[B, T, outputs]."""
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape[:2])
        x = self.embed(tokens)
        for block in self.blocks:
            q, k, v = block.project(x, positions)
            x = block.finish(x, causal_attention(q, k, v, self.config.window))
        return self.head(self.norm(x))

    def step(self, token: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Append one token per row: f32[B, F] -> f32[B, outputs], with the new cache."""
        rows = jnp.arange(token.shape[0])
        slot = cache.length % self.config.window
        # A slot is filled once its number is below the count; a full ring is all visible.
        seen = jnp.arange(self.config.window)[None, :] <= cache.length[:, None]
        x = self.embed(token)
        keys, values = [], []
        for block, old_keys, old_values in zip(self.blocks, cache.keys, cache.values, strict=True):
            q, k, v = block.project(x, cache.length)
            keys.append(old_keys.at[rows, slot].set(k))
            values.append(old_values.at[rows, slot].set(v))
            x = block.finish(x, cached_attention(q, keys[-1], values[-1], seen))
        return self.head(self.norm(x)), Cache(tuple(keys), tuple(values), cache.length + 1)

    @staticmethod
    def empty_cache(config: TransformerConfig, rows: int) -> Cache:
        """Return the cache of `rows` empty histories."""
        shape = (rows, config.window, config.heads, config.width // config.heads)
        # Separate buffers, so that a jitted step may donate and update each in place.
        return Cache(
            tuple(jnp.zeros(shape) for _ in range(config.layers)),
            tuple(jnp.zeros(shape) for _ in range(config.layers)),
            jnp.zeros(rows, jnp.int32),
        )
