"""Ant-Direction: one hidden direction in both simulators; only the reward differs from Ant."""

import math

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs.ant_direction import (
    BraxAntDirection,
    mujoco_ant_direction_env,
    sample_direction,
    unit_vector,
)
from gla.envs.brax_adapter import BraxEnvironment
from gla.envs.host import HostEnv, mujoco_env
from gla.errors import GlaError

KEYS = jax.random.split(jax.random.key(0), 64)


@pytest.fixture(scope="module")
def brax_ant():
    pytest.importorskip("brax")
    return BraxAntDirection()


def test_directions_are_unit_vectors_all_around_or_forward_and_backward():
    drawn = np.asarray(jax.vmap(sample_direction)(KEYS))
    assert drawn.shape == (64, 2) and drawn.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1.0, rtol=1e-6)
    quadrants = {(x > 0, y > 0) for x, y in drawn}
    assert len(quadrants) == 4 and len(np.unique(drawn, axis=0)) == 64
    two = np.asarray(jax.vmap(lambda key: sample_direction(key, "forward-backward"))(KEYS))
    assert {tuple(pair) for pair in two.tolist()} == {(1.0, 0.0), (-1.0, 0.0)}


def test_angles_in_degrees():
    for degrees, vector in ((0, (1, 0)), (90, (0, 1)), (180, (-1, 0)), (-90, (0, -1))):
        np.testing.assert_array_equal(unit_vector(degrees), np.array(vector, np.float32))
    np.testing.assert_allclose(unit_vector(60), [0.5, math.sqrt(3) / 2], rtol=1e-6)


def test_the_same_key_gives_the_same_direction_in_both_simulators(brax_ant):
    for key in KEYS[:2]:
        host = mujoco_ant_direction_env(task_key=key)
        np.testing.assert_array_equal(host.simulator.direction, brax_ant.sample_params(key))
        host.close()


def test_brax_pays_the_velocity_along_the_direction_and_changes_nothing_else(brax_ant):
    plain = BraxEnvironment("ant")
    directions = jnp.stack([jnp.array([1.0, 0.0]), *map(sample_direction, KEYS[:3])])
    actions = jax.random.uniform(KEYS[0], (100, 8), minval=-1.0)

    def roll(actions):
        def body(state, action):
            step = jax.vmap(brax_ant.step, (None, None, None, 0))
            _, paid = step(KEYS[0], state, action, directions)
            after, ts = plain.step(KEYS[0], state, action, ())
            moved = (after.x.pos[0, :2] - state.x.pos[0, :2]) / plain.simulator.dt
            return after, (paid, ts, moved)

        return jax.lax.scan(body, plain.reset(KEYS[1], ())[0], actions)[1]

    paid, ts, moved = jax.tree.map(np.asarray, jax.jit(roll)(actions))
    assert np.abs(moved).max() > 0.5
    # Direction (1, 0) is plain Ant; the others differ from it by the change of velocity.
    np.testing.assert_allclose(paid.reward[:, 0], ts.reward, rtol=1e-6, atol=1e-6)
    expected = ts.reward[:, None] - moved[:, :1] + moved @ np.asarray(directions).T
    np.testing.assert_allclose(paid.reward, expected, rtol=1e-4, atol=1e-4)
    for i in range(4):
        np.testing.assert_allclose(paid.observation[:, i], ts.observation, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(paid.terminated[:, i], ts.terminated)


def test_mujoco_pays_the_velocity_along_the_direction_and_changes_nothing_else():
    plain = mujoco_env("Ant-v5")
    envs = [mujoco_ant_direction_env(direction=degrees) for degrees in (0, 90, 215.0)]
    starts = [env.reset(seed=4)[0] for env in (plain, *envs)]
    generator = np.random.default_rng(0)
    assert plain.observation_space.shape == (27,)
    for _ in range(60):
        action = generator.uniform(-1, 1, 8).astype(np.float32)
        observation, reward, terminated, _, info = plain.step(action)
        for env in envs:
            seen, paid, ended, _, said = env.step(action)
            vector = env.simulator.direction
            along = vector[0] * info["x_velocity"] + vector[1] * info["y_velocity"]
            assert paid == pytest.approx(reward - info["x_velocity"] + along, abs=1e-6)
            assert said["reward_forward"] == pytest.approx(along, abs=1e-6)
            np.testing.assert_array_equal(seen, observation)
            assert ended == terminated
        if terminated:
            break
    for start in starts[1:]:
        np.testing.assert_array_equal(start, starts[0])
    assert isinstance(envs[0], HostEnv) and "ant" in envs[0].name
    for env in (plain, *envs):
        env.close()


def test_the_weight_and_the_time_limit_are_those_of_ant_v5():
    env = mujoco_ant_direction_env(direction=0, forward_reward_weight=2.0)
    env.reset(seed=0)
    *_, info = env.step(np.ones(8, np.float32))
    assert info["reward_forward"] == pytest.approx(2.0 * info["x_velocity"], rel=1e-6)
    assert env.simulator.spec.max_episode_steps == gymnasium.spec("Ant-v5").max_episode_steps
    env.close()


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, math.inf),
        ({"directions": "forward-backward"}, 2),
        ({"direction": 30.0}, 1),
    ],
)
def test_the_number_of_tasks(settings, count):
    pytest.importorskip("brax")
    env = BraxAntDirection(**settings)
    assert env.distinct_tasks == count
    drawn = np.stack([env.sample_params(key) for key in KEYS[:12]])
    assert len(np.unique(drawn, axis=0)) == min(count, 12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"directions": "forward"}, r"directions is 'forward' \(did you mean forward-backward"),
        ({"direction": "north"}, "direction is 'north'; expected an angle in degrees"),
        ({"direction": math.inf}, "direction is inf"),
        ({"directions": "forward-backward", "direction": 90}, "90 degrees; expected 0 or 180"),
        ({}, "was given no task"),
    ],
)
def test_bad_directions_are_refused(settings, message):
    with pytest.raises(GlaError, match=message):
        mujoco_ant_direction_env(**settings)
    if settings:
        with pytest.raises(GlaError, match=message):
            BraxAntDirection(**settings)
