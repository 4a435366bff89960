"""The page of an environment of a suite: what everyone earned there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gla.benchmarks import board_words
from gla.benchmarks.board_charts import Axis, Level, Series, line_chart, swatch, way
from gla.benchmarks.board_data import Board, Row, curves, null_means
from gla.benchmarks.board_layout import (
    MOST_LINES,
    Site,
    agent_href,
    definitions,
    page,
    short,
    verdict_cell,
)
from gla.benchmarks.board_tables import (
    NOTHING,
    Cell,
    Column,
    Line,
    Table,
    bar,
    exact,
    head,
    measured,
    plain,
    reach_of,
)
from gla.benchmarks.statistics import Interval, Scale, digits_of


def environment_page(site: Site, one: Board, environment: str) -> str:
    """Return the page of an environment of a suite.

    Args:
        site: all pages.
        one: the suite.
        environment: its id.
    """
    suite = one.suite
    rows = [row for row in one.rows if environment in row.places]
    task = next(task for task in suite.tasks if task.environment == environment)
    ends = one.scales[environment]
    means = null_means(one, environment)
    nulls = None
    if means:
        digits = digits_of(*(interval for _, interval in means))
        nulls = Table(
            f"Null controllers on {short(environment)}",
            "Return per episode, mean over whole lifetimes with its 95% interval; the best is the "
            "floor.",
            (Column("Controller"), Column("Return")),
            tuple(Line((head(name), measured(found, digits))) for name, found in means),
            sorted=-1,
        )
    notes = []
    if ends.expert is not None:
        notes.append(f"Expert: {ends.expert_name}.")
    if ends.null is not None and not means:
        notes.append(f"Floor: {ends.null_name}.")
    missing = [row for row in one.rows if environment not in row.places]
    notes += [
        f"{row.label} has no results here"
        + (f": {row.failures[environment]}" if environment in row.failures else ".")
        for row in missing
    ]
    return page(
        site,
        "board_environment.html",
        short(environment),
        [site.home, {"href": site.suite(suite.name), "text": suite.name}],
        "",
        facts=f"{environment} in {suite.name}: {suite.lifetimes} lifetimes of {task.steps:,} steps "
        "on tasks of the test split, the same for everyone.",
        curve=_curve(rows, environment, ends) if rows else None,
        agents=_environment_table(rows, environment, ends),
        notes=notes,
        nulls=nulls,
        definitions=definitions(board_words.ENVIRONMENT),
    )


def _environment_table(rows: Sequence[Row], environment: str, ends: Scale) -> Table:
    places = [row.places[environment] for row in rows]
    expert = None if ends.expert is None else Interval(*(3 * (ends.expert,)))
    returns = [one for p in places for one in (p.first, p.last, p.twin_last)]
    digits = digits_of(*returns, ends.null, expert)
    span = reach_of([p.last for p in places] + [ends.null, expert])
    marks = [(ends.null.estimate, "floor")] if ends.null else []
    marks += [(ends.expert, "expert")] if ends.expert is not None else []
    lines = []
    for row, found in zip(rows, places, strict=True):
        why = "" if row.rank else f"not ranked in the suite: {row.why_unranked}"
        lines.append(
            Line(
                (
                    head(row.label, agent_href(row), why),
                    measured(found.first, digits),
                    replace(measured(found.last, digits), art=bar(found.last, span, marks)),
                    measured(found.twin_last, digits),
                    measured(found.gain, digits),
                    measured(found.improvement, digits),
                    measured(found.score, 2),
                    verdict_cell(found.verdict),
                ),
                "agent" if row.rank else "agent unranked",
            )
        )
    lines.sort(key=lambda line: -float(line.cells[2].value))
    nothing = Cell(NOTHING)
    if ends.null is not None:
        cell = measured(ends.null, digits)
        score = exact(0.0, 2) if ends.usable else nothing
        lines.append(
            Line(
                (head("Best null controller", note=ends.null_name), nothing,
                 replace(cell, art=bar(ends.null, span, marks)), nothing, nothing, nothing, score,
                 nothing),
                "reference",
            )
        )  # fmt: skip
    if ends.expert is not None:
        cell = exact(ends.expert, digits)
        score = exact(1.0, 2) if ends.usable else nothing
        lines.append(
            Line(
                (head("Expert"), nothing, replace(cell, art=bar(expert, span, marks)), nothing,
                 nothing, nothing, score, nothing),
                "reference",
            )
        )  # fmt: skip
    columns = (
        Column("Agent"),
        Column("First episode"),
        Column("Last tenth"),
        Column("Twin, last tenth"),
        Column("Gain over twin"),
        Column("Improvement"),
        Column("Score"),
        Column("Verdict"),
    )
    return Table(
        f"Agents on {short(environment)}",
        "Return per episode, mean over lifetimes with its 95% interval. Where intervals overlap, "
        "the order of the lines means nothing.",
        columns,
        tuple(lines),
    )


def _curve(rows: Sequence[Row], environment: str, ends: Scale) -> dict[str, Any]:
    drawn = list(rows[:MOST_LINES])
    places = [row.places[environment] for row in drawn]
    found, unit = curves(places)
    series, legend = [], []
    for look, (row, (own, twin)) in enumerate(zip(drawn, found, strict=True)):
        main = Series(row.label, tuple(map(float, own.positions)), own.intervals, look)
        series.append(main)
        legend.append({"swatch": swatch(look), "text": row.label})
        if twin is not None:
            name = f"{row.label} (rewards masked)"
            series.append(
                Series(name, tuple(map(float, twin.positions)), twin.intervals, look, muted=True)
            )
    if any(one.muted for one in series):
        legend.append(
            {"swatch": swatch(0, muted=True), "text": "thin and dotted, in the same colour: the "
             "agent's reward-masked twin"}
        )  # fmt: skip
    levels = []
    if ends.null is not None:
        text = f"best null controller ({ends.null_name})"
        levels.append(Level(text, ends.null.estimate, "floor"))
    if ends.expert is not None:
        levels.append(Level("expert", ends.expert, "expert"))
    legend += [{"swatch": swatch(0, style=one.style), "text": one.label} for one in levels]
    axis = "episode of the lifetime" if unit == "episode" else "environment step"
    digits = digits_of(*(end for one in series for end in (one.y[0], one.y[-1])))
    told = "; ".join(f"{one.label} goes {way(one)}" for one in series)
    held = "; ".join(f"{one.label} at {plain(one.value, digits)}" for one in levels)
    about = f"Return per episode over the lifetime on {short(environment)}: {told}. {held}."
    positions = sorted({x for one in series for x in one.x})
    at = [dict(zip(one.x, one.y, strict=True)) for one in series]
    label = f"return over the lifetime on {short(environment)}"
    caption = "Mean return per episode over lifetimes, with 95% bands."
    if unit == "step":
        caption += " Lifetimes are cut into windows of steps; an episode counts where it ends."
    if len(rows) > len(drawn):
        caption += f" The first {MOST_LINES} agents of the suite's table are drawn."
    data = Table(
        f"Numbers: {label}",
        "Mean return per episode, with 95% intervals.",
        (
            Column("Episode" if unit == "episode" else "Step", sortable=False),
            *(Column(one.label, sortable=False) for one in series),
        ),
        tuple(
            Line((head(f"{x:,.0f}"), *(measured(one.get(x), digits) for one in at)))
            for x in positions
        ),
    )
    return {
        "drawing": line_chart(
            series, Axis(axis, whole=unit == "episode"), Axis("return per episode"), about, levels
        ),
        "legend": legend,
        "caption": caption,
        "label": label,
        "data": data,
    }
