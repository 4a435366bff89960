"""Histories made of files of transitions that others collected, or that we exported.

Steps are taken in the order of the files and cut into runs of one stream each. Such histories
have no policies and no distributions; what the sampler takes for targets then is said in
`gla.sampling.from_store`. An npz export of a store comes back as that very store.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gla.errors import GlaError
from gla.histories.recording import HistoryMaker, Part, record
from gla.histories.schema import (
    STREAM_ARRAYS,
    UPDATE_ARRAYS,
    HistoryMeta,
    Storage,
    array_shapes,
)
from gla.histories.scores import episode_return
from gla.histories.sources import Source, Transitions, is_export, open_npz, open_source
from gla.histories.store import HistoryStore
from gla.packages import package_versions

STEPS = 200  # per update, unless something else is asked for
_AT_ONCE = 2**16  # steps that are looked at at once
_PER_PART = 2**18  # steps that are kept in memory to be written
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ImportConfig:
    """How steps are cut into histories. What is 0 follows from the files.

    Of our own exports the numbers that are 0, and the environment, are those of the exported store.

    Attributes:
        environment: id or any other name of the environment that the steps come from.
        runs: histories of equal length, each one stream, cut one after the other; with `updates`
            as many as there are steps for, else 1.
        updates: updates of a run, that is, stretches between which the gaps of training sequences
            lie; as many as there are steps for.
        steps: steps of an update; 200.
        actions: number of discrete actions; one more than the largest that occurs.
        horizon: steps after which episodes are truncated; those of the longest episode that ends.
        window: steps at the beginning of a run that give the normalisation of its observations and
            rewards.
        split: task split that they are labelled with: `train` by default, `validation` or `test`.
        storage: type of observations and actions on disk: float32, float16 or bfloat16.
    """

    environment: str = ""
    runs: int = 0
    updates: int = 0
    steps: int = 0
    actions: int = 0
    horizon: int = 0
    window: int = 200
    split: str = ""
    storage: Storage = "float32"

    def __post_init__(self):
        for name in ("runs", "updates", "steps", "actions", "horizon"):
            if getattr(self, name) < 0:
                raise GlaError(f"import {name} is {getattr(self, name)}", "a whole number, or 0")
        if self.window < 2:
            raise GlaError(f"import window is {self.window}", "at least 2 steps")
        if self.split not in ("", *_SPLITS):
            raise GlaError(f"import split is {self.split!r}", f"one of {', '.join(_SPLITS)}")


class ImportMaker:
    """Makes histories of files of transitions.

    All files are read through once, in slices, before anything is written: so numbers that are not
    finite, or files that do not go together, leave no half store behind. The last step of a file
    ends its episode.

    Args:
        sources: files or data sets (`gla.histories.sources.open_source`), in order.
        config: how to cut.

    Attributes:
        left_over: steps at the end that fill no update.

    Raises:
        GlaError: a file that cannot be read or lacks arrays, files of different sizes, numbers that
            are not finite, too few steps, no environment.
    """

    def __init__(self, sources: Sequence[str | os.PathLike[str]], config: ImportConfig):
        if not sources:
            raise GlaError("no file to import was named", "at least one")
        self.config = config
        self._sources: list[Source] = [open_source(path) for path in sources]
        self._check_alike()
        self._starts = np.cumsum([0, *(one.steps for one in self._sources)])
        total = int(self._starts[-1])
        first = self._sources[0]
        metas = [one.meta for one in self._sources]
        ours = metas[0] if None not in metas else None
        environment = config.environment or (ours.environment if ours else "")
        if not environment:
            raise GlaError(
                f"nothing says which environment {first.name} comes from", mend="--environment ID"
            )
        if config.actions and not first.discrete:
            raise GlaError(
                f"import actions is {config.actions}, but those of {first.name} are real numbers",
                "actions only with discrete ones",
            )
        steps = config.steps or (ours.steps if ours else STEPS)
        runs, updates = _cut(total, steps, config, [m for m in metas if m] if ours else [])
        self.left_over = total - runs * updates * steps
        found = _look_through(self._sources)
        actions = first.action_size
        if first.discrete:
            actions = config.actions or (ours.action_size if ours else found.largest_action + 1)
            if found.largest_action >= actions:
                raise GlaError(
                    f"a discrete action is {found.largest_action}",
                    f"below the number of actions, {actions}",
                )
        per_run = updates * steps
        chunk = max(1, _PER_PART // steps)
        self._meta = HistoryMeta(
            environment=environment,
            observation_size=first.observation_size,
            action_size=actions,
            discrete=first.discrete,
            horizon=config.horizon or (ours.horizon if ours else found.longest_episode or steps),
            runs=runs,
            streams_per_run=1,
            updates=updates,
            steps=steps,
            parallel_envs=1,
            hidden=0,
            split=config.split or (ours.split if ours else "train"),
            seed=0,
            block=min(max(1, _PER_PART // per_run), runs),
            settings={
                "window": config.window,
                "sources": [
                    {"name": one.name, "steps": one.steps, "crc32": crc}
                    for one, crc in zip(self._sources, found.checksums, strict=True)
                ],
                "left_over": self.left_over,
            },
            packages=package_versions(),
            method="import",
            chunk=chunk if chunk < updates else 0,
            arrays=(),
            storage=config.storage,
        )

    @property
    def meta(self) -> HistoryMeta:
        """What the store is to hold."""
        return self._meta

    def _check_alike(self) -> None:
        first = self._sources[0]
        for other in self._sources[1:]:
            for name, what in (
                ("observation_size", "observation numbers"),
                ("discrete", "discrete actions"),
                ("action_size", "action numbers"),
            ):
                ours, theirs = getattr(first, name), getattr(other, name)
                if ours != theirs:
                    raise GlaError(
                        f"{other.name} does not go with {first.name}: {what} {theirs} instead of "
                        f"{ours}",
                        "files of one environment",
                    )

    def _read(self, start: int, stop: int) -> Transitions:
        """Read steps, counted over all files."""
        parts = []
        for source, begin in zip(self._sources, self._starts[:-1], strict=True):
            low, high = max(start - begin, 0), min(stop - begin, source.steps)
            if low < high:
                part = source.read(int(low), int(high))
                if high == source.steps:
                    part.truncated[-1] |= not part.terminated[-1]
                parts.append(part)
        return Transitions(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def parts(
        self, runs: range, first: int = 0, state: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[Part]:
        """Make a block of runs; see `gla.histories.HistoryMaker`."""
        meta = self._meta
        per_run = meta.updates * meta.steps
        for number in range(first, meta.parts):
            updates = meta.updates_of(number)
            shape = (len(runs), len(updates), meta.steps)
            pieces = [
                self._read(
                    run * per_run + updates.start * meta.steps,
                    run * per_run + updates.stop * meta.steps,
                )
                for run in runs
            ]
            joined = (np.concatenate(column) for column in zip(*pieces, strict=True))
            arrays = {
                name: column.reshape(*shape, *column.shape[1:])
                for name, column in zip(Transitions._fields, joined, strict=True)
            }
            arrays["mean_return"] = episode_return(
                arrays["reward"], arrays["terminated"], meta.horizon, 2
            )
            if number == 0:
                arrays |= self._statistics(runs)
            # Any part can be made by itself; the state only says that it can.
            yield Part(arrays, {"part": np.array(number)})

    def _statistics(self, runs: range) -> dict[str, np.ndarray]:
        from gla.normalization import statistics_of

        per_run = self._meta.updates * self._meta.steps
        found = []
        for run in runs:
            start = run * per_run
            seen = self._read(start, start + min(self.config.window, per_run))
            found.append(statistics_of(seen.observation, seen.reward)._asdict())
        return {name: np.stack([np.asarray(one[name]) for one in found]) for name in found[0]}


@dataclass(frozen=True)
class _Found:
    """What all steps show: episodes and checksums."""

    longest_episode: int  # of those that end, or 0
    largest_action: int  # if discrete
    checksums: list[int]  # of each source


def _look_through(sources: Iterable[Source]) -> _Found:
    """Read everything once.

    Raises:
        GlaError: for the first number that is not finite.
    """
    longest = largest = 0
    checksums = []
    for source in sources:
        last, checksum = -1, 0  # the step that ended the episode before
        for start in range(0, source.steps, _AT_ONCE):
            part = source.read(start, min(start + _AT_ONCE, source.steps))
            for column in part:
                checksum = zlib.crc32(column.data if column.size else b"", checksum)
            ends = np.flatnonzero(part.terminated | part.truncated) + start
            if len(ends):
                longest = max(longest, int(np.diff(ends, prepend=last).max()))
                last = int(ends[-1])
            if source.discrete:
                largest = max(largest, int(part.action.max()))
        checksums.append(checksum)
    return _Found(longest, largest, checksums)


def _cut(
    total: int, steps: int, config: ImportConfig, metas: Sequence[HistoryMeta]
) -> tuple[int, int]:
    """Return the numbers of runs and of updates.

    Raises:
        GlaError: if there are too few steps.
    """
    runs, updates = config.runs, config.updates
    if metas and not (runs or updates or config.steps):
        updates = metas[0].updates  # streams come back as they were
    if updates and not runs:
        runs = total // (updates * steps)
    runs = max(runs, 1)
    updates = updates or total // (runs * steps)
    if not updates or runs * updates * steps > total:
        wanted = f"{runs} x {max(updates, 1)} x {steps}"
        raise GlaError(
            f"there are {total} steps in all",
            f"at least {runs * max(updates, 1) * steps} for {wanted} (runs x updates x steps)",
            "lower steps, updates or runs",
        )
    return runs, updates


class RestoreMaker:
    """Makes a store again from its npz export, to the bit.

    Args:
        file: written by `gla.histories.exporting`.
        environment: id to give it in place of its own.

    Raises:
        GlaError: if it cannot be read, is no such export, or lacks arrays.
    """

    def __init__(self, file: str | os.PathLike[str], environment: str = ""):
        self.left_over = 0
        self._columns, meta = open_npz(Path(file))
        if meta is None:
            raise GlaError(f"{file} is no export of a history store", "one with its description")
        for name, (shape, _) in array_shapes(meta).items():
            found = tuple(self._columns[name].shape) if name in self._columns else None
            if found != shape:
                raise GlaError(
                    f"array {name!r} of {file} "
                    + ("is missing" if found is None else f"has shape {list(found)}"),
                    f"shape {list(shape)}",
                )
        environment = environment or meta.environment
        self._meta = dataclasses.replace(meta, environment=environment)

    @property
    def meta(self) -> HistoryMeta:
        """What the store is to hold."""
        return self._meta

    def parts(
        self, runs: range, first: int = 0, state: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[Part]:
        """Make a block of runs; see `gla.histories.HistoryMaker`."""
        meta = self._meta
        for number in range(first, meta.parts):
            updates = meta.updates_of(number)
            arrays: dict[str, Any] = {}
            for name in array_shapes(meta):
                per_run = meta.streams_per_run if name in STREAM_ARRAYS else 1
                rows = slice(runs.start * per_run, runs.stop * per_run)
                if name in STREAM_ARRAYS or name in UPDATE_ARRAYS:
                    arrays[name] = self._columns[name][rows, updates.start : updates.stop]
                elif number == 0:
                    arrays[name] = self._columns[name][rows]
            yield Part(arrays, {"part": np.array(number)})


def make_importer(
    sources: Sequence[str | os.PathLike[str]], config: ImportConfig
) -> ImportMaker | RestoreMaker:
    """Return what makes histories of files.

    One npz export of a store, with nothing asked for but perhaps another environment id, comes back
    whole; all else is cut as `ImportConfig` says.

    Raises:
        GlaError: as `ImportMaker` and `RestoreMaker`.
    """
    plain = config == ImportConfig(environment=config.environment)
    if plain and len(sources) == 1 and is_export(Path(sources[0])):
        return RestoreMaker(sources[0], config.environment)
    return ImportMaker(sources, config)


def import_files(
    sources: Sequence[str | os.PathLike[str]],
    location: str | os.PathLike[str],
    config: ImportConfig | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> HistoryStore:
    """Make a history store of files of transitions; go on where it stopped.

    Args:
        sources: files or data sets in order: npz, HDF5 in D4RL's layout, Minari.
        location: folder of the store, or a URL that TensorStore knows.
        config: how to cut the steps.
        fresh: delete a store that is there first.
        progress: show a progress bar on standard error.

    Raises:
        GlaError: as `ImportMaker` and `record`.
    """
    maker: HistoryMaker = make_importer(sources, config or ImportConfig())
    return record(maker, location, fresh, progress)
