"""What a leaderboard is made from: submissions and results files, found, read and checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gla.benchmarks import results as files
from gla.benchmarks import submissions
from gla.benchmarks.metatest import identity
from gla.benchmarks.results import AgentResult, Results
from gla.benchmarks.statistics import in_words
from gla.benchmarks.submissions import MANIFEST, Read
from gla.errors import GlaError

# Submissions that come with the package, in a folder for every suite.
BASELINES = Path(__file__).parent / "baselines"
_LARGEST = 1e30  # sums and squares of what is larger would overflow


@dataclass(frozen=True)
class Inputs:
    """What a board is made from.

    Attributes:
        submissions: sound ones, each once, in an order that their contents decide.
        files: paths and contents of results files that stand alone, as they were given.
        problems: one plain line for everything that was left out.
        repeated: one plain line for every submission that was given more than once.
    """

    submissions: tuple[Read, ...]
    files: tuple[tuple[Path, Results], ...]
    problems: tuple[str, ...]
    repeated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What is to be said of one submission or results file.

    Attributes:
        path: where it lies.
        summary: what it is; empty if it cannot be read.
        problems: why a board leaves it out; empty if it does not.
        complete: whether it has results of every environment.
        remarks: what a board shows beside it, and what keeps it from being ranked.
    """

    path: Path
    summary: str
    problems: tuple[str, ...]
    complete: bool
    remarks: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether it is sound and complete."""
        return self.complete and not self.problems

    @property
    def text(self) -> str:
        """All of it: a line that says whether it is sound, and one for each point."""
        state = "sound and complete" if self.complete else "sound, not complete"
        count = len(self.problems)
        if count:
            state = "1 problem" if count == 1 else f"{count} problems"
        head = f"{self.path}: {state}" + (f": {self.summary}" if self.summary else "")
        notes = [f"remark: {one}" for one in self.remarks]
        return "\n  ".join([head, *self.problems, *notes])


def find(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[Path]]:
    """Return folders of submissions and results files, and folders that hold no submission.

    Args:
        paths: results files, submission folders (or the `submission.json` in one), or folders that
            hold submission folders at any depth.
    """
    found: list[Path] = []
    empty = []
    for path in map(Path, paths):
        if path.name == MANIFEST:
            found.append(path.parent)
        elif not path.is_dir():
            found.append(path)
        else:
            inside = _submission_folders(path)
            found += inside
            if not inside:
                empty.append(path)
    return found, empty


def _says_empty(path: Path) -> str:
    error = GlaError(
        f"{path} holds no submission", f"a folder with {MANIFEST}", "name results files one by one"
    )
    return str(error)


def _submission_folders(folder: Path) -> list[Path]:
    found = []
    for where, folders, names in os.walk(folder):
        if MANIFEST in names:
            found.append(Path(where))
            folders.clear()  # what lies within is part of it
        folders[:] = sorted(one for one in folders if not one.startswith("."))
    return found


def gather(paths: Sequence[str | os.PathLike[str]], baselines: bool = True) -> Inputs:
    """Find, read and check everything that a board is to show.

    Args:
        paths: as `find` takes them.
        baselines: add the submissions of this package whose suites appear among the paths.
    """
    found, empty = find(paths)
    problems = [_says_empty(path) for path in empty]
    reads: list[Read] = []
    alone: list[tuple[Path, Results]] = []

    def take(path: Path) -> None:
        try:
            if path.is_dir():
                one = _read(path)
                wrong = [*one.problems, *disagreements(one)]
                problems.extend(_placed(path, line) for line in wrong)
                if not wrong:
                    reads.append(one)
            else:
                alone.append((path, files.read(path)))
        except GlaError as error:
            problems.append(_placed(path, str(error)))

    for path in found:
        take(path)
    if baselines:
        for suite in sorted({one.submission.suite for one in reads}):
            for path in _submission_folders(BASELINES / suite):
                take(path)
    kept, repeated = _once(sorted(reads, key=_order))
    return Inputs(kept, tuple(alone), tuple(problems), repeated)


def _read(path: Path) -> Read:
    """Read a submission; whatever is in it, one bad folder must not cost the whole board."""
    try:
        return submissions.read(path)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GlaError(
            f"{path} holds values that no meta-test writes ({error})", "a submission as it was made"
        ) from error


def _placed(path: Path, line: str) -> str:
    return line if str(path) in line else f"{path}: {line}"


def _order(read: Read) -> tuple[str, ...]:
    """Sort by what submissions say, so that a board does not depend on where they lie."""
    one = read.submission
    return (one.suite, one.agent, one.created, *sorted(one.digests.values()), read.folder.name)


def _once(reads: Sequence[Read]) -> tuple[tuple[Read, ...], tuple[str, ...]]:
    seen: dict[object, Read] = {}
    repeated = []
    for read in reads:
        one = read.submission
        digests = frozenset(one.digests.items())
        # Without results, what is left to tell two apart is what they say of themselves.
        own = () if digests else (one.agent, one.spec, frozenset(one.failures.items()))
        first = seen.setdefault((one.suite, digests, own), read)
        if first is not read:
            repeated.append(
                f"{one.agent} on {one.suite} was given more than once and is listed once: "
                f"{read.folder} has the results of {first.folder}."
            )
    return tuple(seen.values()), tuple(repeated)


def own_agent(read: Read, results: Results) -> AgentResult | None:
    """Return the agent that a submission is about; None where null controllers ran alone.

    Raises:
        GlaError: if the results hold several agents and none is the submission's.
    """
    agents = results.of_kind("agent")
    named = [one for one in agents if one.name == read.submission.agent]
    if not agents or len(agents) == 1 or named:
        return (*named, *agents, None)[0]
    raise GlaError(
        f"its results of {results.environment} hold {len(agents)} agents",
        f"one, or one called {read.submission.agent!r}",
    )


def disagreements(read: Read) -> list[str]:
    """Return one plain line for everything in a submission that cannot be as it says.

    The digests of results files do not cover the manifest, so what it says of the agent is held
    against what the files say.
    """
    one, lines = read.submission, []
    own = _identity(one.details)
    if own is None:
        lines.append(f"{MANIFEST} describes its training in a way that no meta-training does")
    for environment, results in read.results.items():
        where = f"its results of {environment}"
        try:
            agent = own_agent(read, results)
        except GlaError as error:
            lines.append(str(error))
            continue
        if agent is not None and agent.name != one.agent:
            lines.append(f"{where} are of {agent.name!r} instead of {one.agent!r}")
        if any(abs(value) > _LARGEST for acted in results.agents for value in _returns(acted)):
            lines.append(f"{where} hold returns beyond {_LARGEST:g}, which no environment gives")
        if set(results.training_sources) != set(one.training_sources):
            lines.append(f"{where} name other training sources than its {MANIFEST}")
        if _identity(results.config) != own:
            lines.append(f"{where} are of another agent or configuration than its {MANIFEST} says")
    return lines


def _returns(agent: AgentResult) -> Iterator[float]:
    return (value for life in agent.lifetimes for value in life.episode_returns)


def _identity(details: Mapping[str, Any]) -> dict[str, Any] | None:
    known = details.get("training") is None or isinstance(details["training"], dict)
    return identity(details) if known else None


def check(paths: Sequence[str | os.PathLike[str]]) -> list[Checked]:
    """Check submissions and results files as a board does, and say all that it would.

    Args:
        paths: as `find` takes them.

    Raises:
        GlaError: if there are none.
    """
    if not paths:
        raise GlaError("there is nothing to check", "submission folders or results files")
    found, empty = find(paths)
    checked = [_check_folder(path) if path.is_dir() else _check_file(path) for path in found]
    return checked + [Checked(path, "", (_says_empty(path),), False) for path in empty]


def _check_file(path: Path) -> Checked:
    try:
        results = files.read(path)
    except GlaError as error:
        return Checked(path, "", (str(error),), False)
    names = in_words([one.name for one in results.of_kind("agent")]) or "null controllers"
    remarks = ["it is a results file, and only whole submissions are ranked"]
    if results.of_kind("agent") and not results.of_kind("masked"):
        remarks.append("it lacks the reward-masked twin")
    return Checked(path, f"{names} on {results.environment}", (), True, tuple(remarks))


def _check_folder(path: Path) -> Checked:
    try:
        read = _read(path)
    except GlaError as error:
        return Checked(path, "", (str(error),), False)
    one, suite = read.submission, read.suite
    problems = (*read.problems, *disagreements(read))
    remarks = []
    for environment, failure in sorted(one.failures.items()):
        if environment not in read.results:
            remarks.append(f"it failed on {environment} and will not be ranked: {failure}")
    foreign = suite.foreign(one.training_sources)
    if foreign:
        remarks.append(
            f"it was meta-trained on {in_words(foreign)}, which {suite.name} does not allow, and "
            "will not be ranked"
        )
    count = f"{len(read.results)} of {len(suite.tasks)} environments"
    summary = f"{one.agent} on {suite.name}, {count}, {suite.lifetimes} lifetimes each"
    complete = set(read.results) == set(suite.environments)
    return Checked(path, summary, problems, complete, tuple(remarks))
