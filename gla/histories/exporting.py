"""Histories for others to read: NumPy's npz, HDF5 in D4RL's layout, Minari data sets.

| format | what | from it back |
|---|---|---|
| `npz` | every array of the store under its own name, and its description | the same store |
| `hdf5` | `observations`, `actions`, `rewards`, `terminals`, `timeouts`, streams in order | steps |
| `minari` | episodes of the same | steps |

A file or folder appears under its name when it is complete, and not before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from gla.errors import GlaError
from gla.files import os_errors
from gla.histories.places import first_line
from gla.histories.schema import SCHEMA, VERSION, HistoryMeta, array_shapes
from gla.histories.sources import HDF5, META, MINARI, NPZ, is_minari_name, require
from gla.histories.store import HistoryStore
from gla.progress import Progress

Format = Literal["npz", "hdf5", "minari"]

_STEP_ARRAYS = ("observation", "action", "reward", "terminated", "truncated")


def export(
    store: HistoryStore,
    destination: str | os.PathLike[str],
    format: str | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Path:
    """Write a store's histories to a file or folder of another format, a run at a time.

    A store does not keep what is seen after an episode's last step. Minari wants one more
    observation there, so the last one is repeated: a value computed from it is right where the
    episode terminated (it has none) and off by one step where it was only cut.

    Args:
        store: complete.
        destination: a file; for `minari` a new folder whose name is a data set's, such as
            `linear-v0`, or `minari:NAME` for one in Minari's own folder.
        format: `npz`, `hdf5` or `minari`; by default what the destination's name says.
        fresh: replace what an earlier export left there.
        progress: show a progress bar on standard error.

    Returns:
        The absolute path of what was written.

    Raises:
        GlaError: an incomplete or damaged store, a destination that exists or cannot be written, a
            name that Minari does not take, a package that is not installed.
    """
    missing = store.missing_blocks()
    if missing:
        raise GlaError(
            f"the histories in {store.place} are incomplete: {len(missing)} of "
            f"{store.meta.blocks} blocks are missing",
            mend="finish them first: run again what made them",
        )
    text = os.fspath(destination)
    kind = _format_of(text, format)
    writers: dict[str, Callable[..., None]] = {
        "npz": _write_npz,
        "hdf5": _write_hdf5,
        "minari": _write_minari,
    }
    name: list[str] = []  # of a data set
    if kind == "minari":
        require("minari", "writing a Minari data set")
    if kind != "npz":
        require("h5py", f"writing {'HDF5' if kind == 'hdf5' else 'a Minari data set'}")
    if kind == "minari":
        path, *name = _minari_target(text)
    else:
        path = Path(text).absolute()
    if os.path.realpath(path) == os.path.realpath(store.path):
        raise GlaError(f"{path} is the store itself", "another place")
    _check_vacant(path, kind, fresh)
    total = store.meta.transitions
    title = f"{store.meta.environment} to {path.name}"
    with (
        _appearing(path, folder=kind == "minari") as temporary,
        os_errors(path, "write"),
        Progress(title, total, "steps", enabled=progress) as bar,
    ):
        writers[kind](store, temporary, bar, *name)
    return path


def _format_of(destination: str, format: str | None) -> Format:
    suffix = Path(destination).suffix.lower()
    by_name: Format | None = "npz" if suffix in NPZ else "hdf5" if suffix in HDF5 else None
    if destination.startswith(MINARI) or (not suffix and Path(destination).name):
        by_name = "minari"
    if format is not None and format not in get_args(Format):
        raise GlaError(f"there is no format {format!r}", f"one of {', '.join(get_args(Format))}")
    if by_name is None and format is None:
        raise GlaError(
            f"{destination} does not say in which format",
            "a name that ends with .npz, .hdf5 or .h5, a folder or minari:NAME",
        )
    if format is not None and by_name != format:
        endings = {"npz": "a name.npz", "hdf5": "a name.hdf5", "minari": "a folder or minari:NAME"}
        raise GlaError(f"{destination} is no name for format {format}", endings[format])
    return by_name or "npz"


def _minari_target(text: str) -> tuple[Path, str]:
    """Return where a Minari data set is to lie and its name."""
    if text.startswith(MINARI):
        from minari.storage.local import get_dataset_path

        name = text.removeprefix(MINARI)
        path = Path(get_dataset_path(name))
    else:
        path = Path(text).absolute()
        name = path.name
    if not is_minari_name(name):
        raise GlaError(
            f"Minari takes no data set named {name!r}",
            "letters, digits, - and _ with a version at the end, such as linear-v0",
        )
    return path, name


def _check_vacant(path: Path, kind: Format, fresh: bool) -> None:
    if not path.exists() or (kind == "minari" and path.is_dir() and not any(path.iterdir())):
        return
    if not fresh:
        raise GlaError(f"{path} exists", mend="choose another name, or pass --fresh to replace it")
    if path.is_dir() != (kind == "minari") or (
        path.is_dir() and not (path / "data" / "metadata.json").is_file()
    ):
        raise GlaError(f"{path} is no earlier export of format {kind}", mend="choose another name")


@contextlib.contextmanager
def _appearing(path: Path, folder: bool) -> Iterator[Path]:
    """Give a temporary place beside `path`, which takes its name once all is written."""
    with os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # One folder holds whatever is half made, and what it replaces.
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield work / path.name
        with os_errors(path, "write"):
            if folder:
                if path.exists():
                    os.rename(path, work / "replaced")
            else:
                with open(work / path.name, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(work / path.name, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _description(meta: HistoryMeta) -> str:
    return json.dumps({"schema": SCHEMA, "version": VERSION, **dataclasses.asdict(meta)})


def _runs(store: HistoryStore, bar: Progress) -> Iterator[range]:
    """Yield ranges of one run each, and tell of progress when it is done with."""
    steps = store.meta.transitions // store.meta.runs
    for run in range(store.meta.runs):
        yield range(run, run + 1)
        bar.advance(steps)


def _write_npz(store: HistoryStore, file: Path, bar: Progress) -> None:
    """Write what `numpy.savez` would, without holding a whole array."""
    from numpy.lib import format as npy

    shapes = array_shapes(store.meta)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, (shape, dtype) in shapes.items():
            # Half precision comes back exactly from float32, which every reader knows.
            kept = np.dtype(dtype if dtype in ("int32", "bool") else "float32")
            header = {"descr": npy.dtype_to_descr(kept), "fortran_order": False, "shape": shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
                npy.write_array_header_1_0(out, header)
                for run in range(store.meta.runs):
                    rows = store.read(name, range(run, run + 1))
                    out.write(np.ascontiguousarray(rows, kept).data)
                    if name == "observation":  # most of it
                        bar.advance(store.meta.transitions // store.meta.runs)
        with archive.open(f"{META}.npy", "w") as out:
            npy.write_array(out, np.array(_description(store.meta)), allow_pickle=False)


def _streams(store: HistoryStore, run: range) -> Iterator[dict[str, np.ndarray]]:
    """Yield the arrays of a run's streams [steps, ...], cut at their ends."""
    arrays = {name: store.read(name, run) for name in _STEP_ARRAYS}
    for stream in range(store.meta.streams_per_run):
        one = {name: value[stream] for name, value in arrays.items()}
        one = {name: value.reshape(-1, *value.shape[2:]) for name, value in one.items()}
        one["truncated"][-1] |= not one["terminated"][-1]
        yield one


def _write_hdf5(store: HistoryStore, file: Path, bar: Progress) -> None:
    h5py = require("h5py", "writing HDF5")
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    meta = store.meta
    with h5py.File(file, "w") as out:
        out.attrs[META] = _description(meta)
        out.attrs["environment"] = meta.environment
        at = 0
        for run in _runs(store, bar):
            for stream in _streams(store, run):
                steps = len(stream["reward"])
                for name, value in zip(names, stream.values(), strict=True):
                    if not at:
                        out.create_dataset(
                            name, (meta.transitions, *value.shape[1:]), value.dtype,
                            chunks=(min(4096, meta.transitions), *value.shape[1:]),
                        )  # fmt: skip
                    out[name][at : at + steps] = value
                at += steps


def _write_minari(store: HistoryStore, folder: Path, bar: Progress, name: str) -> None:
    minari: Any = require("minari", "writing a Minari data set")
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage
    from minari.serialization import deserialize_space

    meta = store.meta

    def box(size: int) -> Any:
        # Through Minari's JSON, as this room imports no Gymnasium.
        bounds = {"low": [-np.inf] * size, "high": [np.inf] * size}
        return deserialize_space({"type": "Box", "dtype": "float32", "shape": [size], **bounds})

    def episodes() -> Iterator[Any]:
        for run in _runs(store, bar):
            for stream in _streams(store, run):
                ends = np.flatnonzero(stream["terminated"] | stream["truncated"]) + 1
                for start, stop in zip([0, *ends[:-1]], ends, strict=True):
                    one = {key: value[start:stop] for key, value in stream.items()}
                    seen = one["observation"]
                    yield EpisodeBuffer(
                        observations=np.concatenate([seen, seen[-1:]]),
                        actions=one["action"],
                        rewards=one["reward"],
                        terminations=one["terminated"],
                        truncations=one["truncated"],
                    )

    actions = {"type": "Discrete", "n": meta.action_size, "start": 0}
    (folder / "data").mkdir(parents=True)
    try:
        storage = MinariStorage.new(
            folder / "data",
            observation_space=box(meta.observation_size),
            action_space=deserialize_space(actions) if meta.discrete else box(meta.action_size),
        )
        storage.update_metadata(
            {
                "dataset_id": name,
                "minari_version": minari.__version__,
                "algorithm_name": meta.method,
                "description": f"Learning histories of {meta.method} on {meta.environment}: "
                f"{meta.streams} streams of {meta.updates} x {meta.steps} steps.",
                META: _description(meta),
            }
        )
        storage.update_episodes(episodes())
    except (ValueError, RuntimeError, AssertionError) as error:
        raise GlaError(f"Minari cannot write {name} ({first_line(error)})") from None
    _make_namespaces(name)


def _make_namespaces(name: str) -> None:
    """Create the Minari namespaces of `a/b/name-v0`, if they are not there."""
    namespace, _, _ = name.rpartition("/")
    if not re.fullmatch(r"[-\w/]+", namespace):
        return
    from minari import namespace as spaces

    if namespace not in spaces.list_local_namespaces():
        spaces.create_namespace(namespace)
