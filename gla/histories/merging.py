"""Several stores of histories as one: their runs, one store after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gla.errors import GlaError
from gla.histories.places import Place
from gla.histories.recording import Part, record
from gla.histories.schema import STREAM_ARRAYS, UPDATE_ARRAYS, HistoryMeta, array_shapes, identity
from gla.histories.store import HistoryStore

# What must agree. Seeds, methods, hyperparameters' values and blocks may differ.
_ALIKE = (
    "environment",
    "split",
    "observation_size",
    "action_size",
    "discrete",
    "horizon",
    "streams_per_run",
    "updates",
    "steps",
    "parallel_envs",
    "arrays",
    "storage",
    "hyperparameters",
)


class MergeMaker:
    """Makes the runs of several stores again, in order, a part of a block at a time.

    Args:
        sources: open stores.

    Raises:
        GlaError: if a store is incomplete or given twice, or if two differ in size or environment;
            the first difference is named.
    """

    def __init__(self, sources: Sequence[HistoryStore]):
        if len(sources) < 2:
            raise GlaError(f"{len(sources)} stores to merge", "at least two")
        self._stores = list(sources)
        for store in self._stores:
            missing = store.missing_blocks()
            if missing:
                raise GlaError(
                    f"the histories in {store.place} are incomplete: {len(missing)} of "
                    f"{store.meta.blocks} blocks are missing",
                    mend="finish them first: run again what made them",
                )
        _check_alike(self._stores)
        metas = [store.meta for store in self._stores]
        first = metas[0]
        self._starts = np.cumsum([0, *(meta.runs for meta in metas)])
        self._meta = HistoryMeta(
            **{name: getattr(first, name) for name in _ALIKE},
            runs=int(self._starts[-1]),
            hidden=first.hidden,
            seed=first.seed,
            block=first.block,
            settings={"merged": [identity(meta) for meta in metas]},
            packages=_versions([meta.packages for meta in metas]),
            method="+".join(dict.fromkeys(meta.method for meta in metas)),
            chunk=first.chunk,
        )

    @property
    def meta(self) -> HistoryMeta:
        """What the store is to hold; its seed, block and chunk are those of the first source."""
        return self._meta

    def _read(self, name: str, runs: range, updates: range | None) -> np.ndarray:
        """Read rows of an array, runs counted over all stores."""
        parts = []
        for store, begin in zip(self._stores, self._starts[:-1], strict=True):
            low = max(runs.start - int(begin), 0)
            high = min(runs.stop - int(begin), store.meta.runs)
            if low < high:
                parts.append(store.read(name, range(low, high), updates))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def parts(
        self, runs: range, first: int = 0, state: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[Part]:
        """Make a block of runs; see `gla.histories.HistoryMaker`."""
        for number in range(first, self._meta.parts):
            updates = self._meta.updates_of(number)
            arrays = {}
            for name in array_shapes(self._meta):
                if name in STREAM_ARRAYS or name in UPDATE_ARRAYS:
                    arrays[name] = self._read(name, runs, updates)
                elif number == 0:
                    arrays[name] = self._read(name, runs, None)
            # Any part can be made by itself; the state only says that it can.
            yield Part(arrays, {"part": np.array(number)})


def _check_alike(stores: Sequence[HistoryStore]) -> None:
    first = stores[0]
    names = [*_ALIKE, *(("hidden",) if "policy" in first.meta.arrays else ())]
    for other in stores[1:]:
        for name in names:
            ours, theirs = getattr(first.meta, name), getattr(other.meta, name)
            if name == "arrays":
                ours, theirs = sorted(ours), sorted(theirs)
            if ours != theirs:
                raise GlaError(
                    f"the histories in {other.place} do not go with those in {first.place}: "
                    f"{name} {theirs!r} instead of {ours!r}",
                    "stores of equal sizes and one environment",
                    "train on both: meta-train takes several stores",
                )
    seen: dict[str, HistoryStore] = {}
    for store in stores:
        known = seen.setdefault(repr(sorted(identity(store.meta).items())), store)
        if known is not store:
            raise GlaError(
                f"the histories in {store.place} are those in {known.place} once more",
                "different histories",
                "collect with another --seed",
            )


def _versions(packages: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return each package's version, or all of them where they differ."""
    names = dict.fromkeys(name for one in packages for name in one)
    return {
        name: ", ".join(dict.fromkeys(one[name] for one in packages if name in one))
        for name in names
    }


def _resolved(location: str | os.PathLike[str]) -> str:
    place = Place(location)
    return place.name if place.local is None else os.path.realpath(place.local)


def merge(
    sources: Sequence[str | os.PathLike[str]],
    destination: str | os.PathLike[str],
    fresh: bool = False,
    progress: bool = True,
) -> HistoryStore:
    """Copy the runs of several complete stores into a new one; go on where it stopped.

    Args:
        sources: folders of the stores, or URLs, in order.
        destination: folder of the new store, or a URL.
        fresh: delete a store that is there first.
        progress: show a progress bar on standard error.

    Raises:
        GlaError: as `MergeMaker` and `record`; a destination that is one of the sources; a damaged
            source.
    """
    where = _resolved(destination)
    for source in sources:
        if _resolved(source) == where:
            raise GlaError(f"{source} is merged and written to at once", "a destination of its own")
    return record(
        MergeMaker([HistoryStore.open(one) for one in sources]), destination, fresh, progress
    )
