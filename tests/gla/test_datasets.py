"""Data sets: every way in, the split, scaling and resizing, and what is refused."""

import gzip
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gla import datasets
from gla.errors import GlaError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(
    not (SHARED / "mnist.npz").exists(), reason=f"needs MNIST and Fashion-MNIST in {SHARED}"
)
IMAGES = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4)
LABELS = np.arange(12, dtype=np.uint8) % 3


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch):
    monkeypatch.delenv("GLA_DATA", raising=False)


def idx(array: np.ndarray, code: int = 8) -> bytes:
    """Write an array as the IDX format is described: big-endian, header first."""
    header = struct.pack(">BBBB", 0, 0, code, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, prefix="", test=True, zipped=()):
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k") if test else ("train",):
        for what, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
            name = f"{prefix}{part}-{what}-ubyte"
            if name in zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))
    return folder


# --- what is inside


def test_digits_are_split_the_same_way_everywhere():
    train, test = (datasets.load("digits", part) for part in ("train", "test"))
    assert (len(train), len(test)) == (1348, 449)
    assert train.values.shape == (1348, 64) and train.values.dtype == np.uint8
    assert train.shape == (8, 8) and train.classes == 10
    assert train.labels.dtype == np.int32 and set(test.labels) == set(range(10))
    # A different order would be a different benchmark.
    assert test.labels[:10].tolist() == [2, 3, 1, 3, 5, 0, 1, 5, 5, 0]
    from sklearn.datasets import load_digits

    both = np.concatenate([train.values, test.values])
    whole = load_digits().data.astype(np.uint8)
    np.testing.assert_array_equal(both[np.lexsort(both.T)], whole[np.lexsort(whole.T)])


def test_inputs_are_standardised_by_the_training_part():
    train, test = (datasets.load("digits", part) for part in ("train", "test"))
    assert train.inputs.dtype == np.float32
    np.testing.assert_allclose([train.inputs.mean(), train.inputs.std()], [0, 1], atol=1e-4)
    by_hand = (test.values.astype(np.float64) - train.values.mean()) / train.values.std()
    np.testing.assert_allclose(test.inputs, by_hand, atol=1e-5)
    with pytest.raises(ValueError, match="read-only"):
        train.inputs[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        train.labels[0] = 1


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "mean", "std"), [("mnist", 33.3184, 78.5675), ("fashion-mnist", 72.9404, 90.0212)]
)
def test_the_two_mnists(name, mean, std, monkeypatch):
    monkeypatch.setenv("GLA_DATA", str(SHARED))
    data = datasets.load(name, "test", resize=7)
    assert data.values.shape == (10_000, 49) and data.shape == (7, 7)
    assert np.bincount(data.labels).min() > 800
    raw = datasets.load(name, "test")
    assert raw.values.shape == (10_000, 784) and raw.values.dtype == np.uint8
    np.testing.assert_allclose([raw.offset, raw.scale], [mean, std], atol=1e-3)
    blocks = raw.values.reshape(-1, 7, 4, 7, 4).mean((2, 4), dtype=np.float64)
    np.testing.assert_allclose(data.values, blocks.reshape(-1, 49), atol=1e-3)
    assert data.image(3).max() == 255


def test_importing_loads_neither_jax_nor_scikit_learn():
    code = (
        "import gla.datasets, sys; "
        "print(sorted({'jax', 'sklearn', 'gymnasium.envs.mujoco'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


# --- files


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("inputs", "labels", "test_inputs", "test_labels"),
    ],
)
def test_an_npz_file(tmp_path, keys):
    path = tmp_path / "mine.npz"
    np.savez(path, **dict(zip(keys, (IMAGES, LABELS, IMAGES[:3], LABELS[:3]), strict=True)))
    train = datasets.load(path)
    np.testing.assert_array_equal(train.values, IMAGES.reshape(12, 16))
    np.testing.assert_array_equal(train.labels, LABELS)
    test = datasets.load(str(path), "test")
    assert len(test) == 3 and test.classes == 3
    by_name = datasets.load("mine", "test", folder=tmp_path)
    np.testing.assert_array_equal(by_name.values, test.values)


def test_a_part_is_split_off_where_there_is_none(tmp_path):
    np.savez(tmp_path / "mine.npz", inputs=IMAGES, labels=LABELS)
    train, test = (datasets.load("mine", part, folder=tmp_path) for part in ("train", "test"))
    assert (len(train), len(test)) == (9, 3)
    both = np.concatenate([train.values, test.values])
    np.testing.assert_array_equal(both[np.argsort(both[:, 0])], IMAGES.reshape(12, 16))
    # Labels stay with their inputs.
    np.testing.assert_array_equal(test.labels, test.values[:, 0] // 16 % 3)


@pytest.mark.parametrize("zipped", [(), ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte")])
def test_a_folder_of_idx_files(tmp_path, zipped):
    folder = write_idx(tmp_path / "mine", zipped=zipped)
    data = datasets.load(folder, "test")
    np.testing.assert_array_equal(data.values, IMAGES.reshape(12, 16))
    np.testing.assert_array_equal(data.labels, LABELS)
    assert len(datasets.load("mine", folder=tmp_path)) == 12


def test_idx_files_without_a_test_part_and_with_a_prefix(tmp_path):
    folder = write_idx(tmp_path / "mine", prefix="emnist-letters-", test=False)
    assert len(datasets.load(folder)) + len(datasets.load(folder, "test")) == 12


@pytest.mark.parametrize(("code", "dtype"), [(9, ">i1"), (11, ">i2"), (12, ">i4"), (14, ">f8")])
def test_idx_numbers_of_every_kind(tmp_path, code, dtype):
    array = np.array([[-3, 4], [5, 100]], dtype)
    (tmp_path / "x").write_bytes(idx(array, code))
    read = datasets.read_idx(tmp_path / "x")
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"hello world", "starts with 68656c6c"),
        (idx(IMAGES)[:-1], "holds 207 bytes; expected the 208"),
        (idx(IMAGES)[:9], "holds 9 bytes"),
        (gzip.compress(idx(IMAGES))[:-9], "cannot be read"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(GlaError, match=message):
        datasets.read_idx(tmp_path / "x")


def test_an_incomplete_or_mixed_folder_is_refused(tmp_path):
    folder = write_idx(tmp_path / "mine")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(GlaError, match="no IDX file of the test labels; expected t10k-labels-idx1"):
        datasets.load(folder)
    write_idx(folder, prefix="other-")
    with pytest.raises(GlaError, match="IDX files of 2 data sets"):
        datasets.load(folder)


def test_a_damaged_npz_file_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(b"no zip at all")
    with pytest.raises(GlaError, match="mine.npz cannot be read"):
        datasets.load(path)
    np.savez(path, images=IMAGES)
    with pytest.raises(GlaError, match="holds the arrays images; expected x_train"):
        datasets.load(path)
    np.savez(path, inputs=IMAGES, labels=LABELS, test_inputs=IMAGES)
    with pytest.raises(GlaError, match="one of test_inputs and test_labels; expected both"):
        datasets.load(path)
    with path.open("wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(GlaError, match="single array"):
        datasets.load(path)
    np.savez(path, inputs=np.array([None, 1]), labels=LABELS[:2])
    with pytest.raises(GlaError, match="cannot be read"):
        datasets.load(path)


# --- names that do not exist


def test_a_missing_data_set_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(GlaError, match="mnist is not part of the package.*GLA_DATA"):
        datasets.load("mnist")
    with pytest.raises(GlaError, match=r"diggits .*did you mean digits\?"):
        datasets.load("diggits")
    with pytest.raises(GlaError, match=f"mnist is not in {tmp_path}; expected the file mnist.npz"):
        datasets.load("mnist", folder=tmp_path)
    (tmp_path / "flowers").mkdir()
    with pytest.raises(GlaError, match=r"did you mean flowers"):
        datasets.load("flower", folder=tmp_path)
    with pytest.raises(GlaError, match="cannot be read .No such file or directory"):
        datasets.load("mnist", folder=tmp_path / "nowhere")
    with pytest.raises(GlaError, match="there is no data set at .*nothing.npz"):
        datasets.load(tmp_path / "nothing.npz")
    with pytest.raises(GlaError, match="there is no data set at data.csv; expected an .npz"):
        datasets.load("./data.csv")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part": "validation"}, "part is 'validation'; expected one of train, test"),
        ({"normalize": "zscore"}, "normalize is 'zscore'; expected one of standard, feature"),
        ({"resize": 0}, "resize is 0"),
        ({"resize": 2.5}, "resize is 2.5"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(GlaError, match=message):
        datasets.from_arrays("toy", IMAGES, LABELS, **settings)


# --- OpenML


def fetched(monkeypatch, **bunch):
    calls = []

    def fetch(name, **settings):
        calls.append((name, settings["version"]))
        return SimpleNamespace(**bunch)

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    return calls


def test_openml_data_may_be_sparse_and_have_words_for_labels(monkeypatch):
    inputs = scipy.sparse.csr_matrix(IMAGES.reshape(12, 16).astype(np.float64))
    target = np.array(["ham", "spam", "eggs"], object)[LABELS]
    calls = fetched(monkeypatch, data=inputs, target=target)
    data = datasets.load("openml:mail@3")
    assert calls == [("mail", 3)]
    assert data.class_names == ("eggs", "ham", "spam") and data.values.dtype == np.uint8
    expected = np.array([1, 2, 0])[data.values[:, 1] // 16 % 3]
    np.testing.assert_array_equal(data.labels, expected)


def test_numbers_stored_as_words_are_sorted_as_numbers(monkeypatch):
    fetched(monkeypatch, data=IMAGES.reshape(12, 16), target=np.array(["10", "9", "2"])[LABELS])
    assert datasets.load("openml:mnist").class_names == ("2", "9", "10")


def test_openml_errors_are_plain(monkeypatch):
    fetched(monkeypatch, data=IMAGES.reshape(12, 16), target=None)
    with pytest.raises(GlaError, match="openml:mnist has no default target"):
        datasets.load("openml:mnist")
    with pytest.raises(GlaError, match="expected openml:NAME or openml:NAME@VERSION"):
        datasets.load("openml:mnist@new")

    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)
    with pytest.raises(GlaError, match="openml:mnist cannot be fetched .*no route to host"):
        datasets.load("openml:mnist")


# --- arrays


def test_what_the_normalisations_do():
    table = np.array([[0.0, 10.0, 7.0], [2.0, 30.0, 7.0], [1.0, 20.0, 7.5]])

    def make(kind):
        return datasets.from_arrays(
            "toy", table[:2], [0, 1], table[2:], [1], part="test", normalize=kind
        )

    np.testing.assert_allclose(make("none").inputs, [[1, 20, 7.5]])
    np.testing.assert_allclose(make("range").inputs, [[1 / 30, 20 / 30, 7.5 / 30]], rtol=1e-6)
    # By column; one that does not vary in training is only shifted.
    np.testing.assert_allclose(make("feature").inputs, [[0, 0, 0.5]], atol=1e-6)
    train = table[:2]
    expected = (table[2:] - train.mean()) / train.std()
    np.testing.assert_allclose(make("standard").inputs, expected, rtol=1e-5)


def test_columns_of_unlike_sizes_are_all_scaled():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(200, 2)) * (1e7, 1e-3)
    inputs = datasets.from_arrays("toy", table, np.arange(200) % 2, normalize="feature").inputs
    np.testing.assert_allclose(inputs.std(0), 1.0, rtol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((0, 4)), [], "inputs of toy have shape .0, 4."),
        ([1.0, 2.0], [0, 1], r"have shape \(2,\)"),
        ([[1.0], [2.0, 3.0]], [0, 1], "inputs of toy are of type object"),
        ([["a"], ["b"]], [0, 1], "expected numbers"),
        ([[1.0]], [0], "1 example"),
        ([[1.0, 2.0], [3.0, np.nan]], [0, 1], r"input that is nan \(example 1, number 1\)"),
        ([[1.0], [1e300]], [0, 1], "input that is 1e"),
        ([[1.0], [2.0]], [0, 1, 2], r"2 inputs and labels of shape \(3,\)"),
        ([[1.0], [2.0]], [[0, 1], [1, 0]], r"labels of shape \(2, 2\)"),
        ([[1.0], [2.0]], [0.5, 1.0], "label that is 0.5 .example 0"),
        ([[1.0], [2.0]], [np.nan, 1.0], "label that is nan"),
        ([[1.0], [2.0]], [None, "a"], "no label for example 0"),
        ([[1.0], [2.0]], [1j, 2j], "labels of toy are of type complex"),
        ([[1.0], [2.0]], [3, 3], "every label of toy is 3"),
        ([[1.5], [1.5]], [0, 1], "all inputs of toy are equal"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(inputs, labels, message):
    with pytest.raises(GlaError, match=message):
        datasets.from_arrays("toy", inputs, labels)


def test_parts_that_do_not_agree_are_refused():
    with pytest.raises(GlaError, match=r"shape \(4, 4\) and test inputs of \(16,\)"):
        datasets.from_arrays("toy", IMAGES, LABELS, IMAGES.reshape(12, 16), LABELS)
    with pytest.raises(GlaError, match="training labels of type int64 and test labels of"):
        datasets.from_arrays("toy", IMAGES, LABELS, IMAGES, ["a"] * 12)
    with pytest.raises(GlaError, match="test inputs or test labels alone"):
        datasets.from_arrays("toy", IMAGES, LABELS, IMAGES)


def test_labels_become_numbers_from_zero_shared_by_both_parts():
    train, test = (
        datasets.from_arrays("toy", IMAGES[:4], [[7], [3], [7], [3]], IMAGES[4:5], [5], part=part)
        for part in ("train", "test")
    )
    assert train.class_names == test.class_names == ("3", "5", "7")
    assert train.labels.tolist() == [2, 0, 2, 0] and test.labels.tolist() == [1]


# --- images


def resized(images, side):
    data = datasets.from_arrays(
        "toy", images, np.arange(len(images)) % 2, images, np.arange(len(images)) % 2, resize=side
    )
    return data.values.reshape(len(images), *data.shape), data.shape


def test_resizing_averages_areas():
    image = np.array([[0.0, 3.0, 6.0], [9.0, 12.0, 15.0], [18.0, 21.0, 24.0]])
    got, shape = resized(np.stack([image, -image]), 2)
    # Each cell covers one whole pixel, two halves and a quarter: 2.25 pixels.
    corner = (0 + 0.5 * 3 + 0.5 * 9 + 0.25 * 12) / 2.25
    assert shape == (2, 2)
    np.testing.assert_allclose(got[0, 0, 0], corner, rtol=1e-6)
    np.testing.assert_allclose(got[1], -got[0])
    flat, shape = resized(np.stack([image, -image]).reshape(2, 9), 2)
    assert shape == (2, 2)
    np.testing.assert_allclose(flat, got)
    larger, _ = resized(np.stack([image, -image]), 6)
    np.testing.assert_allclose(larger[0], image.repeat(2, 0).repeat(2, 1), rtol=1e-5)


def test_colour_images_keep_their_channels():
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 4, 3), dtype=np.uint8)
    got, shape = resized(images, 2)
    assert shape == (2, 2, 3)
    np.testing.assert_allclose(got, images.reshape(3, 2, 3, 2, 2, 3).mean((2, 4)), rtol=1e-5)


@given(
    hnp.arrays(np.float32, (2, 5, 3), elements=st.floats(-100, 100, width=32)), st.integers(1, 9)
)
def test_resizing_keeps_the_mean_and_the_range(images, side):
    images[0, 0, 0], images[1, 0, 0] = 101.0, -101.0  # so that they differ
    got, _ = resized(images, side)
    np.testing.assert_allclose(got.mean((1, 2)), images.mean((1, 2)), atol=1e-3)
    assert got.max() <= 101.001 and got.min() >= -101.001


def test_what_is_no_image_is_neither_resized_nor_drawn():
    table = np.arange(24.0).reshape(4, 6)
    with pytest.raises(GlaError, match=r"have shape \(6,\) and cannot be resized"):
        datasets.from_arrays("toy", table, [0, 1, 0, 1], resize=2)
    data = datasets.from_arrays("toy", table, [0, 1, 0, 1])
    assert data.image_shape is None
    with pytest.raises(GlaError, match="expected images"):
        data.image(0)


def test_images_are_drawn_in_all_grey_levels():
    data = datasets.from_arrays("toy", IMAGES, LABELS, IMAGES, LABELS)
    image = data.image(1)
    assert image.shape == (4, 4) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.arange(16).reshape(4, 4) * 17)
    assert datasets.from_arrays("toy", IMAGES[..., None], LABELS).image_shape == (4, 4)
    for wrong in (-1, 12):
        with pytest.raises(GlaError, match=f"example {wrong} was asked for"):
            data.image(wrong)
