"""Plateaus of curves whose plateaus are known."""

import math

import numpy as np
import pytest

from gla.errors import GlaError
from gla.gpicl.plateau import FALL, SETTLED, find_plateau

CHANCE = math.log(10)
STEPS = np.arange(25, 5001, 25)


def curve(left_at, steps=STEPS, final=0.9, pace=300.0, first=CHANCE + 0.2):
    """A short fall to chance, a plateau, and an exponential fall from `left_at` on."""
    start = (first - CHANCE) * np.exp(-steps / 20)
    fall = np.where(steps > left_at, 1 - np.exp(-(steps - left_at) / pace), 0.0)
    return CHANCE + start - (CHANCE - final) * fall


def left_below_band(left_at, final=0.9, pace=300.0):
    """The step at which that curve has fallen by the share that ends a plateau."""
    return left_at - pace * math.log(1 - FALL * CHANCE / (CHANCE - final))


@pytest.mark.parametrize("level", [None, CHANCE])
@pytest.mark.parametrize("left_at", [500, 2000, 4000])
def test_length_of_a_known_plateau(left_at, level):
    found = find_plateau(STEPS, curve(left_at), level)
    assert found.left
    assert found.end == pytest.approx(left_below_band(left_at), abs=60)
    assert found.start <= 100
    assert found.length == found.end - found.start
    settled = CHANCE - curve(left_at)[-1]
    assert found.drop == pytest.approx(settled, rel=0.02)


@pytest.mark.parametrize("level", [None, CHANCE])
@pytest.mark.parametrize("seed", range(5))
def test_noise_and_outliers_move_it_little(level, seed):
    rng = np.random.default_rng(seed)
    values = curve(2000) + 0.06 * rng.standard_normal(len(STEPS))
    values[[20, 60, 150]] += [-1.2, 3.0, 2.0]
    found = find_plateau(STEPS, values, level)
    assert found.left and found.end == pytest.approx(left_below_band(2000), abs=150)
    assert found.start <= 250


@pytest.mark.parametrize("level", [None, CHANCE])
def test_one_that_is_never_left_is_a_lower_bound(level):
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(STEPS))
    found = find_plateau(STEPS, curve(10_000) + noise, level)
    assert not found.left and found.drop == 0.0
    assert found.end == STEPS[-1] and found.length >= STEPS[-1] - 200


@pytest.mark.parametrize("level", [None, CHANCE])
def test_a_curve_that_falls_at_once_has_none(level):
    # Also where it comes to rest far below: that is the end of learning.
    for pace in (100.0, 800.0):
        found = find_plateau(STEPS, curve(0, pace=pace, first=CHANCE), level)
        assert (found.length, found.drop, found.left) == (0.0, 0.0, True)


def test_the_slow_memory_of_a_bias_is_part_of_the_plateau():
    # GPICL, Fig. 6b: the loss falls a little all the time before it drops.
    values = curve(3000) - 0.01 * CHANCE * np.minimum(STEPS / 3000, 1)
    found = find_plateau(STEPS, values)
    assert found.left and found.length == pytest.approx(left_below_band(3000), abs=150)


def test_guesses_that_are_worse_than_chance_have_not_left_it():
    values = curve(2500) + 1.5 * np.exp(-(((STEPS - 1000) / 400) ** 2))
    found = find_plateau(STEPS, values, CHANCE)
    assert found.left and found.end == pytest.approx(left_below_band(2500), abs=100)


def test_a_high_first_loss_needs_the_level_only_where_nothing_follows():
    high = curve(2000, first=8.0)
    assert find_plateau(STEPS, high).end == pytest.approx(left_below_band(2000), abs=100)
    never = curve(10_000, first=8.0)
    assert find_plateau(STEPS, never).length == 0.0
    assert find_plateau(STEPS, never, CHANCE).length > 4500


def test_it_does_not_depend_on_what_comes_later():
    whole, cut = curve(2000), curve(2000)[:120]
    assert find_plateau(STEPS, whole).length == pytest.approx(
        find_plateau(STEPS[:120], cut).length, abs=50
    )
    assert find_plateau(STEPS[:120], cut).left


def test_short_curves():
    steps = np.arange(1, 9) * 100
    flat = find_plateau(steps, np.full(8, CHANCE))
    assert (flat.start, flat.length, flat.left) == (100, 700, False)
    with pytest.raises(GlaError, match="8 at least"):
        find_plateau(steps[:7], np.full(7, CHANCE))
    # What lasts fewer points than it takes to settle is none.
    values = np.full(20, 1.0)
    values[: SETTLED - 2] = CHANCE
    assert find_plateau(np.arange(20), values, CHANCE).length == 0.0


def test_what_is_no_curve_is_refused():
    values = curve(2000)
    for bad in (np.nan, np.inf, 0.0, -1.0):
        broken = values.copy()
        broken[7] = bad
        with pytest.raises(GlaError, match="not a positive number"):
            find_plateau(STEPS, broken)
    with pytest.raises(GlaError, match="not in order"):
        find_plateau(STEPS[::-1], values)
    with pytest.raises(GlaError, match="as many of both"):
        find_plateau(STEPS[:-1], values)
    with pytest.raises(GlaError, match="level"):
        find_plateau(STEPS, values, math.nan)
