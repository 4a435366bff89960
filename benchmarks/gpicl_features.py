"""Raw inputs against features of a network that was trained before (GPICL, Fig. 9)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gla import datasets
from gla.benchmarks.gpicl_grid import Cell, CellResult, Experiment, Size, Test
from gla.benchmarks.gpicl_panels import (
    COLOURS,
    GREY,
    at,
    by,
    called,
    finish,
    floors,
    over_trainings,
    panels,
    percent,
    what_intervals,
)
from gla.benchmarks.gpicl_sizes import CPU_INPUTS, many_tasks, training, transformer, unseen
from gla.datasets.files import Raw, write_npz
from gla.errors import GlaError
from gla.gpicl.config import DataConfig
from gla.gpicl.features import embed, train_features
from gla.gpicl.tasks import TaskConfig

ENDING = "-features"  # of the name of a data set that was embedded
PRETRAINING_STEPS = 300
FIRST_HALF, SECOND_HALF = "digits-0-to-4", "digits-5-to-9"

_FOLDER = Path("runs/gpicl-cpu/fig9-data")


@dataclass(frozen=True)
class HalvedDigits(DataConfig):
    """The first and the second five classes of `digits`, raw and embedded.

    The network that embeds them is trained on the training part of the first half. It embeds
    `random` as well. The files are made in `folder` when the first of them is read.
    """

    def load(self, name: str, part: datasets.Part) -> datasets.Dataset:
        """Read one part of a data set, having made the files; see `DataConfig.load`.

        Raises:
            GlaError: if there is no folder, and as there.
        """
        if self.folder is None:
            raise GlaError("there is no folder for halved digits", "the setting `folder`")
        make_halves(Path(self.folder))
        return super().load(name, part)


def make_halves(folder: Path) -> None:
    """Write the files of `HalvedDigits` that are not there yet, each atomically.

    Args:
        folder: where; it is made if needed.

    Raises:
        GlaError: if they cannot be written.
    """
    parts = [datasets.load("digits", part, normalize="none") for part in ("train", "test")]
    for name, first in ((FIRST_HALF, 0), (SECOND_HALF, 5)):
        if not (folder / f"{name}.npz").exists():
            arrays: list[np.ndarray] = []
            for data in parts:
                rows = (data.labels >= first) & (data.labels < first + 5)
                arrays += [data.values[rows].reshape(-1, *data.shape), data.labels[rows]]
            write_npz(folder / f"{name}.npz", Raw(arrays))
    names = (FIRST_HALF, SECOND_HALF, "random")
    missing = [name for name in names if not (folder / f"{name}{ENDING}.npz").exists()]
    if missing:
        known = datasets.load(FIRST_HALF, "train", folder=folder)
        features = train_features(known, steps=PRETRAINING_STEPS)
        for name in missing:
            embed(name, folder / f"{name}{ENDING}.npz", features, folder=folder)


def fig9(size: Size) -> Experiment:
    """Meta-training on raw inputs or on features, and tests on several data sets.

    Paper: on MNIST, tested on the images of Table 1, with a ResNet of ImageNet. Which one is not
    said; its features are projected to 512 numbers here. The data sets are read from `GLA_DATA`,
    the features from files made by `gla gpicl embed NAME NAME-features.npz`.

    At `cpu` size: on the digits 5 to 9, with a small network that was trained on the digits 0 to 4;
    the files are made in runs/gpicl-cpu/fig9-data. So 0 to 4 are what the network knows, 5 to 9 are
    like it, and `random` is unlike it.
    """
    names: tuple[str, ...]
    if size == "paper":
        names = ("mnist", "fashion-mnist", "kmnist", "cifar-10", "svhn")
        inputs, seeds, raw, embedded = (3072, 512), 8, DataConfig(names[:1], resize=32), DataConfig
        folder, network = None, "a network that the user has chosen"
    else:
        names = (SECOND_HALF, FIRST_HALF, "random")
        inputs, seeds, folder = (CPU_INPUTS, CPU_INPUTS), 3, str(_FOLDER.absolute())
        raw, embedded = HalvedDigits(names[:1], folder=folder), HalvedDigits
        network = f"a small network that was trained on {FIRST_HALF}"
    arms = {
        "raw": (raw, many_tasks(size, inputs[0])),
        "features": (
            embedded((names[0] + ENDING,), folder=folder, resize=0),
            many_tasks(size, inputs[1]),
        ),
    }
    cells = []
    for arm, (data, tasks) in arms.items():
        ends = (0, tasks.length - 1)
        for seed in range(seeds):
            cells.append(
                Cell(
                    f"fig9-{arm}-s{seed}",
                    training(size, transformer(size), tasks, seed, data),
                    tuple(
                        Test(name, _file(name, arm), "test", unseen(tasks), positions=ends)
                        for name in names
                    ),
                    {"inputs": arm, "seed": seed},
                )
            )
    draw = functools.partial(draw_fig9, arms=arms, network=network)
    return Experiment("fig9", "Raw inputs and pre-trained features (Fig. 9)", tuple(cells), draw)


def _file(name: str, arm: str) -> str:
    """Return the name of a data set as one arm of the experiment reads it."""
    return name + ENDING if arm == "features" else name


def draw_fig9(
    results: Sequence[CellResult],
    path: Path,
    arms: dict[str, tuple[DataConfig, TaskConfig]],
    network: str,
) -> str:
    """Draw the accuracy at the last example as bars, with hand-written learners beside them."""
    groups = by(results, "inputs")
    names = list(results[0].tests)
    figure, (axes,) = panels(1, width=180 * len(names) + 200)
    words = []
    for number, (arm, cells) in enumerate(groups.items()):
        data, tasks = arms[arm]
        for place, name in enumerate(names):
            x = place + 0.4 * (number - 0.5)
            value = over_trainings([at(cell, name) for cell in cells])
            axes.bar(
                x, 100 * value.estimate, 0.36, color=COLOURS[number], alpha=0.8,
                hatch="//" if number else None, edgecolor="white",
                label=None if place else {"raw": "raw inputs"}.get(arm, arm),
            )  # fmt: skip
            axes.vlines(x, 100 * value.low, 100 * value.high, color="#111111", lw=1.8)
            floor = floors(data, _file(name, arm), tasks, (tasks.length - 1,))
            best = max(floor, key=lambda one: float(floor[one][0]))
            axes.hlines(
                100 * floor[best][0], x - 0.18, x + 0.18, color=GREY, lw=2, ls=(0, (2, 1)),
                label="" if place or number else "better of\n" + ",\n".join(floor),
            )  # fmt: skip
            words.append(
                f"{name}, {arm}: {percent(value)} ({best} {percent(float(floor[best][0]))})"
            )
    axes.set_xticks(range(len(names)), [called(name).replace("-", " ") for name in names])
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 103)
    axes.set_ylabel("accuracy at the last example, %")
    finish(figure, f"Raw inputs and features, {what_intervals(results)}", path, (axes,))
    return (
        f"Accuracy at the last example after meta-training on {names[0]}; features are of "
        f"{network}. {'. '.join(words)}."
    )
