"""Tokens, conditions and heads by hand."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from gla.errors import GlaError
from gla.tokens import (
    LOG_STD_HIGH,
    LOG_STD_LOW,
    Interface,
    condition_features,
    gaussian_outputs,
    make_tokens,
)

PLAIN = Interface(3, 2)
FULL = Interface(3, 2, conditions=("return", "gap"), predict_reward=True, predict_observation=True)


def test_sizes():
    assert (PLAIN.token_size, PLAIN.outputs) == (8, 4)
    assert (Interface(3, 2, True).token_size, Interface(3, 2, True).outputs) == (8, 2)
    assert (FULL.token_size, FULL.outputs) == (12, 8)
    assert Interface(3, 5, True, predict_observation=True).outputs == 8


def test_an_interface_of_old_settings_has_no_conditions_and_no_heads():
    assert Interface(**{"observation_dim": 3, "action_dim": 2, "discrete": False}) == PLAIN
    again = Interface(**json.loads(json.dumps(dataclasses.asdict(FULL))))
    assert again == FULL and hash(again) == hash(FULL)


def test_outputs_are_taken_apart_without_overlap():
    outputs = jnp.arange(16.0).reshape(2, 8)
    heads = FULL.split(outputs)
    np.testing.assert_array_equal(heads.action, outputs[:, :4])
    np.testing.assert_array_equal(heads.reward, outputs[:, 4])
    np.testing.assert_array_equal(heads.observation, outputs[:, 5:])
    alone = Interface(3, 2, predict_observation=True).split(outputs[:, :7])
    np.testing.assert_array_equal(alone.observation, outputs[:, 4:7])
    assert alone.reward is None
    plain = PLAIN.split(outputs[:, :4])
    assert plain.reward is None and plain.observation is None and plain.told is None
    told = Interface(3, 2, predict_reward=True, predict_observation=True, told=5)
    assert told.outputs == 13
    outputs = jnp.arange(26.0).reshape(2, 13)
    heads = told.split(outputs)
    np.testing.assert_array_equal(heads.observation, outputs[:, 5:8])
    np.testing.assert_array_equal(heads.told, outputs[:, 8:])


def test_tokens_hold_their_parts_in_order():
    rng = np.random.default_rng(0)
    observation, action = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 2))
    reward = rng.normal(size=(2, 5))
    ends = np.array([[True, False, False, True, False]] * 2)
    tokens = make_tokens(*map(jnp.asarray, (observation, action, reward, ends, ~ends)))
    parts = [observation, action, reward[..., None], ends[..., None], ~ends[..., None]]
    np.testing.assert_allclose(tokens, np.concatenate(parts, -1), rtol=1e-6)
    asked = condition_features(FULL, {"gap": 5.0})  # one for all lifetimes and steps
    more = make_tokens(*map(jnp.asarray, (observation, action, reward, ends, ~ends)), asked)
    assert more.shape == (2, 5, FULL.token_size)
    np.testing.assert_array_equal(more[..., :8], tokens)
    np.testing.assert_array_equal(more[..., 8:], np.broadcast_to(asked, (2, 5, 4)))


def test_conditions_by_hand():
    interface = Interface(3, 2, conditions=("gap", "return", "position"))
    features = condition_features(
        interface, {"gap": 100.0, "return": -0.25, "position": jnp.array([0, 4096, 9999])}
    )
    expected = [[1, 1, -0.25, 1, 0, 1], [1, 1, -0.25, 1, 1, 1], [1, 1, -0.25, 1, 1, 1]]
    np.testing.assert_allclose(features, expected, rtol=1e-6)
    shown = condition_features(interface, {"gap": jnp.array([0.0, 9.0]), "return": 50.0})
    np.testing.assert_allclose(shown[:, 0], [0, np.log(10) / np.log(101)], rtol=1e-6)
    np.testing.assert_array_equal(shown[:, 2], 10.0)
    np.testing.assert_array_equal(shown[:, 4:], 0.0)


def test_unknown_conditions_are_zero_in_value_and_flag():
    features = condition_features(FULL, {"gap": None}, shape=(4, 1))
    assert features.shape == (4, 1, 4) and not features.any()
    assert condition_features(PLAIN, {}, shape=(4,)).shape == (4, 0)


def test_bad_interfaces_and_conditions_are_refused():
    with pytest.raises(GlaError, match=r"condition 'gpa' is unknown \(did you mean gap\?\)"):
        Interface(3, 2, conditions=("gpa",))
    with pytest.raises(GlaError, match="each at most once"):
        Interface(3, 2, conditions=("gap", "gap"))
    with pytest.raises(GlaError, match="action_dim is 0"):
        Interface(3, 0)
    with pytest.raises(GlaError, match="the actions are discrete"):
        Interface(3, 2, discrete=True, squashed=True)
    with pytest.raises(GlaError, match="does not read the condition 'position'; expected return"):
        condition_features(FULL, {"position": 3.0})
    with pytest.raises(GlaError, match="trained without conditions"):
        condition_features(PLAIN, {"gap": 3.0})


def test_log_standard_deviations_are_bounded():
    outputs = jnp.array([[1.0, -2.0, -1e3, 1e3], [0.5, 0.0, 0.0, 0.0]])
    mean, log_std = gaussian_outputs(outputs)
    np.testing.assert_array_equal(mean, outputs[:, :2])
    middle = (LOG_STD_LOW + LOG_STD_HIGH) / 2
    np.testing.assert_allclose(log_std, [[LOG_STD_LOW, LOG_STD_HIGH], [middle, middle]])
