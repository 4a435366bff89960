"""Moving pictures of a lifetime: two episodes side by side above the returns of all of them.

Drawn with Pillow, the curve with matplotlib. A GIF needs nothing else, an MP4 needs ffmpeg.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gla.envs.catalog import number
from gla.envs.drawing import TEXT
from gla.errors import GlaError
from gla.files import os_errors

SUFFIXES = (".gif", ".mp4")
MOST_FRAMES = 150  # of an episode; of a longer one every second, fourth, eighth ... step is shown

_AGENT, _NULL, _EXPERT = "#0072B2", "#6B6B6B", "#007A5A"  # as in `gla.benchmarks.plots`
_MUTED = (110, 110, 114)
_GAP, _LINE, _CURVE, _LEAST_WIDTH = 12, 18, 170, 420  # pixels
_SECONDS, _LEAST_RATE, _MOST_RATE, _HOLD = 7.0, 4, 20, 1.5  # of a film; pictures per second


class Reel:
    """Pictures of one episode, thinned while they are taken, so that a long one fits into memory.

    Every `stride`-th step is kept, a power of two, and the last step in any case.

    Args:
        number: of the episode, from 1.
    """

    def __init__(self, number: int):
        self.number, self.stride, self.length, self.total = number, 1, 0, 0.0
        self._taken: dict[int, tuple[np.ndarray, float]] = {}

    def wants(self, step: int) -> bool:
        """Return whether the picture after so many steps (0: the start) is to be taken."""
        return step % self.stride == 0

    def take(self, step: int, picture: np.ndarray, total: float) -> None:
        """Keep a picture, uint8[height, width, 3], and the return up to there."""
        self._taken[step] = picture, total
        self.length, self.total = step, total
        if len(self._taken) > MOST_FRAMES:
            self.stride *= 2
            self._taken = {s: shot for s, shot in self._taken.items() if s % self.stride == 0}

    def shots(self, stride: int) -> list[tuple[int, np.ndarray, float]]:
        """Return (step, picture, return so far) of every `stride`-th step and of the last one.

        Args:
            stride: a power of two, at least the reel's own.
        """
        return [
            (step, *shot)
            for step, shot in sorted(self._taken.items())
            if step % stride == 0 or step == self.length
        ]


@dataclass(frozen=True)
class Film:
    """What is shown.

    Attributes:
        title: a line above everything.
        reels: one or two episodes, side by side.
        returns: of all episodes of the lifetime, in order.
        null: return of the best null controller, if known.
        expert: return of the expert, if known.
    """

    title: str
    reels: Sequence[Reel]
    returns: Sequence[float]
    null: float | None = None
    expert: float | None = None

    @property
    def stride(self) -> int:
        """Every how many steps there is a picture, in both episodes."""
        return max(reel.stride for reel in self.reels)


def pictures(film: Film) -> list[Any]:
    """Return the pictures of a film, RGB images of one size, even in width and height.

    The shorter of two episodes holds its last picture until the longer one ends.
    """
    from PIL import Image, ImageDraw

    shots = [reel.shots(film.stride) for reel in film.reels]
    height, width = np.max([shot[0][1].shape[:2] for shot in shots], axis=0).tolist()
    panels = len(shots) * width + (len(shots) - 1) * _GAP
    total_width = _even(max(panels + 2 * _GAP, _LEAST_WIDTH))
    above = _GAP + _LINE + _GAP // 2
    below = above + 2 * _LINE + height + _GAP
    blank = Image.new("RGB", (total_width, _even(below + _CURVE)), "white")
    draw = ImageDraw.Draw(blank)
    draw.text((_GAP, _GAP), _cut(film.title, total_width - 2 * _GAP), TEXT, _font(14))
    blank.paste(_curve(film, total_width, _CURVE), (0, below))
    left = (total_width - panels) // 2
    lefts = [left + i * (width + _GAP) for i in range(len(shots))]
    for reel, x in zip(film.reels, lefts, strict=True):
        draw.text((x, above), f"episode {reel.number}", TEXT, _font(14))
        words = f"return {number(reel.total)}"
        draw.text((x + width, above), words, TEXT, _font(14), anchor="ra")
    found = []
    for i in range(max(map(len, shots))):
        picture = blank.copy()
        draw = ImageDraw.Draw(picture)
        for reel, shot, x in zip(film.reels, shots, lefts, strict=True):
            step, pixels, so_far = shot[min(i, len(shot) - 1)]
            y = above + _LINE
            draw.text((x, y), f"step {step} of {reel.length}", _MUTED, _font(12))
            draw.text((x + width, y), number(so_far), _MUTED, _font(12), anchor="ra")
            picture.paste(Image.fromarray(pixels), (x, y + _LINE))
        found.append(picture)
    return found


def _even(size: int) -> int:
    return size + size % 2  # MP4 stores colours for two by two pixels


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _cut(text: str, width: int) -> str:
    """Return a text that fits into so many pixels."""
    if _font(14).getlength(text) <= width:
        return text
    while text and _font(14).getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _curve(film: Film, width: int, height: int) -> Any:
    """Draw return per episode, with the floor and the expert as lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from PIL import Image

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((72 / width, 38 / height, (width - 152) / width, (height - 48) / height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, color="#888888")
    axes.grid(color="#E4E4E4", lw=0.8)
    axes.set_axisbelow(True)
    episodes = np.arange(1, len(film.returns) + 1)
    marker = "o" if len(episodes) <= 30 else ""
    axes.plot(episodes, film.returns, color=_AGENT, lw=1.6, marker=marker, ms=3.5, zorder=3)
    shown = [reel.number for reel in film.reels]
    axes.plot(
        shown, [film.returns[n - 1] for n in shown], "o", ms=7, mfc="white", mec=_AGENT, mew=1.6,
        zorder=4,
    )  # fmt: skip
    for value, name, colour, style in (
        (film.null, "best null", _NULL, "-"),
        (film.expert, "expert", _EXPERT, "--"),
    ):
        if value is not None:
            axes.axhline(value, color=colour, lw=1.2, ls=style)
            axes.annotate(
                name, (1, value), xycoords=("axes fraction", "data"), xytext=(5, 0),
                textcoords="offset points", va="center", color=colour, fontsize=8,
            )  # fmt: skip
    axes.margins(x=0.03, y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel("episode", fontsize=8)
    axes.set_ylabel("return", fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def rate(frames: int) -> int:
    """Return how many pictures a second show so many in about seven seconds, within reason."""
    return int(np.clip(round(frames / _SECONDS), _LEAST_RATE, _MOST_RATE))


def check_name(path: str | os.PathLike[str]) -> Path:
    """Return where a film is to be written, if it can be.

    Raises:
        GlaError: if the name ends in neither `.gif` nor `.mp4`, or there is no ffmpeg for an MP4.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise GlaError(f"the film is to be written to {path}", "a name that ends in .gif or .mp4")
    if path.suffix.lower() == ".mp4":
        _ffmpeg()
    return path


def write_film(images: Sequence[Any], path: str | os.PathLike[str]) -> Path:
    """Write pictures as a GIF that begins anew after a pause, or as an MP4, by the file's name.

    A reader sees the whole new file or the old one.

    Args:
        images: RGB images of one size, even in width and height.
        path: of the file, in folders that are made if they are missing.

    Raises:
        GlaError: as `check_name`, and if the file cannot be written.
    """
    path = check_name(path)
    write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
    with os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
        os.close(handle)
        try:
            write(images, temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    return path


def _write_gif(images: Sequence[Any], path: str) -> None:
    from PIL import Image

    # One palette for all, from some of them side by side, so that what stands still stays equal.
    some = [images[i] for i in np.linspace(0, len(images) - 1, min(len(images), 12)).astype(int)]
    width, height = some[0].size
    sheet = Image.new("RGB", (width * len(some), height))
    for i, image in enumerate(some):
        sheet.paste(image, (i * width, 0))
    palette = sheet.quantize(128, dither=Image.Dither.NONE)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    each = round(100 / rate(len(images))) * 10  # whole hundredths of a second, in milliseconds
    durations = [each] * (len(flat) - 1) + [each + round(1000 * _HOLD)]
    flat[0].save(
        path, format="GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0,
        optimize=True,  # what stands still is not stored again
    )  # fmt: skip


def _write_mp4(images: Sequence[Any], path: str) -> None:
    width, height = images[0].size
    fps = rate(len(images))
    command = [
        _ffmpeg(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", str(fps), "-i", "-", "-an",
        "-pix_fmt", "yuv420p", "-movflags", "+faststart", path,
    ]  # fmt: skip
    shown = [*images, *[images[-1]] * round(fps * _HOLD)]
    data = b"".join(image.tobytes() for image in shown)
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
        raise GlaError(f"ffmpeg cannot write an MP4: {said[-1]}", mend="write a .gif instead")


def _ffmpeg() -> str:
    """Return the path of ffmpeg: that of imageio-ffmpeg, or one that is installed.

    Raises:
        GlaError: if there is none.
    """
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        found = shutil.which("ffmpeg")
    if found is None:
        raise GlaError(
            "an MP4 needs ffmpeg, which is not installed",
            mend="run `pip install imageio-ffmpeg`, or write a .gif instead",
        )
    return found
