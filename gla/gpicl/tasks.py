"""Classification tasks without end: a data set, a random projection, a permutation of its classes.

A task is {A x, rho(y)}: the examples of a base data set with their inputs projected by one random
matrix A, A_ij ~ N(0, 1/N), and their classes renamed by one permutation rho (GPICL, section 3.1).
Tasks are drawn on the device, inside the jitted training step, as pure functions of a key.

Where a projection serves one sequence only, it is not built: for T <= 200 examples X f32[T, N]
with N > T, the projected inputs X A^T are drawn from their exact distribution given X,

    chol(X X^T / N + 1e-5 I) G,   G f32[T, M] of standard normals,

which costs O(T^2 N) instead of O(T N M) and draws T M normals instead of N M. A finite number of
tasks needs explicit matrices; these are drawn again from their seeds whenever they are used.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gla.datasets import Dataset
from gla.errors import GlaError
from gla.projection import Kind, sample_map

Fixed = Literal["permutation", "task"]

JITTER = 1e-5  # added to the diagonal of a Gram matrix: noise of 0.3% on projected inputs
# Rounding errors of a Gram matrix grow with its size: with few different examples, f32 fails from
# T = 300 on. A matrix is cheaper there too, unless M is large.
LONGEST_EXACT = 200
# Streams of random numbers that belong to a task, by their place below the task's key.
_MATRIX, _PERMUTATION, _GROUPS, _SHARE = range(4)


@dataclass(frozen=True)
class TaskConfig:
    """The distribution of tasks and the form of a sequence.

    Attributes:
        length: T, examples of a sequence (the paper: 100); at least 2.
        input_dim: M, length of the projected inputs.
        classes: C, labels that a learner can answer with; data sets may have fewer classes.
        tasks: K, the number of different tasks; 0 is endlessly many, a new one per sequence.
        seed: of the K tasks. Training and test see the same ones if K and seed are the same.
        projection: distribution of A. `gaussian`: entries N(0, 1/N); `orthogonal`: orthonormal rows
            (or columns, if M > N) at the same scale; `identity`: none, zeros added up to M.
        fixed_share: share of the sequences whose classes keep their order, in [0, 1]: the paper's
            biased distribution, which removes the plateau of the loss (section 4.3).
        fixed_share_final: the share at the end of training, reached in a straight line; None keeps
            it. Tests always are at the end.
        fixed: what those sequences have in common, the `permutation`, or the whole `task`, that is
            the projection too.
        fewest_classes: if given, each task merges the classes into c groups (class number modulo
            c), c uniform from this to the number of classes: easy tasks among the hard ones.
        fewest_classes_final: likewise at the end of training; in between it rises in steps.
        hidden_share: share of the labels that are not told after the guess, in [0, 1).

    Raises:
        GlaError: if a value is out of its range.
    """

    length: int = 100
    input_dim: int = 64
    classes: int = 10
    tasks: int = 0
    seed: int = 0
    projection: Kind = "gaussian"
    fixed_share: float = 0.0
    fixed_share_final: float | None = None
    fixed: Fixed = "permutation"
    fewest_classes: int | None = None
    fewest_classes_final: int | None = None
    hidden_share: float = 0.0

    def __post_init__(self):
        for name, least in (
            ("length", 2), ("input_dim", 1), ("classes", 2), ("tasks", 0), ("seed", 0)
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
                raise GlaError(f"tasks {name} is {value!r}", f"a whole number >= {least}, < 2^31")
        for name, kind in (("projection", Kind), ("fixed", Fixed)):
            if getattr(self, name) not in get_args(kind):
                raise GlaError(
                    f"tasks {name} is {getattr(self, name)!r}",
                    "one of " + ", ".join(get_args(kind)),
                )
        for name in ("fixed_share", "fixed_share_final"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise GlaError(f"tasks {name} is {value}", "a share in [0, 1]")
        if not 0 <= self.hidden_share < 1:
            raise GlaError(f"tasks hidden_share is {self.hidden_share}", "a share in [0, 1)")
        for name in ("fewest_classes", "fewest_classes_final"):
            value = getattr(self, name)
            if value is not None and value not in range(2, self.classes + 1):
                raise GlaError(
                    f"tasks {name} is {value}", f"a whole number from 2 to {self.classes}"
                )
        if self.fewest_classes_final is not None and self.fewest_classes is None:
            raise GlaError("tasks fewest_classes_final is given without fewest_classes", "both")

    @property
    def uniform(self) -> TaskConfig:
        """The same sequences as every test sees them: permutations and classes without a bias."""
        return dataclasses.replace(
            self, fixed_share=0.0, fixed_share_final=None, fewest_classes=None,
            fewest_classes_final=None, hidden_share=0.0,
        )  # fmt: skip


class Examples(NamedTuple):
    """A data set on the device; a pytree.

    Attributes:
        values: u8[n, N] or f32[n, N], as stored.
        labels: i32[n], from 0 to `classes` - 1.
        offset: f32[] or f32[N], see `gla.datasets.Dataset.scaled`.
        scale: f32[] or f32[N].
        classes: i32[], the number of classes.
    """

    values: jax.Array
    labels: jax.Array
    offset: jax.Array
    scale: jax.Array
    classes: jax.Array


class Tasks(NamedTuple):
    """A batch of sequences, each of one task.

    Attributes:
        inputs: f32[B, T, M], projected.
        labels: i32[B, T], permuted, from 0 to C - 1.
        told: i32[B, T], what a learner is told after its guess: the label, or -1 for nothing.
    """

    inputs: jax.Array
    labels: jax.Array
    told: jax.Array


def to_device(data: Dataset, config: TaskConfig) -> Examples:
    """Put a data set on the device, having checked that tasks can be made of it.

    Raises:
        GlaError: if it has more classes than a learner can answer with, a class without an
            example, fewer examples than a sequence, or too long inputs to go without a projection.
    """
    check(data, config)
    return Examples(
        jnp.asarray(data.values),
        jnp.asarray(data.labels),
        jnp.asarray(data.offset),
        jnp.asarray(data.scale),
        jnp.asarray(data.classes, jnp.int32),
    )


def check(data: Dataset, config: TaskConfig) -> None:
    """Raise `GlaError` unless tasks can be made of a data set (see `to_device`)."""
    what = f"the {data.part} part of {data.name}"
    if data.classes > config.classes:
        raise GlaError(
            f"{data.name} has {data.classes} classes",
            f"at most the {config.classes} that a learner can answer with",
            "leave some out, or set classes higher and meta-train again",
        )
    if len(data) < config.length:
        raise GlaError(
            f"{what} has {len(data)} examples", f"at least the {config.length} of a sequence"
        )
    missing = np.setdiff1d(np.arange(data.classes), data.labels)
    if len(missing):
        names = ", ".join(data.class_names[i] for i in missing[:5])
        raise GlaError(f"{what} has no example of the class {names}", "every class in both parts")
    if config.projection == "identity" and data.size > config.input_dim:
        raise GlaError(
            f"input_dim is {config.input_dim} for inputs of {data.size} numbers",
            f"at least {data.size} without a projection",
        )


def sample(
    key: jax.Array,
    examples: Examples,
    config: TaskConfig,
    count: int,
    progress: jax.Array | float = 1.0,
    per_task: int = 1,
) -> Tasks:
    """Draw sequences.

    Args:
        key: random key.
        examples: of one data set.
        config: which tasks.
        count: B, number of sequences.
        progress: f32[], share of the training that is done, in [0, 1].
        per_task: sequences in a row that share a task, each with examples of its own; divides B.

    Returns:
        Tasks with leading axis B.

    Raises:
        GlaError: if `per_task` does not divide B.
    """
    if per_task < 1 or count % per_task:
        raise GlaError(f"{count} sequences in tasks of {per_task}", "a multiple")
    progress = jnp.asarray(progress, jnp.float32)
    keys = jax.random.split(key, (count // per_task, 2))

    def one(pair: jax.Array) -> Tasks:
        task, rest = pair
        if config.tasks:
            task = _seeded(task, config)
        draws = jax.random.split(rest, per_task)
        if per_task == 1:
            found = _sequence(draws[0], task, examples, config, progress, alone=True)
            return jax.tree.map(lambda x: x[None], found)
        return jax.vmap(lambda k: _sequence(k, task, examples, config, progress, alone=False))(
            draws
        )

    found = jax.vmap(one)(keys)
    return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), found)


def _seeded(key: jax.Array, config: TaskConfig) -> jax.Array:
    """Choose one of the K tasks, as the key from which all of it follows."""
    number = jax.random.randint(key, (), 0, config.tasks)
    return jax.random.fold_in(jax.random.key(config.seed), number)


def _sequence(
    key: jax.Array,
    task: jax.Array,
    examples: Examples,
    config: TaskConfig,
    progress: jax.Array,
    alone: bool,
) -> Tasks:
    """Draw one sequence of the task that follows from the key `task`."""
    example_key, hide_key = jax.random.split(key)
    chosen = jax.random.randint(example_key, (config.length,), 0, examples.values.shape[0])
    inputs = (examples.values[chosen].astype(jnp.float32) - examples.offset) / examples.scale
    share = _between(config.fixed_share, config.fixed_share_final, progress)
    fixed = jax.random.uniform(jax.random.fold_in(task, _SHARE)) < share
    matrix_key = jax.random.fold_in(task, _MATRIX)
    if config.fixed == "task" and (config.fixed_share or config.fixed_share_final):
        common = jax.random.fold_in(jax.random.key(config.seed), 2**32 - 1)  # no task's number
        matrix_key = jnp.where(fixed, common, matrix_key)
        alone = False  # the projection is met again
    inputs = project(matrix_key, inputs, config, alone and not config.tasks)
    labels = _rename(task, examples, examples.labels[chosen], config, fixed, progress)
    told = labels
    if config.hidden_share:
        hidden = jax.random.uniform(hide_key, (config.length,)) < config.hidden_share
        told = jnp.where(hidden, -1, labels)
    return Tasks(inputs, labels, told)


def _between(first: float, last: float | None, progress: jax.Array) -> jax.Array:
    """Return what lies on the straight line between two settings, f32[]."""
    return first + ((first if last is None else last) - first) * progress


def _rename(
    task: jax.Array,
    examples: Examples,
    labels: jax.Array,
    config: TaskConfig,
    fixed: jax.Array,
    progress: jax.Array,
) -> jax.Array:
    """Merge and permute the classes of a task, i32[T]."""
    if config.fewest_classes is not None:
        final = config.fewest_classes_final
        least = _between(config.fewest_classes, None if final is None else float(final), progress)
        least = jnp.minimum(jnp.round(least).astype(jnp.int32), examples.classes)
        groups = jax.random.randint(
            jax.random.fold_in(task, _GROUPS), (), least, examples.classes + 1
        )
        labels = labels % groups
    order = jax.random.permutation(jax.random.fold_in(task, _PERMUTATION), config.classes)
    return jnp.where(fixed, labels, order[labels]).astype(jnp.int32)


def project(key: jax.Array, inputs: jax.Array, config: TaskConfig, alone: bool = True) -> jax.Array:
    """Project the examples of a sequence, f32[T, N] -> f32[T, M].

    Args:
        key: of the projection.
        inputs: f32[T, N], scaled.
        config: which projection.
        alone: that this sequence is the only one with this key, so that the matrix need not exist.
    """
    length, size = inputs.shape
    if config.projection == "gaussian" and alone and length < min(size, LONGEST_EXACT + 1):
        return _exact(key, inputs, config.input_dim)
    return inputs @ sample_map(key, config.projection, config.input_dim, size).T


def _exact(key: jax.Array, inputs: jax.Array, dim: int) -> jax.Array:
    """Draw X A^T for a Gaussian A without building it, f32[T, dim]."""
    length, size = inputs.shape
    # In full precision: what some accelerators take for f32 leaves negative eigenvalues.
    gram = jnp.matmul(inputs, inputs.T, precision="highest") / size
    # Relative to the scale of the inputs, so that it neither drowns nor vanishes.
    jitter = JITTER * jnp.maximum(jnp.mean(jnp.diagonal(gram)), 1e-30)
    root = jnp.linalg.cholesky(gram + jitter * jnp.eye(length))
    return root @ jax.random.normal(key, (length, dim))
