"""Task seeds that can never be shared between training and testing.

A task is drawn from a random key of two 32-bit words. The first word of the key tells its split:
the words are cut into ranges, one per split, that do not overlap, so that no training task can be
drawn from the key of a test task, whatever the seeds and numbers of tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from gla.errors import GlaError

Split = Literal["train", "validation", "test"]
WORDS = 2**32


@dataclass(frozen=True)
class KeyRange:
    """First words of the keys of one split: `start` <= word < `stop`.

    Attributes:
        start: whole number from 0 to 2^32.
        stop: likewise, above `start`. Sizes must be powers of two and ranges aligned to their
            size, so that a word is moved into its range by setting its leading bits.
    """

    start: int
    stop: int

    def __post_init__(self):
        size = self.stop - self.start
        if not 0 <= self.start < self.stop <= WORDS:
            raise GlaError(
                f"the key range is {self.start} to {self.stop}", "0 <= start < stop <= 2^32"
            )
        if size & (size - 1) or self.start % size:
            raise GlaError(
                f"the key range {self.start} to {self.stop} has {size} words",
                "a power of two, starting at a multiple of it",
            )

    def overlaps(self, other: KeyRange) -> bool:
        """Return whether a word lies in both ranges."""
        return self.start < other.stop and other.start < self.stop


@dataclass(frozen=True)
class Splits:
    """One range of keys per split.

    Attributes:
        train: keys of tasks for meta-training.
        validation: keys of tasks for choosing between agents.
        test: keys of tasks for meta-test, never trained on.

    Raises:
        GlaError: if two ranges overlap.
    """

    train: KeyRange = KeyRange(0, 2**31)
    validation: KeyRange = KeyRange(2**31, 3 * 2**30)
    test: KeyRange = KeyRange(3 * 2**30, 2**32)

    def __post_init__(self):
        names = get_args(Split)
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                if getattr(self, one).overlaps(getattr(self, other)):
                    raise GlaError(
                        f"the key ranges of {one} and {other} overlap",
                        "ranges that share no key",
                        "a task of one would be a task of the other",
                    )


SPLITS = Splits()


def task_key(
    split: Split, seed: int | jax.Array, index: int | jax.Array = 0, splits: Splits = SPLITS
) -> jax.Array:
    """Return the key of task `index` of a split.

    Its first word lies in the split's range, so keys of different splits differ whatever the seeds
    and indices. The generator is always threefry2x32: the same seed means the same task under any
    default of JAX.

    Args:
        split: `train`, `validation` or `test`.
        seed: seed of the set of tasks; may be traced.
        index: number of the task; may be traced.
        splits: the ranges.

    Raises:
        GlaError: if there is no such split.
    """
    names = get_args(Split)
    if split not in names:
        raise GlaError(f"split is {split!r}", "train, validation or test")
    bounds: KeyRange = getattr(splits, split)
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), names.index(split))
    words = jax.random.key_data(jax.random.fold_in(key, index))
    within = words[0] & jnp.uint32(bounds.stop - bounds.start - 1)
    return jax.random.wrap_key_data(
        jnp.stack([within | jnp.uint32(bounds.start), words[1]]), impl="threefry2x32"
    )


def split_of(key: jax.Array, splits: Splits = SPLITS) -> Split | None:
    """Return the split that a task key belongs to, or None for a key outside of all ranges."""
    word = int(jax.random.key_data(key)[0])
    for name in get_args(Split):
        bounds: KeyRange = getattr(splits, name)
        if bounds.start <= word < bounds.stop:
            return name
    return None


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
    """Split the key of a task (`task_key`) by purpose; `task` stays the key itself."""
    # Far from the small numbers with which `sample_params` splits the same key.
    others = jax.random.fold_in(key, WORDS - 1)
    return RunKeys(key, *jax.random.split(others, 3))


def step_key(environment_key: jax.Array, step: jax.Array | int, env: jax.Array | int) -> jax.Array:
    """Return the key of parallel environment `env` at a step of a lifetime; -1 is its reset."""
    return jax.random.fold_in(jax.random.fold_in(environment_key, step + 1), env)
