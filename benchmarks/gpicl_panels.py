"""What the figures of GPICL's experiments share: intervals, lines with bands, floors, words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy import stats

from gla.benchmarks.gpicl_grid import CellResult
from gla.benchmarks.gpicl_results import short_name
from gla.benchmarks.gpicl_sizes import unseen
from gla.benchmarks.plots import new_figure, save_figure
from gla.benchmarks.statistics import Interval
from gla.gpicl.baselines import make_baseline
from gla.gpicl.config import DataConfig
from gla.gpicl.evaluate import evaluate
from gla.gpicl.tasks import TaskConfig, to_device

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008; every line also has a mark of its own.
COLOURS = ("#0072B2", "#D55E00", "#007A5A", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6B6B6B"
HEIGHT, PANEL, LEGEND = 640, 640, 360  # pixels

FLOORS = ("1-nn", "kernel-ridge")  # hand-written learners that stand beside the meta-trained ones
FLOOR_SEQUENCES = 512


# --- numbers


def at(result: CellResult, test: str, place: int = -1) -> Interval:
    """Return the accuracy of a test at one of its positions, with the interval over guesses.

    Args:
        result: of a cell.
        test: name of the test.
        place: which of the positions that were tested; -1 is the last.
    """
    found = result.tests[test]
    return Interval(found["accuracy"][place], found["low"][place], found["high"][place])


def gain(result: CellResult, test: str) -> Interval:
    """Return the accuracy at the last position less that at the first.

    Half-widths of the two intervals are added in squares, as of independent numbers.
    """
    first, last = at(result, test, 0), at(result, test)
    value = last.estimate - first.estimate
    down = math.hypot(last.estimate - last.low, first.high - first.estimate)
    up = math.hypot(last.high - last.estimate, first.estimate - first.low)
    return Interval(value, max(value - down, -1.0), min(value + up, 1.0))


def over_trainings(values: Sequence[Interval], least: float = 0.0, most: float = 1.0) -> Interval:
    """Return the mean over trainings with its 95% interval.

    Args:
        values: one per training.
        least: bound of what can be.
        most: likewise.

    Returns:
        Of several trainings Student's interval of their mean, cut to what can be; of a single one
        what it brings itself.
    """
    if len(values) == 1:
        return values[0]
    mean = mean_over([value.estimate for value in values])
    return Interval(mean.estimate, max(mean.low, least), min(mean.high, most))


def mean_over(values: Sequence[float] | np.ndarray) -> Interval:
    """Return the mean of values, one per training, with Student's 95% interval.

    Args:
        values: f64[N]; a single one has no interval.
    """
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return Interval(mean, mean - float(half), mean + float(half))


def by(results: Sequence[CellResult], *labels: str) -> dict[Any, list[CellResult]]:
    """Group results by their labels, in the order in which these come first.

    Args:
        results: of an experiment.
        labels: names; the keys are values of the one, or tuples of several.
    """
    groups: dict[Any, list[CellResult]] = {}
    for result in results:
        values = tuple(result.labels[name] for name in labels)
        groups.setdefault(values if len(values) > 1 else values[0], []).append(result)
    return groups


def floors(
    data: DataConfig, dataset: str, tasks: TaskConfig, positions: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Let hand-written learners learn on the test part of a data set, on unseen tasks.

    Args:
        data: how inputs are scaled.
        dataset: its name.
        tasks: of the meta-training; their number and bias are left out.
        positions: where guesses are counted.

    Returns:
        Accuracy at the positions, f64[P] in [0, 1], by the learners' names.

    Raises:
        GlaError: if the data set cannot be read or no such tasks can be made of it.
    """
    tasks = unseen(tasks)
    examples = to_device(data.load(dataset, "test"), tasks)
    found = {}
    for name in FLOORS:
        learner = make_baseline(name, tasks.classes)
        params = learner.init(jax.random.key(0))  # nothing is drawn
        score = evaluate(learner, params, examples, tasks, FLOOR_SEQUENCES, positions=positions)
        found[learner.name] = score.accuracy
    return found


# --- words


def percent(value: Interval | float) -> str:
    """Return "62%", or "62% [58, 65]" of an interval."""
    if isinstance(value, float | int):
        return f"{100 * value:.0f}%"
    bounds = f" [{100 * value.low:.0f}, {100 * value.high:.0f}]" if value.known else ""
    return f"{100 * value.estimate:.0f}%{bounds}"


def what_intervals(results: Sequence[CellResult]) -> str:
    """Say what the intervals of a figure are over.

    Args:
        results: with a label `seed`.
    """
    seeds = len({result.labels["seed"] for result in results})
    if seeds > 1:
        return f"95% intervals over {seeds} trainings each"
    return "one training each, 95% intervals over its guesses"


def power(count: int) -> str:
    """Return a whole number, or its power of two from 1,024 on."""
    exponent = math.log2(count)
    return f"2^{exponent:.0f}" if count >= 1024 and exponent.is_integer() else f"{count:,}"


def power_label(count: int) -> str:
    """Return `power` as matplotlib sets it."""
    return re.sub(r"2\^(\d+)", r"$2^{\1}$", power(count))


def called(dataset: str) -> str:
    """Return what a data set is called in a figure."""
    return {"random": "random points"}.get(dataset, short_name(dataset))


# --- pictures


def panels(count: int, legend: bool = True, width: int = PANEL) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels side by side and room on the right for a legend.

    Args:
        count: of panels.
        legend: whether there is one.
        width: of a panel, in pixels.
    """
    whole = 110 + width * count + (LEGEND if legend else 30)
    figure, found = new_figure(whole, HEIGHT, count)
    right = 1 - (LEGEND if legend else 30) / whole
    figure.subplots_adjust(left=110 / whole, right=right, top=0.84, bottom=0.15, wspace=0.22)
    return figure, found


def line(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[Interval],
    number: int,
    label: str,
    marks: bool = True,
) -> None:
    """Draw a line and its band in percent.

    Args:
        axes: where.
        places: f64[P], where on the horizontal axis.
        values: P of them, in [-1, 1].
        number: of the line, which decides its colour and mark.
        label: for the legend.
        marks: whether the points are marked.
    """
    colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
    middle = [100 * value.estimate for value in values]
    low = [100 * value.low if value.known else np.nan for value in values]
    high = [100 * value.high if value.known else np.nan for value in values]
    axes.fill_between(places, low, high, color=colour, alpha=0.18, lw=0)
    axes.plot(
        places, middle, color=colour, marker=mark if marks else "", ms=5, lw=2, label=label,
        zorder=3,
    )  # fmt: skip


def floor_lines(axes: Axes, places: Sequence[float], found: Mapping[str, np.ndarray]) -> None:
    """Draw hand-written learners as thin grey lines in percent."""
    for style, (name, accuracy) in zip((":", (0, (5, 2))), found.items(), strict=True):
        axes.plot(places, 100 * accuracy, color=GREY, ls=style, lw=1.3, label=name)


def powers_axis(axes: Axes, values: Sequence[float], label: str) -> None:
    """Make a horizontal axis of powers of two."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(values) / 2**0.3, max(values) * 2**0.3)
    axes.set_xlabel(label)


def finish(figure: Figure, title: str, path: Path, legend: Sequence[Axes] = ()) -> None:
    """Add title and legend, and write the figure.

    Args:
        figure: which.
        title: of the whole.
        path: PNG file.
        legend: panels whose labels are explained; a label that comes twice is so once.
    """
    entries: dict[str, Any] = {}
    for axes in legend:
        handles, names = axes.get_legend_handles_labels()
        entries |= {name: handle for name, handle in zip(names, handles, strict=True)
                    if name not in entries}  # fmt: skip
    if entries:
        figure.legend(
            list(entries.values()), list(entries), loc="center left", frameon=False, fontsize=9.5,
            bbox_to_anchor=(figure.subplotpars.right + 0.005, 0.5),
        )  # fmt: skip
    title_of(figure, title)
    save_figure(figure, path)


def title_of(figure: Figure, text: str) -> None:
    """Write the title of a whole figure."""
    figure.suptitle(text, x=0.015, y=0.985, va="top", ha="left", fontsize=12, fontweight="bold")


def note(figure: Figure, text: str) -> None:
    """Write a remark into the lower right corner."""
    figure.text(0.985, 0.02, text, ha="right", fontsize=9, color=GREY)


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """Explain the labels of one panel below the figure, in at most so many columns."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=min(columns, len(labels)), fontsize=9,
        frameon=False,
    )  # fmt: skip
