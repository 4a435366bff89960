"""The two sizes of the experiments: `paper`, as GPICL states it, and `cpu`, for two cores.

What the paper leaves open is chosen here: Adam's step size (3e-4, without decay or clipping), and
50,000 steps, where its Fig. 7 ends. Its heads are of size 32; a narrower model has one head.

At `cpu` size everything is smaller: images of 8 x 8, tokens of the form `pairs`, the optimiser Muon
and fewer steps, see `CPU_*`. A cell takes a core about 20 seconds to compile and test and 3 to 45
milliseconds a step, so that no experiment takes a core more than about 20 minutes.
"""

from __future__ import annotations

import dataclasses

from gla.benchmarks.gpicl_grid import Size, Test
from gla.gpicl.config import DataConfig, GPICLConfig, LearnerConfig
from gla.gpicl.tasks import TaskConfig
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig

PAPER_STEPS, PAPER_BATCH, PAPER_LENGTH = 50_000, 128, 100
PAPER_TASKS, PAPER_SHARE = 2**25, 0.9  # where the distribution of tasks is a biased one
PAPER_HEAD = 32

CPU_LENGTH, CPU_INPUTS, CPU_WIDTH, CPU_LAYERS = 40, 24, 48, 1
CPU_BATCH, CPU_STEPS = 32, 2500


def transformer(size: Size, width: int = 0, layers: int = 0, length: int = 0) -> LearnerConfig:
    """Return a Transformer.

    Args:
        size: which sizes stand for 0 and how tokens are made.
        width: of the residual stream.
        layers: number of blocks.
        length: of the sequences.
    """
    if size == "paper":
        width, layers, length = width or 256, layers or 4, length or PAPER_LENGTH
        heads = max(1, width // PAPER_HEAD)
    else:
        width, layers, length = width or CPU_WIDTH, layers or CPU_LAYERS, length or CPU_LENGTH
        heads = 2
    model = ModelConfig(width=width, layers=layers, heads=heads, window=length, positions="learned")
    return LearnerConfig(tokens="paper" if size == "paper" else "pairs", model=model)


def many_tasks(size: Size, inputs: int, length: int = 0) -> TaskConfig:
    """Return the biased distribution of very many tasks that most figures are trained on.

    Args:
        size: `paper`: 2^25 tasks, 90% of them with one permutation; `cpu`: endlessly many, 30% with
            one permutation, and with merged classes, which shortens the plateau.
        inputs: length of the projected inputs.
        length: of the sequences; 0 for the usual.
    """
    if size == "paper":
        return TaskConfig(
            length=length or PAPER_LENGTH, input_dim=inputs, tasks=PAPER_TASKS,
            fixed_share=PAPER_SHARE,
        )  # fmt: skip
    return TaskConfig(
        length=length or CPU_LENGTH, input_dim=inputs, fixed_share=0.3, fewest_classes=2
    )


def training(
    size: Size,
    learner: LearnerConfig,
    tasks: TaskConfig,
    seed: int,
    data: DataConfig | None = None,
    steps: int = 0,
    batch_size: int = 0,
) -> GPICLConfig:
    """Return what to train.

    Args:
        size: what stands for the rest.
        learner: which.
        tasks: which.
        seed: of weights and batches.
        data: none: MNIST as it is, or `digits`.
        steps: 0: the usual number.
        batch_size: likewise.
    """
    if size == "paper":
        return GPICLConfig(
            data=data or DataConfig(("mnist",), resize=0),
            tasks=tasks,
            learner=learner,
            optimizer=OptimizerConfig(
                "adamw", 3e-4, "constant", warmup=0, weight_decay=0.0, max_grad_norm=0.0
            ),
            batch_size=batch_size or PAPER_BATCH,
            steps=steps or PAPER_STEPS,
            steps_per_dispatch=50,
            checkpoint_every=1000,
            seed=seed,
        )
    return GPICLConfig(
        data=data or DataConfig(("digits",)),
        tasks=tasks,
        learner=learner,
        optimizer=OptimizerConfig("muon", 3e-3, "wsd", warmup=100),
        batch_size=batch_size or CPU_BATCH,
        steps=steps or CPU_STEPS,
        steps_per_dispatch=25,
        checkpoint_every=500,
        seed=seed,
    )


def unseen(tasks: TaskConfig) -> TaskConfig:
    """Return endlessly many tasks without a bias, none of which is among those of training."""
    return dataclasses.replace(tasks.uniform, tasks=0)


def tests(
    tasks: TaskConfig,
    trained_on: str,
    others: tuple[str, ...] = (),
    positions: tuple[int, ...] | None = None,
    seen: bool = False,
) -> tuple[Test, ...]:
    """Return the tests of a cell.

    Args:
        tasks: of its training.
        trained_on: its data set.
        others: further data sets to test on.
        positions: see `gla.benchmarks.gpicl_grid.Test`.
        seen: whether to test on the tasks and examples of training too.

    Returns:
        `seen`, if wanted; `unseen`: new tasks of new examples of `trained_on`; and one under the
        name of each other data set.
    """
    new = unseen(tasks)
    found = [Test("unseen", trained_on, "test", new, positions=positions)]
    if seen:
        found.insert(0, Test("seen", trained_on, "train", tasks, positions=positions))
    found += [Test(name, name, "test", new, positions=positions) for name in others]
    return tuple(found)
