"""Histories that need not fit into memory: pools of runs, one in use and the next being read.

A pool is some whole runs of a store, on the device, of which sequences are sampled for a number of
steps. Which runs it holds follows from the seed and the pool's number alone, so training that goes
on after an interrupt meets the same pools. The runs of a store are shuffled anew for each pass over
it, and each pass meets each run once. (A pool that holds the end of one pass and the beginning of
the next may hold a run twice.)
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from gla.errors import GlaError
from gla.histories import HistoryStore
from gla.sampling import Histories, complete_runs, from_store


@dataclass(frozen=True)
class LoadingConfig:
    """How much of each store is in memory.

    Attributes:
        resident: runs of a store in a pool; memory holds two pools of each store, the second one
            being read. 0, or at least as many as there are: the whole store, read once.
        refresh: optimiser steps for which a pool is used.
    """

    resident: int = 0
    refresh: int = 100

    def __post_init__(self):
        if self.resident < 0:
            raise GlaError(f"loading resident is {self.resident}", "a number of runs, or 0 for all")
        if self.refresh < 1:
            raise GlaError(f"loading refresh is {self.refresh}", "at least 1 step")


class Loader:
    """Pools of one store, the next one read in a thread of its own.

    A context manager, or to be closed with `close`.

    Args:
        store: an open store.
        loading: sizes.
        seed: of the order of runs; several stores get different ones.
        place: what is done with a pool in the thread, such as laying it out over devices.
        logarithmic: as in `gla.sampling.from_store`.

    Attributes:
        whole: whether the whole store is one pool, which never changes.
        scores: f32[streams], of the whole store; in a pool, streams are drawn by their own.

    Raises:
        GlaError: if the store is damaged or holds no complete block.
    """

    def __init__(
        self,
        store: HistoryStore,
        loading: LoadingConfig,
        seed: int | tuple[int, ...],
        place: Callable[[Histories], Histories] | None = None,
        logarithmic: bool = False,
    ):
        self._store, self._seed, self._place = store, np.atleast_1d(seed).tolist(), place
        self._logarithmic = logarithmic
        self._complete = complete_runs(store)
        # Read once: they lie in one small file per block.
        self.scores = store.scores().score
        self.whole = not 0 < loading.resident < len(self._complete)
        self._resident = len(self._complete) if self.whole else loading.resident
        self._kept: Histories | None = None
        self._next: tuple[int, Future[Histories]] | None = None
        self._thread: ThreadPoolExecutor | None = None
        if not self.whole:
            self._thread = ThreadPoolExecutor(1, "gla-loading")

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def runs(self, index: int) -> list[int]:
        """Return the numbers of the runs of a pool, in the order in which it holds them."""
        if self.whole:
            return list(self._complete)
        count, first = len(self._complete), index * self._resident
        passes: dict[int, np.ndarray] = {}
        chosen = []
        for position in range(first, first + self._resident):
            turn, place = divmod(position, count)
            if turn not in passes:
                passes[turn] = np.random.default_rng([*self._seed, turn]).permutation(count)
            chosen.append(self._complete[passes[turn][place]])
        return sorted(chosen)  # neighbours are read as one

    def pool(self, index: int) -> Histories:
        """Return a pool and begin to read the one after it.

        All pools of a store have the same shapes. What the caller keeps of earlier pools comes on
        top of the two that are in memory, so it should keep none.

        Args:
            index: number of the pool, >= 0; step number // refresh.

        Raises:
            GlaError: if a run cannot be read, in this thread or in the one that read ahead.
        """
        if self._thread is None:
            if not self.whole:
                raise GlaError("a pool is asked of a loader that was closed")
            if self._kept is None:
                self._kept = self._read(index)
            return self._kept
        ahead, self._next = self._next, None
        if ahead is not None and ahead[0] == index:
            pool = ahead[1].result()
        else:
            if ahead is not None and not ahead[1].cancel():
                ahead[1].exception()  # wait: two are never read at once
            # What was read in vain is freed before more is read.
            ahead = None
            pool = self._read(index)
        del ahead
        self._next = index + 1, self._thread.submit(self._read, index + 1)
        return pool

    def close(self) -> None:
        """Forget what was read ahead, after the reading that is under way; may be called twice."""
        ahead, self._next, self._kept = self._next, None, None
        if ahead is not None:
            ahead[1].cancel()
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None

    def _read(self, index: int) -> Histories:
        runs = None if self.whole else self.runs(index)
        pool = from_store(self._store, runs, self.scores, self._logarithmic)
        return pool if self._place is None else self._place(pool)
