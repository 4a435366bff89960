"""Pictures of the loss plateau: curves, phases, lengths.

Every function draws results into a PNG file and returns what it shows in words. Lines differ in
style as well as in colour. Bands and bars are 95% intervals of Student's t over seeds, where there
are two or more and none is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gla.benchmarks.gpicl_grid import CellResult
from gla.benchmarks.gpicl_panels import (
    COLOURS,
    GREY,
    MARKS,
    at,
    by,
    gain,
    legend_below,
    mean_over,
    note,
    power_label,
    title_of,
)
from gla.benchmarks.gpicl_phases import phase
from gla.benchmarks.plots import new_figure, save_figure
from gla.errors import GlaError
from gla.gpicl.plateau import Plateau, find_plateau

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), "-")

PHASES = ("on the plateau", "memorises", "generalises")
_PHASE_COLOURS = ("#D9D9D9", "#E69F00", "#0072B2")
_PHASE_MARKS = ("–", "M", "G")

Results = Sequence[CellResult]


def training_curve(result: CellResult) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and training losses."""
    steps, losses = np.asarray(result.curve, np.float64).T
    return steps, losses


def validation_curve(
    result: CellResult, begins: str = "unseen", what: str = "loss"
) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and losses of the validation whose name begins so.

    Raises:
        GlaError: if there is none.
    """
    rows = []
    for row in result.validations:
        names = [name for name in row if name.startswith(begins)]
        rows += [(row["step"], row[names[0]][what])] if names else []
    if not rows:
        raise GlaError(f"the cell {result.name} was not validated on {begins} tasks")
    steps, losses = np.asarray(rows, np.float64).T
    return steps, losses


Curve = Callable[[CellResult], tuple[np.ndarray, np.ndarray]]


def plateaus(results: Results, curve: Curve, chance: float) -> list[Plateau]:
    """Find the plateau at the loss of guessing in the curve of each result."""
    return [find_plateau(*curve(one), level=chance) for one in results]


def length_in_words(found: Sequence[Plateau]) -> str:
    """Say how long plateaus of several seeds are."""
    lengths = [one.length for one in found]
    censored = sum(not one.left for one in found)
    if censored:
        shown = ", ".join(f"{'' if one.left else '≥ '}{one.length:,.0f}" for one in found)
        return f"{shown} steps ({censored} of {len(found)} not left)"
    mean = mean_over(lengths)
    if not mean.known:
        return f"{mean.estimate:,.0f} steps"
    return f"{mean.estimate:,.0f} steps [{max(mean.low, 0):,.0f}, {mean.high:,.0f}]"


def end_of(result: CellResult, chance: float) -> int:
    """Return which of `PHASES` a cell with a finite number of tasks ended in.

    Args:
        result: with tests `seen` and `unseen` at the first and the last position.
        chance: accuracy of guessing.
    """
    seen, unseen = gain(result, "seen").estimate, gain(result, "unseen").estimate
    found = phase(at(result, "seen", 0).estimate, seen, unseen, chance)
    return {"nothing learned": 0, "learning in general": 2}.get(found, 1)


def draw_plateau(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw the training loss of one run, whole and near its plateau (Fig. 6)."""
    one = results[0]
    found = find_plateau(*training_curve(one), level=chance)
    figure, panels = new_figure(1400, 640, 2)
    figure.subplots_adjust(left=0.07, right=0.98, top=0.83, bottom=0.24, wspace=0.2)
    names = [n for n in one.validations[-1] if n not in ("step", "score")]
    for axes in panels:
        axes.plot(*training_curve(one), color=COLOURS[0], lw=1.2, label="training")
        for place, name in enumerate(names, 1):
            label = name.split(" of ")[0] if " tasks of " in name else f"{name} (other data set)"
            axes.plot(
                *validation_curve(one, name), color=COLOURS[place], ls=STYLES[place], lw=1.8,
                label=label,
            )  # fmt: skip
        axes.axhline(chance, color=GREY, lw=1, ls=":")
        axes.set_xlabel("meta-training step")
        if found.length:
            axes.axvspan(found.start, found.end, color=GREY, alpha=0.1, lw=0)
    panels[0].set_ylabel("loss, nats")
    panels[0].set_title("a  whole training", loc="left", fontsize=11)
    panels[1].set_title("b  the plateau", loc="left", fontsize=11)
    _zoom(panels[1], one, names, found, chance)
    title_of(figure, title)
    legend_below(figure, panels[0], 4)
    save_figure(figure, path)
    ends = ", ".join(f"{name} {validation_curve(one, name)[1][-1]:.2f}" for name in names)
    stays = "stays" if found.left else "is still"
    return (
        f"{title}. The training loss {stays} near that of guessing, {chance:.2f} nats, for "
        f"{found.length:,.0f} steps (grey) and ends at {training_curve(one)[1][-1]:.2f}; "
        f"validation losses at the end: {ends}."
    )


def _zoom(axes: Axes, one: CellResult, names: list[str], found: Plateau, chance: float) -> None:
    """Limit axes to the plateau and what the losses do within it."""
    end = found.end if found.length else training_curve(one)[0][-1]
    right = min(end * 1.1, training_curve(one)[0][-1])
    seen = [training_curve(one), *(validation_curve(one, name) for name in names)]
    within = np.concatenate([loss[steps <= end] for steps, loss in seen])
    if not within.size:
        within = np.array([chance])
    low, high = np.percentile(within, [1, 99])
    room = max(0.25 * (high - low), 0.005 * chance)
    axes.set_xlim(0, right)
    axes.set_ylim(min(low, chance) - room, max(high, chance) + room)


def draw_phases(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw what runs do at their end, and how long their plateaus are (Fig. 7).

    Args:
        results: with labels `tasks`, `batch` and `seed`, and tests `seen` and `unseen`.
        path: PNG file to write.
        chance: loss of guessing, log C.
        title: of the figure.
    """
    figure, panels = new_figure(1900, 700, 3)
    figure.subplots_adjust(left=0.05, right=0.985, top=0.84, bottom=0.3, wspace=0.27)
    cells = by(results, "tasks", "batch")
    tasks, batches = sorted({t for t, _ in cells}), sorted({b for _, b in cells})
    grid = np.full((len(batches), len(tasks)), np.nan)
    for (count, batch), runs in cells.items():
        ends = [end_of(one, math.exp(-chance)) for one in runs]
        grid[batches.index(batch), tasks.index(count)] = float(np.median(ends))
    _phase_map(panels[0], grid, tasks, batches)
    _lengths(panels[1], cells, batches, tasks, 1, chance, "batch size", "tasks")
    _lengths(panels[2], cells, tasks, batches, 0, chance, "number of tasks", "batch size")
    for axes, text in zip(
        panels, ("a  at the end of training", "b  plateau by batch size",
                 "c  plateau by number of tasks"), strict=True,
    ):  # fmt: skip
        axes.set_title(text, loc="left", fontsize=11)
    for axes in panels[1:]:
        axes.set_ylabel("plateau length, steps")
    title_of(figure, title)
    note(figure, "open marks: not left by the end of training, so at least this long")
    save_figure(figure, path)
    ends = [int(x) for x in grid[~np.isnan(grid)]]
    counts = ", ".join(f"{ends.count(i)} {name}" for i, name in enumerate(PHASES))
    return f"{title}. Of {len(ends)} pairs of task count and batch size, {counts}. " + _longest(
        cells, chance
    )


def _phase_map(axes: Axes, grid: np.ndarray, tasks: list[int], batches: list[int]) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    axes.grid(visible=False)
    axes.imshow(
        np.round(grid), origin="lower", aspect="auto", cmap=ListedColormap(_PHASE_COLOURS),
        vmin=-0.5, vmax=2.5,
    )  # fmt: skip
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            mark, dark = _PHASE_MARKS[round(value)], round(value) == 2
            axes.text(
                column, row, mark, ha="center", va="center", fontsize=11,
                color="white" if dark else "black",
            )  # fmt: skip
    axes.set_xticks(range(len(tasks)), [power_label(x) for x in tasks])
    axes.set_yticks(range(len(batches)), [str(x) for x in batches])
    axes.set_xlabel("number of tasks")
    axes.set_ylabel("batch size")
    patches = [
        Patch(facecolor=c, label=f"{m} {n}")
        for c, m, n in zip(_PHASE_COLOURS, _PHASE_MARKS, PHASES, strict=True)
    ]
    axes.legend(
        handles=patches, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=9,
        frameon=False, handlelength=1.2, columnspacing=1.2,
    )  # fmt: skip


def _lengths(
    axes: Axes,
    cells: dict[Any, list[CellResult]],
    across: list[int],
    lines: list[int],
    place: int,
    chance: float,
    label: str,
    of: str,
    seen: bool = False,
) -> None:
    """Draw plateau lengths against one label (at `place` of the keys), a line per other label.

    With `seen` the length is in sequences met, that is steps times batch size.
    """
    for number, line in enumerate(lines):
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        points = []
        for x in across:
            key = (line, x) if place == 1 else (x, line)
            if key not in cells:
                continue
            found = plateaus(cells[key], training_curve, chance)
            times = key[1] if seen else 1
            mean = mean_over([times * one.length for one in found])
            left = all(one.left for one in found)
            points.append((x, mean, left))
        # A logarithmic axis has no zero; what is shorter than a curve shows is left out.
        points = [point for point in points if point[1].estimate > 0]
        if not points:
            continue
        xs, means = [p[0] for p in points], [p[1].estimate for p in points]
        axes.plot(xs, means, color=colour, ls=STYLES[number % len(STYLES)], lw=1.5)
        for x, mean, left in points:
            axes.plot(
                x, mean.estimate, mark, ms=6, mec=colour, mew=1.5, mfc=colour if left else "white",
                zorder=3,
            )  # fmt: skip
            if left and mean.known:
                low = max(mean.low, 0.2 * mean.estimate)
                axes.vlines(x, low, mean.high, color=colour, lw=1.2)
        axes.plot(
            [], [], mark, color=colour, ls=STYLES[number % len(STYLES)], label=power_label(line)
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(across, [power_label(x) for x in across])
    axes.minorticks_off()
    axes.set_yscale("log")
    _plain_numbers(axes)
    axes.set_xlabel(label)
    axes.legend(
        title=of, fontsize=9, title_fontsize=9, frameon=False, ncols=len(lines),
        loc="upper center", bbox_to_anchor=(0.5, -0.17), handlelength=1.6, columnspacing=1.0,
        handletextpad=0.4,
    )  # fmt: skip


def _plain_numbers(axes: Axes) -> None:
    """Write numbers of a logarithmic axis as they are, at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _longest(cells: dict[Any, list[CellResult]], chance: float) -> str:
    """Say between which ends plateau lengths lie."""
    found = [one for runs in cells.values() for one in plateaus(runs, training_curve, chance)]
    lengths = [one.length for one in found if one.left]
    stuck = sum(not one.left for one in found)
    text = f"{stuck} of {len(found)} trainings never left the plateau"
    if lengths:
        text += f"; the others left it after {min(lengths):,.0f} to {max(lengths):,.0f} steps"
    return text + "."


def draw_tasks_seen(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw how many sequences are met in the plateau (Fig. 15); see `draw_phases`."""
    figure, panels = new_figure(1400, 700, 2)
    figure.subplots_adjust(left=0.115, right=0.98, top=0.84, bottom=0.3, wspace=0.36)
    cells = by(results, "tasks", "batch")
    tasks, batches = sorted({t for t, _ in cells}), sorted({b for _, b in cells})
    _lengths(panels[0], cells, batches, tasks, 1, chance, "batch size", "tasks", seen=True)
    _lengths(
        panels[1], cells, tasks, batches, 0, chance, "number of tasks", "batch size", seen=True
    )
    for axes, text in zip(panels, ("a  by batch size", "b  by number of tasks"), strict=True):
        axes.set_ylabel("tasks seen in the plateau")
        axes.set_title(text, loc="left", fontsize=11)
    title_of(figure, title)
    note(figure, "open marks: not left by the end of training, so at least this many")
    save_figure(figure, path)
    return f"{title}. {_longest(cells, chance)}"


def draw_bias(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw losses of different shares of a fixed permutation (Fig. 8)."""
    figure, panels = new_figure(1400, 640, 2)
    figure.subplots_adjust(left=0.07, right=0.98, top=0.83, bottom=0.24, wspace=0.2)
    told = []
    for number, (bias, runs) in enumerate(by(results, "bias").items()):
        label = "uniform" if not bias else f"{bias:.0%} fixed"
        for axes, curve in zip(panels, (training_curve, validation_curve), strict=True):
            _band(axes, runs, curve, number, label)
        told.append(f"{label} {length_in_words(plateaus(runs, validation_curve, chance))}")
    panels[0].set_title("a  training, as it is biased", loc="left", fontsize=11)
    panels[1].set_title("b  unseen tasks, uniform permutations", loc="left", fontsize=11)
    _finish_curves(figure, panels, chance, title)
    save_figure(figure, path)
    return f"{title}. Plateau of the loss on unseen, unbiased tasks: {'; '.join(told)}."


def draw_curves_by(
    results: Results,
    path: Path,
    chance: float,
    title: str,
    panels_of: Sequence[tuple[str, Mapping[str, str]]],
) -> str:
    """Draw training losses, a panel per selection of arms (Fig. 16).

    Args:
        results: with labels `arm` and `seed`.
        path: PNG file to write.
        chance: loss of guessing, log C.
        title: of the figure.
        panels_of: title of each panel, and the names of its arms in the figure.
    """
    figure, panels = new_figure(1400, 640, len(panels_of))
    figure.subplots_adjust(left=0.07, right=0.98, top=0.83, bottom=0.15, wspace=0.2)
    by_arm = by(results, "arm")
    names: dict[str, str] = {}
    for axes, (text, arms) in zip(panels, panels_of, strict=True):
        names |= arms
        for arm, name in arms.items():
            _band(axes, by_arm[arm], training_curve, list(by_arm).index(arm), name)
        axes.set_title(text, loc="left", fontsize=11)
        axes.legend(fontsize=9, frameon=False, loc="lower left")
    _finish_curves(figure, panels, chance, title, legend=False)
    save_figure(figure, path)
    told = [
        f"{names[arm]} {length_in_words(plateaus(runs, training_curve, chance))}"
        for arm, runs in by_arm.items()
    ]
    return f"{title}. Plateau of the training loss: {'; '.join(told)}."


def draw_arms(
    results: Results, path: Path, chance: float, title: str, names: Mapping[str, str]
) -> str:
    """Draw how remedies shorten the plateau: every seed's loss and every plateau's length.

    All are measured alike, by the loss on unseen tasks with uniform permutations.

    Args:
        results: with labels `arm` and `seed`.
        path: PNG file to write.
        chance: loss of guessing, log C.
        title: of the figure.
        names: of arms that are called otherwise in the figure.
    """
    figure, (left, right) = new_figure(1560, 700, 2)
    figure.subplots_adjust(left=0.065, right=0.98, top=0.84, bottom=0.24, wspace=0.56)
    arms = {names.get(arm, arm): runs for arm, runs in by(results, "arm").items()}
    told = []
    for number, (arm, runs) in enumerate(arms.items()):
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
        for place, one in enumerate(runs):
            left.plot(
                *validation_curve(one), color=colour, ls=style, lw=1.5, alpha=0.85,
                label=arm if place == 0 else None,
            )  # fmt: skip
        found = plateaus(runs, validation_curve, chance)
        _dots(right, number, found, colour)
        told.append(f"{arm} {length_in_words(found)}")
    left.axhline(chance, color=GREY, lw=1, ls=":")
    left.set_xlabel("meta-training step")
    left.set_ylabel("loss on unseen tasks, nats")
    left.set_title("a  every seed", loc="left", fontsize=11)
    left.legend(
        fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2,
        handlelength=1.8, columnspacing=1.0,
    )  # fmt: skip
    right.set_yticks(range(len(arms)), list(arms))
    right.set_ylim(len(arms) - 0.5, -0.5)
    right.set_xlim(left=0)
    right.set_xlabel("plateau length, steps")
    right.set_title("b  seeds (dots), mean and 95% interval", loc="left", fontsize=11)
    title_of(figure, title)
    if any(
        not one.left for runs in arms.values() for one in plateaus(runs, validation_curve, chance)
    ):
        note(figure, "arrows: not left by the end of training; no interval then")
    save_figure(figure, path)
    count = max(len(runs) for runs in arms.values())
    return f"{title}, {count} seed{'s' if count > 1 else ''}. Plateau: {'; '.join(told)}."


def _dots(axes: Axes, row: int, found: Sequence[Plateau], colour: str) -> None:
    """Draw plateau lengths of the seeds of an arm in one row."""
    for place, one in enumerate(found):
        y = row + 0.12 * (place - (len(found) - 1) / 2)
        axes.plot(one.length, y, "o" if one.left else ">", color=colour, ms=7, alpha=0.8, zorder=3)
    if len(found) > 1 and all(one.left for one in found):
        mean = mean_over([one.length for one in found])
        axes.errorbar(
            mean.estimate, row + 0.3,
            xerr=[[mean.estimate - max(mean.low, 0)], [mean.high - mean.estimate]],
            fmt="|", color="#111111", capsize=3, lw=1.5, ms=10,
        )  # fmt: skip


def draw_decay(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw losses on seen and unseen tasks by number of tasks and weight decay (Fig. 17)."""
    by_tasks = by(results, "tasks")
    figure, panels = new_figure(480 * len(by_tasks) + 120, 640, len(by_tasks))
    figure.subplots_adjust(left=0.06, right=0.985, top=0.83, bottom=0.25, wspace=0.14)
    told = []
    for axes, (tasks, runs) in zip(panels, by_tasks.items(), strict=True):
        for number, (decay, same) in enumerate(by(runs, "decay").items()):
            _band(axes, same, training_curve, number, f"decay {decay:g}, training", style="-")
            _band(axes, same, validation_curve, number, f"decay {decay:g}, unseen", style="--")
            ends = [validation_curve(one)[1] for one in same]
            drop = mean_over([float(np.nanmin(loss)) for loss in ends]).estimate
            last = mean_over([loss[-1] for loss in ends]).estimate
            train = mean_over([training_curve(one)[1][-1] for one in same]).estimate
            told.append(
                f"{tasks:,} tasks and decay {decay:g}: training {train:.2f}, unseen {last:.2f} at "
                f"the end, {drop:.2f} at best"
            )
        axes.axhline(chance, color=GREY, lw=1, ls=":")
        axes.set_title(f"{power_label(tasks)} tasks", loc="left", fontsize=11)
        axes.set_xlabel("meta-training step")
        axes.set_xscale("log")
    panels[0].set_ylabel("loss, nats")
    low, high = 0.0, max(1.3 * chance, _typical_top(results, chance))
    for axes in panels:
        axes.set_ylim(low, high)
    title_of(figure, title)
    legend_below(figure, panels[0], 3)
    save_figure(figure, path)
    return f"{title}. {'; '.join(told)}."


def _typical_top(results: Results, chance: float) -> float:
    """Return a loss that nine in ten values of the curves lie below, at most three times chance."""
    values = np.concatenate([validation_curve(one)[1] for one in results])
    return min(float(np.percentile(values, 90)) * 1.1, 3 * chance)


def _band(
    axes: Axes, runs: Results, curve: Curve, number: int, label: str, style: Any = None
) -> None:
    """Draw the mean over seeds and its 95% interval."""
    curves = [curve(one) for one in runs]
    count = min(len(steps) for steps, _ in curves)
    steps = curves[0][0][:count]
    values = np.array([loss[:count] for _, loss in curves])
    colour = COLOURS[number % len(COLOURS)]
    style = STYLES[number % len(STYLES)] if style is None else style
    axes.plot(steps, values.mean(0), color=colour, ls=style, lw=1.7, label=label)
    if len(values) > 1:
        bands = [mean_over(one) for one in values.T]
        axes.fill_between(
            steps, [x.low for x in bands], [x.high for x in bands], color=colour, alpha=0.15, lw=0
        )


def _finish_curves(
    figure: Figure, panels: Sequence[Axes], chance: float, title: str, legend: bool = True
) -> None:
    lowest = min(float(np.min(line.get_ydata())) for axes in panels for line in axes.get_lines())
    room = max(0.1 * (chance - lowest), 0.01 * chance)
    for axes in panels:
        axes.axhline(chance, color=GREY, lw=1, ls=":")
        axes.set_xlabel("meta-training step")
        axes.set_ylim(lowest - room, chance + room)
    panels[0].set_ylabel("loss, nats")
    title_of(figure, title)
    if legend:
        legend_below(figure, panels[0], 6)
