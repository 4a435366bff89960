"""Named experiments of many trainings, which go on where they stopped.

An experiment is a list of cells, each one meta-training and the tests of what came of it, and a
function that draws them. In its output folder

- `cells/NAME.json` holds what a finished cell found. Experiments that name the same cells share
  them;
- `work/NAME/` is the checkpoint folder of a cell while it is trained, and is deleted afterwards
  unless the cell says `keep`;
- `EXPERIMENT.png` is the figure and `EXPERIMENT.json` all that went into it.

A kill at any moment costs a cell the time since its last checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from gla.benchmarks.jobs import WorkerConfig, spread
from gla.datasets import Part
from gla.errors import GlaError
from gla.files import os_errors, write_json
from gla.gpicl.config import GPICLConfig
from gla.gpicl.evaluate import evaluate
from gla.gpicl.tasks import TaskConfig, to_device
from gla.gpicl.training import TrainedLearner, gpicl_train, load_learner
from gla.logs import as_json
from gla.packages import package_versions
from gla.progress import Progress

__all__ = [
    "Cell",
    "CellResult",
    "Experiment",
    "Size",
    "Test",
    "WorkerConfig",
    "read_cell",
    "run_experiment",
]

# `cpu`: minutes on two cores; `paper`: what the paper states, for accelerators.
Size = Literal["cpu", "paper"]

SCHEMA = "gla-gpicl-cell"
VERSION = 1
MOST_POINTS = 400  # of a curve that is kept
MOST_STATISTICS = 100  # these are long
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Settings of the machine and of what is shown, which do not change what is learned.
_FREE = ("mesh", "tensorboard", "folder")


@dataclass(frozen=True)
class Test:
    """A meta-test of what a cell has trained.

    Attributes:
        name: by which its result is found.
        dataset: what `gla.datasets.load` takes, scaled and resized as in training.
        part: `train` or `test`.
        tasks: which tasks; give `tasks.uniform` for uniform permutations.
        sequences: how many, a multiple of `per_task`.
        per_task: sequences that share a task.
        positions: where guesses are counted; None for everywhere.
        seed: of tasks and examples.
    """

    __test__ = False  # not a test of this project, whatever pytest thinks of the name

    name: str
    dataset: str
    part: Part
    tasks: TaskConfig
    sequences: int = 1024
    per_task: int = 1
    positions: tuple[int, ...] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One training and its tests.

    Attributes:
        name: of its file, so letters, digits, dots, hyphens and underscores.
        training: what is trained.
        tests: what is done with the last weights.
        labels: coordinates in the figure, such as {"tasks": 1024, "seed": 0}; JSON-like.
        keep: whether the checkpoint folder stays, as `work/NAME`.

    Raises:
        GlaError: if a name cannot be that of a file, or two tests share one.
    """

    name: str
    training: GPICLConfig
    tests: tuple[Test, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    keep: bool = False

    def __post_init__(self):
        if not _NAME.fullmatch(self.name):
            raise GlaError(
                f"a cell is named {self.name!r}", "letters, digits, dots, hyphens and underscores"
            )
        _check_unique(f"tests of the cell {self.name}", [test.name for test in self.tests])


class CellResult(NamedTuple):
    """What a finished cell found.

    Attributes:
        name: of the cell.
        labels: of the cell.
        parameters: numbers that were meta-trained.
        state_size: numbers that the learner carries from example to example.
        seconds: that the call took which finished the cell; less than the whole where a call
            before it was interrupted.
        steps: optimiser steps.
        curve: [step, training loss] in nats, at most `MOST_POINTS`, each the mean of the steps
            since the last.
        validations: {"step", and per held-out set {"loss", "first", "last", "gain"}} each.
        statistics: {"step", "loss", "distance", "tensors": {name: {...}}} each, at most
            `MOST_STATISTICS`; empty unless they were measured.
        tests: per test {"positions", "accuracy", "low", "high", "loss"}, lists over positions with
            95% bounds, and "predictions" at each position.
    """

    name: str
    labels: dict[str, Any]
    parameters: int
    state_size: int
    seconds: float
    steps: int
    curve: list[list[float]]
    validations: list[dict[str, Any]]
    statistics: list[dict[str, Any]]
    tests: dict[str, dict[str, Any]]


# Draws results into a PNG file and returns what the picture shows in words.
Draw = Callable[[Sequence[CellResult], Path], str]


@dataclass(frozen=True)
class Experiment:
    """Cells and the figure that is drawn of them.

    Attributes:
        name: of its files, such as `fig8`.
        title: what it shows.
        cells: in any order.
        draw: is given the results in the order of the cells, and the path of the PNG file.

    Raises:
        GlaError: if there are no cells, or two of one name.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    draw: Draw

    def __post_init__(self):
        if not self.cells:
            raise GlaError(f"the experiment {self.name} has no cells", "at least one")
        _check_unique(f"cells of the experiment {self.name}", [cell.name for cell in self.cells])


def _check_unique(what: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise GlaError(f"two {what} are named {twice[0]!r}", "names that differ")


def run_experiment(
    experiment: Experiment,
    out: Path,
    workers: WorkerConfig | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Path:
    """Train and test what is not finished yet, then draw.

    Args:
        experiment: what to do.
        out: output folder, which several experiments may share.
        workers: over what to spread the cells (default: one process per core).
        fresh: delete what there is of this experiment's cells first.
        progress: say how many cells are done.

    Returns:
        The path of the figure.

    Raises:
        GlaError: if there is a finished cell of other settings; or, once all others are done, if
            cells failed.
        KeyboardInterrupt: on Ctrl-C, once what is under way is saved.
    """
    out = Path(out).absolute()
    with os_errors(out, "write to"):
        (out / "cells").mkdir(parents=True, exist_ok=True)
        (out / "work").mkdir(exist_ok=True)
    missing = []
    for cell in experiment.cells:
        if fresh:
            _delete(out, cell)
        elif _file(out, cell).exists():
            _check_settings(out, cell)
            _tidy(out, cell)
            continue
        missing.append(cell)
    total = len(experiment.cells)
    failed: dict[str, GlaError] = {}
    with Progress(experiment.name, total, "cells", total - len(missing), progress) as bar:

        def done(name: str, error: GlaError | None):
            if error is not None:
                failed[name] = error
            bar.advance(1, f"{name} failed" if error else name)

        spread(_finish, {c.name: (c, str(out)) for c in missing}, workers or WorkerConfig(), done)
    if failed:
        reasons = "; ".join(f"{name}: {str(error).rstrip('.')}" for name, error in failed.items())
        raise GlaError(
            f"{len(failed)} of the {total} cells of {experiment.name} failed ({reasons})",
            mend="mend that and run the same again; the others are kept",
        )
    results = [read_cell(_file(out, cell))._replace(labels=_plain(cell.labels))
               for cell in experiment.cells]  # fmt: skip
    figure = out / f"{experiment.name}.png"
    words = experiment.draw(results, figure)
    write_json(
        out / f"{experiment.name}.json",
        {
            "experiment": experiment.name,
            "title": experiment.title,
            "words": words,
            "settings": {cell.name: _settings(cell) for cell in experiment.cells},
            "packages": package_versions(),
            "cells": [result._asdict() for result in results],
        },
    )
    return figure


def read_cell(file: Path) -> CellResult:
    """Read the file of a finished cell.

    Raises:
        GlaError: if it cannot be read.
    """
    content = _read(file)
    try:
        return CellResult(**content["result"])
    except (KeyError, TypeError) as error:
        raise _unreadable(file, error) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
        if (content["schema"], content["version"]) != (SCHEMA, VERSION):
            raise ValueError(f"schema {content['schema']!r} version {content['version']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(file, error) from None
    return content


def _unreadable(file: Path, error: Exception) -> GlaError:
    return GlaError(f"{file} cannot be read ({error})", mend="delete it to compute that cell again")


def _file(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.name}.json"


def _delete(out: Path, cell: Cell) -> None:
    """Delete what there is of a cell."""
    with _lock(out, cell):
        for path in (out / "work" / cell.name, _file(out, cell)):
            with os_errors(path, "delete"):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


def _tidy(out: Path, cell: Cell) -> None:
    """Delete the checkpoints of a finished cell that a kill may have left."""
    work = out / "work" / cell.name
    if not cell.keep and work.is_dir():
        with os_errors(work, "delete"):
            shutil.rmtree(work)


def _plain(value: Any) -> Any:
    """Return what JSON makes of a value."""
    return json.loads(json.dumps(value))


def _settings(cell: Cell) -> dict[str, Any]:
    """Return all that a cell's result depends on, JSON-like."""

    def kept(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        return {name: kept(value) for name, value in part.items() if name not in _FREE}

    tests = {test.name: dataclasses.asdict(test) for test in cell.tests}
    return _plain({"training": kept(dataclasses.asdict(cell.training)), "tests": tests})


def _check_settings(out: Path, cell: Cell) -> None:
    """Refuse a finished cell of other settings."""
    file = _file(out, cell)
    theirs, ours = _read(file).get("settings"), _settings(cell)
    # Settings that came later stand where they stood before there was a choice.
    usual = _settings(Cell("usual", GPICLConfig(), (Test("usual", "", "test", TaskConfig()),)))
    tests = {test.name: usual["tests"]["usual"] for test in cell.tests}
    different = _difference(_filled(theirs, {**usual, "tests": tests}), ours)
    if different:
        raise GlaError(
            f"the cell {cell.name} in {file.parent} was computed with other settings: {different}",
            mend="choose another folder, or pass --fresh to compute all cells again",
        )


def _filled(part: Any, usual: Any) -> Any:
    if not isinstance(part, dict) or not isinstance(usual, dict):
        return part
    return {**usual, **{name: _filled(value, usual.get(name)) for name, value in part.items()}}


def _difference(theirs: Any, ours: Any, name: str = "settings") -> str:
    """Say where two settings differ first; nothing if they don't."""
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return "" if theirs == ours else f"{name} is {theirs!r} there and {ours!r} here"
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        found = _difference(theirs.get(key), ours.get(key), key)
        if found:
            return found
    return ""


@contextlib.contextmanager
def _lock(out: Path, cell: Cell) -> Iterator[None]:
    """Hold a cell; the system lets go of it when this process ends, however it does."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        fcntl = None  # type: ignore[assignment]
    path = out / "work" / f"{cell.name}.lock"
    with os_errors(path, "write"):
        file = path.open("w")
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise GlaError(
                    f"another process is at work on the cell {cell.name} in {out}",
                    mend="wait until it is done, or choose another folder",
                ) from None
        yield  # the file stays: deleting it would let two hold locks of one name


def _finish(job: tuple[Cell, str]) -> None:
    """Train a cell, or go on, test it, and write what was found."""
    cell, out = job[0], Path(job[1])
    with _lock(out, cell):
        began = time.monotonic()
        work = gpicl_train(cell.training, out / "work" / cell.name, progress=False)
        trained = load_learner(work)
        curve, validations, statistics = _log(work / "metrics.jsonl")
        result = CellResult(
            name=cell.name,
            labels=_plain(cell.labels),
            parameters=trained.learner.parameter_count,
            state_size=trained.learner.state_size,
            seconds=0.0,
            steps=int(curve[-1][0]) if curve else 0,
            curve=curve,
            validations=validations,
            statistics=statistics,
            tests=_tested(cell, trained),
        )
        content = {
            "schema": SCHEMA,
            "version": VERSION,
            "settings": _settings(cell),
            "packages": package_versions(),
            "result": result._replace(seconds=round(time.monotonic() - began, 1))._asdict(),
        }
        write_json(_file(out, cell), content)
        _tidy(out, cell)


def _tested(cell: Cell, trained: TrainedLearner) -> dict[str, dict[str, Any]]:
    config, learner, params = trained
    found = {}
    for test in cell.tests:
        score = evaluate(
            learner, params, to_device(config.data.load(test.dataset, test.part), test.tasks),
            test.tasks, test.sequences, test.per_task, test.positions, test.seed,
        )  # fmt: skip
        bounds = score.interval()
        lists = {"accuracy": score.accuracy, "low": bounds.low, "high": bounds.high,
                 "loss": score.loss}  # fmt: skip
        found[test.name] = {
            "positions": list(score.positions),
            "predictions": score.predictions,
            **{name: np.asarray(values).round(6).tolist() for name, values in lists.items()},
        }
    return found


def _log(file: Path) -> tuple[list[list[float]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Read curve, validations and statistics out of a training's log."""
    losses, validations, statistics = [], [], []
    for line in file.read_text().splitlines():
        row = json.loads(line)
        if "validation" in row:
            validations.append({"step": row["step"], **row["validation"]})
        elif row["loss"] is not None:  # None where every step was skipped
            losses.append((row["step"], row["loss"]))
            if "statistics" in row:
                statistics.append(
                    {
                        "step": row["step"],
                        "loss": row["loss"],
                        "distance": row["distance"],
                        "tensors": _short(row["statistics"]),
                    }
                )
    # The last of each group, so that the end is among them.
    every = -(-len(statistics) // MOST_STATISTICS) or 1
    return _thin(losses), as_json(validations), statistics[::-1][::every][::-1]


def _thin(losses: list[tuple[int, float]]) -> list[list[float]]:
    """Average groups of consecutive points, so that no more than `MOST_POINTS` are left."""
    size = -(-len(losses) // MOST_POINTS) or 1
    groups = [losses[i : i + size] for i in range(0, len(losses), size)]
    return [[group[-1][0], round(float(np.mean([x for _, x in group])), 6)] for group in groups]


def _short(value: Any) -> Any:
    """Round to what a figure shows."""
    if isinstance(value, dict):
        return {name: _short(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
