"""Pictures of how meta-training goes: plateaus, phases, statistics of gradients.

Every function draws results into a PNG file and returns what it shows in words. The colours are
those of Okabe and Ito 2008, and lines differ in style too. Bands and bars are 95% intervals of
Student's t over seeds, where there are two or more and none is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

from gla.benchmarks.gpicl_grid import CellResult
from gla.benchmarks.plots import new_figure, save_figure
from gla.errors import GlaError
from gla.gpicl.plateau import Plateau, find_plateau, smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008; their yellow is left out, as it cannot be seen on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), "-")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6B6B6B"

LEARNED = 0.1  # accuracy above chance, or gained along the sequence, that counts as learned
PHASES = ("on the plateau", "memorises", "generalises")
_PHASE_COLOURS = ("#D9D9D9", "#E69F00", "#0072B2")
_PHASE_MARKS = ("–", "M", "G")

Results = Sequence[CellResult]


class Mean(NamedTuple):
    """A mean over seeds with its 95% interval; not-a-number bounds where there is none."""

    mean: float
    low: float
    high: float


def mean_of(values: Sequence[float] | np.ndarray) -> Mean:
    """Return the mean of values, one per seed, with the interval of Student's t."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Mean(mean, math.nan, math.nan)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return Mean(mean, mean - float(half), mean + float(half))


def groups(results: Results, *names: str) -> dict[Any, list[CellResult]]:
    """Return results by one label, or by a tuple of several, in the order of the cells."""
    found: dict[Any, list[CellResult]] = {}
    for one in results:
        key = tuple(one.labels[name] for name in names)
        found.setdefault(key[0] if len(names) == 1 else key, []).append(one)
    return found


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
    mean = mean_of(lengths)
    if math.isnan(mean.low):
        return f"{mean.mean:,.0f} steps"
    return f"{mean.mean:,.0f} steps [{max(mean.low, 0):,.0f}, {mean.high:,.0f}]"


def phase(result: CellResult, chance: float) -> int:
    """Return which of `PHASES` a cell with a finite number of tasks ended in.

    It generalises if accuracy on unseen tasks grows along the sequence by more than `LEARNED`;
    memorises if not, but on seen tasks the last guesses are above chance by more than that.

    Args:
        result: with tests `seen` and `unseen` at the first and the last position.
        chance: accuracy of guessing.
    """
    unseen, seen = result.tests["unseen"]["accuracy"], result.tests["seen"]["accuracy"]
    if unseen[-1] - unseen[0] > LEARNED:
        return 2
    return int(seen[-1] - chance > LEARNED)


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
    _title(figure, title)
    _legend_below(figure, panels[0], 4)
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
    cells = groups(results, "tasks", "batch")
    tasks, batches = sorted({t for t, _ in cells}), sorted({b for _, b in cells})
    grid = np.full((len(batches), len(tasks)), np.nan)
    for (count, batch), runs in cells.items():
        ends = [phase(one, math.exp(-chance)) for one in runs]
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
    _title(figure, title)
    _note(figure, "open marks: not left by the end of training, so at least this long")
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
    axes.set_xticks(range(len(tasks)), [_power(x) for x in tasks])
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
            mean = Mean(*(times * value for value in mean_of([one.length for one in found])))
            left = all(one.left for one in found)
            points.append((x, mean, left))
        # A logarithmic axis has no zero; what is shorter than a curve shows is left out.
        points = [point for point in points if point[1].mean > 0]
        if not points:
            continue
        xs, means = [p[0] for p in points], [p[1].mean for p in points]
        axes.plot(xs, means, color=colour, ls=STYLES[number % len(STYLES)], lw=1.5)
        for x, mean, left in points:
            axes.plot(
                x, mean.mean, mark, ms=6, mec=colour, mew=1.5, mfc=colour if left else "white",
                zorder=3,
            )  # fmt: skip
            if left and not math.isnan(mean.low):
                low = max(mean.low, 0.2 * mean.mean)
                axes.vlines(x, low, mean.high, color=colour, lw=1.2)
        axes.plot([], [], mark, color=colour, ls=STYLES[number % len(STYLES)], label=_power(line))
    axes.set_xscale("log", base=2)
    axes.set_xticks(across, [_power(x) for x in across])
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
    cells = groups(results, "tasks", "batch")
    tasks, batches = sorted({t for t, _ in cells}), sorted({b for _, b in cells})
    _lengths(panels[0], cells, batches, tasks, 1, chance, "batch size", "tasks", seen=True)
    _lengths(
        panels[1], cells, tasks, batches, 0, chance, "number of tasks", "batch size", seen=True
    )
    for axes, text in zip(panels, ("a  by batch size", "b  by number of tasks"), strict=True):
        axes.set_ylabel("tasks seen in the plateau")
        axes.set_title(text, loc="left", fontsize=11)
    _title(figure, title)
    _note(figure, "open marks: not left by the end of training, so at least this many")
    save_figure(figure, path)
    return f"{title}. {_longest(cells, chance)}"


def draw_bias(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw losses of different shares of a fixed permutation (Fig. 8)."""
    figure, panels = new_figure(1400, 640, 2)
    figure.subplots_adjust(left=0.07, right=0.98, top=0.83, bottom=0.24, wspace=0.2)
    told = []
    for number, (bias, runs) in enumerate(groups(results, "bias").items()):
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
    by_arm = groups(results, "arm")
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


def draw_arms(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw how remedies shorten the plateau: every seed's loss and every plateau's length.

    All are measured alike, by the loss on unseen tasks with uniform permutations.
    """
    figure, (left, right) = new_figure(1560, 700, 2)
    figure.subplots_adjust(left=0.065, right=0.98, top=0.84, bottom=0.24, wspace=0.36)
    arms, told = groups(results, "arm"), []
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
    _title(figure, title)
    if any(
        not one.left for runs in arms.values() for one in plateaus(runs, validation_curve, chance)
    ):
        _note(figure, "arrows: not left by the end of training; no interval then")
    save_figure(figure, path)
    count = max(len(runs) for runs in arms.values())
    return f"{title}, {count} seed{'s' if count > 1 else ''}. Plateau: {'; '.join(told)}."


def _dots(axes: Axes, row: int, found: Sequence[Plateau], colour: str) -> None:
    """Draw plateau lengths of the seeds of an arm in one row."""
    for place, one in enumerate(found):
        y = row + 0.12 * (place - (len(found) - 1) / 2)
        axes.plot(one.length, y, "o" if one.left else ">", color=colour, ms=7, alpha=0.8, zorder=3)
    if len(found) > 1 and all(one.left for one in found):
        mean = mean_of([one.length for one in found])
        axes.errorbar(
            mean.mean, row + 0.3, xerr=[[mean.mean - max(mean.low, 0)], [mean.high - mean.mean]],
            fmt="|", color="#111111", capsize=3, lw=1.5, ms=10,
        )  # fmt: skip


def draw_decay(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw losses on seen and unseen tasks by number of tasks and weight decay (Fig. 17)."""
    by_tasks = groups(results, "tasks")
    figure, panels = new_figure(480 * len(by_tasks) + 120, 640, len(by_tasks))
    figure.subplots_adjust(left=0.06, right=0.985, top=0.83, bottom=0.25, wspace=0.14)
    told = []
    for axes, (tasks, runs) in zip(panels, by_tasks.items(), strict=True):
        for number, (decay, same) in enumerate(groups(runs, "decay").items()):
            _band(axes, same, training_curve, number, f"decay {decay:g}, training", style="-")
            _band(axes, same, validation_curve, number, f"decay {decay:g}, unseen", style="--")
            ends = [validation_curve(one)[1] for one in same]
            drop = mean_of([float(np.nanmin(loss)) for loss in ends]).mean
            last = mean_of([loss[-1] for loss in ends]).mean
            train = mean_of([training_curve(one)[1][-1] for one in same]).mean
            told.append(
                f"{tasks:,} tasks and decay {decay:g}: training {train:.2f}, unseen {last:.2f} at "
                f"the end, {drop:.2f} at best"
            )
        axes.axhline(chance, color=GREY, lw=1, ls=":")
        axes.set_title(f"{_power(tasks)} tasks", loc="left", fontsize=11)
        axes.set_xlabel("meta-training step")
        axes.set_xscale("log")
    panels[0].set_ylabel("loss, nats")
    low, high = 0.0, max(1.3 * chance, _typical_top(results, chance))
    for axes in panels:
        axes.set_ylim(low, high)
    _title(figure, title)
    _legend_below(figure, panels[0], 3)
    save_figure(figure, path)
    return f"{title}. {'; '.join(told)}."


def _typical_top(results: Results, chance: float) -> float:
    """Return a loss that nine in ten values of the curves lie below, at most three times chance."""
    values = np.concatenate([validation_curve(one)[1] for one in results])
    return min(float(np.percentile(values, 90)) * 1.1, 3 * chance)


class _Measured(NamedTuple):
    """Statistics of a run over its steps, f64[S] each; S tensors' worth put together."""

    steps: np.ndarray
    values: dict[str, np.ndarray]


def whole(result: CellResult) -> _Measured:
    """Put the statistics of all tensors together.

    Norms add up by their squares. The cosine of whole vectors is the mean of the tensors' cosines
    weighted by the products of their norms, for which the squared norms stand here.

    Raises:
        GlaError: if none were measured.
    """
    if not result.statistics:
        raise GlaError(f"the cell {result.name} holds no statistics", "statistics=True")
    values: dict[str, list[float]] = {"distance": []}
    for row in result.statistics:
        values["distance"].append(row["distance"])
        tensors = list(row["tensors"].values())
        for what in ("gradient", "update"):
            squares = np.array([t[f"{what}_norm"] for t in tensors]) ** 2
            cosines = np.array([t[f"{what}_cosine"] for t in tensors])
            values.setdefault(f"{what}_norm", []).append(float(np.sqrt(squares.sum())))
            share = squares / max(squares.sum(), 1e-30)
            values.setdefault(f"{what}_cosine", []).append(float((share * cosines).sum()))
        for what in ("first_moment_norm", "second_moment_norm"):
            if all(t.get(what) is not None for t in tensors):
                norm = math.sqrt(sum(t[what] ** 2 for t in tensors))
                values.setdefault(what, []).append(norm)
    steps = np.array([row["step"] for row in result.statistics], np.float64)
    return _Measured(steps, {name: np.array(found) for name, found in values.items()})


def draw_moments(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw the norms of Adam's two averages (Fig. 12); dashed: where the plateau ends."""
    figure, panels = new_figure(1400, 600, 2)
    figure.subplots_adjust(left=0.08, right=0.98, top=0.83, bottom=0.24, wspace=0.24)
    told = []
    for number, (arm, runs) in enumerate(groups(results, "arm").items()):
        one = runs[0]
        found, measured = find_plateau(*validation_curve(one), level=chance), whole(one)
        for axes, what in zip(panels, ("first_moment_norm", "second_moment_norm"), strict=True):
            axes.plot(
                measured.steps, measured.values[what], color=COLOURS[number], ls=STYLES[number],
                lw=1.6, label=arm,
            )  # fmt: skip
            if found.left and found.length:
                axes.axvline(found.end, color=COLOURS[number], lw=1.2, ls=(0, (4, 3)))
        before, after = (
            measured.values["first_moment_norm"][at].mean() if at.any() else math.nan
            for at in (measured.steps <= found.end, measured.steps > found.end)
        )
        if found.left and found.length:
            told.append(f"{arm}: mean norm of the averaged gradient {before:.2g} before the end of "
                        f"the plateau, {after:.2g} after")  # fmt: skip
    for axes, text, label in zip(
        panels, ("a  averaged gradient", "b  averaged squared gradient"),
        ("L2 norm of m", "L2 norm of v"), strict=True,
    ):  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlabel("meta-training step")
        axes.set_ylabel(label)
        axes.set_title(text, loc="left", fontsize=11)
    _title(figure, title)
    _legend_below(figure, panels[0], 4)
    save_figure(figure, path)
    return f"{title}. {'; '.join(told) or 'No plateau was left'}."


def draw_statistics(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw losses, distances, cosines and norms, biased against uniform (Fig. 13)."""
    figure, panels = new_figure(1900, 640, 6)
    figure.clear()
    axes_of: list[list[Axes]] = figure.subplots(2, 3).tolist()
    figure.set_size_inches(figure.get_size_inches()[0], figure.get_size_inches()[1] * 1.55)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.89, bottom=0.13, wspace=0.26, hspace=0.4)
    kinds = (
        ("a  loss on unseen tasks, nats", None),
        ("b  cosine of consecutive gradients", "gradient_cosine"),
        ("c  gradient norm", "gradient_norm"),
        ("a  distance from the initial weights", "distance"),
        ("b  cosine of consecutive updates", "update_cosine"),
        ("c  update norm", "update_norm"),
    )
    flat = [axes for row in axes_of for axes in row]
    told = []
    for number, (arm, runs) in enumerate(groups(results, "arm").items()):
        one = runs[0]
        measured = whole(one)
        for axes, (text, what) in zip(flat, kinds, strict=True):
            steps, values = (
                validation_curve(one) if what is None else (measured.steps, measured.values[what])
            )
            if what is not None and "cosine" in what:
                values = smooth(values)
            axes.plot(steps, values, color=COLOURS[number], ls=STYLES[number], lw=1.6, label=arm)
            axes.set_title(text, loc="left", fontsize=11)
            if what in ("gradient_norm", "update_norm"):
                axes.set_yscale("log")
        half = measured.steps <= measured.steps[-1] / 4
        told.append(
            f"{arm} in the first quarter: gradient norm {_mean(measured, 'gradient_norm', half)}, "
            f"gradient cosine {_mean(measured, 'gradient_cosine', half)}, update norm "
            f"{_mean(measured, 'update_norm', half)}, update cosine "
            f"{_mean(measured, 'update_cosine', half)}"
        )
    for axes in flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E4E4E4", lw=0.8)
        axes.tick_params(labelsize=10, color="#888888")
        axes.set_xlabel("meta-training step")
    _title(figure, title)
    _legend_below(figure, flat[0], 4)
    save_figure(figure, path)
    return f"{title}. {'; '.join(told)}."


def _mean(measured: _Measured, what: str, at: np.ndarray) -> str:
    return f"{measured.values[what][at].mean():.2g}"


def draw_tensors(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw gradient norms and cosines inside the plateau, tensor by tensor (Fig. 14)."""
    arms = groups(results, "arm")
    first = next(iter(arms.values()))[0]
    names = list(first.statistics[0]["tensors"]) if first.statistics else []
    if not names:
        raise GlaError(f"the cell {first.name} holds no statistics", "statistics=True")
    figure, panels = new_figure(1560, 190 + 34 * len(names), 2)
    height = 190 + 34 * len(names)
    figure.subplots_adjust(
        left=0.27, right=0.985, top=1 - 95 / height, bottom=110 / height, wspace=0.06
    )
    largest = ""
    for number, (arm, runs) in enumerate(arms.items()):
        found = find_plateau(*validation_curve(runs[0]), level=chance)
        rows = runs[0].statistics
        within = [row for row in rows if row["step"] <= found.end] if found.length else []
        # Arms without a plateau are shown over their first quarter.
        within = within or rows[: max(len(rows) // 4, 1)]
        for axes, what in zip(panels, ("gradient_norm", "gradient_cosine"), strict=True):
            means = [float(np.mean([row["tensors"][n][what] for row in within])) for n in names]
            axes.plot(
                means, np.arange(len(names)) + 0.16 * (number - 0.5), MARKS[number],
                color=COLOURS[number], ms=6, label=arm, mfc=COLOURS[number] if number == 0 else "w",
            )  # fmt: skip
            if number == 0 and what == "gradient_norm":
                order = np.argsort(means)[::-1]
                largest = f"the largest mean gradient norm is that of {names[order[0]]} "
                largest += f"({means[order[0]]:.2g}), the median of all {np.median(means):.2g}"
    panels[0].set_xscale("log")
    for axes, label in zip(panels, ("gradient L2 norm", "cosine of consecutive gradients"),
                           strict=True):  # fmt: skip
        axes.set_xlabel(label)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), [name.removeprefix("params/") for name in names],
                        fontsize=8)  # fmt: skip
    panels[1].tick_params(labelleft=False)
    panels[1].axvline(0, color=GREY, lw=1)
    _title(figure, title)
    _legend_below(figure, panels[0], 4)
    save_figure(figure, path)
    return f"{title}. In {next(iter(arms))}, {largest}."


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
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(0, ddof=1) / math.sqrt(len(values))
        axes.fill_between(
            steps, values.mean(0) - half, values.mean(0) + half, color=colour, alpha=0.15, lw=0
        )


def _finish_curves(
    figure: Figure, panels: Sequence[Axes], chance: float, title: str, legend: bool = True
) -> None:
    for axes in panels:
        axes.axhline(chance, color=GREY, lw=1, ls=":")
        axes.set_xlabel("meta-training step")
        axes.set_ylim(0, 1.15 * chance)
    panels[0].set_ylabel("loss, nats")
    _title(figure, title)
    if legend:
        _legend_below(figure, panels[0], 6)


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.015, y=0.985, va="top", ha="left", fontsize=12, fontweight="bold")


def _note(figure: Figure, text: str) -> None:
    figure.text(0.985, 0.02, text, ha="right", fontsize=9, color=GREY)


def _legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=min(columns, len(labels)), fontsize=9,
        frameon=False,
    )  # fmt: skip


def _power(number: int) -> str:
    """Write 4096 as a power of two, and other numbers as they are."""
    power = round(math.log2(number)) if number else 0
    return f"$2^{{{power}}}$" if number > 512 and 2**power == number else f"{number:,}"
