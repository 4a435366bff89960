"""Charts of the leaderboard as inline SVG, which follow the colours and the width of the page.

Lines are told apart by colour, dash and marker together. Colours and sizes are classes of the
page's style sheet, so that a chart is dark on a dark page. Every chart is drawn twice, for wide and
for narrow screens, of which the page shows one.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from gla.benchmarks.report import typeset
from gla.benchmarks.statistics import Interval, digits_of, number

COLOURS, DASHES, MARKERS = 6, 5, 7  # without a common divisor: 210 different looks
_MOST_MARKERS = 12  # on a line


class Size(NamedTuple):
    """Pixels of a drawing and of its margins.

    Attributes:
        width: of the whole.
        height: of the whole.
        left: where the axes begin.
        bottom: height below the axes.
        ticks: about how many ticks an axis has.
        style: class that says on which screens it is shown.
    """

    width: int
    height: int
    left: int
    bottom: int
    ticks: int
    style: str


WIDE = Size(920, 400, 64, 48, 7, "wide-chart")
NARROW = Size(350, 300, 48, 44, 4, "narrow-chart")
_TOP, _RIGHT = 14, 16


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        label: what it is.
        x: positions.
        y: what is there; without bounds where there is no interval.
        look: number that chooses colour, dash and marker.
        muted: draw it thin, without band and markers, as something to compare with.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[Interval, ...]
    look: int
    muted: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line of a chart.

    Attributes:
        label: what it is.
        value: where it is.
        style: class, `floor` or `expert`.
    """

    label: str
    value: float
    style: str


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        title: of the axis.
        low: lower end; None fits what is drawn.
        high: upper end; None fits what is drawn.
        percent: write shares as percentages.
        whole: ticks at whole numbers only.
    """

    title: str
    low: float | None = None
    high: float | None = None
    percent: bool = False
    whole: bool = False


def look_style(look: int) -> str:
    """Return the classes of a number's colour and dash."""
    return f"c{look % COLOURS} d{look % DASHES}"


def line_chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    about: str,
    levels: Sequence[Level] = (),
    marks: Sequence[Level] = (),
) -> Markup:
    """Draw lines with bands.

    Args:
        series: at least one, of at least one point each.
        x: horizontal axis.
        y: vertical axis.
        about: what it shows, in words, for those who cannot see it.
        levels: horizontal lines.
        marks: the same, vertical.
    """
    return Markup("").join(
        _line_chart(series, x, y, about, levels, marks, size) for size in (WIDE, NARROW)
    )


def swatch(look: int, muted: bool = False, style: str = "") -> Markup:
    """Draw a short piece of a line for a legend.

    Args:
        look: of the series.
        muted: as the series is.
        style: class of a `Level` instead.
    """
    classes = f"line level {style}" if style else f"line {look_style(look)}"
    parts = [_tag("line", x1=1, x2=35, y1=7, y2=7, klass=classes + (" muted" if muted else ""))]
    if not muted and not style:
        parts.append(_marker(18, 7, look))
    return _svg(36, 14, parts, "swatch")


def dot_chart(
    rows: Sequence[tuple[str, Interval | None, Interval | None]],
    x: Axis,
    about: str,
    marks: Sequence[Level] = (),
) -> Markup:
    """Draw a row for each of some things: a dot with its interval, and an open one to compare with.

    Args:
        rows: label, what is measured, and what it is compared with.
        x: the axis.
        about: what it shows, in words.
        marks: vertical lines.
    """
    return Markup("").join(_dot_chart(rows, x, about, marks, size) for size in (WIDE, NARROW))


def nice_ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Return about so many round numbers between two ends, low < high."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    if whole:
        step = max(1.0, step if step == round(step) else math.ceil(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


class _Frame:
    """The axes of one drawing: what lies where, and the parts drawn so far."""

    def __init__(self, size: Size, x: tuple[float, float], y: tuple[float, float]):
        self.size, self.x, self.y = size, x, y
        self.left, self.right = size.left, size.width - _RIGHT
        self.top, self.bottom = _TOP, size.height - size.bottom
        self.parts: list[Markup] = []

    def at_x(self, value: float) -> float:
        low, high = self.x
        share = (min(max(value, low), high) - low) / (high - low)
        return self.left + share * (self.right - self.left)

    def at_y(self, value: float) -> float:
        low, high = self.y
        share = (min(max(value, low), high) - low) / (high - low)
        return self.bottom - share * (self.bottom - self.top)

    def add(self, name: str, text: str = "", **attributes: object) -> None:
        self.parts.append(_tag(name, text, **attributes))

    def horizontal_axis(self, axis: Axis) -> None:
        ticks = nice_ticks(*self.x, self.size.ticks, axis.whole)
        for value, text in zip(ticks, _tick_texts(ticks, axis.percent), strict=True):
            at = self.at_x(value)
            self.add("line", x1=at, x2=at, y1=self.top, y2=self.bottom, klass="grid")
            self.add("text", text, x=at, y=self.bottom + 17, klass="middle")
        middle = (self.left + self.right) / 2
        self.add("text", axis.title, x=middle, y=self.size.height - 6, klass="middle title")

    def vertical_axis(self, axis: Axis) -> None:
        ticks = nice_ticks(*self.y, self.size.ticks - 1, axis.whole)
        for value, text in zip(ticks, _tick_texts(ticks, axis.percent), strict=True):
            at = self.at_y(value)
            self.add("line", x1=self.left, x2=self.right, y1=at, y2=at, klass="grid")
            self.add("text", text, x=self.left - 7, y=at + 4, klass="end")
        middle = (self.top + self.bottom) / 2
        turned = f"rotate(-90 12 {middle:.1f})"
        self.add("text", axis.title, x=12, y=middle, transform=turned, klass="middle title")


def _line_chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    about: str,
    levels: Sequence[Level],
    marks: Sequence[Level],
    size: Size,
) -> Markup:
    positions = [value for one in series for value in one.x]
    heights = [level.value for level in levels]
    for one in series:
        for value in one.y:
            heights.append(value.estimate)
            if value.known and not one.muted:
                heights += [value.low, value.high]
    frame = _Frame(size, _ends(x, positions, 0.0), _ends(y, heights, 0.05))
    frame.horizontal_axis(x)
    frame.vertical_axis(y)
    for mark in marks:
        at = frame.at_x(mark.value)
        frame.add("line", x1=at, x2=at, y1=frame.top, y2=frame.bottom, klass=f"level {mark.style}")
    for level in levels:
        at = frame.at_y(level.value)
        frame.add("line", x1=frame.left, x2=frame.right, y1=at, y2=at, klass=f"level {level.style}")
    for one in series:
        _band(frame, one)
    for one in sorted(series, key=lambda one: not one.muted):
        _line(frame, one)
    return _svg(size.width, size.height, frame.parts, f"chart {size.style}", about)


def _band(frame: _Frame, one: Series) -> None:
    known = [(x, y) for x, y in zip(one.x, one.y, strict=True) if y.known]
    if one.muted or not known:
        return
    if len(known) == 1:
        y, at = known[0][1], frame.at_x(known[0][0])
        style = f"line {look_style(one.look)}"
        frame.add("line", x1=at, x2=at, y1=frame.at_y(y.low), y2=frame.at_y(y.high), klass=style)
        return
    upper = [_point(frame.at_x(x), frame.at_y(y.high)) for x, y in known]
    lower = [_point(frame.at_x(x), frame.at_y(y.low)) for x, y in reversed(known)]
    frame.add("polygon", points=" ".join(upper + lower), klass=f"band c{one.look % COLOURS}")


def _line(frame: _Frame, one: Series) -> None:
    places = [(frame.at_x(x), frame.at_y(y.estimate)) for x, y in zip(one.x, one.y, strict=True)]
    style = f"line {look_style(one.look)}" + (" muted" if one.muted else "")
    if len(places) == 1:
        x, y = places[0]
        frame.add("line", x1=x - 6, x2=x + 6, y1=y, y2=y, klass=style)
    else:
        frame.add("polyline", points=" ".join(_point(*at) for at in places), klass=style)
    if not one.muted:
        every = math.ceil(len(places) / _MOST_MARKERS)
        # Lines that lie on each other do not all have their markers at the same places.
        for at in places[one.look % every :: every]:
            frame.parts.append(_marker(*at, one.look))


def _dot_chart(
    rows: Sequence[tuple[str, Interval | None, Interval | None]],
    x: Axis,
    about: str,
    marks: Sequence[Level],
    size: Size,
) -> Markup:
    narrow = size is NARROW
    row, room = (44 if narrow else 30), (12 if narrow else 300)
    size = size._replace(height=_TOP + row * len(rows) + size.bottom, left=room)
    values = [
        end
        for _, *both in rows
        for one in both
        if one is not None
        for end in ((one.low, one.estimate, one.high) if one.known else (one.estimate,))
    ]
    frame = _Frame(size, _ends(x, values + [mark.value for mark in marks], 0.03), (0.0, 1.0))
    frame.horizontal_axis(x)
    for mark in marks:
        at = frame.at_x(mark.value)
        frame.add("line", x1=at, x2=at, y1=frame.top, y2=frame.bottom, klass=f"level {mark.style}")
    for index, (label, value, other) in enumerate(rows):
        middle = _TOP + row * (index + 0.5)
        if narrow:
            frame.add("text", _short(label, 46), x=room, y=middle - 8, klass="label")
            middle += 8
        else:
            frame.add("text", _short(label, 44), x=room - 10, y=middle + 4, klass="end label")
        if other is not None:
            _dot(frame, other, middle + (6 if value else 0), "twin")
        if value is not None:
            _dot(frame, value, middle - (4 if other else 0), "own")
    return _svg(size.width, size.height, frame.parts, f"chart {size.style}", about)


def _dot(frame: _Frame, value: Interval, y: float, style: str) -> None:
    if value.known:
        low, high = frame.at_x(value.low), frame.at_x(value.high)
        frame.add("line", x1=low, x2=high, y1=y, y2=y, klass=f"reach {style}")
    frame.add("circle", cx=frame.at_x(value.estimate), cy=y, r=4.5, klass=f"dot {style}")


def _ends(axis: Axis, values: Sequence[float], margin: float) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    low = axis.low if axis.low is not None else min(finite, default=0.0)
    high = axis.high if axis.high is not None else max(finite, default=1.0)
    if not high > low:
        high, low = high + max(0.5, 1e-3 * abs(high)), low - max(0.5, 1e-3 * abs(low))
    room = margin * (high - low)
    return (
        low if axis.low is not None else low - room,
        high if axis.high is not None else high + room,
    )


def _tick_texts(ticks: Sequence[float], percent: bool) -> list[str]:
    if percent:
        return [f"{100 * value:.0f}%" for value in ticks]
    largest = max((abs(value) for value in ticks), default=0.0)
    if largest >= 1e6:
        return [typeset(f"{value:.3g}") for value in ticks]
    digits = 0
    while digits < 6 and any(abs(round(value, digits) - value) > 1e-9 * largest for value in ticks):
        digits += 1
    return [typeset(f"{value:,.{digits}f}") for value in ticks]


def _marker(x: float, y: float, look: int) -> Markup:
    style = f"mark c{look % COLOURS}"
    kind = look % MARKERS
    if kind == 0:
        return _tag("circle", cx=x, cy=y, r=3.6, klass=style)
    shapes = {
        1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
        3: ((0, -1.4), (1.2, 0), (0, 1.4), (-1.2, 0)),
        4: ((0, 1.3), (1.2, -0.9), (-1.2, -0.9)),
        5: ((-1.4, -0.5), (1.4, -0.5), (1.4, 0.5), (-1.4, 0.5)),
        6: ((-0.5, -1.4), (0.5, -1.4), (0.5, 1.4), (-0.5, 1.4)),
    }
    points = " ".join(_point(x + 3.4 * a, y + 3.4 * b) for a, b in shapes[kind])
    return _tag("polygon", points=points, klass=style)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _point(x: float, y: float) -> str:
    return f"{x:.1f},{y:.1f}"


def _tag(name: str, text: str = "", **attributes: object) -> Markup:
    """Return an element; `klass` is its class, numbers are rounded, everything is escaped."""
    parts = []
    for key, value in attributes.items():
        shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
        parts.append(f' {"class" if key == "klass" else key}="{html.escape(shown)}"')
    return Markup(f"<{name}{''.join(parts)}>{html.escape(text)}</{name}>")


def _svg(
    width: int, height: int, parts: Sequence[Markup], style: str, about: str | None = None
) -> Markup:
    said = 'aria-hidden="true"'
    if about is not None:
        said = f'role="img" aria-label="{html.escape(about)}"'
    return Markup(
        f'<svg class="{style}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f"{said}>{''.join(parts)}</svg>"
    )


def way(one: Series) -> str:
    """Return where a line goes, in words: "from 1.0 to 2.0"."""
    first, last = one.y[0], one.y[-1]
    digits = digits_of(Interval(first.estimate, first.estimate, last.estimate))
    if len(one.y) == 1:
        return f"at {number(last.estimate, digits)}"
    return f"from {number(first.estimate, digits)} to {number(last.estimate, digits)}"
