"""Experiments on the optimisation of GPICL: its loss plateau and what shortens it (section 4.3).

Each function returns an experiment for `gla.benchmarks.gpicl_grid.run_experiment`.

| experiment | figure of the paper | what it shows |
|---|---|---|
| `fig6` | 6 | the plateau of the loss, on seen and unseen tasks |
| `fig7`, `fig15` | 7, 15 | phases, plateau length, by number of tasks and batch size |
| `fig8` | 8 | shares of a fixed permutation |
| `fig12`, `fig13`, `fig14` | 12 to 14 | moments, gradients and updates, with a bias and without |
| `fig16` | 16 | Adam's epsilon, and the sign of its averaged gradient |
| `fig17` | 17 | weight decay where tasks are memorised |
| `plateau` | | the remedies of Figs. 8 and 16 side by side, every seed shown |

At the size `paper` data, tasks, model, sequence length and number of steps are those that sections
4.3, A.5 and A.6 state. What they leave open is chosen in `gla.benchmarks.gpicl_sizes` and here:
images of 28 x 28 projected to as many numbers, and for the sign Adam's learning rate. The sign
moves every weight by all of it at every step; Adam, where gradients are noise, by about a quarter.

At the size `cpu` the digits of scikit-learn are projected to 16 numbers and a small Transformer
reads 40 of them, each token holding a whole pair. There labels permuted uniformly give a plateau
that ends after two or three thousand steps of milliseconds. With fewer examples of fewer numbers
it is shorter; with twice the learning rate some seeds do not leave it for thousands of steps more,
their gradients growing ever smaller.

Plateaus are measured by `gla.gpicl.plateau`, at the level log C. Gradients are not clipped, since
whether they are small is the question. The paper sums the losses of a sequence where we take their
mean; its gradients are T times as large, which matters to Adam's epsilon alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gla.benchmarks import gpicl_optimization_plots as plots
from gla.benchmarks import gpicl_statistics_plots as statistics_plots
from gla.benchmarks.gpicl_grid import Cell, Draw, Experiment, Size, Test
from gla.benchmarks.gpicl_sizes import PAPER_LENGTH, training, transformer, unseen
from gla.gpicl.config import (
    DataConfig,
    GPICLConfig,
    LearnerConfig,
    LearnerValidationConfig,
)
from gla.gpicl.tasks import TaskConfig
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig

# Arms of comparisons.
UNIFORM, SIGNED = "uniform", "sign"
HALF, MORE, BIASED = (f"{share}% fixed permutation" for share in (50, 75, 90))
LARGE, SMALLER, SMALL = (f"Adam eps {eps}" for eps in ("1e-5", "1e-10", "1e-12"))


def _base(size: Size) -> GPICLConfig:
    """Return the training that all experiments vary."""
    if size == "cpu":
        return GPICLConfig(
            data=DataConfig(("digits",), resize=8),
            tasks=TaskConfig(length=40, input_dim=16),
            learner=LearnerConfig(
                tokens="pairs",
                model=ModelConfig(width=32, layers=2, heads=4, window=40, positions="learned"),
            ),
            optimizer=OptimizerConfig(
                "adamw", 5e-4, "constant", warmup=50, weight_decay=0.0, max_grad_norm=0.0
            ),
            validation=LearnerValidationConfig(every=100, sequences=256),
            batch_size=32,
            steps=5000,
            steps_per_dispatch=25,
            checkpoint_every=1000,
        )
    tasks = TaskConfig(length=PAPER_LENGTH, input_dim=784, tasks=2**16)
    data = DataConfig(("fashion-mnist",), resize=0)
    return replace(
        training("paper", transformer("paper"), tasks, 0, data),
        validation=LearnerValidationConfig(every=500, sequences=512, datasets=("mnist",)),
        checkpoint_every=5000,
    )


def _seeds(size: Size, few: int = 5) -> range:
    """Return the seeds of a line; the paper has 8."""
    return range(few if size == "cpu" else 8)


def _chance(config: GPICLConfig) -> float:
    """Return the loss of guessing, in nats."""
    return math.log(config.tasks.classes)


def _cell(name: str, config: GPICLConfig, labels: Mapping[str, Any]) -> Cell:
    """Return a cell that is tested at both ends of the sequence, on unseen and on seen tasks."""
    dataset, ends = config.data.datasets[0], (0, config.tasks.length - 1)
    tests = [Test("unseen", dataset, "test", unseen(config.tasks), sequences=512, positions=ends)]
    if config.tasks.tasks:
        tests.append(Test("seen", dataset, "train", config.tasks, sequences=512, positions=ends))
    return Cell(name, config, tuple(tests), dict(labels))


def _arms(size: Size) -> dict[str, tuple[str, GPICLConfig]]:
    """Return arms of comparisons: their name in file names, and what is trained."""
    base = _base(size)
    adam = base.optimizer
    sign = OptimizerConfig(
        "sign", adam.learning_rate, "constant", warmup=adam.warmup, max_grad_norm=0.0
    )

    def bias(share: float) -> GPICLConfig:
        return replace(base, tasks=replace(base.tasks, fixed_share=share))

    def epsilon(eps: float) -> GPICLConfig:
        return replace(base, optimizer=replace(adam, eps=eps))

    return {
        UNIFORM: ("uniform", base),
        HALF: ("bias50", bias(0.5)),
        MORE: ("bias75", bias(0.75)),
        BIASED: ("bias90", bias(0.9)),
        LARGE: ("eps1e-5", epsilon(1e-5)),
        SMALLER: ("eps1e-10", epsilon(1e-10)),
        SMALL: ("eps1e-12", epsilon(1e-12)),
        SIGNED: ("sign", replace(base, optimizer=sign)),
    }


def _cells(size: Size, *arms: str) -> tuple[Cell, ...]:
    """Return the cells of arms, every seed; experiments share them by their names."""
    known, cells = _arms(size), []
    for arm in arms:
        name, config = known[arm]
        for seed in _seeds(size):
            labels = {"arm": arm, "bias": config.tasks.fixed_share, "seed": seed}
            cells.append(_cell(f"{size}-{name}-s{seed}", replace(config, seed=seed), labels))
    return tuple(cells)


def _drawn(draw: Callable[..., str], config: GPICLConfig, title: str, **more: Any) -> Draw:
    return functools.partial(draw, chance=_chance(config), title=title, **more)


def fig6(size: Size) -> Experiment:
    """One training on many uniformly permuted tasks, and its plateau (Fig. 6)."""
    base = _base(size)
    if size == "cpu":
        base = replace(base, tasks=replace(base.tasks, tasks=2**12))
    title = "The loss stays on a plateau before learning to learn begins"
    cell = _cell(f"{size}-fig6-s0", base, {"tasks": base.tasks.tasks, "seed": 0})
    return Experiment("fig6", title, (cell,), _drawn(plots.draw_plateau, base, title))


def _phase_cells(size: Size) -> tuple[Cell, ...]:
    """Return the cells of Figs. 7 and 15: numbers of tasks by batch sizes."""
    powers: tuple[int, ...] = (5, 8, 10, 12, 14, 17)
    batches: tuple[int, ...] = (8, 16, 32, 64)
    if size == "paper":
        powers, batches = (8, 10, 12, 14, 16, 18, 20), (64, 128, 256, 512, 1024)
    base = _base(size)
    base = replace(base, validation=LearnerValidationConfig())
    cells = []
    for power in powers:
        for batch in batches:
            for seed in _seeds(size, few=1):
                config = replace(
                    base, tasks=replace(base.tasks, tasks=2**power), batch_size=batch, seed=seed
                )
                labels = {"tasks": 2**power, "batch": batch, "seed": seed}
                cells.append(_cell(f"{size}-k{power}-b{batch}-s{seed}", config, labels))
    return tuple(cells)


def fig7(size: Size) -> Experiment:
    """Memorising, generalising, or stuck: by number of tasks and batch size (Fig. 7)."""
    title = "Phases and plateau lengths by number of tasks and batch size"
    draw = _drawn(plots.draw_phases, _base(size), title)
    return Experiment("fig7", title, _phase_cells(size), draw)


def fig15(size: Size) -> Experiment:
    """Tasks seen within the plateau, from the cells of `fig7` (Fig. 15)."""
    title = "Tasks seen in the plateau by batch size and number of tasks"
    draw = _drawn(plots.draw_tasks_seen, _base(size), title)
    return Experiment("fig15", title, _phase_cells(size), draw)


def fig8(size: Size) -> Experiment:
    """Shares of a batch whose labels keep one permutation (Fig. 8)."""
    cells = _cells(size, UNIFORM, HALF, MORE, BIASED)
    title = "Biasing label permutations"
    return Experiment("fig8", title, cells, _drawn(plots.draw_bias, _base(size), title))


def _measured_cells(size: Size) -> tuple[Cell, ...]:
    """Return the cells of Figs. 12 to 14, in which gradients are measured."""
    known, cells = _arms(size), []
    for arm in (UNIFORM, BIASED):
        name, config = known[arm]
        labels = {"arm": arm, "seed": 0}
        config = replace(config, statistics=True)
        cells.append(_cell(f"{size}-measured-{name}-s0", config, labels))
    return tuple(cells)


def fig12(size: Size) -> Experiment:
    """Norms of Adam's averages before and after the plateau (Fig. 12)."""
    title = "Adam's averages of the gradient and its square"
    draw = _drawn(statistics_plots.draw_moments, _base(size), title)
    return Experiment("fig12", title, _measured_cells(size), draw)


def fig13(size: Size) -> Experiment:
    """Gradients and updates, biased against uniform, from the cells of `fig12` (Fig. 13)."""
    title = "Gradients and updates with a biased and a uniform distribution"
    draw = _drawn(statistics_plots.draw_statistics, _base(size), title)
    return Experiment("fig13", title, _measured_cells(size), draw)


def fig14(size: Size) -> Experiment:
    """Gradients by tensor within the plateau, from the cells of `fig12` (Fig. 14)."""
    title = "Gradients in the plateau, tensor by tensor"
    draw = _drawn(statistics_plots.draw_tensors, _base(size), title)
    return Experiment("fig14", title, _measured_cells(size), draw)


def _usual(size: Size) -> str:
    """Return what the arm without a change is called beside other epsilons."""
    return f"Adam eps {_base(size).optimizer.eps:.0e}".replace("e-0", "e-")


def fig16(size: Size) -> Experiment:
    """The sign of the averaged gradient, and other epsilons of Adam (Fig. 16)."""
    usual = _usual(size)
    # Gradients of the small model are near the first of these, not near the last.
    arms = (LARGE, UNIFORM, SMALL) if size == "cpu" else (LARGE, UNIFORM, SMALLER, SMALL)
    epsilons = {arm: usual if arm == UNIFORM else arm for arm in arms}
    panels = (
        ("a  sign of the averaged gradient", {UNIFORM: usual, SIGNED: SIGNED}),
        ("b  Adam's epsilon", epsilons),
    )
    title = "Changing the optimiser"
    draw = _drawn(plots.draw_curves_by, _base(size), title, panels_of=panels)
    return Experiment("fig16", title, _cells(size, *arms, SIGNED), draw)


def fig17(size: Size) -> Experiment:
    """Weight decay where few tasks are memorised: is there grokking? (Fig. 17)."""
    base = _base(size)
    powers = (5, 10, 16) if size == "cpu" else (10, 14, 16)
    cells = []
    for power in powers:
        for decay in (0.01, 0.1, 1.0):
            for seed in _seeds(size, few=1):
                config = replace(
                    base,
                    tasks=replace(base.tasks, tasks=2**power),
                    optimizer=replace(base.optimizer, weight_decay=decay),
                    seed=seed,
                )
                labels = {"tasks": 2**power, "decay": decay, "seed": seed}
                cells.append(_cell(f"{size}-k{power}-decay{decay:g}-s{seed}", config, labels))
    title = "Weight decay by number of tasks"
    return Experiment("fig17", title, tuple(cells), _drawn(plots.draw_decay, base, title))


def plateau(size: Size) -> Experiment:
    """Remedies against the plateau side by side: same model, same seeds."""
    cells = _cells(size, UNIFORM, BIASED, LARGE, SMALL, SIGNED)
    title = "What shortens the plateau"
    names = {UNIFORM: f"uniform ({_usual(size)})"}
    draw = _drawn(plots.draw_arms, _base(size), title, names=names)
    return Experiment("plateau", title, cells, draw)


EXPERIMENTS: dict[str, Callable[[Size], Experiment]] = {
    one.__name__: one
    for one in (fig6, fig7, fig8, fig12, fig13, fig14, fig15, fig16, fig17, plateau)
}
