"""Task seeds that can never be shared between training and testing."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax

from gla.errors import GlaError

Split = Literal["train", "validation", "test"]


def task_key(split: Split, seed: int, index: int | jax.Array = 0) -> jax.Array:
    """Return the key of task `index` of a split.

    The split is folded in before anything else, so equal seeds and indices of different splits
    give different keys.

    Args:
        split: `train`, `validation` or `test`.
        seed: seed of the set of tasks.
        index: number of the task; may be traced.
    """
    splits = get_args(Split)
    if split not in splits:
        raise GlaError(f"split is {split!r}", "train, validation or test")
    key = jax.random.fold_in(jax.random.key(seed), splits.index(split))
    return jax.random.fold_in(key, index)


class RunKeys(NamedTuple):
    """The random keys of one lifetime, each for one purpose, so that any of it can be replayed.

    Attributes:
        task: draws the task.
        window: draws the random-policy window that normalises it.
        agent: everything that the agent does.
        environment: resets and steps, see `step_key`.
    """

    task: jax.Array
    window: jax.Array
    agent: jax.Array
    environment: jax.Array


def run_keys(key: jax.Array) -> RunKeys:
    """Split the key of a task (`task_key`) by purpose."""
    return RunKeys(*jax.random.split(key, 4))


def step_key(environment_key: jax.Array, step: jax.Array | int, env: jax.Array | int) -> jax.Array:
    """Return the key of parallel environment `env` at a step of a lifetime; -1 is its reset."""
    return jax.random.fold_in(jax.random.fold_in(environment_key, step + 1), env)
