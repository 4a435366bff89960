"""Metrics of training: lines of JSON, and TensorBoard event files where they are wanted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gla.errors import GlaError
from gla.files import os_errors


def as_json(value: Any) -> Any:
    """Turn arrays into lists and numbers that are not finite, which JSON lacks, into None."""
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    if isinstance(value, str | bool) or value is None:
        return value
    if getattr(value, "ndim", 0):
        return as_json(np.asarray(value).tolist())
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


class MetricsLog:
    """Appends one JSON object per call to `metrics.jsonl`.

    Args:
        folder: where the file lies.
        step: that training goes on from. Later lines, of steps that a kill undid, are cut off.
    """

    def __init__(self, folder: Path, step: int):
        self._file = folder / "metrics.jsonl"
        if self._file.exists():
            kept = []
            for line in self._file.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError, TypeError):
                    continue  # the line that a kill cut short
            with os_errors(self._file, "write"):
                self._file.write_text("".join(line + "\n" for line in kept))

    def write(self, step: int, **values: Any):
        """Append one line; values are numbers, arrays, or dictionaries of these."""
        with os_errors(self._file, "write"), self._file.open("a") as file:
            file.write(json.dumps({"step": step, **as_json(values)}, allow_nan=False) + "\n")

    def flush(self):
        """Do nothing: every line is handed to the system as it is written."""

    def close(self):
        """Do nothing: no file is kept open."""


class TensorBoardLog:
    """Writes the same numbers as TensorBoard event files into `tensorboard/`.

    Args:
        folder: where that folder lies.
        step: that training goes on from. TensorBoard is told to forget later points.

    Raises:
        GlaError: if tensorboardX is not installed.
    """

    def __init__(self, folder: Path, step: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise GlaError(
                "TensorBoard files need the package tensorboardX, which is not installed",
                mend='run `pip install "gla[tensorboard]"`, or leave tensorboard=True away',
            ) from None
        with os_errors(folder / "tensorboard", "write"):
            # The suffix keeps files apart that were begun within one second.
            self._writer = SummaryWriter(
                str(folder / "tensorboard"),
                purge_step=step + 1 if step else None,
                filename_suffix=f".{step}",
            )

    def write(self, step: int, **values: Any):
        """Add a point to the curve of every number; those that are not finite are left out."""
        with os_errors("TensorBoard files", "write"):
            for name, value in _flat(values):
                if math.isfinite(value):
                    self._writer.add_scalar(name, value, step)

    def flush(self):
        """Hand what was written to the system."""
        with os_errors("TensorBoard files", "write"):
            self._writer.flush()

    def close(self):
        """Flush and close the file."""
        with os_errors("TensorBoard files", "write"):
            self._writer.close()


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield `name/part` and number of everything nested."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _flat(value, f"{name}/{key}" if name else key)
    elif getattr(values, "ndim", 0) or isinstance(values, list | tuple):
        for i, value in enumerate(values):
            yield from _flat(value, f"{name}/{i}")
    elif isinstance(values, int | float) or hasattr(values, "item"):
        yield name, float(values)


class Logs:
    """All logs of a training as one; none where another process writes them.

    Args:
        folder: checkpoint folder.
        step: that training goes on from.
        tensorboard: whether to write event files too.
        writes: whether this process writes at all.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = False, writes: bool = True):
        self._logs: list[MetricsLog | TensorBoardLog] = []
        if writes and tensorboard:
            self._logs.append(TensorBoardLog(folder, step))
        if writes:
            self._logs.append(MetricsLog(folder, step))

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *_: object):
        for log in self._logs:
            log.close()

    def write(self, step: int, **values: Any):
        """Log numbers, arrays or dictionaries of these at a step."""
        for log in self._logs:
            log.write(step, **values)

    def flush(self):
        """Hand everything to the system, as a checkpoint of this step is about to be saved."""
        for log in self._logs:
            log.flush()
