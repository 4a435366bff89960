"""Files of transitions that others made: NumPy's npz, HDF5 in D4RL's layout, Minari data sets.

A `Source` is such a file as one long row of steps, read a slice at a time. `open_source` tells by
the name which kind it is.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from gla.errors import GlaError, near_matches
from gla.histories.places import first_line
from gla.histories.schema import STREAM_ARRAYS, HistoryMeta, meta_from_attributes

NPZ, HDF5 = (".npz",), (".hdf5", ".h5")
MINARI = "minari:"  # before the name of a data set in Minari's own folder
META = "gla_meta"  # under which our exports keep the description of the store
EXTRA = "pip install 'gla[minari]'"

# Names in use for the same thing, D4RL's first, ours last.
_NAMES = {
    "observations": ("observations", "observation"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminals": ("terminals", "terminations", "terminated"),
    "timeouts": ("timeouts", "truncations", "truncated"),
}


class Transitions(NamedTuple):
    """Consecutive steps.

    Attributes:
        observation: f32[m, n].
        action: f32[m, k] or i32[m].
        reward: f32[m].
        terminated: bool[m], the task ended after this step.
        truncated: bool[m], the episode was cut after this step.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Source(Protocol):
    """A file or data set of steps in order.

    Attributes:
        name: for messages and for the record.
        steps: how many.
        observation_size: n.
        action_size: k, or 0 for discrete actions.
        discrete: whether actions are discrete.
        meta: of the store of which this is our export, or None.
    """

    name: str
    steps: int
    observation_size: int
    action_size: int
    discrete: bool
    meta: HistoryMeta | None

    def read(self, start: int, stop: int) -> Transitions:
        """Return the steps from `start` to before `stop`.

        Raises:
            GlaError: a number that is not finite (array and step are named), damage.
        """
        ...


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a file or data set of transitions.

    Args:
        path: `.npz`, `.hdf5` or `.h5` file, folder of a Minari data set, or `minari:NAME`.

    Raises:
        GlaError: there is none, it is of no known kind, an array is missing or misshapen, arrays
            differ in length, it holds no step, or a package is not installed.
    """
    text = os.fspath(path)
    if text.startswith(MINARI):
        return _open_minari(text, text.removeprefix(MINARI))
    file = Path(text)
    if file.is_dir():
        return _open_minari(text, file)
    if file.suffix.lower() not in (*NPZ, *HDF5):
        raise GlaError(
            f"{text} is of no known kind",
            f"a {', '.join((*NPZ, *HDF5))} file, a Minari data set's folder, or minari:NAME",
        )
    if not file.is_file():
        raise GlaError(f"there is no file {text}", mend="check the path")
    columns, meta = (open_npz if file.suffix.lower() in NPZ else _open_hdf5)(file)
    return _Columns(text, columns, meta)


def require(name: str, why: str) -> Any:
    """Import a package of the extra `minari`.

    Raises:
        GlaError: if it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise GlaError(f"{why} needs the package {name}", mend=f"run {EXTRA}") from None


def open_npz(file: Path) -> tuple[dict[str, Any], HistoryMeta | None]:
    """Open the arrays of an npz file: those that are not compressed stay on disk.

    Raises:
        GlaError: if it is damaged or no npz file.
    """
    columns: dict[str, Any] = {}
    meta = None
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # nothing checks what is mapped into memory
            if damaged:
                raise zipfile.BadZipFile(f"its part {damaged} fails its checksum")
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name == META:
                    with np.load(file, allow_pickle=False) as arrays:
                        meta = _meta(str(arrays[META]), file)
                else:
                    columns[name] = _npz_column(file, archive, member)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise GlaError(
            f"{file} cannot be read ({first_line(error)})", "an npz file of plain arrays"
        ) from None
    return columns, meta


def is_export(file: Path) -> bool:
    """Return whether a file is an npz export of a history store."""
    try:
        with zipfile.ZipFile(file) as archive:
            return f"{META}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _npz_column(file: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    """Map one array of an npz file, or return a function that reads it if it is compressed."""
    from numpy.lib import format as npy

    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        header = stream.tell()
    if dtype.hasobject:
        raise ValueError(f"array {member.filename.removesuffix('.npy')!r} holds Python objects")
    if member.compress_type != zipfile.ZIP_STORED or fortran or 0 in shape:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays[member.filename.removesuffix(".npy")]
    with file.open("rb") as raw:
        raw.seek(member.header_offset + 26)  # two lengths precede the file's name
        lengths = int.from_bytes(raw.read(2), "little") + int.from_bytes(raw.read(2), "little")
    start = member.header_offset + 30 + lengths + header
    return np.memmap(file, dtype, "r", start, shape)


def _open_hdf5(file: Path) -> tuple[dict[str, Any], HistoryMeta | None]:
    h5py = require("h5py", "reading HDF5")
    try:
        opened = h5py.File(file, "r")
        columns = {name: value for name, value in opened.items() if isinstance(value, h5py.Dataset)}
        text = opened.attrs.get(META)
    except (OSError, RuntimeError, KeyError) as error:
        raise GlaError(
            f"{file} cannot be read ({first_line(error)})", "an HDF5 file in D4RL's layout"
        ) from None
    return columns, None if text is None else _meta(str(text), file)


def _meta(text: str, where: object) -> HistoryMeta:
    try:
        return meta_from_attributes(dict(json.loads(text)), where)
    except (ValueError, KeyError, TypeError) as error:
        raise GlaError(
            f"{where} describes the store that it was exported from in an unknown way ({error})",
            "the description that `gla histories export` writes",
        ) from None


class _Columns:
    """Arrays side by side: flat as in D4RL, or [stream, update, step, ...] as in our npz files."""

    def __init__(self, name: str, columns: Mapping[str, Any], meta: HistoryMeta | None):
        self.name, self.meta = name, meta
        self._columns, lengths = {}, {}
        self._stream = 0  # steps of a stream, where the ends of streams are not marked
        for wanted, names in _NAMES.items():
            found = next((one for one in names if one in columns), None)
            if found is None and wanted == "timeouts":
                continue  # episodes only end where the task does
            if found is None:
                raise GlaError(
                    f"{name} has no array {wanted!r}",
                    "observations, actions, rewards and terminals, and timeouts where episodes "
                    "are cut",
                    f"it has {', '.join(sorted(columns)) or 'none'}",
                )
            column = columns[found]
            # Arrays over streams of our own exports become one row of steps.
            if meta is not None and found in STREAM_ARRAYS and len(column.shape) > 2:
                column = column.reshape(-1, *column.shape[3:])
                self._stream = meta.updates * meta.steps
            self._check(wanted, column)
            self._columns[wanted] = column
            lengths[wanted] = int(column.shape[0])
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{what} {count}" for what, count in lengths.items())
            raise GlaError(f"the arrays of {name} differ in length: {listed}", "one row per step")
        self.steps = lengths["rewards"]
        if not self.steps:
            raise GlaError(f"{name} is empty", "at least one step")
        actions = self._columns["actions"]
        self.observation_size = int(self._columns["observations"].shape[1])
        self.discrete = bool(np.issubdtype(actions.dtype, np.integer))
        flat = len(actions.shape) == 1
        self.action_size = 0 if self.discrete else 1 if flat else int(actions.shape[1])
        if self.discrete and not flat and actions.shape[1] != 1:
            raise GlaError(
                f"the actions of {name} are {actions.shape[1]} whole numbers each",
                "one whole number (a discrete action) or real numbers",
            )

    def _check(self, what: str, column: Any) -> None:
        shape, dtype = tuple(column.shape), column.dtype
        single = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
        fits = {"observations": len(shape) == 2, "actions": len(shape) in (1, 2)}.get(what, single)
        if not fits or 0 in shape[1:]:
            expected = {"observations": "[N, n]", "actions": "[N, k], or [N] if discrete"}
            raise GlaError(
                f"array {what!r} of {self.name} has shape {list(shape)}",
                f"shape {expected.get(what, '[N]')} with one row per step",
            )
        kinds = (np.integer, np.floating, np.bool_)
        if not any(np.issubdtype(dtype, kind) for kind in kinds):
            raise GlaError(f"array {what!r} of {self.name} is of type {dtype}", "real numbers")

    def read(self, start: int, stop: int) -> Transitions:
        """Return the steps from `start` to before `stop`."""

        def cut(what: str) -> np.ndarray:
            try:
                return np.asarray(self._columns[what][start:stop])
            except (OSError, RuntimeError, ValueError) as error:
                raise GlaError(
                    f"array {what!r} of {self.name} cannot be read ({first_line(error)})"
                ) from None

        missing = np.zeros(stop - start, bool)
        timeouts = cut("timeouts") if "timeouts" in self._columns else missing
        columns = [*(cut(what) for what in list(_NAMES)[:4]), timeouts]
        found = _transitions(self.name, start, columns, self.discrete)
        if self._stream:
            ends = slice(-(start + 1) % self._stream, None, self._stream)
            found.truncated[ends] |= ~found.terminated[ends]
        return found


def _transitions(
    name: str, start: int, columns: Sequence[np.ndarray], discrete: bool
) -> Transitions:
    """Give arrays of a slice, in the order of `_NAMES`, their types; see that all are finite."""
    observations, actions, rewards, terminals, timeouts = columns
    rows = len(rewards)

    def real(what: str, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, np.float32)
        if not np.isfinite(values).all():
            bad = np.argwhere(~np.isfinite(values))[0]
            raise GlaError(
                f"{what} of {name} are not finite at step {start + bad[0]} ({values[tuple(bad)]})",
                "finite numbers that a float32 can hold",
            )
        return values

    if discrete:
        action: np.ndarray = np.asarray(actions).reshape(rows)
        if action.size and not (action.min() >= 0 and action.max() < 2**31):
            raise GlaError(
                f"the actions of {name} go from {action.min()} to {action.max()}",
                "discrete actions counted from 0",
            )
        action = action.astype(np.int32)
    else:
        action = real("actions", actions).reshape(rows, -1)
    return Transitions(
        real("observations", observations),
        action,
        real("rewards", rewards).reshape(rows),
        real("terminals", terminals).reshape(rows) != 0,
        real("timeouts", timeouts).reshape(rows) != 0,
    )


def _open_minari(name: str, where: str | Path) -> Source:
    if isinstance(where, Path) and not any(
        (where / inside / "metadata.json").is_file() for inside in ("data", ".")
    ):
        raise GlaError(
            f"{name} is a folder, but no Minari data set (it has no data/metadata.json)",
            "a Minari data set's folder",
            "to join stores of histories, use `gla histories merge`",
        )
    minari = require("minari", "reading a Minari data set")
    require("h5py", "reading a Minari data set")
    try:
        if isinstance(where, Path):
            inside = where / "data"
            dataset = minari.MinariDataset(inside if inside.is_dir() else where)
        else:
            dataset = minari.load_dataset(where)
    except FileNotFoundError:
        known = minari.list_local_datasets()
        raise GlaError(
            f"there is no Minari data set {where!r} on this machine"
            f"{near_matches(str(where), known)}",
            mend=f"run `minari download {where}`, or give its folder",
        ) from None
    except (ValueError, OSError, KeyError, ImportError, AssertionError) as error:
        raise GlaError(f"the Minari data set {name} cannot be read ({first_line(error)})") from None
    return _Minari(name, dataset)


class _Minari:
    """Episodes one after the other; each one's last observation, which no action saw, is left out.

    Args:
        name: for messages.
        dataset: a `minari.MinariDataset`.
    """

    def __init__(self, name: str, dataset: Any):
        self.name, self._dataset = name, dataset
        text = dataset.storage.metadata.get(META)
        self.meta = None if text is None else _meta(text, name)
        lengths = [
            int(one["total_steps"])
            for one in dataset.storage.get_episode_metadata(dataset.episode_indices)
        ]
        self._ends = np.cumsum([0, *lengths])
        self.steps = int(self._ends[-1])
        if not self.steps:
            raise GlaError(f"{name} is empty", "at least one step")
        seen, space = dataset.observation_space, dataset.action_space
        self._first_action = int(getattr(space, "start", 0))
        self.discrete = type(space).__name__ == "Discrete"
        if type(seen).__name__ != "Box" or len(seen.shape) != 1:
            raise GlaError(f"observations of {name} are {seen}", "a Box of shape (n,)")
        if not self.discrete and (type(space).__name__ != "Box" or len(space.shape) != 1):
            raise GlaError(f"actions of {name} are {space}", "a Box of shape (k,), or Discrete")
        self.observation_size = int(seen.shape[0])
        self.action_size = 0 if self.discrete else int(space.shape[0])

    def read(self, start: int, stop: int) -> Transitions:
        """Return the steps from `start` to before `stop`."""
        first = int(np.searchsorted(self._ends, start, "right")) - 1
        last = int(np.searchsorted(self._ends, stop, "left"))
        numbers = self._dataset.episode_indices[first:last]
        parts = []
        try:
            for number, episode in enumerate(self._dataset.iterate_episodes(numbers), first):
                begin = int(self._ends[number])
                cut = slice(max(start - begin, 0), min(stop - begin, len(episode.rewards)))
                columns = (
                    episode.observations, episode.actions, episode.rewards, episode.terminations,
                    episode.truncations,
                )  # fmt: skip
                parts.append([np.asarray(column)[cut] for column in columns])
            joined: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
        except (ValueError, OSError, KeyError, RuntimeError, AssertionError) as error:
            raise GlaError(
                f"the Minari data set {self.name} cannot be read ({first_line(error)})"
            ) from None
        if any(len(column) != stop - start for column in joined):
            raise GlaError(f"the arrays of {self.name} differ in length", "one row per step")
        if self.discrete:
            joined[1] = joined[1] - self._first_action
        return _transitions(self.name, start, joined, self.discrete)


def is_minari_name(name: str) -> bool:
    """Return whether Minari takes this as the name of a data set, its version included."""
    return re.fullmatch(r"([-\w]+/)*[-\w]+-v\d+", name) is not None
