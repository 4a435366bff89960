"""Task seeds that can never be shared between training and testing."""

from __future__ import annotations

from typing import Literal, get_args

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
