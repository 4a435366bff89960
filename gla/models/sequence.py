"""One interface to every backbone."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gla.errors import GlaError
from gla.models.config import ModelConfig
from gla.models.trunk import State, Trunk, initial_state


@dataclass(frozen=True)
class SequenceModel:
    """A sequence model without its parameters; hashable, so a static argument of `jax.jit`.

    `step` folded over a sequence is `apply` over it, up to rounding, from any state.

    Attributes:
        config: kind and size.
        inputs: numbers per token.
        outputs: numbers returned per token.

    Raises:
        GlaError: if `inputs` or `outputs` is below 1.
    """

    config: ModelConfig
    inputs: int
    outputs: int

    def __post_init__(self):
        for name in ("inputs", "outputs"):
            if getattr(self, name) < 1:
                raise GlaError(f"model {name} is {getattr(self, name)}", "a whole number >= 1")

    @property
    def _module(self) -> Trunk:
        return Trunk(self.config, self.outputs)

    def _check(self, tokens: jax.Array, axes: str) -> None:
        if tokens.ndim != len(axes.split(", ")) or tokens.shape[-1] != self.inputs:
            raise GlaError(
                f"the model was given tokens of shape {tuple(tokens.shape)}",
                f"[{axes}] with F = {self.inputs}",
            )

    def init(self, key: jax.Array) -> Any:
        """Draw parameters, a pytree of float32 arrays.

        Args:
            key: random key.
        """
        return _init(self, key)

    def initial_state(self, rows: int) -> State:
        """Return the state of `rows` lifetimes that have not begun, leading axis `rows`."""
        return initial_state(self.config, rows)

    def apply(
        self, params: Any, tokens: jax.Array, state: State | None = None
    ) -> tuple[jax.Array, State]:
        """Run over whole sequences, or over the next segment of each.

        Args:
            params: of `init`.
            tokens: f32[B, T, F].
            state: where to go on from; None at the start of lifetimes, which is faster for
                attention. Gradients flow through it; stop them for truncated backpropagation.

        Returns:
            f32[B, T, O], and the state after the last token, which costs nothing in a compiled
            program that does not use it.

        Raises:
            GlaError: if tokens have another shape.
        """
        self._check(tokens, "B, T, F")
        found: Any = self._module.apply(params, tokens, state)
        return found

    def step(self, params: Any, token: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Append one token to each lifetime; rows may be at different places.

        Args:
            params: of `init`.
            token: f32[B, F].
            state: of the tokens before.

        Returns:
            f32[B, O] and the new state.

        Raises:
            GlaError: if the token has another shape.
        """
        self._check(token, "B, F")
        found: Any = self._module.apply(params, token, state, method="step")
        return found

    @property
    def state_size(self) -> int:
        """Numbers that one lifetime carries from step to step, its count of positions left out.

        GPICL (section 4.2) finds that this, more than the number of parameters, predicts whether
        a model learns to learn.
        """
        state = jax.eval_shape(lambda: self.initial_state(1))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.layers))

    @property
    def parameter_count(self) -> int:
        """Numbers that are trained."""
        params = jax.eval_shape(self.init, jax.eval_shape(lambda: jax.random.key(0)))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@functools.partial(jax.jit, static_argnums=0)
def _init(model: SequenceModel, key: jax.Array) -> Any:
    return model._module.init(key, jnp.zeros((1, 2, model.inputs)))


def make_model(config: ModelConfig, inputs: int, outputs: int) -> SequenceModel:
    """Return the model of a config.

    Args:
        config: kind and size.
        inputs: numbers per token.
        outputs: numbers returned per token.

    Raises:
        GlaError: if `inputs` or `outputs` is below 1.
    """
    return SequenceModel(config, inputs, outputs)
