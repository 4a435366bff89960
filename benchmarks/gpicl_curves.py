"""Pictures of supervised learners: accuracy along the sequence (GPICL, Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gla.benchmarks.gpicl_results import Cell, short_name
from gla.benchmarks.plots import AGENT, MASKED, new_figure, save_figure

# Hand-written learners: Okabe and Ito 2008, without the colours of the learner and its twin.
_COLOURS = ("#6B6B6B", "#007A5A", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = ("s", "^", "D", "v", "P", "X")
# Meta-trained ones: no marks, a colour and a style each; all seeds of one alike.
_LINES: tuple[tuple[str, Any], ...] = (
    (AGENT, "-"), ("#1B1B1B", "-."), ("#8C510A", (0, (6, 1))), ("#542788", (0, (3, 1, 1, 1))),
    ("#35978F", (0, (1, 1))),
)  # fmt: skip
_PANEL, _HEIGHT = 520, 600
_LEFT, _LEGEND = 120, 400  # pixels beside the panels


def plot_curves(cells: Sequence[Cell], path: Path) -> Path:
    """Draw accuracy against the number of examples seen, a panel per data set, 95% bands.

    Args:
        cells: of a results file.
        path: PNG file to write.

    Returns:
        The path.
    """
    names = list(dict.fromkeys(cell.dataset for cell in cells))
    width = _LEFT + _PANEL * len(names) + _LEGEND
    figure, panels = new_figure(width, _HEIGHT, len(names))
    figure.subplots_adjust(
        left=_LEFT / width, right=1 - _LEGEND / width, top=0.84, bottom=0.16, wspace=0.08
    )
    for axes, name in zip(panels, names, strict=True):
        for cell in (one for one in cells if one.dataset == name):
            seen, mean = list(cell.positions), [100 * x for x in cell.accuracy]
            low, high = [100 * x for x in cell.low], [100 * x for x in cell.high]
            style = _style(cell, cells)
            axes.plot(seen, mean, **style)
            axes.fill_between(seen, low, high, color=style["color"], alpha=0.18, lw=0)
        axes.set_title(short_name(name), fontsize=11)
        axes.set_ylim(0, 100)
        axes.set_xlabel("examples seen")
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)
    panels[0].set_ylabel("accuracy of the next guess, %")
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()), list(entries), loc="center left", frameon=False, fontsize=9,
        bbox_to_anchor=(1 - _LEGEND / width + 0.01, 0.5), handlelength=2.8,
    )  # fmt: skip
    figure.suptitle(
        "Learning in context on unseen tasks, 95% intervals",
        x=0.02, y=0.98, ha="left", va="top", fontsize=12, fontweight="bold",
    )  # fmt: skip
    save_figure(figure, path)
    return path


def _style(cell: Cell, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return how the line of a cell is drawn, the same for one learner in all panels."""
    place = list(dict.fromkeys(c.learner for c in cells if c.sort == cell.sort)).index(cell.learner)
    if cell.sort == "hand-written":
        colour, mark = _COLOURS[place % len(_COLOURS)], _MARKS[place % len(_MARKS)]
        return {
            "color": colour, "marker": mark, "ls": ":", "lw": 1.2, "ms": 5, "label": cell.learner,
        }  # fmt: skip
    if cell.sort == "labels hidden":
        label = f"{cell.learner},\nlabels hidden"
        return {"color": MASKED, "ls": "--", "lw": 2.2, "label": label}
    colour, line = _LINES[place % len(_LINES)]
    return {"color": colour, "ls": line, "lw": 2.2, "label": cell.learner}
