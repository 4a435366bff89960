"""Experiments of GPICL as cells and pictures: what is learned, by which models, on what data.

`EXPERIMENTS` names them all, those of `gla.benchmarks.gpicl_phases` among them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from gla.benchmarks.gpicl_features import fig9
from gla.benchmarks.gpicl_grid import Cell, CellResult, Experiment, Size
from gla.benchmarks.gpicl_panels import (
    COLOURS,
    MARKS,
    at,
    by,
    called,
    finish,
    floor_lines,
    floors,
    line,
    over_trainings,
    panels,
    percent,
    powers_axis,
    what_intervals,
)
from gla.benchmarks.gpicl_phases import fig2, fig4, fig10
from gla.benchmarks.gpicl_sizes import (
    CPU_INPUTS,
    CPU_LENGTH,
    PAPER_LENGTH,
    many_tasks,
    tests,
    training,
    transformer,
)
from gla.gpicl.config import DataConfig, LearnerConfig
from gla.gpicl.tasks import TaskConfig
from gla.gpicl.vsml import VSMLConfig
from gla.models import ModelConfig

# --- Fig. 3: along the sequence


def fig3(size: Size, other: str | None = None) -> Experiment:
    """Accuracy along the sequence on unseen tasks, of the data set of training and of others.

    Paper: MNIST and Fashion-MNIST, images of 32 x 32 x 3, 2^25 tasks with a bias of 90%. Grey
    levels are not repeated three times: with a Gaussian projection to 3,072 numbers one grey level
    gives the same distribution of inputs.

    Args:
        size: of the experiment.
        other: second data set; none: Fashion-MNIST at `paper` size, `random` at `cpu` size, where
            it is only tested on.
    """
    names: tuple[str, ...]
    trained_on: tuple[str, ...]
    if size == "paper":
        names, inputs, resize, seeds = ("mnist", other or "fashion-mnist"), 3072, 32, 8
        trained_on, steps = names, 0
    else:
        names, inputs, resize, seeds = ("digits", other or "random"), CPU_INPUTS, 8, 4
        trained_on, steps = names[:1], 5000
    tasks = many_tasks(size, inputs)
    cells = []
    for name in trained_on:
        for seed in range(seeds):
            data = DataConfig((name,), resize=resize)
            config = training(size, transformer(size), tasks, seed, data, steps)
            others = tuple(one for one in names if one != name)
            cells.append(
                Cell(
                    f"fig3-{name}-s{seed}", config, tests(tasks, name, others),
                    {"trained on": name, "seed": seed},
                )
            )  # fmt: skip
    draw = functools.partial(draw_fig3, names=names, data=cells[0].training.data, tasks=tasks)
    return Experiment("fig3", "Accuracy along the sequence (Fig. 3)", tuple(cells), draw)


def draw_fig3(
    results: Sequence[CellResult],
    path: Path,
    names: Sequence[str],
    data: DataConfig,
    tasks: TaskConfig,
) -> str:
    """Draw accuracy against the number of examples seen, a panel per data set, with floors."""
    figure, found = panels(len(names))
    words = []
    for axes, name in zip(found, names, strict=True):
        for number, (source, cells) in enumerate(by(results, "trained on").items()):
            test = "unseen" if source == name else name
            places = cells[0].tests[test]["positions"]
            values = [
                over_trainings([at(cell, test, place) for cell in cells])
                for place in range(len(places))
            ]
            line(axes, places, values, number, f"trained on {called(source)}", marks=False)
            words.append(
                f"Trained on {called(source)}, tested on {called(name)}: {percent(values[0])} "
                f"before the first label, {percent(values[-1])} after {places[-1]} examples"
            )
        seen = sorted({0, *np.geomspace(1, tasks.length - 1, 9).round().astype(int).tolist()})
        floor = floors(data, name, tasks, tuple(seen))
        floor_lines(axes, seen, floor)
        words += [f"{one} there {percent(float(y[-1]))}" for one, y in floor.items()]
        axes.set_title(f"tested on {called(name)}, unseen tasks", fontsize=10.5)
        axes.set_ylim(0, 103)
        axes.set_xlabel("examples seen")
    found[0].set_ylabel("accuracy of the next guess, %")
    finish(figure, f"Learning along the sequence, {what_intervals(results)}", path, found)
    return ". ".join(words) + "."


# --- Fig. 5: state and parameters


def _sized(size: Size) -> list[tuple[str, str, LearnerConfig]]:
    """Return (family, name, learner) of all models of Fig. 5."""
    length = PAPER_LENGTH if size == "paper" else CPU_LENGTH
    tokens: Any = "paper" if size == "paper" else "pairs"

    def model(backbone: Any, width: int, **rest: Any) -> LearnerConfig:
        config = ModelConfig(
            backbone=backbone, width=width, window=length, positions="learned", **rest
        )
        return LearnerConfig(tokens=tokens, model=config)

    grids: tuple[int, ...]
    if size == "paper":
        wide = [(64, 2, 2), (128, 2, 4), (256, 2, 8), (256, 4, 8), (512, 4, 16)]
        lstm = [(64, 1), (256, 1), (1024, 1)]
        outer = [(64, 4, 1), (128, 4, 1), (256, 4, 1), (512, 4, 1)]
        fast = [(64, 2, 2), (256, 2, 8), (256, 4, 8)]
        grids, hidden = (1, 2, 4, 8, 16, 24), 64
    else:
        wide = [(16, 1, 2), (32, 1, 2), (48, 1, 2), (48, 2, 2)]
        lstm = [(24, 1), (48, 1), (96, 1)]
        outer = [(32, 8, 1), (32, 2, 1), (64, 2, 1)]
        fast = [(24, 1, 2), (64, 1, 2)]
        grids, hidden = (1, 2, 4), 16
    found = [
        ("Transformer", f"transformer-d{d}-l{n}", model("transformer", d, layers=n, heads=h))
        for d, n, h in wide
    ]
    found += [("LSTM", f"lstm-d{d}", model("lstm", d, layers=n)) for d, n in lstm]
    found += [
        ("outer-product LSTM", f"outer-d{d}-h{h}", model("outer-lstm", d, heads=h, layers=n))
        for d, h, n in outer
    ]
    for family, backbone in (("linear attention", "linear"), ("delta rule", "delta")):
        found += [
            (family, f"{backbone}-d{d}-l{n}", model(backbone, d, layers=n, heads=h))
            for d, n, h in fast
        ]
    found += [
        (
            "LSTMs on a grid",
            f"grid-k{k}",
            LearnerConfig("vsml-plain", vsml=VSMLConfig(hidden=hidden, grid=k)),
        )
        for k in grids
    ]
    found += [("state space", f"ssm-d{d}-l{n}", model("ssm", d, layers=n)) for d, n, _ in fast]
    return found


def fig5(size: Size) -> Experiment:
    """Accuracy at the last example by state size and by parameters, of many architectures.

    Paper: images of 14 x 14, which it states for the grid of LSTMs, for all, so that they differ in
    nothing else; batches of 512 for the Transformer, of 128 for the others.
    """
    if size == "paper":
        tasks, seeds = many_tasks(size, 196), 3
        data, steps = DataConfig(("mnist",), resize=14), 0
    else:
        tasks, seeds = many_tasks(size, CPU_INPUTS), 1
        data, steps = DataConfig(("digits",)), 2000
    cells = []
    for family, name, learner in _sized(size):
        batch = 512 if size == "paper" and family == "Transformer" else 0
        for seed in range(seeds):
            config = training(size, learner, tasks, seed, data, steps, batch)
            cells.append(
                Cell(
                    f"fig5-{name}-s{seed}", config,
                    tests(tasks, data.datasets[0], positions=(0, tasks.length - 1)),
                    {"family": family, "model": name, "seed": seed},
                )
            )  # fmt: skip
    title = "Accuracy by size of the state and number of parameters (Fig. 5)"
    return Experiment("fig5", title, tuple(cells), draw_fig5)


def draw_fig5(results: Sequence[CellResult], path: Path) -> str:
    """Draw accuracy against (a) state size and (b) parameters, with rank correlations."""
    models = by(results, "family", "model")
    families = list(dict.fromkeys(family for family, _ in models))
    values = [over_trainings([at(cell, "unseen") for cell in cells]) for cells in models.values()]
    accuracy = [value.estimate for value in values]
    sizes = {
        "numbers in the state": [cells[0].state_size for cells in models.values()],
        "parameters": [cells[0].parameters for cells in models.values()],
    }
    figure, found = panels(2)
    words = []
    for axes, letter, (what, places) in zip(found, "ab", sizes.items(), strict=True):
        rank = float(spearmanr(places, accuracy).statistic)
        for (family, _), place, value in zip(models, places, values, strict=True):
            number = families.index(family)
            axes.vlines(place, 100 * value.low, 100 * value.high, color=COLOURS[number], lw=1.2)
            axes.plot(
                place, 100 * value.estimate, MARKS[number], color=COLOURS[number], ms=7,
                label=family,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_ylim(0, 103)
        axes.set_xlabel(what)
        axes.set_title(f"({letter}) rank correlation {rank:.2f}", fontsize=10.5)
        words.append(f"rank correlation (Spearman) with {what} {rank:.2f}")
    found[0].set_ylabel("accuracy at the last example, %")
    title = f"Accuracy by size of {len(models)} models, {what_intervals(results)}"
    finish(figure, title, path, found)
    best = int(np.argmax(accuracy))
    (_, name), steps = list(models)[best], max(cell.steps for cell in results)
    return (
        f"Accuracy at the last example after {steps:,} steps, {len(models)} models: "
        f"{'; '.join(words)}. The best is {name} with {percent(values[best])}."
    )


# --- Fig. 11: length


def fig11(size: Size) -> Experiment:
    """Accuracy of the last query by the length of sequences, in meta-training and test alike.

    The paper gives no lengths; these are ours.
    """
    lengths: tuple[int, ...]
    if size == "paper":
        lengths, seeds, inputs = (25, 50, 100, 200, 400), 8, 784
        data = DataConfig(("mnist",), resize=0)
    else:
        lengths, seeds, inputs, data = (10, 20, 40, 80), 3, CPU_INPUTS, DataConfig(("digits",))
    cells = []
    for length in lengths:
        tasks = many_tasks(size, inputs, length)
        for seed in range(seeds):
            config = training(size, transformer(size, length=length), tasks, seed, data)
            cells.append(
                Cell(
                    f"fig11-t{length}-s{seed}", config,
                    tests(tasks, data.datasets[0], positions=(0, length - 1)),
                    {"length": length, "seed": seed},
                )
            )  # fmt: skip
    draw = functools.partial(draw_fig11, data=data, tasks=tasks)
    return Experiment("fig11", "Last guess by length of the sequence (Fig. 11)", tuple(cells), draw)


def draw_fig11(
    results: Sequence[CellResult], path: Path, data: DataConfig, tasks: TaskConfig
) -> str:
    """Draw the accuracy of the last guess against the length of the sequence, with floors."""
    groups = by(results, "length")
    lengths = list(groups)
    values = [over_trainings([at(c, "unseen") for c in cells]) for cells in groups.values()]
    figure, (axes,) = panels(1)
    line(axes, lengths, values, 0, "GPICL Transformer")
    rows = [
        floors(data, data.datasets[0], dataclasses.replace(tasks, length=n), (n - 1,))
        for n in lengths
    ]
    floor = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    floor_lines(axes, lengths, floor)
    powers_axis(axes, lengths, "examples in a sequence")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.set_ylim(0, 103)
    axes.set_ylabel("accuracy of the last guess, %")
    finish(figure, f"Accuracy by length, {what_intervals(results)}", path, (axes,))
    words = ", ".join(f"{percent(v)} at {n}" for n, v in zip(lengths, values, strict=True))
    beside = "; ".join(
        f"{name} " + ", ".join(percent(float(y)) for y in values) for name, values in floor.items()
    )
    return f"Accuracy of the last guess by length: {words}. At the same lengths: {beside}."


EXPERIMENTS: dict[str, Callable[[Size], Experiment]] = {
    "fig2": fig2,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "fig9": fig9,
    "fig10": fig10,
    "fig11": fig11,
}
