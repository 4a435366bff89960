"""The history store: what goes in comes out, and damage is named and mended."""

import dataclasses
import errno
import json
import os
import shutil

import numpy as np
import pytest

from gla import histories
from gla.errors import GlaError
from gla.histories import HistoryMeta, HistoryStore, array_shapes

META = HistoryMeta(
    environment="gla/RandomLinear-v0",
    observation_size=3,
    action_size=2,
    discrete=False,
    horizon=4,
    runs=5,
    streams_per_run=2,
    updates=3,
    steps=4,
    parallel_envs=6,
    hidden=4,
    split="train",
    seed=7,
    block=2,
    settings={"window": 20, "ppo": {"gamma": 0.9}},
    packages={"jax": "0"},
)


def block_arrays(meta, block, seed=0):
    """Random arrays of one block, different for every block and array."""
    rng = np.random.default_rng([seed, block])
    runs, arrays = len(meta.block_runs(block)), {}
    for name, (shape, dtype) in array_shapes(meta).items():
        rows = runs * (meta.streams_per_run if name in histories.STREAM_ARRAYS else 1)
        value = rng.normal(size=(rows, *shape[1:])) * 5
        arrays[name] = value > 0 if dtype == "bool" else value.astype(dtype)
    return arrays


def filled(path, meta=META, blocks=None):
    store = HistoryStore.create_or_resume(path, meta)
    for block in range(meta.blocks) if blocks is None else blocks:
        store.write_block(block, block_arrays(meta, block))
    return store


@pytest.fixture(scope="module")
def _made(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "histories"
    filled(path)
    return path


@pytest.fixture
def full(_made, tmp_path):
    """A complete store that a test may damage."""
    shutil.copytree(_made, tmp_path / "copy")
    return tmp_path / "copy"


def shards(path, array):
    return sorted(p for p in (path / array / "c").rglob("*") if p.is_file())


def shard_of(path, array, block):
    (file,) = (p for p in shards(path, array) if p.relative_to(path).parts[2] == str(block))
    return file


@pytest.mark.parametrize("discrete", [False, True])
def test_what_is_written_is_read(tmp_path, discrete):
    meta = dataclasses.replace(META, discrete=discrete)
    filled(tmp_path / "s", meta)
    store = HistoryStore.open(tmp_path / "s")
    assert store.meta == meta
    for name, (shape, dtype) in array_shapes(meta).items():
        found = store.read(name)
        expected = np.concatenate([block_arrays(meta, b)[name] for b in range(meta.blocks)])
        assert found.shape == shape and found.dtype == dtype, name
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert store.read("action").ndim == (3 if discrete else 4)
    assert store.verify() == [] and store.missing_blocks() == []


def test_a_part_is_read_by_runs(full):
    store = HistoryStore.open(full)
    np.testing.assert_array_equal(store.read("reward_scale", [3]), store.read("reward_scale")[3:4])
    np.testing.assert_array_equal(store.read("reward", range(1, 4)), store.read("reward")[2:8])


def test_the_counts():
    assert (META.streams, META.transitions, META.blocks) == (10, 10 * 3 * 4, 3)
    assert [list(META.block_runs(b)) for b in range(3)] == [[0, 1], [2, 3], [4]]


def test_resuming_asks_for_the_missing_blocks_only(tmp_path):
    filled(tmp_path / "s", blocks=[0, 2])
    store = HistoryStore.create_or_resume(tmp_path / "s", META)
    assert (store.complete_blocks(), store.missing_blocks()) == ([0, 2], [1])
    # Reading what is there gives runs 0, 1 and 4.
    expected = np.concatenate([block_arrays(META, b)["reward_scale"] for b in (0, 2)])
    np.testing.assert_array_equal(store.read("reward_scale"), expected)
    assert "3 of 5 runs complete" in store.describe()
    before = {p: p.read_bytes() for p in shards(tmp_path / "s", "reward")}
    store.write_block(1, block_arrays(META, 1))
    assert store.missing_blocks() == []
    assert all(p.read_bytes() == content for p, content in before.items())


def test_a_half_written_block_counts_as_missing(tmp_path):
    filled(tmp_path / "s")
    (tmp_path / "s" / "blocks" / "00001.json").unlink()
    shard_of(tmp_path / "s", "reward", 1).unlink()
    store = HistoryStore.create_or_resume(tmp_path / "s", META)
    assert store.missing_blocks() == [1]
    assert store.verify() == [], "an unfinished block is no damage"
    assert store.read("reward").shape[0] == 6


def test_nothing_complete_yet(tmp_path):
    store = HistoryStore.create_or_resume(tmp_path / "s", META)
    assert store.missing_blocks() == [0, 1, 2]
    with pytest.raises(GlaError, match="no complete block yet"):
        store.read("reward")
    assert "0 of 5 runs complete" in store.describe()


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-7])


def empty(file):
    file.write_bytes(b"")


def delete(file):
    file.unlink()


@pytest.mark.parametrize("damage", [flip, truncate, empty, delete])
@pytest.mark.parametrize("array", ["observation", "terminated", "policy"])
def test_a_damaged_chunk_is_named_and_only_its_block_collected_again(full, damage, array):
    damage(shard_of(full, array, 1))
    store = HistoryStore.open(full)
    with pytest.raises(GlaError) as caught:
        store.read(array)
    message = str(caught.value)
    assert f"array {array!r}" in message and "damaged" in message and "--repair" in message
    assert "\n" not in message
    store.read("reward")  # the other arrays are untouched
    (problem,) = store.verify()
    assert problem.startswith(f"block 1, array {array!r}: ")
    assert store.missing_blocks() == [], "verify alone changes nothing"
    # Of several damaged chunks it is chance which one is named.
    (again,) = store.verify(repair=True)
    assert again.startswith(f"block 1, array {array!r}: ")
    again = HistoryStore.create_or_resume(full, META)
    assert again.missing_blocks() == [1]
    again.write_block(1, block_arrays(META, 1))
    assert again.verify() == [] and again.missing_blocks() == []
    expected = np.concatenate([block_arrays(META, b)[array] for b in range(3)])
    np.testing.assert_array_equal(again.read(array), expected)


def test_a_damaged_array_description_is_named(full):
    (full / "action" / "zarr.json").write_text("{}")
    with pytest.raises(GlaError, match="array 'action'"):
        HistoryStore.open(full).read("action")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "someone-elses"}, "schema 'someone-elses'"),
        ({"version": 99}, "version 99"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_another_schema_is_refused(full, change, words):
    file = full / "zarr.json"
    group = json.loads(file.read_text())
    group["attributes"].update(change)
    file.write_text(json.dumps(group))
    with pytest.raises(GlaError) as caught:
        HistoryStore.open(full)
    assert words in str(caught.value) and "expected" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"attributes": 3}'])
def test_metadata_that_is_not_ours_is_refused(full, text):
    (full / "zarr.json").write_text(text)
    with pytest.raises(GlaError, match="zarr.json cannot be read"):
        HistoryStore.open(full)


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(GlaError, match="holds no learning histories"):
        HistoryStore.open(tmp_path / "nowhere")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(GlaError, match="holds no learning histories"):
            HistoryStore.create_or_resume(tmp_path / "notes", META, fresh=fresh)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("not a folder")
    for fresh in (False, True):
        with pytest.raises(GlaError):
            HistoryStore.create_or_resume(tmp_path / "file", META, fresh=fresh)
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("left", [0, 1, 5])
def test_a_store_whose_making_was_killed_is_made_again(tmp_path, left):
    other = dataclasses.replace(META, updates=7)
    HistoryStore.create_or_resume(tmp_path / "s", other)
    (tmp_path / "s" / "zarr.json").unlink()
    for array in list(array_shapes(META))[left:]:
        shutil.rmtree(tmp_path / "s" / array)
    filled(tmp_path / "s")
    assert HistoryStore.open(tmp_path / "s").verify() == []
    # With anything else in it, it may be somebody's work.
    (tmp_path / "s" / "zarr.json").unlink()
    with pytest.raises(GlaError, match="holds no learning histories"):
        HistoryStore.create_or_resume(tmp_path / "s", META)


@pytest.mark.parametrize("fresh", [False, True])
def test_an_empty_folder_may_be_filled(tmp_path, fresh):
    (tmp_path / "s").mkdir()
    store = HistoryStore.create_or_resume(tmp_path / "s", META, fresh=fresh)
    assert store.missing_blocks() == [0, 1, 2]


def test_fresh_starts_again(full):
    store = HistoryStore.create_or_resume(full, META, fresh=True)
    assert store.missing_blocks() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 8}, "seed 7 instead of 8"),
        ({"runs": 6}, "runs 5 instead of 6"),
        ({"settings": {"window": 30, "ppo": {"gamma": 0.9}}}, "window 20 instead of 30"),
        ({"settings": {"window": 20, "ppo": {"gamma": 0.8}}}, "ppo"),
    ],
)
def test_other_settings_are_refused_and_named(full, change, words):
    with pytest.raises(GlaError) as caught:
        HistoryStore.create_or_resume(full, dataclasses.replace(META, **change))
    assert words in str(caught.value) and "--fresh" in str(caught.value)
    assert HistoryStore.open(full).missing_blocks() == []


def test_another_package_version_may_go_on(full):
    newer = dataclasses.replace(META, packages={"jax": "1"})
    assert HistoryStore.create_or_resume(full, newer).missing_blocks() == []


def test_blocks_of_the_wrong_shape_are_refused(tmp_path):
    store = HistoryStore.create_or_resume(tmp_path / "s", META)
    arrays = block_arrays(META, 0)
    short = {**arrays, "reward": arrays["reward"][:, :2]}
    with pytest.raises(GlaError, match=r"array 'reward' of block 0 has shape \(4, 2, 4\)"):
        store.write_block(0, short)
    del arrays["value"]
    with pytest.raises(GlaError, match="'value'"):
        store.write_block(0, arrays)
    assert store.missing_blocks() == [0, 1, 2]


def test_a_full_disk_is_said_plainly_and_loses_nothing(tmp_path, monkeypatch):
    store = filled(tmp_path / "s", blocks=[0])

    class FullDisk:
        def __getitem__(self, rows):
            return self

        def write(self, value):
            return self

        def result(self):
            # TensorStore passes on the system's words, without the number, and its own place.
            raise ValueError(f"Error writing chunk: {os.strerror(errno.ENOSPC)} [source=x.cc:1]")

    monkeypatch.setattr(store, "_array", lambda name, write=False: FullDisk())
    with pytest.raises(GlaError) as caught:
        store.write_block(1, block_arrays(META, 1))
    message = str(caught.value)
    assert str(tmp_path / "s") in message and "the disk is full" in message
    assert "source=" not in message
    again = HistoryStore.create_or_resume(tmp_path / "s", META)
    assert again.complete_blocks() == [0] and again.verify() == []


def test_a_place_that_cannot_be_written_is_said_plainly(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GlaError, match=r"cannot create .*a part of the path is a file"):
        HistoryStore.create_or_resume(tmp_path / "file" / "s", META)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_said_plainly(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(GlaError, match="permission is denied"):
        HistoryStore.create_or_resume(tmp_path / "locked" / "s", META)


def test_any_zarr_reader_finds_its_way(full):
    group = json.loads((full / "zarr.json").read_text())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    assert group["attributes"]["environment"] == META.environment
    for name, (shape, dtype) in array_shapes(META).items():
        array = json.loads((full / name / "zarr.json").read_text())
        assert (array["zarr_format"], array["node_type"]) == (3, "array"), name
        assert tuple(array["shape"]) == shape and array["data_type"] == dtype, name
        # A shard holds a block, one checked chunk for each of its streams or runs.
        (shard,) = array["codecs"]
        assert shard["name"] == "sharding_indexed", name
        assert shard["configuration"]["chunk_shape"] == [1, *shape[1:]], name
        inner = shard["configuration"]["codecs"]
        assert "crc32c" in [codec["name"] for codec in inner], name
        assert len(shards(full, name)) == META.blocks, name
