"""Files of transitions become histories, bad ones a plain message and nothing else."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gla import cli, sampling
from gla.errors import GlaError
from gla.histories import HistoryStore, importing, record, sources
from gla.histories.importing import ImportConfig, ImportMaker, import_files
from gla.normalization import statistics_of

N, EPISODE = 45, 9


def columns(steps=N, seed=0, discrete=False):
    """Episodes of 9 steps, every other one terminated, in D4RL's names."""
    rng = np.random.default_rng(seed)
    end = np.arange(steps) % EPISODE == EPISODE - 1
    episode = np.arange(steps) // EPISODE
    action = rng.integers(0, 3, steps) if discrete else rng.normal(size=(steps, 2))
    return {
        "observations": rng.normal(size=(steps, 3)).astype(np.float32),
        "actions": action,
        "rewards": rng.normal(size=steps),
        "terminals": end & (episode % 2 == 0),
        "timeouts": end & (episode % 2 == 1),
    }


def save(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for name, value in arrays.items():
                file[name] = value
            file["infos/qpos"] = np.zeros((7, 2))  # as D4RL has; of no concern
    return path


def load(source, tmp_path, **settings):
    config = ImportConfig(**{"environment": "someones/Env-v3", **settings})
    source = source if isinstance(source, list) else [source]
    return import_files(source, tmp_path / "store", config, progress=False)


def flat(store, name):
    value = store.read(name)
    return value.reshape(-1, *value.shape[3:])


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("ending", [".npz", ".hdf5"])
def test_steps_are_cut_in_the_order_of_the_file(tmp_path, ending, discrete):
    arrays = columns(discrete=discrete)
    store = load(save(tmp_path / f"data{ending}", arrays), tmp_path, steps=5, updates=4)
    meta = store.meta
    # 45 steps are two runs of 4 x 5, and 5 steps are left.
    assert (meta.runs, meta.streams_per_run, meta.updates, meta.steps) == (2, 1, 4, 5)
    assert (meta.method, meta.arrays, meta.environment) == ("import", (), "someones/Env-v3")
    assert meta.settings["left_over"] == 5 and meta.horizon == EPISODE
    assert (meta.discrete, meta.action_size) == ((True, 3) if discrete else (False, 2))
    for ours, theirs in (
        ("observation", "observations"),
        ("action", "actions"),
        ("reward", "rewards"),
        ("terminated", "terminals"),
        ("truncated", "timeouts"),
    ):
        found = flat(store, ours)
        np.testing.assert_array_equal(found, arrays[theirs][:40].astype(found.dtype), ours)
    reward, ended = store.read("reward"), store.read("terminated")
    rate = np.maximum(ended.mean(2), 1 / EPISODE)
    np.testing.assert_allclose(store.read("mean_return"), reward.mean(2) / rate, rtol=1e-6)
    assert store.missing_blocks() == [] and store.verify() == []


def test_a_run_is_normalised_by_its_own_first_steps(tmp_path):
    arrays = columns()
    store = load(save(tmp_path / "data.npz", arrays), tmp_path, steps=5, runs=2, window=10)
    for run, start in enumerate((0, 20)):
        window = slice(start, start + 10)
        expected = statistics_of(arrays["observations"][window], arrays["rewards"][window])
        for name, value in expected._asdict().items():
            np.testing.assert_allclose(store.read(name)[run], value, rtol=1e-6)


def test_several_files_follow_each_other(tmp_path):
    first, second = columns(13, seed=1), columns(30, seed=2)
    files = [save(tmp_path / "a.npz", first), save(tmp_path / "b.hdf5", second)]
    store = load(files, tmp_path, steps=4)
    assert (store.meta.runs, store.meta.updates) == (1, 10)
    joined = np.concatenate([first["observations"], second["observations"]])[:40]
    np.testing.assert_array_equal(flat(store, "observation"), joined)
    # The first file ends within an episode; no reader may take its end for a step like any other.
    assert not first["timeouts"][12] and flat(store, "truncated")[12]
    assert [one["steps"] for one in store.meta.settings["sources"]] == [13, 30]


@pytest.mark.parametrize(
    ("settings", "shape", "left"),
    [
        ({}, (1, 9, 5), 0),
        ({"runs": 4}, (4, 2, 5), 5),
        ({"updates": 2}, (4, 2, 5), 5),
        ({"runs": 2, "updates": 3}, (2, 3, 5), 15),
        ({"steps": 7}, (1, 6, 7), 3),
    ],
)
def test_what_is_not_said_follows(tmp_path, settings, shape, left):
    file = save(tmp_path / "data.npz", columns())
    maker = ImportMaker([file], ImportConfig("e", **{"steps": 5, **settings}))
    meta = maker.meta
    assert ((meta.runs, meta.updates, meta.steps), maker.left_over) == (shape, left)


def test_parts_and_blocks_hold_the_same_as_one(tmp_path, monkeypatch):
    file = save(tmp_path / "data.hdf5", columns(120))
    whole = load(file, tmp_path, steps=4, updates=5)
    monkeypatch.setattr(importing, "_PER_PART", 8)
    monkeypatch.setattr(importing, "_AT_ONCE", 7)
    config = ImportConfig("someones/Env-v3", steps=4, updates=5)
    parted = import_files([file], tmp_path / "parts", config, progress=False)
    assert (whole.meta.blocks, whole.meta.parts) == (1, 1)
    assert (parted.meta.blocks, parted.meta.parts, parted.meta.chunk) == (6, 3, 2)
    for name in ("observation", "reward", "mean_return", "observation_mean", "reward_scale"):
        np.testing.assert_array_equal(whole.read(name), parted.read(name), name)


def test_a_killed_import_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "_PER_PART", 8)
    file = save(tmp_path / "data.npz", columns(60))
    config = ImportConfig("e", steps=4, updates=5)
    maker = ImportMaker([file], config)
    asked = []

    class Killed(Exception):
        pass

    def parts(runs, first=0, state=None):
        for number, part in enumerate(ImportMaker.parts(maker, runs, first, state), first):
            asked.append((runs.start, number))
            if asked[-1] == (1, 2) and asked.count((1, 2)) == 1:
                raise Killed
            yield part

    maker.parts = parts
    with pytest.raises(Killed):
        record(maker, tmp_path / "store", progress=False)
    done = len(asked)
    record(maker, tmp_path / "store", progress=False)
    assert asked[done] == (1, 1), "the last part that was kept is not made again"
    once = import_files([file], tmp_path / "once", config, progress=False)
    again = HistoryStore.open(tmp_path / "store")
    for name in ("observation", "truncated", "reward_scale"):
        np.testing.assert_array_equal(again.read(name), once.read(name), name)


def test_compressed_and_float_flags_are_read_too(tmp_path):
    arrays = columns()
    np.savez_compressed(
        tmp_path / "data.npz",
        **{**arrays, "terminals": arrays["terminals"].astype(np.float32)[:, None]},
    )
    store = load(tmp_path / "data.npz", tmp_path, steps=5)
    np.testing.assert_array_equal(flat(store, "terminated"), arrays["terminals"])


def test_without_timeouts_episodes_end_where_the_task_does(tmp_path):
    arrays = columns()
    del arrays["timeouts"]
    store = load(save(tmp_path / "data.npz", arrays), tmp_path, steps=5)
    truncated = flat(store, "truncated")
    assert not truncated.any() and store.meta.horizon == 2 * EPISODE


def without(name):
    return lambda a: {k: v for k, v in a.items() if k != name}


def changed(name, change):
    return lambda a: {**a, name: change(a[name])}


def hole(value):
    value = value.copy()
    value[17] = np.nan
    return value


BAD = [
    (without("rewards"), "no array 'rewards'"),
    (changed("rewards", lambda x: x[:40]), "differ in length: .*rewards 40"),
    (changed("rewards", hole), "rewards of .*data.* not finite at step 17 .nan."),
    (changed("observations", hole), "observations of .* not finite at step 17"),
    (changed("actions", hole), "actions of .* not finite at step 17"),
    (changed("rewards", lambda x: x * 1e60), "rewards of .* not finite at step 0"),
    (changed("observations", lambda x: x[:, 0]), r"shape \[45\].*expected shape \[N, n\]"),
    (changed("observations", lambda x: x[:, :, None]), r"shape \[45, 3, 1\]"),
    (changed("rewards", lambda x: np.stack([x, x], 1)), r"'rewards' .* shape \[45, 2\]"),
    (changed("actions", lambda x: x.round().astype(int)), "2 whole numbers each"),
    (changed("actions", lambda x: np.full(len(x), -1)), "go from -1 to -1"),
    (changed("actions", lambda x: x * 1j), "of type complex"),
    (lambda a: {k: v[:0] for k, v in a.items()}, "is empty"),
    (lambda a: {k: v[:4] for k, v in a.items()}, "4 steps in all; expected at least 5"),
]


@pytest.mark.parametrize("ending", [".npz", ".hdf5"])
@pytest.mark.parametrize(("change", "words"), BAD, ids=[words for _, words in BAD])
def test_a_bad_file_is_said_plainly_and_leaves_nothing(tmp_path, ending, change, words):
    file = save(tmp_path / f"data{ending}", change(columns()))
    with pytest.raises(GlaError, match=words) as caught:
        load(file, tmp_path, steps=5)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data.csv", b"1,2", "of no known kind"),
        ("data.npz", b"", "cannot be read"),
        ("data.npz", b"PK\x03\x04 half", "cannot be read"),
        ("data.hdf5", b"nothing of the kind", "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, words):
    if name.endswith("hdf5"):
        pytest.importorskip("h5py")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GlaError, match=words):
        load(tmp_path / name, tmp_path)


def test_a_flipped_bit_is_noticed(tmp_path):
    file = save(tmp_path / "data.npz", columns())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(GlaError, match="checksum|cannot be read"):
        load(file, tmp_path)


def test_files_that_do_not_go_together_are_refused(tmp_path):
    one = save(tmp_path / "a.npz", columns())
    other = save(tmp_path / "b.npz", changed("observations", lambda x: x[:, :2])(columns()))
    with pytest.raises(GlaError, match="b.npz does not go with .*a.npz: observation numbers 2"):
        load([one, other], tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": -1}, "import steps is -1"),
        ({"window": 1}, "import window is 1"),
        ({"split": "exam"}, "import split is 'exam'"),
        ({"environment": ""}, "which environment .*--environment"),
        ({"actions": 5}, "import actions is 5, but .* real numbers"),
        ({"runs": 10, "updates": 10, "steps": 10}, "45 steps in all; expected at least 1000"),
    ],
)
def test_bad_settings_are_said_plainly(tmp_path, settings, words):
    file = save(tmp_path / "data.npz", columns())
    with pytest.raises(GlaError, match=words):
        load(file, tmp_path, **settings)


def test_there_is_no_more_action_than_was_said(tmp_path):
    file = save(tmp_path / "data.npz", columns(discrete=True))
    with pytest.raises(GlaError, match="action is 2; expected below"):
        load(file, tmp_path, steps=5, actions=2)
    assert load(file, tmp_path, steps=5, actions=6).meta.action_size == 6


def test_another_file_is_no_resumption(tmp_path):
    file = save(tmp_path / "data.npz", columns(seed=1))
    load(file, tmp_path, steps=5)
    load(file, tmp_path, steps=5)
    save(file, columns(seed=2))
    with pytest.raises(GlaError, match="other settings: sources"):
        load(file, tmp_path, steps=5)


def minari_set(folder, discrete=False, observation=None):
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(
        folder / "data",
        observation_space=observation or spaces.Box(-np.inf, np.inf, (3,)),
        action_space=spaces.Discrete(3, start=1) if discrete else spaces.Box(-1, 1, (2,)),
    )
    storage.update_metadata({"dataset_id": folder.name, "minari_version": minari.__version__})
    arrays, rng = columns(discrete=discrete), np.random.default_rng(9)
    for start in range(0, N, EPISODE):
        cut = {name: value[start : start + EPISODE] for name, value in arrays.items()}
        last = rng.normal(size=(1, 3)).astype(np.float32)
        storage.update_episodes(
            [
                EpisodeBuffer(
                    observations=np.concatenate([cut["observations"], last]),
                    actions=cut["actions"] + int(discrete),
                    rewards=cut["rewards"],
                    terminations=cut["terminals"],
                    truncations=cut["timeouts"],
                )
            ]
        )
    return arrays


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
def test_minari_episodes_follow_each_other(tmp_path, monkeypatch, discrete, by_name):
    arrays = minari_set(tmp_path / "made-v0", discrete)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(importing, "_AT_ONCE", 7)
    source = "minari:made-v0" if by_name else tmp_path / "made-v0"
    store = load(source, tmp_path, steps=4)
    assert (store.meta.updates, store.meta.horizon) == (11, EPISODE)
    for ours, theirs in (("observation", "observations"), ("action", "actions")):
        found = flat(store, ours)
        np.testing.assert_array_equal(found, arrays[theirs][:44].astype(found.dtype), ours)
    np.testing.assert_array_equal(flat(store, "truncated"), arrays["timeouts"][:44])


def test_bad_minari_sets_are_said_plainly(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    from gymnasium import spaces

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari_set(tmp_path / "made-v0", observation=spaces.Box(-1, 1, (3, 1)))
    with pytest.raises(GlaError, match=r"expected a Box of shape \(n,\)"):
        load(tmp_path / "made-v0", tmp_path)
    with pytest.raises(GlaError, match="no Minari data set 'mode-v0'.*did you mean made-v0"):
        load("minari:mode-v0", tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(GlaError, match="no Minari data set .it has no data/metadata.json"):
        load(tmp_path / "folder", tmp_path)


@pytest.mark.parametrize(
    ("package", "source"), [("h5py", "data.hdf5"), ("minari", "minari:made-v0")]
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package, source):
    monkeypatch.setitem(sys.modules, package, None)
    if "." in source:
        (tmp_path / source).write_bytes(b"")
        source = tmp_path / source
    with pytest.raises(GlaError, match=rf"needs the package {package}; run .*gla\[minari\]"):
        sources.open_source(source)


def test_npz_files_need_no_extra(tmp_path):
    save(tmp_path / "data.npz", columns())
    code = (
        "import sys; sys.modules['h5py'] = sys.modules['minari'] = None; "
        "from gla.histories.sources import open_source; print(open_source('data.npz').steps)"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout.strip() == "45", result.stderr


def test_the_command_says_what_it_made_and_what_it_left_out(tmp_path, capsys):
    file = save(tmp_path / "data.npz", columns())
    words = ["histories", "import", str(file), str(tmp_path / "s"), "--steps", "7"]
    assert cli.main([*words, "--environment", "someones/Env-v3"]) == 0
    said = capsys.readouterr().out
    assert "someones/Env-v3: 1 of 1 runs complete" in said and "by import" in said
    assert "left out: 3 steps" in said
    assert cli.main(words) == 2  # no environment
    assert "--environment ID" in capsys.readouterr().err
    assert cli.main(["histories", "import", str(file)]) == 2
    assert "SOURCE... OUT" in capsys.readouterr().err
    settings = json.loads((tmp_path / "s" / "zarr.json").read_text())["attributes"]["settings"]
    assert settings["left_over"] == 3


def test_imported_histories_can_be_sampled(tmp_path):
    arrays = columns()
    store = load(save(tmp_path / "data.npz", arrays), tmp_path, steps=5)
    read = sampling.from_store(store)
    assert read.policy is None and read.target is None
    assert read.log_std.shape == (1, 9, 2)
    np.testing.assert_allclose(read.action.reshape(-1, 2), arrays["actions"], rtol=1e-6)
