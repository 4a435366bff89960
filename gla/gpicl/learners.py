"""What learns from the examples of a sequence: one protocol for everything in the tables.

A learner guesses the label of every example from the examples before it and their labels, and from
nothing else. Meta-trained learners have parameters, moved by `gla.gpicl.training` to lower the
cross-entropy of those guesses (GPICL, Eq. 2); hand-written ones have none.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from gla.errors import GlaError


@runtime_checkable
class Learner(Protocol):
    """Something that learns to classify, in the context of one sequence.

    Attributes:
        name: for tables.
        jittable: whether `guess` is a pure function of JAX arrays; others take and return NumPy.
        input_dim: M, length of the inputs; 0 if any will do.
        classes: C, labels that it can answer with.
        state_size: numbers that it carries from example to example, within a sequence of 100.
        parameter_count: numbers that are meta-trained.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def jittable(self) -> bool: ...  # noqa: D102
    @property
    def input_dim(self) -> int: ...  # noqa: D102
    @property
    def classes(self) -> int: ...  # noqa: D102
    @property
    def state_size(self) -> int: ...  # noqa: D102
    @property
    def parameter_count(self) -> int: ...  # noqa: D102

    def init(self, key: jax.Array) -> Any:
        """Draw what is meta-trained, a pytree of f32 arrays; () of hand-written learners."""
        ...

    def guess(
        self,
        params: Any,
        inputs: jax.Array,
        told: jax.Array,
        positions: tuple[int, ...] | None = None,
    ) -> jax.Array:
        """Guess labels, each from what came before it.

        Args:
            params: of `init`.
            inputs: f32[B, T, M].
            told: i32[B, T], labels from 0 to C - 1. The guess at position t may use those before t
                only. Sequence models also take -1, for a label that stays unknown.
            positions: where guesses are wanted, from 0 to T - 1; None for everywhere. Some learners
                start anew at every position, so the fewer the better.

        Returns:
            f32[B, P, C], log-probabilities up to a constant, or any scores of which the largest is
            the guess.
        """
        ...


def before(told: jax.Array, classes: int) -> jax.Array:
    """Return the label before each position, one-hot f32[B, T, C]; zeros at the first and at -1."""
    shown = jax.nn.one_hot(told, classes)
    return jnp.pad(shown, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def at(scores: jax.Array, positions: tuple[int, ...] | None) -> jax.Array:
    """Keep the positions that are wanted, f32[B, T, C] -> f32[B, P, C]."""
    return scores if positions is None else scores[:, jnp.asarray(positions)]


def check_sequences(
    inputs: Any,
    told: Any,
    positions: tuple[int, ...] | None = None,
    input_dim: int = 0,
) -> None:
    """Raise `GlaError` unless the arguments of a learner's `guess` fit together.

    Args:
        inputs: f32[B, T, M], of NumPy or JAX.
        told: i32[B, T], likewise.
        positions: places from 0 to T - 1, or None.
        input_dim: the M that the learner expects; 0 if any will do.
    """
    if inputs.ndim != 3 or inputs.shape[:2] != told.shape:
        raise GlaError(
            f"inputs have shape {inputs.shape} and labels {told.shape}",
            "(sequences, examples, numbers) and (sequences, examples)",
        )
    if input_dim and inputs.shape[2] != input_dim:
        raise GlaError(f"inputs are of {inputs.shape[2]} numbers", f"{input_dim}")
    last = inputs.shape[1] - 1
    if positions is not None and not all(0 <= position <= last for position in positions):
        raise GlaError(f"positions are {positions}", f"numbers from 0 to {last}")


def check_sizes(input_dim: int, classes: int, least_input: int = 1) -> None:
    """Raise `GlaError` if a learner cannot be made for inputs and classes of these numbers."""
    for name, value, least in (("input_dim", input_dim, least_input), ("classes", classes, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise GlaError(f"{name} is {value!r}", f"a whole number >= {least}")
