"""Checkpoint folders: what is saved comes back, whatever else happens at the time."""

import json
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import checkpoints
from gla.errors import GlaError

STATE = {"params": jnp.arange(6.0).reshape(2, 3), "step": jnp.int32(4), "none": None}


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_state_comes_back(tmp_path):
    checkpoints.save(tmp_path, 4, STATE)
    same(checkpoints.restore_latest(tmp_path, STATE), STATE)
    like = jax.eval_shape(lambda: STATE)  # shapes alone are enough
    same(checkpoints.restore_latest(tmp_path, like), STATE)
    assert checkpoints.latest_step(tmp_path) == 4


def test_the_last_two_are_kept(tmp_path):
    with checkpoints.Checkpoints(tmp_path) as saver:
        for step in (2, 4, 6, 6):  # twice the same is no error
            saver.save(step, {"x": jnp.float32(step)})
    assert checkpoints.steps_of(tmp_path) == [6, 4]
    assert float(checkpoints.restore_latest(tmp_path, {"x": jnp.zeros(())})["x"]) == 6


def test_the_best_has_a_checkpoint_of_its_own(tmp_path):
    like = {"x": jnp.zeros(())}
    with pytest.raises(GlaError, match="holds no best weights"):
        checkpoints.restore(tmp_path, like, "best")
    with checkpoints.Checkpoints(tmp_path) as saver:
        for step in (2, 4, 6, 8):
            saver.save(step, {"x": jnp.float32(step)})
            if step in (2, 4):
                saver.save_best(step, {"x": jnp.float32(-step)})
    assert checkpoints.steps_of(tmp_path, "best") == [4]
    assert float(checkpoints.restore(tmp_path, like, "best")["x"]) == -4
    assert float(checkpoints.restore(tmp_path, like, "latest")["x"]) == 8
    with pytest.raises(GlaError, match="'worst'; expected latest or best"):
        checkpoints.restore(tmp_path, like, "worst")


def test_a_run_that_goes_on_may_save_a_best_of_an_earlier_step(tmp_path):
    # It was killed after it had saved the best of step 6 and before the checkpoint of step 6.
    with checkpoints.Checkpoints(tmp_path) as saver:
        saver.save_best(6, {"x": jnp.float32(6)})
    with checkpoints.Checkpoints(tmp_path) as saver:
        saver.save_best(4, {"x": jnp.float32(4)})
        saver.save_best(6, {"x": jnp.float32(6)})
    assert float(checkpoints.restore(tmp_path, {"x": jnp.zeros(())}, "best")["x"]) == 6


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """Saved asynchronously is the state of that step, although its buffers are used again."""
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    writes, written = threading.Event(), []
    from orbax.checkpoint import StandardCheckpointHandler as Handler

    original = Handler.async_save

    async def held_back(self, *args, **kwargs):
        futures = await original(self, *args, **kwargs)
        written.append(writes.is_set())
        return futures

    monkeypatch.setattr(Handler, "async_save", held_back)
    state = step(jnp.zeros(200_000))
    with checkpoints.Checkpoints(tmp_path) as saver:
        saver.save(1, {"x": state})
        pointer = state.unsafe_buffer_pointer()
        reused = 0
        for _ in range(100):
            state = step(state)
            reused += state.unsafe_buffer_pointer() == pointer
        jax.block_until_ready(state)
        writes.set()
    assert reused and written == [False]  # the buffer was written over, and saving had begun
    found = checkpoints.restore_latest(tmp_path, {"x": state})["x"]
    np.testing.assert_array_equal(found, np.ones(200_000))
    assert float(state[0]) == 101


class FullDisk:
    """A manager whose writing thread meets a full disk, as TensorStore reports it."""

    def __init__(self, manager):
        self._manager, self._saves = manager, False

    def __getattr__(self, name):
        return getattr(self._manager, name)

    def save(self, *args, **kwargs):
        self._saves = True

    def check_for_errors(self):
        if self._saves:
            text = "RESOURCE_EXHAUSTED: Failed: No space left on device [source=x.cc]"
            raise ValueError(text)


def test_a_full_disk_is_said_plainly(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 2, STATE)
    made = checkpoints._manager
    monkeypatch.setattr(checkpoints, "_manager", lambda *a, **k: FullDisk(made(*a, **k)))
    with pytest.raises(GlaError, match="cannot save a checkpoint in .*the disk is full; free"):
        checkpoints.save(tmp_path, 4, STATE)
    monkeypatch.undo()
    assert checkpoints.latest_step(tmp_path) == 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(GlaError, match="the disk is full; free"):
        checkpoints.save(tmp_path, 6, STATE)
    assert checkpoints.latest_step(tmp_path) == 2


def test_what_ended_training_is_raised_rather_than_a_failed_save(tmp_path, monkeypatch):
    made = checkpoints._manager
    with pytest.raises(KeyError), checkpoints.Checkpoints(tmp_path) as saver:
        monkeypatch.setattr(checkpoints, "_manager", lambda *a, **k: FullDisk(made(*a, **k)))
        saver.save(2, STATE)
        with pytest.raises(GlaError, match="the disk is full"):
            saver.wait()
        raise KeyError


def test_a_state_that_does_not_fit_is_refused(tmp_path):
    checkpoints.save(tmp_path, 2, STATE)
    wide = {**STATE, "params": jnp.zeros((2, 4))}
    with pytest.raises(GlaError, match=r"does not fit the model: params is \(2, 3\) there and"):
        checkpoints.restore_latest(tmp_path, wide)
    with pytest.raises(GlaError, match="more is absent there"):
        checkpoints.restore_latest(tmp_path, {**STATE, "more": jnp.zeros(())})


def test_a_flipped_bit_is_noticed(tmp_path):
    # Noise does not compress, so that nearly all of the file are the numbers themselves.
    state = {"other": jnp.ones(8), "weights": jax.random.normal(jax.random.key(0), (300, 70))}
    checkpoints.save(tmp_path, 4, state)
    same(checkpoints.restore_latest(tmp_path, state), state)
    file = max((tmp_path / "checkpoints" / "4").rglob("*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(GlaError, match=r"checkpoint 4 .*\(weights is not.*checkpoints/4\."):
        checkpoints.restore_latest(tmp_path, state)


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool", "complex64"]
)
def test_every_word_and_its_place_are_in_the_checksum(dtype):
    values = np.random.default_rng(0).integers(0, 2, (3, 5)).astype(jnp.dtype(dtype))

    def checksum(array):
        return checkpoints._checksums({"x": jnp.asarray(array)})["x"]

    before = checksum(values)
    assert checksum(values.copy()) == before
    for place in np.ndindex(values.shape):
        changed = values.copy()
        changed[place] = 1 - changed[place]
        assert checksum(changed) != before, place
    assert checksum(values[::-1]) != before
    # Only a bit of the last word: of a sign, or of the smallest part of a number.
    if dtype not in ("bool", "complex64"):
        for byte in (-1, -values.itemsize):
            content = bytearray(values.tobytes())
            content[byte] ^= 1
            assert checksum(np.frombuffer(content, values.dtype).reshape(values.shape)) != before


def test_random_keys_have_a_checksum():
    sums = [checkpoints._checksums({"key": jax.random.key(seed)})["key"] for seed in (0, 1)]
    assert sums[0] != sums[1]


def test_a_folder_without_a_checkpoint(tmp_path):
    assert checkpoints.restore_latest(tmp_path, STATE, default="nothing") == "nothing"
    with pytest.raises(GlaError, match="holds no checkpoint yet"):
        checkpoints.restore_latest(tmp_path, STATE)


# Descriptions


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_something_else_is_never_touched(tmp_path, fresh):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("here first")
    for place in ("notes", "file"):
        with pytest.raises(GlaError, match="is not a checkpoint folder"):
            checkpoints.prepare(tmp_path / place, {"training": {}}, fresh)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "here first"
    (tmp_path / "empty").mkdir()
    checkpoints.prepare(tmp_path / "empty", {"training": {}}, fresh)
    assert checkpoints.describe(tmp_path / "empty")["training"] == {}


def test_fresh_starts_again(tmp_path):
    checkpoints.prepare(tmp_path / "c", {"training": {"a": 1}})
    (tmp_path / "c" / "metrics.jsonl").write_text("{}")
    checkpoints.prepare(tmp_path / "c", {"training": {"a": 2}}, fresh=True)
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["config.json"]


def test_devices_and_places_may_change_and_nothing_else(tmp_path):
    old = {
        "batch_size": 4, "mesh": {"data": 0}, "tensorboard": False, "histories": ["a"],
        "validation": {"histories": ["b"], "every": 2},
    }  # fmt: skip
    checkpoints.prepare(tmp_path, {"training": old})
    moved = {
        **old, "mesh": {"data": 8}, "tensorboard": True, "histories": ["/c"],
        "validation": {"histories": ["d"], "every": 2},
    }  # fmt: skip
    checkpoints.prepare(tmp_path, {"training": moved})
    for change, words in (
        ({"batch_size": 5}, "batch_size is 4 there and 5 here"),
        ({"validation": {"histories": [], "every": 4}}, "every is 2 there and 4 here"),
    ):
        with pytest.raises(GlaError, match=words + ".*--fresh"):
            checkpoints.prepare(tmp_path, {"training": {**old, **change}})
    with pytest.raises(GlaError, match="validation is None there and"):
        checkpoints.prepare(tmp_path, {"training": old, "validation": [{"environment": "x"}]})


def test_checkpoints_of_an_older_version_are_named_and_may_be_deleted(tmp_path):
    description = {
        "schema": "gla-checkpoint", "version": 1, "packages": {"gla": "0.1.0"}, "training": {}
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(description))
    for look in (checkpoints.describe, lambda folder: checkpoints.prepare(folder, {})):
        with pytest.raises(GlaError) as caught:
            look(tmp_path)
        message = str(caught.value)
        assert "were written by gla 0.1.0 and have version 1" in message
        assert "meta-train again (with --fresh" in message and "\n" not in message
    checkpoints.prepare(tmp_path, {"training": {"a": 2}}, fresh=True)
    assert checkpoints.describe(tmp_path)["version"] == checkpoints.VERSION == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"schema": "gla-checkpoint"}', "cannot be read"),
        ('{"schema": "other", "version": 1}', "schema 'other'"),
        ('{"schema": "gla-checkpoint", "version": 9}', "written by another version of gla"),
    ],
)
def test_a_description_that_is_not_ours_is_refused(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(GlaError, match=words):
        checkpoints.describe(tmp_path)


def test_finished_is_remembered_with_its_step(tmp_path):
    assert not checkpoints.finished(tmp_path, 8)
    checkpoints.finish(tmp_path, 8, "all steps done")
    assert checkpoints.finished(tmp_path, 8) and checkpoints.finished(tmp_path, 9)
    assert not checkpoints.finished(tmp_path, 6)  # the checkpoint of step 8 was deleted
    (tmp_path / "finished.json").write_text("{")
    assert not checkpoints.finished(tmp_path, 8)
