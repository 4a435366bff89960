"""The four verbs in a row, at a size that two CPU cores finish in minutes.

Meta-trains on the random families, then meta-tests on never-seen random systems through unseen
projections and on domains that were never trained on, and reports where the agent learned and
where it did not.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from gla.agents.collect import CollectConfig, collect
from gla.benchmarks.leaderboard import build
from gla.benchmarks.metatest import meta_test_to_file
from gla.benchmarks.report import write_report
from gla.benchmarks.results import read
from gla.benchmarks.runner import MetaTestConfig
from gla.benchmarks.statistics import judge, summarise
from gla.checkpoints import ending
from gla.envs import registry
from gla.files import os_errors
from gla.histories import HistoryStore
from gla.models import ModelConfig
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.training import MetaTrainConfig, meta_train

MAX_TRAINING_MINUTES = 7.0


@dataclass(frozen=True)
class Plan:
    """What the quickstart does.

    Attributes:
        collections: what is collected, in order.
        weights: share of each collection in a batch.
        training: meta-training, its histories left empty.
        tests: meta-tests, in order.
    """

    collections: tuple[CollectConfig, ...]
    weights: tuple[float, ...]
    training: MetaTrainConfig
    tests: tuple[MetaTestConfig, ...]


def default_plan(seed: int = 0) -> Plan:
    """Return the plan at the size of two CPU cores and a quarter of an hour."""
    families = ("gla/RandomLinear-v0", "gla/RandomMechanics-v0", "gla/RandomNeural-v0")
    sampling = SamplingConfig(
        segments=8, segment_length=50, first_update=(0, 3), gap=(3, 7), lead=(8, 8)
    )

    def test(name: str, lifetimes: int, steps: int, null_steps: int) -> MetaTestConfig:
        return MetaTestConfig(f"gla/{name}-v0", lifetimes, steps, seed=seed, null_steps=null_steps)

    return Plan(
        collections=tuple(CollectConfig(family, runs=192, seed=seed) for family in families),
        weights=(2.0, 1.0, 1.0),
        training=MetaTrainConfig(
            projection=ProjectionConfig(observation_dim=24, action_dim=6),
            sampling=sampling,
            # Attention spans exactly what was trained on: 8 episodes of 50 steps.
            model=ModelConfig(width=128, layers=3, heads=4, window=sampling.length),
            batch_size=16,
            steps=1300,
            seed=seed,
        ),
        tests=(
            test("RandomLinear", 64, 400, 200),
            test("RandomMechanics", 64, 400, 200),
            test("RandomNeural", 64, 400, 200),
            test("Pendulum", 32, 2000, 1000),
            test("ReacherMisc", 32, 1000, 500),
            test("Reacher", 32, 1000, 250),
            test("HalfCheetah", 16, 2000, 1000),
            test("CartpoleSwingup", 16, 2000, 1000),
        ),
    )


# The agent that comes with gla and lives in the plan's tests in place of one's own.
PRETRAINED = "systems"


def quickstart(
    out: str | None = None, fresh: bool = False, seed: int = 0, pretrained: bool = False
) -> None:
    """Collect, meta-train, meta-test and report, small: nine to fifteen minutes on two CPU cores.

    Run it again to reuse what is finished and go on with what is not.

    Args:
        out: folder for everything that is made; None: runs/quickstart, and for a pretrained agent
            runs/quickstart-pretrained.
        fresh: delete what is there and start again.
        seed: of tasks, weights, projections and tests.
        pretrained: collect and train nothing; test the agent `systems`, which comes with gla.
    """
    folder = out or ("runs/quickstart-pretrained" if pretrained else "runs/quickstart")
    run(default_plan(seed), Path(folder), fresh, PRETRAINED if pretrained else None)


def run(plan: Plan, out: Path, fresh: bool = False, agent: str | None = None) -> None:
    """Carry a plan out in `out`, reusing finished stages, and print the verdicts.

    Args:
        plan: what to do.
        out: folder.
        fresh: delete what is there and start again.
        agent: test this one instead of collecting and training.
    """
    out = out.absolute()
    with os_errors(out, "write to"):
        out.mkdir(parents=True, exist_ok=True)
    if agent is None:
        stores = collect_all(plan, out, fresh)
        _say(2, "meta-train: a Transformer learns to continue those histories, only faster")
        folder = train(plan, stores, out / "agent", fresh)
        notes = [HistoryStore.open(path).describe() for path in stores]
        notes += cut_short(folder, plan.training.steps)
        agent = str(folder)
    else:
        _say(2, f"collect and meta-train: left out, {agent} comes with gla (`gla models show`)")
        notes = []
    test(plan, agent, out, fresh, notes)


def collect_all(plan: Plan, out: Path, fresh: bool) -> list[Path]:
    """Collect as the plan says; return the stores."""
    stores = []
    _say(1, "collect: PPO learns many random tasks and every step of its learning is recorded")
    for collection in plan.collections:
        name = registry.find(collection.environment).id.split("/")[-1]
        path = out / "histories" / name
        store = collect(collection, path, fresh and path.exists())
        print(store.describe())
        stores.append(path)
    return stores


def test(plan: Plan, agent: str, out: Path, fresh: bool, notes: list[str]) -> None:
    """Meta-test an agent as the plan says, and report."""
    _say(3, "meta-test: frozen weights, tasks and bodies it has never seen, rewards alone")
    files = []
    for config in plan.tests:
        spec = registry.find(config.environment)
        if not available(spec.source):
            print(f"{spec.id}: left out, {spec.source} is not installed on this Python")
            continue
        file = out / "results" / f"{spec.id.split('/')[-1]}.json"
        print(judge(meta_test_to_file(agent, config, file, fresh)).sentence)
        files.append(file)
    _say(4, "leaderboard and report")
    for problem in build(files, out / "leaderboard"):
        print(f"left out of the leaderboard: {problem}", file=sys.stderr)
    report = write_report(files, out / "report", "gla quickstart", notes)
    print("\n" + summarise([judge(read(file)) for file in files]))
    print(f"\nreport:      {report}\nleaderboard: {out / 'leaderboard' / 'index.html'}")


def train(plan: Plan, stores: list[Path], folder: Path, fresh: bool) -> Path:
    """Meta-train on the collected stores as the plan says."""
    config = replace(
        plan.training, histories=tuple(str(path) for path in stores), weights=plan.weights
    )
    return meta_train(config, folder, fresh and folder.exists(), minutes=MAX_TRAINING_MINUTES)


def cut_short(folder: Path, steps: int) -> list[str]:
    """Return what a report has to say about a training that ended early, if it did."""
    end = ending(folder)
    if end is None or end.step >= steps:
        return []
    return [
        f"Meta-training ended at step {end.step:,} of {steps:,} ({end.reason}). A faster machine, "
        "or one with nothing else to do, gets further, and its agent learns more."
    ]


def available(source: str) -> bool:
    """Return whether the simulator behind a registry row can be imported here."""
    needs = "dm_control" if "dm_control" in source else ""
    return not needs or importlib.util.find_spec(needs) is not None


def _say(number: int, text: str) -> None:
    print(f"\n[{number}/4] {text}", flush=True)
