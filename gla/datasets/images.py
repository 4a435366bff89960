"""Images among the inputs of data sets: what is one, how it is laid out, and bringing it to a size.

Images end up as (height, width) or (height, width, 3), row by row.
"""

from __future__ import annotations

import math

import numpy as np

from gla.datasets.arrays import ROWS
from gla.errors import GlaError

_COLOURS = 3
_FLAT_SIDE = 8  # of the smallest colour image that a flat input is taken for
_ROUGHEST = 0.5  # see `_roughness`
_LOOKED_AT = 256  # examples that decide how flat inputs are laid out


def image_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return (height, width) or (height, width, 3) of an input that is an image, or None.

    Args:
        shape: of the input. A flat one whose length is a square number is a square image. Four
            channels are refused: what lies behind a transparent pixel is not known.
    """
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == _COLOURS):
        return shape
    side = math.isqrt(shape[0])
    return (side, side) if len(shape) == 1 and side > 1 and side * side == shape[0] else None


def find_layout(values: np.ndarray, shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """Find out how images are stored.

    (1, height, width) and (3, height, width) are images of which each colour is a plane. Flat
    inputs of 3 s^2 numbers, s >= 8, are colour images if neighbouring pixels are alike, either
    plane by plane (CIFAR-10 on OpenML) or pixel by pixel, whichever makes them more alike.

    Args:
        values: u8[N, D] or f32[N, D], of which a few are looked at.
        shape: of one input.

    Returns:
        The shape that the inputs have once the colours of each pixel are together, and whether
        `planes_to_pixels` is needed for that.
    """
    if len(shape) == 3 and shape[2] not in (1, _COLOURS):
        if shape[0] == 1:
            return shape[1:], False
        if shape[0] == _COLOURS:
            return (*shape[1:], _COLOURS), True
    side = math.isqrt(shape[0] // _COLOURS)
    if len(shape) > 1 or side < _FLAT_SIDE or _COLOURS * side * side != shape[0]:
        return shape, False
    some = values[:: -(-len(values) // _LOOKED_AT)].astype(np.float64)
    image = (side, side, _COLOURS)
    rough = {
        planes: _roughness((planes_to_pixels(some) if planes else some).reshape(-1, *image))
        for planes in (True, False)
    }
    planes = rough[True] <= rough[False]
    return (image, planes) if rough[planes] < _ROUGHEST else (shape, False)


def _roughness(images: np.ndarray) -> float:
    """Return how unlike neighbouring pixels of f64[n, s, s, 3] are: 0 alike, 1 as any two."""
    variance = images.var()
    differences = [np.square(np.diff(images, axis=axis)).mean() for axis in (1, 2)]
    return float(np.mean(differences) / (2 * variance)) if variance > 0 else 1.0


def planes_to_pixels(values: np.ndarray) -> np.ndarray:
    """Bring the three colours of each pixel together, [N, 3 P] plane by plane -> [N, P 3]."""
    pixels = values.reshape(len(values), _COLOURS, -1).swapaxes(1, 2)
    return np.ascontiguousarray(pixels).reshape(values.shape)


def resize_images(values: np.ndarray, image: tuple[int, ...], side: int) -> np.ndarray:
    """Average images over the cells of a `side` x `side` grid, f32[N, side * side (* 3)].

    Images that have this size already are returned as they are.

    Cells may cover fractions of pixels, which then count by the area covered.

    Args:
        values: u8[N, D] or f32[N, D].
        image: (height, width) or (height, width, 3), its product is D.
        side: new height and width.

    Raises:
        GlaError: if `side` is no size.
    """
    if isinstance(side, bool) or not isinstance(side, (int, np.integer)) or side < 1:
        raise GlaError(f"resize is {side!r}", "a whole number of at least 1")
    if image[:2] == (side, side):
        return values  # bytes stay bytes
    rows, columns = _overlaps(image[0], side), _overlaps(image[1], side)
    full = (*image, 1)[:3]
    resized = np.empty((len(values), side * side * full[2]), np.float32)
    for start in range(0, len(values), ROWS):
        block = values[start : start + ROWS].astype(np.float32).reshape(-1, *full)
        block = np.einsum("rh,nhwc,sw->nrsc", rows, block, columns, optimize=True)
        resized[start : start + ROWS] = block.reshape(len(block), -1)
    return resized


def _overlaps(old: int, new: int) -> np.ndarray:
    """Return the share of each old pixel in each new one along an axis, f32[new, old]."""
    low = np.arange(new)[:, None] * old / new
    pixel = np.arange(old)[None, :]
    covered = np.minimum(low + old / new, pixel + 1) - np.maximum(low, pixel)
    return (np.clip(covered, 0.0, None) * new / old).astype(np.float32)
