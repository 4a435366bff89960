"""Validation: weights act on unseen tasks, the same at every call."""

import dataclasses

import jax
import numpy as np
import pytest

from gla.benchmarks import validation
from gla.benchmarks.validation import Validator
from gla.errors import GlaError
from gla.models import ModelConfig, make_model
from gla.projection import ProjectionConfig
from gla.training import MetaTrainConfig, ValidationConfig, make_interface

CONFIG = MetaTrainConfig(
    projection=ProjectionConfig(8, 3),
    model=ModelConfig(width=16, layers=1, heads=2, mlp=2, window=40),
    validation=ValidationConfig(
        every=10, environments=("gla/RandomLinear-v0",), lifetimes=3, steps=40
    ),
)


@pytest.fixture(scope="module")
def validator():
    validator = Validator(CONFIG)
    yield validator
    validator.close()


def parameters(seed):
    interface = make_interface(CONFIG, False)
    model = make_model(CONFIG.model, interface.token_size, interface.outputs)
    params = model.init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype("f4"), params)


def test_equal_weights_have_equal_scores_and_others_others(validator):
    first = validator(parameters(0))
    other = validator(parameters(1))
    assert validator(parameters(0)) == first != other
    assert set(first) == {"score", "RandomLinear-v0/late", "RandomLinear-v0/gain"}
    assert first["score"] == first["RandomLinear-v0/late"]
    assert all(np.isfinite(value) for value in first.values())


def test_the_score_is_the_normalised_reward_at_the_end(validator, monkeypatch):
    ((test, world, lens),) = validator._tests
    assert test.split == "validation"
    scale = np.asarray(lens.statistics.reward_scale)
    # Reward t in units of each task's scale: the last quarter of 40 steps is 30 to 39.
    reward = np.arange(40.0, dtype="f4")[:, None] * scale / 10
    trace = validation.run_agent.__globals__["Trace"](reward, np.zeros(reward.shape, bool))
    monkeypatch.setattr(validation, "run_agent", lambda *a: trace)
    found = validator(None)
    assert found["score"] == pytest.approx(3.45)
    assert found["RandomLinear-v0/gain"] == pytest.approx(3.0)


def test_what_cannot_be_validated_on_is_refused():
    def make(*ids):
        own = dataclasses.replace(CONFIG.validation, environments=ids)
        return Validator(dataclasses.replace(CONFIG, validation=own))

    with pytest.raises(GlaError, match="continuous actions and this environment's are discrete"):
        make("gla/Gridworld-v0")
    with pytest.raises(GlaError, match="RandomLinear"):
        make("gla/RandomLiner-v0")
    with pytest.raises(GlaError, match="observation_dim to at least"):
        make("gla/Ant-v0")
