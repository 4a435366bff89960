"""Drawing the figures of papers: return over a lifetime, panel by panel, from stored results.

Colours are those of Okabe and Ito 2008; every line also has a mark of its own.
"""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gla.benchmarks import results as files
from gla.benchmarks.figures_parts import Figure, Line, Panel
from gla.benchmarks.plots import EXPERT, NULL, save_figure
from gla.benchmarks.results import AgentResult, Results
from gla.benchmarks.statistics import (
    Interval,
    agent_of,
    bootstrap_interval,
    digits_of,
    judge,
    scale,
    twin_of,
)
from gla.envs import registry
from gla.errors import GlaError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture
    from matplotlib.lines import Line2D

STYLES = (("#0072B2", "o"), ("#CC79A7", "s"), ("#E69F00", "^"), ("#56B4E9", "D"))
MASKED, OWN, READ = "#D55E00", "#111111", "#111111"
DPI = 160
WIDTH, PANEL, HEAD, FOOT = 1500, 520, 90, 110  # pixels: of a row of panels, and around them
MOST_COLUMNS, LEGEND_LETTERS = 4, 90  # of the legend: columns, letters in a line
MOST_WINDOWS = 16  # points of a line on a linear axis
LOG_WINDOWS = 14  # on a logarithmic one
OWN_POINTS = 50  # of PPO's own curve
_SHORT = {"first": "its first", "null": "the best null", "masked": "its twin"}


@dataclass(frozen=True)
class Row:
    """What one results file says about the agent of a line.

    Attributes:
        panel: title of the panel.
        label: of the line.
        file: path relative to the output folder.
        first: return of the first episode, with its 95% interval, as text.
        last: likewise of the last whole episode.
        null: the best null controller and its return.
        masked: return of the last episode of the reward-masked twin.
        verdict: `learned`, `did not learn` or `not judged`, and what was not beaten.
        sentence: the whole verdict in words.
        numbers: the same as numbers, [estimate, low, high], by `first`, `last`, `null`, `masked`
            and, where there is a scale, `score`.
    """

    panel: str
    label: str
    file: str
    first: str
    last: str
    null: str
    masked: str
    verdict: str
    sentence: str
    numbers: dict[str, list[float]] = field(default_factory=dict)


class Points(NamedTuple):
    """A line with its band: steps f64[P], and P intervals."""

    steps: np.ndarray
    values: tuple[Interval, ...]


def window_edges(agents: Sequence[AgentResult], steps: int, log: bool) -> np.ndarray:
    """Return the edges f64[W + 1] of the windows into which a lifetime is cut, from 0 to `steps`.

    No window is shorter than the longest episode: otherwise a window would hold the lifetimes whose
    episodes were short, and they are not like the others.

    Args:
        agents: that are to be comparable.
        steps: of a lifetime.
        log: whether windows grow with the steps, where lifetimes have many episodes.
    """
    longest = max(n for agent in agents for life in agent.lifetimes for n in life.episode_lengths)
    longest = min(longest, steps)
    if log and steps >= MOST_WINDOWS * longest:
        edges, ratio = [0.0, float(longest)], (steps / longest) ** (1 / LOG_WINDOWS)
        while edges[-1] + longest <= steps:
            edges.append(max(edges[-1] * ratio, edges[-1] + longest))
        return np.array([*edges[:-1], float(steps)])
    count = min(max(steps // longest, 1), MOST_WINDOWS)
    return np.linspace(0.0, steps, count + 1)


def windowed(agents: Sequence[AgentResult], edges: np.ndarray) -> Points:
    """Return the mean return of the episodes that end in each window, with 95% intervals.

    Args:
        agents: whose lifetimes are put together; each lifetime counts once in a window.
        edges: of the windows; one holds the ends in (edge, next edge].
    """
    lives = [life for agent in agents for life in agent.lifetimes]
    table = np.full((len(lives), len(edges) - 1), np.nan)
    ends = [np.cumsum(life.episode_lengths) for life in lives]
    sums, counts = np.zeros(table.shape[1]), np.zeros(table.shape[1])
    for row, life, end in zip(table, lives, ends, strict=True):
        # A rounding error of an edge must not move an episode.
        window = np.clip(np.searchsorted(edges, end - 1e-6, "left") - 1, 0, len(row) - 1)
        for index in np.unique(window):
            row[index] = np.mean(np.array(life.episode_returns)[window == index])
            sums[index] += end[window == index].sum()
            counts[index] += (window == index).sum()
    filled = np.flatnonzero(counts)
    values = tuple(bootstrap_interval(column[~np.isnan(column)]) for column in table.T[filled])
    return Points(sums[filled] / counts[filled], values)


def own_points(curve: dict[str, Any]) -> Points:
    """Return PPO's own curve, at most `OWN_POINTS` points, with intervals over its runs.

    Args:
        curve: what `gla.benchmarks.figures_steps.own_curve` gave.
    """
    returns = np.array(curve["returns"], np.float64)  # [R, U]
    updates = returns.shape[1]
    parts = np.array_split(np.arange(updates), min(updates, OWN_POINTS))
    steps = np.array([curve["steps"] * (part.mean() + 1) for part in parts])
    return Points(steps, tuple(bootstrap_interval(returns[:, part].mean(1)) for part in parts))


def draw(figure: Figure, out: Path, path: Path) -> tuple[Row, ...]:
    """Draw a figure from what its steps left in a folder.

    Args:
        figure: which.
        out: output folder.
        path: PNG file to write.

    Returns:
        The numbers, a row for each results file of a line that is no twin's.

    Raises:
        GlaError: if results are missing or damaged.
    """
    from matplotlib.figure import Figure as Picture

    columns = min(figure.columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    picture = Picture(dpi=DPI, facecolor="white")
    _lay_out(picture, rows, FOOT)
    found: list[Row] = []
    entries: dict[str, Any] = {}
    for number, panel in enumerate(figure.panels):
        axes = picture.add_subplot(rows, columns, number + 1)
        draw_panel(axes, panel, out)
        handles, labels = axes.get_legend_handles_labels()
        entries |= {one: handle for one, handle in zip(labels, handles, strict=True)
                    if one not in entries}  # fmt: skip
        for line in panel.lines:
            if not line.twin:
                found += [_row(panel, line, file, out) for file in line.files]
        if number % columns == 0:
            axes.set_ylabel("return per episode")
    foot = max(FOOT, _legend(picture, entries))
    height = _lay_out(picture, rows, foot)
    picture.suptitle(
        figure.title, x=0.015, y=1 - 14 / height, va="top", ha="left", fontsize=12,
        fontweight="bold",
    )  # fmt: skip
    save_figure(picture, path)
    return tuple(found)


def _lay_out(picture: Picture, rows: int, foot: int) -> int:
    """Make room for so many rows of panels above a foot, in pixels; return the whole height."""
    height = HEAD + rows * PANEL + foot
    picture.set_size_inches(WIDTH / DPI, height / DPI)
    picture.subplots_adjust(
        left=118 / WIDTH, right=1 - 75 / WIDTH, top=1 - HEAD / height, bottom=(foot + 75) / height,
        wspace=0.26, hspace=0.42,
    )  # fmt: skip
    return height


def _legend(picture: Picture, entries: dict[str, Any]) -> int:
    """Draw the legend in as many columns as fit; return how high it reaches, in pixels."""
    names = [textwrap.fill(name, LEGEND_LETTERS) for name in entries]
    height = 0.0
    for columns in range(min(MOST_COLUMNS, len(names)), 0, -1):
        legend = picture.legend(
            list(entries.values()), names, loc="lower center", ncols=columns, fontsize=9.5,
            frameon=False, handlelength=2.4, columnspacing=1.6,
        )  # fmt: skip
        extent = legend.get_window_extent()
        height = extent.y1 + 10
        if extent.width <= WIDTH or columns == 1:
            break
        legend.remove()
    return math.ceil(height)


def _read(out: Path, file: str) -> Results:
    if not (out / file).exists():
        raise GlaError(
            f"{out / file} is not there", "the results that are to be drawn",
            "run the same command without --draw-only",
        )  # fmt: skip
    return files.read(out / file)


def _with_scores(results: Results, panel: Panel) -> Results:
    """Return results with the reference scores of the panel, where they have none of their own."""
    if results.references or not panel.scores:
        return results
    return dataclasses.replace(results, references=registry.references(panel.scores))


def _agents(out: Path, line: Line) -> tuple[list[AgentResult], int]:
    """Return what a line shows, and the steps of a lifetime."""
    agents, steps = [], 0
    for file in line.files:
        results = _read(out, file)
        agent = agent_of(results)
        if line.twin:
            twin = twin_of(results, agent)
            if twin is None:
                raise GlaError(f"{file} holds no reward-masked twin", "a meta-test with its twin")
            agent = twin
        agents.append(agent)
        steps = max(steps, results.steps)
    return agents, steps


def draw_panel(axes: Axes, panel: Panel, out: Path) -> None:
    """Draw one panel into axes.

    Raises:
        GlaError: as `draw`.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E4E4E4", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9.5, color="#888888")
    shown = [(line, *_agents(out, line)) for line in panel.lines]
    total = max(steps for *_, steps in shown)
    edges = window_edges([one for _, agents, _ in shown for one in agents], total, panel.log)
    heights: list[float] = [value for _, value in panel.read]
    for line, agents, _ in shown:
        points = windowed(agents, edges)
        heights += _draw_line(axes, line, points)
    for name in panel.own:
        points = own_points(_own(out, name))
        heights += _band(axes, points, OWN, 0.12)
        axes.plot(
            points.steps, [one.estimate for one in points.values], color=OWN, ls=(0, (1, 1.2)),
            lw=1.8, label="PPO itself, all its environments counted",
        )  # fmt: skip
    if panel.log:
        _log_axis(axes)
    ends = scale(_with_scores(_read(out, panel.floor), panel))
    if ends.null is not None:
        heights.append(ends.null.estimate)
        if ends.null.known:
            axes.axhspan(ends.null.low, ends.null.high, color=NULL, alpha=0.22, lw=0)
        axes.axhline(
            ends.null.estimate, color=NULL, lw=1.5, label="best controller that never looks"
        )
    _limits(axes, heights, ends.expert)
    _paper_marks(axes, panel)
    axes.set_title(panel.title, fontsize=11, loc="left")
    axes.set_xlabel("environment steps" + (" (logarithmic)" if panel.log else ""))
    if not panel.log:
        axes.set_xlim(0, total)
    if ends.null is not None:
        _name_floor(axes, ends.null_name.removesuffix(", stored reference"), ends.null.estimate)


def _name_floor(axes: Axes, name: str, value: float) -> None:
    """Write a name beside the line of the floor, at that end and side where it covers the least."""
    axes.autoscale(False)  # the limits are final
    drawn = np.concatenate([_pixels_of(line) for line in axes.lines])
    bands = [
        path.transformed(band.get_transform())
        for band in axes.collections
        for path in band.get_paths()
    ]
    written = [text.get_window_extent() for text in axes.texts]
    notes: list[tuple[float, int, Any]] = []
    for across, side in ((0.012, "left"), (0.988, "right")):
        for up, edge in ((3.0, "bottom"), (-3.0, "top")):
            note = axes.annotate(
                name, (across, value), xycoords=("axes fraction", "data"), xytext=(0, up),
                textcoords="offset points", color=NULL, fontsize=8.5, ha=side, va=edge, zorder=5,
                bbox={"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 0.6},
            )  # fmt: skip
            extent = note.get_window_extent()
            inside = ((drawn > extent.min) & (drawn < extent.max)).all(1).sum()
            inside += sum(band.intersects_bbox(extent) for band in bands)
            inside += 100 * sum(extent.overlaps(other) for other in written)
            within = axes.get_window_extent().y0 <= extent.y0  # else it is among the ticks
            notes.append((inside if within else math.inf, len(notes), note))
    chosen = min(notes)[1]
    for _, number, note in notes:
        if number != chosen:
            note.remove()


def _pixels_of(line: Line2D) -> np.ndarray:
    """Return points f64[P, 2] along a line, in pixels and no more than about one apart."""
    corners = line.get_transform().transform(line.get_xydata())
    dense = [
        np.linspace(a, b, 2 + int(np.abs(b - a).max()))
        for a, b in zip(corners[:-1], corners[1:], strict=True)
    ]
    return np.concatenate([corners, *dense])


def _log_axis(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _own(out: Path, name: str) -> dict[str, Any]:
    file = out / "curves" / f"{name}.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise GlaError(
            f"PPO's own curve {file} cannot be read ({error})",
            mend="run the same command without --draw-only",
        ) from None


def _draw_line(axes: Axes, line: Line, points: Points) -> list[float]:
    """Draw a line and return the heights that it needs."""
    colour, mark = (MASKED, "x") if line.twin else STYLES[line.style % len(STYLES)]
    heights = _band(axes, points, colour, 0.18)
    axes.plot(
        points.steps, [one.estimate for one in points.values], color=colour, marker=mark, ms=5,
        lw=2, ls="--" if line.twin else "-", label=line.label, zorder=4 if line.twin else 3,
    )  # fmt: skip
    return heights


def _band(axes: Axes, points: Points, colour: str, alpha: float) -> list[float]:
    low = [one.low if one.known else one.estimate for one in points.values]
    high = [one.high if one.known else one.estimate for one in points.values]
    axes.fill_between(points.steps, low, high, color=colour, alpha=alpha, lw=0)
    return [*low, *high]


def _limits(axes: Axes, heights: Sequence[float], expert: float | None) -> None:
    """Fit the axis to what is drawn; an expert far above it is named at the top."""
    low, high = min(heights), max(heights)
    room = max(high - low, 1e-6)
    if expert is not None and expert <= high + 0.6 * room:
        high = max(high, expert)
        axes.axhline(expert, color=EXPERT, lw=1.7, ls=(0, (6, 3)), label="expert")
    elif expert is not None:
        axes.text(
            0.99, 0.985, f"expert {expert:,.0f} \N{UPWARDS ARROW}", transform=axes.transAxes,
            ha="right", va="top", color=EXPERT, fontsize=9,
        )  # fmt: skip
    axes.set_ylim(low - 0.06 * (high - low), high + 0.09 * (high - low))


def _paper_marks(axes: Axes, panel: Panel) -> None:
    """Mark what was read off the paper: its first point on the left, the others on the right."""
    read = dict(panel.read)
    across = axes.get_yaxis_transform()
    words = {"best": ("best", "bottom"), "last": ("64k", "top")}
    for what, value in read.items():
        place = 0.0 if what == "first" else 1.0
        axes.plot(
            [place], [value], marker="P", ms=8, mfc="white", mec=READ, mew=1.4, ls="none",
            transform=across, clip_on=False, zorder=6, label="the paper, read by eye",
        )  # fmt: skip
        if what in words:
            text, align = words[what]
            axes.annotate(
                text, (place, value), xycoords=across, xytext=(7, 0), color=READ, fontsize=8.5,
                textcoords="offset points", va=align, annotation_clip=False,
            )  # fmt: skip


def _row(panel: Panel, line: Line, file: str, out: Path) -> Row:
    verdict = judge(_with_scores(_read(out, file), panel))
    null, masked = verdict.comparison("null"), verdict.comparison("masked")
    found = {
        "first": verdict.first, "last": verdict.last, "null": null.interval,
        "masked": masked.interval, "score": verdict.score,
    }  # fmt: skip
    lost = [
        f"not above {_SHORT[one.against]}" for one in verdict.comparisons if one.beaten is False
    ]
    digits = digits_of(*(found[name] for name in ("first", "last", "null", "masked")))

    def text(value: Interval | None) -> str:
        return "" if value is None else value.text(digits)

    return Row(
        panel=panel.title,
        label=line.label,
        file=file,
        first=text(verdict.first),
        last=text(verdict.last),
        null=f"{null.detail} {text(null.interval)}".strip(),
        masked=text(masked.interval),
        verdict=verdict.status + (f" ({', '.join(lost)})" if lost else ""),
        sentence=verdict.sentence,
        numbers={
            name: [value.estimate, value.low, value.high]
            for name, value in found.items()
            if value is not None and value.known
        },
    )
