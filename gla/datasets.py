"""Labelled data sets as plain arrays: what classification tasks are made of.

Nothing is downloaded unless an `openml:` name is asked for. `load` reads, by name or path,

| name | what | where it is |
|---|---|---|
| `digits` | 1,797 grey images of 8 x 8 | inside scikit-learn |
| `mnist`, `fashion-mnist`, any bare name | what was put there | `folder`: `NAME.npz` or `NAME/` |
| `some/where.npz` | arrays, see `load` | that file |
| `some/where/` | IDX files, plain or gzipped | that folder |
| `openml:NAME`, `openml:NAME@VERSION` | any data set of openml.org | fetched by scikit-learn |

`folder` is an argument or the environment variable `GLA_DATA`. Data sets without a test part of
their own are split once and for all, the same way on every machine.
"""

from __future__ import annotations

import functools
import gzip
import math
import os
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from gla.errors import GlaError, near_matches

Part = Literal["train", "test"]
Normalize = Literal["standard", "feature", "range", "none"]

FOLDER_VARIABLE = "GLA_DATA"
TEST_FRACTION = 0.25  # of data sets that bring no test part

_OPENML = "openml:"
_KNOWN = ("digits", "mnist", "fashion-mnist")
_ROWS = 4096  # examples that are worked on at once, to keep float copies small
# (train inputs, train labels, test inputs, test labels); the last two may be missing.
_NPZ_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("inputs", "labels", "test_inputs", "test_labels"),
)
_IDX_NAME = re.compile(
    r"(?P<set>.*?)(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx\d-ubyte(?P<gz>\.gz)?"
)
_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@dataclass(frozen=True, eq=False)
class Dataset:
    """One part of a labelled data set; its arrays cannot be written to.

    Attributes:
        name: what it was loaded as.
        part: `train` or `test`.
        values: u8[N, D] or f32[N, D], the inputs as stored, flattened and not yet scaled.
        labels: i32[N], classes as numbers from 0 to `classes` - 1.
        class_names: the label that stood for each class, in the order of the class numbers: numbers
            ascending, or strings in alphabetical order. Both parts share it.
        shape: of one input before it was flattened, such as (28, 28); its product is D.
        offset: f32[] or f32[D], see `scaled`; measured on the training part only.
        scale: f32[] or f32[D], positive.
    """

    name: str
    part: Part
    values: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    offset: np.ndarray
    scale: np.ndarray

    def __len__(self) -> int:
        """Return N, the number of examples."""
        return len(self.labels)

    @property
    def classes(self) -> int:
        """The number of classes, of both parts together."""
        return len(self.class_names)

    @property
    def size(self) -> int:
        """D, the length of an input."""
        return self.values.shape[1]

    @functools.cached_property
    def inputs(self) -> np.ndarray:
        """All inputs, scaled, f32[N, D]; made at the first use and kept (four times u8 values)."""
        inputs = self.scaled(self.values)
        inputs.setflags(write=False)
        return inputs

    def scaled(self, values: Any) -> Any:
        """Return (values - offset) / scale for some rows of `values`.

        A batch sampler can hold `values` on its device as bytes and scale only what it has drawn.

        Args:
            values: u8[..., D] or f32[..., D], of NumPy or JAX.

        Returns:
            f32[..., D], of the same library.
        """
        return (values.astype(np.float32) - self.offset) / self.scale

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """(height, width) or (height, width, 3) of an input that can be seen as an image, or None.

        Flat inputs whose length is a square number are read as square images, row by row.
        """
        return _image_shape(self.shape)

    def image(self, index: int) -> np.ndarray:
        """Return an example as an image, u8[height, width] or u8[height, width, 3].

        Grey levels span the smallest to the largest value of that example.

        Args:
            index: number of the example, from 0 to N - 1.

        Raises:
            GlaError: if the inputs are not images, or there is no such example.
        """
        shape = self.image_shape
        if shape is None:
            raise GlaError(f"the inputs of {self.name} have shape {self.shape}", "images")
        if not 0 <= index < len(self):
            raise GlaError(f"example {index} was asked for", f"a number from 0 to {len(self) - 1}")
        values = self.values[index].reshape(shape)
        low, high = float(values.min()), float(values.max())
        return np.round(255.0 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)


class _Raw(NamedTuple):
    """Arrays as they were read: inputs [N, ...], labels [N], and perhaps a test part of both."""

    inputs: np.ndarray
    labels: np.ndarray
    test_inputs: np.ndarray | None = None
    test_labels: np.ndarray | None = None


def load(
    name: str | os.PathLike[str],
    part: Part = "train",
    *,
    folder: str | os.PathLike[str] | None = None,
    resize: int | None = None,
    normalize: Normalize = "standard",
) -> Dataset:
    """Read one part of a data set.

    An `.npz` file holds `x_train` [N, ...], `y_train` [N] and, if there is a test part, `x_test`,
    `y_test` (the names that Keras uses), or the same four as `inputs`, `labels`, `test_inputs`,
    `test_labels`. A folder holds IDX files named as MNIST's: `train-images-idx3-ubyte`,
    `train-labels-idx1-ubyte` and, for the test part, `t10k-` (or `test-`), each with or without
    `.gz`. Without a test part, a quarter of the examples becomes it (`TEST_FRACTION`).

    Args:
        name: a name (see the table above), or the path of an `.npz` file or of a folder; a string
            without a path separator is a path only if it ends in `.npz`.
        part: `train` or `test`.
        folder: where bare names are looked for (default: the environment variable `GLA_DATA`).
        resize: bring images to this height and width by area averaging.
        normalize: how `inputs` are scaled, always by statistics of the training part. `standard`:
            by one mean and standard deviation over all examples and pixels (GPICL, appendix A.6);
            `feature`: each input number by its own, for tables of unlike columns; `range`: to
            [0, 1]; `none`: not at all.

    Raises:
        GlaError: if there is no such data set, a file is missing or damaged, shapes do not agree,
            labels are not classes, an input is not finite, or a setting does not fit.
    """
    text = os.fspath(name)
    if not isinstance(name, str):
        raw = _read_path(Path(name))
    elif text.startswith(_OPENML):
        raw = _read_openml(text.removeprefix(_OPENML))
    elif text.endswith(".npz") or "/" in text or os.sep in text:
        raw = _read_path(Path(text).expanduser())
    elif text == "digits":
        raw = _read_digits()
    else:
        raw = _read_path(_find(text, data_folder(folder)))
    return from_arrays(text, *raw, part=part, resize=resize, normalize=normalize)


def data_folder(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the folder of data sets: the argument, or `GLA_DATA`, or None if neither is given."""
    given = os.environ.get(FOLDER_VARIABLE) if folder is None else os.fspath(folder)
    return Path(given).expanduser() if given else None


def from_arrays(
    name: str,
    inputs: Any,
    labels: Any,
    test_inputs: Any = None,
    test_labels: Any = None,
    *,
    part: Part = "train",
    resize: int | None = None,
    normalize: Normalize = "standard",
) -> Dataset:
    """Make a data set of arrays that are already in memory.

    Args:
        name: for messages.
        inputs: numbers [N, ...], flattened to [N, D].
        labels: whole numbers or strings, [N] or [N, 1].
        test_inputs: numbers [M, ...] of the same shape after the first axis, or None.
        test_labels: [M] or [M, 1], or None; both or neither.
        part: `train` or `test`.
        resize: as in `load`.
        normalize: as in `load`.

    Raises:
        GlaError: as `load`.
    """
    for what, value, allowed in (("part", part, Part), ("normalize", normalize, Normalize)):
        if value not in get_args(allowed):
            raise GlaError(f"{what} is {value!r}", "one of " + ", ".join(get_args(allowed)))
    if (test_inputs is None) != (test_labels is None):
        raise GlaError(f"{name} has test inputs or test labels alone", "both or neither")
    values, shape = _check_inputs(name, inputs)
    raw_labels = _check_labels(name, labels, len(values))
    if test_inputs is None:
        if len(values) < 2:
            raise GlaError(f"{name} has 1 example", "at least 2, to split off a test part")
        # The raw stream of a bit generator never changes between versions of NumPy.
        order = np.argsort(np.random.PCG64(0).random_raw(len(values)), kind="stable")
        cut = max(round(TEST_FRACTION * len(values)), 1)
        rows = {"test": np.sort(order[:cut]), "train": np.sort(order[cut:])}
        parts = {key: (values[at], raw_labels[at]) for key, at in rows.items()}
    else:
        test_values, test_shape = _check_inputs(f"the test part of {name}", test_inputs)
        if test_shape != shape:
            raise GlaError(
                f"{name} has training inputs of shape {shape} and test inputs of {test_shape}",
                "one shape",
            )
        test_raw = _check_labels(f"the test part of {name}", test_labels, len(test_values))
        if test_raw.dtype.kind != raw_labels.dtype.kind:
            raise GlaError(
                f"{name} has training labels of type {raw_labels.dtype} and test labels of "
                f"{test_raw.dtype}",
                "one type",
            )
        parts = {"train": (values, raw_labels), "test": (test_values, test_raw)}
    kept = np.unique(np.concatenate([parts["train"][1], parts["test"][1]]))
    if len(kept) < 2:
        raise GlaError(f"every label of {name} is {kept[0]}", "at least two classes")
    train, chosen = parts["train"][0], parts[part][0]
    if resize is not None:
        # The statistics are those of the resized training images, whichever part is wanted.
        train = _resize(name, train, shape, resize)
        chosen = train if part == "train" else _resize(name, chosen, shape, resize)
        shape = (resize, resize, *(_image_shape(shape) or ())[2:])
    offset, scale = _statistics(name, train, normalize)
    numbers = np.searchsorted(kept, parts[part][1]).astype(np.int32)
    chosen = np.ascontiguousarray(chosen)
    for array in (chosen, numbers, offset, scale):
        array.setflags(write=False)
    names = tuple(str(label) for label in kept)
    return Dataset(name, part, chosen, numbers, names, shape, offset, scale)


def _array(value: Any) -> np.ndarray:
    """Return an array; nested lists of unequal lengths become one of objects, refused later."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.asarray(value, object)


def _check_inputs(name: str, inputs: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return inputs as u8[N, D] or f32[N, D], a copy, and the shape of one."""
    array = _array(inputs)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype.kind not in "uif":
        raise GlaError(f"the inputs of {name} are of type {array.dtype}", "numbers")
    if array.ndim < 2 or array.size == 0:
        raise GlaError(
            f"the inputs of {name} have shape {array.shape}",
            "(examples, numbers) or (examples, height, width), none of them 0",
        )
    shape = tuple(int(n) for n in array.shape[1:])
    flat = array.reshape(len(array), -1)
    if flat.dtype == np.uint8:
        return flat.copy(), shape
    # Written in blocks: float64 tables can be as large as the memory.
    values = np.empty(flat.shape, np.float32)
    bytes_only = True
    for start in range(0, len(flat), _ROWS):
        block = flat[start : start + _ROWS]
        with np.errstate(over="ignore"):  # what float32 cannot hold is reported below
            values[start : start + _ROWS] = block
        finite = np.isfinite(values[start : start + _ROWS])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise GlaError(
                f"{name} has an input that is {block[row, column]} (example {start + row}, "
                f"number {column})",
                "finite numbers",
                "fill in or leave out what is missing",
            )
        bytes_only &= bool(((block >= 0) & (block <= 255) & (block == np.floor(block))).all())
    return (values.astype(np.uint8) if bytes_only else values), shape


def _check_labels(name: str, labels: Any, count: int) -> np.ndarray:
    """Return labels as i64[N], or as strings [N] where they are not numbers."""
    array = _array(labels)
    if array.shape == (count, 1):
        array = array[:, 0]
    if array.shape != (count,):
        raise GlaError(
            f"{name} has {count} inputs and labels of shape {array.shape}", f"labels of ({count},)"
        )
    if array.dtype.kind in "OSU":
        listed = array.tolist()
        for i, label in enumerate(listed):
            if label is None or label != label:
                raise GlaError(f"{name} has no label for example {i}", "a label for every example")
        words = np.array([_plain(label) for label in listed])
        try:
            return words.astype(np.int64)  # OpenML stores digits as strings: sort them as numbers
        except ValueError:
            return words
    if array.dtype.kind not in "buif":
        raise GlaError(f"the labels of {name} are of type {array.dtype}", "numbers or strings")
    with np.errstate(invalid="ignore"):
        whole = array.astype(np.int64)
    wrong = np.flatnonzero(whole != array)
    if len(wrong):
        raise GlaError(
            f"{name} has a label that is {array[wrong[0]]} (example {wrong[0]})",
            "whole numbers or strings, one for each class",
        )
    return whole


def _plain(label: Any) -> str:
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)


def _statistics(name: str, values: np.ndarray, normalize: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (offset, scale) of a training part, each f32[] or f32[D]."""
    if normalize == "none":
        return np.zeros((), np.float32), np.ones((), np.float32)
    if normalize == "range":
        low, high = float(values.min()), float(values.max())
        offset, scale = np.asarray(low), np.asarray(high - low)
    else:
        axis = 0 if normalize == "feature" else None
        count = len(values) if normalize == "feature" else values.size
        blocks = [values[start : start + _ROWS] for start in range(0, len(values), _ROWS)]
        offset = sum(block.sum(axis, dtype=np.float64) for block in blocks) / np.float64(count)
        squares = sum(np.square(block - offset).sum(axis) for block in blocks)
        scale = np.sqrt(squares / count)
    if np.max(scale) <= 0:
        raise GlaError(f"all inputs of {name} are equal", "inputs that differ")
    # A column that never varies in training carries nothing: it is only shifted to 0.
    scale = np.where(scale > 1e-6 * np.abs(offset), scale, 1.0)
    return np.array(offset, np.float32), np.array(scale, np.float32)


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 3):
        return shape
    side = math.isqrt(shape[0])
    return (side, side) if len(shape) == 1 and side > 1 and side * side == shape[0] else None


def _resize(name: str, values: np.ndarray, shape: tuple[int, ...], side: int) -> np.ndarray:
    """Average images over the cells of a `side` x `side` grid, f32[N, side * side (* 3)].

    Cells may cover fractions of pixels, which then count by the area covered.
    """
    if isinstance(side, bool) or not isinstance(side, (int, np.integer)) or side < 1:
        raise GlaError(f"resize is {side!r}", "a whole number of at least 1")
    image = _image_shape(shape)
    if image is None:
        raise GlaError(
            f"the inputs of {name} have shape {shape} and cannot be resized",
            "images of (height, width) or (height, width, 3)",
            "leave out resize",
        )
    rows, columns = _overlaps(image[0], side), _overlaps(image[1], side)
    full = (*image, 1)[:3]
    resized = np.empty((len(values), side * side * full[2]), np.float32)
    for start in range(0, len(values), _ROWS):
        block = values[start : start + _ROWS].astype(np.float32).reshape(-1, *full)
        block = np.einsum("rh,nhwc,sw->nrsc", rows, block, columns, optimize=True)
        resized[start : start + _ROWS] = block.reshape(len(block), -1)
    return resized


def _overlaps(old: int, new: int) -> np.ndarray:
    """Return the share of each old pixel in each new one along an axis, f32[new, old]."""
    low = np.arange(new)[:, None] * old / new
    pixel = np.arange(old)[None, :]
    covered = np.minimum(low + old / new, pixel + 1) - np.maximum(low, pixel)
    return (np.clip(covered, 0.0, None) * new / old).astype(np.float32)


def _read_digits() -> _Raw:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise GlaError(
            f"digits comes with scikit-learn, which cannot be imported ({error})",
            mend="pip install scikit-learn",
        ) from error
    digits = load_digits()
    return _Raw(digits.images, digits.target)


def _read_openml(name: str) -> _Raw:
    """Fetch a data set from openml.org, or read it from scikit-learn's cache."""
    from http.client import HTTPException
    from urllib.error import URLError

    try:
        from sklearn.datasets import fetch_openml
    except ImportError as error:
        raise GlaError(
            f"OpenML data are read by scikit-learn, which cannot be imported ({error})",
            mend="pip install scikit-learn",
        ) from error
    bare, _, version = name.partition("@")
    if not bare or (version and not version.isdigit()):
        raise GlaError(f"the data set is {_OPENML}{name}", "openml:NAME or openml:NAME@VERSION")
    try:
        bunch = fetch_openml(
            bare, version=int(version) if version else "active", as_frame=False, n_retries=1
        )
    except (URLError, HTTPException, OSError, ValueError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise GlaError(
            f"{_OPENML}{name} cannot be fetched ({reason})",
            "the name of a data set of openml.org and a way to reach it",
            "check the name and the network, or give the path of an .npz file",
        ) from error
    if bunch.target is None:
        raise GlaError(f"{_OPENML}{name} has no default target column", "a classification data set")
    inputs = bunch.data.toarray() if hasattr(bunch.data, "toarray") else bunch.data
    return _Raw(inputs, bunch.target)


def _find(name: str, folder: Path | None) -> Path:
    """Return the `.npz` file or the folder that a bare name stands for."""
    listed = () if folder is None else _listing(folder)
    hint = "" if name in _KNOWN else near_matches(name, {*_KNOWN, *listed})
    if folder is None:
        raise GlaError(
            f"the data set {name} is not part of the package{hint}",
            "digits, a name in the folder of data sets, a path, or openml:NAME",
            f"name the folder with {FOLDER_VARIABLE} or the setting `folder`",
        )
    for path in (folder / f"{name}.npz", folder / name):
        if path.exists():
            return path
    raise GlaError(
        f"the data set {name} is not in {folder}{hint}",
        f"the file {name}.npz or the folder {name} with IDX files in it",
    )


def _listing(folder: Path) -> list[str]:
    """Return the names of what looks like a data set in a folder."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise GlaError(
            f"the folder of data sets {folder} cannot be read ({error.strerror})",
            "a folder",
            f"check {FOLDER_VARIABLE} or the setting `folder`",
        ) from error
    return [p.stem if p.suffix == ".npz" else p.name for p in entries if _is_data(p)]


def _is_data(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".npz"


def _read_path(path: Path) -> _Raw:
    if path.is_dir():
        return _read_idx_folder(path)
    if path.suffix != ".npz" or not path.exists():
        raise GlaError(f"there is no data set at {path}", "an .npz file or a folder of IDX files")
    return _read_npz(path)


def _read_npz(path: Path) -> _Raw:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is a single array")
        with loaded as file:
            names = next((keys for keys in _NPZ_KEYS if set(keys[:2]) <= set(file)), None)
            if names is None:
                raise GlaError(
                    f"{path} holds the arrays {', '.join(file) or 'none'}",
                    "x_train and y_train (with x_test and y_test), or inputs and labels (with "
                    "test_inputs and test_labels)",
                )
            first, second, *rest = names
            tests = [file[key] for key in rest if key in file]
            if len(tests) == 1:
                raise GlaError(f"{path} holds one of {' and '.join(rest)}", "both or neither")
            return _Raw(file[first], file[second], *tests)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise GlaError(
            f"{path} cannot be read ({error})", "an .npz file of plain arrays"
        ) from error


def _read_idx_folder(folder: Path) -> _Raw:
    """Read the four (or two) IDX files of a folder."""
    found: dict[tuple[str, str], Path] = {}
    sets = set()
    # Sorted, so that a plain file comes before its gzipped copy.
    for path in sorted(folder.iterdir()):
        match = _IDX_NAME.fullmatch(path.name)
        if match is None:
            continue
        sets.add(match["set"])
        part = "train" if match["part"] == "train" else "test"
        found.setdefault((part, match["what"]), path)
    if len(sets) > 1:
        raise GlaError(
            f"{folder} holds the IDX files of {len(sets)} data sets ({', '.join(sorted(sets))})",
            "those of one",
        )
    needed = [("train", "images"), ("train", "labels")]
    if any(part == "test" for part, _ in found):
        needed += [("test", "images"), ("test", "labels")]
    names = {"train": "train", "test": "t10k"}
    for part, what in needed:
        if (part, what) not in found:
            digit = 3 if what == "images" else 1
            raise GlaError(
                f"{folder} has no IDX file of the {part} {what}",
                f"{names[part]}-{what}-idx{digit}-ubyte, with or without .gz",
            )
    return _Raw(*(read_idx(found[key]) for key in needed))


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one IDX file, plain or gzipped: the format of the original MNIST files.

    Args:
        path: of the file.

    Returns:
        The array in the byte order of this machine.

    Raises:
        GlaError: if the file cannot be read or is no complete IDX file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise GlaError(f"{path} cannot be read ({reason})", "an IDX file") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise GlaError(f"{path} starts with {content[:4].hex() or 'nothing'}", "an IDX file")
    dtype, ndim = np.dtype(_IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist()) if len(content) >= start else ()
    expected = start + dtype.itemsize * math.prod(shape)
    if ndim == 0 or len(content) != expected:
        raise GlaError(
            f"{path} holds {len(content)} bytes", f"the {expected} that its header announces"
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))
