"""Tables of results files that stand alone: all agents of one environment side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gla.benchmarks.board_data import ranks
from gla.benchmarks.board_tables import (
    Cell,
    Column,
    Line,
    Table,
    bar,
    count,
    exact,
    head,
    measured,
    place,
    reach_of,
)
from gla.benchmarks.report import episode_count, slug
from gla.benchmarks.results import AgentResult, Kind, Results
from gla.benchmarks.statistics import (
    Interval,
    Scale,
    best_null,
    bootstrap_interval,
    digits_of,
    improvement,
    last_episode,
    scale,
)

COLUMNS = (
    Column("Rank"),
    Column("Agent"),
    Column("Lifetimes", wide=True),
    Column("Episodes", wide=True),
    Column("Last episode"),
    Column("Score"),
    Column("Improvement"),
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


def sections(files: Sequence[tuple[Path, Results]], taken: set[str]) -> list[dict[str, Any]]:
    """Return a section for every environment, with a table for every split and number of steps.

    Args:
        files: paths and what they hold.
        taken: anchors of the page that are not free; those of the sections are added.
    """
    environments: dict[str, dict[tuple[str, int], list[_File]]] = {}
    for path, results in files:
        tables = environments.setdefault(results.environment, {})
        tables.setdefault((results.split, results.steps), []).append(_File(path, results))
    return [
        {
            "environment": environment,
            "slug": slug(environment, taken),
            "tables": [_table(files) for files in tables.values()],
        }
        for environment, tables in sorted(environments.items())
    ]


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
    span = reach_of([*shown, expert])
    marks = [(ends.null.estimate, "floor")] if ends.null else []
    marks += [(ends.expert, "expert")] if ends.expert is not None else []
    lines = [
        _line(agent, last, rank, ends, digits, span, marks, floor)
        for agent, last, rank in zip(merged.agents, lasts, ranks(lasts), strict=True)
    ]
    if expert is not None and merged.references.get("expert"):
        lines.append(_reference(expert, ends, digits))

    def order(line: Line) -> tuple[bool, Any, Any]:
        rank, last = line.cells[0].value, line.cells[4].value
        return (rank == "", rank or 0, -float(last))

    lines.sort(key=order)
    where = f"{merged.environment}, {merged.split} tasks, {merged.steps:,} steps"
    table = Table(
        label=where,
        caption=f"{merged.split.capitalize()} tasks, lifetimes of {merged.steps:,} steps. Return "
        "of the last episode, mean over lifetimes with its 95% interval.",
        columns=COLUMNS,
        lines=tuple(lines),
        sorted=0,
    )
    return {"content": table, "notes": _notes(files, ends)}


def _line(
    agent: AgentResult,
    last: Interval,
    rank: tuple[int, int] | None,
    ends: Scale,
    digits: int,
    span: tuple[float, float],
    marks: list[tuple[float, str]],
    floor: str | None,
) -> Line:
    counts = [len(life.episode_returns) for life in agent.lifetimes]
    kind = _KINDS[agent.kind]
    style: str = agent.kind
    if agent.kind == "null":
        kind = "best null controller" if agent.name == floor else kind
        style = "null" if agent.name == floor else "null other-null"
    gained = improvement(agent)
    return Line(
        (
            place(rank),
            head(agent.name, note=kind),
            count(len(agent.lifetimes)),
            Cell(episode_count(counts), max(counts)),
            replace(measured(last, digits), art=bar(last, span, marks)),
            measured(ends.score(last), 2),
            measured(gained, digits),
        ),
        style,
    )


def _reference(expert: Interval, ends: Scale, digits: int) -> Line:
    found = ends.score(expert)
    nothing = Cell("\N{EN DASH}")
    return Line(
        (
            nothing,
            head("Expert", note="stored reference"),
            nothing,
            nothing,
            exact(expert.estimate, digits),
            exact(found.estimate, 2) if found else nothing,
            nothing,
        ),
        "reference",
    )


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
