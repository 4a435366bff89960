"""The continuous random families: their numbers stay the same, their settings are checked."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs.random_linear import (
    LinearParams,
    LinearState,
    RandomLinear,
    RandomLinearConfig,
    check_number,
    check_range,
)
from gla.envs.random_mechanics import RandomMechanics, RandomMechanicsConfig
from gla.envs.random_neural import RandomNeural, RandomNeuralConfig
from gla.errors import GlaError

# First observation, observation and reward after 5 steps of the action (0.5, -2), which is clipped
# to (0.5, -1), in the task of key 1 from the reset of key 2. Stored histories rely on them.
GOLDEN = {
    RandomLinear: (
        [0.10817, 0.38550, -0.22162, 0.35492],
        [0.54574, 0.50349, -0.70087, -0.66594],
        -3.12529,
    ),
    RandomNeural: (
        [0.10817, 0.38550, -0.22162, 0.35492, -0.06193],
        [0.21678, 1.31523, -0.93903, 0.38572, -0.01288],
        -0.81086,
    ),
    RandomMechanics: (
        [0.99757, 0.99732, 0.06966, 0.07314, 0.03283, 0.00027],
        [0.81883, 0.83533, 0.57403, -0.54974, 0.20218, -0.27940],
        -0.12365,
    ),
}


@pytest.mark.parametrize("family", GOLDEN)
def test_tasks_and_trajectories_stay_what_they_were_and_can_be_drawn(family):
    env = family()
    assert env.distinct_tasks == math.inf and env.can_render and not env.has_oracle
    params = jax.jit(env.sample_params)(jax.random.key(1))
    state, first = jax.jit(env.reset)(jax.random.key(2), params)
    before = env.render(state, params)
    step = jax.jit(env.step)
    for _ in range(5):
        state, ts = step(jax.random.key(0), state, jnp.array([0.5, -2.0]), params)
    expected_first, expected_last, expected_reward = GOLDEN[family]
    np.testing.assert_allclose(first, expected_first, atol=1e-4)
    np.testing.assert_allclose(ts.observation, expected_last, atol=1e-4)
    np.testing.assert_allclose(ts.reward, expected_reward, atol=1e-4)
    after = env.render(state, params)
    assert before.shape == after.shape == (256, 256, 3) and after.dtype == np.uint8
    assert (before != after).any(-1).mean() > 0.005


def test_a_linear_step_by_hand():
    params = LinearParams(
        jnp.array([[0.5, 0.25], [0.0, 0.5]]),
        jnp.array([[1.0], [-1.0]]),
        jnp.array([1.0, -1.5]),
        jnp.float32(2.0),
    )
    env = RandomLinear(RandomLinearConfig(state_size=2, action_size=1))
    state, ts = jax.jit(env.step)(
        jax.random.key(0), LinearState(jnp.array([2.0, 4.0])), jnp.array([3.0]), params
    )
    # x = (1 + 1 + 1, 0 + 2 - 1), 3.2 from the goal.
    np.testing.assert_allclose(state.x, [3.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(ts.reward, -math.hypot(2.0, 2.5) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (RandomLinearConfig, {"state_size": 0}, "state_size is 0"),
        (RandomLinearConfig, {"action_size": "two"}, "action_size is 'two'"),
        (RandomLinearConfig, {"contraction": (0.5, 1.0)}, "contraction is 1.0; .* below 1"),
        (RandomLinearConfig, {"contraction": (0.9, 0.6)}, r"contraction is \(0.9, 0.6\)"),
        (RandomLinearConfig, {"contraction": 0.9}, "contraction is 0.9; expected a pair"),
        (RandomLinearConfig, {"goal_radius": 1.2}, "goal_radius is 1.2; .* at most 1"),
        (RandomNeuralConfig, {"hidden": -4}, "hidden is -4"),
        (RandomNeuralConfig, {"leak": (0.0, 0.5)}, "leak is 0.0; .* above 0"),
        (RandomNeuralConfig, {"nonlinearity": math.inf}, "nonlinearity is inf"),
        (RandomMechanicsConfig, {"joints": 1.5}, "joints is 1.5"),
        (RandomMechanicsConfig, {"time_step": 0}, "time_step is 0; .* above 0"),
        (RandomMechanicsConfig, {"coupling": 1.0}, "coupling is 1.0; .* at least 0 and below 1"),
        (RandomMechanicsConfig, {"gravity": -1.0}, "gravity is -1.0"),
        (RandomMechanicsConfig, {"max_speed": math.nan}, "max_speed is nan"),
        (RandomMechanicsConfig, {"horizon": 0}, "horizon is 0"),
    ],
)
def test_bad_settings_are_named(config, settings, message):
    with pytest.raises(GlaError, match=message):
        config(**settings)


def test_numbers_at_the_ends_of_their_range():
    assert check_number("x", 1, 0.0, 1.0) == 1.0 and check_number("x", np.float32(0.5)) == 0.5
    check_range("x", [0.5, 1.0], 0.0, 1.0)
    for bad in (True, None, [1.0], 1 + 0j):
        with pytest.raises(GlaError, match="x is .*; expected a finite number"):
            check_number("x", bad)
