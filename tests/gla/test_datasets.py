"""Data sets: every way in, the split, scaling and resizing, and what is refused."""

import gzip
import hashlib
import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import scipy.stats
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
def cache(monkeypatch, tmp_path_factory):
    """The folder where what OpenML sent is kept, empty."""
    monkeypatch.delenv("GLA_DATA", raising=False)
    home = tmp_path_factory.mktemp("scikit_learn_data")
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(home))
    return home / "gla-openml"


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


def test_random_points_come_again_and_again():
    train, test = (datasets.load("random", part) for part in ("train", "test"))
    for data in (train, test):
        assert data.values.shape == (1000, 784) and data.image_shape == (28, 28)
        points, which, times = np.unique(
            data.values, axis=0, return_inverse=True, return_counts=True
        )
        assert len(points) == 20 and set(times) == {50}
        # One label for each point, and each label for two points.
        pairs = np.unique(np.stack([which, data.labels], 1), axis=0)
        assert len(pairs) == 20 and np.bincount(pairs[:, 1]).tolist() == [2] * 10
        assert scipy.stats.kstest(points.ravel(), "norm").pvalue > 1e-3
        angles = np.corrcoef(points) - np.eye(20)
        assert np.abs(angles).max() < 5 / 28
    both = np.concatenate([train.values, test.values])
    assert len(np.unique(both, axis=0)) == 40
    # Another stream of numbers would be another benchmark.
    np.testing.assert_allclose(
        train.values[0, :4], [0.350349, -0.613458, -1.739499, -2.131411], rtol=1e-5
    )
    assert "".join(map(str, train.labels[:20])) == "01596938145076342278"
    small = datasets.load("random", resize=8)
    assert small.values.shape == (1000, 64)
    np.testing.assert_allclose(small.values, np.tile(small.values[:20], (50, 1)), atol=1e-5)


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
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("images", "labels", "test_images", "test_labels"),
        ("X", "y", "X_test", "y_test"),
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


def planes(count: int, seed: int = 0) -> np.ndarray:
    """Smooth images u8[count, 3, 32, 32], as CIFAR-10 holds them, no two alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] / 32
    across, down, level = rng.uniform(-100, 100, (3, count, 3, 1, 1))
    images = across * np.sin(4 * x) + down * np.cos(3 * y) + 0.3 * level + 128
    return np.clip(images + rng.normal(size=images.shape), 0, 255).astype(np.uint8)


def write_cifar(folder: Path, batch=4) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    images = planes(6 * batch)
    for i, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        rows = [bytes([n % 10]) + images[n].tobytes() for n in range(i * batch, (i + 1) * batch)]
        (folder / name).write_bytes(b"".join(rows))
    return images


def test_the_binary_version_of_cifar(tmp_path):
    images = write_cifar(tmp_path / "cifar-10")
    train, test = (datasets.load("cifar-10", part, folder=tmp_path) for part in ("train", "test"))
    assert (len(train), len(test)) == (20, 4) and train.shape == test.shape == (32, 32, 3)
    expected = images.transpose(0, 2, 3, 1).reshape(24, 3072)
    np.testing.assert_array_equal(train.values, expected[:20])
    np.testing.assert_array_equal(test.values, expected[20:])
    assert train.labels.tolist() == [n % 10 for n in range(20)] and test.labels.tolist() == [
        0,
        1,
        2,
        3,
    ]
    assert datasets.load(tmp_path / "cifar-10", resize=8).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_3.bin", None, "has no data_batch_3.bin; expected the files data_batch_1.bin"),
        ("test_batch.bin", None, "has no test_batch.bin"),
        ("data_batch_1.bin", bytes(3072), "data_batch_1.bin holds 3072 bytes; expected a multiple"),
        ("data_batch_1.bin", b"", "holds 0 bytes"),
        (
            "test_batch.bin",
            b"\x0a" + bytes(3072),
            "holds the label 10; expected labels from 0 to 9",
        ),
    ],
)
def test_an_incomplete_cifar_is_refused(tmp_path, name, content, message):
    write_cifar(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(GlaError, match=message):
        datasets.load(tmp_path)


def write_svhn(folder: Path, compress=True, **changes) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    images = planes(10).transpose(2, 3, 1, 0)
    labels = np.array([10, 1, 2, 3, 4, 5, 6, 7, 8, 9], np.uint8)[:, None]
    for name in ("train", "test"):
        arrays = {"X": images, "y": labels, **(changes if name == "test" else {})}
        scipy.io.savemat(folder / f"{name}_32x32.mat", arrays, do_compression=compress)
    return images


def test_the_cropped_digits_of_svhn(tmp_path):
    images = write_svhn(tmp_path / "svhn")
    data = datasets.load("svhn", "test", folder=tmp_path)
    assert data.shape == (32, 32, 3) and data.class_names == tuple("0123456789")
    assert data.labels.tolist() == list(range(10))  # 10 stands for the digit 0
    np.testing.assert_array_equal(data.values.reshape(10, 32, 32, 3)[7], images[..., 7])


def test_a_damaged_svhn_is_refused(tmp_path):
    write_svhn(tmp_path, y=np.arange(10))
    with pytest.raises(GlaError, match="test_32x32.mat holds labels other than 1 to 10"):
        datasets.load(tmp_path)
    write_svhn(tmp_path, y=np.ones(9))
    with pytest.raises(GlaError, match=r"images of shape \(32, 32, 3, 10\) for 9 labels"):
        datasets.load(tmp_path)
    path = tmp_path / "train_32x32.mat"
    whole = path.read_bytes()
    for content in (b"", b"no matrix", whole[:-100], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(GlaError, match="train_32x32.mat cannot be read"):
            datasets.load(tmp_path)
    path.unlink()
    with pytest.raises(GlaError, match="has no train_32x32.mat"):
        datasets.load(tmp_path)


def write_kmnist(folder: Path, prefix="kmnist") -> Path:
    folder.mkdir(exist_ok=True)
    for part, rows in (("train", slice(None)), ("test", slice(0, 5))):
        np.savez(folder / f"{prefix}-{part}-imgs.npz", IMAGES[rows])
        np.savez(folder / f"{prefix}-{part}-labels.npz", LABELS[rows])
    return folder


def test_the_npz_files_of_kmnist(tmp_path):
    write_kmnist(tmp_path / "kmnist")
    data = datasets.load("kmnist", "test", folder=tmp_path)
    np.testing.assert_array_equal(data.values, IMAGES[:5].reshape(5, 16))
    assert data.labels.tolist() == LABELS[:5].tolist() and data.shape == (4, 4)
    (tmp_path / "kmnist" / "kmnist-test-imgs.npz").unlink()
    with pytest.raises(GlaError, match="no .npz file of the test images; expected .*test-imgs.npz"):
        datasets.load("kmnist", folder=tmp_path)
    write_kmnist(tmp_path / "kmnist", "k49")
    with pytest.raises(GlaError, match=".npz files of 2 data sets .k49-, kmnist-"):
        datasets.load("kmnist", folder=tmp_path)


def test_a_damaged_kmnist_is_refused(tmp_path):
    path = write_kmnist(tmp_path) / "kmnist-train-imgs.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(GlaError, match="kmnist-train-imgs.npz cannot be read"):
        datasets.load(tmp_path)
    np.savez(path, IMAGES, LABELS)
    with pytest.raises(GlaError, match="holds the arrays arr_0, arr_1; expected arr_0"):
        datasets.load(tmp_path)


def test_a_folder_holds_one_known_form(tmp_path):
    with pytest.raises(GlaError, match="holds no files of a data set; expected IDX files such as"):
        datasets.load(tmp_path)
    write_kmnist(tmp_path)
    write_idx(tmp_path)
    with pytest.raises(GlaError, match="files of the forms IDX and KMNIST; expected those of one"):
        datasets.load(tmp_path)


# --- names that do not exist


def test_a_missing_data_set_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(GlaError, match="mnist is not part of the package.*GLA_DATA"):
        datasets.load("mnist")
    with pytest.raises(
        GlaError, match=f"kmnist is not in {tmp_path}.*openml:Kuzushiji-MNIST fetch"
    ):
        datasets.load("kmnist", folder=tmp_path)
    for name, source in (("cifar-10", "CIFAR_10"), ("svhn", "SVHN"), ("mnist", "mnist_784")):
        with pytest.raises(GlaError, match=f"openml:{source} fetches it"):
            datasets.load(name)
    with pytest.raises(GlaError, match=r"cifar10 .*did you mean cifar-10\?"):
        datasets.load("cifar10", folder=tmp_path)
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


def test_openml_errors_are_plain(monkeypatch, cache):
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
    assert list(cache.iterdir()) == []


class Answer(io.BytesIO):
    info = dict  # no headers


class Server:
    """Answers scikit-learn as openml.org does, from memory.

    Attributes:
        answers: content by the end of a path.
        asked: paths, in order.
    """

    def __init__(self):
        rows = [",".join(map(str, [*IMAGES[i].ravel(), f"c{LABELS[i]}"])) for i in range(12)]
        head = ["@RELATION toy", *(f"@ATTRIBUTE p{i} INTEGER" for i in range(16))]
        head += ["@ATTRIBUTE class {c0,c1,c2}", "@DATA"]
        arff = "\n".join(head + rows).encode() + b"\n"
        feature = {"is_ignore": "false", "is_row_identifier": "false", "data_type": "numeric"}
        feature |= {"number_of_missing_values": "0", "is_target": "false"}
        features = [{**feature, "index": str(i), "name": f"p{i}"} for i in range(16)]
        features += [
            {**feature, "index": "16", "name": "class", "is_target": "true", "data_type": "nominal"}
        ]
        about = {"id": "7", "name": "Toy", "version": "1", "format": "ARFF", "status": "active"}
        about |= {"description": "a toy", "url": "https://www.openml.org/data/download/7/toy.arff"}
        about |= {"md5_checksum": hashlib.md5(arff).hexdigest()}
        quality = {"name": "NumberOfInstances", "value": "12"}
        self.answers = {
            "/data_name/toy/limit/2/status/active/": {"data": {"dataset": [{"did": 7}]}},
            "/data/7": {"data_set_description": about},
            "/features/7": {"data_features": {"feature": features}},
            "/qualities/7": {"data_qualities": {"quality": [quality]}},
            "/toy.arff": arff,
        }
        self.asked = []

    def __call__(self, request):
        self.asked.append(request.full_url)
        for end, answer in self.answers.items():
            if request.full_url.endswith(end):
                if isinstance(answer, BaseException):
                    raise answer
                return Answer(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        raise URLError(f"nothing is known of {request.full_url}")


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr("sklearn.datasets._openml.urlopen", server)
    monkeypatch.setattr("sklearn.datasets._openml.time.sleep", lambda _: None)
    return server


def test_openml_data_are_fetched_once(server, cache):
    first = datasets.load("openml:Toy")
    assert len(server.asked) == 5 and [path.name for path in cache.iterdir()] == ["toy.npz"]
    server.answers = {}
    again, test = (datasets.load("openml:toy", part) for part in ("train", "test"))
    assert first.class_names == ("c0", "c1", "c2") and again.values.dtype == np.uint8
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.labels, again.labels)
    both = np.concatenate([again.values, test.values])
    np.testing.assert_array_equal(both[np.argsort(both[:, 0])], IMAGES.reshape(12, 16))
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("end", "answer", "reason"),
    [
        ("/toy.arff", b"", "md5 checksum"),
        ("/toy.arff", b"half of it", "md5 checksum"),
        ("/toy.arff", URLError("the line is dead"), "the line is dead"),
        ("/toy.arff", TimeoutError("timed out"), "timed out"),
        ("/data/7", b"<html>Please log in</html>", "Expecting value"),
        ("/data/7", {"hello": "world"}, "not expected, KeyError 'data_set_description'"),
        ("/status/active/", {}, "not expected, KeyError 'data'"),
        ("/features/7", {"data_features": {"feature": []}}, ""),
    ],
)
def test_half_a_download_is_never_kept(server, cache, end, answer, reason, recwarn):
    whole = server.answers
    server.answers = {key: answer if key.endswith(end) else whole[key] for key in whole}
    with pytest.raises(GlaError, match=f"openml:toy cannot be fetched .*{reason}") as caught:
        datasets.load("openml:toy")
    assert "\n" not in str(caught.value) and not recwarn.list
    assert list(cache.iterdir()) == []
    server.answers = whole
    assert len(datasets.load("openml:toy")) == 9


def test_a_fetch_that_is_interrupted_leaves_nothing(server, cache):
    whole = server.answers
    server.answers = {**whole, "/toy.arff": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        datasets.load("openml:toy")
    assert list(cache.iterdir()) == []
    # What a killed process leaves is not taken for a data set.
    (cache / ".fetching-abc" / "openml").mkdir(parents=True)
    (cache / ".toy.npz.abc").write_bytes(b"half")
    server.answers = whole
    assert len(datasets.load("openml:toy")) == 9


@pytest.mark.parametrize("keep", [0, 10, 400, -1])
def test_a_damaged_copy_is_fetched_anew(server, cache, keep):
    expected = datasets.load("openml:toy").values
    path = cache / "toy.npz"
    path.write_bytes(path.read_bytes()[:keep])
    np.testing.assert_array_equal(datasets.load("openml:toy").values, expected)
    assert len(server.asked) == 10
    path.write_bytes(path.read_bytes()[:keep])
    server.answers = {}
    with pytest.raises(GlaError, match="openml:toy cannot be fetched .*nothing is known of"):
        datasets.load("openml:toy")
    assert list(cache.iterdir()) == []


def test_names_of_openml_stay_inside_the_cache(server, cache):
    for end in ("/data_name/../../up/limit/2/status/active/", "/data_version/3"):
        server.answers[end] = {"data": {"dataset": [{"did": 7}]}}
    datasets.load("openml:../../up")
    datasets.load("openml:toy@3")
    assert sorted(path.name for path in cache.iterdir()) == ["..%2F..%2Fup.npz", "toy@3.npz"]


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


@pytest.mark.parametrize("normalize", ["standard", "feature", "range", "none"])
def test_constant_pixels_do_not_divide_by_zero(normalize):
    images = IMAGES.astype(np.float32)
    images[:, 0], images[:, 1, 0] = 0.0, 1e-42
    data = datasets.from_arrays("toy", images, LABELS, normalize=normalize)
    assert np.isfinite(data.inputs).all() and (data.scale > 1e-38).all()


def test_classes_may_be_negative_and_are_those_of_both_parts():
    data = datasets.from_arrays("toy", IMAGES[:4], [-1, 1, -1, 1], IMAGES[4:6], [0, -7])
    assert data.class_names == ("-7", "-1", "0", "1") and data.labels.tolist() == [1, 3, 1, 3]


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


@pytest.mark.parametrize("stored", ["planes", "pixels", "flat planes", "flat pixels"])
def test_colours_are_found_wherever_they_are_stored(stored):
    first = planes(40)
    pixels = first.transpose(0, 2, 3, 1)
    images = first if "planes" in stored else pixels
    if "flat" in stored:
        images = images.reshape(40, -1)
    for part in ("train", "test"):
        # One example decides nothing: the training part does.
        data = datasets.from_arrays(
            "toy", images, np.arange(40) % 2, images[:1], [0], part=part, resize=8
        )
        expected = pixels.reshape(40, 8, 4, 8, 4, 3).mean((2, 4))[: len(data)]
        assert data.shape == (8, 8, 3)
        np.testing.assert_allclose(data.values.reshape(-1, 8, 8, 3), expected, rtol=1e-4)


def test_grey_images_may_have_their_channel_first():
    data = datasets.from_arrays("toy", IMAGES[:, None, :, :2], LABELS)
    assert data.shape == data.image_shape == (4, 2)
    np.testing.assert_array_equal(data.image(0).shape, (4, 2))
    # A row of three colours stays one.
    assert datasets.from_arrays("toy", IMAGES[:, None, :, :3], LABELS).shape == (1, 4, 3)


def test_a_table_of_192_columns_is_no_image():
    table = np.random.default_rng(0).normal(size=(50, 192))
    data = datasets.from_arrays("toy", table, np.arange(50) % 2)
    assert data.shape == (192,) and data.image_shape is None
    with pytest.raises(GlaError, match=r"shape \(192,\) and cannot be resized"):
        datasets.from_arrays("toy", table, np.arange(50) % 2, resize=8)
    same = datasets.from_arrays("toy", [[3] * 192, [3] * 192], [0, 1], normalize="none")
    assert same.image_shape is None


def test_transparency_is_refused():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 4), dtype=np.uint8)
    for rgba in (images, images.transpose(0, 3, 1, 2)):
        data = datasets.from_arrays("toy", rgba, np.arange(6) % 2)
        assert data.image_shape is None and data.size == 256
        with pytest.raises(GlaError, match="cannot be resized; expected images of .height, width"):
            datasets.from_arrays("toy", rgba, np.arange(6) % 2, resize=4)


def test_images_of_the_right_size_stay_bytes():
    data = datasets.from_arrays("toy", IMAGES, LABELS, resize=4)
    assert data.values.dtype == np.uint8 and data.shape == (4, 4)
    with pytest.raises(GlaError, match="resize is True"):
        datasets.from_arrays("toy", IMAGES, LABELS, resize=True)


@pytest.mark.parametrize("length", [16, 192])
def test_features_are_never_seen_as_images(tmp_path, length):
    rng = np.random.default_rng(0)
    inputs = np.cumsum(rng.normal(size=(12, length)), 1).astype(np.float32)
    np.savez(tmp_path / "toy.npz", x_train=inputs, y_train=LABELS, features=True)
    data = datasets.load("toy", folder=tmp_path)
    assert data.features and data.image_shape is None and data.shape == (length,)
    with pytest.raises(GlaError, match="inputs of toy are features and cannot be resized"):
        datasets.load("toy", folder=tmp_path, resize=2)
    with pytest.raises(GlaError, match="expected images"):
        data.image(0)


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
