"""Comparisons of whole PPO trainings: ours, which records everything, beside those of others.

Every program trains in a process of its own (`gla.benchmarks.workers`), under the same conditions.
Which peers there are depends on the interpreters that `ThroughputConfig` names; what was not given,
or lacks a package, is left out with a line that says so. Goals are judged by CPU time.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gla.benchmarks.timing import Bench, Comparison, Goal, Program, ThroughputConfig
from gla.benchmarks.workers import NotInstalled, Worker
from gla.errors import GlaError

OURS, REJAX, PUREJAXRL, SB3, PHYSICS = (
    "gla",
    "rejax",
    "purejaxrl",
    "stable-baselines3",
    "bare physics",
)

SETTINGS: dict[str, Any] = {
    "num_envs": 64,
    "num_steps": 64,
    "epochs": 4,
    "minibatches": 8,
    "hidden": 64,
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip": 0.2,
    "entropy_coefficient": 0.0,
    "value_coefficient": 0.5,
    "max_grad_norm": 0.5,
}
"""PPO's settings, for everyone."""

_NORMALISES = "observations and rewards are normalised"
_ABOUT = {
    REJAX: f"{_NORMALISES}; never evaluated",
    PUREJAXRL: f"{_NORMALISES}; its network is ours in size",
    SB3: f"{_NORMALISES} by VecNormalize",
    PHYSICS: "random actions, Brax's own autoreset, no learning",
    OURS: f"{_NORMALISES}; every step of every environment and every policy is written to disk",
}


@dataclass(frozen=True)
class Task:
    """What everyone trains on.

    Attributes:
        name: a key of `peer_worker.TASKS`.
        title: for people.
        updates: PPO updates of one training.
        peers: names of the programs that ours is compared with, in order.
    """

    name: str
    title: str
    updates: int
    peers: tuple[str, ...] = (REJAX, PUREJAXRL)


def left_out(program: str, config: ThroughputConfig) -> str:
    """Return what has to be given for a peer to take part, or an empty string if all is there."""
    if program == SB3:
        return "" if config.sb3 else "give --sb3 PYTHON, with stable-baselines3 in it"
    if program == PHYSICS:
        return ""
    if config.peers is None:
        return "give --peers PYTHON, with rejax and gymnax 0.0.9 in it"
    if program == PUREJAXRL and config.purejaxrl is None:
        return "give --purejaxrl FOLDER, a checkout of purejaxrl"
    return ""


def command(program: str, config: ThroughputConfig) -> list[str]:
    """Return the words that start a program's worker.

    Foreign interpreters are isolated (`-I`), so that a PYTHONPATH of ours does not reach them.
    """
    if program == OURS:
        return [sys.executable, "-P", "-m", "gla.benchmarks.own_worker"]
    python = {SB3: config.sb3, PHYSICS: Path(sys.executable)}.get(program, config.peers)
    return [str(python), "-I", str(Path(__file__).with_name("peer_worker.py"))]


def training_programs(task: Task, bench: Bench) -> Sequence[Program]:
    """Start a worker for every program that can take part, and wait until all are ready.

    Args:
        task: what to train on.
        bench: closes the workers; is told who takes part, and who does not and why.

    Raises:
        GlaError: if there is no other PPO to compare with, ours cannot run, or a worker dies.
    """
    config, updates = bench.config, bench.config.updates or task.updates
    folder = bench.stack.enter_context(tempfile.TemporaryDirectory(prefix="gla-throughput-"))
    settings = {**SETTINGS, "task": task.name, "updates": updates, "folder": folder}
    settings["checkout"] = str(config.purejaxrl.absolute()) if config.purejaxrl else ""
    missing = {name: reason for name in task.peers if (reason := left_out(name, config))}
    _refuse_alone(task, missing)
    workers: dict[str, Worker] = {}
    packages: dict[str, dict[str, str]] = {}
    for name in (*task.peers, OURS):
        if name not in missing:
            try:
                worker = Worker(name, command(name, config), {**settings, "program": name})
                workers[name] = bench.stack.enter_context(worker)
            except NotInstalled as error:
                missing[name] = str(error).rstrip(".")
    for name, worker in workers.items():
        try:
            packages[name] = worker.packages()
        except NotInstalled as error:
            missing[name] = str(error).rstrip(".")
    if OURS in missing:
        raise GlaError(missing[OURS])
    _refuse_alone(task, missing)
    bench.notes += [
        f"{updates} updates of {SETTINGS['num_envs']} environments x {SETTINGS['num_steps']} "
        f"steps, {SETTINGS['epochs']} epochs of {SETTINGS['minibatches']} minibatches; actor and "
        f"critic apart, two tanh layers of {SETTINGS['hidden']} each",
        *(
            f"{name} ({', '.join(f'{k} {v}' for k, v in found.items())}): {_about(name, task)}"
            for name, found in packages.items()
        ),
        *(f"{name} is left out: {reason}" for name, reason in missing.items()),
    ]
    steps = updates * SETTINGS["num_envs"] * SETTINGS["num_steps"]
    return [_program(name, workers[name], steps) for name in packages]


def _refuse_alone(task: Task, missing: dict[str, str]):
    """Raise `GlaError` if no other PPO takes part."""
    if all(name in missing or name == PHYSICS for name in task.peers):
        reasons = [f"{name}: {reason}" for name, reason in missing.items()]
        raise GlaError(
            f"there is no other PPO to compare with; {'; '.join(reasons)}",
            mend="docs/throughput.md says how to install them",
        )


def _about(name: str, task: Task) -> str:
    if name == PUREJAXRL and task.name == "cartpole":
        return "nothing is normalised, which its PPO for discrete actions does not offer"
    return _ABOUT[name]


def _program(name: str, worker: Worker, steps: int) -> Program:
    seeds = iter(range(2**31))
    return Program(name, lambda: worker.train(next(seeds), steps), steps)


def _comparison(task: Task) -> Comparison:
    bounds = {REJAX: 1.2, PUREJAXRL: 1.2, SB3: 10.0, PHYSICS: 0.8}
    return Comparison(
        f"ppo-{task.name}",
        f"How fast is a whole PPO training on {task.title}, when ours records everything?",
        lambda bench: training_programs(task, bench),
        goals=(
            *(Goal(OURS, "speed", bounds[name], name, "cpu") for name in task.peers),
            Goal(OURS, "first call", 1.0, REJAX),
        ),
    )


COMPARISONS: tuple[Comparison, ...] = tuple(
    _comparison(task)
    for task in (
        Task("cartpole", "CartPole", 50, (REJAX, PUREJAXRL, SB3)),
        Task("pendulum", "Pendulum", 50),
        Task("reacher", "Brax's reacher (spring)", 50),
        Task("ant", "Brax's ant (spring)", 20, (REJAX, PUREJAXRL, PHYSICS)),
    )
)
