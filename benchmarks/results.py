"""Results files: what every agent earned in every episode of every lifetime on one environment.

A *lifetime* is one run of an agent on one task: several episodes with frozen weights. A file holds
one environment and everything needed to judge an agent on it: the agent, its reward-masked twin,
the null controllers, the reference scores, the configuration and the package versions. Its last
line is a digest of all the rest, so that a file that was changed by hand or by accident is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from gla.errors import GlaError
from gla.files import write_text
from gla.packages import package_versions

__all__ = [
    "AgentResult",
    "Kind",
    "Lifetime",
    "Results",
    "check",
    "digest",
    "package_versions",
    "read",
    "write",
]

SCHEMA = "gla-results"
VERSION = 2

Kind = Literal["agent", "masked", "null", "expert"]

_RERUN = "run the meta-test again"


@dataclass(frozen=True)
class Lifetime:
    """The episodes of one lifetime, in order.

    Only whole episodes count, because the return of a part says little. A lifetime too short for
    one whole episode keeps its unfinished one and says so.

    Attributes:
        episode_returns: sum of rewards of every episode, in the environment's own units.
        episode_lengths: steps of every episode, each at least 1; as long as `episode_returns`.
        unfinished: whether the one episode held is unfinished.
    """

    episode_returns: tuple[float, ...]
    episode_lengths: tuple[int, ...]
    unfinished: bool = False

    def __post_init__(self) -> None:
        # Arrays and lists are what a runner has in hand; equality and JSON want plain numbers.
        object.__setattr__(self, "episode_returns", tuple(map(float, self.episode_returns)))
        object.__setattr__(self, "episode_lengths", tuple(map(int, self.episode_lengths)))
        object.__setattr__(self, "unfinished", bool(self.unfinished))


@dataclass(frozen=True)
class AgentResult:
    """What one agent did.

    Attributes:
        name: what people call it, unique within a file.
        kind: `agent` (under test), `masked` (the same with rewards hidden), `null` (a controller
            that learns nothing) or `expert`.
        lifetimes: at least one; they need not be as many as those of the agent under test.
        seconds: wall-clock time that the run took.
        step_seconds: median seconds from one step to the next of all lifetimes that ran at once,
            environment included and compilation left out; 0 where it was not measured.
    """

    name: str
    kind: Kind
    lifetimes: tuple[Lifetime, ...]
    seconds: float
    step_seconds: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lifetimes", tuple(self.lifetimes))


@dataclass(frozen=True)
class Results:
    """Everything that one meta-test measured on one environment.

    Attributes:
        environment: the environment's id, with its options.
        split: `train`, `validation` or `test`, from which the tasks were drawn.
        seed: seed of the tasks and of the run.
        steps: environment steps of one lifetime.
        lifetimes: number of lifetimes of the agent under test.
        agents: every agent run, each name once.
        references: stored scores, the optional entries `null` ({"controller": str, "return":
            float}), `expert` ({"return": float, "provenance": str}) and `expert_beats_null`
            (false if it does not).
        config: what the run was asked to do, as JSON values.
        packages: versions, from `gla.packages.package_versions`.
        training_sources: ids that the agent under test was meta-trained on.
        suite: name of the suite that the test belongs to, or empty.
        created: ISO 8601 time in UTC.
    """

    environment: str
    split: str
    seed: int
    steps: int
    lifetimes: int
    agents: tuple[AgentResult, ...]
    references: dict[str, Any]
    config: dict[str, Any]
    packages: dict[str, str]
    training_sources: tuple[str, ...]
    suite: str = ""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        object.__setattr__(self, "agents", tuple(self.agents))
        object.__setattr__(self, "training_sources", tuple(self.training_sources))

    def of_kind(self, kind: Kind) -> tuple[AgentResult, ...]:
        """Return the agents of one kind, in the order of the file."""
        return tuple(agent for agent in self.agents if agent.kind == kind)


def write(path: str | os.PathLike[str], results: Results) -> None:
    """Write a results file; a reader sees the whole new file or what was there before.

    Args:
        path: the file to write; missing folders are made.
        results: what to write.

    Raises:
        GlaError: if the results are not sound (`check`), hold something that JSON does not know,
            or the file cannot be written.
    """
    check(results)
    document: dict[str, Any] = {"schema": SCHEMA, "version": VERSION} | asdict(results)
    agents = document.pop("agents")
    try:
        # One agent a line: small enough to keep, and still readable with plain tools.
        lines = [f"{_json(key)}: {_json(value)}" for key, value in document.items()]
        lines.append('"agents": [\n' + ",\n".join(map(_json, agents)) + "\n]")
        lines.append(f'"digest": {_json(digest(results))}')
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        text.encode()  # refuses half a surrogate pair, which no page or terminal could show
    except (TypeError, ValueError, RecursionError) as error:
        raise GlaError(
            f"the results for {results.environment} cannot be written as JSON ({error})",
            "configuration and references of plain JSON values, without NaN or infinity",
        ) from error
    write_text(Path(path), text)


def digest(results: Results) -> str:
    """Return the SHA-256 of everything that a results file says, in hexadecimal.

    It tells whether a file is as it was written. It does not tell who wrote it: whoever changes a
    file can also write its new digest.
    """
    text = json.dumps(asdict(results), sort_keys=True, allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read(path: str | os.PathLike[str]) -> Results:
    """Read a results file.

    Raises:
        GlaError: naming the file, if it is missing, is not JSON or is cut off, has another schema
            or version, lacks a key, holds a value that cannot be (`check`), or is not as it was
            written (`digest`).
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        json.dumps(document, ensure_ascii=False).encode()  # as `write` does
    except FileNotFoundError as error:
        raise GlaError(
            f"there is no results file {path}", "a file that the meta-test wrote", _RERUN
        ) from error
    except OSError as error:
        raise GlaError(f"{path} cannot be read ({error.strerror})", "a results file") from error
    except (ValueError, RecursionError) as error:
        raise GlaError(
            f"{path} is not whole JSON ({error})", "a results file, not cut off", _RERUN
        ) from error
    try:
        results = _from_document(document)
        check(results)
        if document.get("digest") != digest(results):
            raise GlaError(
                "its contents do not match its digest, so it was changed after it was written",
                "the file as the meta-test wrote it",
                _RERUN,
            )
    except GlaError as error:
        raise GlaError(f"{path}: {error.what}", error.expected, error.mend) from error
    return results


def check(results: Results) -> None:
    """Refuse results that cannot be.

    Raises:
        GlaError: naming the agent, lifetime and episode (counted from 1) of a return that is not
            finite, a lifetime without whole numbers of episodes, or the key that is wrong.
    """
    for name in ("steps", "lifetimes"):
        if getattr(results, name) < 1:
            raise GlaError(f"{name} is {getattr(results, name)}", "1 or more")
    if not results.agents:
        raise GlaError("the results hold no agent", "at least one")
    names = [agent.name for agent in results.agents]
    for name in names:
        if names.count(name) > 1:
            raise GlaError(f"{names.count(name)} agents are called {name!r}", "each name once")
    for agent in results.agents:
        _check_agent(agent)
    for name, reference in results.references.items():
        if name not in ("null", "expert"):
            continue
        value = reference.get("return") if isinstance(reference, dict) else None
        if value is None or not _is(value, (int, float)) or not _is_finite(value):
            raise GlaError(f"the {name} reference is {reference!r}", "a finite number at 'return'")


def _check_agent(agent: AgentResult) -> None:
    if agent.kind not in get_args(Kind):
        raise GlaError(f"agent {agent.name!r} is of kind {agent.kind!r}", _one_of(get_args(Kind)))
    for seconds in (agent.seconds, agent.step_seconds):
        if not _is_finite(seconds) or seconds < 0:
            raise GlaError(f"agent {agent.name!r} took {seconds} seconds", "0 or more")
    if not agent.lifetimes:
        raise GlaError(f"agent {agent.name!r} has no lifetimes", "at least one")
    for number, lifetime in enumerate(agent.lifetimes, start=1):
        where = f"agent {agent.name!r}, lifetime {number}"
        episodes, lengths = len(lifetime.episode_returns), len(lifetime.episode_lengths)
        if not episodes or episodes != lengths:
            raise GlaError(
                f"{where} has {episodes} returns and {lengths} lengths",
                "one of each for every episode, and at least one episode",
            )
        if lifetime.unfinished and episodes > 1:
            raise GlaError(
                f"{where} is unfinished with {episodes} episodes", "whole episodes, or one part"
            )
        for episode, value in enumerate(lifetime.episode_returns, start=1):
            if not math.isfinite(value):
                raise GlaError(
                    f"{where}, episode {episode}: the return is {value}",
                    "a finite number",
                    "look for the reward that the environment gave there",
                )
        for episode, length in enumerate(lifetime.episode_lengths, start=1):
            if length < 1:
                raise GlaError(f"{where}, episode {episode}: the length is {length}", "1 or more")


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _one_of(words: tuple[str, ...]) -> str:
    return "one of " + ", ".join(words)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


# What a JSON value must be, by the annotation of the field that takes it.
_SHAPES: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "str": ("a string", str),
    "Kind": ("a string", str),
    "int": ("a whole number", int),
    "float": ("a number", (int, float)),
    "bool": ("true or false", bool),
    "dict[str, Any]": ("an object", dict),
    "dict[str, str]": ("an object of strings", dict),
    "tuple[str, ...]": ("a list of strings", list),
    "tuple[int, ...]": ("a list of whole numbers", list),
    "tuple[float, ...]": ("a list of numbers", list),
    "tuple[Lifetime, ...]": ("a list of lifetimes", list),
    "tuple[AgentResult, ...]": ("a list of agents", list),
}
_ITEMS: dict[str, type | tuple[type, ...]] = {
    "dict[str, str]": str,
    "tuple[str, ...]": str,
    "tuple[int, ...]": int,
    "tuple[float, ...]": (int, float),
}


def _is(value: Any, kinds: type | tuple[type, ...]) -> bool:
    # JSON's true is Python's 1, which would pass for a return of 1.0.
    if isinstance(value, bool):
        return kinds is bool
    return isinstance(value, kinds)


def _take(document: Any, cls: type, where: str) -> dict[str, Any]:
    """Return the arguments of dataclass `cls` from a JSON object, or name what is wrong."""
    if not isinstance(document, dict):
        raise GlaError(f"{where} is a {type(document).__name__}", "an object")
    missing = [item.name for item in fields(cls) if item.name not in document]
    if missing:
        raise GlaError(f"{where} lacks {', '.join(missing)}", mend=_RERUN)
    arguments = {}
    for item in fields(cls):
        value, annotation = document[item.name], str(item.type)
        wanted, kinds = _SHAPES[annotation]
        good = _is(value, kinds)
        if good and annotation in _ITEMS:
            items = value.values() if isinstance(value, dict) else value
            good = all(_is(one, _ITEMS[annotation]) for one in items)
        if not good:
            raise GlaError(f"{where}: {item.name} is {_short(value)}", wanted)
        arguments[item.name] = value
    return arguments


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _from_document(document: Any) -> Results:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise GlaError("this is not a results file", f'the schema "{SCHEMA}"')
    if document.get("version") != VERSION:
        raise GlaError(
            f"this results file has version {_short(document.get('version'))}",
            f"version {VERSION}",
            "read it with the release that wrote it, or " + _RERUN,
        )
    arguments = _take(document, Results, "the file")
    agents = []
    for number, entry in enumerate(arguments["agents"], start=1):
        agent = _take(entry, AgentResult, f"agent {number}")
        where = f"agent {agent['name']!r}"
        lives = [
            _lifetime(_take(life, Lifetime, f"{where}, lifetime {index}"), f"{where}, {index}")
            for index, life in enumerate(agent["lifetimes"], start=1)
        ]
        agents.append(AgentResult(**agent | {"lifetimes": tuple(lives)}))
    return Results(**arguments | {"agents": tuple(agents)})


def _lifetime(arguments: dict[str, Any], where: str) -> Lifetime:
    try:
        return Lifetime(**arguments)
    except OverflowError as error:  # an integer too large for a float
        raise GlaError(f"{where}: a return is too large", "a finite number") from error
