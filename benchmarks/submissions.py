"""Submissions: everything that one agent did on one suite, in one folder.

The folder holds a results file for every environment and `submission.json`, which names the agent
and the suite, lists the files with their digests, and says of every environment that is missing
why. Whoever gets the folder can check it (`check`) without running anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gla.benchmarks import results as files
from gla.benchmarks import suites
from gla.benchmarks.results import Results
from gla.benchmarks.suites import Suite, Task
from gla.envs import registry
from gla.errors import GlaError
from gla.files import write_json

SCHEMA = "gla-submission"
VERSION = 1
MANIFEST = "submission.json"

_RERUN = "run the same `gla meta-test --suite` again"


@dataclass(frozen=True)
class Submission:
    """What `submission.json` says.

    Attributes:
        suite: name of the suite.
        suite_digest: of the suite as it was when the agent ran (`gla.benchmarks.suites`).
        agent: name, for tables.
        spec: what was typed for it: a checkpoint folder (of an absolute path the last part),
            `module:factory`, a name.
        details: more about it, such as the configuration of its training.
        training_sources: ids that it was meta-trained on.
        digests: of the results file of each environment (`gla.benchmarks.results.digest`).
        failures: what went wrong on each environment that has no results.
        machine: what it ran on.
        packages: versions.
        created: ISO 8601 time in UTC.
    """

    suite: str
    suite_digest: str
    agent: str
    spec: str
    details: dict[str, Any]
    training_sources: tuple[str, ...]
    digests: dict[str, str]
    failures: dict[str, str]
    machine: dict[str, str]
    packages: dict[str, str]
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Read:
    """A submission with its results.

    Attributes:
        folder: where it lies.
        submission: its manifest.
        results: by environment, those that could be read and are sound.
        problems: one plain line for everything that is wrong with it, if anything is.
    """

    folder: Path
    submission: Submission
    results: dict[str, Results]
    problems: tuple[str, ...]

    @property
    def suite(self) -> Suite:
        """The suite."""
        return suites.find(self.submission.suite)

    @property
    def complete(self) -> bool:
        """Whether there are results of every environment and nothing is wrong."""
        return not self.problems and set(self.results) == set(self.suite.environments)


def file_name(environment: str) -> str:
    """Return the name of an environment's results file within a submission."""
    kept = "".join(c if c.isalnum() or c in "-." else "-" for c in environment)
    return f"{kept.removeprefix('gla-')}.json"


def write(folder: Path, submission: Submission) -> None:
    """Write `submission.json`.

    Raises:
        GlaError: if it cannot be written.
    """
    write_json(folder / MANIFEST, {"schema": SCHEMA, "version": VERSION} | asdict(submission))


def read(folder: str | os.PathLike[str]) -> Read:
    """Read a submission and check all of it.

    Args:
        folder: with a `submission.json`.

    Raises:
        GlaError: naming the folder, if there is no sound manifest, or its suite is not known.
    """
    folder = Path(folder)
    submission = _manifest(folder / MANIFEST)
    try:
        suite = suites.SUITES[submission.suite]
    except KeyError:
        raise GlaError(
            f"{folder / MANIFEST} is of the suite {submission.suite!r}, which is not known here",
            "one of " + ", ".join(suites.SUITES),
            "use the release of gla that made it",
        ) from None
    problems = _manifest_problems(submission, suite)
    results: dict[str, Results] = {}
    for task in suite.tasks:
        if task.environment in submission.failures and task.environment not in submission.digests:
            continue
        path = folder / file_name(task.environment)
        try:
            found = files.read(path)
            if files.digest(found) != submission.digests.get(task.environment):
                raise GlaError(f"{path} is not the file that {MANIFEST} lists")
        except GlaError as error:
            problems.append(str(error))
            continue
        wrong = check_results(found, suite, task)
        problems += [f"{path}: {line}" for line in wrong]
        if not wrong:
            results[task.environment] = found
    return Read(folder, submission, results, tuple(problems))


def check_results(results: Results, suite: Suite, task: Task) -> list[str]:
    """Return one plain line for everything in which results are not those of a task of a suite."""
    said = results.config.get("meta_test")
    test: Mapping[str, Any] = said if isinstance(said, dict) else {}
    view = results.config.get("view")
    wanted: list[tuple[str, Any, Any]] = [
        ("environment", results.environment, task.environment),
        ("suite", results.suite, suite.name),
        ("split", results.split, "test"),
        ("seed", results.seed, suite.seed),
        ("steps", results.steps, task.steps),
        ("lifetimes", results.lifetimes, suite.lifetimes),
        ("number of the first lifetime", test.get("first", 0), 0),
    ]
    if isinstance(view, dict):
        wanted.append(("normalisation window", view.get("window"), suite.window))
    lines = [f"its {what} is {is_!r} instead of {be!r}" for what, is_, be in wanted if is_ != be]
    for agent in results.agents:
        if agent.kind in ("agent", "masked") and len(agent.lifetimes) != suite.lifetimes:
            lines.append(f"{agent.name!r} has {len(agent.lifetimes)} lifetimes")
        lines += _impossible(agent, task)
    if results.of_kind("agent") and not results.of_kind("masked"):
        lines.append("it lacks the reward-masked twin")
    if not results.of_kind("agent") and not results.of_kind("null"):
        lines.append("it holds no agent")
    return lines


def _impossible(agent: files.AgentResult, task: Task) -> list[str]:
    """Say which lifetimes cannot have been, given how long lifetimes and episodes are."""
    horizon = registry.find(registry.split_options(task.environment)[0]).horizon
    for number, life in enumerate(agent.lifetimes):
        total, longest = sum(life.episode_lengths), max(life.episode_lengths)
        # Null controllers may have had fewer steps, but nobody more.
        left = task.steps - total if agent.kind != "null" else 0
        if total > task.steps or longest > horizon or left >= max(horizon, 1):
            return [
                f"lifetime {number} of {agent.name!r} has {total:,} steps in episodes of up to "
                f"{longest:,}, which cannot be in {task.steps:,} steps with a limit of {horizon:,}"
            ]
    return []


def _manifest_problems(submission: Submission, suite: Suite) -> list[str]:
    problems = []
    if submission.suite_digest != suite.digest:
        problems.append(f"it was made with another {suite.name} than this release's ({_RERUN})")
    known = set(suite.environments)
    unknown = sorted({*submission.digests, *submission.failures} - known)
    if unknown:
        problems.append(f"it has {', '.join(unknown)}, which {suite.name} does not")
    lacking = known - {*submission.digests, *submission.failures}
    if lacking:
        problems.append(f"it has nothing of {', '.join(sorted(lacking))} ({_RERUN})")
    return problems


# What a JSON value of the manifest must be, and of what items.
_SHAPES: dict[str, tuple[str, type, type | None]] = {
    "str": ("a string", str, None),
    "dict[str, Any]": ("an object", dict, None),
    "dict[str, str]": ("an object of strings", dict, str),
    "tuple[str, ...]": ("a list of strings", list, str),
}


def _manifest(path: Path) -> Submission:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GlaError(
            f"{path} cannot be read ({error.strerror})", "the folder of a submission", _RERUN
        ) from None
    except (ValueError, RecursionError) as error:
        raise GlaError(f"{path} is not whole JSON ({error})", mend=_RERUN) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise GlaError(f"{path} is no submission", f'the schema "{SCHEMA}"')
    if document.get("version") != VERSION:
        raise GlaError(
            f"{path} has version {document.get('version')!r}",
            f"version {VERSION}",
            "read it with the release that wrote it",
        )
    arguments: dict[str, Any] = {}
    for item in fields(Submission):
        words, kind, items = _SHAPES[str(item.type)]
        value = document.get(item.name)
        within = value.values() if isinstance(value, dict) else value
        good = isinstance(value, kind)
        if not good or (items and not all(isinstance(one, items) for one in within or ())):
            raise GlaError(f"{path}: {item.name} is {str(value)[:60]!r}", words, _RERUN)
        arguments[item.name] = tuple(value or ()) if kind is list else value
    return Submission(**arguments)
