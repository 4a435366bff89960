"""Functional environments through Gymnasium's single and vector interfaces."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import gla  # noqa: F401  registers the ids
from gla.envs import registry
from gla.envs.gym_api import FunctionalEnv, FunctionalVectorEnv
from gla.envs.wrappers import TimeLimit
from gla.errors import GlaError


@pytest.fixture(scope="module")
def cart():
    return FunctionalEnv(registry.make_functional("CartPole-v0"), horizon=6)


@pytest.fixture(scope="module")
def linear():
    return FunctionalEnv(registry.make_functional("RandomLinear-v0"), horizon=3)


@pytest.fixture(scope="module")
def many():
    env = registry.make_functional("RandomLinear-v0")
    return FunctionalVectorEnv(env, 3, task_seeds=[0, 0, 5], horizon=3)


def test_a_step_returns_plain_types_and_truncates_at_the_horizon(linear):
    observation, info = linear.reset(seed=0)
    assert observation.dtype == np.float32 and info == {}
    for t in range(3):
        observation, reward, terminated, truncated, info = linear.step(linear.action_space.sample())
        assert type(reward) is float and terminated is False and truncated is (t == 2)
        assert observation.dtype == np.float32 and observation.flags.writeable


def test_seeds_fix_episodes_and_task_seeds_fix_tasks(linear):
    def rewards(seed, task_seed):
        start, _ = linear.reset(seed=seed, options={"task_seed": task_seed})
        return start, [linear.step(np.ones(2, np.float32))[1] for _ in range(3)]

    start, first = rewards(1, 0)
    again, same = rewards(1, 0)
    other_start, _ = rewards(2, 0)
    same_start, other = rewards(1, 7)
    np.testing.assert_array_equal(start, again)
    assert first == same != other
    assert not np.allclose(start, other_start)
    np.testing.assert_array_equal(start, same_start)  # starts do not depend on the task here
    linear.reset(seed=1)
    assert [linear.step(np.ones(2, np.float32))[1] for _ in range(3)] == other  # it stays


def test_any_whole_number_is_a_discrete_action_and_compiles_once(cart):
    cart.reset(seed=0)
    for action in (0, np.int64(1), np.array(0), np.int32(1)):
        cart.step(action)
    assert cart._step._cache_size() == 1


@pytest.mark.parametrize("action", [2, -1, 0.5, [0, 1], np.nan, "left"])
def test_bad_discrete_actions_are_refused(cart, action):
    cart.reset(seed=0)
    with pytest.raises(GlaError, match="CartPole-v1"):
        cart.step(action)


@pytest.mark.parametrize("action", [np.zeros(3), np.array([0.0, np.nan]), 1])
def test_bad_box_actions_are_refused(linear, action):
    linear.reset(seed=0)
    with pytest.raises(GlaError, match="RandomLinear"):
        linear.step(action)


def test_stepping_before_reset_and_bad_task_seeds_are_refused():
    env = FunctionalEnv(registry.make_functional("Pendulum-v0"))
    with pytest.raises(GlaError, match="before its first reset"):
        env.step(np.zeros(1))
    with pytest.raises(GlaError, match="task seed"):
        env.reset(options={"task_seed": -1})
    with pytest.raises(GlaError, match="task seed"):
        FunctionalEnv(registry.make_functional("Pendulum-v0"), task_seed="a")


def test_a_time_limit_in_the_chain_is_kept():
    limited = TimeLimit(registry.make_functional("Pendulum-v0"), 7)
    assert FunctionalEnv(limited).env is limited


def test_the_vector_environment_resets_in_the_same_step(many):
    assert many.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    first, infos = many.reset(seed=0)
    assert first.shape == (3, 4) and first.dtype == np.float32 and infos == {}
    zeros = np.zeros((3, 2), np.float32)
    for _ in range(2):
        _, _, _, truncated, infos = many.step(zeros)
        assert not truncated.any() and infos == {}
    observations, rewards, terminated, truncated, infos = many.step(zeros)
    assert truncated.all() and not terminated.any() and rewards.dtype == np.float64
    assert infos["_final_obs"].tolist() == [True] * 3
    assert infos["final_obs"].dtype == object and infos["final_obs"][0].shape == (4,)
    # A drifting system cannot be back at its start: the observation is a new episode's.
    for i in range(3):
        assert not np.allclose(observations[i], infos["final_obs"][i])
        assert not np.allclose(observations[i], first[i])


def test_a_sub_environment_is_the_single_environment_of_its_seeds(many, linear):
    observations, _ = many.reset(seed=[4, 5, 4])
    _, rewards, *_ = many.step(np.ones((3, 2), np.float32))
    for i, task_seed in ((0, 0), (2, 5)):
        start, _ = linear.reset(seed=4, options={"task_seed": task_seed})
        np.testing.assert_allclose(observations[i], start, rtol=1e-6)
        assert linear.step(np.ones(2, np.float32))[1] == pytest.approx(rewards[i], rel=1e-5)
    assert rewards[0] != pytest.approx(rewards[2])


def test_a_reset_mask_leaves_the_others_alone(many):
    many.reset(seed=0)
    before = many.step(np.zeros((3, 2), np.float32))[0]
    after, _ = many.reset(seed=9, options={"reset_mask": np.array([True, False, False])})
    np.testing.assert_array_equal(after[1:], before[1:])
    assert not np.allclose(after[0], before[0])
    truncated = [many.step(np.zeros((3, 2), np.float32))[3].tolist() for _ in range(3)]
    assert truncated == [[False] * 3, [False, True, True], [True, False, False]]


@pytest.mark.parametrize(
    "call",
    [
        lambda envs: envs.step(np.zeros((2, 2))),
        lambda envs: envs.step(np.full((3, 2), np.inf)),
        lambda envs: envs.reset(seed=[1, 2]),
        lambda envs: envs.reset(options={"task_seeds": [1]}),
        lambda envs: envs.reset(options={"reset_mask": [1, 0]}),
    ],
)
def test_bad_input_to_the_vector_environment_is_refused(many, call):
    many.reset(seed=0)
    with pytest.raises(GlaError):
        call(many)


def test_make_passes_settings_on():
    env = gymnasium.make("gla/RandomLinear-v0", task_seed=3, horizon=2).unwrapped
    assert env.task_seed == 3 and env.env.horizon == 2
    envs = gymnasium.make_vec("gla/RandomLinear-v0", num_envs=2, task_seeds=[3, 4])
    assert envs.task_seeds == [3, 4]
