"""An agent on a whole suite: every environment in a process of its own, what fails is contained.

What is finished is never made again, so a run that was killed goes on with what is missing.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gla.agents.external import load_agent
from gla.benchmarks import results as files
from gla.benchmarks import submissions
from gla.benchmarks.jobs import WorkerConfig, sign_of_life, spread
from gla.benchmarks.metatest import NULLS, describe_agent, identity, meta_test_to_file, told
from gla.benchmarks.results import Results
from gla.benchmarks.runner import MetaTestConfig
from gla.benchmarks.submissions import Read, Submission, check_results, file_name
from gla.benchmarks.suites import Suite, Task
from gla.checkpoints import Which
from gla.cores import usable_cores
from gla.errors import GlaError
from gla.packages import package_versions
from gla.progress import Progress


@dataclass(frozen=True)
class SuiteRunConfig:
    """How an agent goes through a suite. None of it decides what an agent meets.

    Attributes:
        workers: over what environments are spread.
        batch: lifetimes that run at once; 0 is all of them. Fewer need less memory.
        patience: seconds without a step after which an environment is given up. The first step
            waits for compilation.
        nulls: run the null controllers as well; they are the same for all agents.
        name: what the agent is called in tables; empty for the name that it has.
    """

    workers: WorkerConfig = field(default_factory=WorkerConfig)
    batch: int = 0
    patience: float = 900.0
    nulls: bool = False
    name: str = ""

    def __post_init__(self):
        if self.batch < 0:
            raise GlaError(f"batch is {self.batch}", "a number >= 0")
        if not self.patience > 0:
            raise GlaError(f"patience is {self.patience}", "seconds, more than 0")


@dataclass(frozen=True)
class _Job:
    """One environment, as it travels to another process."""

    spec: str
    test: MetaTestConfig
    path: Path
    suite: str
    window: int
    batch: int
    which: Which
    ask: Mapping[str, float]
    name: str


def run_suite(
    spec: str,
    suite: Suite,
    folder: str | os.PathLike[str],
    config: SuiteRunConfig | None = None,
    which: Which = "latest",
    ask: Mapping[str, float] | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Read:
    """Test an agent on every environment of a suite.

    Args:
        spec: of the agent, as `gla.agents.external.load_agent` takes it; `nulls` runs the null
            controllers alone.
        suite: which.
        folder: of the submission; what is finished there stays.
        config: how.
        which: of a checkpoint folder, the `latest` weights or the `best`.
        ask: of a checkpoint folder, how much improvement is asked for.
        fresh: forget what is there.
        progress: show a progress bar.

    Returns:
        The submission, with a failure for every environment on which the agent failed; such ones
        are tried again by the next call.

    Raises:
        GlaError: if there is no such agent, or the folder holds another test.
    """
    config, folder = config or SuiteRunConfig(), Path(folder).absolute()
    details, sources = describe_agent(spec, which, ask)
    agent = None if spec == NULLS else load_agent(spec, which, ask)
    name = config.name or (agent.name if agent else "null controllers")
    sources = sources or tuple(getattr(agent, "training_sources", ()))
    if fresh and (folder / submissions.MANIFEST).exists():
        shutil.rmtree(folder)
    _check_folder(folder, suite, details)
    jobs: dict[str, _Job] = {}
    done: dict[str, str] = {}
    failures: dict[str, str] = {}
    for task in suite.tasks:
        path = folder / file_name(task.environment)
        results = _finished(path, suite, task, details)
        if results is not None:
            done[task.environment] = files.digest(results)
            continue
        test = MetaTestConfig(
            task.environment, suite.lifetimes, task.steps, suite.seed,
            nulls=config.nulls or spec == NULLS, null_steps=suite.null_steps,
        )  # fmt: skip
        jobs[task.environment] = _Job(
            spec, test, path, suite.name, suite.window, config.batch, which, dict(ask or {}),
            config.name,
        )  # fmt: skip

    def save() -> None:
        submissions.write(
            folder,
            Submission(
                suite.name, suite.digest, name, told(spec), details, sources, done, failures,
                _machine(), package_versions(),
            ),
        )  # fmt: skip

    # The agent and its twin; null controllers are counted as if they were as much work.
    sizes = {id: 2 * job.test.lifetimes * job.test.steps for id, job in jobs.items()}
    total = max(sum(sizes.values()), 1)
    with Progress(f"{name} on {suite.name}", total, "steps", enabled=progress) as bar:

        def finished(environment: str, error: GlaError | None) -> None:
            if error is None:
                done[environment] = files.digest(files.read(jobs[environment].path))
            else:
                failures[environment] = str(error)
            save()

        def alive(environment: str, share: float, note: str) -> None:
            bar.advance(round(share * sizes[environment]), f"{environment}, {note}")

        spread(_test, jobs, config.workers, finished, config.patience, alive)
    save()
    return submissions.read(folder)


def _test(job: _Job) -> None:
    """Test on one environment; called in a worker process."""
    meta_test_to_file(
        job.spec, job.test, job.path, progress=False, which=job.which, ask=job.ask,
        batch=job.batch or None, suite=job.suite, window=job.window, name=job.name,
        tick=sign_of_life,
    )  # fmt: skip


def _check_folder(folder: Path, suite: Suite, details: Mapping[str, object]) -> None:
    """Refuse a folder that holds another submission."""
    if not (folder / submissions.MANIFEST).exists():
        return
    old = submissions.read(folder).submission
    if old.suite != suite.name or identity(old.details) != identity(details):
        raise GlaError(
            f"{folder} holds {old.agent!r} on {old.suite}",
            "a new folder, or the same agent and suite",
            "choose another folder, or pass --fresh to replace it",
        )


def _finished(
    path: Path, suite: Suite, task: Task, details: Mapping[str, object]
) -> Results | None:
    """Return the results of an environment if they are there and sound."""
    if not path.exists():
        return None
    try:
        results = files.read(path)
    except GlaError:
        return None
    same = identity(results.config) == identity(details)
    return results if same and not check_results(results, suite, task) else None


def _machine() -> dict[str, str]:
    """Return what the run had, so that its seconds can be read."""
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": str(usable_cores()),
        "python": platform.python_version(),
    }
