"""Charts are sound SVG that can be read without seeing it and without colours."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gla.benchmarks.board_charts import (
    COLOURS,
    DASHES,
    MARKERS,
    NARROW,
    WIDE,
    Axis,
    Level,
    Series,
    dot_chart,
    line_chart,
    look_style,
    nice_ticks,
    swatch,
    way,
)
from gla.benchmarks.statistics import Interval

UNKNOWN = Interval(1.0, -math.inf, math.inf)


def interval(value, width=0.2):
    return Interval(value, value - width, value + width)


def line(label="one", values=(0.0, 1.0, 4.0), look=0, **changes):
    points = tuple(map(interval, values))
    return Series(label, tuple(map(float, range(1, len(values) + 1))), points, look, **changes)


def drawings(markup):
    """Return the wide and the narrow drawing, parsed."""
    wide, narrow = ElementTree.fromstring(f"<all>{markup}</all>")
    return wide, narrow


def texts(drawing):
    return [one.text for one in drawing.iter("text")]


def test_a_line_chart_is_drawn_for_wide_and_narrow_screens():
    found = drawings(
        line_chart(
            [line(), line("two", (2.0, 2.0, 1.0), 1), line("twin", look=0, muted=True)],
            Axis("episode", whole=True),
            Axis("return"),
            'It "rises" & falls <fast>.',
            [Level("floor", -1.0, "floor"), Level("expert", 5.0, "expert")],
        )
    )
    for drawing, size in zip(found, (WIDE, NARROW), strict=True):
        assert drawing.get("viewBox") == f"0 0 {size.width} {size.height}"
        assert drawing.get("role") == "img"
        assert drawing.get("aria-label") == 'It "rises" & falls <fast>.'
        assert {"episode", "return", "1", "2", "3"} <= set(texts(drawing))
        assert len(list(drawing.iter("polyline"))) == 3
        classes = [one.get("class") for one in drawing.iter()]
        assert sum("band" in str(one) for one in classes) == 2  # none for the twin
        assert {"level floor", "level expert"} <= set(classes)
        for one in drawing.iter("polyline"):
            for point in one.get("points").split():
                x, y = map(float, point.split(","))
                assert size.left <= x <= size.width and 0 <= y <= size.height - size.bottom
        # Colours come from the page, so that they can follow its scheme.
        assert not re.search(r"#[0-9a-fA-F]{3}|rgb", ElementTree.tostring(drawing, "unicode"))


def test_heights_are_those_of_the_values():
    axis = Axis("y", 0.0, 10.0)
    (wide, _) = drawings(line_chart([line(values=(0.0, 5.0, 10.0))], Axis("x"), axis, "about"))
    (points,) = (one.get("points").split() for one in wide.iter("polyline"))
    heights = [float(point.split(",")[1]) for point in points]
    bottom = WIDE.height - WIDE.bottom
    assert heights[0] == bottom and heights[1] == pytest.approx((heights[0] + heights[2]) / 2)
    widths = [float(point.split(",")[0]) for point in points]
    assert widths[1] == pytest.approx((widths[0] + widths[2]) / 2, abs=0.1)


def test_single_points_and_missing_intervals_are_drawn():
    lone = Series("lone", (1.0,), (interval(3.0),), 0)
    bare = Series("bare", (1.0, 2.0), (UNKNOWN, UNKNOWN), 1)
    for series in ([lone], [bare], [lone, bare]):
        wide, _ = drawings(line_chart(series, Axis("x"), Axis("y"), "about"))
        assert "nan" not in ElementTree.tostring(wide, "unicode")
        assert "inf" not in ElementTree.tostring(wide, "unicode")
    flat = Series("flat", (1.0, 2.0), (Interval(0.0, 0.0, 0.0),) * 2, 0)
    assert drawings(line_chart([flat], Axis("x"), Axis("y"), "about"))


def test_lines_differ_by_more_than_colour():
    looks = {(look_style(n), n % MARKERS) for n in range(COLOURS * DASHES * MARKERS)}
    assert len(looks) == COLOURS * DASHES * MARKERS
    shown = [swatch(n) for n in range(7)]
    assert len({re.sub(r"\bc\d", "", one) for one in shown}) == 7  # and without any colour
    assert swatch(0) != swatch(0, muted=True) != swatch(0, style="floor")


def test_a_dot_chart_has_a_row_for_each():
    rows = [("one <&", interval(0.5), interval(0.1)), ("two", UNKNOWN, None), ("three", None, None)]
    found = drawings(
        dot_chart(rows, Axis("score", -0.5, 1.5), "about", [Level("e", 1.0, "expert")])
    )
    for drawing in found:
        assert {"one <&", "two", "three"} <= set(texts(drawing))
        styles = [one.get("class") for one in drawing.iter("circle")]
        assert sorted(styles) == ["dot own", "dot own", "dot twin"]
        width = float(drawing.get("width"))
        assert all(0 < float(one.get("cx")) < width for one in drawing.iter("circle"))


def test_what_lies_beyond_an_axis_is_drawn_at_its_end():
    (wide, _) = drawings(dot_chart([("far", interval(-99.0), None)], Axis("x", -1.0, 1.0), "about"))
    (dot,) = wide.iter("circle")
    assert float(dot.get("cx")) == 300.0


@given(
    st.floats(-1e9, 1e9),
    st.floats(1e-6, 1e9),
    st.integers(2, 8),
    st.booleans(),
)
def test_ticks_are_round_and_within(low, width, count, whole):
    high = low + width
    if not high > low:
        return
    ticks = nice_ticks(low, high, count, whole)
    assert len(ticks) <= 2.6 * count + 2
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert all(low - slack <= one <= high + slack for one in ticks)
    assert ticks == sorted(set(ticks))
    if whole:
        assert all(one == round(one) for one in ticks)


def test_common_ticks():
    assert nice_ticks(0.0, 1.0, 4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert nice_ticks(-30.0, 118.0, 3) == [0.0, 50.0, 100.0]
    assert nice_ticks(1.0, 4.0, 7, whole=True) == [1.0, 2.0, 3.0, 4.0]


def test_the_way_of_a_line_in_words():
    assert way(line()) == "from 0.00 to 4.00"
    assert way(line(values=(12.0,))) == "at 12.0"
