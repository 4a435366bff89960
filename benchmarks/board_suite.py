"""The page of a suite: its agents in one table, and how their scores are spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gla.benchmarks import board_words
from gla.benchmarks.board_charts import Axis, Level, Series, line_chart, swatch
from gla.benchmarks.board_data import ONLINE, Board, Half, Row, profile_of
from gla.benchmarks.board_layout import (
    MOST_LINES,
    SPAN,
    Site,
    agent_href,
    definitions,
    page,
    short,
)
from gla.benchmarks.board_tables import (
    NOTHING,
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
    plain,
    reach_of,
    steps,
)
from gla.benchmarks.statistics import Interval, digits_of, in_words

COLUMNS = (
    Column("Rank"),
    Column("Agent"),
    Column("Score"),
    Column("Gain over twin"),
    Column("Improvement"),
    Column("Area under curve"),
    Column("Better than online PPO"),
    Column("Steps to half scale"),
    Column("Sooner than online PPO"),
    Column("Finished"),
    Column("Trained on"),
    Column("Seconds"),
)


def suite_page(site: Site, one: Board) -> str:
    """Return the page of a suite.

    Args:
        site: all pages.
        one: the suite.
    """
    suite = one.suite
    low, high = reach_of([row.score for row in one.rows], *SPAN)
    # A single score far below the floor is not to squeeze all others into a corner.
    span = (max(low, -1.5), min(high, 2.0))
    lines = [_row_line(one, row, span) for row in one.rows]
    if one.scored:
        lines += [
            _end_line("Best null controllers", 0.0, "of each environment; 0 by construction", span),
            _end_line("Experts", 1.0, "of each environment; 1 by construction", span),
        ]
    where = "all environments"
    if len(one.scored) < len(suite.tasks):
        where = f"{len(one.scored)} of {len(suite.tasks)} environments"
    agents = Table(
        f"Agents on {suite.name}",
        "Interquartile means over the lifetimes of "
        f"{where}, with 95% intervals, in scores: 0 is the best null controller, 1 the expert.",
        COLUMNS,
        tuple(lines),
        sorted=0,
        style="agents",
    )
    return page(
        site,
        "board_suite.html",
        suite.name,
        [site.home],
        suite.about,
        facts=board_words.facts(suite),
        sources=board_words.sources(suite),
        agents=agents,
        notes=_suite_notes(one),
        failures=[
            {"who": f"{row.label} on {env}", "text": text}
            for row in one.rows
            for env, text in sorted(row.failures.items())
        ],
        profile=_profile(one),
        environments=_environments(site, one),
        definitions=definitions(board_words.SUITE),
    )


def _row_line(one: Board, row: Row, span: tuple[float, float]) -> Line:
    notes = [] if row.rank else [f"not ranked: {row.why_unranked}"]
    over = ""
    if one.scored and not row.complete and row.score:
        held = sum(env in row.places for env in one.scored)
        over = f"over {held} of {len(one.scored)} environments"
    score = measured(row.score, 2, over)
    art = bar(row.score, span, ((0.0, "floor"), (1.0, "expert")))
    trained = row.read.submission.training_sources
    seconds = f"{1000 * row.step_seconds:.3g} ms a step" if row.step_seconds else ""
    total = len(one.suite.tasks)
    return Line(
        (
            place(row.rank),
            head(row.label, agent_href(row), "; ".join(notes)),
            replace(score, art=art),
            measured(row.gain, 2),
            measured(row.improvement, 2),
            measured(row.area, 2),
            measured(row.better, 2),
            _steps_cell(row.half),
            _speed_cell(row.half if one.online is not row else None),
            Cell(f"{len(row.places)} of {total}", len(row.places), f"learned on {row.learned}"),
            _sources_cell(trained, row.foreign),
            Cell(f"{row.seconds:,.0f}", float(f"{row.seconds:.6g}"), seconds)
            if row.places
            else Cell(NOTHING),
        ),
        "agent" if row.rank else "agent unranked",
    )


def _sources_cell(trained: Sequence[str], foreign: Sequence[str]) -> Cell:
    if foreign:
        text = f"{len(foreign)} of {len(trained)} not allowed"
        return Cell(text, len(trained), note=_few(foreign), style="warning")
    if not trained:
        return Cell("none named", 0)
    ids = "1 environment" if len(trained) == 1 else f"{len(trained)} environments"
    return Cell(ids, len(trained), "allowed")


def _few(words: Sequence[str], most: int = 3) -> str:
    kept = [*words[:most], *((f"{len(words) - most} more",) if len(words) > most else ())]
    return in_words(kept)


def _steps_cell(half: Half | None) -> Cell:
    if half is None:
        return Cell(NOTHING)
    share = half.reach.share
    return steps(half.reach.median, f"{100 * share.estimate:.0f}% of lifetimes")


def _speed_cell(half: Half | None) -> Cell:
    if half is None or half.speed is None:
        return Cell(NOTHING)
    times, cell = "\N{MULTIPLICATION SIGN}", measured(half.speed, 1)
    if half.bound == "=":
        return replace(cell, text=cell.text + times)
    return replace(cell, text=f"{half.bound} {cell.text}{times}", below="")


def _end_line(name: str, value: float, note: str, span: tuple[float, float]) -> Line:
    point = Interval(value, value, value)
    marks = ((0.0, "floor"), (1.0, "expert"))
    score = replace(exact(value, 2), art=bar(point, span, marks))
    cells = (Cell(NOTHING), head(name, note=note), score, *(9 * (Cell(NOTHING),)))
    return Line(cells, "reference")


def _suite_notes(one: Board) -> list[str]:
    notes = []
    without = [env for env in one.suite.environments if env not in one.scored]
    if without:
        notes.append(
            f"No score on {in_words([short(env) for env in without])}, where no expert is known "
            "or it does not beat the best null controller; figures of the whole suite leave it out."
        )
    if one.online is None:
        notes.append(
            f"No complete submission of an agent called {ONLINE!r} is there, so nothing is held "
            "against online PPO."
        )
    measured_floor = [env for env in one.suite.environments if one.nulls[env]]
    if len(measured_floor) < len(one.suite.tasks):
        rest = [short(env) for env in one.suite.environments if not one.nulls[env]]
        notes.append(
            f"Nobody ran null controllers on {in_words(rest)}, so stored references are the floor "
            "there."
        )
    unranked = [row for row in one.rows if row.rank is None]
    if unranked and one.ranked:
        notes.append("Agents without a rank stand below the others and take no rank from them.")
    return [*notes, *one.notes]


def _environments(site: Site, one: Board) -> Table:
    lines = []
    for task in one.suite.tasks:
        ends = one.scales[task.environment]
        there = [row for row in one.rows if task.environment in row.places]
        won = sum(row.places[task.environment].verdict.learned for row in there)
        value = None if ends.expert is None else Interval(*(3 * (ends.expert,)))
        digits = digits_of(ends.null, value)
        lines.append(
            Line(
                (
                    head(
                        short(task.environment),
                        site.environment(one.suite.name, task.environment),
                    ),
                    count(task.steps),
                    measured(ends.null, digits, ends.null_name),
                    exact(ends.expert, digits, ends.expert_name)
                    if ends.expert is not None
                    else Cell(NOTHING, note="no expert is known"),
                    Cell(f"{won} of {len(there)}", won),
                )
            )
        )
    columns = (
        Column("Environment"),
        Column("Steps", wide=True),
        Column("Best null controller: 0"),
        Column("Expert: 1"),
        Column("Agents that learned"),
    )
    return Table(
        f"Environments of {one.suite.name}",
        "The two ends of the scale, in returns per episode.",
        columns,
        tuple(lines),
    )


def _profile(one: Board) -> dict[str, Any] | None:
    rows = [row for row in one.rows if row.complete and row.score]
    if not rows or not one.scored:
        return None
    profiles = [profile_of(row, one) for row in rows]
    drawn = list(zip(rows, profiles, strict=True))[:MOST_LINES]
    series = [
        Series(row.label, tuple(map(float, found.thresholds)), found.shares, look)
        for look, (row, found) in enumerate(drawn)
    ]
    at = {value: int(abs(profiles[0].thresholds - value).argmin()) for value in (0.0, 0.5)}
    shares = [
        f"{row.label} {100 * found.shares[at[0.0]].estimate:.0f}% and "
        f"{100 * found.shares[at[0.5]].estimate:.0f}%"
        for row, found in drawn
    ]
    about = (
        "Share of lifetimes that score above a threshold, from thresholds of -0.5 to 1.25. Above "
        f"0 and above 0.5 score: {'; '.join(shares)}."
    )
    drawing = line_chart(
        series,
        Axis("score of the last tenth of the lifetime", -0.5, 1.25),
        Axis("lifetimes above it", 0.0, 1.0, percent=True),
        about,
        marks=(Level("best null controller", 0.0, "floor"), Level("expert", 1.0, "expert")),
    )
    legend = [{"swatch": swatch(one.look), "text": one.label} for one in series]
    legend += [
        {"swatch": swatch(0, style="floor"), "text": "best null controller"},
        {"swatch": swatch(0, style="expert"), "text": "expert"},
    ]
    lines = [
        Line(
            (
                head(plain(float(level), 2), value=f"{level:.2f}"),
                *(measured(found.shares[index], 2) for found in profiles),
            )
        )
        for index, level in enumerate(profiles[0].thresholds)
    ]
    label = f"performance profile on {one.suite.name}"
    caption = (
        "How many lifetimes score above a threshold, with 95% bands; every environment counts "
        "alike. A line further to the right and above is better."
    )
    left = len(rows) - len(drawn)
    if left > 0:
        caption += f" The first {MOST_LINES} agents of the table are drawn; {left} are not."
    data = Table(
        f"Numbers: {label}",
        "Share of lifetimes above each threshold, with 95% intervals.",
        (
            Column("Threshold", sortable=False),
            *(Column(row.label, sortable=False) for row in rows),
        ),
        tuple(lines),
    )
    return {
        "drawing": drawing, "legend": legend, "caption": caption, "label": label, "data": data,
    }  # fmt: skip
