"""Hand-written learners: what any meta-trained one must be compared with.

None has meta-trained parameters and all take inputs of any length. Nearest neighbour, kernel ridge,
logistic regression and SVM look at inputs in the same way: from those up to and including the
query the mean is subtracted, and each is scaled to length 1. An input within a thousandth of the
mean, as measured by the largest distance from the first input, counts as the mean and stays 0.
They keep the examples and start anew at every position.

Before the first label all classes are alike, and the guess is class 0. Where one class only was
seen, kernel ridge, logistic regression and SVM guess that one; so does the nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from gla.errors import GlaError, near_matches
from gla.gpicl.gradient import GradientConfig, InnerOptimizer, OnlineLearner
from gla.gpicl.learners import Learner, check_sequences, check_sizes

RIDGE = 0.05  # added to the diagonal of the kernel matrix, whose own diagonal is 2
LOGISTIC_C = 100.0
SVM_C, SVM_GAMMA = 10.0, 0.5
UNSEEN = -30.0  # score of a class without an example, below all others

_NEAR = 1e-3


@dataclass(frozen=True)
class _Keeper:
    """What learners that keep all examples have in common.

    Attributes:
        classes: C, labels.
        input_dim: M, length of the inputs; 0 if any will do.
        length: T, examples of a sequence, for `state_size` only.
    """

    classes: int
    input_dim: int = 0
    length: int = 100

    def __post_init__(self):
        check_sizes(self.input_dim, self.classes, least_input=0)
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 2:
            raise GlaError(f"length is {self.length!r}", "a whole number >= 2")

    @property
    def state_size(self) -> int:
        """The examples before the last, with labels; 0 as long as `input_dim` is not known."""
        return (self.length - 1) * (self.input_dim + 1) if self.input_dim else 0

    @property
    def parameter_count(self) -> int:
        """0: nothing is meta-trained."""
        return 0

    def init(self, key: jax.Array) -> tuple[()]:
        """Return (), nothing to be meta-trained."""
        del key
        return ()


# --- learners in JAX


def cosines(inputs: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compare the inputs of a sequence as they are seen from one position.

    Args:
        inputs: f32[T, M].
        position: i32[], of the query; the mean is that of inputs[: position + 1].

    Returns:
        f32[T, T], cosines of the angles between centred inputs in [-1, 1], 0 with an input that
        counts as the mean; and whether each input is another, bool[T]. Both are of no meaning for
        inputs after the position.
    """
    # The Gram matrix of differences from the first input: as good as any, and sums of it lose
    # fewer digits where the mean is far from 0.
    moved = inputs - inputs[0]
    gram = jnp.matmul(moved, moved.T, precision="highest")
    seen = jnp.arange(inputs.shape[0]) <= position
    with_mean = jnp.matmul(gram, seen / (position + 1), precision="highest")
    mean_square = jnp.vdot(with_mean, seen / (position + 1), precision="highest")
    centred = gram - with_mean[:, None] - with_mean[None, :] + mean_square
    squares = jnp.diagonal(centred)
    far = squares > _NEAR**2 * jnp.max(jnp.where(seen, jnp.diagonal(gram), 0.0))
    lengths = jnp.sqrt(jnp.where(far, squares, 1.0))
    both = far[:, None] & far[None, :]
    angles = jnp.where(both, centred / (lengths[:, None] * lengths[None, :]), 0.0)
    return jnp.clip(angles, -1.0, 1.0), far


def tangent_kernel(cosine: jax.Array) -> jax.Array:
    """Neural tangent kernel of one infinitely wide hidden layer of ReLUs, of unit vectors.

    With weights w_j and v_j of standard normals, f(x) = sqrt(2 / n) sum_j v_j relu(w_j x), the sum
    over all weights of the products of gradients tends to u k0(u) + k1(u), where u = x x' and

        k0(u) = (pi - arccos u) / pi,   k1(u) = (u (pi - arccos u) + sqrt(1 - u^2)) / pi

    (Jacot et al. 2018; Cho & Saul 2009).

    Args:
        cosine: u, any shape, in [-1, 1].

    Returns:
        The same shape, from 0 to 2.
    """
    angle = jnp.pi - jnp.arccos(cosine)
    return (2 * cosine * angle + jnp.sqrt(1 - cosine**2)) / jnp.pi


class _KeeperInJAX(_Keeper):
    jittable = True

    def _scores(self, inputs: jax.Array, told: jax.Array, position: jax.Array) -> jax.Array:
        """Score the classes at one position of one sequence, f32[C]."""
        raise NotImplementedError

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
        wanted = jnp.arange(inputs.shape[1]) if positions is None else jnp.asarray(positions)
        # One position at a time, because each needs a T x T matrix per sequence.
        scores = jax.lax.map(
            lambda p: jax.vmap(lambda x, y: self._scores(x, y, p))(inputs, told), wanted
        )
        return jnp.swapaxes(scores, 0, 1)


class NearestNeighbour(_KeeperInJAX):
    """The label of the example at the smallest angle; scores are cosines, `UNSEEN` without one."""

    name = "1-NN"

    def _scores(self, inputs: jax.Array, told: jax.Array, position: jax.Array) -> jax.Array:
        cosine = cosines(inputs, position)[0][position]
        known = jnp.arange(inputs.shape[0]) < position
        shown = jax.nn.one_hot(told, self.classes, dtype=bool) & known[:, None]
        return jnp.max(jnp.where(shown, cosine[:, None], UNSEEN), 0)


class KernelRidge(_KeeperInJAX):
    """Ridge regression of one-hot labels, less their mean, in the kernel `tangent_kernel`.

    Scores are its predictions with the mean added again. The ridge is `RIDGE`.
    """

    name = "kernel ridge (NTK)"

    def _scores(self, inputs: jax.Array, told: jax.Array, position: jax.Array) -> jax.Array:
        cosine, far = cosines(inputs, position)
        known = jnp.arange(inputs.shape[0]) < position
        kernel = jnp.where(far[:, None] & far[None, :], tangent_kernel(cosine), 0.0)
        among = jnp.where(known[:, None] & known[None, :], kernel, 0.0)
        to_query = jnp.where(known, kernel[position], 0.0)
        factor = jax.scipy.linalg.cho_factor(among + RIDGE * jnp.eye(len(known)), lower=True)
        shares = jax.scipy.linalg.cho_solve(factor, to_query)
        labels = jax.nn.one_hot(told, self.classes) * known[:, None]
        mean = labels.sum(0) / jnp.maximum(position, 1)
        return mean + jnp.matmul(shares, (labels - mean) * known[:, None], precision="highest")


# --- learners of scikit-learn


def unit_inputs(inputs: np.ndarray) -> np.ndarray:
    """Centre inputs and scale each to length 1, as the head of this module says.

    Args:
        inputs: f32[n, M], the query last.

    Returns:
        f64[n, M].
    """
    moved = inputs.astype(np.float64) - inputs[0]
    largest = np.linalg.norm(moved, axis=1).max()
    centred = moved - moved.mean(0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    far = lengths > _NEAR * largest
    return np.where(far, centred, 0.0) / np.where(far, lengths, 1.0)


class _KeeperOfSklearn(_Keeper):
    jittable = False

    def _fit(
        self, inputs: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes that were seen, at least 2, and their scores for a query."""
        raise NotImplementedError

    def guess(
        self,
        params: tuple[()],
        inputs: Any,
        told: Any,
        positions: tuple[int, ...] | None = None,
    ) -> Any:
        """Guess labels; see `gla.gpicl.learners.Learner.guess`. One fit per position and sequence.

        Takes and returns NumPy.

        Raises:
            GlaError: if shapes do not fit, a label is none, or an input is not finite.
        """
        del params
        inputs, told = np.asarray(inputs), np.asarray(told)
        check_sequences(inputs, told, positions, self.input_dim)
        if told.size and not 0 <= told.min() <= told.max() < self.classes:
            raise GlaError(
                f"labels are from {told.min()} to {told.max()}", f"0 to {self.classes - 1}"
            )
        if not np.isfinite(inputs).all():
            raise GlaError("an input is infinite or not a number", "finite numbers")
        wanted = range(inputs.shape[1]) if positions is None else positions
        scores = np.zeros((len(inputs), len(wanted), self.classes), np.float32)
        with threadpool_limits(1):  # fits of 99 examples take longer on several threads
            for row, (sequence, labels) in enumerate(zip(inputs, told, strict=True)):
                for column, t in enumerate(wanted):
                    if t:
                        scores[row, column] = self._scores(sequence[: t + 1], labels[:t])
        return scores

    def _scores(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Score the classes for the last input, given the labels of the others, f32[C]."""
        scores = np.full(self.classes, UNSEEN, np.float32)
        if (labels == labels[0]).all():
            scores[labels[0]] = 0.0
        else:
            units = unit_inputs(inputs)
            seen, values = self._fit(units[:-1], labels, units[-1:])
            scores[seen] = values
        return scores


class Logistic(_KeeperOfSklearn):
    """Logistic regression with an L2 penalty, C = `LOGISTIC_C`; scores are log-probabilities."""

    name = "logistic regression"

    def _fit(
        self, inputs: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        model = LogisticRegression(C=LOGISTIC_C, max_iter=1000).fit(inputs, labels)
        return model.classes_, np.maximum(model.predict_log_proba(query)[0], UNSEEN + 1)


class SupportVectors(_KeeperOfSklearn):
    """Support vector machine with the kernel exp(-`SVM_GAMMA` |x - x'|^2) and C = `SVM_C`.

    Scores count the duels that a class wins, ties being broken by margins.
    """

    name = "SVM (RBF)"

    def _fit(
        self, inputs: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        model = SVC(C=SVM_C, gamma=SVM_GAMMA).fit(inputs, labels)
        margins = model.decision_function(query)[0]
        if len(model.classes_) == 2:  # one number, in favour of the second
            margins = np.array([-margins, margins])
        return model.classes_, np.clip(margins, UNSEEN + 1, None)


# --- by name


def _online(optimizer: InnerOptimizer) -> Callable[[int, int, int], Learner]:
    def make(classes: int, input_dim: int, length: int) -> Learner:
        del length
        return OnlineLearner(GradientConfig(optimizer=optimizer), input_dim, classes)

    return make


BASELINES: dict[str, Callable[[int, int, int], Learner]] = {
    "1-nn": NearestNeighbour,
    "kernel-ridge": KernelRidge,
    "logistic-regression": Logistic,
    "svm": SupportVectors,
    "sgd": _online("sgd"),
    "adam": _online("adam"),
}


def make_baseline(name: str, classes: int, input_dim: int = 0, length: int = 100) -> Learner:
    """Return a hand-written learner.

    Args:
        name: one of `BASELINES`.
        classes: C, labels that it can answer with.
        input_dim: M, length of the inputs; 0 if any will do, but then `state_size` is unknown: 0.
        length: T, examples of a sequence, for `state_size` only.

    Raises:
        GlaError: if there is no such learner, or a number is too small.
    """
    if name not in BASELINES:
        raise GlaError(
            f"there is no hand-written learner {name!r}{near_matches(name, BASELINES)}",
            "one of " + ", ".join(BASELINES),
        )
    return BASELINES[name](classes, input_dim, length)
