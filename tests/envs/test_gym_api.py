"""Functional environments through Gymnasium's single and vector interfaces."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import gla  # noqa: F401  registers the ids
from gla.envs import gym_api, registry
from gla.envs.augmentations import RewardScale
from gla.envs.base import Environment, timestep
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


def test_both_kinds_of_vector_environment_agree_on_the_infos_of_an_end(many, linear):
    """Gymnasium's own vector environment of our single one is the reference."""
    peer = SyncVectorEnv([lambda: linear], autoreset_mode=AutoresetMode.SAME_STEP)
    peer.reset(seed=0, options={"task_seed": 0})
    many.reset(seed=0)
    for _ in range(3):
        theirs = peer.step(np.ones((1, 2), np.float32))
        ours = many.step(np.ones((3, 2), np.float32))
    expected, got = theirs[-1], ours[-1]
    assert got.keys() == expected.keys()
    for name in got:
        assert type(got[name]) is type(expected[name])
        if isinstance(got[name], np.ndarray):
            assert got[name].dtype == expected[name].dtype
    np.testing.assert_allclose(got["final_obs"][0], expected["final_obs"][0], rtol=1e-5)
    for ours_one, theirs_one in zip(ours[:4], theirs[:4], strict=True):
        assert ours_one.dtype == theirs_one.dtype and ours_one.flags.writeable
    # What was handed out is the caller's own: later steps leave it alone.
    before = ours[0].copy()
    many.step(np.zeros((3, 2), np.float32))
    np.testing.assert_array_equal(ours[0], before)


def test_tasks_share_what_they_have_in_common(many):
    many.reset(seed=0, options={"task_seed": 2})
    assert set(jax.tree.leaves(many._axes, is_leaf=lambda axis: axis is None)) == {None}
    shared = many.step(np.ones((3, 2), np.float32))[1]
    many.reset(seed=0, options={"task_seeds": [2, 2, 8]})
    assert set(jax.tree.leaves(many._axes)) == {0}
    own = many.step(np.ones((3, 2), np.float32))[1]
    np.testing.assert_allclose(own[:2], shared[:2], rtol=1e-5)
    assert own[2] != pytest.approx(shared[2])
    many.reset(seed=0, options={"task_seeds": [0, 0, 5]})


def test_stepping_after_the_end_is_refused_until_reset(linear):
    linear.reset(seed=0)
    for _ in range(3):
        linear.step(np.zeros(2))
    with pytest.raises(GlaError, match="after its episode ended at step 3; call reset"):
        linear.step(np.zeros(2))
    linear.reset()
    linear.step(np.zeros(2))


def test_a_refused_action_is_no_step(linear):
    linear.reset(seed=0)
    for _ in range(5):
        with pytest.raises(GlaError, match="shape"):
            linear.step(np.zeros(3))
    assert linear.step(np.zeros(2))[3] is False


class Picture(Environment):
    """A state i32[] that is drawn as the brightness of a picture; the task is its height."""

    name = "Picture"
    horizon = 3
    can_render = True
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def sample_params(self, key):
        return jax.random.randint(key, (), 4, 1000)

    def reset(self, key, params):
        return jnp.zeros((), jnp.int32), jnp.zeros(1)

    def step(self, key, state, action, params):
        state = state + 1 + action
        # 13 makes what is seen or earned, or what follows the end, no number.
        seen = jnp.where(state == 13, jnp.nan, state.astype(jnp.float32))
        false = jnp.zeros((), bool)
        return state, timestep(seen[None], jnp.float32(0), false, false)

    def render(self, state, params):
        return np.full((4, 5, 3), 10 * int(state) + int(params) % 7, np.uint8)


def test_a_single_environment_draws_its_state():
    env = FunctionalEnv(Picture(), render_mode="rgb_array")
    assert env.metadata["render_modes"] == ["rgb_array"] and env.metadata["render_fps"] > 0
    with pytest.raises(GlaError, match="before its first reset"):
        env.render()
    env.reset(seed=0)
    first = env.render()
    env.step(1)
    second = env.render()
    assert first.shape == (4, 5, 3) and first.dtype == np.uint8
    assert second[0, 0, 0] == first[0, 0, 0] + 20


def test_a_vector_environment_draws_each_sub_environment():
    envs = FunctionalVectorEnv(Picture(), 3, task_seeds=[0, 0, 1], render_mode="rgb_array")
    envs.reset(seed=0)
    envs.step(np.array([0, 1, 0]))
    frames = envs.render()
    assert isinstance(frames, tuple) and [f.shape for f in frames] == [(4, 5, 3)] * 3
    one, two, three = (int(frame[0, 0, 0]) for frame in frames)
    assert two == one + 10 and three != one
    single = FunctionalEnv(Picture(), task_seed=1, render_mode="rgb_array")
    single.reset(seed=0)
    single.step(0)
    assert int(single.render()[0, 0, 0]) == three


@pytest.mark.parametrize("make", [FunctionalEnv, lambda e, **k: FunctionalVectorEnv(e, 2, **k)])
def test_what_cannot_be_drawn_says_so_in_one_line(make):
    with pytest.raises(GlaError, match="Pendulum-v1 has no pictures"):
        env = registry.make_functional("Pendulum-v0")
        env.can_render = False
        make(env, render_mode="rgb_array")
    with pytest.raises(GlaError, match="'human'.*expected rgb_array"):
        make(Picture(), render_mode="human")
    env = make(Picture())
    env.reset(seed=0)
    with pytest.raises(GlaError, match="render_mode='rgb_array'"):
        env.render()


def test_gymnasium_checks_a_drawn_environment(monkeypatch):
    monkeypatch.setattr(registry, "make_functional", lambda id, **kwargs: Picture())
    env = gymnasium.make("gla/RandomLinear-v0", render_mode="rgb_array")
    check_env(env.unwrapped)
    assert env.unwrapped.metadata["render_modes"] == ["rgb_array"]


def test_values_that_are_not_finite_are_refused_by_name():
    env = FunctionalVectorEnv(Picture(), 2, horizon=20)
    env.reset(seed=0)
    for _ in range(6):
        env.step(np.array([0, 1]))
    with pytest.raises(GlaError, match="observation that is nan .* at step 7 in sub-environment 1"):
        env.step(np.array([0, 0]))
    env = FunctionalVectorEnv(Picture(), 2, horizon=7)  # the reset of that step hides it
    env.reset(seed=0)
    for _ in range(6):
        env.step(np.array([0, 1]))
    with pytest.raises(GlaError, match="observation that is nan .* at step 7 in sub-environment 1"):
        env.step(np.array([0, 0]))


def test_settings_reach_where_they_belong(monkeypatch):
    plain, scaled = (
        gymnasium.make_vec("gla/RandomLinear-v0", 2, horizon=3, task_seed=4, **settings)
        for settings in ({}, {"augmentations": (RewardScale(scale=2.0),)})
    )
    rewards = []
    for envs in (plain, scaled):
        envs.reset(seed=0)
        rewards.append(envs.step(np.ones((2, 2), np.float32))[1])
    np.testing.assert_allclose(2 * rewards[0], rewards[1], rtol=1e-6)
    seen = {}
    monkeypatch.setattr(registry, "make_host", lambda id, n, **kwargs: seen.update(kwargs))
    gym_api.make_vector("gla/Reacher-v0", 2, task_seed=3)
    assert seen == {"task_seeds": 3}
