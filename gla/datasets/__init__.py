"""Labelled data sets as plain arrays: what classification tasks are made of.

Nothing is downloaded unless an `openml:` name is asked for. `load` reads, by name or path,

| name | what | where it is |
|---|---|---|
| `digits` | 1,797 grey images of 8 x 8 | inside scikit-learn |
| `random` | 20 points of noise to be memorised, see `random_points` | drawn when asked for |
| `mnist`, `kmnist`, any bare name | what was put there | `folder`: `NAME.npz` or `NAME/` |
| `some/where.npz` | arrays, see `load` | that file |
| `some/where/` | files of the forms that `gla.datasets.files` lists | that folder |
| `openml:NAME`, `openml:NAME@VERSION` | any data set of openml.org | fetched by scikit-learn |

`folder` is an argument or the environment variable `GLA_DATA`. Data sets without a test part of
their own are split once and for all, the same way on every machine; those of OpenML never have one.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from gla.datasets import openml
from gla.datasets.arrays import ROWS, check_inputs, check_labels
from gla.datasets.files import Raw, read_idx, read_path
from gla.datasets.images import find_layout, image_shape, planes_to_pixels, resize_images
from gla.errors import GlaError, near_matches

__all__ = ["Dataset", "data_folder", "from_arrays", "load", "random_points", "read_idx"]

Part = Literal["train", "test"]
Normalize = Literal["standard", "feature", "range", "none"]

FOLDER_VARIABLE = "GLA_DATA"
TEST_FRACTION = 0.25  # of data sets that bring no test part

# Bare names that are known, and what the data set is called on OpenML.
_KNOWN = {
    "mnist": "mnist_784",
    "fashion-mnist": "Fashion-MNIST",
    "kmnist": "Kuzushiji-MNIST",
    "cifar-10": "CIFAR_10",
    "svhn": "SVHN",
}


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
        shape: of one input before it was flattened, such as (28, 28) or (32, 32, 3); its product
            is D. Images that came plane by plane have been brought to (height, width, 3).
        offset: f32[] or f32[D], see `scaled`; measured on the training part only.
        scale: f32[] or f32[D], positive.
        features: whether the inputs are known not to be images, however long they are.
    """

    name: str
    part: Part
    values: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    offset: np.ndarray
    scale: np.ndarray
    features: bool = False

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
        return None if self.features else image_shape(self.shape)

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
    `test_labels`, or with `images` or `X` in the place of inputs. With `features` = True in it too,
    inputs are never seen as images. A folder holds the files of MNIST, KMNIST, CIFAR-10 or SVHN as
    they are handed out, see `gla.datasets.files`. Without a test part, a quarter of the examples
    becomes it (`TEST_FRACTION`).

    Images may be (height, width), (height, width, 1 or 3) or (1 or 3, height, width), or flat; see
    `gla.datasets.images`.

    Args:
        name: a name (see the table above), or the path of an `.npz` file or of a folder; a string
            without a path separator is a path only if it ends in `.npz`.
        part: `train` or `test`.
        folder: where bare names are looked for (default: the environment variable `GLA_DATA`).
        resize: bring images to this height and width by area averaging; without it, inputs need
            not be images.
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
        raw = read_path(Path(name))
    elif text.startswith(openml.PREFIX):
        raw = openml.read(text.removeprefix(openml.PREFIX))
    elif text.endswith(".npz") or "/" in text or os.sep in text:
        raw = read_path(Path(text).expanduser())
    elif text in _BUILT_IN:
        raw = _BUILT_IN[text]()
    else:
        raw = read_path(_find(text, data_folder(folder)))
    return from_arrays(
        text,
        *raw.arrays,
        part=part,
        resize=resize,
        normalize=normalize,
        features=raw.features,
    )


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
    features: bool = False,
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
        features: whether the inputs are no images, whatever their shape.

    Raises:
        GlaError: as `load`.
    """
    for what, value, allowed in (("part", part, Part), ("normalize", normalize, Normalize)):
        if value not in get_args(allowed):
            raise GlaError(f"{what} is {value!r}", "one of " + ", ".join(get_args(allowed)))
    if (test_inputs is None) != (test_labels is None):
        raise GlaError(f"{name} has test inputs or test labels alone", "both or neither")
    values, shape = check_inputs(name, inputs)
    raw_labels = check_labels(name, labels, len(values))
    if test_inputs is None:
        if len(values) < 2:
            raise GlaError(f"{name} has 1 example", "at least 2, to split off a test part")
        # The raw stream of a bit generator never changes between versions of NumPy.
        order = np.argsort(np.random.PCG64(0).random_raw(len(values)), kind="stable")
        cut = max(round(TEST_FRACTION * len(values)), 1)
        rows = {"test": np.sort(order[:cut]), "train": np.sort(order[cut:])}
        parts = {key: (values[at], raw_labels[at]) for key, at in rows.items()}
    else:
        test_values, test_shape = check_inputs(f"the test part of {name}", test_inputs)
        if test_shape != shape:
            raise GlaError(
                f"{name} has training inputs of shape {shape} and test inputs of {test_shape}",
                "one shape",
            )
        test_raw = check_labels(f"the test part of {name}", test_labels, len(test_values))
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
    if not features:
        # The training part decides for both.
        shape, planes = find_layout(train, shape)
        if planes:
            train, chosen = planes_to_pixels(train), planes_to_pixels(chosen)
    if resize is not None:
        image = None if features else image_shape(shape)
        if image is None:
            raise GlaError(
                f"the inputs of {name} {'are features' if features else f'have shape {shape}'} and "
                "cannot be resized",
                "images of (height, width) or (height, width, 3)",
                "leave out resize",
            )
        # The statistics are those of the resized training images, whichever part is wanted.
        train = resize_images(train, image, resize)
        chosen = train if part == "train" else resize_images(chosen, image, resize)
        shape = (resize, resize, *image[2:])
    offset, scale = _statistics(name, train, normalize)
    numbers = np.searchsorted(kept, parts[part][1]).astype(np.int32)
    chosen = np.ascontiguousarray(chosen)
    for array in (chosen, numbers, offset, scale):
        array.setflags(write=False)
    names = tuple(str(label) for label in kept)
    return Dataset(name, part, chosen, numbers, names, shape, offset, scale, features)


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
        blocks = [values[start : start + ROWS] for start in range(0, len(values), ROWS)]
        offset = sum(block.sum(axis, dtype=np.float64) for block in blocks) / np.float64(count)
        squares = sum(np.square(block - offset).sum(axis) for block in blocks)
        scale = np.sqrt(squares / count)
    if np.max(scale) <= 0:
        raise GlaError(f"all inputs of {name} are equal", "inputs that differ")
    # A column that never varies in training carries nothing: it is only shifted to 0. Numbers below
    # the smallest normal one are zeros on many devices.
    least = np.maximum(1e-6 * np.abs(offset), np.finfo(np.float32).tiny)
    scale = np.where(scale > least, scale, 1.0)
    return np.array(offset, np.float32), np.array(scale, np.float32)


def _read_digits() -> Raw:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise GlaError(
            f"digits comes with scikit-learn, which cannot be imported ({error})",
            mend="pip install scikit-learn",
        ) from error
    digits = load_digits()
    return Raw([digits.images, digits.target])


def random_points() -> Raw:
    """Draw the data set `random`: what can only be learned by heart (GPICL, Table 1).

    A part is 20 points of N(0, 1) with labels at random, two points for each of 10 classes, and
    holds each point 50 times. The test part has points of its own. They are shaped as grey images
    of 28 x 28, so that whatever is done to MNIST can be done to them. The paper gives no numbers;
    these are those of the same authors' earlier code (VSML), with the labels evened out so that no
    class is missing.

    A guess at the 100th example is right at most 99.4% of the time (1 - 0.95^99, and a tenth of
    the rest), as a point that did not come before cannot be known.

    Returns:
        Inputs f32[1000, 28, 28] and labels i64[1000] of both parts, the same on every machine.
    """
    from scipy.special import ndtri

    points, side, classes, times = 20, 28, 10, 50
    # The raw stream of a bit generator never changes between versions of NumPy.
    source = np.random.PCG64(0)
    parts = []
    for _ in range(2):
        uniform = ((source.random_raw(points * side * side) >> 11) + 0.5) * 2.0**-53
        inputs = ndtri(uniform).astype(np.float32).reshape(points, side, side)
        labels = np.argsort(source.random_raw(points)) % classes
        parts += [np.tile(inputs, (times, 1, 1)), np.tile(labels, times)]
    return Raw(parts)


_BUILT_IN = {"digits": _read_digits, "random": random_points}


def _find(name: str, folder: Path | None) -> Path:
    """Return the `.npz` file or the folder that a bare name stands for."""
    listed = () if folder is None else _listing(folder)
    if name in _KNOWN:
        hint, fetch = "", f"{openml.PREFIX}{_KNOWN[name]} fetches it"
    else:
        hint, fetch = near_matches(name, {*_BUILT_IN, *_KNOWN, *listed}), ""
    if folder is None:
        raise GlaError(
            f"the data set {name} is not part of the package{hint}",
            f"{', '.join(_BUILT_IN)}, a name in the folder of data sets, a path, or openml:NAME",
            f"name the folder with {FOLDER_VARIABLE} or the setting `folder`"
            + (f"; {fetch}" if fetch else ""),
        )
    for path in (folder / f"{name}.npz", folder / name):
        if path.exists():
            return path
    raise GlaError(
        f"the data set {name} is not in {folder}{hint}",
        f"the file {name}.npz or the folder {name} with the files as they are handed out",
        fetch,
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
