"""How many different tasks a family has, and families cut down to a chosen number of them."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Environment, Params
from gla.envs.checks import check_count, check_task_seed
from gla.envs.splits import task_key
from gla.envs.wrappers import Wrapper
from gla.errors import GlaError

CHUNK = 256  # tasks drawn at a time


def count_distinct_tasks(env: Environment, keys: jax.Array) -> int:
    """Return how many different tasks a batch of keys draws.

    Two tasks are the same if every array of their params agrees bit for bit.

    Args:
        env: the family.
        keys: key[n], n >= 1 random keys, as of `jax.random.split`.

    Raises:
        GlaError: if `keys` is not a batch of random keys.
    """
    if not isinstance(keys, jax.Array) or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise GlaError(f"keys is {type(keys).__name__}", "a batch of keys, as of jax.random.split")
    if keys.ndim != 1 or len(keys) < 1:
        raise GlaError(f"keys has shape {keys.shape}", "one axis of at least one key")
    sample = jax.jit(jax.vmap(env.sample_params))
    seen: set[bytes] = set()
    for start in range(0, len(keys), CHUNK):
        chunk = keys[start : start + CHUNK]
        filled = jnp.concatenate([chunk, jnp.repeat(chunk[-1:], CHUNK - len(chunk), 0)])
        # The last chunk is filled up, for one compilation; a repeated key repeats its task.
        seen.update(_fingerprints(sample(filled)))
    return len(seen)


def _fingerprints(params: Params) -> list[bytes]:
    """Return the bytes of each task of a batch of params with leading axis m."""

    def rows(leaf: Any) -> np.ndarray:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(np.asarray(leaf))
        return array.reshape(len(array), -1).view(np.uint8)

    leaves = [rows(leaf) for leaf in jax.tree.leaves(params) if leaf.size]
    if not leaves:
        return [b""]
    return [row.tobytes() for row in np.concatenate(leaves, 1)]


class FiniteTasks(Wrapper):
    """A family cut down to exactly `count` different tasks, each equally likely.

    For questions such as how many tasks it takes before an agent learns in context rather than by
    heart. The tasks are those of the keys `task_key("train", seed, index)` of the wrapped family
    with the smallest indices that are all different, so a larger count of the same seed contains
    the tasks of a smaller one, and the wrapped family's own test tasks are drawn from other keys.

    `sample_params` chooses among them by its key, whatever the split of that key: train on the
    wrapper and test on the bare family. Wrap it around the wrappers that draw something per task
    (projections, statistics), so that these draws count as part of a task.

    Args:
        env: the family.
        count: number of different tasks.
        seed: seed of the set of tasks, at least 0.

    Raises:
        GlaError: if the count or the seed is no such number, or the family has fewer tasks.
    """

    def __init__(self, env: Environment, count: int, seed: int = 0):
        super().__init__(env)
        self.count = check_count("count", count)
        self.seed = check_task_seed(seed)
        if self.count > env.distinct_tasks:
            raise GlaError(
                f"{env.name} has {env.distinct_tasks:.0f} different tasks and count is {count}",
                "at most as many",
            )
        # A tuple of numbers, or None for the first `count`: an environment holds no array.
        self._indices = None if env.distinct_tasks == math.inf else self._search()
        self.distinct_tasks = self.count

    def task(self, number: int | jax.Array) -> Params:
        """Return the params of one of the tasks; `number` in 0..count-1, i32[] or traced."""
        index = number if self._indices is None else jnp.asarray(self._indices)[number]
        return self.env.sample_params(task_key("train", self.seed, index))

    def sample_params(self, key: jax.Array) -> Params:
        """Draw one of the tasks, all equally likely."""
        return self.task(jax.random.randint(key, (), 0, self.count))

    def _search(self) -> tuple[int, ...]:
        """Return the smallest indices whose tasks are all different."""
        draw = jax.jit(
            jax.vmap(lambda index: self.env.sample_params(task_key("train", self.seed, index)))
        )
        found: dict[bytes, int] = {}
        # Finding `count` of n equally likely tasks takes n/n + n/(n-1) + ... + n/(n-count+1) draws
        # in the mean; eight times that fails only where tasks are far from equally likely.
        n = self.env.distinct_tasks
        draws = n * math.log1p(self.count / (n - self.count + 0.5))
        for start in range(0, 8 * int(draws) + CHUNK, CHUNK):
            marks = _fingerprints(draw(jnp.arange(start, start + CHUNK)))
            for index, mark in enumerate(marks, start):
                found.setdefault(mark, index)
            if len(found) >= self.count:
                return tuple(found.values())[: self.count]
        raise GlaError(
            f"only {len(found)} different tasks of {self.env.name} were found",
            f"{self.count}",
            "ask for fewer",
        )
