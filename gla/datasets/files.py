"""Data sets on the disk: `.npz` files and folders in the forms in which some are handed out.

| a folder with | is read as |
|---|---|
| `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...` or `test-...`, or `.gz` | IDX |
| `data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin` | CIFAR-10, binary version |
| `train_32x32.mat`, `test_32x32.mat` | SVHN, cropped digits |
| `NAME-train-imgs.npz`, `NAME-train-labels.npz`, `NAME-test-...` | KMNIST and its kin |
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gla.errors import GlaError
from gla.files import os_errors

# (train inputs, train labels, test inputs, test labels); the last two may be missing.
_NPZ_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("inputs", "labels", "test_inputs", "test_labels"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images", "labels", "test_images", "test_labels"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("X", "y", "X_test", "y_test"),
    ("x", "y", "x_test", "y_test"),
)
_FEATURES = "features"
_IDX_NAME = re.compile(
    r"(?P<set>.*?)(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx\d-ubyte(?P<gz>\.gz)?"
)
_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_NPZ_NAME = re.compile(r"(?P<set>.*?)(?P<part>train|test)-(?P<what>imgs|labels)\.npz")
_CIFAR_NAMES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
_CIFAR_SHAPE = (3, 32, 32)
_SVHN_NAMES = ("train_32x32.mat", "test_32x32.mat")
_SVHN_SHAPE = (32, 32, 3)
# What reading damaged archives was seen to raise: SciPy and NumPy pass on what their parsers meet.
_DAMAGE = (
    OSError, ValueError, TypeError, LookupError, EOFError, RuntimeError, MemoryError, OverflowError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Raw(NamedTuple):
    """Arrays as they were read.

    Attributes:
        arrays: inputs [N, ...], labels [N] or [N, 1] and, if there is a test part, both of that.
        features: whether the inputs are known not to be images.
    """

    arrays: Sequence[Any]
    features: bool = False


def read_path(path: Path) -> Raw:
    """Read an `.npz` file or a folder.

    Raises:
        GlaError: if there is no data set, or a file of it is missing or damaged.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix != ".npz" or not path.exists():
        raise GlaError(
            f"there is no data set at {path}", "an .npz file, or a folder of files that are known"
        )
    return read_npz(path)


def _load_npz(path: Path) -> Any:
    """Open an `.npz` file of plain arrays."""
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        raise ValueError("it is a single array")
    return loaded


def read_npz(path: Path) -> Raw:
    """Read an `.npz` file, see `gla.datasets.load`.

    Raises:
        GlaError: if it cannot be read, or holds other arrays.
    """
    try:
        with _load_npz(path) as file:
            names = next((keys for keys in _NPZ_KEYS if set(keys[:2]) <= set(file)), None)
            if names is None:
                raise GlaError(
                    f"{path} holds the arrays {', '.join(file) or 'none'}",
                    "x_train and y_train (with x_test and y_test), or inputs and labels (with "
                    "test_inputs and test_labels), or usual variants of these",
                )
            tests = [key for key in names[2:] if key in file]
            if len(tests) == 1:
                raise GlaError(f"{path} holds one of {' and '.join(names[2:])}", "both or neither")
            arrays = [file[key] for key in (*names[:2], *tests)]
            return Raw(arrays, _FEATURES in file and bool(file[_FEATURES].any()))
    except _DAMAGE as error:
        raise GlaError(
            f"{path} cannot be read ({error})", "an .npz file of plain arrays"
        ) from error


def write_npz(path: Path, raw: Raw) -> None:
    """Write what `read_npz` reads, atomically; the folder is made if needed.

    Raises:
        GlaError: if it cannot be written.
    """
    arrays = dict(zip(_NPZ_KEYS[0][: len(raw.arrays)], raw.arrays, strict=True))
    if raw.features:
        arrays[_FEATURES] = np.array(True)
    with os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _read_folder(folder: Path) -> Raw:
    """Read the files of a folder by what their names announce."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise GlaError(f"{folder} cannot be read ({error.strerror})", "a folder") from error
    forms: dict[str, tuple[Callable[[str], Any], Callable[[Path, list[str]], Raw]]] = {
        "IDX": (_IDX_NAME.fullmatch, _read_idx_folder),
        "CIFAR-10": (_CIFAR_NAMES.__contains__, _read_cifar),
        "SVHN": (_SVHN_NAMES.__contains__, _read_svhn),
        "KMNIST": (_NPZ_NAME.fullmatch, _read_npz_folder),
    }
    found = [form for form, (known, _) in forms.items() if any(known(name) for name in names)]
    if not found:
        raise GlaError(
            f"{folder} holds no files of a data set",
            f"IDX files such as train-images-idx3-ubyte, CIFAR-10's {_CIFAR_NAMES[0]}, SVHN's "
            f"{_SVHN_NAMES[0]}, or KMNIST's kmnist-train-imgs.npz",
        )
    if len(found) > 1:
        raise GlaError(f"{folder} holds files of the forms {' and '.join(found)}", "those of one")
    known, read = forms[found[0]]
    return read(folder, [name for name in names if known(name)])


def _four(
    folder: Path,
    names: list[str],
    pattern: re.Pattern[str],
    kind: str,
    expected: Callable[[bool, bool], str],
) -> list[Path]:
    """Find the inputs and labels of a training part and, if there is any of it, a test part.

    Args:
        folder: where they lie.
        names: of files that match, sorted, so that a plain file comes before its gzipped copy.
        pattern: with groups `set`, `part` and `what`.
        kind: of the files, for messages.
        expected: the name of a missing one, given whether it is of the test part and of labels.
    """
    found: dict[tuple[bool, bool], Path] = {}
    sets = set()
    for name in names:
        match = pattern.fullmatch(name)
        assert match is not None
        sets.add(match["set"])
        found.setdefault((match["part"] != "train", match["what"] == "labels"), folder / name)
    if len(sets) > 1:
        raise GlaError(
            f"{folder} holds the {kind} files of {len(sets)} data sets ({', '.join(sorted(sets))})",
            "those of one",
        )
    parts = (False, True) if any(test for test, _ in found) else (False,)
    needed = [(test, labels) for test in parts for labels in (False, True)]
    for test, labels in needed:
        if (test, labels) not in found:
            what = f"{'test' if test else 'train'} {'labels' if labels else 'images'}"
            raise GlaError(f"{folder} has no {kind} file of the {what}", expected(test, labels))
    return [found[key] for key in needed]


def _read_idx_folder(folder: Path, names: list[str]) -> Raw:
    """Read the four (or two) IDX files of a folder."""

    def expected(test: bool, labels: bool) -> str:
        what = "labels-idx1" if labels else "images-idx3"
        return f"{'t10k' if test else 'train'}-{what}-ubyte, with or without .gz"

    return Raw([read_idx(path) for path in _four(folder, names, _IDX_NAME, "IDX", expected)])


def _read_npz_folder(folder: Path, names: list[str]) -> Raw:
    """Read the four (or two) files of KMNIST or a data set like it, each with one array."""

    def expected(test: bool, labels: bool) -> str:
        what = "labels" if labels else "imgs"
        return f"a name that ends in {'test' if test else 'train'}-{what}.npz"

    return Raw([_read_array(path) for path in _four(folder, names, _NPZ_NAME, ".npz", expected)])


def _read_array(path: Path) -> np.ndarray:
    """Read the only array of an `.npz` file."""
    try:
        with _load_npz(path) as file:
            if list(file) != ["arr_0"]:
                raise GlaError(f"{path} holds the arrays {', '.join(file) or 'none'}", "arr_0")
            return file["arr_0"]
    except _DAMAGE as error:
        raise GlaError(f"{path} cannot be read ({error})", "an .npz file of one array") from error


def _complete(folder: Path, names: list[str], needed: tuple[str, ...]) -> list[Path]:
    """Return the paths of the needed files."""
    missing = [name for name in needed if name not in names]
    if missing:
        raise GlaError(f"{folder} has no {missing[0]}", "the files " + ", ".join(needed))
    return [folder / name for name in needed]


def _read_cifar(folder: Path, names: list[str]) -> Raw:
    """Read the binary version of CIFAR-10: rows of a label and the three planes of an image."""
    inputs, labels = [], []
    for path in _complete(folder, names, _CIFAR_NAMES):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise GlaError(f"{path} cannot be read ({error.strerror})", "a file") from error
        row = 1 + math.prod(_CIFAR_SHAPE)
        if not content or len(content) % row:
            raise GlaError(f"{path} holds {len(content)} bytes", f"a multiple of {row}")
        rows = np.frombuffer(content, np.uint8).reshape(-1, row)
        if rows[:, 0].max() > 9:
            raise GlaError(f"{path} holds the label {rows[:, 0].max()}", "labels from 0 to 9")
        inputs.append(rows[:, 1:].reshape(-1, *_CIFAR_SHAPE))
        labels.append(rows[:, 0])
    return Raw([np.concatenate(inputs[:-1]), np.concatenate(labels[:-1]), inputs[-1], labels[-1]])


def _read_svhn(folder: Path, names: list[str]) -> Raw:
    """Read the cropped digits of SVHN, in which 10 stands for the digit 0."""
    import scipy.io

    arrays = []
    for path in _complete(folder, names, _SVHN_NAMES):
        try:
            content = scipy.io.loadmat(path, variable_names=("X", "y"))
            images, labels = content["X"], content["y"]
        except (*_DAMAGE, scipy.io.matlab.MatReadError) as error:
            raise GlaError(
                f"{path} cannot be read ({error})", "a MATLAB file with the arrays X and y"
            ) from error
        shape = (*_SVHN_SHAPE, labels.size)
        if images.shape != shape:
            raise GlaError(
                f"{path} holds images of shape {images.shape} for {labels.size} labels", f"{shape}"
            )
        if not np.isin(labels, np.arange(1, 11)).all():
            raise GlaError(f"{path} holds labels other than 1 to 10", "those of SVHN's digits")
        arrays += [np.moveaxis(images, -1, 0), labels.reshape(-1) % 10]
    return Raw(arrays)


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
