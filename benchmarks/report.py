"""A report of several results files: one page and its pictures, readable without a network."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from gla.benchmarks import plots
from gla.benchmarks.results import Results, read
from gla.benchmarks.statistics import (
    Interval,
    Status,
    Verdict,
    agent_of,
    digits_of,
    has_several_episodes,
    in_words,
    judge,
    number,
    scale,
    summarise,
)
from gla.errors import GlaError
from gla.files import write_text

COLUMNS = (
    "Environment",
    "Episodes",
    "First",
    "Last",
    "Best null",
    "Masked twin, last",
    "Expert",
    "Score",
    "Verdict",
)
_ANCHORS = ("verdicts", "scores", "curves", "reading", "provenance")  # ids of the template
_SHORT = {"first": "its first", "null": "the best null", "masked": "its twin"}
# Never by colour alone: a mark and the words say the same.
_MARKS: dict[Status, tuple[str, str]] = {
    "learned": ("\N{CHECK MARK}", "learned"),
    "did not learn": ("\N{MULTIPLICATION X}", "not-learned"),
    "not judged": ("?", "open"),
}


class Cell(NamedTuple):
    """A cell of the table of verdicts.

    Attributes:
        label: heading of its column, shown beside it on a narrow screen.
        value: the number, or empty.
        interval: the interval below it, or empty.
        name: a second line, or empty.
        missing: what stands there if there is no value.
    """

    label: str
    value: str = ""
    interval: str = ""
    name: str = ""
    missing: str = ""


def write_report(
    results_paths: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    title: str = "In-context reinforcement learning",
    notes: Sequence[str] = (),
) -> Path:
    """Write `report.html` and `curves/*.png`.

    Args:
        results_paths: results files, in the order of the report's rows.
        folder: where to write; made if missing.
        title: heading of the page.
        notes: paragraphs below the summary, plain text.

    Returns:
        The page's path.

    Raises:
        GlaError: if there is no results file, one is bad or holds no agent under test, or the
            folder cannot be written to.
    """
    if not results_paths:
        raise GlaError("there are no results to report", "at least one results file")
    folder = Path(folder)
    paths = [Path(path) for path in results_paths]
    # Everything is read before anything is written: a bad file leaves the old report whole.
    runs = [(path, read(path)) for path in paths]
    for path, results in runs:
        if not results.of_kind("agent"):
            raise GlaError(f"{path} holds no agent under test", "at least one agent of kind agent")
    rows, verdicts = [], []
    taken = {"overview", *_ANCHORS}
    for _, results in runs:
        for agent in results.of_kind("agent"):
            verdict = judge(results, agent.name)
            several = len(results.of_kind("agent")) > 1
            row = _row(results, verdict, several, taken)
            plots.plot_results(results, folder / row["src"], agent.name)
            rows.append(row)
            verdicts.append(verdict)
    everything = [results for _, results in runs]
    page = render(
        "report.html",
        title=title,
        notes=list(notes),
        summary=summarise(verdicts),
        columns=COLUMNS,
        rows=rows,
        overview=_overview(everything, verdicts, folder),
        width=plots.WIDTH,
        height=plots.HEIGHT,
        runs=[_run(path, results, folder) for path, results in runs],
        experts=_experts(everything),
        sources=_grouped(everything, lambda one: ", ".join(one.training_sources) or "not recorded"),
        packages=_grouped(everything, lambda one: _versions(one.packages)),
        configs=_grouped(everything, lambda one: json.dumps(one.config, indent=2)),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def render(template: str, **context: Any) -> str:
    """Return a template of this package filled in; every value is escaped for HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gla.benchmarks", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(template).render(**context)
    # A name in a results file may hold half of a surrogate pair, which no encoding takes.
    return page.encode("utf-8", "replace").decode("utf-8") + "\n"


def slug(text: str, taken: set[str]) -> str:
    """Return a name for files and anchors that is not yet in `taken`, and add it there."""
    base = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "environment"
    name, count = base, 1
    while name.lower() in taken:  # some file systems do not tell cases apart
        count += 1
        name = f"{base}-{count}"
    taken.add(name.lower())
    return name


def typeset(text: str) -> str:
    """Return a number's text with a true minus sign, which does not break over lines."""
    return text.replace("-", "\N{MINUS SIGN}")


def bounds(interval: Interval, digits: int) -> str:
    """Return "[-24.0, -20.3]", typeset."""
    if not interval.known:
        return "no interval"
    return typeset(f"[{number(interval.low, digits)}, {number(interval.high, digits)}]")


def episode_count(lengths: Sequence[int]) -> str:
    """Return "8" or "12 to 20" for the numbers of episodes of lifetimes."""
    least, most = min(lengths), max(lengths)
    return str(least) if least == most else f"{least} to {most}"


def _row(results: Results, verdict: Verdict, several: bool, taken: set[str]) -> dict[str, Any]:
    agent = agent_of(results, verdict.agent)
    null, masked = verdict.comparison("null"), verdict.comparison("masked")
    digits, several_episodes = verdict.digits, has_several_episodes(agent)
    counts = [len(life.episode_returns) for life in agent.lifetimes]
    place = f"{results.environment}, {agent.name}" if several else results.environment
    name = slug(place, taken)
    mark, style = _MARKS[verdict.status]
    failed = [_SHORT[one.against] for one in verdict.comparisons if one.beaten is False]
    missing = [
        _SHORT[one.against]
        for one in verdict.comparisons
        if one.beaten is None and (one.against != "first" or several_episodes)
    ]
    why = ""
    if failed:
        why = f"does not beat {in_words(failed, 'or')}"
    elif missing:
        why = f"nothing to compare with {in_words(missing, 'or')}"
    last = _cell("Last", verdict.last, digits)
    expert = "" if verdict.expert is None else typeset(number(verdict.expert, digits))
    cells = [
        Cell("Episodes", episode_count(counts)),
        _cell("First", verdict.first, digits),
        last if several_episodes else Cell("Last", missing="the same episode"),
        _cell("Best null", null.interval, digits, null.detail),
        _cell("Masked twin, last", masked.interval, digits),
        Cell("Expert", expert, missing="none stored"),
        _cell("Score", verdict.score, 2, missing="no scale"),
    ]
    return {
        "slug": name,
        "place": place,
        "cells": cells,
        "style": style,
        "mark": mark,
        "status": verdict.status,
        "why": why,
        "src": f"curves/{name}.png",
        "alt": plots.alt_text(results, agent.name),
        "sentence": verdict.sentence,
    }


def _cell(
    label: str, interval: Interval | None, digits: int, name: str = "", missing: str = "not run"
) -> Cell:
    if interval is None:
        return Cell(label, missing=missing)
    value = typeset(number(interval.estimate, digits))
    return Cell(label, value, bounds(interval, digits), name)


def _overview(
    results: Sequence[Results], verdicts: Sequence[Verdict], folder: Path
) -> dict[str, str] | None:
    scored = [one for one in verdicts if one.score is not None]
    if not scored:
        return None
    plots.overview(results, folder / "curves" / "overview.png")
    listed = [f"{one.environment} {number(one.score.estimate, 2)}" for one in scored if one.score]
    return {"src": "curves/overview.png", "alt": f"Scores: {in_words(listed)}."}


def _run(path: Path, results: Results, folder: Path) -> dict[str, Any]:
    inside = path.resolve().is_relative_to(folder.resolve())
    link = quote(path.resolve().relative_to(folder.resolve()).as_posix()) if inside else ""
    seconds = sum(agent.seconds for agent in results.agents)
    return {"results": results, "seconds": f"{seconds:.0f}", "file": path.name, "link": link}


def _experts(results: Sequence[Results]) -> list[str]:
    lines = []
    for one in results:
        ends = scale(one)
        if ends.expert is not None:
            value = number(ends.expert, digits_of(Interval(*(3 * (ends.expert,)))))
            lines.append(f"{one.environment}: {typeset(value)} ({ends.expert_name})")
    return list(dict.fromkeys(lines))


def _versions(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items()) or "not recorded"


def _grouped(results: Sequence[Results], text: Callable[[Results], str]) -> list[dict[str, str]]:
    """Return each different text once, with the environments that it is about."""
    groups: dict[str, list[str]] = {}
    for one in results:
        places = groups.setdefault(text(one), [])
        if one.environment not in places:
            places.append(one.environment)
    if len(groups) == 1:
        return [{"text": one, "where": ""} for one in groups]
    return [{"text": one, "where": in_words(where)} for one, where in groups.items()]
