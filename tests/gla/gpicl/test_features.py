"""Features in the place of raw inputs: what is written, what is refused, what a network learns."""

import sys

import numpy as np
import pytest

from gla import datasets
from gla.errors import GlaError
from gla.gpicl import features as ft

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
LABELS = np.array(["pear", "apple", "fig", "lime"])[np.arange(40) % 4]


@pytest.fixture
def fruit(tmp_path):
    """A data set of 30 and 10 images in a folder."""
    arrays = {"x_train": IMAGES[:30], "y_train": LABELS[:30]}
    np.savez(tmp_path / "fruit.npz", x_test=IMAGES[30:], y_test=LABELS[30:], **arrays)
    return tmp_path


def means(images):
    """Seven numbers for an image."""
    assert images.dtype == np.uint8 and images.shape[1:] == (6, 5, 3)
    assert len(images) <= 8
    columns = images.mean((1, 3))
    return np.concatenate([columns, images.mean((2, 3))[:, :2]], 1)


def test_features_are_a_data_set_like_any_other(fruit):
    path = ft.embed("fruit", fruit / "out" / "means.npz", means, folder=fruit, batch=8)
    assert path == fruit / "out" / "means.npz"
    for part, rows in (("train", slice(0, 30)), ("test", slice(30, 40))):
        raw, data = (
            datasets.load(name, part, folder=fruit, normalize="none") for name in ("fruit", path)
        )
        expected = np.concatenate([means(IMAGES[rows][i : i + 8]) for i in range(0, 30, 8)][:4])
        np.testing.assert_allclose(data.values, expected[: len(data)], rtol=1e-6)
        np.testing.assert_array_equal(data.labels, raw.labels)
        assert data.class_names == raw.class_names == ("apple", "fig", "lime", "pear")
        assert data.features and data.image_shape is None


def test_a_square_number_of_features_is_no_image(fruit):
    ft.embed("fruit", fruit / "square.npz", lambda x: x.reshape(len(x), -1)[:, :64], folder=fruit)
    with pytest.raises(GlaError, match="square are features and cannot be resized"):
        datasets.load("square", folder=fruit, resize=4)
    assert datasets.load("square", folder=fruit).values.shape == (30, 64)


def test_inputs_that_are_no_images_come_as_they_are(tmp_path):
    table = rng.normal(size=(30, 3)).astype(np.float32)
    np.savez(tmp_path / "table.npz", x_train=table, y_train=np.arange(30) % 2)
    ft.embed("table", tmp_path / "squares.npz", np.square, folder=tmp_path)
    raw, data = (
        datasets.load(n, "test", folder=tmp_path, normalize="none") for n in ("table", "squares")
    )
    np.testing.assert_allclose(data.values, raw.values**2)
    assert data.class_names == ("0", "1")


def test_functions_are_found_by_name(fruit, monkeypatch):
    (fruit / "own_features.py").write_text(
        "def middle(images):\n    return images[:, 2, 2]\n\nNUMBER = 3\n"
    )
    monkeypatch.chdir(fruit)
    monkeypatch.setattr(sys, "path", list(sys.path))
    ft.embed("fruit", "middle.npz", "own_features:middle", folder=fruit)
    data = datasets.load("middle", folder=fruit, normalize="none")
    np.testing.assert_array_equal(data.values, IMAGES[:30, 2, 2])
    for spec, message in (
        ("own_features:nothing", "cannot be loaded .*no attribute 'nothing'.*module:function"),
        ("no_such_module:f", "'no_such_module:f' cannot be loaded"),
        ("middle", "cannot be loaded"),
        ("own_features:NUMBER", "is a int; expected a function of images"),
    ):
        with pytest.raises(GlaError, match=message):
            ft.embed("fruit", "out.npz", spec, folder=fruit)
    sys.modules.pop("own_features", None)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (lambda x: np.ones((len(x) + 1, 3)), r"shape \(9, 3\) for 8 images; expected \(8, number"),
        (lambda x: np.ones(len(x)), r"returned an array of shape \(8,\)"),
        (lambda x: x, r"shape \(8, 6, 5, 3\)"),
        (lambda x: np.ones((len(x), 0)), r"shape \(8, 0\)"),
        (lambda x: np.full((len(x), 2), np.nan), "a feature that is not finite"),
        (lambda x: np.full((len(x), 2), 1e300), "a feature that is not finite"),
        (lambda x: None, "returned no array of numbers"),
        (lambda x: [["a"]] * len(x), "returned no array of numbers"),
        (lambda x: [[1.0], [1.0, 2.0]], "returned no array of numbers"),
        (lambda x: np.ones((len(x), len(x))), "returned 6 and 8 numbers for an image"),
        # The test part has another number than the training part.
        (
            lambda x: np.ones((len(x), 2 if x[0, 0, 0, 0] == IMAGES[30, 0, 0, 0] else 3)),
            "returned 2 and 3 numbers for an image",
        ),
    ],
)
def test_anything_but_features_is_refused_and_nothing_written(fruit, features, message):
    with pytest.raises(GlaError, match=message) as caught:
        ft.embed("fruit", fruit / "out.npz", features, folder=fruit, batch=8)
    assert "\n" not in str(caught.value)
    assert [path.name for path in fruit.iterdir()] == ["fruit.npz"]


def test_a_file_is_replaced_as_a_whole(fruit, monkeypatch):
    ft.embed("fruit", fruit / "out.npz", means, folder=fruit, batch=8)
    before = (fruit / "out.npz").read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(GlaError, match="cannot write .*out.npz: the disk is full"):
        ft.embed("fruit", fruit / "out.npz", means, folder=fruit, batch=8)
    assert (fruit / "out.npz").read_bytes() == before
    assert sorted(path.name for path in fruit.iterdir()) == ["fruit.npz", "out.npz"]


def test_settings_of_embed_are_checked(fruit):
    with pytest.raises(GlaError, match="file of features is .*out; expected a name that ends in"):
        ft.embed("fruit", fruit / "out", means, folder=fruit)
    with pytest.raises(GlaError, match="batch is 0"):
        ft.embed("fruit", fruit / "out.npz", means, folder=fruit, batch=0)


# --- a network trained here


def accuracy(features) -> float:
    """Share of test digits of which the nearest class mean of 30 others is the right one."""
    data = datasets.load("digits", "test")
    found = np.asarray(features(data.values.reshape(-1, 8, 8)))
    right = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(data))
        known = np.concatenate([order[data.labels[order] == c][:3] for c in range(10)])
        rest = np.setdiff1d(order, known)
        means = found[known].reshape(10, 3, -1).mean(1)
        distances = np.square(found[rest, None] - means).sum(-1)
        right.append((distances.argmin(1) == data.labels[rest]).mean())
    return float(np.mean(right))


@pytest.fixture(scope="module")
def trained():
    return ft.train_features(datasets.load("digits"), steps=120, batch=32)


def test_a_network_learns_what_tells_classes_apart(trained):
    raw = accuracy(lambda x: x.reshape(len(x), -1))
    untrained = accuracy(ft.train_features(datasets.load("digits"), steps=1, batch=2))
    assert accuracy(trained) > max(raw, untrained) + 0.03


def test_a_seed_gives_one_network():
    data = datasets.load("digits")
    images = datasets.load("digits", "test").values[:20].reshape(-1, 8, 8)
    first, again, other = (
        ft.train_features(data, steps=5, batch=8, seed=seed)(images) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(other - first).max() > 0.1


def test_a_network_takes_any_images(trained, fruit):
    grey = rng.integers(0, 256, (3, 7, 9), dtype=np.uint8)
    found = trained(grey)
    assert found.shape == (3, 4 * ft.CHANNELS) and found.dtype == np.float32
    # Light and contrast make no difference, and grey is a colour.
    np.testing.assert_allclose(trained(3.0 * grey + 100.0), found, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(trained(np.stack([grey] * 3, -1)), found, rtol=1e-4, atol=1e-4)
    # Each image stands for itself, in batches of any size.
    np.testing.assert_allclose(
        trained(np.tile(grey, (200, 1, 1)))[-3:], found, rtol=1e-4, atol=1e-4
    )
    assert np.isfinite(trained(np.zeros((2, 5, 5)))).all()
    path = ft.embed("fruit", fruit / "out.npz", trained, folder=fruit)
    assert datasets.load(path, "test").values.shape == (10, 256)


def test_a_network_for_colours_takes_grey_images(fruit):
    function = ft.train_features(datasets.load("fruit", folder=fruit), steps=2, batch=4)
    grey = rng.integers(0, 256, (3, 7, 9), dtype=np.uint8)
    np.testing.assert_array_equal(function(grey), function(np.stack([grey] * 3, -1)))
    assert np.abs(function(IMAGES[:2]) - function(IMAGES[:2, ..., ::-1])).max() > 1e-3


def test_what_no_network_can_see_is_refused(trained):
    table = datasets.from_arrays("table", rng.normal(size=(30, 3)), np.arange(30) % 2)
    with pytest.raises(GlaError, match=r"inputs of table have shape \(3,\); expected images"):
        ft.train_features(table)
    small = datasets.from_arrays("small", IMAGES[:, :4, :4], LABELS)
    with pytest.raises(GlaError, match=r"shape \(4, 4, 3\); expected images of at least 5 x 5"):
        ft.train_features(small)
    for images in (np.ones((2, 4, 9)), np.ones((2, 9)), np.ones((2, 9, 9, 4))):
        with pytest.raises(GlaError, match="inputs of a network of images have shape"):
            trained(images)
    for name in ("steps", "batch"):
        with pytest.raises(GlaError, match=f"{name} is 0; expected a whole number of at least 1"):
            ft.train_features(datasets.load("digits"), **{name: 0})
