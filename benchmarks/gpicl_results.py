"""Results of supervised learners: how often each was right, on which data set, with intervals.

One file holds many cells, one per learner and data set. `gla gpicl test` adds what is missing and
leaves the rest alone, so that a table can be made in several sittings.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from gla.errors import GlaError
from gla.files import write_text
from gla.packages import package_versions

SCHEMA = "gla-supervised-results"
VERSION = 1

LearnerSort = Literal["meta-trained", "labels hidden", "hand-written"]


@dataclass(frozen=True)
class Cell:
    """One learner on one data set.

    Attributes:
        learner: name for tables.
        sort: `meta-trained`; `labels hidden`: the same weights, never told a label, which can only
            do by chance or by what it remembers of meta-training; or `hand-written`.
        path: of the checkpoint folder, seen from the folder of the results file; "" of a
            hand-written learner.
        dataset: what was asked for.
        examples: number of examples in the part that was used.
        part: of the data set.
        trained_on: data sets that it was meta-trained on.
        training_seed: of meta-training; -1 of a hand-written learner.
        training_steps: optimiser steps of meta-training.
        parameters: numbers that were meta-trained.
        state_size: numbers that it carries from example to example.
        tasks: settings of the tasks (`gla.gpicl.tasks.TaskConfig`), with `resize` and `normalize`.
        seed: of the test.
        per_task: sequences that share a task.
        predictions: guesses at each position.
        positions: places in the sequence, counted from 0.
        accuracy: share of right guesses at each, in [0, 1].
        low: lower bound of its 95% interval.
        high: upper bound.
        loss: mean cross-entropy of all guesses in nats; none where scores are no probabilities.
        seconds: that the test took.
    """

    learner: str
    sort: LearnerSort
    path: str
    dataset: str
    examples: int
    part: str
    trained_on: tuple[str, ...]
    training_seed: int
    training_steps: int
    parameters: int
    state_size: int
    tasks: dict[str, Any]
    seed: int
    per_task: int
    predictions: int
    positions: tuple[int, ...]
    accuracy: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    loss: float | None
    seconds: float

    def __post_init__(self) -> None:
        for name in ("trained_on", "positions", "accuracy", "low", "high"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def same_test(self) -> tuple[Any, ...]:
        """What two cells must have in common to be one."""
        tasks = json.dumps(self.tasks, sort_keys=True)
        return (
            self.learner, self.sort, self.path, self.training_steps, self.dataset, self.part, tasks,
            self.seed, self.per_task, self.predictions, self.positions,
        )  # fmt: skip

    def at(self, position: int) -> tuple[float, float, float]:
        """Return accuracy, lower and upper bound at a position.

        Raises:
            GlaError: if it was not measured there.
        """
        if position not in self.positions:
            raise GlaError(
                f"{self.learner} on {self.dataset} was not tested at position {position}",
                "one of " + ", ".join(map(str, self.positions)),
            )
        place = self.positions.index(position)
        return self.accuracy[place], self.low[place], self.high[place]


@dataclass(frozen=True)
class SupervisedResults:
    """A results file.

    Attributes:
        cells: in the order in which they were measured.
        packages: versions that measured the last of them.
        created: ISO 8601 time in UTC at which it was written.
    """

    cells: tuple[Cell, ...] = ()
    packages: dict[str, str] = field(default_factory=package_versions)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def with_cell(self, cell: Cell) -> SupervisedResults:
        """Return results with one more cell."""
        return SupervisedResults((*self.cells, cell))


def write(path: str | os.PathLike[str], results: SupervisedResults) -> None:
    """Write a results file; a reader sees the whole new file or what was there before.

    Raises:
        GlaError: if a cell cannot be, or the file cannot be written.
    """
    for cell in results.cells:
        _check(cell)
    document: dict[str, Any] = {"schema": SCHEMA, "version": VERSION} | asdict(results)
    cells = document.pop("cells")
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in document.items()]
    lines.append('"cells": [\n' + ",\n".join(json.dumps(c, allow_nan=False) for c in cells) + "\n]")
    write_text(Path(path), "{\n" + ",\n".join(lines) + "\n}\n")


def read(path: str | os.PathLike[str]) -> SupervisedResults:
    """Read a results file.

    Raises:
        GlaError: naming the file, if it is missing, cut off, of another schema or version, or
            holds a cell that cannot be.
    """
    expected = "a file that `gla gpicl test` wrote"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise GlaError(f"{path} cannot be read ({error.strerror})", expected) from error
    except ValueError as error:
        raise GlaError(
            f"{path} is not whole JSON ({error})", expected, "delete it and run the test again"
        ) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise GlaError(f"{path} is not a results file of learners", f'the schema "{SCHEMA}"')
    if document.get("version") != VERSION:
        raise GlaError(
            f"{path} has version {document.get('version')!r}", f"version {VERSION}",
            "read it with the release that wrote it, or run the test again",
        )  # fmt: skip
    try:
        cells = tuple(Cell(**cell) for cell in document["cells"])
        results = SupervisedResults(cells, document["packages"], document["created"])
        for cell in cells:
            _check(cell)
    except GlaError as error:
        raise GlaError(f"{path}: {error.what}", error.expected, error.mend) from error
    except (KeyError, TypeError, ValueError) as error:
        names = ", ".join(one.name for one in fields(Cell))
        raise GlaError(f"{path}: a cell cannot be read ({error})", f"the keys {names}") from error
    return results


def _check(cell: Cell) -> None:
    """Raise `GlaError` if numbers cannot be."""
    name = f"{cell.learner} on {cell.dataset}"
    if cell.sort not in get_args(LearnerSort):
        raise GlaError(f"{name} is of the sort {cell.sort!r}", ", ".join(get_args(LearnerSort)))
    counts = {len(getattr(cell, part)) for part in ("positions", "accuracy", "low", "high")}
    if len(counts) != 1 or counts == {0}:
        raise GlaError(
            f"{name} has positions and figures of unlike or no number", "one of each, at least one"
        )
    for place, *numbers in zip(cell.positions, cell.low, cell.accuracy, cell.high, strict=True):
        low, mean, high = (float(x) for x in numbers)
        slack = 1e-9
        if not (-slack <= low <= mean + slack and mean <= high + slack and high <= 1 + slack):
            raise GlaError(
                f"{name} at position {place}: {low}, {mean} and {high}",
                "a lower bound, an accuracy and an upper bound, in order within [0, 1]",
            )
    if cell.predictions < 1 or not math.isfinite(cell.seconds):
        raise GlaError(
            f"{name}: {cell.predictions} predictions in {cell.seconds} s", "both above 0"
        )


def table(cells: Sequence[Cell], position: int = 99) -> str:
    """Return a Markdown table: a row per learner, a column per data set, accuracies in percent.

    Cells of several training seeds are averaged, with the interval of that mean over guesses; what
    each seed reached follows in brackets, because seeds may differ by more. Of cells that differ
    only in the number of guesses the one with most counts. Where cells differ in their tasks, a
    row names what its tasks have that others don't.

    Args:
        cells: of one or more results files.
        position: which guess, counted from 0; 99 is the 100th example, as in GPICL's Table 1.
    """
    columns = list(dict.fromkeys(cell.dataset for cell in cells))
    names = list(dict.fromkeys(name for cell in cells for name in cell.tasks))
    differing = [name for name in names if len({str(cell.tasks.get(name)) for cell in cells}) > 1]
    rows: dict[tuple[str, str, str], dict[str, list[Cell]]] = {}
    for cell in cells:
        tasks = ", ".join(f"{name} {cell.tasks.get(name)}" for name in differing)
        row = rows.setdefault((cell.learner, cell.sort, tasks), {})
        row.setdefault(cell.dataset, []).append(cell)
    lines = [
        "| learner | " + " | ".join(map(short_name, columns)) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for (learner, sort, tasks), found in rows.items():
        name = f"{learner}, labels hidden" if sort == "labels hidden" else learner
        name += f" ({tasks})" if tasks else ""
        entries = [_entry(found.get(column, []), position) for column in columns]
        lines.append(f"| {name} | " + " | ".join(entries) + " |")
    return "\n".join(lines) + "\n"


def short_name(dataset: str) -> str:
    """Return a data set's name without the folder and ending of a path."""
    return Path(dataset).stem if dataset.endswith(".npz") or "/" in dataset else dataset


def _entry(cells: list[Cell], position: int) -> str:
    most: dict[tuple, Cell] = {}
    for cell in sorted(cells, key=lambda cell: cell.predictions):
        if position in cell.positions:
            most[cell.path, cell.training_seed, cell.seed, cell.part, cell.per_task] = cell
    cells = list(most.values())
    if not cells:
        return "-"
    means, lows, highs = zip(*(cell.at(position) for cell in cells), strict=True)
    count = len(cells)
    mean = sum(means) / count
    # Half-widths of independent means add in squares.
    down = math.sqrt(sum((m - x) ** 2 for m, x in zip(means, lows, strict=True))) / count
    up = math.sqrt(sum((x - m) ** 2 for m, x in zip(means, highs, strict=True))) / count
    text = f"{100 * mean:.1f} [{100 * (mean - down):.1f}, {100 * (mean + up):.1f}]"
    if count > 1:
        text += " (" + ", ".join(f"{100 * m:.1f}" for m in means) + ")"
    return text
