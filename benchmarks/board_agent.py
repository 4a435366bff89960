"""The page of an agent: what it did, and where it comes from."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from gla.benchmarks import board_words
from gla.benchmarks.board_charts import Axis, Level, dot_chart
from gla.benchmarks.board_data import Board, Row
from gla.benchmarks.board_layout import (
    SPAN,
    Site,
    definitions,
    page,
    short,
    verdict_cell,
)
from gla.benchmarks.board_tables import (
    Cell,
    Column,
    Line,
    Table,
    head,
    in_line,
    measured,
    reach_of,
)
from gla.benchmarks.report import episode_count, slug
from gla.benchmarks.statistics import Interval, digits_of


def agent_page(site: Site, title: str, group: Sequence[tuple[Board, Row]]) -> str:
    """Return the page of an agent.

    Args:
        site: all pages.
        title: its name.
        group: what it did: suites, and its rows there.
    """
    taken = {"main", "how-to-read"}
    runs = [_run(site, one, row, title, slug(one.suite.name, taken)) for one, row in group]
    return page(
        site,
        "board_agent.html",
        title,
        [site.home],
        "",
        runs=runs,
        definitions=definitions(board_words.AGENT),
    )


def _run(site: Site, one: Board, row: Row, title: str, anchor: str) -> dict[str, Any]:
    submission, suite = row.read.submission, one.suite
    sources = submission.training_sources
    provenance = [
        ("Submission", row.read.folder.name, False),
        ("Command", _command(row), True),
        ("Created", submission.created, False),
        ("Machine", _pairs(submission.machine), False),
        ("Meta-trained on", ", ".join(sources) or "none named", False),
        ("Suite digest", submission.suite_digest, True),
        ("Packages", _pairs(submission.packages), False),
    ]
    if row.foreign:
        provenance.insert(5, ("Not allowed in this suite", ", ".join(row.foreign), False))
    return {
        "slug": anchor,
        "href": site.suite(suite.name),
        "suite": suite.name,
        "name": row.label if row.label != title else "",
        "summary": _summary(one, row),
        "environments": _agent_table(site, one, row) if row.places else None,
        "scores": _scores(one, row),
        "sentences": [found.verdict.sentence for found in row.places.values()],
        "failures": [{"who": env, "text": text} for env, text in sorted(row.failures.items())],
        "provenance": [{"term": a, "text": b, "code": c} for a, b, c in provenance],
        "digests": _digests(row),
        "config": json.dumps(submission.details, indent=2, ensure_ascii=False),
    }


def _summary(one: Board, row: Row) -> str:
    parts = []
    if row.rank:
        best, worst = row.rank
        places = f"{best}" if best == worst else f"{best} to {worst}"
        parts.append(f"Rank {places} of {len(one.ranked)}.")
    else:
        parts.append(f"Not ranked: {row.why_unranked}.")
    if row.score:
        parts.append(f"Score {in_line(row.score, 2)}, interquartile mean over all lifetimes.")
    parts.append(f"Learned on {row.learned} of {len(row.places)} environments with results.")
    return " ".join(parts)


def _command(row: Row) -> str:
    submission = row.read.submission
    words = ["gla", "meta-test", "OUT", "--agent", submission.spec, "--suite", submission.suite]
    which, ask = submission.details.get("which"), submission.details.get("ask")
    if which and which != "latest":
        words += ["--which", str(which)]
    if isinstance(ask, dict) and ask:
        words += ["--ask", *(f"{name}={_number(value)}" for name, value in sorted(ask.items()))]
    return shlex.join(words)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _pairs(words: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(words.items())) or "not recorded"


def _agent_table(site: Site, one: Board, row: Row) -> Table:
    lines = []
    for environment, found in row.places.items():
        ends = one.scales[environment]
        counts = [len(life.episode_returns) for life in found.agent.lifetimes]
        digits = digits_of(found.first, found.last, ends.null, found.twin_last)
        lines.append(
            Line(
                (
                    head(short(environment), site.environment(one.suite.name, environment)),
                    Cell(episode_count(counts), max(counts)),
                    measured(found.first, digits),
                    measured(found.last, digits),
                    measured(ends.null, digits, ends.null_name),
                    measured(found.twin_last, digits),
                    measured(found.score, 2),
                    verdict_cell(found.verdict),
                )
            )
        )
    columns = (
        Column("Environment"),
        Column("Episodes", wide=True),
        Column("First episode"),
        Column("Last tenth"),
        Column("Best null"),
        Column("Twin, last tenth"),
        Column("Score"),
        Column("Verdict"),
    )
    return Table(
        f"{row.label} on {one.suite.name}",
        f"{one.suite.name}: return per episode, mean over {one.suite.lifetimes} lifetimes with its "
        "95% interval.",
        columns,
        tuple(lines),
    )


def _scores(one: Board, row: Row) -> dict[str, Any] | None:
    entries: list[tuple[str, Interval | None, Interval | None]] = []
    for environment, found in row.places.items():
        twin = found.twin_last
        masked = one.scales[environment].score(twin) if twin else None
        if found.score is not None:
            entries.append((short(environment), found.score, masked))
    if not entries:
        return None
    low, high = reach_of([x for _, *both in entries for x in both], *SPAN)
    axis = Axis("score of the last tenth of the lifetime", max(low, -2.0), min(high, 2.5))
    told = "; ".join(
        f"{label} {in_line(own, 2)}" + (f", masked {in_line(twin, 2)}" if twin else "")
        for label, own, twin in entries
        if own
    )
    label = f"scores of {row.label} on {one.suite.name}"
    marks = (Level("best null controller", 0.0, "floor"), Level("expert", 1.0, "expert"))
    caption = (
        "Filled: the agent. Open: its reward-masked twin. The line at 0 is the best null "
        "controller, the dashed one at 1 the expert."
    )
    if low < -2.0 or high > 2.5:
        caption += " What lies beyond the axis is drawn at its end."
    return {
        "drawing": dot_chart(entries, axis, f"Scores: {told}.", marks),
        "legend": [],
        "caption": caption,
        "label": label,
        "data": Table(
            f"Numbers: {label}",
            "Score of the last tenth of the lifetime with its 95% interval.",
            (
                Column("Environment", sortable=False),
                Column("Agent", sortable=False),
                Column("Rewards masked", sortable=False),
            ),
            tuple(
                Line((head(name), measured(own, 2), measured(twin, 2)))
                for name, own, twin in entries
            ),
        ),
    }


def _digests(row: Row) -> Table | None:
    digests = row.read.submission.digests
    if not digests:
        return None
    return Table(
        f"Digests of {row.label} on {row.read.submission.suite}",
        "SHA-256 of what each results file says.",
        (Column("Results file of", sortable=False), Column("Digest", sortable=False)),
        tuple(
            Line((head(short(env)), Cell(digests[env], style="digest")))
            for env in row.read.suite.environments
            if env in digests
        ),
    )
