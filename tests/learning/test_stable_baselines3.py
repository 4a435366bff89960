"""A stranger's agent: Stable-Baselines3 trains on a projected task that it knows nothing about."""

import warnings

import gymnasium
import numpy as np
import pytest
from scipy import stats

import gla  # noqa: F401  registers the ids

pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed (gla[torch])")

from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

pytestmark = pytest.mark.learning

ID = "gla:gla/Reacher-Projected-v0"
EPISODES = 20


@pytest.fixture(autouse=True)
def _one_thread():
    """Small networks: a second thread of torch only spends CPU time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_its_checker_accepts_the_environment():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Its advice, not a fault: actions are as wide as a projection of [-1, 1] can be.
        warnings.filterwarnings("ignore", message=".*symmetric and normalized Box.*")
        check_env(gymnasium.make(ID).unwrapped)


def returns(model, envs):
    """Return of the mean action from each of 20 start states, f64[20]."""
    env = gymnasium.make(ID)
    total = np.zeros(EPISODES)
    for episode in range(EPISODES):
        observation, _ = env.reset(seed=1000 + episode)
        ended = False
        while not ended:
            action, _ = model.predict(envs.normalize_obs(observation), deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total[episode] += reward
            ended = terminated or truncated
    env.close()
    return total


def test_ppo_improves_on_projected_reacher():
    envs = VecNormalize(make_vec_env(ID, n_envs=8, seed=0), gamma=0.9)
    model = PPO(
        "MlpPolicy", envs, seed=0, device="cpu", n_steps=256, batch_size=128, n_epochs=10,
        gamma=0.9, gae_lambda=0.9, learning_rate=7e-4, policy_kwargs={"log_std_init": -2.0},
    )  # fmt: skip
    assert model.observation_space.shape == (64,) and model.action_space.shape == (16,)
    before = returns(model, envs)
    model.learn(60_000)
    after = returns(model, envs)
    envs.close()
    # Mean actions, so that less noise alone cannot pass for learning; the same start states, so
    # that the gain's interval is that of pairs. An untrained policy hardly moves: about -12.
    gain = after - before
    low, _ = stats.t.interval(0.95, EPISODES - 1, gain.mean(), stats.sem(gain))
    assert low > 1.0, f"{before.mean():.1f} before, {after.mean():.1f} after, gain above {low:.1f}"
