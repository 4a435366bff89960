"""What is exported can be read by others, and comes back."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from gla import cli
from gla.errors import GlaError
from gla.histories import array_shapes, exporting
from gla.histories.exporting import export
from gla.histories.importing import ImportConfig, import_files

NAMES = {"npz": "out.npz", "hdf5": "out.hdf5", "minari": "out-v0"}


@pytest.fixture(params=NAMES)
def target(request, tmp_path):
    """A destination of every format whose packages are installed."""
    if request.param != "npz":
        pytest.importorskip("h5py")
    if request.param == "minari":
        pytest.importorskip("minari")
    return tmp_path / NAMES[request.param]


def restored(source, tmp_path, **settings):
    return import_files([source], tmp_path / "again", ImportConfig(**settings), progress=False)


@pytest.mark.parametrize("changes", [{}, {"discrete": True}])
def test_transitions_come_back_equal(random_store, tmp_path, target, changes):
    store = random_store(tmp_path / "s", **changes)
    assert export(store, target, progress=False) == target
    again = restored(target, tmp_path)
    assert again.meta.environment == store.meta.environment
    assert again.meta.streams == store.meta.streams and again.meta.horizon == store.meta.horizon
    for name in ("observation", "action", "reward", "terminated"):
        np.testing.assert_array_equal(again.read(name), store.read(name), name)
    # At the end of a stream there is no next step, and steps alone could not say so.
    ours, theirs = store.read("truncated"), again.read("truncated")
    if target.suffix != ".npz":
        ours[:, -1, -1] |= ~store.read("terminated")[:, -1, -1]
    np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize(
    "changes",
    [
        {"storage": "bfloat16"},
        {"storage": "float16", "discrete": True, "chunk": 0},
        {"arrays": ("target",), "hyperparameters": ("gamma", "rate"), "method": "expert"},
    ],
)
def test_npz_brings_the_very_store_back(random_store, tmp_path, changes):
    store = random_store(tmp_path / "s", **changes)
    export(store, tmp_path / "out.npz", progress=False)
    again = restored(tmp_path / "out.npz", tmp_path)
    assert again.meta == store.meta
    for name in array_shapes(store.meta):
        np.testing.assert_array_equal(again.read(name), store.read(name), name)
    with np.load(tmp_path / "out.npz") as file:  # and anyone reads it
        assert set(file) == {*array_shapes(store.meta), "gla_meta"}
        assert json.loads(str(file["gla_meta"]))["method"] == store.meta.method
        np.testing.assert_array_equal(file["observation"], store.read("observation"))


def test_npz_under_another_name_or_cut_anew(random_store, tmp_path):
    store = random_store(tmp_path / "s")
    export(store, tmp_path / "out.npz", progress=False)
    named = restored(tmp_path / "out.npz", tmp_path, environment="my/Env-v0")
    assert named.meta.environment == "my/Env-v0" and "policy" in named.meta.arrays
    config = ImportConfig(steps=7)
    cut = import_files([tmp_path / "out.npz"], tmp_path / "cut", config, progress=False)
    assert (cut.meta.runs, cut.meta.updates, cut.meta.steps, cut.meta.arrays) == (1, 40, 7, ())
    np.testing.assert_array_equal(cut.read("reward").ravel(), store.read("reward").ravel())
    ends = cut.read("truncated").ravel() | cut.read("terminated").ravel()
    assert ends[27::28].all(), "streams are not run together"


def test_hdf5_is_as_in_d4rl(random_store, tmp_path):
    h5py = pytest.importorskip("h5py")
    store = random_store(tmp_path / "s")
    export(store, tmp_path / "out.h5", progress=False)
    with h5py.File(tmp_path / "out.h5") as file:
        shapes = {name: (value.shape, str(value.dtype)) for name, value in file.items()}
        steps = 10 * 7 * 4
        assert shapes == {
            "observations": ((steps, 3), "float32"),
            "actions": ((steps, 2), "float32"),
            "rewards": ((steps,), "float32"),
            "terminals": ((steps,), "bool"),
            "timeouts": ((steps,), "bool"),
        }
        assert (file["terminals"][27::28] | file["timeouts"][27::28]).all()
        np.testing.assert_array_equal(file["rewards"][:28], store.read("reward")[0].ravel())


def test_minari_reads_the_episodes(random_store, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    store = random_store(tmp_path / "s")
    path = export(store, "minari:made/out-v0", progress=False)
    assert path == tmp_path / "root" / "made" / "out-v0"
    assert list(minari.list_local_datasets()) == ["made/out-v0"]
    dataset = minari.load_dataset("made/out-v0")
    assert dataset.total_steps == store.meta.transitions
    assert dataset.storage.metadata["algorithm_name"] == "ppo"
    reward = np.concatenate([one.rewards for one in dataset])
    np.testing.assert_array_equal(reward, store.read("reward").ravel())
    for episode in dataset:
        assert len(episode.observations) == len(episode.rewards) + 1
        np.testing.assert_array_equal(episode.observations[-1], episode.observations[-2])
        ended = episode.terminations | episode.truncations
        assert ended[-1] and not ended[:-1].any()
        assert dataset.observation_space.contains(episode.observations[0])
    again = restored("minari:made/out-v0", tmp_path)
    np.testing.assert_array_equal(again.read("action"), store.read("action"))


def test_nothing_is_overwritten_unless_asked(random_store, tmp_path, target):
    store = random_store(tmp_path / "s")
    export(store, target, progress=False)
    other = random_store(tmp_path / "other", seed=1)
    with pytest.raises(GlaError, match="exists; .*--fresh"):
        export(other, target, progress=False)
    export(other, target, fresh=True, progress=False)
    np.testing.assert_array_equal(restored(target, tmp_path).read("reward"), other.read("reward"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["s", "other", "again", target.name]
    )


def test_a_folder_of_something_else_is_never_replaced(random_store, tmp_path):
    pytest.importorskip("minari")
    store = random_store(tmp_path / "s")
    (tmp_path / "thesis-v0").mkdir()
    (tmp_path / "thesis-v0" / "thesis.txt").write_text("years of work")
    (tmp_path / "out.npz").mkdir()
    for name in ("thesis-v0", "out.npz"):
        with pytest.raises(GlaError, match="no earlier export"):
            export(store, tmp_path / name, fresh=True, progress=False)
    assert (tmp_path / "thesis-v0" / "thesis.txt").read_text() == "years of work"


def test_an_export_that_fails_leaves_nothing(random_store, tmp_path, target, monkeypatch):
    store = random_store(tmp_path / "s")
    read = store.read

    def fails(name, runs=None):
        if min(runs) == 3:
            raise OSError(28, "No space left on device")
        return read(name, runs)

    monkeypatch.setattr(store, "read", fails)
    with pytest.raises(GlaError, match="cannot write .*the disk is full"):
        export(store, target, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_killed_export_leaves_no_half_file(random_store, tmp_path, target):
    random_store(tmp_path / "s")
    code = (
        "import sys, time\n"
        "from gla.histories import HistoryStore, exporting\n"
        "store = HistoryStore.open(sys.argv[1])\n"
        "read = store.read\n"
        "def slow(name, runs):\n"
        "    if min(runs) == 3:\n"
        "        print('half way', flush=True)\n"
        "        time.sleep(60)\n"
        "    return read(name, runs)\n"
        "store.read = slow\n"
        "exporting.export(store, sys.argv[2], progress=False)\n"
    )
    words = [sys.executable, "-P", "-c", code, str(tmp_path / "s"), str(target)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half way\n"
        process.kill()
    assert not target.exists()
    start = time.monotonic()
    export(exporting.HistoryStore.open(tmp_path / "s"), target, progress=False)
    assert target.exists() and time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("name", "format", "words"),
    [
        ("out.txt", None, "out.txt does not say in which format"),
        ("out.npz", "hdf5", "out.npz is no name for format hdf5; expected a name.hdf5"),
        ("out-v0", "npz", "no name for format npz"),
        ("out.npz", "csv", "no format 'csv'; expected one of npz, hdf5, minari"),
        ("out", None, "Minari takes no data set named 'out'"),
        ("minari:a b-v0", None, "Minari takes no data set named 'a b-v0'"),
    ],
)
def test_a_bad_destination_is_said_plainly(random_store, tmp_path, name, format, words):
    if "Minari" in words:
        pytest.importorskip("minari")
    store = random_store(tmp_path / "s")
    path = name if name.startswith("minari:") else tmp_path / name
    with pytest.raises(GlaError, match=words):
        export(store, path, format)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_an_incomplete_store_is_refused(random_store, tmp_path):
    store = random_store(tmp_path / "s", blocks=[1])
    with pytest.raises(GlaError, match="incomplete: 2 of 3 blocks"):
        export(store, tmp_path / "out.npz")


@pytest.mark.parametrize("package", ["h5py", "minari"])
def test_a_missing_package_is_named_with_its_extra(random_store, tmp_path, monkeypatch, package):
    store = random_store(tmp_path / "s")
    monkeypatch.setitem(sys.modules, package, None)
    name = {"h5py": "out.hdf5", "minari": "out-v0"}[package]
    with pytest.raises(GlaError, match=rf"needs the package {package}; run .*gla\[minari\]"):
        export(store, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: {**a, "policy": a["policy"][:, :2]}, r"'policy' .* has shape \[5, 2, \d+\]"),
        (lambda a: {k: v for k, v in a.items() if k != "log_std"}, "'log_std' .* is missing"),
        (lambda a: {**a, "gla_meta": np.array("{}")}, "in an unknown way"),
        (lambda a: {**a, "gla_meta": np.array("[1")}, "in an unknown way"),
    ],
)
def test_a_changed_export_is_refused(random_store, tmp_path, change, words):
    export(random_store(tmp_path / "s"), tmp_path / "out.npz", progress=False)
    with np.load(tmp_path / "out.npz") as file:
        np.savez(tmp_path / "changed.npz", **change(dict(file)))
    with pytest.raises(GlaError, match=words):
        restored(tmp_path / "changed.npz", tmp_path)
    assert not (tmp_path / "again").exists()


def test_the_command(random_store, tmp_path, capsys):
    folder = str(random_store(tmp_path / "s").path)
    words = ["histories", "export", folder, str(tmp_path / "out.npz")]
    assert cli.main(words) == 0
    assert f"exported: {tmp_path / 'out.npz'}" in capsys.readouterr().out
    assert cli.main(words) == 2
    assert cli.main([*words, "--fresh", "--format", "npz"]) == 0
