"""Host simulators: honest resets, plain errors, pictures, wrappers that replay.

That they give the simulators' numbers is in `test_parity.py`.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from gla import projection as proj
from gla.envs import wrappers
from gla.envs.checks import check_action, check_finite
from gla.envs.host import (
    HostEnv,
    dmc_env,
    make_dmc,
    make_mujoco,
    mujoco_env,
    vectorize,
)
from gla.envs.host_wrappers import HostNormalized, HostProjected
from gla.errors import GlaError


@pytest.mark.parametrize(
    ("name", "settings", "size"),
    [
        ("Ant-v5", {}, 27),
        ("Ant-v5", {"include_cfrc_ext_in_observation": True}, 105),
        ("Ant-v4", {}, 27),
        ("Reacher-v4", {}, 11),
    ],
)
def test_settings_reach_the_simulator(name, settings, size):
    env = mujoco_env(name, **settings)
    assert env.observation_space.shape == (size,)
    env.close()


def test_episodes_end_in_a_true_reset_in_the_same_step():
    envs = make_mujoco("Reacher-v5", 2)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    first, _ = envs.reset(seed=0)
    zeros = np.zeros(envs.action_space.shape, np.float32)
    for _ in range(50):
        observations, _, terminated, truncated, infos = envs.step(zeros)
    assert truncated.all() and not terminated.any()
    assert infos["_final_obs"].all()
    goal = slice(4, 6)
    for i in range(2):
        np.testing.assert_allclose(infos["final_obs"][i][goal], first[i][goal])
        assert not np.allclose(observations[i][goal], first[i][goal])
    envs.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_mujoco("HalfCheetah-v5", 2),
        pytest.param(
            lambda: make_dmc("cartpole", "balance", 2),
            marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="labmaze has no wheel"),
        ),
    ],
)
def test_a_seed_fixes_everything(make):
    def run(seed):
        envs = make()
        rows = [envs.reset(seed=seed)[0]]
        rng = np.random.default_rng(1)
        rows += [
            envs.step(rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32))[0]
            for _ in range(5)
        ]
        envs.close()
        return np.stack(rows)

    np.testing.assert_array_equal(run(7), run(7))
    assert not np.allclose(run(7)[0], run(8)[0])


class Line(gymnasium.Env):
    """A point on a line whose actions span [0, 10]; episodes end after 5 steps."""

    observation_space = gymnasium.spaces.Dict(
        {
            "place": gymnasium.spaces.Box(-np.inf, np.inf, (2,)),
            "speed": gymnasium.spaces.Box(-np.inf, np.inf, (1,)),
        }
    )
    action_space = gymnasium.spaces.Box(0.0, 10.0, (2,), np.float64)
    spoil = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0, self.np_random.normal(size=2)
        return self.look(), {}

    def look(self):
        return {"place": self.place.astype(np.float32), "speed": np.float32([self.steps])}

    def step(self, action):
        self.steps += 1
        self.place = self.place + action
        reward = float(action.sum()) + 100.0
        observation = self.look()
        if self.spoil == ("observation", self.steps):
            observation["place"] = np.float32([0.0, np.inf])
        if self.spoil == ("reward", self.steps):
            reward = float("nan")
        return observation, reward, False, self.steps >= 5, {}


def line(spoil=None):
    simulator = Line()
    simulator.spoil = spoil
    return HostEnv(simulator, "Line")


def test_actions_are_clipped_then_scaled_and_observations_flattened():
    env = line()
    start, _ = env.reset(seed=0)
    assert start.shape == (3,) and start.dtype == np.float32
    observation, reward, *_ = env.step(np.array([0.0, 3.0]))
    np.testing.assert_allclose(observation, start + np.float32([5.0, 10.0, 1.0]), rtol=1e-6)
    assert reward == 115.0


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_numbers_that_are_not_finite_are_named_with_their_step(what):
    envs = vectorize(lambda: line((what, 3)), 2)
    envs.reset(seed=0)
    actions = np.zeros((2, 2), np.float32)
    envs.step(actions), envs.step(actions)
    with pytest.raises(GlaError, match=rf"Line returned an? {what} that is (inf|nan).* at step 3"):
        envs.step(actions)


def test_check_finite_names_the_sub_environment():
    check_finite("X", 1, np.zeros((2, 3)), np.zeros(2), np.zeros((2, 1)))
    with pytest.raises(GlaError, match=r"reward that is nan at step 8 in sub-environment 1"):
        check_finite("X", [7, 8], np.zeros((2, 3)), np.array([0.0, np.nan]))
    with pytest.raises(GlaError, match=r"X was given an action that is inf"):
        check_finite("X", 0, None, None, np.array([np.inf]))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(3), r"shape \(3,\)"),
        (np.array([np.nan, 0.0]), "action that is nan"),
        ("left", "no array of numbers"),
        (np.array(["a", "b"]), "no array of numbers"),
    ],
)
def test_bad_actions_are_refused(action, message):
    env = line()
    env.reset(seed=0)
    with pytest.raises(GlaError, match=message):
        env.step(action)


@pytest.mark.parametrize("action", [2, -1, 0.5, np.array([1]), np.nan])
def test_bad_discrete_actions_are_refused(action):
    with pytest.raises(GlaError):
        check_action("X", gymnasium.spaces.Discrete(2), action, 1)
    assert check_action("X", gymnasium.spaces.Discrete(2), np.int64(1), 1) == 1


def test_a_batch_of_the_wrong_size_is_refused():
    envs = vectorize(line, 2)
    envs.reset(seed=0)
    with pytest.raises(GlaError, match=r"shape \(3, 2\)"):
        envs.step(np.zeros((3, 2)))


def test_the_normalising_wrapper_agrees_with_the_functional_one():
    envs = HostNormalized(vectorize(line, 2), window=50, seed=3)
    bare = vectorize(line, 2)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observations, _ = envs.reset(seed=1)
    raw, _ = bare.reset(seed=1)
    assert envs.statistics.observation_mean.shape == (2, 3)
    rng = np.random.default_rng(0)
    for t in range(5):
        for i in range(2):
            rows = jax.tree.map(lambda part, i=i: part[i], envs.statistics)
            expected = wrappers.normalize_observation(rows, raw[i])
            np.testing.assert_allclose(observations[i], expected, rtol=1e-6)
        actions = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
        observations, rewards, _, truncated, infos = envs.step(actions)
        raw, raw_rewards, _, _, raw_infos = bare.step(actions)
        np.testing.assert_allclose(
            rewards, np.clip(raw_rewards / envs.statistics.reward_scale, -10, 10), rtol=1e-5
        )
        assert truncated.all() == (t == 4)
    assert observations.dtype == np.float32 and np.abs(observations).max() <= 10
    rows = jax.tree.map(lambda part: part[1], envs.statistics)
    np.testing.assert_allclose(
        infos["final_obs"][1],
        wrappers.normalize_observation(rows, raw_infos["final_obs"][1]),
        rtol=1e-6,
    )


def test_statistics_of_a_lifetime_do_not_depend_on_its_neighbours():
    two = HostNormalized(vectorize(line, 2), window=20, seed=3).statistics
    one = HostNormalized(vectorize(line, 1), window=20, seed=4).statistics
    np.testing.assert_allclose(two.observation_mean[1], one.observation_mean[0], rtol=1e-5)
    assert not np.allclose(two.observation_mean[0], two.observation_mean[1])


def test_a_projected_host_environment_replays_through_the_bare_one():
    config = proj.ProjectionConfig(8, 5)
    envs = HostProjected(vectorize(line, 2), config, projection_seeds=[4, 9])
    bare = vectorize(line, 2)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.observation_space.shape == (2, 8) and envs.action_space.shape == (2, 5)
    drawn = [proj.sample(jax.random.key(seed), config, 3, 2) for seed in (4, 9)]
    observations, _ = envs.reset(seed=1)
    raw, _ = bare.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(5):
        for i in range(2):
            expected = proj.project_observation(drawn[i], raw[i])
            np.testing.assert_allclose(observations[i], expected, rtol=1e-5, atol=1e-5)
        actions = rng.uniform(-1, 1, (2, 5)).astype(np.float32)
        lowered = np.stack([proj.lower_action(drawn[i], actions[i]) for i in range(2)])
        observations, rewards, _, _, infos = envs.step(actions)
        raw, raw_rewards, _, _, raw_infos = bare.step(lowered)
        np.testing.assert_allclose(rewards, raw_rewards, rtol=1e-5)
    assert infos["_final_obs"].all() and infos["final_obs"][0].shape == (8,)
    np.testing.assert_allclose(
        infos["final_obs"][1],
        proj.project_observation(drawn[1], raw_infos["final_obs"][1]),
        rtol=1e-5,
        atol=1e-5,
    )
    with pytest.raises(GlaError, match="action that is nan .*step 1 in sub-environment 1"):
        envs.step(np.array([[0.0] * 5, [np.nan] * 5]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HostProjected(vectorize(line, 2), None, [1, 2, 3]), "one per sub-environment"),
        (lambda: HostProjected(vectorize(line, 2), proj.ProjectionConfig(2, 5)), "observation_dim"),
        (lambda: HostProjected(vectorize(line, 2), proj.ProjectionConfig(8, 1)), "action_dim"),
        (lambda: HostNormalized(vectorize(line, 2), window=0), "window"),
        (lambda: vectorize(line, 0), "num_envs"),
        (lambda: mujoco_env("Reachr-v5"), "did you mean .*Reacher-v5"),
    ],
)
def test_bad_settings_are_said_in_one_line(call, message):
    with pytest.raises(GlaError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_unknown_dmc_task_suggests_near_matches():
    pytest.importorskip("dm_control")
    with pytest.raises(GlaError, match="did you mean .*cartpole swingup"):
        dmc_env("cartpole", "swing")


def test_a_missing_dm_control_is_said_when_asked_for(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(GlaError, match="needs dm_control .* labmaze has no wheel"):
        gymnasium.make("gla/CartpoleSwingup-v0")


def test_a_missing_mujoco_is_said_when_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(GlaError, match="Ant-v5 needs MuJoCo, .*; pip install 'gymnasium"):
        mujoco_env("Ant-v5")


def test_a_wrong_opengl_library_is_not_taken_for_a_missing_simulator():
    code = (
        "from gla.envs.host import dmc_env, mujoco_env\n"
        "from gla.errors import GlaError\n"
        "try:\n"
        "    mujoco_env('Ant-v5')\n"
        "except GlaError as error:\n"
        "    print(error)"
    )
    environment = {**os.environ, "MUJOCO_GL": "nonsense", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert "but MUJOCO_GL is 'nonsense'; set it to egl" in done.stdout and not done.stderr


def test_making_says_nothing(capfd, recwarn):
    mujoco_env("HalfCheetah-v4").close()  # an old version, and a deprecated attribute in its model
    if sys.version_info < (3, 13):
        dmc_env("cheetah", "run").close()
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_stepping_outside_an_episode_is_refused():
    env = line()
    zeros = np.zeros(2, np.float32)
    with pytest.raises(GlaError, match="Line was stepped before its first reset; call reset"):
        env.step(zeros)
    env.reset(seed=0)
    for _ in range(5):
        *_, truncated, _ = env.step(zeros)
    assert truncated
    with pytest.raises(GlaError, match="stepped after its episode ended at step 5; call reset"):
        env.step(zeros)
    env.reset()
    env.step(zeros)


def drawing_machine():
    """Whether this machine has an OpenGL without a display."""
    return os.environ.get("MUJOCO_GL") == "egl"


MAKERS = [
    lambda **settings: mujoco_env("Reacher-v5", **settings),
    pytest.param(
        lambda **settings: dmc_env("cartpole", "swingup", **settings),
        marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="labmaze has no wheel"),
    ),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.skipif(not drawing_machine(), reason="no OpenGL here (MUJOCO_GL is not egl)")
def test_pictures(make):
    env = make(render_mode="rgb_array", width=64, height=48)
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (48, 64, 3) and first.dtype == np.uint8 and first.std() > 5
    for _ in range(10):
        env.step(env.action_space.sample())
    assert (env.render() != first).any()
    assert env.metadata["render_fps"] in (50, 100)  # 0.02 s and 0.01 s a step
    env.close()
    with pytest.raises(GlaError, match="closed"):
        env.render()


@pytest.mark.parametrize("make", MAKERS)
def test_pictures_that_cannot_be_drawn_are_said_in_one_line(make, monkeypatch):
    env = make()
    env.reset(seed=0)
    with pytest.raises(GlaError, match="without a render mode; make it with render_mode="):
        env.render()
    with pytest.raises(GlaError, match=r"render_mode is 'rgb' \(did you mean rgb_array"):
        make(render_mode="rgb")
    drawn = make(render_mode="rgb_array")
    drawn.reset(seed=0)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(GlaError, match="cannot be drawn: no OpenGL .*; set MUJOCO_GL=egl"):
        drawn.render()

    def fail():
        raise RuntimeError("no context")

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(drawn, "simulator", SimpleNamespace(render=fail, close=lambda: None))
    with pytest.raises(GlaError, match=r"no OpenGL with MUJOCO_GL=egl \(no context\)"):
        drawn.render()


def test_closing_twice_is_allowed_and_stepping_after_is_not():
    env = line()
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(GlaError, match="closed"):
        env.reset()
