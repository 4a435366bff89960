"""How fast stored histories are read, beside a plain copy of as many bytes in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from gla.benchmarks.timing import Bench, Comparison, Goal, Program
from gla.histories import (
    STREAM_ARRAYS,
    UPDATE_ARRAYS,
    HistoryMeta,
    HistoryStore,
    Part,
    array_shapes,
    record,
)

COPY, READ, STREAM = "copy in memory", "read a block at a time", "stream all blocks"

# Sizes of the ant and of a usual policy; what the numbers are changes neither size nor time, since
# nothing is compressed.
ANT = HistoryMeta(
    environment="gla/BraxAnt-v0", observation_size=27, action_size=8, discrete=False, horizon=1000,
    runs=50, streams_per_run=16, updates=125, steps=100, parallel_envs=64, hidden=64, split="train",
    seed=0, block=5, settings={}, packages={}, method="noise",
)  # fmt: skip


class NoiseMaker:
    """Makes blocks of random numbers of the right sizes.

    Args:
        meta: of the store.
    """

    def __init__(self, meta: HistoryMeta):
        self.meta = meta

    def parts(
        self, runs: range, first: int = 0, state: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[Part]:
        """Make a block; see `gla.histories.HistoryMaker`."""
        del state
        rng = np.random.default_rng(runs.start)
        for part in range(first, self.meta.parts):
            arrays = {}
            for name, (shape, dtype) in array_shapes(self.meta).items():
                rows = len(runs) * (self.meta.streams_per_run if name in STREAM_ARRAYS else 1)
                size = (rows, *shape[1:])
                if name in STREAM_ARRAYS or name in UPDATE_ARRAYS:
                    size = (rows, len(self.meta.updates_of(part)), *shape[2:])
                elif part:
                    continue
                value = rng.random(size, np.float32)
                arrays[name] = value > 0.99 if dtype == "bool" else value
            yield Part(arrays, {})


def _read_programs(bench: Bench) -> list[Program]:
    folder = bench.stack.enter_context(tempfile.TemporaryDirectory(prefix="gla-throughput-"))
    store = record(NoiseMaker(ANT), f"{folder}/s", progress=False)
    raw = store.size()
    on_disk = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    bench.notes.append(
        f"{ANT.transitions:,} transitions, {raw / 1e9:.2f} GB of numbers, "
        f"{on_disk / raw:.4f} times as much on disk."
    )
    blocks = [ANT.block_runs(block) for block in range(ANT.blocks)]
    first = {name: store.read(name, blocks[0]) for name in array_shapes(ANT)}

    def copy() -> None:
        for _ in blocks:
            for value in first.values():
                value.copy()

    def read() -> None:
        opened = HistoryStore.open(store.path)
        for runs in blocks:
            for name in first:
                opened.read(name, runs)

    def stream() -> None:
        for _ in HistoryStore.open(store.path).stream():
            pass

    return [Program(COPY, copy, raw), Program(READ, read, raw), Program(STREAM, stream, raw)]


COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        "histories-read",
        f"How fast are histories of {ANT.transitions / 1e6:.0f}M steps of the ant read from the "
        "page cache, checksums compared?",
        _read_programs,
        unit="bytes",
        goals=(Goal(STREAM, "rate", 2e9),),
    ),
)
