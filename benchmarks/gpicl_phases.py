"""What a learner becomes as the number of tasks grows (GPICL, Figs. 2, 4 and 10).

With few tasks a model can remember the answer to every input. With more it remembers the tasks and
uses the first examples of a sequence to tell which it is. With very many neither fits into its
weights; what is left is to learn from the examples, which works on tasks that it never saw too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from gla.benchmarks.gpicl_grid import Cell, CellResult, Experiment, Size
from gla.benchmarks.gpicl_panels import (
    COLOURS,
    MARKS,
    at,
    by,
    called,
    finish,
    gain,
    line,
    over_trainings,
    panels,
    percent,
    power,
    power_label,
    powers_axis,
    what_intervals,
)
from gla.benchmarks.gpicl_sizes import (
    CPU_INPUTS,
    CPU_LENGTH,
    PAPER_LENGTH,
    tests,
    training,
    transformer,
)
from gla.benchmarks.statistics import Interval
from gla.gpicl.config import DataConfig, LearnerConfig
from gla.gpicl.mlp import MLPConfig
from gla.gpicl.tasks import TaskConfig

Phase = Literal[
    "instances remembered", "tasks told apart", "learning in general", "nothing learned"
]

CHANCE = 0.1  # of ten classes
GAINS = 0.15  # what a gain, or an accuracy above chance, must exceed to count


def finite_tasks(size: Size, count: int) -> TaskConfig:
    """Return so many tasks, with uniform permutations, of MNIST or of `digits`."""
    if size == "paper":
        return TaskConfig(length=PAPER_LENGTH, input_dim=784, tasks=count)
    return TaskConfig(length=CPU_LENGTH, input_dim=CPU_INPUTS, tasks=count)


# --- Fig. 2: tasks and model size


def fig2(size: Size) -> Experiment:
    """Number of tasks against model size, of a classifier and of a Transformer.

    Paper: widths from 8 to 512 and every power of two up to 2^24 tasks, 350 trainings.
    """
    if size == "paper":
        counts, widths = [2**i for i in range(25)], [2**i for i in range(3, 10)]
    else:
        counts, widths = [2**i for i in range(0, 13, 3)], [8, 24, 72]
    cells = []
    for kind in ("mlp", "transformer"):
        for width in widths:
            for count in counts:
                tasks = finite_tasks(size, count)
                learner = transformer(size, width)
                if kind == "mlp":
                    learner = LearnerConfig("mlp", mlp=MLPConfig(width))
                config = training(size, learner, tasks, seed=0)
                ends = (0, tasks.length - 1)
                cells.append(
                    Cell(
                        f"fig2-{kind}-d{width}-k{count}",
                        config,
                        tests(tasks, config.data.datasets[0], positions=ends, seen=True),
                        {"kind": kind, "width": width, "tasks": count, "seed": 0},
                    )
                )
    title = "Accuracy by number of tasks and size of the model (Fig. 2)"
    return Experiment("fig2", title, tuple(cells), draw_fig2)


def draw_fig2(results: Sequence[CellResult], path: Path) -> str:
    """Draw accuracy at the last example as three maps of width and number of tasks."""
    shown = [
        ("(a) MLP, seen tasks", "mlp", "seen"),
        ("(b) Transformer, seen tasks", "transformer", "seen"),
        ("(c) Transformer, unseen tasks", "transformer", "unseen"),
    ]
    figure, found = panels(3, width=480)
    words = []
    for number, (axes, (title, kind, test)) in enumerate(zip(found, shown, strict=True)):
        groups = by([r for r in results if r.labels["kind"] == kind], "width", "tasks")
        widths = sorted({width for width, _ in groups})
        counts = sorted({count for _, count in groups})
        table = np.full((len(widths), len(counts)), np.nan)
        for (width, count), cells in groups.items():
            mean = over_trainings([at(cell, test) for cell in cells]).estimate
            table[widths.index(width), counts.index(count)] = mean
        image = axes.imshow(table, origin="lower", aspect="auto", cmap="cividis", vmin=0, vmax=1)
        axes.grid(visible=False)
        every = -(-len(counts) // 6)
        axes.set_xticks(range(0, len(counts), every), [power_label(k) for k in counts[::every]])
        axes.set_yticks(range(len(widths)), [str(width) for width in widths])
        axes.tick_params(labelleft=number in (0, 1), labelsize=9)
        if table.size <= 40:
            for (row, column), value in np.ndenumerate(table):
                axes.text(
                    column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9,
                    color="white" if value < 0.55 else "black",
                )  # fmt: skip
        axes.set_title(title, fontsize=10.5)
        axes.set_xlabel("number of tasks")
        row = int(np.argmax(table[:, -1]))
        good = [count for count, column in zip(counts, table.T, strict=True) if column.max() > 0.5]
        best = percent(float(table[row, -1]))
        words.append(
            f"{title}: some width exceeds 50% with {_listed(good, counts)}; with "
            f"{power(counts[-1])} the best is {best}, at width {widths[row]}"
        )
    found[0].set_ylabel("width")
    edges = figure.subplotpars
    room = figure.add_axes((edges.right + 0.02, edges.bottom, 0.015, edges.top - edges.bottom))
    bar = figure.colorbar(image, cax=room)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    finish(figure, "Accuracy at the last example by width and number of tasks", path)
    return ". ".join(words) + "."


# --- Fig. 4: three phases


def fig4(size: Size, other: str | None = None) -> Experiment:
    """Gain within the sequence against the number of tasks.

    Paper: inputs are not normalised (appendix A.6); here that means brought to [0, 1]. At `cpu`
    size they are normalised as in all other figures.

    Args:
        size: of the experiment.
        other: data set to test on that was not trained on; none: Fashion-MNIST at `paper` size, and
            at `cpu` size `random`, points with labels to be learned by heart, which everyone has.
    """
    if size == "paper":
        counts, seeds = [2**i for i in range(25)], 8
        data = DataConfig(("mnist",), resize=0, normalize="range")
        other = other or "fashion-mnist"
    else:
        counts, seeds = [2**i for i in range(0, 15, 2)], 3
        data = DataConfig(("digits",))
        other = other or "random"
    cells = []
    for count in counts:
        for seed in range(seeds):
            tasks = finite_tasks(size, count)
            config = training(size, transformer(size), tasks, seed, data)
            ends = (0, tasks.length - 1)
            cells.append(
                Cell(
                    f"fig4-k{count}-s{seed}",
                    config,
                    tests(tasks, data.datasets[0], (other,), ends, seen=True),
                    {"tasks": count, "seed": seed},
                )
            )
    draw = functools.partial(draw_fig4, other=other)
    title = "Gain within the sequence by number of tasks (Fig. 4)"
    return Experiment("fig4", title, tuple(cells), draw)


def phase(first: float, seen: float, unseen: float, chance: float) -> Phase:
    """Say what has been learned.

    Args:
        first: accuracy at the first example of a seen task.
        seen: gain on seen tasks.
        unseen: gain on unseen tasks.
        chance: accuracy of guessing.
    """
    if unseen > GAINS:
        return "learning in general"
    if seen > GAINS:
        return "tasks told apart"
    return "instances remembered" if first > chance + GAINS else "nothing learned"


def draw_fig4(results: Sequence[CellResult], path: Path, other: str) -> str:
    """Draw (a) the gain on seen and unseen tasks and another data set, (b) where it begins."""
    groups = by(results, "tasks")
    counts = list(groups)
    tested = [("seen", "seen tasks"), ("unseen", "unseen tasks"), (other, called(other))]
    figure, (left, right) = panels(2)
    means: dict[str, list[Interval]] = {}
    for number, (test, label) in enumerate(tested):
        means[test] = [
            over_trainings([gain(cell, test) for cell in cells], least=-1.0)
            for cells in groups.values()
        ]
        line(left, counts, means[test], number, label)
        for count, cells in groups.items():
            values = [100 * gain(cell, test).estimate for cell in cells]
            left.plot([count] * len(values), values, ".", color=COLOURS[number], ms=4, alpha=0.6)
    ends = {
        place: [over_trainings([at(cell, "seen", place) for cell in cells])
                for cells in groups.values()]
        for place in (0, -1)
    }  # fmt: skip
    line(right, counts, ends[-1], 3, "seen tasks, at the end")
    line(right, counts, ends[0], 4, "seen tasks, at the start")
    left.axhline(0, color="#888888", lw=1)
    for axes in (left, right):
        powers_axis(axes, counts, "number of tasks")
    left.set_ylabel("accuracy, last less first example, points")
    left.set_title("(a) gain within the sequence", fontsize=10.5)
    right.set_ylim(0, 103)
    right.set_ylabel("accuracy, %")
    right.set_title("(b) seen tasks: first and last example", fontsize=10.5)
    title = f"Learning by number of tasks, {what_intervals(results)}"
    finish(figure, title, path, (left, right))
    stretches: list[tuple[str, list[int]]] = []
    for place, count in enumerate(counts):
        name = phase(
            ends[0][place].estimate, means["seen"][place].estimate,
            means["unseen"][place].estimate, CHANCE,
        )  # fmt: skip
        if not stretches or stretches[-1][0] != name:
            stretches.append((name, []))
        stretches[-1][1].append(count)
    words = "; ".join(f"{name} with {_listed(found, counts)}" for name, found in stretches)
    last = ", ".join(f"{percent(means[test][-1])} on {label}" for test, label in tested)
    return (
        f"Phases: {words}. Gain with {power(counts[-1])} tasks: {last}. A gain counts from "
        f"{percent(GAINS)} on."
    )


def _listed(found: list[int], among: list[int]) -> str:
    """Say which of the numbers of tasks that were tried, shortly where they are in a row."""
    if not found:
        return "no number of tasks"
    start = among.index(found[0])
    if len(found) > 2 and among[start : start + len(found)] == found:
        return f"{power(found[0])} to {power(found[-1])} tasks"
    return ", ".join(map(power, found)) + (" task" if found[-1] == 1 else " tasks")


# --- Fig. 10: one way or the other


def fig10(size: Size) -> Experiment:
    """Final training loss of many trainings, around the number of tasks where learning sets in.

    Paper: width 64, 32 seeds, where the transition is at about 6,000 tasks.
    """
    if size == "paper":
        counts, seeds, learner = [2048, 4096, 5120, 6144, 7168, 8192, 16384], 32, 64
    else:
        counts, seeds, learner = [256, 512, 1024], 8, 0
    cells = []
    for count in counts:
        for seed in range(seeds):
            tasks = finite_tasks(size, count)
            config = training(size, transformer(size, learner), tasks, seed)
            ends = (0, tasks.length - 1)
            cells.append(
                Cell(
                    f"fig10-k{count}-s{seed}",
                    config,
                    tests(tasks, config.data.datasets[0], positions=ends, seen=True),
                    {"tasks": count, "seed": seed},
                )
            )
    title = "Final training loss of many trainings by number of tasks (Fig. 10)"
    return Experiment("fig10", title, tuple(cells), draw_fig10)


def final_loss(result: CellResult) -> float:
    """Return the training loss over the last twentieth of the steps, in nats."""
    steps, losses = np.array(result.curve).T
    return float(losses[steps > 0.95 * steps[-1]].mean())


def draw_fig10(results: Sequence[CellResult], path: Path) -> str:
    """Draw the final loss of every training, marked by whether it learns on unseen tasks."""
    groups = by(results, "tasks")
    figure, (axes,) = panels(1)
    kinds = ("learns on unseen tasks", "does not")
    words = []
    for place, (count, cells) in enumerate(groups.items()):
        losses = np.array([final_loss(cell) for cell in cells])
        learns = np.array([gain(cell, "unseen").estimate > GAINS for cell in cells])
        # Side by side, so that no two points hide each other.
        aside = 0.25 * (2 * (np.arange(len(cells)) + 0.5) / len(cells) - 1)
        for number, chosen in enumerate((learns, ~learns)):
            axes.plot(
                place + aside[chosen], losses[chosen], MARKS[number], color=COLOURS[number], ms=6,
                alpha=0.8, mec="white", mew=0.5, ls="", label=kinds[number] if not place else None,
            )  # fmt: skip
        parts = [
            f"{int(chosen.sum())} {how} learning (loss {losses[chosen].min():.2f} to "
            f"{losses[chosen].max():.2f})"
            for how, chosen in (("with", learns), ("without", ~learns))
            if chosen.any()
        ]
        words.append(f"{count:,} tasks: of {len(cells)} trainings {', '.join(parts)}")
    axes.set_xticks(range(len(groups)), [f"{count:,}" for count in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_xlabel("number of tasks")
    axes.set_ylabel("training loss at the end, nats")
    finish(figure, "Final training loss of every training", path, (axes,))
    return ". ".join(words) + f". Learning means a gain of more than {percent(GAINS)}."
