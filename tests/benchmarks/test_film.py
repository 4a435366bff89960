"""Moving pictures: what is kept, what is shown, what is written."""

import stat
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from gla.benchmarks import film
from gla.benchmarks.film import Film, Reel, check_name, pictures, rate, write_film
from gla.errors import GlaError


def colour(step):
    return np.full((20, 24, 3), (step % 7 * 30, 40, 200), np.uint8)


def reel(number, length):
    taken = Reel(number)
    for step in range(length + 1):
        if taken.wants(step) or step == length:
            taken.take(step, colour(step), -0.5 * step)
    return taken


@pytest.mark.parametrize(
    ("length", "stride", "shots"), [(1, 1, 2), (149, 1, 150), (150, 2, 76), (1001, 8, 127)]
)
def test_a_long_episode_is_thinned_evenly_and_keeps_its_end(length, stride, shots):
    taken = reel(1, length)
    found = taken.shots(taken.stride)
    assert (taken.stride, taken.length, taken.total) == (stride, length, -0.5 * length)
    steps = [step for step, _, _ in found]
    assert steps == [*range(0, length, stride), length] and len(steps) == shots
    assert len(steps) <= film.MOST_FRAMES
    for step, picture, total in found:
        assert (picture == colour(step)).all() and total == -0.5 * step


def test_two_episodes_run_at_one_pace_and_the_shorter_holds_its_last_picture():
    short, long = reel(1, 10), reel(4, 300)
    shown = Film("a title", [short, long], [1.0, 2.0, 3.0, 4.0], null=0.5, expert=5.0)
    assert shown.stride == long.stride == 4
    found = pictures(shown)
    assert len(found) == 76  # 0, 4, ..., 300
    sizes = {image.size for image in found}
    assert len(sizes) == 1 and not any(side % 2 for side in sizes.pop())
    width = found[0].width
    left = (width - 2 * 24 - film._GAP) // 2
    y = film._GAP + film._LINE + film._GAP // 2 + 2 * film._LINE

    def panel(image, place):
        x = left + place * (24 + film._GAP)
        return np.array(image)[y : y + 20, x : x + 24]

    for i, step in enumerate((0, 4, 8, 10, 10, 10)):
        assert (panel(found[i], 0) == colour(step)).all()
    for i in (0, 1, 40, 75):
        assert (panel(found[i], 1) == colour(4 * i)).all()
    # The time that runs is written, too.
    assert (np.array(found[1])[:y] != np.array(found[2])[:y]).any()


def test_the_curve_shows_returns_and_what_they_are_measured_by():
    def curve(**ends):
        shown = Film("t", [reel(1, 2), reel(3, 2)], [0.0, 1.0, 2.0], **ends)
        return np.array(pictures(shown)[0]).reshape(-1, 3)

    def greenish(pixels):
        red, green, blue = pixels.astype(int).T
        return ((green > red + 60) & (green > blue + 20)).sum()

    bare, floor, full = curve(), curve(null=0.5), curve(null=0.5, expert=4.0)
    assert greenish(bare) == greenish(floor) == 0 < greenish(full)  # the expert's dashes
    assert (bare != floor).any()


def test_one_episode_and_a_long_title_fit():
    found = pictures(Film("word " * 200, [reel(1, 3)], [-1.5]))
    assert len(found) == 4 and found[0].width == film._LEAST_WIDTH
    # Nothing is written up to the right edge.
    assert (np.array(found[0])[:40, -film._GAP + 2 :] == 255).all()


@pytest.mark.parametrize(("frames", "fps"), [(2, 4), (21, 4), (70, 10), (150, 20), (1000, 20)])
def test_a_film_takes_some_seconds(frames, fps):
    assert rate(frames) == fps


def images(count):
    return [Image.fromarray(np.repeat(colour(i), 2, 1)) for i in range(count)]


def test_a_gif_has_every_picture_and_begins_anew(tmp_path):
    path = write_film(images(7), tmp_path / "new" / "a.gif")
    assert [p.name for p in path.parent.iterdir()] == ["a.gif"]
    with Image.open(path) as gif:
        assert gif.n_frames == 7 and gif.info["loop"] == 0 and gif.size == (48, 20)
        durations = []
        for i in range(gif.n_frames):
            gif.seek(i)
            durations.append(gif.info["duration"])
            shown = np.array(gif.convert("RGB"), int)
            assert np.abs(shown - colour(i)[0, 0]).max() < 8
        assert durations == [250] * 6 + [1750]
    write_film(images(2), path)  # replaces it
    with Image.open(path) as gif:
        assert gif.n_frames == 2


def test_names_are_checked(tmp_path):
    with pytest.raises(GlaError, match=r"written to .*film.avi; expected a name that ends in .gif"):
        check_name(tmp_path / "film.avi")
    (tmp_path / "file").write_text("")
    with pytest.raises(GlaError, match="cannot write"):
        write_film(images(2), tmp_path / "file" / "a.gif")


def test_an_mp4_without_ffmpeg_is_one_plain_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(film.shutil, "which", lambda name: None)
    with pytest.raises(GlaError, match="an MP4 needs ffmpeg.*pip install imageio-ffmpeg") as caught:
        check_name(tmp_path / "a.MP4")
    assert "\n" not in str(caught.value)


def stand_in(folder, monkeypatch, code):
    """Let a Python script stand in for ffmpeg."""
    script = folder / "ffmpeg"
    script.write_text(f"#!{sys.executable}\n{textwrap.dedent(code)}")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(film, "_ffmpeg", lambda: str(script))


def test_ffmpeg_is_given_every_picture(tmp_path, monkeypatch):
    keep = """
    import pathlib, sys
    data = sys.stdin.buffer.read()
    pathlib.Path(sys.argv[-1]).write_bytes(" ".join(sys.argv[1:-1]).encode() + b"\\n" + data)
    """
    stand_in(tmp_path, monkeypatch, keep)
    given, _, data = write_film(images(10), tmp_path / "a.mp4").read_bytes().partition(b"\n")
    assert b"-s 48x20 -r 4 " in given and b"-pix_fmt yuv420p" in given
    frames = np.frombuffer(data, np.uint8).reshape(-1, 20, 48, 3)
    assert len(frames) == 10 + 6  # the last is held for a second and a half
    assert (frames[3] == np.array(images(4)[3])).all() and (frames[9:] == frames[9]).all()


def test_what_ffmpeg_complains_of_is_said(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "import sys; sys.exit('first\\nno such codec')")
    with pytest.raises(GlaError, match="ffmpeg cannot write an MP4: no such codec; write a .gif"):
        write_film(images(2), tmp_path / "a.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["ffmpeg"]


def test_a_true_mp4_is_written(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed")
    path = write_film(images(10), tmp_path / "a.mp4")
    assert path.read_bytes()[4:8] == b"ftyp"
