"""Pictures of results: return over the lifetime, and scores over environments.

Matplotlib is imported only when something is drawn. Colours are those of Okabe and Ito 2008
("Color Universal Design"), and every line is also told apart by its style and its own label.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gla.benchmarks.results import AgentResult, Results
from gla.benchmarks.statistics import (
    Curve,
    Interval,
    agent_of,
    bootstrap_interval,
    digits_of,
    episode_curve,
    last_episode,
    number,
    scale,
    twin_of,
)
from gla.errors import GlaError
from gla.files import os_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AGENT, MASKED, NULL, EXPERT = "#0072B2", "#D55E00", "#6B6B6B", "#007A5A"
WIDTH, HEIGHT = 1120, 700  # pixels of a curve, so that a page can reserve the room
_DPI = 160
_MOST_POINTS = 100  # more episodes than this are drawn as windows of steps
_LOWEST_SCORE, _HIGHEST_SCORE = -1.0, 1.25  # scores beyond are cut off and marked


def plot_results(results: Results, path: str | os.PathLike[str], name: str | None = None) -> None:
    """Draw return over the lifetime of an agent and its reward-masked twin, with 95% bands.

    The best null controller's mean return is a horizontal band (the floor) and the expert's a
    dashed line. Where lifetimes have different numbers of episodes, or very many, the points are
    windows of steps (`gla.benchmarks.statistics.episode_curve`).

    Args:
        results: of one environment.
        path: PNG file to write, `WIDTH` x `HEIGHT` pixels.
        name: which agent; None if there is only one.

    Raises:
        GlaError: if there is no such agent, or the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    agent = agent_of(results, name)
    twin = twin_of(results, agent)
    shown = [(agent, AGENT, "-", "o", "agent")]
    if twin is not None:
        shown.append((twin, MASKED, "--", "s", "rewards masked"))
    curves = _curves([one for one, *_ in shown], results.steps)

    figure, (axes,) = new_figure(WIDTH, HEIGHT)
    figure.subplots_adjust(left=0.115, right=0.785, top=0.895, bottom=0.125)
    labels: list[tuple[float, str, str]] = []
    for index, ((_, colour, style, marker, label), curve) in enumerate(
        zip(shown, curves, strict=True)
    ):
        _draw(axes, curve, colour, style, marker, nudge=0.06 * (index - 0.5))
        labels.append((curve.intervals[-1].estimate, label, colour))
    ends = scale(results)
    if ends.null is not None:
        if ends.null.known:
            axes.axhspan(ends.null.low, ends.null.high, color=NULL, alpha=0.22, lw=0)
        axes.axhline(ends.null.estimate, color=NULL, lw=1.4)
        labels.append((ends.null.estimate, f"best null:\n{_wrapped(_plain(ends.null_name))}", NULL))
    if ends.expert is not None:
        axes.axhline(ends.expert, color=EXPERT, lw=1.6, ls=(0, (6, 3)))
        labels.append((ends.expert, "expert", EXPERT))
    axes.margins(x=0.02, y=0.08)
    if max(len(curve.positions) for curve in curves) == 1:
        axes.set_xlim(curves[0].positions[0] - 0.5, curves[0].positions[0] + 0.5)
    _label_ends(axes, labels)

    by_step = curves[0].unit == "step"
    axes.set_xlabel("environment step" if by_step else "episode of the lifetime")
    axes.set_ylabel("return per episode")
    if not by_step:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    count = len(agent.lifetimes)
    band = "lifetimes, mean and 95% interval" if count > 1 else "lifetime, no interval"
    figure.suptitle(
        f"{_plain(results.environment)} \N{EN DASH} {count} {band}",
        x=0.02,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    save_figure(figure, Path(path))


def overview(results: Sequence[Results], path: str | os.PathLike[str]) -> None:
    """Draw the score of every agent's last episode, one bar an environment, with 95% intervals.

    0 is the best null controller, 1 the expert. The reward-masked twin's score is an open mark
    beside the bar. Environments without an expert's return are left out; scores below -1 or above
    1.25 are cut off there, marked with an arrow, and written out like all others.

    Args:
        results: one or more, each with one or more agents under test.
        path: PNG file to write.

    Raises:
        GlaError: if no environment has a score, or the file cannot be written.
    """
    rows: list[tuple[str, Interval, Interval | None]] = []
    for one in results:
        ends = scale(one)
        for agent in one.of_kind("agent"):
            value = ends.score(bootstrap_interval(last_episode(agent)))
            if value is None:
                continue
            twin = twin_of(one, agent)
            masked = ends.score(bootstrap_interval(last_episode(twin))) if twin else None
            several = len(one.of_kind("agent")) > 1
            label = f"{one.environment}\n{agent.name}" if several else one.environment
            rows.append((_plain(label), value, masked))
    if not rows:
        raise GlaError(
            "no score can be drawn",
            "an environment with an expert's return that is better than the best null controller's",
        )
    figure, (axes,) = new_figure(WIDTH, 190 + 62 * len(rows))
    top = 96 / (190 + 62 * len(rows))
    figure.subplots_adjust(left=0.315, right=0.97, top=1 - top, bottom=top)
    for row, (_, value, masked) in enumerate(rows):
        _bar(axes, row, value)
        if masked is not None:
            at = float(np.clip(masked.estimate, _LOWEST_SCORE, _HIGHEST_SCORE))
            off = at != masked.estimate
            mark = "s" if not off else "<" if at == _LOWEST_SCORE else ">"
            axes.plot(at, row + 0.3, mark, mfc="white", mec=MASKED, mew=1.6, ms=6, zorder=4)
    axes.axvline(0, color=NULL, lw=1.4)
    axes.axvline(1, color=EXPERT, lw=1.6, ls=(0, (6, 3)))
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    # Room on the right for the written scores.
    axes.set_xlim(_LOWEST_SCORE - 0.12, _HIGHEST_SCORE + 0.95)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.grid(axis="y", visible=False)
    axes.spines["bottom"].set_bounds(_LOWEST_SCORE - 0.12, _HIGHEST_SCORE)
    axes.set_xlabel("score of the last episode")
    for x, text, colour in ((0, "best null", NULL), (1, "expert", EXPERT)):
        axes.annotate(
            text,
            xy=(x, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=colour,
            fontsize=10,
        )
    if any(masked for *_, masked in rows):
        figure.text(0.97, 0.02, "\N{WHITE SQUARE} rewards masked", color=MASKED, ha="right")
    title = "Score of the last episode, 95% interval"
    figure.suptitle(title, x=0.02, y=0.985, va="top", ha="left", fontsize=12, fontweight="bold")
    save_figure(figure, Path(path))


def _curves(agents: list[AgentResult], steps: int) -> list[Curve]:
    """Return the agents' curves over the same unit: episodes where all agree on their number."""
    counts = [len(life.episode_returns) for one in agents for life in one.lifetimes]
    if len(set(counts)) == 1 and counts[0] <= _MOST_POINTS:
        return [episode_curve(one, unit="episode") for one in agents]
    # No more windows than episodes, or most of them would be empty.
    bins = max(1, min(20, int(np.median(counts))))
    return [episode_curve(one, bins=bins, steps=steps, unit="step") for one in agents]


def new_figure(width: int, height: int, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty figure of so many pixels, with panels side by side."""
    # The object interface, not pyplot: no display, no global state, no figures left open.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    found = [figure.add_subplot(1, panels, 1 + i) for i in range(panels)]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E4E4E4", lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=10, color="#888888")
    return figure, found


def _draw(axes: Axes, curve: Curve, colour: str, style: str, marker: str, nudge: float) -> None:
    estimates = [one.estimate for one in curve.intervals]
    # A single lifetime has no interval, and an infinite band would leave no picture.
    bounds = [(one.low, one.high) if one.known else (np.nan, np.nan) for one in curve.intervals]
    low, high = np.array(bounds).T
    axes.fill_between(curve.positions, low, high, color=colour, alpha=0.2, lw=0)
    positions = curve.positions
    if len(estimates) == 1:
        # Two lone points would hide each other.
        positions = positions + nudge
        axes.vlines(positions, low, high, color=colour, lw=2)
    size = 4.5 if len(estimates) <= 30 else 0
    axes.plot(positions, estimates, color=colour, ls=style, marker=marker, ms=size, lw=2, zorder=3)


def _label_ends(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Write each label at the right edge at its height, pushed apart so that none overlap."""
    low, high = axes.get_ylim()
    line = 0.058  # height of a line of text, as a share of the axes
    entries = sorted(labels, key=lambda entry: entry[0])
    heights = [line * (1 + text.count("\n")) for _, text, _ in entries]
    places = [(value - low) / (high - low) for value, *_ in entries]
    places = _spread(places, heights)
    for (value, text, colour), place in zip(entries, places, strict=True):
        axes.annotate(
            text,
            xy=(1.0, (value - low) / (high - low)),
            xytext=(1.035, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize=10,
            fontweight="bold" if colour == AGENT else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def _spread(places: list[float], heights: list[float]) -> list[float]:
    """Move sorted places in [0, 1] apart until neighbours do not overlap, as little as can be."""
    from scipy.optimize import isotonic_regression

    gaps = [(a + b) / 2 for a, b in zip(heights, heights[1:], strict=False)]
    above = np.cumsum([0.0, *gaps])  # how far each is at least above the first
    # "Neighbours keep their gap" is "the rest is in order", which least squares can fit.
    rest = isotonic_regression(np.array(places) - above).x
    return list(np.clip(rest, 0.0, max(0.0, 1.0 - above[-1])) + above)


def _plain(text: str) -> str:
    # Between two dollars matplotlib sees a formula.
    return text.replace("$", r"\$")


def _wrapped(text: str, width: int = 17) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width)[:3])


def _bar(axes: Axes, row: float, value: Interval) -> None:
    estimate, low, high = (
        float(np.clip(x, _LOWEST_SCORE, _HIGHEST_SCORE))
        for x in (value.estimate, value.low, value.high)
    )
    row -= 0.08  # the twin's mark goes below
    axes.barh(row, estimate, height=0.46, color=AGENT, alpha=0.75)
    if value.known:
        axes.hlines(row, low, high, color="#111111", lw=1.8, zorder=3)
    for cut, end, mark in (
        (value.estimate < _LOWEST_SCORE, _LOWEST_SCORE, "<"),
        (value.estimate > _HIGHEST_SCORE, _HIGHEST_SCORE, ">"),
    ):
        if cut:
            axes.plot(end, row, mark, color=AGENT, ms=11, zorder=4)
    axes.text(_HIGHEST_SCORE + 0.08, row, value.text(2), va="center", fontsize=9.5, color="#111111")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file; a reader sees the whole new picture or the old one."""
    with os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        try:
            figure.savefig(temporary, format="png")
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def alt_text(results: Results, name: str | None = None) -> str:
    """Return what `plot_results` shows, in words, for those who cannot see it."""
    agent = agent_of(results, name)
    twin = twin_of(results, agent)
    curves = _curves([agent] + ([twin] if twin else []), results.steps)
    digits = digits_of(*(end for one in curves for end in (one.intervals[0], one.intervals[-1])))

    def way(curve: Curve) -> str:
        first, last = curve.intervals[0].estimate, curve.intervals[-1].estimate
        if len(curve.intervals) == 1:
            return f"earns {number(last, digits)}"
        return f"goes from {number(first, digits)} to {number(last, digits)}"

    text = f"Return per episode on {results.environment}: the agent {way(curves[0])}"
    if twin:
        text += f", its reward-masked twin {way(curves[1])}"
    ends = scale(results)
    if ends.null:
        text += f"; the best null controller stays at {number(ends.null.estimate, digits)}"
    if ends.expert is not None:
        text += f"; the expert reaches {number(ends.expert, digits)}"
    return text + "."
