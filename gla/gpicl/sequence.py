"""Sequence models as learners: the GPICL Transformer and its black-box relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gla.gpicl.learners import at, before
from gla.models import ModelConfig, SequenceModel, State, make_model

TokenForm = Literal["paper", "pairs"]


class SequenceState(NamedTuple):
    """What a learner carries from one example to the next.

    Attributes:
        memory: of the model.
        input: f32[B, M], the last input; zeros before the first.
    """

    memory: State
    input: jax.Array


@dataclass(frozen=True)
class SequenceLearner:
    """A causal sequence model that reads examples and guesses labels (GPICL, section 3.2).

    Attributes:
        config: kind and size of the model.
        input_dim: M, length of the inputs.
        classes: C, labels.
        tokens: what the token of example t holds. `paper`: (x_t, y_{t-1}), so that the model must
            first find out which input a label belongs to. `pairs`: (x_t, x_{t-1}, y_{t-1}), the
            last example whole beside the query. Labels are one-hot, zeros where there is none.
    """

    config: ModelConfig
    input_dim: int
    classes: int
    tokens: TokenForm = "pairs"
    jittable = True

    @property
    def name(self) -> str:
        """What tables call it."""
        return "GPICL Transformer" if self.config.backbone == "transformer" else _named(self.config)

    @property
    def model(self) -> SequenceModel:
        """The model, without its parameters."""
        inputs = self.input_dim * (2 if self.tokens == "pairs" else 1) + self.classes
        return make_model(self.config, inputs, self.classes)

    @property
    def state_size(self) -> int:
        """Numbers that are carried from example to example (N_S of appendix A.2)."""
        return self.model.state_size + (self.input_dim if self.tokens == "pairs" else 0)

    @property
    def parameter_count(self) -> int:
        """Numbers that are meta-trained."""
        return self.model.parameter_count

    def init(self, key: jax.Array) -> Any:
        """Draw weights; see `gla.models.SequenceModel.init`."""
        return self.model.init(key)

    def guess(
        self,
        params: Any,
        inputs: jax.Array,
        told: jax.Array,
        positions: tuple[int, ...] | None = None,
    ) -> jax.Array:
        """Guess labels; see `gla.gpicl.learners.Learner.guess`."""
        last = jnp.pad(inputs, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        tokens = self._tokens(inputs, last, before(told, self.classes))
        scores, _ = self.model.apply(params, tokens)
        return at(scores, positions)

    def initial_state(self, rows: int) -> SequenceState:
        """Return the state of `rows` sequences that have not begun."""
        return SequenceState(self.model.initial_state(rows), jnp.zeros((rows, self.input_dim)))

    def step(
        self, params: Any, input: jax.Array, told: jax.Array, state: SequenceState
    ) -> tuple[jax.Array, SequenceState]:
        """Read one example of each sequence and guess its label.

        Args:
            params: of `init`.
            input: f32[B, M].
            told: i32[B], the label of the example before; -1 if there is none or it stays unknown.
            state: of the examples before.

        Returns:
            f32[B, C] and the new state. Folded over a sequence this is `guess`, up to rounding.
        """
        token = self._tokens(input, state.input, jax.nn.one_hot(told, self.classes))
        scores, memory = self.model.step(params, token, state.memory)
        return scores, SequenceState(memory, input)

    def _tokens(self, input: jax.Array, last: jax.Array, label: jax.Array) -> jax.Array:
        parts = (input, last, label) if self.tokens == "pairs" else (input, label)
        return jnp.concatenate(parts, -1)


def _named(config: ModelConfig) -> str:
    names = {
        "lstm": "LSTM",
        "outer-lstm": "outer-product LSTM",
        "ssm": "state space",
        "linear": "linear attention",
        "delta": "delta rule",
    }
    return names.get(config.backbone, config.backbone)
