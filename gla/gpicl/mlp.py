"""Perceptrons, and the one that is trained on many tasks at once without seeing a sequence.

`draw_weights` and `classify` are the classifiers of `gla.gpicl.gradient` as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from gla.errors import GlaError
from gla.gpicl.learners import check_sequences, check_sizes

Weights = dict[str, dict[str, jax.Array]]


def draw_weights(key: jax.Array, sizes: tuple[int, ...], last: float = 1.0) -> Weights:
    """Draw the initial weights of a perceptron.

    Args:
        key: random key.
        sizes: length of the input, of the hidden layers, if any, and of the output.
        last: scale of the last kernel. Small values make the first guesses almost uniform.

    Returns:
        For each layer i, under `layer_i`, `kernel` f32[sizes[i], sizes[i + 1]], normal with
        variance 2 / sizes[i] before a ReLU and last^2 / sizes[i] at the end, and `bias`, zeros.
    """
    weights = {}
    for i, layer_key in enumerate(jax.random.split(key, len(sizes) - 1)):
        scale = (last if i == len(sizes) - 2 else math.sqrt(2.0)) / math.sqrt(sizes[i])
        kernel = jax.random.normal(layer_key, sizes[i : i + 2]) * scale
        weights[f"layer_{i}"] = {"kernel": kernel, "bias": jnp.zeros(sizes[i + 1])}
    return weights


def classify(weights: Weights, inputs: jax.Array) -> jax.Array:
    """Return the scores of a perceptron with ReLUs, f32[..., M] -> f32[..., C]."""
    for i in range(len(weights)):
        layer = weights[f"layer_{i}"]
        inputs = (jax.nn.relu(inputs) if i else inputs) @ layer["kernel"] + layer["bias"]
    return inputs


def count_weights(sizes: tuple[int, ...]) -> int:
    """Return how many numbers `draw_weights` draws."""
    return sum((sizes[i] + 1) * sizes[i + 1] for i in range(len(sizes) - 1))


@dataclass(frozen=True)
class MLPConfig:
    """Size of the perceptron without a context.

    Attributes:
        width: units of each of the two hidden layers.

    Raises:
        GlaError: if it is below 1.
    """

    width: int = 256

    def __post_init__(self):
        if isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1:
            raise GlaError(f"mlp width is {self.width!r}", "a whole number >= 1")


@dataclass(frozen=True)
class MultiTaskMLP:
    """Two hidden layers that see one example at a time and no label (GPICL, Fig. 2a).

    It cannot learn from a sequence: what it guesses right, it remembers from meta-training. So it
    shows how many tasks fit into weights of a given number.

    Attributes:
        config: its size.
        input_dim: M, length of the inputs.
        classes: C, labels.

    Raises:
        GlaError: if `input_dim` or `classes` is too small.
    """

    config: MLPConfig
    input_dim: int
    classes: int
    name = "MLP"
    jittable = True

    def __post_init__(self):
        check_sizes(self.input_dim, self.classes)

    @property
    def state_size(self) -> int:
        """0: nothing is carried from example to example."""
        return 0

    @property
    def parameter_count(self) -> int:
        """Numbers that are meta-trained."""
        return count_weights(self._sizes)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return (self.input_dim, self.config.width, self.config.width, self.classes)

    def init(self, key: jax.Array) -> Weights:
        """Draw weights; see `draw_weights`."""
        return draw_weights(key, self._sizes)

    def guess(
        self,
        params: Weights,
        inputs: jax.Array,
        told: jax.Array,
        positions: tuple[int, ...] | None = None,
    ) -> jax.Array:
        """Guess labels, each from its own input only; see `gla.gpicl.learners.Learner.guess`.

        Raises:
            GlaError: if shapes do not fit.
        """
        check_sequences(inputs, told, positions, self.input_dim)
        if positions is not None:
            inputs = inputs[:, jnp.asarray(positions)]
        return classify(params, inputs)
