"""Gradient descent on the examples of a sequence, from random or from meta-trained weights.

A classifier is updated on each example as soon as its label is told, and guesses the next one's
label: the rows SGD and MAML of the paper's Table 1 (appendix A.6). Both go through `learn`; they
differ in where the initial weights come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from gla.errors import GlaError, near_matches
from gla.gpicl.learners import at, check_sequences, check_sizes
from gla.gpicl.mlp import (
    Weights,
    classify,
    count_weights,
    draw_weights,
)

InnerOptimizer = Literal["sgd", "adam", "adamw"]

# What `None` stands for, times the length of the inputs. On training tasks of MNIST, without hidden
# layer, the best of 1e-4 to 0.5 were 0.05 and 0.02 at 64 numbers, 0.005 and 0.002 at 784.
_RATES = {"sgd": 3.2, "adam": 1.28, "adamw": 1.28}
_LAST = 0.1  # scale of the last layer; larger random weights take examples to unlearn
_DECAY = 0.01  # decoupled weight decay of adamw
# Below the root of Adam's denominator, because the derivative of a bare root is infinite at 0.
_EPS_ROOT = 1e-10


@dataclass(frozen=True)
class GradientConfig:
    """A classifier and how it is updated on each example.

    Attributes:
        hidden: units of its hidden layers, with ReLU; none: it is linear.
        optimizer: `sgd`, without momentum; `adam`; `adamw`, that is Adam with weight decay.
        learning_rate: step size; none: for inputs of M numbers of size 1, 3.2 / M for sgd and
            1.28 / M for the others, which suits linear classifiers. Hidden layers want less.
        updates_per_example: steps on each example.
        learn_rate: meta-train the step size too, from `learning_rate` on. MAML only.

    Raises:
        GlaError: if a value is out of its range.
    """

    hidden: tuple[int, ...] = ()
    optimizer: InnerOptimizer = "sgd"
    learning_rate: float | None = None
    updates_per_example: int = 1
    learn_rate: bool = False

    def __post_init__(self):
        known = get_args(InnerOptimizer)
        if self.optimizer not in known:
            raise GlaError(
                f"gradient optimizer is {self.optimizer!r}"
                f"{near_matches(str(self.optimizer), known)}",
                "one of " + ", ".join(known),
            )
        for name, values in (
            ("hidden", self.hidden),
            ("updates_per_example", (self.updates_per_example,)),
        ):
            if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in values):
                raise GlaError(f"gradient {name} is {getattr(self, name)!r}", "whole numbers >= 1")
        rate = self.learning_rate
        if rate is not None and not 0 < rate < math.inf:
            raise GlaError(f"gradient learning_rate is {rate}", "a number above 0")
        if not isinstance(self.learn_rate, bool):
            raise GlaError(f"gradient learn_rate is {self.learn_rate!r}", "True or False")

    def rate(self, input_dim: int) -> float:
        """Return the step size, filled in, for inputs of some length."""
        if self.learning_rate is None:
            return _RATES[self.optimizer] / input_dim
        return self.learning_rate


def inner_optimizer(name: InnerOptimizer, rate: float | jax.Array) -> optax.GradientTransformation:
    """Return what updates the classifier; it can be differentiated, also by its step size.

    Args:
        name: which.
        rate: step size, f32[].
    """
    if name == "sgd":
        return optax.sgd(rate)
    if name == "adam":
        return optax.adam(rate, eps_root=_EPS_ROOT)
    return optax.adamw(rate, eps_root=_EPS_ROOT, weight_decay=_DECAY)


def learn(
    config: GradientConfig,
    weights: Weights,
    rate: float | jax.Array,
    inputs: jax.Array,
    told: jax.Array,
) -> jax.Array:
    """Guess the labels of one sequence, updating the classifier on each after the guess.

    Args:
        config: how.
        weights: before the first example, see `gla.gpicl.mlp.draw_weights`.
        rate: step size, f32[].
        inputs: f32[T, M].
        told: i32[T], labels.

    Returns:
        f32[T, C], scores; a pure function of `weights` and `rate` that can be differentiated.
    """
    optimizer = inner_optimizer(config.optimizer, rate)

    def step(carry: Any, example: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        one, label = example

        def loss(current: Weights) -> jax.Array:
            scores = classify(current, one)
            return optax.softmax_cross_entropy_with_integer_labels(scores, label)

        def update(_: int, carry: Any) -> Any:
            current, state = carry
            updates, state = optimizer.update(jax.grad(loss)(current), state, current)
            return optax.apply_updates(current, updates), state

        scores = classify(carry[0], one)
        return jax.lax.fori_loop(0, config.updates_per_example, update, carry), scores

    _, scores = jax.lax.scan(step, (weights, optimizer.init(weights)), (inputs, told))
    return scores


def _state_size(config: GradientConfig, sizes: tuple[int, ...]) -> int:
    """Count the weights of the classifier and what its optimiser remembers of them."""
    weights = jax.eval_shape(lambda: draw_weights(jax.random.key(0), sizes))
    state = jax.eval_shape(inner_optimizer(config.optimizer, 1.0).init, weights)
    return sum(leaf.size for leaf in jax.tree.leaves((weights, state)))


@dataclass(frozen=True)
class OnlineLearner:
    """A classifier that begins anew with every sequence, at random weights (row SGD of Table 1).

    Attributes:
        config: classifier and updates.
        input_dim: M, length of the inputs; 0 if any will do.
        classes: C, labels.
        seed: of the initial weights. Each row of a batch has its own, the same in every batch.

    Raises:
        GlaError: if a size is too small, or the config asks for a meta-trained step size.
    """

    config: GradientConfig
    input_dim: int
    classes: int
    seed: int = 0
    jittable = True

    def __post_init__(self):
        check_sizes(self.input_dim, self.classes, least_input=0)
        if self.config.learn_rate:
            raise GlaError("a learner without meta-training has learn_rate set", "False")

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"online {dict(sgd='SGD', adam='Adam', adamw='AdamW')[self.config.optimizer]}"

    @property
    def state_size(self) -> int:
        """Weights and averages of their gradients; 0 as long as `input_dim` is not known."""
        if not self.input_dim:
            return 0
        return _state_size(self.config, (self.input_dim, *self.config.hidden, self.classes))

    @property
    def parameter_count(self) -> int:
        """0: nothing is meta-trained."""
        return 0

    def init(self, key: jax.Array) -> tuple[()]:
        """Return (), nothing to be meta-trained."""
        del key
        return ()

    def initial_weights(self, rows: int, input_dim: int) -> Weights:
        """Draw what the classifiers of a batch begin with, leading axis `rows`."""
        sizes = (input_dim, *self.config.hidden, self.classes)
        keys = jax.random.split(jax.random.key(self.seed), rows)
        return jax.vmap(lambda key: draw_weights(key, sizes, _LAST))(keys)

    def guess(
        self,
        params: tuple[()],
        inputs: jax.Array,
        told: jax.Array,
        positions: tuple[int, ...] | None = None,
    ) -> jax.Array:
        """Guess labels; see `gla.gpicl.learners.Learner.guess`.

        Raises:
            GlaError: if shapes do not fit.
        """
        del params
        check_sequences(inputs, told, positions, self.input_dim)
        weights = self.initial_weights(inputs.shape[0], inputs.shape[2])
        rate = self.config.rate(inputs.shape[2])
        scores = jax.vmap(lambda w, x, y: learn(self.config, w, rate, x, y))(weights, inputs, told)
        return at(scores, positions)


@dataclass(frozen=True)
class MAMLLearner:
    """Online gradient descent from weights that are meta-trained through it (Finn et al. 2017).

    As in the paper (appendix A.6), the loss is that of every guess along the sequence (Eq. 2), each
    after one more update, and its gradient goes through all updates.

    Attributes:
        config: classifier and updates.
        input_dim: M, length of the inputs.
        classes: C, labels.

    Raises:
        GlaError: if a size is too small.
    """

    config: GradientConfig
    input_dim: int
    classes: int
    name = "MAML"
    jittable = True

    def __post_init__(self):
        check_sizes(self.input_dim, self.classes)

    @property
    def state_size(self) -> int:
        """Weights and averages of their gradients."""
        return _state_size(self.config, self._sizes)

    @property
    def parameter_count(self) -> int:
        """Numbers that are meta-trained."""
        return count_weights(self._sizes) + self.config.learn_rate

    @property
    def _sizes(self) -> tuple[int, ...]:
        return (self.input_dim, *self.config.hidden, self.classes)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Draw `weights`, see `draw_weights`, beside `log_rate` f32[] if that is learned too."""
        params: dict[str, Any] = {"weights": draw_weights(key, self._sizes, _LAST)}
        if self.config.learn_rate:
            params["log_rate"] = jnp.asarray(
                math.log(self.config.rate(self.input_dim)), jnp.float32
            )
        return params

    def guess(
        self,
        params: dict[str, Any],
        inputs: jax.Array,
        told: jax.Array,
        positions: tuple[int, ...] | None = None,
    ) -> jax.Array:
        """Guess labels; see `gla.gpicl.learners.Learner.guess`.

        Raises:
            GlaError: if shapes do not fit.
        """
        check_sequences(inputs, told, positions, self.input_dim)
        rate: Any = self.config.rate(self.input_dim)
        if self.config.learn_rate:
            rate = jnp.exp(params["log_rate"])
        scores = jax.vmap(lambda x, y: learn(self.config, params["weights"], rate, x, y))(
            inputs, told
        )
        return at(scores, positions)
