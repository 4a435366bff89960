"""What all makers of histories on functional environments share: blocks of runs, compiled once.

A run is begun and advanced by pure functions of its number. `BlockMaker` maps them over the runs of
a block (`gla.agents.backends`), cuts runs into parts, and gives their state to whoever records
them. PPO (`gla.agents.collect`) and `gla.agents.rollouts` build on it.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from gla.agents.backends import map_runs, padded
from gla.envs.splits import RunKeys, Split, run_keys, task_key
from gla.errors import GlaError
from gla.histories import STREAM_ARRAYS, HistoryMeta, Part
from gla.trees import from_arrays, to_arrays


class BlockMaker(abc.ABC):
    """Makes blocks of runs; a `gla.histories.HistoryMaker`.

    Args:
        meta: what the store is to hold.
    """

    # Whether the state of the last part is needed for `targets`.
    keeps_last_state = False

    def __init__(self, meta: HistoryMeta):
        self._meta = meta
        # Run once per block: it is not worth optimising.
        self._begin = jax.jit(
            lambda tasks, given: map_runs(self.begin_one, tasks, given), compiler_options=_quickly()
        )
        self._advance = jax.jit(self._advance_all, static_argnums=3, donate_argnums=2)
        self._programs: dict[int, Any] = {}  # by number of updates

    @property
    def meta(self) -> HistoryMeta:
        """What the store is to hold."""
        return self._meta

    def given(self, runs: range) -> Any:
        """Return what is read from disk for a block of runs: a tree of arrays [runs, ...]."""
        del runs
        return ()

    @abc.abstractmethod
    def begin_one(self, task: jax.Array, given: Any) -> tuple[Any, Any]:
        """Begin a run.

        Args:
            task: i32[], its number.
            given: its part of `given`.

        Returns:
            What stays the same throughout the run, and a state of strong types.
        """

    @abc.abstractmethod
    def advance_one(
        self, task: jax.Array, fixed: Any, state: Any, updates: int
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Go on with a run.

        Args:
            task: i32[], its number.
            fixed: from `begin_one`.
            state: from `begin_one` or the call before.
            updates: how many updates to make.

        Returns:
            The state, and arrays over streams [streams, updates, ...] and updates [updates, ...].
        """

    @abc.abstractmethod
    def once(self, fixed: Any) -> dict[str, jax.Array]:
        """Return the arrays [runs, ...] that do not belong to any update."""

    def keys(self, task: jax.Array) -> RunKeys:
        """Return the random keys of a run."""
        return run_keys(task_key(cast(Split, self._meta.split), self._meta.seed, task))

    def _advance_all(self, tasks: jax.Array, fixed: Any, state: Any, updates: int):
        return map_runs(
            lambda task, fixed, state: self.advance_one(task, fixed, state, updates),
            tasks, fixed, state,
        )  # fmt: skip

    def tasks(self, runs: range) -> jax.Array:
        """Return the numbers of a block's tasks, a short block filled up: one program serves all.

        The last run is made again in the empty places.
        """
        size = padded(min(self._meta.block, self._meta.runs))
        return jnp.asarray(np.minimum(np.arange(size) + runs.start, runs.stop - 1))

    def state_of(self, runs: range, state: Mapping[str, np.ndarray]) -> Any:
        """Return a saved state of a block as what `begin_one` gives, with leaves [runs, ...]."""
        tasks = self.tasks(runs)
        like = jax.eval_shape(self._begin, tasks, fill(self.given(runs), len(tasks)))
        return from_arrays(like[1], state)

    def parts(
        self, runs: range, first: int = 0, state: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[Part]:
        """Make a block of runs; see `gla.histories.HistoryMaker`."""
        tasks = self.tasks(runs)
        given = fill(self.given(runs), len(tasks))
        like = jax.eval_shape(self._begin, tasks, given)
        lengths = {len(self._meta.updates_of(part)) for part in range(first, self._meta.parts)}
        with ThreadPoolExecutor(1) as aside:
            # The large programs are compiled while the small one is.
            compiled = aside.submit(self.compile, tasks, like[0], like[1], lengths)
            fixed, going = self._begin(tasks, given)
            compiled.result()
        if state is not None:
            going = from_arrays(like[1], state)
        for part in range(first, self._meta.parts):
            updates = len(self._meta.updates_of(part))
            going, made = self.advance(tasks, fixed, going, updates)
            if part == 0:
                made |= self.once(fixed)
            arrays = {name: np.asarray(value)[: len(runs)] for name, value in made.items()}
            last = part == self._meta.parts - 1
            # The state is only read again after a kill, or for the targets.
            kept = to_arrays(going) if not last or self.keeps_last_state else {}
            yield Part(as_streams(arrays), kept)

    def compile(self, tasks: jax.Array, fixed: Any, state: Any, lengths: set[int]) -> None:
        """Compile what `advance` runs for parts of so many updates, where that is not done yet.

        Args:
            tasks: i32[runs].
            fixed: as from `begin_one`, leaves [runs, ...], or their shapes.
            state: likewise.
            lengths: numbers of updates.
        """
        for updates in lengths - self._programs.keys():
            lowered = self._advance.lower(tasks, fixed, state, updates)
            self._programs[updates] = lowered.compile()

    def advance(
        self, tasks: jax.Array, fixed: Any, state: Any, updates: int
    ) -> tuple[Any, dict[str, Any]]:
        """Go on with the runs of a block: `advance_one` for each, leaves [runs, ...]."""
        return self._programs[updates](tasks, fixed, state)


def check_seed(seed: int) -> None:
    """Raise a `GlaError` unless `seed` lies in 0..2^31-1."""
    if not 0 <= seed < 2**31:
        raise GlaError(f"seed is {seed}", "a whole number from 0 to 2^31 - 1")


def as_streams(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Merge the run and stream axes [runs, streams, ...] of arrays over streams."""
    return {
        name: value.reshape(-1, *value.shape[2:]) if name in STREAM_ARRAYS else value
        for name, value in arrays.items()
    }


def fill(tree: Any, size: int) -> Any:
    """Repeat the last row of every array of a tree until it has `size` rows."""
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], size - len(x), 0)]), tree)


def _quickly() -> dict[str, Any]:
    """Return options by which XLA compiles sooner what then runs slower."""
    if jax.default_backend() != "cpu":
        return {}
    return {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        **without_emitters(),
    }


def without_emitters() -> dict[str, Any]:
    """Return options that turn off XLA's fusion emitters, where this version has them to turn off.

    Simulators are large programs of small operations: without, they compile in half the time and
    step a fifth faster. Networks learn slower without.
    """
    if jax.default_backend() == "cpu" and version("jaxlib").startswith("0.10."):
        return {"xla_cpu_use_fusion_emitters": False}
    return {}
