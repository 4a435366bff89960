"""Tables of the leaderboard: what their cells say, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gla.benchmarks.report import bounds, typeset
from gla.benchmarks.statistics import Interval, digits_of, number

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: its heading.
        sortable: whether a press on the heading sorts by it.
        wide: whether a narrow screen leaves it out.
    """

    title: str
    sortable: bool = True
    wide: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: what it says.
        value: what it is sorted by; empty comes last.
        below: a second line, such as an interval.
        note: a third line, which may be broken.
        href: where its text leads.
        style: class of its text.
        art: a small drawing.
        links: texts and where they lead, each on a line of its own, before the text.
        head: whether it is the heading of its line.
    """

    text: str
    value: float | str = ""
    below: str = ""
    note: str = ""
    href: str = ""
    style: str = ""
    art: Markup | None = None
    links: tuple[tuple[str, str], ...] = ()
    head: bool = False


@dataclass(frozen=True)
class Line:
    """A line of cells, one for every column.

    Attributes:
        cells: from left to right.
        style: class of the line.
    """

    cells: tuple[Cell, ...]
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        label: unlike that of any other table of its page, for those who hear it.
        caption: what it shows.
        columns: from left to right.
        lines: from top to bottom.
        sorted: number of the column by which the lines are in order, -1 if there is none.
        style: class of the table.
    """

    label: str
    caption: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    sorted: int = -1
    style: str = ""

    def __post_init__(self):
        for line in self.lines:
            assert len(line.cells) == len(self.columns), (self.label, len(line.cells))


def head(text: str, href: str = "", note: str = "", value: str | None = None) -> Cell:
    """Return the heading of a line."""
    return Cell(text, text if value is None else value, href=href, note=note, head=True)


def measured(interval: Interval | None, digits: int | None = None, note: str = "") -> Cell:
    """Return a cell of an estimate with its interval.

    Args:
        interval: None is shown as a dash.
        digits: after the point; None takes as many as suit the interval.
        note: below it.
    """
    if interval is None:
        return Cell(NOTHING, note=note)
    digits = digits_of(interval) if digits is None else digits
    below = bounds(interval, digits) if interval.low < interval.high else ""
    return Cell(plain(interval.estimate, digits), _rounded(interval.estimate), below, note)


def exact(value: float, digits: int, note: str = "") -> Cell:
    """Return a cell of a number that has no interval."""
    return Cell(plain(value, digits), _rounded(value), note=note)


def count(value: int, note: str = "") -> Cell:
    """Return a cell of a whole number."""
    return Cell(f"{value:,}", value, note=note)


def plain(value: float, digits: int) -> str:
    """Return a number as it is shown."""
    return typeset(number(value, digits))


def in_line(interval: Interval, digits: int) -> str:
    """Return "0.5 [0.4, 0.6]"."""
    if not interval.known:
        return plain(interval.estimate, digits)
    return f"{plain(interval.estimate, digits)} {bounds(interval, digits)}"


def place(rank: tuple[int, int] | None) -> Cell:
    """Return a cell of the best rank, with the range of ranks below."""
    if rank is None:
        return Cell(NOTHING)
    best, worst = rank
    return Cell(str(best), best, f"{best} to {worst}" if worst > best else "", style="rank")


def steps(interval: Interval, note: str = "") -> Cell:
    """Return a cell of steps, infinite where something is never reached."""

    def text(value: float) -> str:
        return f"{value:,.0f}" if math.isfinite(value) else "never"

    value = interval.estimate if math.isfinite(interval.estimate) else ""
    known = math.isfinite(interval.low)
    below = f"[{text(interval.low)}, {text(interval.high)}]" if known else ""
    if known and math.isinf(interval.low):
        below = ""
    return Cell(text(interval.estimate), value, below, note)


def bar(
    interval: Interval | None,
    span: tuple[float, float],
    marks: Sequence[tuple[float, str]] = (),
) -> Markup | None:
    """Draw where an interval lies in a span, with marks of the classes `floor` and `expert`.

    Returns:
        A drawing, or None where the interval lies outside or nothing spans.
    """
    low, high = span
    if interval is None or interval.high < low or interval.low > high or high <= low:
        return None

    def at(value: float) -> float:
        return 100 * (min(max(value, low), high) - low) / (high - low)

    left, right, middle = at(interval.low), at(interval.high), at(interval.estimate)
    lines = "".join(
        f'<line class="{style}" x1="{at(value):.1f}" x2="{at(value):.1f}" y1="0" y2="10"/>'
        for value, style in marks
        if low <= value <= high
    )
    return Markup(
        '<svg class="range" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="track" x1="0" x2="100" y1="5" y2="5"/>{lines}'
        f'<rect x="{left:.1f}" width="{right - left:.1f}" y="2.5" height="5"/>'
        f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="1" y2="9"/></svg>'
    )


def reach_of(intervals: Sequence[Interval | None], *more: float | None) -> tuple[float, float]:
    """Return the least and the greatest of all bounds and numbers, (0, 0) without any."""
    ends = [x for one in intervals if one for x in (one.low, one.estimate, one.high)]
    finite = [x for x in [*ends, *more] if x is not None and math.isfinite(x)]
    return min(finite, default=0.0), max(finite, default=0.0)


def _rounded(value: float) -> float:
    """Keep what sorts, not the last bits, in which two machines may differ."""
    return float(f"{value:.6g}")
