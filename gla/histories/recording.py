"""Recording histories: whoever makes them, one loop writes them down and goes on where it stopped.

A `HistoryMaker` makes blocks of runs; PPO (`gla.agents.collect`) is one, experts, Q-learning and
imported files are others, and yours may be. It knows nothing of disks. `record` asks it for what a
store lacks, part by part, checks and writes it while the next part is being made, and keeps the
maker's own state beside the store, so that a killed recording goes on from its last complete part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from gla.errors import GlaError
from gla.histories.schema import STREAM_ARRAYS, HistoryMeta
from gla.histories.store import HistoryStore
from gla.progress import Progress


class Part(NamedTuple):
    """One part of a block of runs: one chunk of updates of every stream.

    Attributes:
        arrays: those of `array_shapes` over streams or over runs and updates, restricted to the
            block and to the part's updates; those without an axis of updates belong to part 0.
        state: arrays from which `HistoryMaker.parts` can go on after this part, or {} if it cannot;
            the block is then begun again after a kill.
    """

    arrays: Mapping[str, np.ndarray]
    state: Mapping[str, np.ndarray]


@runtime_checkable
class HistoryMaker(Protocol):
    """Makes learning histories; the same block is the same to the bit whenever it is made."""

    @property
    def meta(self) -> HistoryMeta:
        """What the store is to hold."""
        ...

    def parts(
        self, runs: range, first: int = 0, state: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[Part]:
        """Make a block of runs.

        Args:
            runs: one block of `meta.block_runs`.
            first: the part to begin with.
            state: what the part before it gave as its state; None for part 0.

        Yields:
            Parts `first`, `first + 1`, ... to the last.
        """
        ...


@runtime_checkable
class TargetMaker(HistoryMaker, Protocol):
    """A maker that labels visited states with its best policy once a run is over.

    It is asked where `meta.arrays` names `target` and the parts did not hold it.
    """

    def targets(
        self, runs: range, state: Mapping[str, np.ndarray], observation: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """Label states with the distribution of the best policy.

        Args:
            runs: the block.
            state: of the last part.
            observation: f32[S, u, T, n], as stored, of the block's streams and some updates.

        Returns:
            `target` f32[S, u, T, k] and, for continuous actions, `target_log_std` f32[R, k].
        """
        ...


def record(
    maker: HistoryMaker,
    location: str | os.PathLike[str],
    fresh: bool = False,
    progress: bool = True,
) -> HistoryStore:
    """Record histories into the store at `location`; go on where it stopped.

    Args:
        maker: makes them.
        location: folder of the store, or a URL that TensorStore knows.
        fresh: delete a store that is there first.
        progress: show a progress bar on standard error.

    Raises:
        GlaError: a store with other settings or another writer, a value that is not finite (run,
            update and step are named), a place that cannot be written.
    """
    store = HistoryStore.create_or_resume(location, maker.meta, fresh)
    if store.settled():
        return store
    with store.writing():
        meta, missing = store.meta, store.missing_blocks()
        steps = meta.parallel_envs * meta.steps  # of a run, per update
        total = meta.runs * meta.updates * steps
        left = sum(len(meta.block_runs(block)) for block in missing)
        done = (meta.runs - left) * meta.updates * steps
        title = f"{meta.method} on {meta.environment}"
        with Progress(title, total, "steps", done, enabled=progress) as bar:
            for block in missing:
                record_block(store, maker, block, bar)
    return store


def record_block(
    store: HistoryStore, maker: HistoryMaker, block: int, bar: Progress | None = None
) -> None:
    """Record one block, going on after its last complete part.

    The caller holds the right to write (`HistoryStore.writing`), or was given this block by someone
    who does.

    Args:
        store: where to.
        maker: made the store's other blocks, or will.
        block: its number.
        bar: told of progress.

    Raises:
        GlaError: as `record`.
    """
    meta, runs = store.meta, store.meta.block_runs(block)
    found = store.load_progress(block)
    first = found[0] + 1 if found else 0
    state: Mapping[str, np.ndarray] = found[1] if found else {}
    steps = len(runs) * meta.parallel_envs * meta.steps
    if bar is not None and first:
        bar.advance(steps * meta.updates_of(first - 1).stop)
    labels = "target" in meta.arrays
    pending: list[Any] = []
    if first < meta.parts:
        number = first
        for part in maker.parts(runs, first, state if found else None):
            updates = meta.updates_of(number)
            check_finite(part.arrays, meta, runs.start, updates.start)
            labels = labels and "target" not in part.arrays
            store.wait(pending)  # a part is written while the next one is made
            if number > first and state:
                store.save_progress(block, number - 1, state)
            pending = store.write_part(block, number, part.arrays)
            state = part.state
            if bar is not None:
                returns = part.arrays["mean_return"]
                bar.advance(
                    steps * len(updates),
                    f"return {returns[:, 0].mean():.1f} to {returns[:, -1].mean():.1f}",
                )
            number += 1
        store.wait(pending)
        if number < meta.parts:
            raise GlaError(f"{meta.method} made {number} parts of a block", f"{meta.parts} parts")
        if labels and state and meta.parts > 1:
            store.save_progress(block, meta.parts - 1, state)
    if labels:
        _label(store, maker, block, state)
    store.finish_block(block)


def _label(
    store: HistoryStore, maker: HistoryMaker, block: int, state: Mapping[str, np.ndarray]
) -> None:
    """Write the targets of a block that is made."""
    if not isinstance(maker, TargetMaker):
        raise GlaError(
            f"{store.meta.method} gives no targets", "a maker with `targets`, or a store without"
        )
    runs = store.meta.block_runs(block)
    for part in range(store.meta.parts):
        labels = dict(maker.targets(runs, state, store.read_part("observation", block, part)))
        if part:
            labels.pop("target_log_std", None)
        check_finite(labels, store.meta, runs.start, store.meta.updates_of(part).start)
        store.wait(store.write_part(block, part, labels))


# In the order in which one step makes them.
_STEP_ORDER = ("policy", "observation", "distribution", "action", "value", "reward", "target")


def check_finite(
    arrays: Mapping[str, np.ndarray], meta: HistoryMeta, first_run: int, first_update: int
) -> None:
    """Raise `GlaError` naming the first value that is not finite: all others may follow from it.

    Args:
        arrays: of a part.
        meta: of the store.
        first_run: number of the block's first run.
        first_update: number of the part's first update.
    """
    found: list[tuple[int, int, int, int, str]] = []  # run, update, step, order, array
    for order, array in enumerate(_STEP_ORDER):
        if array not in arrays or np.isfinite(np.sum(arrays[array])):
            continue  # a sum of finite numbers; an overflow is looked at below
        bad = ~np.isfinite(arrays[array])
        if array in STREAM_ARRAYS:
            places = np.argwhere(bad.any(tuple(range(3, bad.ndim))))  # stream, update, step
            places[:, 0] //= meta.streams_per_run
            order_of = [tuple(int(x) for x in place) for place in places]
        else:
            order_of = [(*(int(x) for x in p), 0) for p in np.argwhere(bad.any(-1))]
        if order_of:
            run, update, step = min(order_of)
            found.append((run, update, step, order, array))
    if found:
        run, update, step, _, array = min(found)
        raise GlaError(
            f"{meta.environment} gave {'an' if array[0] in 'ao' else 'a'} {array} that is not "
            f"finite in run {first_run + run}, update {first_update + update}, step {step}",
            "finite numbers",
            "bound the environment, or lower the learning rate if only the policy diverged",
        )
