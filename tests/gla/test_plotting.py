"""The picture of a store is there, says what it shows, and is the same again."""

import numpy as np
import pytest
from PIL import Image

from gla import cli
from gla.errors import GlaError
from gla.histories.plotting import plot


def words_of(svg):
    """The labels of an SVG picture: Matplotlib draws letters, and leaves the words in comments."""
    return [line.strip()[5:-4] for line in svg.read_text().splitlines() if "<!-- " in line]


@pytest.mark.parametrize("blocks", [None, [1]])
def test_a_picture_of_what_is_complete(random_store, tmp_path, blocks):
    store = random_store(tmp_path / "s", blocks=blocks, environment="gla/Made-v0$ and $x")
    path = plot(store, tmp_path / "deep" / "picture.png")
    assert path == tmp_path / "deep" / "picture.png"
    with Image.open(path) as picture:
        assert picture.size == (1760, 800)
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    blue = (np.abs(pixels.astype(int) - [0, 114, 178]) < 8).all(1).sum()
    assert blue > 1000, "the median is drawn"
    plot(store, tmp_path / "picture.svg")
    words = words_of(tmp_path / "picture.svg")
    runs = "5 runs" if blocks is None else "2 of 5 runs"
    streams = 10 if blocks is None else 4
    assert any(w.startswith(f"{runs} by ppo, {streams} recorded streams") for w in words), words
    for label in (
        "gla/Made-v0$ and $x",
        "return per episode (sum of rewards)",
        "update (each 4 steps × 6 environments)",
        "median over runs",
        "quartiles over runs",
        "single streams",
        "improvement",
        "stability",
    ):
        assert label in words, f"{label} is not among {words}"


def test_the_same_store_gives_the_same_picture(random_store, tmp_path):
    store = random_store(tmp_path / "s")
    for ending in ("png", "svg"):
        one, other = (plot(store, tmp_path / f"{n}.{ending}").read_bytes() for n in "ab")
        assert one == other
    assert {p.suffix for p in tmp_path.iterdir()} == {"", ".png", ".svg"}, "nothing half made"


@pytest.mark.parametrize(
    "sizes", [{"runs": 1, "block": 1}, {"updates": 1, "chunk": 0}, {"updates": 2, "runs": 1}]
)
def test_small_stores_have_a_picture_too(random_store, tmp_path, sizes):
    store = random_store(tmp_path / "s", arrays=(), **sizes)
    assert plot(store, tmp_path / "picture.png").stat().st_size > 20_000


def test_bad_input_is_said_plainly(random_store, tmp_path, capsys):
    store = random_store(tmp_path / "s")
    with pytest.raises(GlaError, match="no picture can be written as picture.pdf"):
        plot(store, tmp_path / "picture.pdf")
    with pytest.raises(GlaError, match="no complete block yet"):
        plot(random_store(tmp_path / "none", blocks=[]), tmp_path / "picture.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(GlaError, match="cannot write"):
        plot(store, tmp_path / "file" / "picture.png")
    assert cli.main(["histories", "plot", str(tmp_path / "nowhere"), "x.png"]) == 2
    assert "holds no learning histories" in capsys.readouterr().err
    assert cli.main(["histories", "plot", str(store.path), str(tmp_path / "x.png")]) == 0
    assert f"picture: {tmp_path / 'x.png'}" in capsys.readouterr().out
