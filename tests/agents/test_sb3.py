"""Stable-Baselines3, learning online and frozen."""

import builtins
import sys
import threading

import gymnasium
import jax
import numpy as np
import pytest

from gla import cli
from gla.agents.base import seeds_of
from gla.agents.external import load_agent
from gla.benchmarks import results
from gla.errors import GlaError

BOX = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
FOUR = gymnasium.spaces.Discrete(4)
SEEN = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    importing = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("stable_baselines3"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "stable_baselines3", raising=False)
    with pytest.raises(GlaError, match=r"need Stable-Baselines3.*pip install 'gla\[torch\]'"):
        load_agent("sb3:PPO")


@pytest.mark.parametrize(
    "spec, message",
    [
        ("sb3:ppo2", "no algorithm 'ppo2' .did you mean PPO.*expected PPO, A2C, SAC, TD3, DQN"),
        ("sb3:", "no algorithm ''"),
        ("sb3:nowhere/model.zip", "there is no file 'nowhere/model.zip'"),
        ("sb3:PPO?n_steps", "the setting of sb3 is 'n_steps'; expected name=value"),
    ],
)
def test_specs_that_make_no_sense(spec, message):
    with pytest.raises(GlaError, match=message):
        load_agent(spec)


def test_only_folders_are_asked_for_something():
    with pytest.raises(GlaError, match="'sb3:PPO' is no checkpoint folder"):
        load_agent("sb3:PPO", which="best")


class TestWithThePackage:
    """Whatever needs Stable-Baselines3 itself."""

    @pytest.fixture(autouse=True)
    def sb3(self):
        return pytest.importorskip(
            "stable_baselines3", reason="Stable-Baselines3 is not installed (gla[torch])"
        )

    @pytest.fixture(autouse=True)
    def no_threads_left(self, sb3):
        before = set(threading.enumerate())
        yield
        assert not set(threading.enumerate()) - before

    @pytest.mark.parametrize(
        "spec, message",
        [
            ("sb3:PPO?n_step=3", "no setting 'n_step' .*did you mean n_steps.*n_epochs"),
            ("sb3:PPO?seed=3", "no setting 'seed'"),
            ("sb3:PPO?total_timesteps=0", "total_timesteps is 0; expected a whole number >= 1"),
        ],
    )
    def test_settings_that_do_not_exist(self, spec, message):
        with pytest.raises(GlaError, match=message):
            load_agent(spec)

    @pytest.mark.parametrize(
        "algorithm, space, message",
        [
            ("DQN", BOX, "DQN .* learns no continuous actions; expected one of PPO, A2C, SAC, TD3"),
            ("SAC", FOUR, "SAC .* learns no discrete actions; expected one of PPO, A2C, DQN"),
        ],
    )
    def test_actions_that_an_algorithm_does_not_learn(self, algorithm, space, message):
        with pytest.raises(GlaError, match=message):
            load_agent(f"sb3:{algorithm}").init(keys_of(1), 1, SEEN, space)

    def test_a_setting_that_does_not_fit_is_told_in_one_line(self):
        with pytest.raises(GlaError, match="lifetime 0: .*Error"):
            play(load_agent("sb3:PPO?n_steps=1"), keys_of(1), 1, BOX)

    @pytest.mark.parametrize(
        "spec, space",
        [
            ("PPO?n_steps=8&batch_size=4&n_epochs=1&policy_kwargs={\"net_arch\": [4]}", BOX),
            ("A2C", FOUR),
            ("SAC?learning_starts=4&batch_size=4&buffer_size=100", BOX),
            ("TD3?learning_starts=4&batch_size=4&buffer_size=100&train_freq=[2,\"step\"]", BOX),
            ("DQN?learning_starts=4&batch_size=4&buffer_size=100&total_timesteps=8", FOUR),
        ],
    )  # fmt: skip
    def test_every_algorithm_acts_and_repeats_in_any_company(self, spec, space):
        agent, keys = load_agent(f"sb3:{spec}"), keys_of(3)
        together = play(agent, keys, 20, space)
        assert together.shape == (20, 3, *space.shape)
        assert np.isfinite(together).all() and all(space.contains(row[0]) for row in together)
        np.testing.assert_array_equal(play(agent, keys[2:], 20, space)[:, 0], together[:, 2])
        assert agent.name.startswith(f"SB3 {spec[:3]}")

    def test_it_does_what_the_package_does_alone(self, sb3):
        actions = []

        class Told(gymnasium.Env):
            observation_space, action_space = SEEN, BOX

            def reset(self, *, seed=None, options=None):
                self.t = 0
                return shown(0), {}

            def step(self, action):
                actions.append(action)
                self.t += 1
                if self.t == 20:
                    raise StopIteration
                return shown(self.t), paid(self.t), False, False, {}

        keys = keys_of(2)
        settings = {"n_steps": 8, "batch_size": 4}
        model = sb3.PPO("MlpPolicy", Told(), seed=seeds_of(keys)[1], device="cpu", **settings)
        with pytest.raises(StopIteration):
            model.learn(100)
        agent = load_agent("sb3:PPO?n_steps=8&batch_size=4")
        mine = play(agent, keys, 20, BOX, ends=False)
        np.testing.assert_array_equal(mine[:, 1], np.stack(actions))

    def test_learning_goes_on_after_the_schedules_are_over(self):
        # Nothing is ever learned; it only explores less and less.
        plain = "sb3:DQN?learning_starts=0&gradient_steps=0&train_freq=1"
        greedy = load_agent(f"{plain}&total_timesteps=10&exploration_final_eps=0")
        late = play(greedy, keys_of(8), 60, FOUR)[20:]
        assert ((late[1:] != late[:-1]).sum(0) <= 3).all()
        curious = play(load_agent(plain), keys_of(8), 60, FOUR)[20:]
        assert ((curious[1:] != curious[:-1]).sum(0) > 10).all()

    @pytest.mark.parametrize(
        "name, space", [("PPO", BOX), ("A2C", FOUR), ("SAC", BOX), ("TD3", BOX), ("DQN", FOUR)]
    )
    def test_saved_models_act(self, sb3, tmp_path, name, space):
        world = gymnasium.Env()
        world.observation_space, world.action_space = SEEN, space
        if space is BOX:  # the action space of a torque, say; the benchmark's is [-1, 1]
            world.action_space = gymnasium.spaces.Box(-2.0, 6.0, (2,), np.float32)
        model = getattr(sb3, name)("MlpPolicy", world, seed=0, device="cpu")
        model.save(tmp_path / "walker")
        agent = load_agent(f"sb3:{tmp_path}/walker.zip")
        assert agent.name == f"SB3 {name} (walker)" and agent.view is None
        actions = play(agent, keys_of(3), 5, space)
        for t in range(5):
            expected, _ = model.predict(np.stack([shown(t)] * 3), deterministic=True)
            if space is BOX:
                expected = (expected - 2.0) / 4.0
            np.testing.assert_allclose(actions[t], expected, atol=1e-6)
        other = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float32)
        with pytest.raises(GlaError, match=r"of shape \(3,\).*; expected .* of shape \(5,\)"):
            agent.init(keys_of(1), 1, other, space)

    def test_files_that_hold_no_model(self, tmp_path):
        (tmp_path / "broken.zip").write_text("no zip")
        with pytest.raises(GlaError, match="broken.zip cannot be loaded .*expected a model"):
            load_agent(f"sb3:{tmp_path}/broken.zip")

    def test_from_the_command_line(self, tmp_path, capsys):
        out = tmp_path / "ppo.json"
        words = ["meta-test", str(out), "--environment", "gla/RandomLinear-v0", "--lifetimes", "2"]
        agent = "sb3:PPO?n_steps=32&batch_size=16"
        assert cli.main([*words, "--steps", "100", "--no-nulls", "--agent", agent]) == 0
        first = results.read(out).agents[0]
        assert first.name == "SB3 PPO (n_steps=32, batch_size=16)"
        assert cli.main([*words[:1], str(tmp_path / "x.json"), *words[2:], "--agent", "sb3:DQN"])
        assert "DQN of Stable-Baselines3 learns no continuous" in capsys.readouterr().err


def keys_of(count):
    return jax.random.split(jax.random.key(0), count)


def shown(t):
    return np.array([t / 10, 1.0, -1.0], np.float32)


def paid(t):
    return float(np.float32(np.sin(t)))


def play(agent, keys, steps, space, ends=True):
    """Show prescribed observations and rewards, episodes of 7 steps: actions [T, N, ...]."""
    rows = len(keys)
    state, actions = agent.init(keys, rows, SEEN, space), []
    try:
        for t in range(steps):
            end = np.full(rows, ends and t > 0 and t % 7 == 0)
            reward = np.full(rows, paid(t) if t else 0.0, np.float32)
            seen = np.stack([shown(t)] * rows)
            state, action = agent.act(state, seen, reward, end & (t % 2 == 0), end, keys)
            actions.append(np.asarray(action))
    finally:
        if hasattr(agent, "close"):
            agent.close(state)
    return np.stack(actions)
