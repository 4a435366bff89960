"""The figures of Kirsch et al. 2023, "Towards General-Purpose In-Context Learning Agents".

Two sizes: `paper` has the environments, gaps, projections, attention span and numbers of lifetimes
that the paper states; the rest, which it leaves open (model, PPO, optimiser steps, training
context), is chosen here and was not run at that size. `cpu` asks the same questions of smaller runs
that one core finishes in less than half an hour. Its times were measured on one core of a busy
two-core machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from gla.agents.collect import CollectConfig
from gla.agents.ppo import PPOConfig
from gla.benchmarks import suites
from gla.benchmarks.figures_parts import Figure, Line, Panel
from gla.benchmarks.figures_steps import Collect, MetaTest, Step, SuiteTest, Train
from gla.benchmarks.gpicl_grid import Size
from gla.benchmarks.worlds import MetaTestConfig
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig
from gla.projection import ProjectionConfig
from gla.sampling import LAST, SamplingConfig
from gla.training_config import MetaTrainConfig

# --- what the figures share

WINDOW = 4096  # transitions of attention (paper: "the last 4 thousand")
PAPER_MODEL = ModelConfig(width=512, layers=6, heads=8, window=WINDOW, dtype="bfloat16", remat=True)
PAPER_STEPS = 50_000

# A 3x3 grid whose goal is always the far corner, paid when it is reached.
GRID = "gla/Darkroom-v0?size=3&horizon=10&goal=[2,2]&goal_ends=true&observation=one-hot"
GRID_SIZES = (9, 5)  # numbers of an observation, actions
ANT_SIZES = (27, 8)
REACHER_SIZES = (10, 2)


def ant_ppo(updates: int) -> PPOConfig:
    """PPO on ants: the settings of the reference scores."""
    return PPOConfig(
        num_envs=16,
        num_steps=256,
        num_updates=updates,
        epochs=10,
        minibatches=32,
        learning_rate=3e-4,
        anneal=True,
        gamma=0.99,
        hidden=64,
        initial_log_std=-1.0,
    )


def plain(sizes: tuple[int, int]) -> ProjectionConfig:
    """Return no projection at all: the task's own numbers, in their order."""
    return ProjectionConfig(*sizes, kind="identity")


def with_gap(sampling: SamplingConfig, gap: int | None) -> SamplingConfig:
    """Return how sequences are cut for a gap.

    Each segment is of the policy `gap` updates after that of the segment before, and the target is
    the policy `gap` updates after the one that acts, at the states that it visits.

    Args:
        sampling: of the same length.
        gap: updates; None for the largest gap: whatever the context, the target is the last policy.
    """
    if gap is None:
        return dataclasses.replace(sampling, gap=(2, 8), lead=(LAST, LAST))
    return dataclasses.replace(sampling, gap=(gap, gap), lead=(gap, gap))


# --- Fig. 3: a single task, and the gap

GAPS: tuple[tuple[str, int | None], ...] = (("gap2", 2), ("gap8", 8), ("optimal", None))
GAP_NAMES = {"gap2": "gap 2", "gap8": "gap 8", "optimal": "optimal (last policy)"}
MIDDLE = "gap8"


def fig3(size: Size) -> Figure:
    """One task each: a 3x3 grid, and the ant (`paper`) or the reacher (`cpu`)."""
    grid = _grid(size)
    body = _ant(size) if size == "paper" else _reacher()
    steps: list[Step] = []
    panels = []
    for name, title, collect, training, sampling, test, minutes in (grid, body):
        steps.append(collect)
        for gap, updates in GAPS:
            config = dataclasses.replace(training, sampling=with_gap(sampling, updates))
            steps.append(Train(f"{name}-{gap}", minutes[0], (collect.name,), config))
        for gap, _ in GAPS:
            steps.append(MetaTest(f"{name}-{gap}", minutes[1], f"{name}-{gap}", test))
        files = {gap: f"{MetaTest.folder}/{name}-{gap}.json" for gap, _ in GAPS}
        lines = [
            Line(GAP_NAMES[gap], (files[gap],), style=number)
            for number, (gap, _) in enumerate(GAPS)
        ]
        masked = Line(f"{GAP_NAMES[MIDDLE]}, rewards masked", (files[MIDDLE],), twin=True)
        panels.append(
            Panel(title, (*lines, masked), floor=files[MIDDLE], own=(collect.name,), log=True)
        )
    caption = (
        "Fig. 3 of the paper: one task, and agents that were meta-trained on PPO's histories of "
        "that very task with a gap of 2 updates, of 8, and with the last policy as the target. "
        "Return per episode over one lifetime, mean and 95% interval over "
        f"{grid[5].lifetimes} lifetimes. PPO's own curve counts the steps of all its parallel "
        "environments. The paper does not state the grid's start, rewards and horizon; here the "
        "goal is the corner opposite the start, an episode has 10 steps and pays 1 at the goal."
    )
    if size == "cpu":
        caption += (
            " In place of Ant-v4, which one core cannot collect and train in minutes, the "
            "continuous task is Reacher-v5."
        )
    return Figure(
        "gla-fig3", size, "One task: how the gap sets the pace of learning (GLA, Fig. 3)", caption,
        tuple(steps), tuple(panels),
    )  # fmt: skip


_Part = tuple[
    str, str, Collect, MetaTrainConfig, SamplingConfig, MetaTestConfig,
    tuple[float | None, float | None],
]  # fmt: skip


def _grid(size: Size) -> _Part:
    small = size == "cpu"
    ppo = PPOConfig(
        num_envs=4, num_steps=20, num_updates=64, epochs=2, minibatches=2, learning_rate=1e-3,
        gamma=0.95,
    )  # fmt: skip
    collect = Collect(
        "grid-corner", 0.5 if small else None,
        CollectConfig(GRID, runs=32 if small else 256, streams_per_run=4, block=32, ppo=ppo),
    )  # fmt: skip
    sampling = SamplingConfig(segments=32, segment_length=20, first_update=(0, 0))
    training = MetaTrainConfig(
        projection=plain(GRID_SIZES),
        model=ModelConfig(width=64, layers=2, heads=4, window=sampling.length),
        batch_size=16,
        steps=500,
        checkpoint_every=100,
    )
    test = MetaTestConfig(GRID, lifetimes=64, steps=640)
    if not small:
        training = dataclasses.replace(
            training,
            model=dataclasses.replace(PAPER_MODEL, window=sampling.length),
            batch_size=64,
            steps=10_000,
        )
    return (
        "grid", "3x3 grid, fixed goal", collect, training, sampling, test,
        (1.8, 0.4) if small else (None, None),
    )  # fmt: skip


def _reacher() -> _Part:
    ppo = PPOConfig(
        num_envs=48, num_steps=50, num_updates=64, epochs=10, minibatches=16, learning_rate=1e-3,
        gamma=0.97, hidden=64, initial_log_std=-0.5,
    )  # fmt: skip
    collect = Collect(
        "Reacher-v0", 2.0,
        CollectConfig("gla/Reacher-v0", runs=4, streams_per_run=16, block=1, ppo=ppo),
    )  # fmt: skip
    sampling = SamplingConfig(segments=16, segment_length=50, first_update=(0, 0))
    training = MetaTrainConfig(
        projection=plain(REACHER_SIZES),
        model=ModelConfig(width=64, layers=2, heads=4, window=sampling.length),
        batch_size=8,
        steps=700,
        checkpoint_every=100,
    )
    test = MetaTestConfig("gla/Reacher-v0", lifetimes=64, steps=1600, null_steps=250)
    return ("reacher", "Reacher-v5", collect, training, sampling, test, (2.0, 1.0))


def _ant(size: Size) -> _Part:
    assert size == "paper"
    collect = Collect("AntV4-v0", None, _ants("gla/AntV4-v0", 16, 0, 300))
    sampling = SamplingConfig(segments=32, segment_length=128, first_update=(0, 3))
    training = MetaTrainConfig(
        projection=plain(ANT_SIZES), model=PAPER_MODEL, batch_size=32, steps=PAPER_STEPS,
        optimizer=OptimizerConfig(learning_rate=3e-4),
    )  # fmt: skip
    test = MetaTestConfig("gla/AntV4-v0", lifetimes=64, steps=32_000, null_steps=4000)
    return ("ant", "Ant-v4", collect, training, sampling, test, (None, None))


# --- Fig. 4: one direction or both

# At `cpu` size; a sequence may begin anywhere, because a lifetime is longer than what is attended.
ANT_SAMPLING = SamplingConfig(
    segments=8, segment_length=64, first_update=(0, 149), gap=(12, 20), lead=(12, 20)
)
FORWARD, BACKWARD = (f"gla/AntForwardBackward-v0?direction={angle}" for angle in (0, 180))


def fig4(size: Size) -> Figure:
    """Ants that were paid for one direction, or for both, in meta-training; tested on both."""
    small = size == "cpu"
    both: tuple[str, ...]
    if small:
        # The first training task of seed 2 is backward; forward is Ant-v5 itself.
        stores = (
            Collect("Ant-v0", 8.0, _ants("gla/Ant-v0", 1, 0, 150)),
            Collect("Ant-backward", 8.0, _ants("gla/AntForwardBackward-v0", 1, 2, 150)),
        )
        one, both = ("Ant-v0",), ("Ant-v0", "Ant-backward")
        sampling = ANT_SAMPLING
        training = MetaTrainConfig(
            projection=plain(ANT_SIZES),
            sampling=sampling,
            model=ModelConfig(width=96, layers=2, heads=4, window=sampling.length),
            batch_size=16,
            steps=1000,
            checkpoint_every=100,
        )
        lifetimes, steps = 32, 3000
    else:
        stores = (
            Collect("Ant-v0", None, _ants("gla/Ant-v0", 16, 0, 300)),
            Collect("Ant-both", None, _ants("gla/AntForwardBackward-v0", 32, 0, 300)),
        )
        one, both = ("Ant-v0",), ("Ant-both",)
        sampling = SamplingConfig(
            segments=32, segment_length=128, first_update=(0, 3), gap=(8, 8), lead=(8, 8)
        )
        training = MetaTrainConfig(
            projection=plain(ANT_SIZES),
            sampling=sampling,
            model=PAPER_MODEL,
            optimizer=OptimizerConfig(learning_rate=3e-4),
            batch_size=32,
            steps=PAPER_STEPS,
        )
        lifetimes, steps = 64, 32_000
    agents = {"forward": one, "both": both}
    todo: list[Step] = list(stores)
    for name, histories in agents.items():
        todo.append(Train(f"ant-{name}", 2.5 if small else None, histories, training))
    panels = []
    for where, environment, scores in (
        ("forward", FORWARD, "gla/Ant-v0"),
        ("backward", BACKWARD, "gla/AntForwardBackward-v0"),
    ):
        lines = []
        for number, name in enumerate(agents):
            test = MetaTestConfig(environment, lifetimes, steps, nulls=False)
            step = MetaTest(f"ant-{name}-on-{where}", 2.0 if small else None, f"ant-{name}", test)
            todo.append(step)
            trained = "forward only" if name == "forward" else "both directions"
            lines.append(Line(f"trained on {trained}", (step.made,), style=number))
            if name == "both":
                lines.append(Line(f"trained on {trained}, rewards masked", (step.made,), twin=True))
        own = "Ant-v0" if where == "forward" else stores[1].name
        panels.append(
            Panel(
                f"paid for running {where}", tuple(lines), floor=lines[-1].files[0],
                own=(own,) if small or where == "forward" else (), log=True, scores=scores,
            )
        )  # fmt: skip
    caption = (
        "Fig. 4 of the paper: an ant that is paid for running forward or backward and must find "
        "out from its rewards which. One agent was meta-trained on histories of the forward task "
        "alone, the other on both. Return per episode over one lifetime, mean and 95% interval "
        f"over {lifetimes} lifetimes. Ant-v5 of MuJoCo; standing still earns about 1,000 in either "
        "task. The paper does not state the gap."
    )
    if small:
        caption += (
            " The body and the tasks are the paper's; everything else is small: one PPO run of "
            "614,400 steps for each direction, a model of 0.1 million parameters, lifetimes of "
            f"{steps:,} steps."
        )
    return Figure(
        "gla-fig4", size, "Ant-Direction: trained on one direction or on both (GLA, Fig. 4)",
        caption, tuple(todo), tuple(panels),
    )  # fmt: skip


def _ants(environment: str, runs: int, seed: int, updates: int) -> CollectConfig:
    return CollectConfig(
        environment, runs=runs, streams_per_run=16, seed=seed, block=1, chunk=10,
        ppo=ant_ppo(updates),
    )  # fmt: skip


# --- Fig. 5: other bodies

# Read off the paper's figure by eye: the first point, the best, and that at 64,000 steps.
PAPER_FIG5: dict[str, tuple[float, float, float]] = {
    "gla/AntV4-v0": (0.0, 500.0, 400.0),
    "gla/ReacherV4-v0": (-58.0, -24.0, -27.0),
    "gla/HalfCheetahV4-v0": (-175.0, -105.0, -140.0),
    "gla/CartpoleBalance-v0": (253.0, 355.0, 318.0),
}
FIG5_TITLES = {
    "gla/AntV4-v0": "Ant-v4, unseen projection",
    "gla/ReacherV4-v0": "Reacher-v4",
    "gla/HalfCheetahV4-v0": "HalfCheetah-v4",
    "gla/CartpoleBalance-v0": "DMC cartpole balance",
}


def fig5(size: Size) -> Figure:
    """An agent that was meta-trained on randomly projected ants alone, tested on other bodies."""
    small = size == "cpu"
    if small:
        store = Collect("Ant-v0", 8.0, _ants("gla/Ant-v0", 1, 0, 150))
        training = MetaTrainConfig(
            projection=ProjectionConfig(64, 16),
            sampling=ANT_SAMPLING,
            model=ModelConfig(width=128, layers=3, heads=4, window=ANT_SAMPLING.length),
            batch_size=16,
            steps=800,
            checkpoint_every=100,
        )
        suite = "gla-fig5-short-v1"
    else:
        store = Collect("AntV4-v0", None, _ants("gla/AntV4-v0", 16, 0, 300))
        training = MetaTrainConfig(
            projection=ProjectionConfig(64, 16),
            sampling=SamplingConfig(
                segments=32, segment_length=128, first_update=(0, 3), gap=(3, 9), lead=(3, 9)
            ),
            model=PAPER_MODEL,
            optimizer=OptimizerConfig(learning_rate=3e-4),
            batch_size=32,
            steps=PAPER_STEPS,
        )
        suite = "gla-fig5-v1"
    train = Train("projected-ant", 9.0 if small else None, (store.name,), training)
    test = SuiteTest("projected-ant", 12.0 if small else None, train.name, suite, nulls=not small)
    panels = []
    for task in suites.find(suite).tasks:
        file = test.file(task.environment)
        first, best, last = PAPER_FIG5[task.environment]
        panels.append(
            Panel(
                FIG5_TITLES[task.environment],
                (Line("GLA", (file,)), Line("GLA, rewards masked", (file,), twin=True)),
                floor=file, read=(("first", first), ("best", best), ("last", last)),
            )
        )  # fmt: skip
    lifetimes, steps = suites.find(suite).lifetimes, suites.find(suite).tasks[0].steps
    caption = (
        "Fig. 5 of the paper: an agent that was meta-trained on histories of the ant alone, under "
        "random projections of observations (to 64 numbers) and actions (to 16), meets the ant "
        "under an unseen projection and three bodies that it has never seen. Return per episode, "
        f"mean and 95% interval over {lifetimes} lifetimes of {steps:,} steps. The marks P are the "
        "paper's own curve, read by eye: its first point, its best, and that at 64,000 steps."
    )
    if small:
        caption += (
            " One PPO run of 614,400 steps on Ant-v5, a model of 0.6 million parameters, an "
            "eighth of the paper's lifetime. The floor is the stored score of the best controller "
            "that never looks."
        )
    return Figure(
        "gla-fig5", size, "Meta-trained on projected ants, tested on other bodies (GLA, Fig. 5)",
        caption, (store, train, test), tuple(panels),
    )  # fmt: skip


FIGURES: dict[str, Callable[[Size], Figure]] = {
    "gla-fig3": fig3,
    "gla-fig4": fig4,
    "gla-fig5": fig5,
}
