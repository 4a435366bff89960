"""GPICL's Table 1: learners meta-trained on MNIST, tested on data sets that they never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gla import datasets
from gla.benchmarks.gpicl_curves import plot_curves
from gla.benchmarks.gpicl_metatest import LearnerTestConfig, meta_test_learners
from gla.benchmarks.gpicl_results import Cell, table
from gla.errors import GlaError
from gla.files import os_errors, write_text
from gla.gpicl.config import DataConfig, GPICLConfig, LearnerConfig
from gla.gpicl.gradient import GradientConfig
from gla.gpicl.tasks import TaskConfig
from gla.gpicl.training import gpicl_train
from gla.gpicl.vsml import VSMLConfig
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig

DATASETS = ("mnist", "fashion-mnist", "kmnist", "random", "cifar-10", "svhn")
BY_HAND = ("1-nn", "kernel-ridge", "logistic-regression", "svm", "adam")
# GPICL, Table 1: accuracy at the 100th example in percent, in the order of DATASETS. Each is a
# share of 768 predictions, so 95% intervals are 2.5 to 3.5 points to both sides.
PAPER: dict[str, tuple[float, ...]] = {
    "SGD": (70.31, 50.78, 37.89, 100.0, 14.84, 10.16),
    "MAML": (53.71, 48.44, 36.33, 99.80, 17.38, 11.33),
    "VSML": (79.04, 68.49, 54.69, 100.0, 24.09, 17.45),
    "LSTM": (25.39, 28.12, 18.10, 58.72, 12.11, 11.07),
    "GPICL Transformer": (73.70, 62.24, 53.39, 100.0, 19.40, 14.58),
}


@dataclass(frozen=True)
class Recipe:
    """What is meta-trained for the table.

    Attributes:
        learners: {name: how}.
        sequences: in each cell, so the number of predictions at the 100th example.
    """

    learners: dict[str, GPICLConfig]
    sequences: int


def recipe(size: Literal["cpu", "paper"], train_on: str, folder: str | None) -> Recipe:
    """Return the learners of the table.

    `cpu`: images of 8 x 8, an easy-to-hard mixture over the number of classes beside the biased
    permutations, and tokens that hold the last example whole; hours on two cores. `paper`: images
    of 32 x 32, appendix A.5.
    """
    data = DataConfig(datasets=(train_on,), folder=folder, resize=8 if size == "cpu" else 32)
    if size == "cpu":
        return Recipe(_cpu_learners(data), 20_480)
    tasks = TaskConfig(input_dim=1024, tasks=2**25, fixed_share=0.9)
    adam = OptimizerConfig("adamw", 1e-3, "constant", weight_decay=0.0, max_grad_norm=0.0)

    def config(learner: LearnerConfig, batch: int, steps: int) -> GPICLConfig:
        return GPICLConfig(
            data=data, tasks=tasks, learner=learner, optimizer=adam, batch_size=batch,
            steps=steps, checkpoint_every=1000,
        )  # fmt: skip

    transformer = ModelConfig(width=256, layers=4, heads=8, window=100, positions="learned")
    lstm = ModelConfig(backbone="lstm", width=256, layers=1)
    return Recipe(
        {
            "transformer": config(LearnerConfig(tokens="paper", model=transformer), 128, 100_000),
            "lstm": config(LearnerConfig(tokens="paper", model=lstm), 128, 100_000),
            "vsml": config(LearnerConfig(kind="vsml", vsml=VSMLConfig()), 8, 100_000),
            "maml": config(LearnerConfig(kind="maml", gradient=GradientConfig()), 128, 20_000),
        },
        20_480,
    )


def _cpu_learners(data: DataConfig) -> dict[str, GPICLConfig]:
    tasks = TaskConfig(
        input_dim=128, fixed_share=0.3, fixed_share_final=0.0, fewest_classes=2,
        fewest_classes_final=10,
    )  # fmt: skip
    muon = OptimizerConfig("muon", 3e-3, "wsd", warmup=100)
    adam = OptimizerConfig("adamw", 1e-2, "wsd", warmup=20)

    def config(learner: LearnerConfig, **changes) -> GPICLConfig:
        given = {"optimizer": muon, "batch_size": 32, "checkpoint_every": 500, **changes}
        return GPICLConfig(data=data, tasks=tasks, learner=learner, **given)

    transformer = ModelConfig(width=128, layers=4, heads=4, window=100, positions="learned")
    lstm = ModelConfig(backbone="lstm", width=256, layers=1)
    return {
        "transformer": config(LearnerConfig(model=transformer), steps=16_000),
        "lstm": config(LearnerConfig(model=lstm), steps=6_000),
        "vsml": config(LearnerConfig(kind="vsml"), steps=1_000, batch_size=8, optimizer=adam),
        "maml": config(LearnerConfig(kind="maml"), steps=2_000),
    }


def table1(
    out: str = "runs/gpicl-table1",
    size: Literal["cpu", "paper"] = "cpu",
    learners: tuple[str, ...] = ("transformer", "lstm", "vsml", "maml"),
    seeds: tuple[int, ...] = (0,),
    train_on: str = "mnist",
    dataset: tuple[str, ...] = (),
    folder: str | None = None,
    sequences: int = 0,
    minutes: float | None = None,
    fresh: bool = False,
) -> int:
    """Meta-train the learners of Table 1 and test them, beside the hand-written ones.

    Run it again to go on where it stopped: finished learners and cells are kept.

    Args:
        out: folder for checkpoints, results.json, table.md and a picture.
        size: `cpu`: hours on two cores; `paper`: the paper's settings, on accelerators.
        learners: which to meta-train, of transformer, lstm, vsml and maml.
        seeds: of meta-training; each learner is trained once per seed.
        train_on: data set of meta-training.
        dataset: data sets to test on, also paths of your own; the paper's, of those that are there,
            by default.
        folder: where bare names are looked for (default: the environment variable GLA_DATA).
        sequences: in each cell; 20,480 by default.
        minutes: limit of each meta-training in this call.
        fresh: delete what is there and start again.
    """
    plan = recipe(size, train_on, folder)
    unknown = [name for name in learners if name not in plan.learners]
    if unknown:
        raise GlaError(f"there is no learner {unknown[0]!r}", ", ".join(plan.learners))
    folder_out = Path(out).absolute()
    with os_errors(folder_out, "write to"):
        folder_out.mkdir(parents=True, exist_ok=True)
    results_file = folder_out / "results.json"
    if fresh:
        results_file.unlink(missing_ok=True)
    chosen = dataset or available(DATASETS, folder)
    paths = []
    for name in learners:
        for seed in seeds:
            config = replace(plan.learners[name], seed=seed)
            path = folder_out / f"{name}-{seed}"
            gpicl_train(config, path, fresh and path.exists(), minutes=minutes)
            paths.append(str(path))
    test = LearnerTestConfig(
        learner=(*paths, *BY_HAND), dataset=chosen, folder=folder,
        sequences=sequences or plan.sequences, curves=False,
    )  # fmt: skip
    results = meta_test_learners(test, results_file)
    text = table(results.cells) + "\n" + paper_rows(results.cells)
    write_text(folder_out / "table.md", text)
    print("\n" + text)
    print(f"picture: {plot_curves(results.cells, folder_out / 'accuracy.png')}")
    return 0


def paper_rows(cells: Sequence[Cell]) -> str:
    """Return what the paper reports for the same data sets, as a Markdown table."""
    names = [name for name in dict.fromkeys(cell.dataset for cell in cells) if name in DATASETS]
    lines = ["| in the paper | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for learner, figures in PAPER.items():
        row = (f"{figures[DATASETS.index(name)]:.1f}" for name in names)
        lines.append(f"| {learner} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def available(names: Sequence[str], folder: str | None) -> tuple[str, ...]:
    """Return those data sets that can be loaded here without a network.

    Raises:
        GlaError: if none can.
    """
    found = []
    for name in names:
        try:
            datasets.load(name, "test", folder=folder)
        except GlaError:
            continue
        found.append(name)
    if not found:
        raise GlaError(
            "none of the data sets " + ", ".join(names) + " is there",
            "at least one in the folder of data sets",
            f"name the folder with --folder or {datasets.FOLDER_VARIABLE}",
        )
    return tuple(found)
