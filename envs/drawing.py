"""A small canvas in world coordinates, with which the package's own families draw themselves.

The drawing is done with Pillow at three times the size and scaled down, which smooths every edge.
It runs on the host, outside `jit`: coordinates are concrete numbers or arrays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gla.envs.checks import check_count
from gla.errors import GlaError

Colour = tuple[int, int, int]

# One palette (red, green, blue in 0..255) for all families, told apart by the colour-blind too.
BACKGROUND: Colour = (250, 249, 245)  # the empty world
GRID: Colour = (221, 219, 211)  # floor tiles, axes, cells, guides
WALL: Colour = (120, 120, 124)  # what cannot be entered, mounts, tracks
BODY: Colour = (68, 84, 106)  # links, masses, and whatever moves without being the agent
AGENT: Colour = (0, 114, 178)  # the agent, or the end of the arm that has to arrive
GOAL: Colour = (0, 148, 108)  # where to go
HAZARD: Colour = (206, 82, 10)  # where not to go, and forces
TRAIL: Colour = (86, 170, 224)  # where the agent has been, or what it has just done
TEXT: Colour = (40, 40, 44)  # words and numbers

_OVERSAMPLING = 3
_FAR = 1e4  # pixels: coordinates beyond are drawn here, out of sight, to keep Pillow's within range


def mix(start: Colour, end: Colour, fraction: Any) -> Colour:
    """Return the colour a `fraction` (float in [0, 1], clipped) of the way from `start` to `end`.

    Raises:
        GlaError: if the fraction is not finite.
    """
    weight = float(fraction)
    if not np.isfinite(weight):
        raise GlaError(f"a colour is to be mixed by {weight}", "a number from 0 to 1")
    weight = min(max(weight, 0.0), 1.0)
    red, green, blue = (round(a + weight * (b - a)) for a, b in zip(start, end, strict=True))
    return red, green, blue


class Canvas:
    """A square picture of a rectangle of the world; x points right and y up.

    A rectangle that is not square is fitted whole and centred, so that a disc stays round. Later
    shapes cover earlier ones; what lies outside the picture is cut off.

    Args:
        low: lower left corner (x, y) of what must be seen, or one number for both.
        high: upper right corner (x, y), or one number for both; above `low` in both.
        size: side of the picture in pixels, at least 1.
        background: colour of the empty canvas.

    Raises:
        GlaError: if a corner is not finite, `high` is not above `low`, or the size is no count.
    """

    def __init__(
        self,
        low: Any = -1.0,
        high: Any = 1.0,
        size: int = 256,
        background: Colour = BACKGROUND,
    ):
        from PIL import Image, ImageDraw

        self.size = check_count("size", size)
        corners = [np.broadcast_to(np.asarray(c, np.float64), (2,)) for c in (low, high)]
        span = corners[1] - corners[0]
        if not (np.isfinite(corners).all() and (span > 0).all()):
            raise GlaError(
                f"a canvas is to reach from {corners[0].tolist()} to {corners[1].tolist()}",
                "finite corners, the second above the first",
            )
        self._scale = _OVERSAMPLING * self.size / float(span.max())  # fine pixels per world unit
        self._centre = (corners[0] + corners[1]) / 2
        side = _OVERSAMPLING * self.size
        self._image = Image.new("RGB", (side, side), background)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Any, colour: Colour = BODY, width: Any = None) -> None:
        """Draw a line through points, with round ends and joints.

        Args:
            points: f[n, 2], n >= 2, world coordinates.
            colour: of the line.
            width: in world units (default: 1/128 of the picture); at least one fine pixel.

        Raises:
            GlaError: if a coordinate or the width is not finite, or there are not enough points.
        """
        path = self._pixels(points, 2)
        thickness = self._length(width, 1 / 128)
        self._draw.line(path, fill=colour, width=max(round(thickness), 1))
        if thickness > 2:
            for x, y in path:
                self._ellipse(x, y, thickness / 2, colour, None)

    def disc(
        self, centre: Any, radius: Any, colour: Colour = AGENT, outline: Colour | None = None
    ) -> None:
        """Draw a filled disc.

        Args:
            centre: f[2], world coordinates.
            radius: in world units; drawn with a radius of at least one pixel, so that it is seen.
            colour: of the inside.
            outline: of a thin edge, if any.

        Raises:
            GlaError: if a number is not finite.
        """
        ((x, y),) = self._pixels([centre], 1)
        self._ellipse(x, y, max(self._length(radius, 0), _OVERSAMPLING), colour, outline)

    def polygon(self, points: Any, colour: Colour = BODY, outline: Colour | None = None) -> None:
        """Draw a filled polygon.

        Args:
            points: f[n, 2], n >= 3, its corners in world coordinates.
            colour: of the inside.
            outline: of a thin edge, if any.

        Raises:
            GlaError: if a coordinate is not finite, or there are not enough points.
        """
        self._draw.polygon(
            self._pixels(points, 3), fill=colour, outline=outline, width=_OVERSAMPLING
        )

    def text(self, position: Any, words: Any, colour: Colour = TEXT, height: Any = None) -> None:
        """Write a line of text, centred on a position.

        Args:
            position: f[2], world coordinates of its middle.
            words: what to write, such as a string or a number.
            colour: of the letters.
            height: of the letters in world units (default: 1/16 of the picture).

        Raises:
            GlaError: if a number is not finite.
        """
        from PIL import ImageFont

        ((x, y),) = self._pixels([position], 1)
        font = ImageFont.load_default(max(self._length(height, 1 / 16), 1.0))
        self._draw.text((x, y), str(words), fill=colour, font=font, anchor="mm")

    def array(self) -> np.ndarray:
        """Return the picture so far, uint8[size, size, 3], red, green, blue."""
        from PIL import Image

        small = self._image.resize((self.size, self.size), Image.Resampling.BOX)
        return np.array(small, np.uint8)

    def _pixels(self, points: Any, least: int) -> list[tuple[float, float]]:
        """Return world coordinates f[n, 2] as fine pixels, y down."""
        world = np.asarray(points, np.float64)
        if world.ndim != 2 or world.shape[1] != 2 or len(world) < least:
            raise GlaError(
                f"points of shape {world.shape} are to be drawn",
                f"at least {least} pairs (x, y)",
            )
        if not np.isfinite(world).all():
            raise GlaError(
                f"a point to be drawn is {world[~np.isfinite(world).all(1)][0].tolist()}",
                "finite coordinates",
            )
        offset = (world - self._centre) * self._scale
        middle = _OVERSAMPLING * self.size / 2
        fine = np.clip(np.stack([middle + offset[:, 0], middle - offset[:, 1]], 1), -_FAR, _FAR)
        return [(float(x), float(y)) for x, y in fine]

    def _length(self, world: Any, default: float) -> float:
        """Return a length in fine pixels; None is a fraction `default` of the picture's side."""
        if world is None:
            return default * _OVERSAMPLING * self.size
        length = float(world) * self._scale
        if not (np.isfinite(length) and length >= 0):
            raise GlaError(f"a length to be drawn is {float(world)}", "a number of at least 0")
        return min(length, _FAR)

    def _ellipse(self, x: float, y: float, r: float, colour: Colour, outline: Colour | None):
        box = (x - r, y - r, x + r, y + r)
        self._draw.ellipse(box, fill=colour, outline=outline, width=_OVERSAMPLING)


def half_blocks(picture: np.ndarray, columns: int = 40, true_colour: bool = True) -> str:
    """Return a picture as lines of text for a terminal, two pixels to a character.

    Args:
        picture: uint8[height, width, 3].
        columns: characters in a line.
        true_colour: write 24-bit colours; else the nearest of the 256 that most terminals have.

    Raises:
        GlaError: if the picture has another shape.
    """
    from PIL import Image

    if picture.ndim != 3 or picture.shape[2] != 3:
        raise GlaError(f"the picture has shape {picture.shape}", "(height, width, 3)")
    columns = check_count("columns", columns)
    height, width = picture.shape[:2]
    rows = max(round(columns * height / width / 2), 1)
    small = Image.fromarray(picture).resize((columns, 2 * rows), Image.Resampling.BOX)
    pixels = np.array(small, np.int32)

    def code(pixel: np.ndarray) -> str:
        if true_colour:
            return "2;" + ";".join(str(part) for part in pixel)
        red, green, blue = (round(part / 255 * 5) for part in pixel.tolist())
        return f"5;{16 + 36 * red + 6 * green + blue}"

    lines = []
    for top, bottom in zip(pixels[::2], pixels[1::2], strict=True):
        cells = (
            f"\x1b[38;{code(a)}m\x1b[48;{code(b)}m\u2580" for a, b in zip(top, bottom, strict=True)
        )
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def save(picture: np.ndarray, path: str | Path, height: int | None = None) -> Path:
    """Write a picture as a PNG file, in folders that are made if they are missing.

    Args:
        picture: uint8[height, width, 3].
        path: of the file, ending in `.png`.
        height: scale it to this many rows and keep 64 colours, for pages that load quickly
            (default: as it is).

    Returns:
        The path of the file.

    Raises:
        GlaError: if the name does not end in `.png`, or the file cannot be written.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise GlaError(f"the picture is to be written to {path}", "a name that ends in .png")
    image = Image.fromarray(picture)
    if height is not None:
        size = max(round(image.width * height / image.height), 1), height
        image = image.resize(size, Image.Resampling.LANCZOS).quantize(64, dither=Image.Dither.NONE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, optimize=True)
    except OSError as error:
        raise GlaError(
            f"{path} cannot be written ({error.strerror or error})", "a folder you may write to"
        ) from error
    return path
