"""The canvas on which families draw themselves, and pictures in files and terminals."""

import re

import numpy as np
import pytest
from PIL import Image

from gla.envs import drawing
from gla.envs.drawing import AGENT, BACKGROUND, BODY, GOAL, HAZARD, Canvas
from gla.errors import GlaError


def shows(canvas, colour):
    """Where a canvas has exactly this colour, bool[size, size]."""
    return (canvas.array() == colour).all(-1)


def test_an_empty_canvas_is_background():
    picture = Canvas(size=16).array()
    assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8
    assert (picture == BACKGROUND).all()


def test_x_points_right_and_y_points_up():
    canvas = Canvas((-1, -1), (1, 1), 64)
    canvas.disc((0.5, 0.5), 0.1, AGENT)
    rows, columns = np.nonzero(shows(canvas, AGENT))
    assert rows.mean() == pytest.approx(15.5, abs=1) and columns.mean() == pytest.approx(47.5, 0.05)
    assert rows.size == pytest.approx(np.pi * 3.2**2, rel=0.35)


def test_a_wide_world_is_fitted_whole_and_keeps_discs_round():
    canvas = Canvas((0, 0), (4, 1), 80)
    canvas.disc((0.5, 0.5), 0.5, GOAL)
    rows, columns = np.nonzero(shows(canvas, GOAL))
    assert columns.min() <= 1 and np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)
    assert rows.mean() == pytest.approx(39.5, abs=1)


def test_lines_have_their_width_in_the_world_and_round_ends():
    canvas = Canvas(-1, 1, 100)
    canvas.line([(-0.5, 0), (0.5, 0)], BODY, 0.2)
    body = shows(canvas, BODY)
    assert body[:, 50].sum() == pytest.approx(10, abs=1)
    assert body[50].sum() == pytest.approx(60, abs=2)  # half a width beyond both ends
    thin = Canvas(-1, 1, 128)
    thin.line([(-1, -1), (0, 0), (1, 0.3)])
    assert 60 < (thin.array() != BACKGROUND).any(-1).sum() < 600


def test_polygons_fill_their_corners_and_later_shapes_cover_earlier_ones():
    canvas = Canvas(0, 1, 40)
    canvas.polygon([(0, 0), (1, 0), (1, 0.5), (0, 0.5)], HAZARD)
    assert shows(canvas, HAZARD).sum() == pytest.approx(800, rel=0.1)
    canvas.polygon([(0, 0), (1, 0), (1, 1), (0, 1)], GOAL)
    assert shows(canvas, HAZARD).sum() == 0


def test_edges_are_smoothed():
    canvas = Canvas(-1, 1, 64)
    canvas.disc((0, 0), 0.7, AGENT)
    colours = np.unique(canvas.array().reshape(-1, 3), axis=0)
    assert len(colours) > 4


def test_small_discs_are_still_seen():
    canvas = Canvas(-1, 1, 32)
    canvas.disc((0, 0), 1e-6, AGENT)
    assert (canvas.array() != BACKGROUND).any()


def test_text_stands_in_the_middle_of_its_place():
    canvas = Canvas(-1, 1, 64)
    canvas.text((0.5, -0.5), 37, height=0.4)
    rows, columns = np.nonzero((canvas.array() != BACKGROUND).any(-1))
    assert abs(rows.mean() - 47.5) < 3 and abs(columns.mean() - 47.5) < 3


def test_outlines_stand_at_the_edge():
    canvas = Canvas(-1, 1, 64)
    canvas.disc((0, 0), 0.5, GOAL, outline=BODY)
    canvas.polygon([(-1, -1), (-0.5, -1), (-0.5, -0.5), (-1, -0.5)], HAZARD, outline=BODY)
    assert shows(canvas, BODY).any() and shows(canvas, GOAL).any() and shows(canvas, HAZARD).any()


def test_what_lies_far_outside_is_cut_off():
    canvas = Canvas(-1, 1, 32)
    canvas.line([(0, 0), (1e30, 0)], AGENT, 0.2)
    canvas.disc((1e30, -1e30), 0.5, GOAL)
    assert shows(canvas, AGENT)[16, 20:].all() and not shows(canvas, GOAL).any()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: Canvas(1, -1), "corners"),
        (lambda: Canvas(0, np.inf), "corners"),
        (lambda: Canvas(size=0), "size"),
        (lambda: Canvas().disc((np.nan, 0), 1), "finite coordinates"),
        (lambda: Canvas().disc((0, 0), -1), "at least 0"),
        (lambda: Canvas().line([(0, 0)]), "at least 2 pairs"),
        (lambda: Canvas().polygon([(0, 0), (1, 1)]), "at least 3 pairs"),
        (lambda: Canvas().line([0, 1, 2]), "pairs"),
        (lambda: drawing.mix(BODY, GOAL, np.nan), "from 0 to 1"),
        (lambda: drawing.half_blocks(np.zeros((4, 4), np.uint8)), "height, width, 3"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(draw, message):
    with pytest.raises(GlaError, match=message) as caught:
        draw()
    assert "\n" not in str(caught.value)


def test_mixing_goes_from_one_colour_to_the_other():
    assert drawing.mix((0, 10, 20), (100, 10, 0), 0.5) == (50, 10, 10)
    assert drawing.mix(BODY, GOAL, -3) == BODY and drawing.mix(BODY, GOAL, 3) == GOAL


def test_half_blocks_hold_two_pixels_to_a_character():
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4, :, 0] = 255  # red above, black below
    lines = drawing.half_blocks(picture, columns=4).split("\n")
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines] == ["▀" * 4] * 2
    assert lines[0].startswith("\x1b[38;2;255;0;0m\x1b[48;2;255;0;0m")
    assert lines[1].startswith("\x1b[38;2;0;0;0m") and lines[1].endswith("\x1b[0m")
    assert "\x1b[38;5;196m" in drawing.half_blocks(picture, 4, true_colour=False)


def test_pictures_are_saved_whole_or_small(tmp_path):
    canvas = Canvas(-1, 1, 64)
    canvas.disc((0, 0), 0.5, AGENT)
    path = drawing.save(canvas.array(), tmp_path / "new" / "whole.png")
    assert (np.asarray(Image.open(path)) == canvas.array()).all()
    small = Image.open(drawing.save(canvas.array(), tmp_path / "small.png", height=32))
    assert small.size == (32, 32) and len(small.getcolors()) <= 64
    with pytest.raises(GlaError, match=r"ends in \.png"):
        drawing.save(canvas.array(), tmp_path / "whole.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(GlaError, match="cannot be written"):
        drawing.save(canvas.array(), tmp_path / "file" / "a.png")
