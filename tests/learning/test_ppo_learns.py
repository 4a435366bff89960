"""PPO solves what it should, over seeds that were not chosen: 0, 1 and 2."""

import jax
import numpy as np
import pytest

from gla.agents import ppo
from gla.agents.ppo import PPOConfig
from gla.envs import registry
from gla.envs.splits import run_keys, task_key
from gla.envs.wrappers import Autoreset, TimeLimit

pytestmark = pytest.mark.learning


def late_returns(environment, config):
    """Mean return of the episodes that end in the last tenth of training, for each seed.

    They are played by the noisy, still changing policy: evaluating the last one would flatter.
    """
    env = registry.make_functional(environment)

    def train(seed):
        keys = run_keys(jax.random.fold_in(task_key("train", 0), seed))
        world = Autoreset(TimeLimit(env))
        _, record = ppo.train(keys, world, env.sample_params(keys.task), config, config.num_envs)
        return record["reward"], record["terminated"] | record["truncated"]

    program, means = jax.jit(train), []
    for seed in range(3):
        reward, done = (np.asarray(x).reshape(config.num_envs, -1) for x in program(seed))
        returns, steps = [], reward.shape[1]
        for rewards, ends in zip(reward, done, strict=True):
            bounds = np.append(0, np.flatnonzero(ends) + 1)
            late = bounds[1:] > 0.9 * steps
            total = np.add.reduceat(rewards, bounds[:-1])
            total[-1] = rewards[bounds[-2] : bounds[-1]].sum()
            returns.extend(total[late])
        means.append(np.mean(returns))
    return means


def test_ppo_solves_cart_pole():
    config = PPOConfig(
        num_envs=8, num_steps=128, num_updates=150, epochs=4, minibatches=4, learning_rate=1e-3,
        anneal=True, gamma=0.99, hidden=64,
    )  # fmt: skip
    means = late_returns("gla/CartPole-v0", config)
    assert min(means) >= 475, f"mean returns {means}, of at most 500"


def test_ppo_solves_pendulum():
    config = PPOConfig(
        num_envs=16, num_steps=200, num_updates=200, epochs=10, minibatches=16, learning_rate=1e-3,
        anneal=True, gamma=0.95, hidden=64,
    )  # fmt: skip
    means = late_returns("gla/Pendulum-v0", config)
    assert min(means) >= -200, f"mean returns {means}; swinging up and holding costs about 150"
