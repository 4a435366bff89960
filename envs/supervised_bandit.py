"""A labelled data set as a family of contextual bandits."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla import datasets
from gla.envs.base import Environment, Timestep, timestep
from gla.envs.checks import check_count
from gla.errors import GlaError
from gla.projection import Kind, sample_map

_MAPPED_TOGETHER = 128  # examples projected at once: bounds the memory of drawing many tasks


@dataclass(frozen=True)
class SupervisedBanditConfig:
    """Which examples, and how tasks are made of them.

    Attributes:
        dataset: what `gla.datasets.load` takes: `digits`, `mnist`, `openml:NAME`, a path.
        part: which examples are shown, of the `train` or the `test` part of the data set. This is
            apart from the split of tasks, which decides projections and permutations.
        folder: where bare names are looked for (default: the environment variable `GLA_DATA`).
        resize: bring images to this height and width first; 8 is enough for MNIST-like data and
            makes drawing tasks about ten times cheaper.
        normalize: how inputs are scaled before they are projected, see `gla.datasets.load`.
        observation_dim: M, length of the projected inputs.
        projection: distribution of the map A, f32[M, D]. `gaussian`: entries N(0, 1/D), as in
            GPICL (section 3.1); `orthogonal`: orthonormal rows (or columns, if M > D) at the same
            scale; `slots`: every input in a place of its own, with a random sign (M of them, if
            M < D); `identity`: none, zeros added up to M.
        permute_labels: whether every task has its own random order of the classes.
        fewest_classes: if given, each task merges the classes into c groups (their number modulo
            c), c uniform from this to the number of classes: a mixture of easy and hard tasks.
        pool: largest number of different examples of one task, or None for the whole part. The
            params of one task take 4 pool (M + 2) bytes: 264 kB by default.
        horizon: examples in an episode.

    Raises:
        GlaError: if a value is out of its range.
    """

    dataset: str = "digits"
    part: datasets.Part = "train"
    folder: str | None = None
    resize: int | None = None
    normalize: datasets.Normalize = "standard"
    observation_dim: int = 64
    projection: Kind = "gaussian"
    permute_labels: bool = True
    fewest_classes: int | None = None
    pool: int | None = 1000
    horizon: int = 100

    def __post_init__(self):
        check_count("observation_dim", self.observation_dim)
        check_count("horizon", self.horizon)
        if self.pool is not None:
            check_count("pool", self.pool)
        if self.projection not in get_args(Kind):
            raise GlaError(f"projection is {self.projection!r}", " or ".join(get_args(Kind)))


class SupervisedParams(NamedTuple):
    """One task, a pool of P examples.

    Attributes:
        inputs: f32[P, M], projected.
        labels: i32[P], the action that is right for each.
        examples: i32[P], the number of each within its part of the data set.
    """

    inputs: jax.Array
    labels: jax.Array
    examples: jax.Array


class SupervisedState(NamedTuple):
    """State of one episode.

    Attributes:
        position: i32[], the place in the pool of the example that is shown.
        answer: i32[], the last action, -1 before the first; kept to be drawn.
        reward: f32[], what it paid.
    """

    position: jax.Array
    answer: jax.Array
    reward: jax.Array


@functools.lru_cache(maxsize=4)
def _load(
    dataset: str,
    part: datasets.Part,
    folder: str | None,
    resize: int | None,
    normalize: datasets.Normalize,
) -> datasets.Dataset:
    """Load a data set once per process, however many environments show it."""
    return datasets.load(dataset, part, folder=folder, resize=resize, normalize=normalize)


class SupervisedBandit(Environment):
    """Name the class of each example, told only whether the answer was right.

    A task is a data set seen through a random projection A and a random permutation of its classes,
    after "General-Purpose In-Context Learning by Meta-Learning Transformers" (Kirsch et al. 2022,
    section 3.1: A_ij ~ N(0, 1/N_x)). The observation is A x, f32[M], of an example x drawn
    uniformly from the pool of the task; the action is a class; the reward is 1 for the right one
    and 0 for any other. A uniform agent earns `horizon` / classes an episode, the oracle `horizon`.
    Unlike in supervised learning, the right class of a wrong answer stays unknown.

    Task keys vary the projection, the permutation and the pool, never the data set: tasks of the
    splits `train` and `test` show the same images unless `part` says otherwise. To test on examples
    that meta-training has not seen, train with `part="train"` and test with `part="test"`.

    The data set itself is neither on the object nor in `params`: `sample_params` projects a pool of
    examples, so that `reset` and `step` only look rows up, and thousands of tasks can be vmapped.
    The pool is stratified: P examples, one from each of P equal stretches of the part, so none is
    there twice. A program that calls `sample_params` holds the stored inputs as a constant: 47 MB
    (bytes) for MNIST, 15 MB with `resize=8`, 86 kB for digits.

    Args:
        config: data set and difficulty.
        **settings: fields of `SupervisedBanditConfig` that replace those of `config`, so that
            `gymnasium.make("gla:gla/SupervisedBandit-v0", dataset="mnist")` works.

    Raises:
        GlaError: if the data set cannot be loaded or a setting does not fit it.
    """

    name = "SupervisedBandit"
    has_oracle = True

    def __init__(self, config: SupervisedBanditConfig | None = None, **settings: Any):
        self.config = c = dataclasses.replace(config or SupervisedBanditConfig(), **settings)
        # The folder is settled now: a task must not change with the process environment.
        folder = datasets.data_folder(c.folder)
        self._source = (os.fspath(c.dataset), c.part, folder and str(folder), c.resize, c.normalize)
        data = self.data
        if c.projection == "identity" and data.size > c.observation_dim:
            raise GlaError(
                f"observation_dim is {c.observation_dim} for inputs of {data.size} numbers",
                f"at least {data.size} without a projection",
            )
        least = c.fewest_classes
        if least is not None and not 2 <= check_count("fewest_classes", least) <= data.classes:
            raise GlaError(f"fewest_classes is {least}", f"a number from 2 to {data.classes}")
        self.horizon = c.horizon
        self.pool = min(c.pool or len(data), len(data))
        self.can_render = data.image_shape is not None
        self.distinct_tasks = self._distinct()
        self.observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, (c.observation_dim,), np.float32
        )
        self.action_space = gymnasium.spaces.Discrete(data.classes)

    @property
    def data(self) -> datasets.Dataset:
        """The part of the data set that is shown; shared by all environments that show it."""
        return _load(*self._source)

    def _distinct(self) -> float:
        """Count the tasks; random maps and pools are as good as endless."""
        c, data = self.config, self.data
        if c.projection != "identity" or self.pool < len(data):
            return math.inf
        groups = range(c.fewest_classes or data.classes, data.classes + 1)
        return sum(math.perm(data.classes, n) if c.permute_labels else 1 for n in groups)

    def sample_params(self, key: jax.Array) -> SupervisedParams:
        """Draw a projection, a permutation of the classes and a pool of examples."""
        c, data = self.config, self.data
        pool_key, projection_key, label_key, merge_key = jax.random.split(key, 4)
        edges = np.arange(self.pool + 1) * len(data) // self.pool
        examples = jax.random.randint(pool_key, (self.pool,), edges[:-1], edges[1:])
        labels = jnp.asarray(data.labels)[examples]
        if c.fewest_classes is not None:
            labels %= jax.random.randint(merge_key, (), c.fewest_classes, data.classes + 1)
        if c.permute_labels:
            labels = jax.random.permutation(label_key, data.classes)[labels]
        values = jnp.asarray(data.values)
        project = self._projection(projection_key, data.size)
        inputs = jax.lax.map(
            lambda example: project(data.scaled(values[example])),
            examples,
            batch_size=_MAPPED_TOGETHER,
        )
        return SupervisedParams(inputs, labels.astype(jnp.int32), examples)

    def _projection(self, key: jax.Array, size: int) -> Any:
        """Draw the map from inputs f32[size] to observations f32[M]."""
        dim, kind = self.config.observation_dim, self.config.projection
        matrix = sample_map(key, kind, dim, size)
        return lambda x: matrix @ x

    def reset(self, key: jax.Array, params: SupervisedParams) -> tuple[SupervisedState, jax.Array]:
        """Start an episode with a first example."""
        position = self._draw(key)
        answer, reward = jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.float32)
        return SupervisedState(position, answer, reward), params.inputs[position]

    def _draw(self, key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, self.pool)

    def step(
        self, key: jax.Array, state: SupervisedState, action: jax.Array, params: SupervisedParams
    ) -> tuple[SupervisedState, Timestep]:
        """Answer the class `action`, i32[], and see the next example; episodes never terminate."""
        reward = (action == params.labels[state.position]).astype(jnp.float32)
        position = self._draw(key)
        false = jnp.zeros((), bool)
        return (
            SupervisedState(position, jnp.asarray(action, jnp.int32), reward),
            timestep(params.inputs[position], reward, false, false),
        )

    def solve(self, params: SupervisedParams) -> jax.Array:
        """Return the right action of every example in the pool, i32[P]."""
        return params.labels

    def best_action(
        self, solution: jax.Array, state: SupervisedState, params: SupervisedParams
    ) -> jax.Array:
        """Return the right class of the example that is shown, i32[]."""
        del params
        return solution[state.position]

    def render(self, state: SupervisedState, params: SupervisedParams) -> np.ndarray:
        """Draw the example before its projection, its right action and the last answer.

        Returns:
            uint8[256, 256, 3].

        Raises:
            GlaError: if the data set does not hold images.
        """
        if not self.can_render:
            return super().render(state, params)
        from gla.envs import drawing

        canvas = drawing.Canvas(0.0, 1.0)
        position = int(state.position)
        canvas.text((0.5, 0.12), f"right: {int(params.labels[position])}", drawing.GOAL)
        if int(state.answer) >= 0:
            paid = float(state.reward) > 0
            canvas.text(
                (0.5, 0.04),
                f"last answer: {int(state.answer)}, {'right' if paid else 'wrong'}",
                drawing.GOAL if paid else drawing.HAZARD,
            )
        picture = canvas.array()
        image = self.data.image(int(params.examples[position]))
        image = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, 2)
        side = round(0.8 * len(picture))
        high, wide = (max(round(side * n / max(image.shape[:2])), 1) for n in image.shape[:2])
        rows, columns = (
            np.arange(high) * len(image) // high,
            np.arange(wide) * image.shape[1] // wide,
        )
        top, left = (side - high) // 2 + 4, (len(picture) - wide) // 2
        picture[top : top + high, left : left + wide] = image[rows][:, columns]
        return picture
