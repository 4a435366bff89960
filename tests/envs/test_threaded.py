"""Threaded host environments: the plain class's numbers to the bit; states saved and restored."""

import gc
import sys
import threading

import gymnasium
import numpy as np
import pytest

from gla.envs import ActionDelay, ObservationNoise, registry
from gla.envs.host import HostEnv, HostVectorEnv, mujoco_env
from gla.envs.splits import task_key
from gla.envs.threaded import ThreadedHostVectorEnv, host_vector_env
from gla.errors import GlaError

needs_dmc = pytest.mark.skipif(sys.version_info >= (3, 13), reason="labmaze has no wheel")


def dmc(*values):
    return pytest.param(*values, marks=needs_dmc)


def actions_for(envs, steps, seed=0):
    shape = (steps, *envs.action_space.shape)
    return np.random.default_rng(seed).uniform(-1.3, 1.3, shape).astype(np.float32)


def assert_same(one, other):
    """Equal to the bit, dictionaries whatever their order."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, np.ndarray) and one.dtype != object:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, np.ndarray):
        assert_same(tuple(one), tuple(other))
    else:
        assert one == other


def shorten(envs, steps):
    """Let episodes end early, each sub-environment at another step."""
    for i, env in enumerate(envs.unwrapped.envs):
        inner = env.simulator
        while isinstance(inner, gymnasium.Wrapper):
            if isinstance(inner, gymnasium.wrappers.TimeLimit):
                inner._max_episode_steps = steps + i
            inner = inner.env
        if hasattr(inner, "_env"):
            inner._env._step_limit = steps + i
    return envs


def step_all(envs, actions):
    return [envs.step(action) for action in actions]


@pytest.mark.parametrize(
    ("id", "steps"),
    [
        ("HalfCheetah-v0", 1010),
        ("HalfCheetahV4-v0", 150),
        ("Hopper-v0", 1000),
        ("Walker2d-v0", 300),
        ("Ant-v0", 150),
        ("ReacherV4-v0", 150),
        ("Pusher-v0", 120),
        ("Swimmer-v0", 120),
        ("InvertedDoublePendulum-v0", 150),
        ("Humanoid-v0", 60),
        dmc("CheetahRun-v0", 100),
        dmc("WalkerWalk-v0", 100),
        dmc("CartpoleSwingup-v0", 100),  # Runge-Kutta
        dmc("FingerTurnEasy-v0", 100),  # targets in the model
        dmc("ManipulatorBringBall-v0", 100),
    ],
    ids=str,
)
def test_numbers_are_those_of_the_plain_class(id, steps):
    plain, threaded = (registry.make_host(id, 3, threads=threads) for threads in (1, 2))
    assert type(plain) is HostVectorEnv and type(threaded) is ThreadedHostVectorEnv
    assert plain.name == threaded.name and threaded.threads == 2
    assert plain.observation_space == threaded.observation_space
    assert plain.action_space == threaded.action_space
    assert plain.metadata == threaded.metadata
    if steps < 1000:
        shorten(plain, 40), shorten(threaded, 40)
    assert_same(plain.reset(seed=3), threaded.reset(seed=3))
    ended = 0
    for action in actions_for(plain, steps):
        expected, got = plain.step(action), threaded.step(action)
        assert_same(expected, got)
        ended += int((expected[2] | expected[3]).sum())
    assert ended  # resets were part of it
    plain.close(), threaded.close()


def test_any_number_of_threads_gives_the_same_numbers():
    runs = []
    for threads in (0, 2, 5):
        envs = registry.make_host("Ant-v0", 5, threads=threads)
        envs.reset(seed=1)
        runs.append(step_all(envs, actions_for(envs, 40)))
        envs.close()
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert_same(one, other)


def test_families_projections_and_augmentations_stand_on_top():
    keys = [task_key("train", 0, i) for i in range(3)]
    changes = (ActionDelay(1), ObservationNoise(0.1))
    settings = {"task_keys": keys, "augmentations": changes, "projection_seed": 4}
    one, other = (
        registry.make_host("AntDirection-Projected-v0", 3, threads=threads, **settings)
        for threads in (1, 2)
    )
    assert isinstance(other.unwrapped, ThreadedHostVectorEnv)
    assert_same(one.reset(seed=0), other.reset(seed=0))
    for action in actions_for(one, 20):
        assert_same(one.step(action), other.step(action))


@pytest.mark.parametrize("id", ["HalfCheetah-v0", "Ant-v0", dmc("WalkerWalk-v0")])
def test_a_saved_state_goes_on_to_the_bit(id):
    envs = shorten(registry.make_host(id, 2, threads=2), 30)
    envs.reset(seed=2)
    actions = actions_for(envs, 80)
    step_all(envs, actions[:20])
    state = envs.get_state()
    assert all(isinstance(part, np.ndarray) and len(part) == 2 for part in state.values())
    state = {name: part.copy() for name, part in state.items()}
    expected = step_all(envs, actions[20:])  # past the end of episodes
    plain, again = (shorten(registry.make_host(id, 2, threads=n), 30) for n in (1, 2))
    np.testing.assert_array_equal(plain.set_state(state), state["observations"])
    again.reset(seed=9), step_all(again, actions[:5])  # what it did before does not matter
    again.set_state(state)
    for action, row in zip(actions[20:], expected, strict=True):
        assert_same(plain.step(action), row)
        assert_same(again.step(action), row)


@pytest.mark.parametrize(
    "id",
    [
        "ReacherV4-v0",  # pays for positions before the step
        "Pusher-v0",
        "Humanoid-v0",
        "AntDirection-v0",
        dmc("CartpoleSwingup-v0"),
        dmc("FingerTurnHard-v0"),  # touch sensors, a target in the model
        dmc("SwimmerSwimmer6-v0"),
        dmc("ManipulatorBringBall-v0"),
        dmc("HumanoidStand-v0"),
    ],
)
def test_every_kind_of_simulator_can_be_saved(id):
    envs, restored = (shorten(registry.make_host(id, 2, threads=0), 15) for _ in range(2))
    envs.reset(seed=3)
    actions = actions_for(envs, 35)
    step_all(envs, actions[:10])
    restored.set_state(envs.get_state())
    for action in actions[10:]:
        assert_same(envs.step(action), restored.step(action))


def test_wrappers_are_saved_with_what_they_keep():
    changes = (ActionDelay(2), ObservationNoise(0.1))
    envs, restored = (
        registry.make_host("Reacher-Projected-v0", 2, augmentations=changes) for _ in range(2)
    )
    envs.reset(seed=5)
    actions = actions_for(envs, 12)
    last = step_all(envs, actions[:6])[-1]
    np.testing.assert_array_equal(restored.set_state(envs.get_state()), last[0])
    for action in actions[6:]:
        assert_same(envs.step(action), restored.step(action))


def test_states_that_do_not_fit_are_refused():
    envs = registry.make_host("Reacher-v0", 2)
    with pytest.raises(GlaError, match="no state before its first reset"):
        envs.get_state()
    envs.reset(seed=0)
    state = envs.get_state()
    with pytest.raises(GlaError, match=r"'derived' has shape \(2, \d+\)"):
        registry.make_host("Hopper-v0", 2).set_state(state)
    with pytest.raises(GlaError, match="'random' has shape None"):
        envs.set_state({name: part for name, part in state.items() if name != "random"})


class Counter(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), 0.0, False, False, {}


def test_other_simulators_run_plain_and_say_that_they_cannot_be_saved():
    envs = host_vector_env([lambda: HostEnv(Counter(), "Counter")] * 2, threads=2)
    assert type(envs) is HostVectorEnv
    envs.reset(seed=0)
    with pytest.raises(NotImplementedError, match="the state of Counter cannot be saved"):
        envs.get_state()
    with pytest.raises(GlaError, match="Counter cannot be stepped on several threads"):
        ThreadedHostVectorEnv([lambda: HostEnv(Counter(), "Counter")] * 2, 2)


def test_threads_are_used_where_they_help(monkeypatch):
    monkeypatch.setattr("gla.envs.threaded.usable_cores", lambda: 4)
    ant = registry.make_host("Ant-v0", 6)
    assert isinstance(ant, ThreadedHostVectorEnv) and ant.threads == 4
    cheetah = registry.make_host("HalfCheetah-v0", 2)
    assert isinstance(cheetah, ThreadedHostVectorEnv) and cheetah.threads == 2
    assert type(registry.make_host("InvertedPendulum-v0", 6)) is HostVectorEnv  # too little work
    assert type(registry.make_host("Ant-v0", 1)) is HostVectorEnv
    for threads in (-1, 1.5, True):
        with pytest.raises(GlaError, match="threads is"):
            registry.make_host("Ant-v0", 2, threads=threads)


@pytest.mark.parametrize("id", ["HalfCheetah-v0", "Ant-v0"])
def test_errors_are_those_of_the_plain_class(id):
    for threads in (1, 2):
        envs = registry.make_host(id, 3, threads=threads)
        good = np.zeros(envs.action_space.shape, np.float32)
        with pytest.raises(GlaError, match="stepped before its first reset"):
            envs.step(good)
        envs.reset(seed=0)
        with pytest.raises(GlaError, match=r"shape \(2, \d\)"):
            envs.step(good[:2])
        with pytest.raises(GlaError, match="no array of numbers"):
            envs.step("left")
        bad = good.copy()
        bad[1, 0] = np.nan
        with pytest.raises(GlaError, match="action that is nan"):
            envs.step(bad)
        envs.reset(seed=0)
        envs.step(good.astype(np.float64))  # another type of numbers is taken
        envs.close()


def test_after_an_error_in_the_simulator_a_reset_makes_all_good():
    plain, envs = (registry.make_host("Ant-v0", 3, threads=threads) for threads in (1, 2))
    envs.reset(seed=0)
    broken = envs.envs[1].simulator.unwrapped
    reward, broken._get_rew = broken._get_rew, lambda *_: 1 / 0
    actions = actions_for(envs, 4)
    with pytest.raises(ZeroDivisionError):
        envs.step(actions[0])
    broken._get_rew = reward
    assert_same(plain.reset(seed=1), envs.reset(seed=1))
    for action in actions:
        assert_same(plain.step(action), envs.step(action))


def test_threads_go_with_their_environment():
    before = threading.active_count()
    closed = registry.make_host("Ant-v0", 3, threads=3)
    assert threading.active_count() == before + 2
    closed.close()
    left = registry.make_host("Ant-v0", 3, threads=3)
    left.reset(seed=0)
    del left
    gc.collect()
    helpers = [each for each in threading.enumerate() if each.name.startswith("gla-physics")]
    for helper in helpers:
        helper.join(5.0)
        assert not helper.is_alive()


def test_a_sub_environment_may_ask_for_something_else():
    """Physics that was advanced under other controls than were then asked for is put back."""

    class Half(gymnasium.Wrapper):
        def step(self, action):
            return self.env.step(action / 2)

    def factory():
        return HostEnv(Half(mujoco_env("Ant-v5").simulator), "half")

    plain, threaded = HostVectorEnv([factory] * 2), ThreadedHostVectorEnv([factory] * 2, 2)
    assert_same(plain.reset(seed=0), threaded.reset(seed=0))
    for action in actions_for(plain, 5):
        assert_same(plain.step(action), threaded.step(action))


def test_gymnasium_makes_it_too():
    envs = gymnasium.make_vec("gla:gla/HalfCheetah-v0", num_envs=2, threads=2)
    assert isinstance(envs.unwrapped, ThreadedHostVectorEnv)
    envs.close()
