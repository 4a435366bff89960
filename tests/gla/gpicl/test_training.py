"""Meta-training of learners: what is minimised, resuming, validation, statistics, bad input."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import checkpoints, datasets
from gla.errors import GlaError
from gla.gpicl import training
from gla.gpicl.config import (
    DataConfig,
    GPICLConfig,
    LearnerConfig,
    LearnerValidationConfig,
    config_from_json,
)
from gla.gpicl.factory import make_learner
from gla.gpicl.tasks import TaskConfig, to_device
from gla.gpicl.training import gpicl_train, load_learner, loss_and_gradient
from gla.loop import Progress
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig

EXACT = True  # runs are compared to the bit

MODEL = ModelConfig(width=16, layers=1, heads=2, window=20, positions="learned")
CONFIG = GPICLConfig(
    tasks=TaskConfig(length=20, input_dim=8, fixed_share=0.5, fewest_classes=2),
    learner=LearnerConfig(model=MODEL),
    optimizer=OptimizerConfig("adamw", 1e-2, warmup=2),
    batch_size=8,
    steps=12,
    steps_per_dispatch=2,
    checkpoint_every=4,
)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return gpicl_train(CONFIG, tmp_path_factory.mktemp("trained") / "c", progress=False)


def test_the_loss_falls_and_all_is_logged(trained):
    found = lines(trained)
    assert [line["step"] for line in found] == [2, 4, 6, 8, 10, 12]
    assert found[-1]["loss"] < found[0]["loss"]
    assert len(found[0]["by_segment"]) == 10
    np.testing.assert_allclose(np.mean(found[0]["by_segment"]), found[0]["loss"], rtol=1e-5)
    assert 0 <= found[0]["first"] <= 1 and "statistics" not in found[0]
    assert json.loads((trained / "finished.json").read_text())["reason"] == "all steps done"


def test_what_is_loaded_is_what_was_trained(trained):
    loaded = load_learner(trained)
    assert loaded.config == CONFIG
    assert loaded.learner == make_learner(CONFIG.learner, 8, 10)
    # Python's numbers are not JSON's: every setting survives, nested ones and tuples too.
    config = dataclasses.replace(
        CONFIG,
        learner=LearnerConfig(kind="maml", tokens="paper"),
        validation=LearnerValidationConfig(every=4, datasets=("a", "b")),
    )
    assert config_from_json(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_an_interrupted_run_goes_on_bit_for_bit(trained, tmp_path, monkeypatch):
    advance = Progress.advance

    def stop(self, amount, note=""):
        advance(self, amount, note)
        if self._done == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            gpicl_train(CONFIG, tmp_path / "c", progress=False)
    assert checkpoints.latest_step(tmp_path / "c") == 6
    gpicl_train(CONFIG, tmp_path / "c", progress=False)
    same(load_learner(tmp_path / "c").params, load_learner(trained).params)
    assert lines(tmp_path / "c") == lines(trained)


def test_other_settings_are_refused_and_a_moved_data_folder_is_not(trained, tmp_path):
    with pytest.raises(GlaError, match="batch_size is 8 there and 16 here.*--fresh"):
        gpicl_train(dataclasses.replace(CONFIG, batch_size=16), trained, progress=False)
    moved = dataclasses.replace(CONFIG, data=DataConfig(folder=str(tmp_path)))
    assert gpicl_train(moved, trained, progress=False) == trained


def test_another_data_set_of_the_same_name_is_refused(trained, monkeypatch):
    original = datasets.load

    def other(name, part, **settings):
        found = original(name, part, **settings)
        return dataclasses.replace(found, labels=found.labels[::-1])

    monkeypatch.setattr(datasets, "load", other)
    with pytest.raises(GlaError, match="trained with other settings.*content"):
        gpicl_train(CONFIG, trained, progress=False)


def test_gradients_do_not_depend_on_how_a_batch_is_computed():
    config = dataclasses.replace(CONFIG, data=DataConfig(("digits", "digits")))
    examples = [to_device(datasets.load("digits"), config.tasks)] * 2
    learner = make_learner(config.learner, 8, 10)
    params = learner.init(jax.random.key(0))
    key = jax.random.key(1)

    def run(config):
        return loss_and_gradient(params, key, examples, jnp.float32(0.5), config, learner)

    grads, terms, _ = run(config)
    parts = [run(dataclasses.replace(config, accumulate=2))]
    # A batch in two parts has other sequences; the same part twice has the gradient of one.
    assert terms["loss"] != parts[0][1]["loss"]
    assert jax.tree.structure(parts[0][0]) == jax.tree.structure(grads)
    small = 1e-3
    moved = jax.tree.map(lambda p, g: p - small * g, params, grads)
    after = loss_and_gradient(moved, key, examples, jnp.float32(0.5), config, learner)[1]["loss"]
    squares = sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads))
    np.testing.assert_allclose(terms["loss"] - after, small * squares, rtol=0.05)


def test_accumulation_averages_its_parts(monkeypatch):
    learner = make_learner(CONFIG.learner, 8, 10)
    params = learner.init(jax.random.key(0))
    examples = [to_device(datasets.load("digits"), CONFIG.tasks)]
    two = dataclasses.replace(CONFIG, accumulate=2)
    key = jax.random.key(1)
    keys = jax.random.split(key, (2, 1))
    found, terms, by_segment = loss_and_gradient(params, key, examples, jnp.zeros(()), two, learner)
    parts = []
    for own in keys:
        batch = training.sample_batch(list(own), examples, [4], CONFIG.tasks, jnp.zeros(()))
        parts.append(jax.grad(lambda p, b=batch: training.sequence_loss(p, learner, b)[0])(params))
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    np.testing.assert_allclose(by_segment.mean(), terms["loss"], rtol=1e-5)


def test_validation_keeps_the_best_and_ends_training(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        tasks=dataclasses.replace(CONFIG.tasks, tasks=4),
        validation=LearnerValidationConfig(every=2, patience=2, datasets=("digits",), sequences=32),
        steps=200,
    )
    folder = gpicl_train(config, tmp_path / "c", progress=False)
    found = {line["step"]: line["validation"] for line in lines(folder) if "validation" in line}
    first = found[2]
    assert set(first) == {"seen tasks of digits", "unseen tasks of digits", "digits", "score"}
    assert first["score"] == -first["unseen tasks of digits"]["loss"]
    # The same sequences of the same data set, whatever they are called.
    assert first["digits"] == first["unseen tasks of digits"]
    one = first["seen tasks of digits"]
    assert one["gain"] == pytest.approx(one["last"] - one["first"])
    scores = {step: values["score"] for step, values in found.items()}
    best = max(scores, key=scores.get)
    assert checkpoints.latest_step(folder, "best") == best
    end = json.loads((folder / "finished.json").read_text())
    if end["reason"] != "all steps done":
        assert end["step"] == max(scores) == best + 4
    load_learner(folder, "best")


def test_statistics_are_logged_by_tensor(tmp_path):
    config = dataclasses.replace(CONFIG, statistics=True, steps=4)
    folder = gpicl_train(config, tmp_path / "c", progress=False)
    first, last = lines(folder)
    names = set(first["statistics"])
    assert "params/head/kernel" in names and len(names) > 10
    one = last["statistics"]["params/head/kernel"]
    assert set(one) == {
        "gradient_norm", "gradient_cosine", "update_norm", "update_cosine", "first_moment_norm",
        "second_moment_norm",
    }  # fmt: skip
    assert -1 <= one["gradient_cosine"] <= 1 and one["gradient_norm"] > 0
    total = np.sqrt(sum(x["gradient_norm"] ** 2 for x in last["statistics"].values()))
    assert 0.5 * last["gradient_norm"] < total < 2 * last["gradient_norm"]
    assert 0 < first["distance"] < last["distance"]


@pytest.mark.parametrize("kind", ["vsml", "vsml-plain", "maml", "mlp"])
def test_every_kind_of_learner_is_trained_and_loaded(kind, tmp_path):
    config = dataclasses.replace(CONFIG, learner=LearnerConfig(kind=kind), steps=2, batch_size=2)
    folder = gpicl_train(config, tmp_path / "c", progress=False)
    loaded = load_learner(folder)
    scores = loaded.learner.guess(
        loaded.params, jnp.ones((2, 20, 8)), jnp.zeros((2, 20), jnp.int32), (0, 19)
    )
    assert scores.shape == (2, 2, 10) and np.isfinite(scores).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: DataConfig(()), "no data set"),
        (lambda: DataConfig(("digits",), (1.0, 2.0)), "2 weights for 1 data sets"),
        (lambda: DataConfig(resize=-1), "resize is -1"),
        (lambda: LearnerConfig(kind="sequnce"), "did you mean sequence"),
        (lambda: LearnerConfig(tokens="pair"), "did you mean pairs"),
        (lambda: LearnerValidationConfig(datasets=("a",)), "validation.every is 0"),
        (lambda: GPICLConfig(batch_size=0), "batch_size is 0"),
        (lambda: GPICLConfig(checkpoint_every=30), "not a multiple"),
        (lambda: GPICLConfig(seed=-1), "seed is -1"),
        (
            lambda: GPICLConfig(
                tasks=TaskConfig(hidden_share=0.5), learner=LearnerConfig(kind="maml")
            ),
            "hidden_share is 0.5 and the learner is maml",
        ),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(GlaError, match=message):
        make()


def test_bad_data_leave_nothing_behind(tmp_path):
    few = tmp_path / "few.npz"
    np.savez(few, inputs=np.random.default_rng(0).random((12, 4)), labels=np.arange(12) % 3)
    config = dataclasses.replace(CONFIG, data=DataConfig((str(few),)))
    with pytest.raises(GlaError, match="9 examples; expected at least the 20 of a sequence"):
        gpicl_train(config, tmp_path / "c", progress=False)
    uneven = dataclasses.replace(CONFIG, accumulate=3)
    with pytest.raises(GlaError, match="accumulate=3 does not divide"):
        gpicl_train(uneven, tmp_path / "c", progress=False)
    with pytest.raises(GlaError, match="minutes is 0"):
        gpicl_train(CONFIG, tmp_path / "c", progress=False, minutes=0)
    assert not (tmp_path / "c").exists()


def test_a_folder_of_another_kind_is_named(tmp_path):
    checkpoints.prepare(tmp_path / "c", {"training": {}})
    with pytest.raises(GlaError, match="holds an agent for environments.*gla meta-test"):
        load_learner(tmp_path / "c")
