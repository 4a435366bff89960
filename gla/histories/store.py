"""Learning histories in a Zarr v3 group, written through TensorStore.

Layout of a store, in a folder that any Zarr v3 reader opens or under an object store's prefix:

    zarr.json          group metadata; its attributes are a `HistoryMeta`
    <array>/           one Zarr array per entry of `array_shapes`
    blocks/*.json      one small file per block of runs that is completely written
    progress/*.npz     of a block that is being made, where its maker stands
    writer.lock        while somebody writes

Arrays over streams have axes [stream, update, step, feature], arrays over runs [run, update, ...];
stream s belongs to run s // streams_per_run. One chunk holds one stream's (or run's) updates of one
part and carries its CRC-32C; the chunks of a block's part lie in one file (a Zarr shard), which
appears at once. A block's file in `blocks` is written last, so a block is either complete or made
again from its last complete part; nothing that is complete is ever touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gla.errors import GlaError
from gla.files import os_errors
from gla.histories.locking import LOCK, writer_lock
from gla.histories.places import UNFINISHED, Place, as_os_error, context, first_line
from gla.histories.schema import (
    ARRAYS,
    SCHEMA,
    STREAM_ARRAYS,
    UPDATE_ARRAYS,
    VERSION,
    HistoryMeta,
    array_shapes,
    identity,
    meta_from_attributes,
)
from gla.histories.scores import Scores, episode_return, score_streams

_META = "zarr.json"
_REPAIR = (
    "run `gla histories verify --repair` and then the command that made the store, which makes "
    "only the damaged blocks again"
)


class HistoryStore:
    """An open store; see `create_or_resume` and `open`."""

    def __init__(self, place: Place, meta: HistoryMeta):
        self.place, self.meta = place, meta
        self._arrays: dict[tuple[str, bool], Any] = {}

    @property
    def path(self) -> Path | str:
        """The absolute path of its folder, or its URL."""
        return self.place.path

    # Opening

    @classmethod
    def create_or_resume(
        cls, location: str | os.PathLike[str], meta: HistoryMeta, fresh: bool = False
    ) -> HistoryStore:
        """Open the store at `location` if it was made with the same settings, else create it.

        Args:
            location: folder of the store, or a URL that TensorStore knows.
            meta: what it is to hold.
            fresh: delete a store that is there first.

        Raises:
            GlaError: if something else is there, or a store with other settings; with `fresh`, if
                somebody is writing to it.
        """
        place = Place(location)
        vacant = place.vacant()
        if not vacant and cls._is_unfinished(place):
            place.clear(_META)
            vacant = True
        if fresh and not vacant:
            cls._read_meta(place)  # refuses to delete a folder that is not a store
            with writer_lock(place):
                place.clear(_META)
            vacant = True
        if vacant:
            return cls._create(place, meta)
        store = cls.open(location)
        ours, theirs = (identity(m) for m in (meta, store.meta))
        if ours != theirs:
            names = [name for name in ours if ours[name] != theirs.get(name)]
            listed = ", ".join(f"{n} {theirs.get(n)!r} instead of {ours[n]!r}" for n in names[:3])
            raise GlaError(
                f"the histories in {place} were collected with other settings: {listed}",
                mend="choose another folder, or pass --fresh to delete them and start again",
            )
        return store

    @staticmethod
    def _is_unfinished(place: Place) -> bool:
        """Return whether there is nothing but what a writer made that was killed while it began."""
        if place.local is not None:
            names = {path.name for path in place.local.iterdir()} if place.local.is_dir() else {""}
            if not names <= {*ARRAYS, "blocks", _META + UNFINISHED}:
                return False
        made = {f"{name}/{_META}" for name in ARRAYS}
        found = place.keys()
        return all(
            key == _META + UNFINISHED or key.removesuffix(UNFINISHED) in made for key in found
        )

    @classmethod
    def _create(cls, place: Place, meta: HistoryMeta) -> HistoryStore:
        attributes = {"schema": SCHEMA, "version": VERSION, **dataclasses.asdict(meta)}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        if place.local is not None:
            with os_errors(place, "create"):
                (place.local / "blocks").mkdir(parents=True, exist_ok=True)
        store = cls(place, meta)
        for name, (shape, dtype) in array_shapes(meta).items():
            store._create_array(name, shape, dtype)
        # Last: from here on it is a store.
        place.write(_META, (json.dumps(group, indent=1) + "\n").encode())
        return store

    @classmethod
    def open(cls, location: str | os.PathLike[str]) -> HistoryStore:
        """Open an existing store.

        Raises:
            GlaError: if there is none, or one of another schema.
        """
        place = Place(location)
        return cls(place, cls._read_meta(place))

    @staticmethod
    def _read_meta(place: Place) -> HistoryMeta:
        content = None
        # A path through a file is no folder: nothing is there.
        if place.local is None or (place.local / "zarr.json").is_file():
            content = place.read("zarr.json")
        if content is None:
            raise GlaError(
                f"{place} holds no learning histories (it has no zarr.json)",
                "a folder written by `gla collect`",
                "check the path, or remove the folder if a first `gla collect` was cut short there",
            )
        try:
            attributes = dict(json.loads(content)["attributes"])
            return meta_from_attributes(attributes, place)
        except (ValueError, KeyError, TypeError) as error:
            raise GlaError(
                f"{place}/zarr.json cannot be read as the description of learning histories "
                f"({error})",
                "JSON metadata written by `gla collect`",
                "restore the file, or collect again with --fresh into another folder",
            ) from None

    def _create_array(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        import tensorstore as ts

        chunk, shard = [1, *shape[1:]], [1, *shape[1:]]
        shard[0] = self.meta.block * (self.meta.streams_per_run if name in STREAM_ARRAYS else 1)
        if name in STREAM_ARRAYS or name in UPDATE_ARRAYS:
            chunk[1] = shard[1] = self.meta.part_updates
        plain: list[Any] = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ]
        codec = {"chunk_shape": chunk, "codecs": plain, "index_codecs": plain}
        metadata = {
            "shape": list(shape),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
            "data_type": dtype,
            "codecs": [{"name": "sharding_indexed", "configuration": codec}],
        }
        spec = {"driver": "zarr3", "kvstore": self.place.spec(name), "metadata": metadata}
        with self.place.errors("create"):
            ts.open(spec, create=True, open=True, context=context()).result()

    def _array(self, name: str, write: bool = False) -> Any:
        """Open an array, once for writing and once for reading."""
        import tensorstore as ts

        if (name, write) in self._arrays:
            return self._arrays[name, write]
        shapes = array_shapes(self.meta)
        if name not in shapes:
            raise GlaError(
                f"the histories in {self.place} have no array {name!r}",
                f"one of {', '.join(shapes)}",
            )
        spec = {
            "driver": "zarr3",
            "kvstore": self.place.spec(name),
            # A chunk that is not there is an error, never a silent zero.
            "fill_missing_data_reads": False,
            "store_data_equal_to_fill_value": True,
        }
        try:
            array = ts.open(spec, open=True, context=context(mapped=not write)).result()
            shape, dtype = shapes[name]
            if (tuple(array.shape), array.dtype.name) != (shape, dtype):
                raise ValueError(f"it is {array.dtype.name}{list(array.shape)}")
        except (ValueError, OSError, RuntimeError) as error:
            raise GlaError(
                f"array {name!r} of the histories in {self.place} cannot be opened "
                f"({first_line(error)})",
                "the array as `gla collect` wrote it",
                "restore it from a copy, or collect again with --fresh",
            ) from None
        self._arrays[name, write] = array
        return array

    # Writing

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's only right to write, having swept up what a killed writer left.

        Raises:
            GlaError: if somebody else holds it, or the store cannot be written.
        """
        with writer_lock(self.place):
            self.place.sweep()
            for block in self.complete_blocks():
                self.forget_progress(block)  # killed just before it did so
            yield

    def complete_blocks(self) -> list[int]:
        """Return the numbers of the blocks that are completely written, in order."""
        names = (re.fullmatch(r"blocks/(\d+)\.json", key) for key in self.place.keys("blocks/"))
        return [int(found[1]) for found in names if found and int(found[1]) < self.meta.blocks]

    def missing_blocks(self) -> list[int]:
        """Return the numbers of the blocks still to be collected, in order."""
        done = set(self.complete_blocks())
        return [block for block in range(self.meta.blocks) if block not in done]

    def settled(self) -> bool:
        """Whether all blocks are complete and no killed writer left anything behind."""
        left = self.place.local is not None and self.place.has(LOCK)
        return not self.missing_blocks() and not left

    def write_part(self, block: int, part: int, arrays: Mapping[str, Any]) -> list[Any]:
        """Begin to write arrays of one part of a block of runs.

        Args:
            block: number of the block.
            part: number of the part.
            arrays: some arrays of `array_shapes`, restricted to the block's streams or runs and,
                where they have that axis, to the part's updates.

        Returns:
            What `wait` takes to see them written.

        Raises:
            GlaError: if an array is unknown or misshapen, or too large a number for the store's
                storage type.
        """
        runs, updates = self.meta.block_runs(block), self.meta.updates_of(part)
        shapes = array_shapes(self.meta)
        prepared = []
        for name, given in arrays.items():
            if name not in shapes:
                raise GlaError(f"array {name!r} is not one of this store", ", ".join(shapes))
            shape, dtype = shapes[name]
            rows = self._rows(name, runs)
            place: tuple[slice, ...] = (rows,)
            expected = (rows.stop - rows.start, *shape[1:])
            if name in STREAM_ARRAYS or name in UPDATE_ARRAYS:
                place = (rows, slice(updates.start, updates.stop))
                expected = (expected[0], len(updates), *shape[2:])
            value = np.asarray(given)
            if value.shape != expected:
                raise GlaError(
                    f"array {name!r} of block {block} has shape {value.shape}",
                    f"shape {expected}",
                )
            prepared.append((name, place, _cast(name, value, dtype)))
        with os_errors(self.place, "write"):
            return [
                self._array(name, write=True)[place].write(value) for name, place, value in prepared
            ]

    def wait(self, writes: Iterable[Any]) -> None:
        """Wait until what `write_part` began is on disk.

        Raises:
            GlaError: if the disk is full or cannot be written.
        """
        with os_errors(self.place, "write"):
            for write in writes:
                try:
                    write.result()
                except (ValueError, RuntimeError) as error:
                    raise as_os_error(error) from None

    def finish_block(self, block: int) -> None:
        """Mark a block complete, with the scores of its streams, and forget its progress.

        Raises:
            GlaError: if an array was not written, or the disk cannot be written.
        """
        meta, runs = self.meta, self.meta.block_runs(block)
        for name in array_shapes(meta):
            if not all(self.place.has(key) for key in self._files(name, block)):
                raise GlaError(f"array {name!r} of block {block} is missing")
        content = {"runs": [runs.start, runs.stop], **self._score(runs)}
        self.place.write(_block_key(block), (json.dumps(content) + "\n").encode())
        self.forget_progress(block)

    def write_block(self, block: int, arrays: Mapping[str, Any]) -> None:
        """Write all arrays of one block of runs, then mark it complete.

        Args:
            block: number of the block.
            arrays: every array of `array_shapes`, restricted to the block's streams or runs.

        Raises:
            GlaError: if an array is missing or misshapen, or the disk is full or read-only.
        """
        shapes = array_shapes(self.meta)
        for name in shapes:
            if name not in arrays:
                raise GlaError(f"array {name!r} of block {block} is missing")
        # Shapes are compared whole, so that a message names what was given.
        runs = self.meta.block_runs(block)
        for name, given in arrays.items():
            rows, value = self._rows(name, runs), np.asarray(given)
            expected = (rows.stop - rows.start, *shapes[name][0][1:]) if name in shapes else ()
            if name in shapes and value.shape != expected:
                raise GlaError(
                    f"array {name!r} of block {block} has shape {value.shape}", f"shape {expected}"
                )
        for part in range(self.meta.parts):
            updates = self.meta.updates_of(part)
            cut = {
                name: value[:, updates.start : updates.stop]
                if name in STREAM_ARRAYS or name in UPDATE_ARRAYS
                else value
                for name, value in arrays.items()
            }
            self.wait(self.write_part(block, part, cut))
        self.finish_block(block)

    def _files(self, name: str, block: int) -> list[str]:
        """Return the keys of an array's values of a block, one for each part."""
        shape, _ = array_shapes(self.meta)[name]
        if len(shape) == 1:
            return [f"{name}/c/{block}"]
        parts = 1
        if name in STREAM_ARRAYS or name in UPDATE_ARRAYS:
            parts = self.meta.parts
        tail = "/0" * (len(shape) - 2)
        return [f"{name}/c/{block}/{part}{tail}" for part in range(parts)]

    def _rows(self, name: str, runs: range) -> slice:
        per_run = self.meta.streams_per_run if name in STREAM_ARRAYS else 1
        return slice(runs.start * per_run, runs.stop * per_run)

    # Progress within a block

    def save_progress(self, block: int, part: int, state: Mapping[str, np.ndarray]) -> None:
        """Keep where a block's maker stands after a part, in place of what was kept before."""
        content = io.BytesIO()
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in state.items()}
        np.savez(content, **arrays)
        before = self.place.keys(_progress_key(block))
        self.place.write(_progress_key(block, part), content.getvalue())
        for key in before:
            if key != _progress_key(block, part):
                self.place.delete(key)

    def load_progress(self, block: int) -> tuple[int, dict[str, np.ndarray]] | None:
        """Return the last part after which a block's maker was kept, and where it stood.

        One that cannot be read is as good as none.
        """
        for key in reversed(self.place.keys(_progress_key(block))):
            content = self.place.read(key) or b""
            try:
                with np.load(io.BytesIO(content), allow_pickle=False) as file:
                    return int(key.rpartition("-")[2].removesuffix(".npz")), dict(file)
            except (ValueError, OSError, EOFError, zipfile.BadZipFile):
                continue
        return None

    def forget_progress(self, block: int) -> None:
        """Delete what was kept of a block's maker."""
        for key in self.place.keys(_progress_key(block)):
            self.place.delete(key)
        if self.place.local is not None:
            with contextlib.suppress(OSError):  # another block's may be there
                (self.place.local / "progress").rmdir()

    # Reading

    def read(
        self,
        name: str,
        runs: Iterable[int] | range | None = None,
        updates: range | None = None,
    ) -> np.ndarray:
        """Read one array for a contiguous range of complete runs (default: all that are).

        Args:
            name: of the array.
            runs: which runs, or all for none.
            updates: which updates of an array that has them, or all for none.

        Real numbers stored as `bfloat16` or `float16` come back as float32.

        Raises:
            GlaError: if a chunk is missing, truncated or fails its checksum.
        """
        spans = [self.meta.block_runs(b) for b in self.complete_blocks()]
        if runs is not None:
            runs = range(min(runs), max(runs) + 1)
            spans = [range(max(s.start, runs.start), min(s.stop, runs.stop)) for s in spans]
        spans = _merged([span for span in spans if len(span)])
        if not spans:
            raise GlaError(
                f"the histories in {self.place} hold no complete block yet",
                mend="run the command that made it again, which goes on",
            )
        parts = [self._read_rows(name, span, updates) for span in spans]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def stream(self, names: Iterable[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Read block after block, the next one while this one is used; memory holds two.

        Args:
            names: arrays to read, all by default.

        Yields:
            The arrays of each complete block in order, as `read` gives them.

        Raises:
            GlaError: as `read`.
        """
        names = list(array_shapes(self.meta)) if names is None else list(names)
        blocks = [self.meta.block_runs(block) for block in self.complete_blocks()]

        def begin(runs: range) -> dict[str, Any]:
            rows = {name: self._array(name)[self._rows(name, runs)] for name in names}
            return {name: array.read(order="C") for name, array in rows.items()}

        ahead = begin(blocks[0]) if blocks else {}
        for number in range(len(blocks)):
            reading = ahead
            ahead = begin(blocks[number + 1]) if number + 1 < len(blocks) else {}
            yield {name: self._result(name, future) for name, future in reading.items()}

    def _read_rows(self, name: str, runs: range, updates: range | None = None) -> np.ndarray:
        array = self._array(name)[self._rows(name, runs)]
        if updates is not None:
            array = array[:, updates.start : updates.stop]
        return self._result(name, array.read(order="C"))

    def _result(self, name: str, future: Any) -> np.ndarray:
        """Wait for an array that is being read."""
        try:
            value = future.result()
        except (ValueError, OSError, RuntimeError) as error:
            raise GlaError(
                f"array {name!r} of the histories in {self.place} is damaged ({first_line(error)})",
                "every chunk complete and with its checksum",
                _REPAIR,
            ) from None
        # Half precision is for storage only.
        return value.astype(np.float32) if value.dtype.itemsize == 2 else value

    def read_part(self, name: str, block: int, part: int) -> np.ndarray:
        """Read one array over streams of a part that is written, its block complete or not.

        Raises:
            GlaError: as `read`.
        """
        return self._read_rows(name, self.meta.block_runs(block), self.meta.updates_of(part))

    def scores(self) -> Scores:
        """Return the scores of the streams of all complete blocks.

        Raises:
            GlaError: if there is none, or its file is damaged.
        """
        improvement: list[float] = []
        stability: list[float] = []
        for block in self.complete_blocks():
            key = _block_key(block)
            try:
                content = json.loads(self.place.read(key) or b"")
                improvement += content["improvement"]
                stability += content["stability"]
            except (ValueError, KeyError, TypeError) as error:
                raise GlaError(
                    f"{self.place}/{key} cannot be read ({error})", "the scores of a block", _REPAIR
                ) from None
        if not improvement:
            raise GlaError(f"the histories in {self.place} hold no complete block yet")
        return Scores(np.array(improvement, np.float32), np.array(stability, np.float32))

    def _score(self, runs: range) -> dict[str, list[float]]:
        reward, terminated = (self._read_rows(name, runs) for name in ("reward", "terminated"))
        scores = score_streams(episode_return(reward, terminated, self.meta.horizon, 2))
        return {
            "improvement": [round(float(x), 6) for x in scores.improvement],
            "stability": [round(float(x), 6) for x in scores.stability],
        }

    def verify(self, repair: bool = False) -> list[str]:
        """Read every chunk of every complete block and return one line per damaged block.

        Args:
            repair: forget damaged blocks, so that the next collection makes them again.

        Raises:
            GlaError: with `repair`, if somebody is writing to the store, or it cannot be written.
        """
        with self.writing() if repair else contextlib.nullcontext():
            found = {block: self._damage(block) for block in self.complete_blocks()}
            problems = {block: problem for block, problem in found.items() if problem is not None}
            if repair:
                for block in problems:
                    self._forget_block(block)
        return list(problems.values())

    def _forget_block(self, block: int) -> None:
        self.place.delete(_block_key(block))
        # What is written again must not be mixed with what is damaged.
        for name in array_shapes(self.meta):
            for key in self._files(name, block):
                self.place.delete(key)

    def _damage(self, block: int) -> str | None:
        runs = self.meta.block_runs(block)
        for name in array_shapes(self.meta):
            # A run at a time: what is read need not fit into memory.
            for run in runs:
                try:
                    rows = self._rows(name, range(run, run + 1))
                    self._array(name)[rows].read().result()
                except (ValueError, OSError, RuntimeError) as error:
                    return f"block {block}, array {name!r}: {first_line(error)}"
        try:
            json.loads(self.place.read(_block_key(block)) or b"")
        except ValueError as error:
            return f"block {block}, its file in blocks: {error}"
        return None

    def size(self) -> int:
        """Return the bytes of all numbers of the complete blocks, as they are stored."""
        total = 0
        runs = sum(len(self.meta.block_runs(block)) for block in self.complete_blocks())
        for shape, dtype in array_shapes(self.meta).values():
            bytes_each = {"float32": 4, "int32": 4, "bool": 1}.get(dtype, 2)
            total += int(np.prod(shape[1:], dtype=np.int64)) * bytes_each * runs * shape[0]
        return total // self.meta.runs

    def describe(self) -> str:
        """Return a few lines about the store for people."""
        meta, done = self.meta, self.complete_blocks()
        runs = sum(len(meta.block_runs(block)) for block in done)
        transitions = meta.transitions // meta.runs * runs
        actions = f"{meta.action_size} {'discrete actions' if meta.discrete else 'action numbers'}"
        lines = [
            f"{meta.environment}: {runs} of {meta.runs} runs complete "
            f"({meta.split} tasks, seed {meta.seed}, by {meta.method})",
            f"  {meta.streams_per_run} of {meta.parallel_envs} parallel environments recorded, "
            f"{meta.updates} updates x {meta.steps} steps; {meta.observation_size} observation "
            f"numbers, {actions}",
            f"  {transitions:,} transitions, {_bytes(self.size())}, stored as {meta.storage}"
            + _rounding(meta),
        ]
        if done:
            returns = self.read("mean_return").mean(0)
            ends = f"{returns[0]:.1f} in the first update, {returns[-1]:.1f} in the last"
            lines.append(f"  mean return per episode: {ends}")
            scores = self.scores()
            lines.append(
                f"  streams: improvement {_quartiles(scores.improvement)}, stability "
                f"{_quartiles(scores.stability)} (quartiles)"
            )
        waiting = [b for b in self.missing_blocks() if self.place.keys(_progress_key(b))]
        for block in waiting:
            found = self.load_progress(block)
            if found:
                lines.append(f"  block {block}: {found[0] + 1} of {meta.parts} parts made")
        return "\n".join(lines)


def _cast(name: str, value: np.ndarray, dtype: str) -> np.ndarray:
    """Give an array the type in which it is stored.

    Raises:
        GlaError: if a finite number becomes infinite.
    """
    if dtype == "bfloat16":
        import ml_dtypes

        stored: Any = ml_dtypes.bfloat16
    else:
        stored = np.dtype(dtype)
    with np.errstate(over="ignore"):
        cast = value.astype(stored)
    if value.dtype != cast.dtype and dtype == "float16":
        lost = np.isinf(cast) & np.isfinite(value)
        if lost.any():
            raise GlaError(
                f"array {name!r} holds {float(value[lost][0]):g}, which float16 cannot",
                "numbers up to 65504",
                "collect with --storage bfloat16 or float32",
            )
    return cast


def _merged(spans: list[range]) -> list[range]:
    """Join neighbouring ranges, so that they are read as one."""
    joined: list[range] = []
    for span in spans:
        if joined and joined[-1].stop == span.start:
            joined[-1] = range(joined[-1].start, span.stop)
        else:
            joined.append(span)
    return joined


def _block_key(block: int) -> str:
    return f"blocks/{block:05d}.json"


def _progress_key(block: int, part: int | None = None) -> str:
    return f"progress/{block:05d}-" + ("" if part is None else f"{part:05d}.npz")


def _rounding(meta: HistoryMeta) -> str:
    """Return the error of the storage type, in words: half a unit in the last place."""
    bits = {"float16": 11, "bfloat16": 8}.get(meta.storage)
    return "" if bits is None else f" (relative error at most {2.0**-bits:.2g}; rewards float32)"


def _quartiles(values: np.ndarray) -> str:
    return " / ".join(f"{q:.2f}" for q in np.quantile(values, (0.25, 0.5, 0.75)))


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
