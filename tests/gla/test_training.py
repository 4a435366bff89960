"""Meta-training: it learns, it goes on where it stopped, and bad input is named."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import checkpoints, training
from gla import policy as pol
from gla.errors import GlaError
from gla.histories import STREAM_ARRAYS, HistoryMeta, HistoryStore, array_shapes
from gla.models import TransformerConfig
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.tokens import Interface
from gla.training import MetaTrainConfig, config_from_json, meta_train

META = HistoryMeta(
    environment="gla/Made-v0", observation_size=3, action_size=2, discrete=False, horizon=6,
    runs=4, streams_per_run=1, updates=4, steps=6, parallel_envs=1, hidden=4, split="train",
    seed=0, block=2, settings={}, packages={},
)  # fmt: skip


def write_store(path, meta=META, blocks=None):
    """Random histories of policies that play about (0.6, -0.6) with a spread of exp(-2)."""
    rng = np.random.default_rng(0)
    shape = pol.PolicyShape(meta.observation_size, meta.action_size, meta.hidden, meta.discrete)
    flat = 0.1 * rng.normal(size=(meta.runs, meta.updates, shape.size))
    policies = pol.unflatten(shape, flat)
    policies.b3[...] = np.resize([0.7, -0.7], meta.action_size)
    policies.log_std[...] = -2.0
    policies.std[...] = 1.0
    arrays = {"policy": jax.vmap(jax.vmap(pol.flatten))(policies), "reward_scale": 1.0}
    arrays["observation_std"] = 1.0
    store = HistoryStore.create_or_resume(path, meta)
    for block in range(meta.blocks) if blocks is None else blocks:
        rows = {}
        for name, (sizes, dtype) in array_shapes(meta).items():
            default = rng.normal(size=sizes) if name in STREAM_ARRAYS else 0.0
            value = np.broadcast_to(np.asarray(arrays.get(name, default), dtype), sizes)
            rows[name] = value[[*meta.block_runs(block)]]
        store.write_block(block, rows)
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return MetaTrainConfig(
        histories=(write_store(tmp_path_factory.mktemp("histories") / "s"),),
        projection=ProjectionConfig(4, 3, "identity"),
        sampling=SamplingConfig(segments=2, segment_length=4, first_update=(0, 1), gap=(1, 2)),
        model=TransformerConfig(width=16, layers=1, heads=2, mlp=2, window=8),
        batch_size=4,
        steps=24,
        learning_rate=3e-2,
        warmup=2,
        steps_per_dispatch=2,
        checkpoint_every=8,
    )


@pytest.fixture(scope="module")
def interface(config):
    return training.make_interface(config, discrete=False)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of an uninterrupted run, and how often its step was traced."""
    traced = []
    original = training.train_steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_steps", lambda *a: (traced.append(1), original(*a))[1])
        folder = meta_train(config, tmp_path_factory.mktemp("whole") / "c", progress=False)
    return folder, len(traced)


def restored(folder, config, interface):
    state = checkpoints.restore_latest(folder, training.init_state(config, interface))
    return jax.tree.map(np.asarray, state)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_equal_runs(folder, other, config, interface):
    """Both ended in the same weights, optimiser state and log, bit for bit."""
    ours, theirs = (restored(f, config, interface) for f in (folder, other))
    assert int(ours.step) == config.steps
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert metrics(folder) == metrics(other)


def stop_at(monkeypatch, step, stop):
    """Call `stop` when the progress bar reaches `step`."""
    original = training.Progress.advance

    def advance(self, amount, note=""):
        original(self, amount, note)
        if self._done >= step:
            stop()

    monkeypatch.setattr(training.Progress, "advance", advance)


def interrupt():
    raise KeyboardInterrupt


def test_the_loss_falls(whole, config):
    logged = metrics(whole[0])
    assert [one["step"] for one in logged] == list(range(2, 26, 2))
    losses = [one["loss"] for one in logged]
    assert losses[0] > 10 and losses[-1] < 0.25 * losses[0]
    for one in logged:
        assert len(one["by_segment"]) == 2 and one["gradient_norm"] > 0
        assert np.mean(one["by_segment"]) == pytest.approx(one["loss"], rel=1e-4)


def test_the_step_is_traced_once(whole):
    assert whole[1] == 1


def test_the_folder_describes_itself(whole, config):
    description = checkpoints.describe(whole[0])
    assert config_from_json(description["training"]) == config
    assert Interface(**description["interface"]) == Interface(4, 3, False)
    assert description["sources"] == ["gla/Made-v0"] and "jax" in description["packages"]
    assert checkpoints.latest_step(whole[0]) == 24


def test_a_finished_run_is_left_alone(whole, config):
    def contents():
        return {p: p.stat().st_mtime_ns for p in whole[0].rglob("*") if p.is_file()}

    before = contents()
    assert meta_train(config, whole[0], progress=False) == whole[0]
    assert contents() == before


def test_an_interrupted_run_goes_on_bit_for_bit(
    whole, config, interface, tmp_path, monkeypatch
):  # fmt: skip
    with monkeypatch.context() as patch:
        stop_at(patch, 6, interrupt)  # not a step at which a checkpoint was due
        with pytest.raises(KeyboardInterrupt):
            meta_train(config, tmp_path / "c", progress=False)
    assert checkpoints.latest_step(tmp_path / "c") == 6
    meta_train(config, tmp_path / "c", progress=False)
    assert_equal_runs(tmp_path / "c", whole[0], config, interface)


def test_an_interrupt_inside_a_dispatch_keeps_the_last_checkpoint(config, tmp_path, monkeypatch):
    class Interrupted:
        """jax, but the third call of the compiled step is interrupted before it returns."""

        def __getattr__(self, name):
            return getattr(jax, name)

        def jit(self, function, **options):
            compiled, calls = jax.jit(function, **options), []

            def call(*args):
                result = compiled(*args)
                calls.append(1)
                return result if len(calls) < 3 else interrupt()

            return call

    monkeypatch.setattr(training, "jax", Interrupted())
    often = dataclasses.replace(config, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        meta_train(often, tmp_path / "c", progress=False)
    assert checkpoints.latest_step(tmp_path / "c") == 4


KILLED = """
import json, os, signal, sys
from gla import training

config = training.config_from_json(json.loads(sys.argv[1]))
advance = training.Progress.advance

def killed(self, amount, note=""):
    advance(self, amount, note)
    if self._done >= 14:
        os.kill(os.getpid(), signal.SIGKILL)

training.Progress.advance = killed
training.meta_train(config, sys.argv[2], progress=False)
"""


def test_a_killed_run_goes_on_bit_for_bit(whole, config, interface, tmp_path):
    settings = json.dumps(dataclasses.asdict(config))
    run = subprocess.run(
        [sys.executable, "-c", KILLED, settings, str(tmp_path / "c")],
        env=os.environ, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == -signal.SIGKILL, run.stderr
    folder = tmp_path / "c"
    assert checkpoints.latest_step(folder) == 8
    assert [one["step"] for one in metrics(folder)][-1] == 14
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 16, "lo')  # the line that the kill cut short
    meta_train(config, folder, progress=False)
    assert_equal_runs(folder, whole[0], config, interface)


def test_other_settings_are_refused_and_named(whole, config):
    for change, words in (
        ({"batch_size": 5}, "batch_size is 4 there and 5 here"),
        ({"model": dataclasses.replace(config.model, width=32)}, "width is 16 there and 32 here"),
        ({"sampling": dataclasses.replace(config.sampling, gap=(1, 1))}, "gap is [1, 2] there"),
    ):
        with pytest.raises(GlaError) as caught:
            meta_train(dataclasses.replace(config, **change), whole[0], progress=False)
        assert words in str(caught.value) and "--fresh" in str(caught.value)
    assert checkpoints.latest_step(whole[0]) == 24


def test_a_checkpoint_that_does_not_fit_the_model_is_refused(whole, config, interface, tmp_path):
    shutil.copytree(whole[0], tmp_path / "c")
    wide = dataclasses.replace(config, model=dataclasses.replace(config.model, width=32))
    file = tmp_path / "c" / "config.json"
    description = json.loads(file.read_text())
    description["training"]["model"]["width"] = 32
    file.write_text(json.dumps(description))
    with pytest.raises(GlaError) as caught:
        meta_train(wide, tmp_path / "c", progress=False)
    message = str(caught.value)
    assert "does not fit the model" in message and "(32," in message and "(16," in message
    deep = dataclasses.replace(config, model=dataclasses.replace(config.model, layers=2))
    with pytest.raises(GlaError, match="does not fit the model: .*blocks_1.* is absent there"):
        restored(whole[0], deep, interface)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


# Orbax leaves readers behind that complain about their closed event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("which", ["data", "_METADATA"])
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(
    whole, config, interface, tmp_path, which, damage
):
    folder = tmp_path / "c"
    shutil.copytree(whole[0], folder)
    newest = folder / "checkpoints" / "24"
    files = [p for p in newest.rglob("*") if p.is_file()]
    if which == "data":  # numbers of the arrays; everything else in the checkpoint is small
        files = [p for p in files if p.parent.name == "d" and p.stat().st_size > 5000]
    else:
        files = [p for p in files if p.name == which]
    assert files
    for file in files:
        damage(file)
    with pytest.raises(GlaError) as caught:
        restored(folder, config, interface)
    message = str(caught.value)
    assert "checkpoint 24" in message and str(newest) in message and "\n" not in message
    shutil.rmtree(newest)
    assert int(restored(folder, config, interface).step) == 16
    if which == "data" and damage is truncate:
        meta_train(config, folder, progress=False)  # although it had finished once
        assert_equal_runs(folder, whole[0], config, interface)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    config, interface, tmp_path, monkeypatch
):
    store = write_store(tmp_path / "s")
    config = dataclasses.replace(config, histories=(store,))
    with monkeypatch.context() as patch:
        stop_at(patch, 8, interrupt)
        with pytest.raises(KeyboardInterrupt):
            meta_train(config, tmp_path / "c", progress=False)
    kept = restored(tmp_path / "c", config, interface)
    rewards = HistoryStore.open(store)._array("reward")
    rewards.write(np.full(rewards.shape, np.nan, np.float32)).result()
    with pytest.raises(GlaError) as caught:
        meta_train(config, tmp_path / "c", progress=False)
    message = str(caught.value)
    assert "the meta-training loss became nan by step 10" in message
    assert "lower the learning rate (0.03)" in message and "kept" in message
    jax.tree.map(
        np.testing.assert_array_equal, kept, restored(tmp_path / "c", config, interface)
    )  # fmt: skip
    assert metrics(tmp_path / "c")[-1]["step"] == 8


def test_a_gradient_that_is_not_finite_is_never_saved(config, tmp_path, monkeypatch):
    def flat_root(params, *rest):  # 0 everywhere, with a gradient of 0 / 0
        total = sum(jnp.sum(0.0 * leaf) for leaf in jax.tree.leaves(params))
        return jnp.sqrt(total), jnp.zeros(2)

    monkeypatch.setattr(training, "batch_loss", flat_root)
    often = dataclasses.replace(config, steps_per_dispatch=1, checkpoint_every=1)
    with pytest.raises(GlaError, match="gradient norm became nan by step 1"):
        meta_train(often, tmp_path / "c", progress=False)
    assert checkpoints.latest_step(tmp_path / "c") == 0


def test_a_full_disk_is_said_plainly(config, interface, tmp_path, monkeypatch):
    state = training.init_state(config, interface)
    checkpoints.save(tmp_path, 2, state)
    made = checkpoints._manager

    class FullDisk:
        def __enter__(self):
            self.manager = made(tmp_path)
            return self.manager

        def __exit__(self, *_):
            self.manager.close()
            # As Orbax reports it, from a thread of its own, when the manager is closed.
            raise ValueError("RESOURCE_EXHAUSTED: Failed: No space left on device [source=x.cc]")

    monkeypatch.setattr(checkpoints, "_manager", lambda folder: FullDisk())
    with pytest.raises(GlaError, match="cannot save a checkpoint in .*the disk is full; free"):
        checkpoints.save(tmp_path, 4, state)
    monkeypatch.undo()
    assert checkpoints.latest_step(tmp_path) >= 2


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"schema": "gla-checkpoint"}', "cannot be read"),
        ('{"schema": "other", "version": 1}', "schema 'other'"),
        ('{"schema": "gla-checkpoint", "version": 9}', "version 9"),
    ],
)
def test_a_description_that_is_not_ours_is_refused(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(GlaError, match=words):
        checkpoints.describe(tmp_path)


def test_a_folder_without_a_checkpoint(config, interface, tmp_path):
    state = training.init_state(config, interface)
    assert checkpoints.restore_latest(tmp_path, state, default="nothing") == "nothing"
    with pytest.raises(GlaError, match="holds no checkpoint yet"):
        checkpoints.restore_latest(tmp_path, state)


# Sources


def test_several_sources_share_the_batch(config):
    two = dataclasses.replace(config, histories=config.histories * 2, weights=(1.0, 3.0))
    sources = training.load_sources(two)
    assert sources.environments == ["gla/Made-v0"] * 2 and not sources.discrete
    interface = training.make_interface(two, sources.discrete)
    params = training.init_state(two, interface).params
    loss, by_segment = jax.eval_shape(
        lambda key: training.batch_loss(params, key, sources.histories, two, interface),
        jax.random.key(0),
    )
    assert loss.shape == () and by_segment.shape == (2,)


def test_incomplete_histories_are_refused(config, tmp_path):
    path = write_store(tmp_path / "half", blocks=[1])
    with pytest.raises(GlaError, match="1 of 2 blocks are missing.*gla collect"):
        training.load_sources(dataclasses.replace(config, histories=(path,)))


def test_histories_that_do_not_fit_are_refused(config, tmp_path):
    def load(**change):
        return training.load_sources(dataclasses.replace(config, **change))

    with pytest.raises(GlaError, match="gla/Made-v0 has observations of 3 numbers"):
        load(projection=ProjectionConfig(2, 3))
    with pytest.raises(GlaError, match="gla/Made-v0 has actions of 2 numbers"):
        load(projection=ProjectionConfig(4, 1))
    with pytest.raises(GlaError, match="segments of 7 steps do not fit"):
        load(sampling=SamplingConfig(segment_length=7))
    with pytest.raises(GlaError, match="given no histories"):
        load(histories=())
    with pytest.raises(GlaError, match="holds no learning histories"):
        load(histories=(str(tmp_path / "nowhere"),))
    discrete = write_store(tmp_path / "discrete", dataclasses.replace(META, discrete=True))
    with pytest.raises(GlaError, match="mix continuous and discrete"):
        load(histories=(*config.histories, discrete))


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"steps": 0},
        {"warmup": -1},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"max_grad_norm": -1.0},
        {"final_rate": 1.5},
        {"weight_decay": -0.1},
        {"checkpoint_every": 15},
        {"weights": (1.0,)},
        {"histories": ("a", "b"), "weights": (1.0,)},
        {"histories": ("a", "b"), "batch_size": 1},
        {"histories": ("a", "b"), "weights": (1.0, 0.0)},
    ],
)
def test_a_config_out_of_range_is_refused(settings):
    with pytest.raises(GlaError) as caught:
        MetaTrainConfig(**settings)
    assert "\n" not in str(caught.value)


def test_paths_are_kept_as_given(config):
    assert Path(config.histories[0]).is_dir()
    again = config_from_json(json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config and hash(again) == hash(config)
