"""Pictures of gradients, updates and Adam's averages along meta-training (Figs. 12 to 14).

Every function draws results into a PNG file and returns what it shows in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gla.benchmarks.gpicl_grid import CellResult
from gla.benchmarks.gpicl_optimization_plots import STYLES, validation_curve
from gla.benchmarks.gpicl_panels import COLOURS, GREY, MARKS, by, legend_below, title_of
from gla.benchmarks.plots import new_figure, save_figure
from gla.errors import GlaError
from gla.gpicl.plateau import find_plateau, smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Results = Sequence[CellResult]


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
    figure.subplots_adjust(left=0.1, right=0.98, top=0.83, bottom=0.24, wspace=0.28)
    told = []
    for number, (arm, runs) in enumerate(by(results, "arm").items()):
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
    title_of(figure, title)
    legend_below(figure, panels[0], 4)
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
        ("d  distance from the initial weights", "distance"),
        ("e  cosine of consecutive updates", "update_cosine"),
        ("f  update norm", "update_norm"),
    )
    flat = [axes for row in axes_of for axes in row]
    told = []
    for number, (arm, runs) in enumerate(by(results, "arm").items()):
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
    title_of(figure, title)
    legend_below(figure, flat[0], 4)
    save_figure(figure, path)
    return f"{title}. {'; '.join(told)}."


def _mean(measured: _Measured, what: str, at: np.ndarray) -> str:
    return f"{measured.values[what][at].mean():.2g}"


def draw_tensors(results: Results, path: Path, chance: float, title: str) -> str:
    """Draw gradient norms and cosines inside the plateau, tensor by tensor (Fig. 14)."""
    arms = by(results, "arm")
    first = next(iter(arms.values()))[0]
    names = list(first.statistics[0]["tensors"]) if first.statistics else []
    if not names:
        raise GlaError(f"the cell {first.name} holds no statistics", "statistics=True")
    figure, panels = new_figure(1560, 210 + 34 * len(names), 2)
    height = 210 + 34 * len(names)
    figure.subplots_adjust(
        left=0.27, right=0.985, top=1 - 95 / height, bottom=130 / height, wspace=0.06
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
    title_of(figure, title)
    legend_below(figure, panels[0], 4)
    save_figure(figure, path)
    return f"{title}. In {next(iter(arms))}, {largest}."
