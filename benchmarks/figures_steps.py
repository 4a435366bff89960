"""The steps of which the figures of papers are made: collect, meta-train, meta-test.

Every step is a command of its own too (`Step.command`), and leaves what it made in a folder.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gla.agents.collect import CollectConfig, collect
from gla.benchmarks import submissions, suites
from gla.benchmarks.jobs import WorkerConfig
from gla.benchmarks.metatest import meta_test_to_file
from gla.benchmarks.suite_run import SuiteRunConfig, run_suite
from gla.benchmarks.worlds import MetaTestConfig
from gla.errors import GlaError
from gla.files import write_json
from gla.histories import HistoryStore
from gla.training import meta_train
from gla.training_config import MetaTrainConfig


@dataclass(frozen=True)
class Step(abc.ABC):
    """One thing to do, whose result stays.

    Attributes:
        name: of what it makes.
        minutes: that it took one core of a two-core machine; None where nobody measured it.
    """

    name: str
    minutes: float | None

    kind: ClassVar[str] = ""
    folder: ClassVar[str] = ""

    @property
    @abc.abstractmethod
    def about(self) -> str:
        """What is done, in a few words."""

    @property
    def made(self) -> str:
        """What it leaves, as a path relative to the output folder."""
        return f"{self.folder}/{self.name}"

    @abc.abstractmethod
    def words(self) -> list[str]:
        """Return the words of its command, typed in the output folder."""

    @abc.abstractmethod
    def run(self, out: Path, progress: bool, workers: WorkerConfig) -> None:
        """Do it, or go on with it.

        Args:
            out: output folder.
            progress: show a progress bar.
            workers: over what a suite is spread.
        """

    @property
    def command(self) -> str:
        """The command that does it, typed in the output folder."""
        return shlex.join(self.words())

    def settings(self) -> dict[str, Any]:
        """Return all that its result depends on, JSON-like."""
        found = dataclasses.asdict(self)
        del found["minutes"]
        return json.loads(json.dumps(found))

    def outputs(self, out: Path) -> list[Path]:
        """Return the files and folders that it makes."""
        return [out / self.made]


@dataclass(frozen=True)
class Collect(Step):
    """PPO's learning histories.

    Attributes:
        config: what is collected; its environment may have options.
    """

    config: CollectConfig

    kind: ClassVar[str] = "collect"
    folder: ClassVar[str] = "histories"

    @property
    def about(self) -> str:
        """What is done, in a few words."""
        ppo = self.config.ppo
        steps = ppo.num_envs * ppo.num_steps * ppo.num_updates
        return f"{self.config.runs} x {steps:,} steps of PPO on {self.config.environment}"

    def words(self) -> list[str]:
        """Return the words of its command, typed in the output folder."""
        return ["gla", "collect", self.made, *arguments(self.config, CollectConfig())]

    def run(self, out: Path, progress: bool, workers: WorkerConfig) -> None:
        """Collect, and keep PPO's returns beside the histories."""
        store = collect(self.config, out / self.made, progress=progress)
        write_json(out / "curves" / f"{self.name}.json", own_curve(store))

    def outputs(self, out: Path) -> list[Path]:
        """Return the files and folders that it makes."""
        return [out / self.made, out / "curves" / f"{self.name}.json"]


def own_curve(store: HistoryStore) -> dict[str, Any]:
    """Return PPO's own returns while it made a store.

    Returns:
        `environment`; `steps`: environment steps of one update, all parallel environments counted;
        `returns`: mean return per episode, a list over runs of lists over updates.
    """
    meta = store.meta
    returns = store.read("mean_return").astype(float)
    return {
        "environment": meta.environment,
        "steps": meta.parallel_envs * meta.steps,
        "returns": [[round(value, 5) for value in run] for run in returns.tolist()],
    }


@dataclass(frozen=True)
class Train(Step):
    """Meta-training on histories.

    Attributes:
        histories: names of `Collect` steps.
        config: of the training, its histories left empty.
    """

    histories: tuple[str, ...]
    config: MetaTrainConfig

    kind: ClassVar[str] = "meta-train"
    folder: ClassVar[str] = "agents"

    @property
    def about(self) -> str:
        """What is done, in a few words."""
        return f"{self.name}: {self.config.steps:,} steps on {', '.join(self.histories)}"

    def words(self) -> list[str]:
        """Return the words of its command, typed in the output folder."""
        paths = [f"{Collect.folder}/{name}" for name in self.histories]
        rest = arguments(self.config, MetaTrainConfig())
        return ["gla", "meta-train", self.made, "--histories", *paths, *rest]

    def run(self, out: Path, progress: bool, workers: WorkerConfig) -> None:
        """Train, or go on training."""
        paths = tuple(str(out / Collect.folder / name) for name in self.histories)
        meta_train(
            dataclasses.replace(self.config, histories=paths), out / self.made, progress=progress
        )


@dataclass(frozen=True)
class MetaTest(Step):
    """A meta-test on one environment.

    Attributes:
        agent: name of a `Train` step.
        config: of the test.
    """

    agent: str
    config: MetaTestConfig

    kind: ClassVar[str] = "meta-test"
    folder: ClassVar[str] = "results"

    @property
    def about(self) -> str:
        """What is done, in a few words."""
        config = self.config
        steps = f"{config.lifetimes} lifetimes of {config.steps:,} steps"
        return f"{self.agent}: {steps} on {config.environment}"

    @property
    def made(self) -> str:
        """What it leaves, as a path relative to the output folder."""
        return f"{self.folder}/{self.name}.json"

    def words(self) -> list[str]:
        """Return the words of its command, typed in the output folder."""
        agent = f"{Train.folder}/{self.agent}"
        rest = arguments(self.config, MetaTestConfig())
        return ["gla", "meta-test", self.made, "--agent", agent, *rest]

    def run(self, out: Path, progress: bool, workers: WorkerConfig) -> None:
        """Test."""
        agent = str(out / Train.folder / self.agent)
        meta_test_to_file(agent, self.config, out / self.made, progress=progress)


@dataclass(frozen=True)
class SuiteTest(Step):
    """A meta-test on all environments of a suite.

    Attributes:
        agent: name of a `Train` step.
        suite: name of the suite.
        nulls: whether the null controllers run too; else the stored reference is the floor.
    """

    agent: str
    suite: str
    nulls: bool

    kind: ClassVar[str] = "suite"
    folder: ClassVar[str] = "suites"

    @property
    def about(self) -> str:
        """What is done, in a few words."""
        return f"{self.agent} on {self.suite}"

    def file(self, environment: str) -> str:
        """Return the results file of an environment, as a path relative to the output folder."""
        return f"{self.made}/{submissions.file_name(environment)}"

    def words(self) -> list[str]:
        """Return the words of its command, typed in the output folder."""
        agent = f"{Train.folder}/{self.agent}"
        nulls = ["--nulls"] if self.nulls else []
        return ["gla", "meta-test", self.made, "--agent", agent, "--suite", self.suite, *nulls]

    def run(self, out: Path, progress: bool, workers: WorkerConfig) -> None:
        """Test on what is not tested yet."""
        agent = str(out / Train.folder / self.agent)
        config = SuiteRunConfig(workers=workers, nulls=self.nulls)
        done = run_suite(
            agent, suites.find(self.suite), out / self.made, config, progress=progress
        )  # fmt: skip
        if not done.complete:
            failed = [f"{name}: {why}" for name, why in done.submission.failures.items()]
            raise GlaError(
                f"{self.about} is not complete ({'; '.join([*failed, *done.problems])})",
                mend="mend that and run the same again; the other environments are kept",
            )


def arguments(config: Any, default: Any, prefix: str = "") -> list[str]:
    """Return the words that turn one configuration into another on the command line.

    Args:
        config: a dataclass whose fields are such dataclasses, numbers, strings or tuples of them.
        default: what stands without any words.
        prefix: of the names, with its dot.
    """
    words: list[str] = []
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        name = prefix + field.name.replace("_", "-")
        if value == usual:
            continue
        if dataclasses.is_dataclass(value):
            words += arguments(value, usual, f"{name}.")
        elif isinstance(value, bool):
            words.append(f"--{name}" if value else f"--{prefix}no-{field.name.replace('_', '-')}")
        elif isinstance(value, tuple):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", str(value)]
    return words
