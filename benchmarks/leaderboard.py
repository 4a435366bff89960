"""A static leaderboard of results files: one page that needs no server and no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gla.benchmarks.report import bounds, episode_count, render, slug, typeset
from gla.benchmarks.results import AgentResult, Kind, Results, read
from gla.benchmarks.statistics import (
    Interval,
    Scale,
    beats,
    best_null,
    bootstrap_interval,
    digits_of,
    improvement,
    last_episode,
    number,
    scale,
)
from gla.errors import GlaError
from gla.files import write_text


class _Column(NamedTuple):
    title: str
    sortable: bool = True
    wide: bool = False  # left out on a narrow screen


_COLUMNS = (
    _Column("Rank"),
    _Column("Agent"),
    _Column("Lifetimes", wide=True),
    _Column("Episodes", wide=True),
    _Column("Last episode"),
    _Column("Interval", sortable=False, wide=True),
    _Column("Score"),
    _Column("Improvement"),
)
_KINDS: dict[Kind, str] = {
    "agent": "agent",
    "masked": "rewards masked",
    "null": "null controller",
    "expert": "expert, measured",
}


@dataclass(frozen=True)
class _File:
    path: Path
    results: Results


def build(
    results_paths: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    title: str = "Leaderboard",
) -> list[str]:
    """Write `index.html` with a sortable table per environment.

    Files of the same environment, split and steps share a table. An agent that is in several files
    with the very same returns is listed once; agents of one name with different returns are told
    apart by their files.

    Args:
        results_paths: results files.
        folder: where to write; made if missing.
        title: heading of the page.

    Returns:
        One plain line for every file that was left out, also shown on the page; empty if all
        went well.

    Raises:
        GlaError: if no results files are given, or the folder cannot be written to.
    """
    if not results_paths:
        raise GlaError("there are no results for a leaderboard", "at least one results file")
    problems: list[str] = []
    environments: dict[str, dict[tuple[str, int], list[_File]]] = {}
    for path in map(Path, results_paths):
        try:
            results = read(path)
        except GlaError as error:
            problems.append(str(error))
            continue
        tables = environments.setdefault(results.environment, {})
        tables.setdefault((results.split, results.steps), []).append(_File(path, results))
    taken = {"left-out", "how-to-read"}
    sections = [
        {
            "environment": environment,
            "slug": slug(environment, taken),
            "tables": [_table(files) for files in tables.values()],
        }
        for environment, tables in sorted(environments.items())
    ]
    page = render(
        "leaderboard.html", title=title, problems=problems, columns=_COLUMNS, sections=sections
    )
    write_text(Path(folder) / "index.html", page)
    return problems


def ranks(intervals: Sequence[Interval]) -> list[tuple[int, int] | None]:
    """Return the best and the worst rank of each that its interval allows.

    The best is 1 plus the number that beat it, the worst leaves below it only those that it beats.
    Whatever overlaps has overlapping ranks, so nothing is ordered that the intervals leave open,
    and nothing that overlaps with the highest lower bound has a best rank other than 1. Without
    bounds there is no rank, nor an influence on others' ranks.

    Source: the rank bounds that Chatbot Arena shows (Chiang et al. 2024, arXiv 2403.04132).
    """
    known = [one for one in intervals if one.known]
    return [
        (
            1 + sum(beats(other, one) for other in known),
            len(known) - sum(beats(one, other) for other in known),
        )
        if one.known
        else None
        for one in intervals
    ]


def merge(files: Sequence[tuple[Path, Results]]) -> Results:
    """Return the agents of several files of one environment as one.

    Args:
        files: paths, which tell agents apart that share a name, and what they hold.

    Returns:
        The newest of the results, with everyone's agents and the newest stored expert.
    """
    named: dict[str, list[tuple[Path, AgentResult]]] = {}
    for path, results in files:
        for agent in results.agents:
            group = named.setdefault(agent.name, [])
            # How long a run took is no part of what it found.
            if not any(_same(agent, other) for _, other in group):
                group.append((path, agent))
    agents: list[AgentResult] = []
    taken = {name for name, group in named.items() if len(group) == 1}
    for name, group in named.items():
        for path, agent in group:
            label = name
            if len(group) > 1:
                options = (f"{name} ({path.stem})", f"{name} ({path})")
                numbered = (f"{name} ({path}, {i})" for i in range(2, len(group) + 3))
                label = next(one for one in (*options, *numbered) if one not in taken)
                taken.add(label)
            agents.append(replace(agent, name=label))
    ordered = sorted((results for _, results in files), key=lambda one: one.created, reverse=True)
    references = next(
        (one.references for one in ordered if "expert" in one.references), ordered[0].references
    )
    return replace(ordered[0], agents=tuple(agents), references=references)


def _same(a: AgentResult, b: AgentResult) -> bool:
    return a.kind == b.kind and a.lifetimes == b.lifetimes


def _table(files: list[_File]) -> dict[str, Any]:
    merged = merge([(file.path, file.results) for file in files])
    ends = scale(merged)
    floor = best_null(merged).name if merged.of_kind("null") else None
    lasts = [bootstrap_interval(last_episode(agent)) for agent in merged.agents]
    # Null controllers far below the floor would squeeze everything else into a corner.
    shown = [
        one
        for one, agent in zip(lasts, merged.agents, strict=True)
        if agent.kind != "null" or agent.name == floor
    ]
    expert = None if ends.expert is None else Interval(*(3 * (ends.expert,)))
    digits = digits_of(*shown, expert)
    reach = [
        x for one in [*shown, expert] if one for x in (one.low, one.estimate, one.high)
        if abs(x) != float("inf")
    ]  # fmt: skip
    span = (min(reach, default=0.0), max(reach, default=0.0))
    rows = [
        _row(agent, last, place, ends, digits, span, floor)
        for agent, last, place in zip(merged.agents, lasts, ranks(lasts), strict=True)
    ]
    if expert is not None and merged.references.get("expert"):
        rows.append(_reference(expert, ends, digits, span))
    rows.sort(key=lambda row: (row["rank"] is None, row["rank"] or 0, -row["last"]["value"]))
    return {
        "split": merged.split,
        "steps": merged.steps,
        "rows": rows,
        "notes": _notes(files, ends),
    }


def _row(
    agent: AgentResult,
    last: Interval,
    place: tuple[int, int] | None,
    ends: Scale,
    digits: int,
    span: tuple[float, float],
    floor: str | None,
) -> dict[str, Any]:
    counts = [len(life.episode_returns) for life in agent.lifetimes]
    kind = _KINDS[agent.kind]
    style: str = agent.kind
    if agent.kind == "null":
        kind = "best null controller" if agent.name == floor else kind
        style = "null" if agent.name == floor else "null other-null"
    return {
        "name": agent.name,
        "kind": kind,
        "style": style,
        "rank": place[0] if place else None,
        "spread": f"{place[0]} to {place[1]}" if place and place[0] < place[1] else "",
        "lifetimes": len(agent.lifetimes),
        "episodes": episode_count(counts),
        "most_episodes": max(counts),
        "last": _cell(last, digits),
        "range": _range(last, span),
        "score": _cell(ends.score(last), 2),
        "improvement": _cell(improvement(agent), digits),
    }


def _reference(
    expert: Interval, ends: Scale, digits: int, span: tuple[float, float]
) -> dict[str, Any]:
    exact = {"interval": ""}  # a stored number comes without its spread
    return {
        "name": "Expert",
        "kind": "stored reference",
        "style": "reference",
        "rank": None,
        "spread": "",
        "lifetimes": None,
        "episodes": "",
        "most_episodes": None,
        "last": _cell(expert, digits) | exact,
        "range": _range(expert, span),
        "score": _cell(ends.score(expert), 2) | exact,
        "improvement": _cell(None, digits),
    }


def _cell(interval: Interval | None, digits: int) -> dict[str, Any]:
    if interval is None:
        return {"value": "", "text": "\N{EN DASH}", "interval": ""}
    return {
        "value": interval.estimate,
        "text": typeset(number(interval.estimate, digits)),
        "interval": bounds(interval, digits),
    }


def _range(interval: Interval, span: tuple[float, float]) -> dict[str, str] | None:
    """Return where an interval lies in `span`, in percent; None if it lies outside."""
    low, high = span
    if interval.high < low or high <= low:
        return None

    def at(value: float) -> float:
        return 100 * (min(max(value, low), high) - low) / (high - low)

    left, right, middle = at(interval.low), at(interval.high), at(interval.estimate)
    return {"low": f"{left:.1f}", "width": f"{right - left:.1f}", "at": f"{middle:.1f}"}


def _notes(files: list[_File], ends: Scale) -> list[str]:
    notes = []
    if ends.expert is not None:
        notes.append(f"Expert: {ends.expert_name}.")
        stored = {
            file.results.references["expert"]["return"]
            for file in files
            if file.results.references.get("expert")
        }
        if len(stored) > 1:
            notes.append("The files store different experts; the newest file's is used.")
    for file in files:
        trained = ", ".join(file.results.training_sources) or "not recorded"
        agents = ", ".join(agent.name for agent in file.results.of_kind("agent")) or "no agent"
        notes.append(
            f"{file.path.name}: {agents}; meta-trained on {trained}; seed {file.results.seed}; "
            f"{file.results.created}."
        )
    return notes
