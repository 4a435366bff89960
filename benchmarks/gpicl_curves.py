"""Pictures of supervised learners: accuracy along the sequence (GPICL, Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gla.benchmarks.gpicl_results import Cell, short_name
from gla.benchmarks.plots import AGENT, MASKED, new_figure, save_figure

# Okabe and Ito 2008, without those of the learner and its twin.
_COLOURS = ("#6B6B6B", "#007A5A", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = ("s", "^", "D", "v", "P", "X")
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
    floors = list(dict.fromkeys(c.learner for c in cells if c.sort == "hand-written"))
    for axes, name in zip(panels, names, strict=True):
        for cell in (one for one in cells if one.dataset == name):
            seen, mean = list(cell.positions), [100 * x for x in cell.accuracy]
            low, high = [100 * x for x in cell.low], [100 * x for x in cell.high]
            if cell.sort == "hand-written":
                place = floors.index(cell.learner)
                colour = _COLOURS[place % len(_COLOURS)]
                style: dict[str, Any] = {
                    "marker": _MARKS[place % len(_MARKS)],
                    "ls": ":",
                    "lw": 1.2,
                    "ms": 5,
                }
                label = cell.learner
            else:
                colour = AGENT if cell.sort == "meta-trained" else MASKED
                style = {"lw": 2.2, "ls": "-" if cell.sort == "meta-trained" else "--"}
                hidden = ",\nlabels hidden" if cell.sort == "labels hidden" else ""
                label = f"{cell.learner}{hidden}"
            axes.plot(seen, mean, color=colour, label=label, **style)
            axes.fill_between(seen, low, high, color=colour, alpha=0.18, lw=0)
        axes.set_title(short_name(name), fontsize=11)
        axes.set_ylim(0, 100)
        axes.set_xlabel("examples seen")
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)
    panels[0].set_ylabel("accuracy of the next guess, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="center left", frameon=False, fontsize=9,
        bbox_to_anchor=(1 - _LEGEND / width + 0.01, 0.5),
    )  # fmt: skip
    figure.suptitle(
        "Learning in context on unseen tasks, 95% intervals",
        x=0.02, y=0.98, ha="left", va="top", fontsize=12, fontweight="bold",
    )  # fmt: skip
    save_figure(figure, path)
    return path
