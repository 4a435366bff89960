"""Meta-test of supervised learners: accuracy along sequences of tasks that were never seen."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gla.errors import GlaError
from gla.gpicl.learners import Learner
from gla.gpicl.tasks import Examples, TaskConfig, Tasks, sample

_Z = 1.959964  # two-sided 95% of a normal distribution


class Interval(NamedTuple):
    """Bounds of a 95% interval, f64[P] each."""

    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Score:
    """How often guesses were right.

    Attributes:
        positions: places in the sequence, P of them; place t comes after t examples.
        correct: i32[tasks, P], right guesses among the sequences of each task.
        per_task: sequences of each task.
        loss: f64[P], mean cross-entropy in nats; of learners whose scores are no log-probabilities
            it says nothing.
    """

    positions: tuple[int, ...]
    correct: np.ndarray
    per_task: int
    loss: np.ndarray

    @property
    def predictions(self) -> int:
        """Guesses behind the accuracy at each position."""
        return len(self.correct) * self.per_task

    @property
    def accuracy(self) -> np.ndarray:
        """Share of right guesses, f64[P] in [0, 1]."""
        return self.correct.mean(0) / self.per_task

    def interval(self) -> Interval:
        """Return 95% bounds of the accuracy, after Wilson (1927).

        Guesses of one task share its projection and its permutation. Where tasks differ more than
        chance makes them, the number of guesses is lowered to that of as many independent ones.
        """
        shares = self.correct / self.per_task
        total: np.ndarray = np.asarray(float(self.predictions))
        mean = shares.mean(0)
        if self.per_task > 1 and len(shares) > 1:
            spread = shares.var(0, ddof=1) / len(shares)
            chance = mean * (1 - mean) / total
            total = np.where(spread > chance, total * chance / np.maximum(spread, 1e-12), total)
        middle = (mean + _Z**2 / (2 * total)) / (1 + _Z**2 / total)
        half = np.sqrt(mean * (1 - mean) / total + _Z**2 / (4 * total**2)) / (1 + _Z**2 / total)
        return Interval(middle - _Z * half, middle + _Z * half)


def evaluate(
    learner: Learner,
    params: Any,
    examples: Examples,
    tasks: TaskConfig,
    sequences: int = 1024,
    per_task: int = 1,
    positions: tuple[int, ...] | None = None,
    seed: int = 0,
    batch: int = 64,
) -> Score:
    """Let a learner learn on sequences, all of which follow from the seed.

    Every learner that is given the same arguments meets the same sequences.

    Args:
        learner: what learns.
        params: what was meta-trained.
        examples: of one part of a data set.
        tasks: which tasks, taken as they are at the end of training. Give `tasks.uniform` for the
            paper's test on uniform permutations.
        sequences: how many, a multiple of `per_task`.
        per_task: sequences that share a task.
        positions: where guesses are counted, from 0 to T - 1; None for everywhere.
        seed: of tasks and examples.
        batch: sequences that are computed at once.

    Raises:
        GlaError: if a number does not fit, or the learner reads inputs of another length.
    """
    if positions is None:
        positions = tuple(range(tasks.length))
    if not positions or min(positions) < 0 or max(positions) >= tasks.length:
        raise GlaError(f"positions are {positions}", f"numbers from 0 to {tasks.length - 1}")
    if sequences < 1 or per_task < 1 or sequences % per_task:
        raise GlaError(
            f"{sequences} sequences, {per_task} of each task", "a multiple, both at least 1"
        )
    if learner.input_dim not in (0, tasks.input_dim):
        raise GlaError(
            f"the learner {learner.name} reads inputs of {learner.input_dim} numbers and the tasks "
            f"have {tasks.input_dim}",
            f"input_dim={learner.input_dim}",
        )
    if learner.classes != tasks.classes:
        raise GlaError(
            f"the learner {learner.name} knows {learner.classes} classes and the tasks have "
            f"{tasks.classes}",
            f"classes={learner.classes}",
        )
    batch = max(min(batch, sequences) // per_task, 1) * per_task
    root = jax.random.key(seed)
    correct, losses = [], []
    for start in range(0, sequences, batch):
        # The last batch is as long as the others, so that nothing is compiled twice.
        found = _draw(jax.random.fold_in(root, start), examples, tasks, batch, per_task)
        if learner.jittable:
            right, loss = _count(learner, params, found, positions)
        else:
            inputs: Any = np.asarray(found.inputs)
            told: Any = np.asarray(found.told)
            scores = jnp.asarray(learner.guess(params, inputs, told, positions))
            right, loss = _compare(scores, found.labels[:, jnp.asarray(positions)])
        kept = min(batch, sequences - start)
        correct.append(np.asarray(right)[:kept])
        losses.append(np.asarray(loss)[:kept])
    counts = np.concatenate(correct).reshape(-1, per_task, len(positions)).sum(1)
    mean = np.concatenate(losses).astype(np.float64).mean(0)
    return Score(positions, counts.astype(np.int32), per_task, mean)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _draw(
    key: jax.Array, examples: Examples, tasks: TaskConfig, count: int, per_task: int
) -> Tasks:
    return sample(key, examples, tasks, count, 1.0, per_task)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _count(
    learner: Learner, params: Any, tasks: Tasks, positions: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    scores = learner.guess(params, tasks.inputs, tasks.told, positions)
    return _compare(scores, tasks.labels[:, jnp.asarray(positions)])


def _compare(scores: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return whether guesses are right, bool[B, P], and their cross-entropy, f32[B, P]."""
    loss = -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[..., None], -1)[..., 0]
    return jnp.argmax(scores, -1) == labels, loss
