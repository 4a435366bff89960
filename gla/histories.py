"""Learning histories on disk: a Zarr v3 group, written through TensorStore.

Layout of a store, a folder that any Zarr v3 reader opens:

    zarr.json        group metadata; its attributes are a `HistoryMeta`
    <array>/         one Zarr array per entry of `array_shapes`
    blocks/*.json    one small file per block of runs that is completely written

Arrays over streams have axes [stream, update, time, feature], arrays over runs [run, update, ...];
stream s belongs to run s // streams_per_run. One chunk holds one stream (or run), carries its
CRC-32C and appears by an atomic rename. A block's file is written last, so a block is either
complete or collected again; nothing that is complete is ever touched.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gla.errors import GlaError
from gla.files import os_errors, write_json

SCHEMA = "gla-histories"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class HistoryMeta:
    """What a store holds and how it came about.

    Attributes:
        environment: Gymnasium id of the (unprojected) environment.
        observation_size: n.
        action_size: k, or the number of discrete actions.
        discrete: whether actions are discrete.
        horizon: steps after which episodes were truncated.
        runs: number of PPO runs, each on a task of its own.
        streams_per_run: parallel environments recorded per run.
        updates: policy versions per run.
        steps: steps of one stream per update.
        parallel_envs: parallel environments of a run, recorded or not.
        hidden: units per hidden layer of the recorded policies.
        split: task split, `train`, `validation` or `test`.
        seed: seed of the set of tasks.
        block: runs per block.
        settings: the collector's settings, for the record and to recognise another collection.
        packages: versions of the packages that mattered.
    """

    environment: str
    observation_size: int
    action_size: int
    discrete: bool
    horizon: int
    runs: int
    streams_per_run: int
    updates: int
    steps: int
    parallel_envs: int
    hidden: int
    split: str
    seed: int
    block: int
    settings: dict[str, Any]
    packages: dict[str, str]

    @property
    def streams(self) -> int:
        """Number of recorded streams."""
        return self.runs * self.streams_per_run

    @property
    def transitions(self) -> int:
        """Number of recorded transitions."""
        return self.streams * self.updates * self.steps

    @property
    def blocks(self) -> int:
        """Number of blocks in a complete store."""
        return -(-self.runs // self.block)

    def block_runs(self, block: int) -> range:
        """Return the runs of a block."""
        return range(block * self.block, min((block + 1) * self.block, self.runs))


def array_shapes(meta: HistoryMeta) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and dtype of every array of a store.

    Over streams: `observation`, `action` (as sampled, unclipped), `distribution` (Gaussian mean or
    logits), `reward`, `value`, `terminated`, `truncated`. Over runs: `log_std`, `policy` (all
    parameters of every version, see `gla.policy.flatten`), `mean_return`, `observation_mean`,
    `observation_std`, `reward_scale` (the task's normalisation window).
    """
    from gla.policy import PolicyShape

    n, k = meta.observation_size, meta.action_size
    policy = PolicyShape(n, k, meta.hidden, meta.discrete).size
    stream = (meta.streams, meta.updates, meta.steps)
    run = (meta.runs, meta.updates)
    return {
        "observation": ((*stream, n), "float32"),
        "action": (stream, "int32") if meta.discrete else ((*stream, k), "float32"),
        "distribution": ((*stream, k), "float32"),
        "reward": (stream, "float32"),
        "value": (stream, "float32"),
        "terminated": (stream, "bool"),
        "truncated": (stream, "bool"),
        "log_std": ((*run, k), "float32"),
        "policy": ((*run, policy), "float32"),
        "mean_return": (run, "float32"),
        "observation_mean": ((meta.runs, n), "float32"),
        "observation_std": ((meta.runs, n), "float32"),
        "reward_scale": ((meta.runs,), "float32"),
    }


class HistoryStore:
    """An open store; see `create`, `open` and `create_or_resume`."""

    def __init__(self, path: Path, meta: HistoryMeta):
        self.path, self.meta = path, meta
        self._arrays: dict[str, Any] = {}

    # Opening

    @classmethod
    def create_or_resume(
        cls, path: str | os.PathLike, meta: HistoryMeta, fresh: bool = False
    ) -> HistoryStore:
        """Open the store at `path` if it was made with the same settings, else create it.

        Args:
            path: folder of the store.
            meta: what it is to hold.
            fresh: delete a store that is there first.

        Raises:
            GlaError: if something else is there, or a store with other settings.
        """
        path = Path(path).absolute()
        vacant = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        if fresh and not vacant:
            cls._read_meta(path)  # refuses to delete a folder that is not a store
            with os_errors(path, "delete"):
                shutil.rmtree(path)
            vacant = True
        if vacant:
            return cls._create(path, meta)
        store = cls.open(path)
        ours, theirs = (identity(m) for m in (meta, store.meta))
        if ours != theirs:
            names = [name for name in ours if ours[name] != theirs.get(name)]
            listed = ", ".join(f"{n} {theirs.get(n)!r} instead of {ours[n]!r}" for n in names[:3])
            raise GlaError(
                f"the histories in {path} were collected with other settings: {listed}",
                mend="choose another folder, or pass --fresh to delete them and start again",
            )
        return store

    @classmethod
    def _create(cls, path: Path, meta: HistoryMeta) -> HistoryStore:
        attributes = {"schema": SCHEMA, "version": VERSION, **dataclasses.asdict(meta)}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        with os_errors(path, "create"):
            (path / "blocks").mkdir(parents=True, exist_ok=True)
        store = cls(path, meta)
        with os_errors(path, "write"):
            for name, (shape, dtype) in array_shapes(meta).items():
                store._open_array(name, shape, dtype, create=True)
        write_json(path / "zarr.json", group)  # last: from here on it is a store
        return store

    @classmethod
    def open(cls, path: str | os.PathLike) -> HistoryStore:
        """Open an existing store.

        Raises:
            GlaError: if there is none, or one of another schema.
        """
        path = Path(path).absolute()
        return cls(path, cls._read_meta(path))

    @staticmethod
    def _read_meta(path: Path) -> HistoryMeta:
        file = path / "zarr.json"
        if not file.exists():
            raise GlaError(
                f"{path} holds no learning histories (it has no zarr.json)",
                "a folder written by `gla collect`",
                "check the path, or remove the folder if a first `gla collect` was cut short there",
            )
        try:
            attributes = dict(json.loads(file.read_text())["attributes"])
            schema, version = attributes.pop("schema"), attributes.pop("version")
        except (ValueError, KeyError, TypeError) as error:
            raise GlaError(
                f"{file} cannot be read as the description of learning histories ({error})",
                "JSON metadata written by `gla collect`",
                "restore the file, or collect again with --fresh into another folder",
            ) from None
        if (schema, version) != (SCHEMA, VERSION):
            raise GlaError(
                f"{path} has schema {schema!r} version {version!r}",
                f"{SCHEMA!r} version {VERSION}",
                "collect again with this version of gla",
            )
        try:
            return HistoryMeta(**attributes)
        except TypeError as error:
            raise GlaError(f"{file} lacks or adds fields ({error})", "a complete file") from None

    def _open_array(self, name: str, shape: tuple[int, ...], dtype: str, create: bool = False):
        import tensorstore as ts

        if name in self._arrays:
            return self._arrays[name]
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(self.path / name) + "/"},
            "metadata": {
                "shape": list(shape),
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": [1, *shape[1:]]},
                },
                "data_type": dtype,
                "codecs": [{"name": "bytes"}, {"name": "crc32c"}],
            },
            # A chunk that is not there is an error, never a silent zero.
            "fill_missing_data_reads": False,
            "store_data_equal_to_fill_value": True,
        }
        try:
            array = ts.open(spec, create=create, open=True).result()
        except (ValueError, OSError, RuntimeError) as error:
            if create:
                raise OSError(_first_line(error)) from None
            raise GlaError(
                f"array {name!r} of the histories in {self.path} cannot be opened "
                f"({_first_line(error)})",
                "the array as `gla collect` wrote it",
                "restore it from a copy, or collect again with --fresh",
            ) from None
        self._arrays[name] = array
        return array

    def _array(self, name: str):
        shape, dtype = array_shapes(self.meta)[name]
        return self._open_array(name, shape, dtype)

    # Writing

    def complete_blocks(self) -> list[int]:
        """Return the numbers of the blocks that are completely written, in order."""
        done = []
        for block in range(self.meta.blocks):
            if self._block_file(block).exists():
                done.append(block)
        return done

    def missing_blocks(self) -> list[int]:
        """Return the numbers of the blocks still to be collected, in order."""
        done = set(self.complete_blocks())
        return [block for block in range(self.meta.blocks) if block not in done]

    def _block_file(self, block: int) -> Path:
        return self.path / "blocks" / f"{block:05d}.json"

    def write_block(self, block: int, arrays: Mapping[str, Any]):
        """Write all arrays of one block of runs, then mark it complete.

        Args:
            block: number of the block.
            arrays: every array of `array_shapes`, restricted to the block's streams or runs.

        Raises:
            GlaError: if an array is missing or misshapen, or the disk is full or read-only.
        """
        runs = self.meta.block_runs(block)
        futures = []
        with os_errors(self.path, "write"):
            for name, (shape, dtype) in array_shapes(self.meta).items():
                rows = self._rows(name, runs)
                if name not in arrays:
                    raise GlaError(f"array {name!r} of block {block} is missing")
                value = np.asarray(arrays[name], dtype)
                expected = (rows.stop - rows.start, *shape[1:])
                if value.shape != expected:
                    raise GlaError(
                        f"array {name!r} of block {block} has shape {value.shape}",
                        f"shape {expected}",
                    )
                futures.append(self._array(name)[rows].write(value))
            for future in futures:
                try:
                    future.result()
                except (ValueError, RuntimeError) as error:
                    raise OSError(_first_line(error)) from None
        write_json(self._block_file(block), {"runs": [runs.start, runs.stop]})

    def _rows(self, name: str, runs: range) -> slice:
        shape, _ = array_shapes(self.meta)[name]
        per_run = self.meta.streams_per_run if name in STREAM_ARRAYS else 1
        return slice(runs.start * per_run, min(runs.stop * per_run, shape[0]))

    # Reading

    def read(self, name: str, runs: Iterable[int] | range | None = None) -> np.ndarray:
        """Read one array for a contiguous range of complete runs (default: all that are).

        Raises:
            GlaError: if a chunk is missing, truncated or fails its checksum.
        """
        spans = [self.meta.block_runs(b) for b in self.complete_blocks()]
        if runs is not None:
            runs = range(min(runs), max(runs) + 1)
            spans = [range(max(s.start, runs.start), min(s.stop, runs.stop)) for s in spans]
        futures = [self._array(name)[self._rows(name, s)].read() for s in spans if len(s)]
        if not futures:
            raise GlaError(
                f"the histories in {self.path} hold no complete block yet",
                mend="run `gla collect` again to go on",
            )
        try:
            return np.concatenate([future.result() for future in futures])
        except (ValueError, OSError, RuntimeError) as error:
            raise GlaError(
                f"array {name!r} of the histories in {self.path} is damaged ({_first_line(error)})",
                "every chunk complete and with its checksum",
                "run `gla histories verify --repair` and then `gla collect` again, which collects "
                "only the damaged blocks",
            ) from None

    def verify(self, repair: bool = False) -> list[str]:
        """Read every chunk of every complete block and return one line per damaged block.

        Args:
            repair: forget damaged blocks, so that the next collection makes them again.
        """
        problems = []
        for block in self.complete_blocks():
            runs = self.meta.block_runs(block)
            for name in array_shapes(self.meta):
                try:
                    self._array(name)[self._rows(name, runs)].read().result()
                except (ValueError, OSError, RuntimeError) as error:
                    problems.append(f"block {block}, array {name!r}: {_first_line(error)}")
                    if repair:
                        with os_errors(self.path, "write"):
                            self._block_file(block).unlink(missing_ok=True)
                    break
        return problems

    def describe(self) -> str:
        """Return a few lines about the store for people."""
        meta, done = self.meta, self.complete_blocks()
        runs = sum(len(meta.block_runs(block)) for block in done)
        transitions = meta.transitions // meta.runs * runs
        actions = f"{meta.action_size} {'discrete actions' if meta.discrete else 'action numbers'}"
        lines = [
            f"{meta.environment}: {runs} of {meta.runs} runs complete "
            f"({meta.split} tasks, seed {meta.seed})",
            f"  {meta.streams_per_run} of {meta.parallel_envs} parallel environments recorded, "
            f"{meta.updates} updates x {meta.steps} steps; {meta.observation_size} observation "
            f"numbers, {actions}",
            f"  {transitions:,} transitions",
        ]
        if done:
            returns = self.read("mean_return").mean(0)
            ends = f"{returns[0]:.1f} in the first update, {returns[-1]:.1f} in the last"
            lines.append(f"  mean return per episode: {ends}")
        return "\n".join(lines)


STREAM_ARRAYS = frozenset(
    ("observation", "action", "distribution", "reward", "value", "terminated", "truncated")
)


def identity(meta: HistoryMeta) -> dict[str, Any]:
    """Return what must agree for two collections to be the same one, as JSON values."""
    fields = dataclasses.asdict(meta)
    fields.pop("packages")
    return json.loads(json.dumps({**fields.pop("settings"), **fields}))


def _first_line(error: BaseException) -> str:
    """Return a library's message without its source locations."""
    return str(error).splitlines()[0].split(" [")[0][:300]
