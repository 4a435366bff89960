"""How long a loss stays at its first level before learning to learn begins (GPICL, section 4.3).

The paper speaks of the length of the loss plateau and does not say how it is measured. Here

- the curve is smoothed by a running median and then a running mean over about 2% of its points;
- the *level* is what is known, such as log C, the loss of guessing among C classes, or else the
  median of the first stretch of 5% of the points, and at least `SETTLED`, that stay within `BAND`
  of each other, or within the noise where that is more;
- the plateau *starts* where the smoothed curve first comes down to the level;
- it *ends* where the smoothed curve falls below the level by `FALL`, or by `NOISES` times the noise
  where that is more, and stays below for `SETTLED` points. How far the loss falls later, and how
  long training goes on, has no influence;
- there is *no plateau* where the curve goes through the level without settling there: where fewer
  than `SETTLED` points in a row lie between BAND above and BAND below it, or above that. Where the
  level is not known, a curve that settles only after it has lost `INITIAL` of its first value, and
  does not lose as large a share once more, has learned: it has none either.

What lasts fewer points than it takes to settle cannot be told from none. A plateau that is not
left by the end of the curve has the length seen so far: the true one is at least that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from gla.errors import GlaError

BAND = 0.01  # share of the level
FALL = 0.02  # share of the level
NOISES = 4.0  # standard deviations of the smoothed curve
SETTLED = 4  # points
INITIAL = 0.25  # share of the first value
FEWEST = 2 * SETTLED  # points of a curve
_STRETCH = 0.05  # share of the points
_SPAN = 0.02  # share of the points that are smoothed over
# The standard deviation of a normal distribution in units of its median absolute deviation.
_NORMAL = 1.4826


class Plateau(NamedTuple):
    """The plateau of a loss curve.

    Attributes:
        start: step at which it begins.
        end: step at which it is left; the last step if it never is.
        length: end - start, in steps; 0 where there is none.
        drop: how far the smoothed loss falls below the level after the end, in the units of the
            loss; 0 if the plateau is never left.
        left: whether the curve goes on below the level; if not, the length is a lower bound.
    """

    start: float
    end: float
    length: float
    drop: float
    left: bool


def smooth(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """Smooth a curve as `find_plateau` does, f64[N].

    Args:
        losses: f64[N], evenly spaced.
    """
    values = np.asarray(losses, np.float64)
    size = _window(len(values))
    return ndimage.uniform_filter1d(
        ndimage.median_filter(values, size, mode="nearest"), size, mode="nearest"
    )


def _window(points: int) -> int:
    """Return how many points are smoothed over, an odd number >= 3."""
    return max(3, round(_SPAN * points) // 2 * 2 + 1)


def find_plateau(
    steps: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    level: float | None = None,
) -> Plateau:
    """Find where a loss curve stays at its first level and where it leaves it.

    The definition is at the top of this module.

    Args:
        steps: f64[N], ascending, about evenly spaced; N >= FEWEST.
        losses: f64[N], positive.
        level: that the curve is expected to settle at, above 0, such as log C for uniformly
            permuted labels of C classes; None finds it in the curve.

    Raises:
        GlaError: if the curve is too short, not in order, or holds a value that is not a positive
            number.
    """
    times, values = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    if times.shape != values.shape or values.ndim != 1 or len(values) < FEWEST:
        raise GlaError(
            f"a curve has steps shaped {times.shape} and losses shaped {values.shape}",
            f"as many of both, {FEWEST} at least",
            "log more often, or train longer",
        )
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise GlaError("the steps of a curve are not in order", "ascending numbers")
    if not np.isfinite(values).all() or (values <= 0).any():
        raise GlaError("a curve holds a loss that is not a positive number", "finite losses > 0")
    if level is not None and not 0 < level < np.inf:
        raise GlaError(f"the level of a plateau is {level}", "a number above 0")
    curve = smooth(values)
    noise = _noise(values, curve)
    none = Plateau(float(times[0]), float(times[0]), 0.0, 0.0, True)
    found = _settled(curve, noise) if level is None else level
    if found is None:
        return none
    band, fall = max(BAND * found, 2 * noise), max(FALL * found, NOISES * noise)
    flat = np.abs(curve - found) <= band
    if level is not None:
        flat |= curve > found  # overconfident guesses are no better than chance
    if _first_run(flat) is None:
        return none
    first = int(np.argmax(curve <= found + band))
    come_down = level is None and found < (1 - INITIAL) * values[0]
    if come_down and curve[first:].min() > (1 - INITIAL) * found:
        return none
    low = _first_run(curve[first:] < found - fall)
    if low is None:
        length = float(times[-1] - times[first])
        return Plateau(float(times[first]), float(times[-1]), length, 0.0, False)
    end = first + low
    if level is not None and _first_run(flat[: end + 1]) is None:
        return none
    start = float(times[first])
    drop = float(found - curve[end:].min())
    return Plateau(start, float(times[end]), float(times[end]) - start, drop, True)


def _noise(values: np.ndarray, curve: np.ndarray) -> float:
    """Estimate the standard deviation of the smoothed curve around the true one."""
    deviations = np.abs(values - curve)
    return float(_NORMAL * np.median(deviations) / np.sqrt(_window(len(values))))


def _settled(curve: np.ndarray, noise: float) -> float | None:
    """Return the first level at which the curve settles."""
    points = max(SETTLED, round(_STRETCH * len(curve)))
    parts = np.lib.stride_tricks.sliding_window_view(curve, points)
    widths = parts.max(1) - parts.min(1)
    calm = widths <= np.maximum(BAND * np.median(parts, 1), 2 * noise)
    return float(np.median(parts[np.argmax(calm)])) if calm.any() else None


def _first_run(true: np.ndarray) -> int | None:
    """Return where the first `SETTLED` in a row begin."""
    if len(true) < SETTLED:
        return None
    runs = np.lib.stride_tricks.sliding_window_view(true, SETTLED).all(1)
    return int(np.argmax(runs)) if runs.any() else None
