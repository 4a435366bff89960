"""Meta-training: it learns, it goes on where it stopped, and bad input is named."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import checkpoints, learner, loop, sampling, training
from gla import steps as stepping
from gla.errors import GlaError
from gla.histories import HistoryStore
from gla.learner import init_state, loss_and_gradient, train_steps
from gla.loading import LoadingConfig
from gla.models import ModelConfig, make_model
from gla.objectives import ObjectiveConfig
from gla.optimizers import OptimizerConfig, make_schedule
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.tokens import Interface
from gla.training import (
    MetaTrainConfig,
    ValidationConfig,
    config_from_json,
    load_trained,
    meta_train,
)

# How many times the run is killed that must end as if it had not been.
KILLS = int(os.environ.get("GLA_TEST_KILLS", "2"))


@pytest.fixture(scope="module")
def config(policy_store, tmp_path_factory):
    """With all that a run must remember: accumulation, average, validation."""
    folder = tmp_path_factory.mktemp("histories")
    return MetaTrainConfig(
        histories=(policy_store(folder / "s"),),
        projection=ProjectionConfig(4, 3, "identity"),
        sampling=SamplingConfig(segments=2, segment_length=4, first_update=(0, 1), gap=(1, 2)),
        model=ModelConfig(width=16, layers=1, heads=2, mlp=2, window=8),
        optimizer=OptimizerConfig(learning_rate=3e-2, warmup=2, ema=0.8),
        validation=ValidationConfig(4, histories=(policy_store(folder / "v", seed=5),), batches=2),
        batch_size=4,
        accumulate=2,
        steps=24,
        steps_per_dispatch=2,
        checkpoint_every=8,
    )


@pytest.fixture(scope="module")
def plain(config):
    """A run that compiles sooner, for what needs no more."""
    optimizer = dataclasses.replace(config.optimizer, ema=0.0)
    return dataclasses.replace(
        config, accumulate=1, optimizer=optimizer, validation=ValidationConfig()
    )


@pytest.fixture(scope="module")
def interface(config):
    return training.make_interface(config, discrete=False)


@pytest.fixture(scope="module")
def histories(config):
    with training.load_sources(config) as sources:
        return sources.pool(0)


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
    state = checkpoints.restore_latest(folder, init_state(config, interface))
    return jax.tree.map(np.asarray, state)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def metrics(folder):
    return [line for line in lines(folder) if "loss" in line]


def validations(folder):
    return {line["step"]: line["validation"] for line in lines(folder) if "validation" in line}


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def assert_equal_runs(folder, other, config, interface):
    """Both ended in the same weights, average, optimiser, watch, best and log, bit for bit."""
    ours, theirs = (restored(f, config, interface) for f in (folder, other))
    assert int(ours.step) == config.steps
    assert_same(ours, theirs)
    assert lines(folder) == lines(other)
    best = [load_trained(f, "best").params for f in (folder, other)]
    assert_same(*best)


def stop_at(monkeypatch, step, stop):
    """Call `stop` when the progress bar reaches `step`."""
    original = loop.Progress.advance

    def advance(self, amount, note=""):
        original(self, amount, note)
        if self._done >= step:
            stop()

    monkeypatch.setattr(loop.Progress, "advance", advance)


def interrupt():
    raise KeyboardInterrupt


def test_the_loss_falls(whole, config):
    logged = metrics(whole[0])
    assert [one["step"] for one in logged] == list(range(2, 26, 2))
    losses = [one["loss"] for one in logged]
    assert losses[0] > 10 and losses[-1] < 0.25 * losses[0]
    schedule = make_schedule(config.optimizer, config.steps)
    for one in logged:
        assert len(one["by_segment"]) == 2 and one["gradient_norm"] > 0 and one["skipped"] == 0
        assert np.mean(one["by_segment"]) == pytest.approx(one["loss"], rel=1e-4)
        assert one["forward_kl"] + one["reverse_kl"] == pytest.approx(one["loss"], rel=1e-4)
        assert one["learning_rate"] == pytest.approx(float(schedule(one["step"] - 1)), rel=1e-5)


def test_the_step_is_traced_once(whole):
    assert whole[1] == 1


def test_the_folder_describes_itself(whole, config):
    description = checkpoints.describe(whole[0])
    assert config_from_json(description["training"]) == config
    assert Interface(**description["interface"]) == Interface(4, 3, False)
    assert description["sources"] == ["gla/Made-v0"] and "jax" in description["packages"]
    assert description["validation"][0]["seed"] == 5
    assert checkpoints.latest_step(whole[0]) == 24
    assert json.loads((whole[0] / "finished.json").read_text()) == {
        "step": 24, "reason": "all steps done"
    }  # fmt: skip


def test_the_best_weights_are_those_of_the_best_validation(whole, config, interface, histories):
    found = validations(whole[0])
    assert list(found) == [4, 8, 12, 16, 20, 24]
    best = max(found, key=lambda step: found[step]["score"])
    watch = restored(whole[0], config, interface).watch
    assert (watch.best_step, watch.best) == (best, np.float32(found[best]["score"]))
    assert checkpoints.steps_of(whole[0], "best") == [best]
    with training.load_sources(config, config.validation.histories) as held_out:
        terms = jax.jit(lambda p: learner.validation_loss(p, held_out.pool(0), config, interface))(
            load_trained(whole[0], "best").params
        )
    assert -float(terms["loss"]) == pytest.approx(found[best]["score"], rel=1e-5)


def test_the_average_of_the_weights_acts(whole, config, interface):
    state = restored(whole[0], config, interface)
    trained = load_trained(whole[0])
    assert_same(trained.params, state.ema)
    assert (trained.config, trained.interface) == (config, interface)
    different = jax.tree.map(lambda a, b: np.any(a != b), state.ema, state.params)
    assert any(jax.tree.leaves(different))


def test_a_finished_run_is_left_alone(whole, config):
    def contents():
        return {p: p.stat().st_mtime_ns for p in whole[0].rglob("*") if p.is_file()}

    before = contents()
    assert meta_train(config, whole[0], progress=False) == whole[0]
    assert contents() == before


def test_an_interrupted_run_goes_on_bit_for_bit(whole, config, interface, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 6, interrupt)  # not a step at which a checkpoint was due
        with pytest.raises(KeyboardInterrupt):
            meta_train(config, tmp_path / "c", progress=False)
    assert checkpoints.latest_step(tmp_path / "c") == 6
    with monkeypatch.context() as patch:  # and once in the middle of a validation
        patch.setattr(checkpoints.Checkpoints, "save_best", lambda *_: interrupt())
        with pytest.raises(KeyboardInterrupt):
            meta_train(config, tmp_path / "c", progress=False)
    assert checkpoints.latest_step(tmp_path / "c") == 8
    assert int(restored(tmp_path / "c", config, interface).watch.validated) == 4
    meta_train(config, tmp_path / "c", progress=False)
    assert_equal_runs(tmp_path / "c", whole[0], config, interface)


def test_an_interrupt_inside_a_dispatch_keeps_the_last_checkpoint(plain, tmp_path, monkeypatch):
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

    monkeypatch.setattr(loop, "jax", Interrupted())
    often = dataclasses.replace(plain, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        meta_train(often, tmp_path / "c", progress=False)
    assert checkpoints.latest_step(tmp_path / "c") == 4


KILLED = """
import json, os, signal, sys
from gla import checkpoints, logs, loop, training

config = training.config_from_json(json.loads(sys.argv[1]))
left = int(sys.argv[3])

def counted(original):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return call

# Before a line is logged, a checkpoint is begun or is on the disk, and after a dispatch.
for place, name in (
    (logs.Logs, "write"), (checkpoints.Checkpoints, "save"), (checkpoints.Checkpoints, "save_best"),
    (checkpoints.Checkpoints, "close"), (loop, "_readable"), (loop.Progress, "advance"),
):
    setattr(place, name, counted(getattr(place, name)))
training.meta_train(config, sys.argv[2], progress=False)
"""


def test_a_run_that_is_killed_at_random_goes_on_bit_for_bit(whole, config, interface, tmp_path):
    settings, folder = json.dumps(dataclasses.asdict(config)), tmp_path / "c"
    drawn = random.Random(int(os.environ.get("GLA_TEST_SEED", "0")))
    for _ in range(KILLS):
        # A whole run has 12 dispatches, 6 validations and 3 checkpoints: about 55 such places.
        run = subprocess.run(
            [sys.executable, "-c", KILLED, settings, str(folder), str(drawn.randrange(1, 45))],
            env=os.environ, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if run.returncode == 0:  # it was close to its end already
            shutil.rmtree(folder)
            continue
        assert run.returncode == -signal.SIGKILL, run.stderr
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 16, "lo')  # a line that a kill cut short
    meta_train(config, folder, progress=False)
    assert_equal_runs(folder, whole[0], config, interface)


def test_other_settings_are_refused_and_named(whole, config):
    for change, words in (
        ({"batch_size": 8}, "batch_size is 4 there and 8 here"),
        ({"model": dataclasses.replace(config.model, width=32)}, "width is 16 there and 32 here"),
        ({"sampling": dataclasses.replace(config.sampling, gap=(1, 1))}, "gap is [1, 2] there"),
    ):
        with pytest.raises(GlaError) as caught:
            meta_train(dataclasses.replace(config, **change), whole[0], progress=False)
        assert words in str(caught.value) and "--fresh" in str(caught.value)
    assert checkpoints.latest_step(whole[0]) == 24


def test_training_begins_with_the_weights_of_another_agent(
    whole, plain, interface, policy_store, tmp_path, monkeypatch
):
    begun = []
    original = training.init_state
    monkeypatch.setattr(training, "init_state", lambda *a: begun.append(a[2]) or original(*a))
    histories = (policy_store(tmp_path / "s", seed=9, environment="gla/Other-v0"),)
    config = dataclasses.replace(plain, histories=histories, initial=str(whole[0]), steps=4)
    folder = meta_train(config, tmp_path / "c", progress=False)
    assert_same(begun[0], load_trained(whole[0]).params)  # those that act: the average
    described = json.loads((folder / "config.json").read_text())
    before = json.loads((whole[0] / "config.json").read_text())
    assert described["sources"] == ["gla/Other-v0", *before["sources"]]
    assert described["began"]["initial_step"] == 24
    assert described["began"]["histories"] == before["histories"]
    # Moved, it is still the same agent; another one is not.
    moved = shutil.copytree(whole[0], tmp_path / "moved")
    meta_train(dataclasses.replace(config, initial=str(moved)), folder, progress=False)
    with pytest.raises(
        GlaError, match="trained with other settings: initial_step is 24 there and 4"
    ):
        meta_train(dataclasses.replace(config, initial=str(folder)), folder, progress=False)
    wide = dataclasses.replace(config, model=dataclasses.replace(config.model, width=32))
    with pytest.raises(GlaError, match="to begin with, has another model: .*width=16"):
        meta_train(wide, tmp_path / "w", progress=False)


def test_a_checkpoint_that_does_not_fit_the_model_is_refused(whole, config, interface, tmp_path):
    shutil.copytree(whole[0], tmp_path / "c")
    wide = dataclasses.replace(config, model=dataclasses.replace(config.model, width=32))
    file = tmp_path / "c" / "config.json"
    description = json.loads(file.read_text())
    description["training"]["model"]["width"] = 32
    file.write_text(json.dumps(description))
    for call in (
        lambda: meta_train(wide, tmp_path / "c", progress=False),
        lambda: load_trained(tmp_path / "c"),
        lambda: load_trained(tmp_path / "c", "best"),
    ):
        with pytest.raises(GlaError) as caught:
            call()
        message = str(caught.value)
        assert "does not fit the model" in message and "(32," in message and "(16," in message
    deep = dataclasses.replace(config, model=dataclasses.replace(config.model, layers=2))
    with pytest.raises(GlaError, match="does not fit the model: .*blocks_1.* is absent there"):
        restored(whole[0], deep, interface)
    del description["training"]["optimizer"]
    file.write_text(json.dumps(description))
    with pytest.raises(GlaError, match="lacks or adds settings"):
        load_trained(tmp_path / "c")


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


# When something goes wrong


def poisoned(monkeypatch, steps, value=jnp.nan):
    """Make the loss of certain steps not finite, or something else."""
    original = learner.loss_and_gradient
    bad = jnp.asarray(steps)

    def spoilt(params, key, histories, progress, config, interface, mesh=None):
        grads, terms, parts = original(params, key, histories, progress, config, interface, mesh)
        now = jnp.round(progress * config.steps).astype(jnp.int32)
        loss = jnp.where(jnp.any(now == bad), value, terms["loss"])
        return grads, {**terms, "loss": loss}, parts

    monkeypatch.setattr(learner, "loss_and_gradient", spoilt)


def one_dispatch(config, interface, histories, state=None):
    state = init_state(config, interface) if state is None else state
    return jax.jit(lambda s, h: train_steps(s, h, config, interface))(state, histories)


@pytest.mark.parametrize("what", ["loss", "gradient", "update"])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(
    config, interface, histories, monkeypatch, what
):
    one = dataclasses.replace(config, steps_per_dispatch=1, accumulate=1)
    state, _ = one_dispatch(one, interface, histories)
    if what == "update":
        huge = dataclasses.replace(one.optimizer, learning_rate=1e38)
        one = dataclasses.replace(one, optimizer=huge)
    with monkeypatch.context() as patch:
        if what == "loss":
            poisoned(patch, [1])
        elif what == "gradient":
            original = learner.loss_and_gradient

            def spoilt(*args):
                grads, *rest = original(*args)
                return jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.inf), grads), *rest

            patch.setattr(learner, "loss_and_gradient", spoilt)
        after, metrics = one_dispatch(one, interface, histories, state)
    assert int(after.step) == 2 and int(metrics.taken) == 0
    assert int(after.watch.skipped) == 1 and int(after.watch.in_row) == 1
    counts = {"skipped": state.watch.skipped, "in_row": state.watch.in_row}
    assert_same(after._replace(step=state.step, watch=after.watch._replace(**counts)), state)
    assert float(metrics.terms["loss"]) == 0.0
    # The next step is taken as if nothing had been.
    one = dataclasses.replace(config, steps_per_dispatch=1, accumulate=1)
    later, metrics = one_dispatch(one, interface, histories, after)
    assert int(metrics.taken) == 1 and int(later.watch.in_row) == 0
    assert int(later.watch.skipped) == 1


def test_skipped_steps_are_counted_and_their_loss_is_left_out(
    plain, interface, histories, tmp_path, monkeypatch
):
    poisoned(monkeypatch, [2, 4, 5])
    folder = meta_train(dataclasses.replace(plain, steps=8), tmp_path / "c", progress=False)
    logged = metrics(folder)
    assert [one["skipped"] for one in logged] == [0, 1, 3, 3]
    assert logged[2]["loss"] is None and logged[2]["by_segment"] == []
    assert all(np.isfinite(one["loss"]) for one in logged if one["step"] != 6)
    assert all(np.isfinite(one["smoothed_loss"]) for one in logged)


def test_many_skips_in_a_row_stop_training_and_say_so_again(
    plain, interface, tmp_path, monkeypatch
):
    config = dataclasses.replace(plain, max_skips=3)
    poisoned(monkeypatch, [3, 4, 9, 10, 11, 12, 13])
    messages = []
    for _ in range(2):
        with pytest.raises(GlaError) as caught:
            meta_train(config, tmp_path / "c", progress=False)
        messages.append(str(caught.value))
        assert checkpoints.latest_step(tmp_path / "c") == 8
        assert metrics(tmp_path / "c")[-1]["step"] == 10
    assert messages[0] == messages[1] and "\n" not in messages[0]
    # Steps 9 to 11 were skipped, counted from 0; nothing happened after the third.
    assert "stopped at step 12: 3 steps in a row" in messages[0]
    assert "lower the learning rate (0.03)" in messages[0] and "kept" in messages[0]
    assert int(restored(tmp_path / "c", config, interface).watch.skipped) == 2


def test_histories_that_are_not_finite_stop_training(plain, policy_store, tmp_path):
    store = policy_store(tmp_path / "s")
    rewards = HistoryStore.open(store)._array("reward")
    rewards.write(np.full(rewards.shape, np.nan, np.float32)).result()
    config = dataclasses.replace(plain, histories=(store,))
    with pytest.raises(GlaError, match="stopped at step 10: 10 steps in a row"):
        meta_train(config, tmp_path / "c", progress=False)
    assert checkpoints.latest_step(tmp_path / "c") == 8  # weights that nothing has changed


def test_divergence_stops_training_and_says_so_again(plain, interface, tmp_path, monkeypatch):
    poisoned(monkeypatch, list(range(10, 24)), 1e5)
    for _ in range(2):
        with pytest.raises(GlaError) as caught:
            meta_train(plain, tmp_path / "c", progress=False)
        message = str(caught.value)
        # 0.02 of 1e5 is more than 10 times the first loss, which is about 35.
        assert "diverged: at step 11 the smoothed loss is" in message and "diverged=0" in message
        assert "\n" not in message and checkpoints.latest_step(tmp_path / "c") == 8
    kept = restored(tmp_path / "c", plain, interface).watch
    assert 10 < kept.first < 100 and kept.stopped == stepping.GOING
    off = dataclasses.replace(plain, diverged=0.0, steps=12)
    assert checkpoints.latest_step(meta_train(off, tmp_path / "d", progress=False)) == 12


def test_a_small_first_loss_does_not_count_as_the_scale(config):
    watch = stepping.Watch(*[jnp.zeros((), t) for t in "iiffififi"[:4]], *[jnp.int32(0)] * 5)
    for loss, stopped in ((9.0, stepping.GOING), (500.1, stepping.DIVERGED)):
        after = stepping._watched(
            watch._replace(first=jnp.float32(-3.0)), jnp.bool(True), jnp.float32(loss),
            jnp.bool(False), config,
        )  # fmt: skip
        assert int(after.stopped) == stopped, loss


def test_a_batch_that_does_not_fit_into_memory_is_said_plainly(plain, tmp_path):
    huge = dataclasses.replace(plain, batch_size=2**28, steps_per_dispatch=1, checkpoint_every=1)
    with pytest.raises(GlaError) as caught:
        meta_train(huge, tmp_path / "c", progress=False)
    message = str(caught.value)
    assert "memory does not suffice" in message and "\n" not in message
    for words in ("batch_size (268435456)", "accumulate (1)", "remat=True", "bptt (0)"):
        assert words in message


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore")]
)
def test_memory_that_ends_later_keeps_the_last_checkpoint(plain, tmp_path, monkeypatch, error):
    def fail():
        raise error

    with monkeypatch.context() as patch:
        stop_at(patch, 10, fail)
        with pytest.raises(GlaError, match="memory does not suffice.*lower batch_size"):
            meta_train(plain, tmp_path / "c", progress=False)
    assert checkpoints.latest_step(tmp_path / "c") == 8
    meta_train(plain, tmp_path / "c", progress=False)
    assert checkpoints.latest_step(tmp_path / "c") == 24


def test_other_errors_are_not_taken_for_a_lack_of_memory(plain, tmp_path):
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        loop.memory_errors("lower", tmp_path),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


# Validation


def test_training_ends_when_validation_gets_no_better(plain, tmp_path):
    scores = {4: 1.0, 8: 3.0, 12: 2.0, 16: 3.0}
    seen = []

    def validate(params):
        seen.append(jax.tree.map(np.asarray, params))
        return {"score": scores[4 * len(seen)], "return": -5.0}

    config = dataclasses.replace(plain, validation=ValidationConfig(every=4, patience=2))
    folder = meta_train(config, tmp_path / "c", progress=False, validate=validate)
    assert validations(folder) == {s: {"score": x, "return": -5.0} for s, x in scores.items()}
    end = json.loads((folder / "finished.json").read_text())
    assert end["step"] == 16 and "no better score in 2 validations" in end["reason"]
    assert "the best, 3, was at step 8" in end["reason"]
    assert_same(load_trained(folder, "best").params, seen[1])
    assert_same(load_trained(folder).params, seen[3])
    # Where only the note that it ended was lost, it ends there again.
    (folder / "finished.json").unlink()
    meta_train(config, folder, progress=False, validate=validate)
    assert json.loads((folder / "finished.json").read_text()) == end and len(seen) == 4


def test_a_score_that_is_not_finite_is_no_better(plain, tmp_path):
    config = dataclasses.replace(plain, steps=4, validation=ValidationConfig(every=2))
    folder = meta_train(
        config, tmp_path / "c", progress=False, validate=lambda _: {"score": float("nan")}
    )
    assert checkpoints.steps_of(folder, "best") == []
    assert validations(folder)[4] == {"score": None}
    with pytest.raises(GlaError, match="holds no best weights"):
        load_trained(folder, "best")


def test_a_validation_of_nothing_is_refused(plain, tmp_path):
    def train(validate=None, **settings):
        config = dataclasses.replace(plain, validation=ValidationConfig(every=4, **settings))
        meta_train(config, tmp_path / "c", progress=False, validate=validate)

    with pytest.raises(GlaError, match="there is nothing to validate on"):
        train()
    with pytest.raises(GlaError, match="nothing was given that acts in them"):
        train(histories=plain.histories, environments=("gla/RandomLinear-v0",))
    assert not (tmp_path / "c").exists()
    with pytest.raises(GlaError, match="returned no score"):
        train(validate=lambda params: {"return": 1.0})


def test_minutes_end_training_for_good(plain, interface, tmp_path, capsys):
    folder = meta_train(plain, tmp_path / "c", minutes=1e-9)
    assert "stopped after 1e-09 minutes, at step 2 of " in capsys.readouterr().err
    assert int(restored(folder, plain, interface).step) == 2
    assert "stopped after 1e-09 minutes" in (folder / "finished.json").read_text()
    meta_train(plain, folder, progress=False)
    assert checkpoints.latest_step(folder) == 2
    with pytest.raises(GlaError, match="minutes is 0"):
        meta_train(plain, folder, minutes=0)


def test_steps_need_not_fill_the_last_dispatch(plain, interface, tmp_path):
    short = dataclasses.replace(plain, steps=5)
    folder = meta_train(short, tmp_path / "c", progress=False)
    state = restored(folder, short, interface)
    assert int(state.step) == 5 and checkpoints.latest_step(folder) == 5
    counts = [x for x in jax.tree.leaves(state.optimizer) if x.ndim == 0]
    assert counts and all(int(count) == 5 for count in counts)


# The gradient


def gradient(config, interface, histories, params):
    return jax.jit(
        lambda p, h: loss_and_gradient(p, jax.random.key(3), h, jnp.float32(0.5), config, interface)
    )(params, histories)


def assert_close(ours, theirs, rtol=2e-5):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(np.abs(b).max() + 1e-6))

    jax.tree.map(check, ours, theirs)


@pytest.fixture(scope="module")
def mixed(plain, policy_store, tmp_path_factory):
    """Two stores of tasks of different sizes, with weights on the positions."""
    folder = tmp_path_factory.mktemp("mixed")
    other = policy_store(folder / "other", observation_size=4, action_size=3, seed=9)
    return dataclasses.replace(
        plain,
        histories=(*plain.histories, other),
        weights=(1.0, 2.0),
        batch_size=12,
        sampling=dataclasses.replace(plain.sampling, segments=4, loss_on="last", stages=2),
        objective=ObjectiveConfig(nll=0.5, reward=1.0, observation=1.0),
    )


@pytest.fixture(scope="module")
def mixed_case(mixed):
    interface = training.make_interface(mixed, discrete=False)
    with training.load_sources(mixed) as sources:
        histories = sources.pool(0)
    params = init_state(mixed, interface).params
    # Heads begin near 0, where a wrong gradient would hardly show.
    keys = iter(jax.random.split(jax.random.key(7), 100))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)
    return interface, histories, params, gradient(mixed, interface, histories, params)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(mixed, mixed_case, parts):
    interface, histories, params, expected = mixed_case
    config = dataclasses.replace(mixed, accumulate=parts)
    assert_close(gradient(config, interface, histories, params), expected)
    assert set(expected[1]) == {
        "loss", "forward_kl", "reverse_kl", "nll", "reward", "observation"
    }  # fmt: skip
    # The loss is on the last stage alone, that is the last two of four segments.
    np.testing.assert_array_equal(expected[2][:2], 0.0)
    assert float(jnp.mean(expected[2][2:])) == pytest.approx(float(expected[1]["loss"]), rel=1e-4)


def test_the_loss_is_that_of_sequences_one_by_one(mixed, mixed_case):
    """Against the plainest way to write it: a loop over sources and sequences."""
    interface, histories, params, (_, terms, _) = mixed_case
    model = make_model(mixed.model, interface.token_size, interface.outputs)

    @jax.jit
    def one(key, source):
        sequence = sampling.sample_sequence(
            key, source, mixed.sampling, mixed.projection, interface, 0.5
        )
        outputs, _ = model.apply(params, sequence.tokens[None])
        values = learner.losses(outputs[0], sequence, mixed.objective, interface)
        return {name: x[-8:].mean() for name, x in values.items()}

    found = []
    for i, (source, share) in enumerate(zip(histories, (4, 8), strict=True)):
        for key in jax.random.split(jax.random.fold_in(jax.random.key(3), i), share):
            found.append(jax.tree.map(float, one(key, source)))
    for name, value in terms.items():
        assert float(value) == pytest.approx(np.mean([one[name] for one in found]), rel=1e-4)


@pytest.mark.parametrize("backbone", ["transformer", "delta", "lstm"])
def test_truncated_backpropagation_keeps_the_loss_and_cuts_the_gradient(
    plain, interface, histories, backbone
):
    """Against gradients through one stop at each border, written with `apply` alone."""
    model_config = dataclasses.replace(plain.model, backbone=backbone, window=5)
    config = dataclasses.replace(plain, model=model_config, bptt=4)
    model = make_model(model_config, interface.token_size, interface.outputs)
    params = init_state(config, interface).params
    keys = jax.random.split(jax.random.fold_in(jax.random.key(3), 0), config.batch_size)

    def reference(params, stops):
        draw = lambda key: sampling.sample_sequence(  # noqa: E731
            key, histories[0], config.sampling, config.projection, interface, 0.5
        )
        batch, state, outputs = jax.vmap(draw)(keys), model.initial_state(4), []
        for start in (0, 4):
            own, state = model.apply(params, batch.tokens[:, start : start + 4], state)
            outputs.append(own)
            state = jax.lax.stop_gradient(state) if stops else state
        values = jax.vmap(lambda o, s: learner.losses(o, s, config.objective, interface))(
            jnp.concatenate(outputs, 1), batch
        )
        return jnp.mean(values["loss"])

    grads, terms, _ = gradient(config, interface, histories, params)
    (value, expected), through = jax.jit(
        lambda p: (
            jax.value_and_grad(reference)(p, True),
            jax.grad(reference)(p, False),
        )
    )(params)
    assert float(terms["loss"]) == pytest.approx(float(value), rel=1e-4)
    assert_close(grads, expected, rtol=2e-4)
    # And the cut is really made.
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), through, expected)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    assert max(jax.tree.leaves(gaps)) > 1e-4 * scale


def test_memory_of_truncated_backpropagation_hardly_grows_with_the_sequence(plain, histories):
    """By XLA's own account of temporary memory, for eight times the length."""

    def temporary(segments, bptt):
        config = dataclasses.replace(
            plain,
            model=dataclasses.replace(plain.model, backbone="linear", width=64, layers=2),
            sampling=dataclasses.replace(plain.sampling, segments=segments),
            bptt=bptt,
        )
        interface = training.make_interface(config, discrete=False)
        params = jax.eval_shape(lambda: init_state(config, interface).params)
        compiled = (
            jax.jit(
                lambda p: loss_and_gradient(
                    p, jax.random.key(0), histories, jnp.float32(0), config, interface
                )[0]
            )
            .lower(params)
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(64, 0) > 5 * temporary(8, 0)
    assert temporary(64, 32) < 2 * temporary(8, 32)


# Sources


def test_pools_follow_from_the_step(plain, interface, policy_store, tmp_path, monkeypatch):
    """Histories that do not fit into memory: the step sees the pool that its number says."""
    store = policy_store(tmp_path / "s")
    config = dataclasses.replace(
        plain, histories=(store,), loading=LoadingConfig(resident=2, refresh=4), steps=16
    )
    traced = []
    original = training.train_steps
    monkeypatch.setattr(training, "train_steps", lambda *a: (traced.append(1), original(*a))[1])
    whole = meta_train(config, tmp_path / "whole", progress=False)
    assert len(traced) == 1  # all pools have the same shapes
    with monkeypatch.context() as patch:
        stop_at(patch, 6, interrupt)
        with pytest.raises(KeyboardInterrupt):
            meta_train(config, tmp_path / "c", progress=False)
    meta_train(config, tmp_path / "c", progress=False)
    assert_same(*(restored(f, config, interface) for f in (whole, tmp_path / "c")))
    assert lines(whole) == lines(tmp_path / "c")
    # And it is the pools that do it: the same by hand.
    state = init_state(config, interface)
    step = jax.jit(lambda s, h: original(s, h, config, interface))
    with training.load_sources(config) as sources:
        for start in range(0, 16, 2):
            state, _ = step(state, sources.pool(start // 4))
    assert_same(restored(whole, config, interface).params, jax.tree.map(np.asarray, state.params))
    with pytest.raises(GlaError, match="loading.refresh=3 is not a multiple"):
        dataclasses.replace(config, loading=LoadingConfig(resident=2, refresh=3))


def test_incomplete_histories_are_refused(config, policy_store, tmp_path):
    path = policy_store(tmp_path / "half", blocks=[1])
    with pytest.raises(GlaError, match="1 of 2 blocks are missing.*gla collect"):
        training.load_sources(dataclasses.replace(config, histories=(path,)))


def test_histories_that_do_not_fit_are_refused(config, policy_store, tmp_path):
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
    discrete = policy_store(tmp_path / "discrete", discrete=True)
    with pytest.raises(GlaError, match="mix continuous and discrete"):
        load(histories=(*config.histories, discrete))


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"steps": 0},
        {"accumulate": 0},
        {"accumulate": 3},
        {"bptt": -1},
        {"bptt": 7},
        {"seed": -1},
        {"max_skips": 0},
        {"diverged": -1.0},
        {"diverged": float("nan")},
        {"checkpoint_every": 15},
        {"weights": (1.0,)},
        {"histories": ("a", "b"), "weights": (1.0,)},
        {"histories": ("a", "b"), "batch_size": 1},
        {"histories": ("a", "b"), "weights": (1.0, 0.0)},
        {"histories": ("a", "b"), "weights": (1.0, 3.0), "accumulate": 8},
    ],
)
def test_a_config_out_of_range_is_refused(settings):
    with pytest.raises(GlaError) as caught:
        MetaTrainConfig(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"every": -1},
        {"every": 10, "patience": -1},
        {"every": 10, "batches": 0},
        {"patience": 1},
        {"histories": ("a",)},
        {"environments": ("a",)},
    ],
)
def test_a_validation_out_of_range_is_refused(settings):
    with pytest.raises(GlaError):
        ValidationConfig(**settings)


def test_validation_falls_between_dispatches():
    with pytest.raises(GlaError, match="validation.every=15 is not a multiple"):
        MetaTrainConfig(validation=ValidationConfig(every=15))


def test_a_config_survives_json(mixed):
    assert Path(mixed.histories[0]).is_dir()
    again = config_from_json(json.loads(json.dumps(dataclasses.asdict(mixed))))
    assert again == mixed and hash(again) == hash(mixed)
