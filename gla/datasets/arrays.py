"""Inputs and labels of data sets, checked and brought to a few types."""

from __future__ import annotations

from typing import Any

import numpy as np

from gla.errors import GlaError

ROWS = 4096  # examples that are worked on at once, to keep float copies small


def _array(value: Any) -> np.ndarray:
    """Return an array; nested lists of unequal lengths become one of objects, refused later."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.asarray(value, object)


def check_inputs(name: str, inputs: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return inputs as u8[N, D] or f32[N, D], a copy, and the shape of one.

    Args:
        name: for messages.
        inputs: numbers [N, ...]; they become bytes if all are whole numbers from 0 to 255.

    Raises:
        GlaError: if they are not numbers, not finite, or of a wrong shape.
    """
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
    for start in range(0, len(flat), ROWS):
        block = flat[start : start + ROWS]
        with np.errstate(over="ignore"):  # what float32 cannot hold is reported below
            values[start : start + ROWS] = block
        finite = np.isfinite(values[start : start + ROWS])
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


def check_labels(name: str, labels: Any, count: int) -> np.ndarray:
    """Return labels as i64[N], or as strings [N] where they are not numbers.

    Args:
        name: for messages.
        labels: whole numbers, negative ones too, or strings, [N] or [N, 1].
        count: N.

    Raises:
        GlaError: if a label is missing or no class, or there are not N.
    """
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
