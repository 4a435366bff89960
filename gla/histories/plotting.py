"""A picture of a history store: did the runs learn, and how steadily.

Matplotlib is imported only when something is drawn. Colours are those of Okabe and Ito 2008
("Color Universal Design").
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gla.errors import GlaError
from gla.files import os_errors
from gla.histories.schema import HistoryMeta
from gla.histories.scores import episode_return
from gla.histories.store import HistoryStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RUNS, _IMPROVEMENT, _STABILITY, _STREAM = "#0072B2", "#009E73", "#D55E00", "#8A8A8A"
_ENDINGS = ("png", "svg")
_STREAMS = 6  # single streams that are drawn
_DPI = 160


def plot(store: HistoryStore, file: str | os.PathLike[str]) -> Path:
    """Draw the returns of a store's runs over their updates, and the scores of its streams.

    Left: the median and the quartiles over the complete runs of the mean return per episode, and a
    few single streams, spread evenly over the store. Right: histograms of improvement and stability
    (`gla.histories.scores`).

    Args:
        store: with at least one complete block.
        file: `.png` or `.svg` to write, replaced if it is there.

    Returns:
        The absolute path of the picture.

    Raises:
        GlaError: another ending, no complete block, damage, a file that cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

    path = Path(file).absolute()
    ending = path.suffix.lower().removeprefix(".")
    if ending not in _ENDINGS:
        raise GlaError(f"no picture can be written as {path.name}", "a name.png or name.svg")
    meta = store.meta
    returns, scores = store.read("mean_return"), store.scores()
    # The object interface, not pyplot: no display, no global state.
    figure = Figure(figsize=(11, 5), dpi=_DPI, facecolor="white")
    grid = GridSpec(
        2, 2, figure, width_ratios=(2.3, 1), hspace=0.62, wspace=0.2, left=0.075, right=0.975,
        top=0.81, bottom=0.115,
    )  # fmt: skip
    _draw_returns(figure.add_subplot(grid[:, 0]), store, returns)
    _draw_histogram(
        figure.add_subplot(grid[0, 1]), scores.improvement, (-1, 1), _IMPROVEMENT,
        "improvement", "last quarter less first, in units of the range",
    )  # fmt: skip
    _draw_histogram(
        figure.add_subplot(grid[1, 1]), scores.stability, (0, 1), _STABILITY,
        "stability", "share of rises; 0.5 is mere fluctuation",
    )  # fmt: skip
    figure.text(
        0.022, 0.965, _plain(meta.environment), va="top", fontsize=14, fontweight="bold",
        color="#111111",
    )  # fmt: skip
    figure.text(0.022, 0.91, _subtitle(meta, len(returns)), va="top", fontsize=9.5, color="#555555")
    with os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A reader sees the whole new picture or the old one.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            # Without a date and random names, the same store gives the same file.
            metadata: dict[str, Any] = {"Date": None} if ending == "svg" else {}
            with rc_context({"svg.hashsalt": "gla"}):
                figure.savefig(temporary, format=ending, metadata=metadata)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    return path


def _draw_returns(axes: Axes, store: HistoryStore, returns: np.ndarray) -> None:
    """Draw what runs earned per episode, f32[R, U], and a few single streams."""
    from matplotlib.ticker import MaxNLocator

    meta = store.meta
    _style(axes)
    updates = np.arange(1, meta.updates + 1)
    low, middle, high = np.quantile(returns, (0.25, 0.5, 0.75), axis=0)
    mark = "o" if meta.updates == 1 else ""
    done = [run for block in store.complete_blocks() for run in meta.block_runs(block)]
    chosen = np.unique(np.linspace(0, len(done) - 1, min(_STREAMS, len(done))).round().astype(int))
    for number in chosen:
        run = range(done[number], done[number] + 1)
        reward, terminated = (store.read(name, run)[0] for name in ("reward", "terminated"))
        axes.plot(
            updates, episode_return(reward, terminated, meta.horizon, 1), color=_STREAM, lw=0.7,
            alpha=0.75, marker=mark, ms=3, label="single streams" if not number else None,
        )  # fmt: skip
    several = len(returns) > 1
    if several:
        axes.fill_between(
            updates, low, high, color=_RUNS, alpha=0.25, lw=0, label="quartiles over runs"
        )
    axes.plot(
        updates, middle, color=_RUNS, lw=2.2, marker=mark,
        label="median over runs" if several else "the run",
    )  # fmt: skip
    axes.margins(x=0.01, y=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    each = f"{meta.steps} steps"
    if meta.parallel_envs > 1:
        each += f" x {meta.parallel_envs} environments"
    axes.set_xlabel(f"update (each {each})".replace(" x ", " \N{MULTIPLICATION SIGN} "))
    axes.set_ylabel("return per episode (sum of rewards)")
    handles, labels = axes.get_legend_handles_labels()
    order = [labels.index(one) for one in dict.fromkeys(reversed(labels))]
    axes.legend(
        [handles[i] for i in order], [labels[i] for i in order], frameon=False, fontsize=9,
        loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=3, borderaxespad=0.1,
    )  # fmt: skip


def _draw_histogram(
    axes: Axes,
    values: np.ndarray,
    limits: tuple[float, float],
    colour: str,
    title: str,
    meaning: str,
) -> None:
    from matplotlib.ticker import MaxNLocator

    _style(axes)
    axes.hist(values, bins=20, range=limits, color=colour, alpha=0.8, edgecolor="white", lw=0.6)
    middle = float(np.median(values))
    axes.axvline(middle, color="#111111", lw=1.2)
    # On the side of the line where there is more room.
    left = middle > np.mean(limits)
    axes.annotate(
        f"median {middle:.2f}", (middle, 0.97), (-5 if left else 5, 0),
        xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
        ha="right" if left else "left", fontsize=9,
        bbox={"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 1.5},
    )  # fmt: skip
    axes.set_xlim(*limits)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.2)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=colour)
    axes.set_xlabel(meaning, fontsize=9)
    axes.set_ylabel("streams", fontsize=9)


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#888888")
    axes.grid(color="#E4E4E4", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, color="#888888")


def _subtitle(meta: HistoryMeta, runs: int) -> str:
    done = f"{runs} of {meta.runs}" if runs < meta.runs else f"{runs}"
    streams = runs * meta.streams_per_run
    transitions = meta.transitions // meta.runs * runs
    return (
        f"{done} run{'s' * (meta.runs > 1)} by {_plain(meta.method)}, "
        f"{streams} recorded stream{'s' * (streams > 1)}, {transitions:,} transitions"
    )


def _plain(text: str) -> str:
    # Between two dollars matplotlib sees a formula.
    return text.replace("$", r"\$")
