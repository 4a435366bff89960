"""PPO on vector environments: bookkeeping by hand, bad input, and that it learns."""

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from gla import policy as pol
from gla.agents import ppo, ppo_host
from gla.agents.ppo_host import final_observations, train_host
from gla.distributions import gaussian_log_prob
from gla.errors import GlaError

KEY = jax.random.key(0)
TINY = ppo.PPOConfig(num_envs=2, num_steps=6, num_updates=2, epochs=1, minibatches=2, hidden=8)


class Counter(VectorEnv):
    """Observes 100 * sub-environment + steps into the episode; the episode of i takes 3 + i steps.

    Sub-environment 0 is truncated, 1 terminates. The reward is the number of the step.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, actions=None):
        self.num_envs = 2
        self.single_observation_space = gymnasium.spaces.Box(-1e3, 1e3, (1,), np.float32)
        self.single_action_space = actions or gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, 2)
        self.action_space = batch_space(self.single_action_space, 2)
        self.clock = np.zeros(2, int)
        self.poison = {}

    def _observe(self):
        return (100.0 * np.arange(2) + self.clock)[:, None].astype(np.float32)

    def reset(self, *, seed=None, options=None):
        self.clock[:] = 0
        return self._observe(), {}

    def step(self, actions):
        assert self.action_space.contains(np.asarray(actions)) or isinstance(
            self.single_action_space, gymnasium.spaces.Box
        )
        self.clock += 1
        reward = self.clock.astype(np.float64)
        ended = self.clock >= [3, 4]
        infos, observation = {}, self._observe()
        if ended.any():
            final = np.full(2, None, object)
            for i in np.flatnonzero(ended):
                final[i] = observation[i].copy()
            infos = {"final_obs": final, "_final_obs": ended}
            self.clock[ended] = 0
            observation = self._observe()
        if "reward" in self.poison:
            reward[1] = self.poison["reward"]
        return observation, reward, ended & [False, True], ended & [True, False], infos


@pytest.fixture
def rollouts(monkeypatch):
    """Record every rollout instead of learning from it."""
    seen = []

    def spy(key, learner, rollout, config, discrete, hyper):
        seen.append(rollout)
        return learner, rollout.reward, np.zeros(3)

    monkeypatch.setattr(ppo_host, "_learn", spy)
    return seen


def test_rollouts_hold_what_happened(rollouts):
    learner, finished = train_host(Counter(), TINY, KEY, progress=False)
    first, second = rollouts
    np.testing.assert_array_equal(first.observation[:, 0, 0], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(first.observation[:, 1, 0], [100, 101, 102, 103, 100, 101])
    np.testing.assert_array_equal(first.reward[:, 0], [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(first.truncated[:, 0], [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(first.terminated[:, 1], [0, 0, 0, 1, 0, 0])
    assert not first.truncated[:, 1].any() and not first.terminated[:, 0].any()
    # Where the episode really ended, not where the next one starts.
    np.testing.assert_array_equal(first.final_observation[:, 0, 0], [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(first.final_observation[:, 1, 0], [101, 102, 103, 104, 101, 102])
    # The next rollout goes on where this one stopped.
    np.testing.assert_array_equal(second.observation[:2, 1, 0], [102, 103])
    # Both sub-environments together took two steps at a time; returns are 1 + 2 + ...
    expected = [(6, 6), (8, 10), (12, 6), (16, 10), (18, 6), (24, 6), (24, 10)]
    np.testing.assert_array_equal(finished, expected)
    # What was recorded of the policy is what it played.
    mean, log_std = pol.gaussian(learner.policy, first.observation)
    np.testing.assert_allclose(first.distribution, mean, atol=1e-6)
    log_prob = gaussian_log_prob(first.action, mean, log_std)
    found = ppo.log_prob_of(learner.policy, first.action, first.distribution, False)
    np.testing.assert_allclose(found, log_prob, atol=1e-5)


class Stop(Exception):
    pass


def test_truncation_bootstraps_from_the_final_observation(rollouts, monkeypatch):
    learner, _ = train_host(Counter(), TINY, KEY, progress=False)
    # A fresh critic is nearly flat; a steep one tells observations apart.
    learner = learner._replace(critic=learner.critic._replace(w3=100 * learner.critic.w3))
    seen = {}

    def spy(reward, value, next_value, terminated, truncated, gamma, gae_lambda):
        seen.update(next_value=np.asarray(next_value), terminated=terminated, truncated=truncated)
        raise Stop

    monkeypatch.setattr(ppo, "advantages", spy)
    with jax.disable_jit(), pytest.raises(Stop):
        ppo.update(KEY, learner, rollouts[0], TINY, False)
    value = lambda number: float(ppo.value_of(learner, np.float32([number])))  # noqa: E731
    assert seen["truncated"][2, 0] and not seen["terminated"][2, 0]
    # Step 2 of sub-environment 0 led to 3; the observation after the reset is 0.
    assert seen["next_value"][2, 0] == pytest.approx(value(3), abs=1e-4)
    assert value(3) != pytest.approx(value(0), abs=1e-2)
    assert seen["terminated"][3, 1] and not seen["truncated"][3, 1]


def test_discrete_actions(rollouts):
    train_host(Counter(gymnasium.spaces.Discrete(3)), TINY, KEY, progress=False)
    action = rollouts[0].action
    assert action.shape == (6, 2) and action.dtype == np.int32 and set(action.flat) <= {0, 1, 2}
    assert rollouts[0].distribution.shape == (6, 2, 3)


def test_bad_input_is_named():
    env = Counter()
    env.poison = {"reward": np.nan}
    with pytest.raises(GlaError, match="Counter returned a reward that is nan at step 0 in"):
        train_host(env, TINY, KEY, progress=False)
    wide = ppo.PPOConfig(num_envs=3, num_steps=4, num_updates=1, minibatches=2)
    with pytest.raises(GlaError, match="2 sub-environments and ppo num_envs is 3"):
        train_host(Counter(), wide, KEY, progress=False)
    late = Counter()
    late.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    with pytest.raises(GlaError, match="SAME_STEP"):
        train_host(late, TINY, KEY, progress=False)
    with pytest.raises(GlaError, match="final observation of sub-environment 1 is missing"):
        final_observations(np.zeros((2, 1), np.float32), np.array([False, True]), {})


def test_a_policy_that_diverged_is_refused(monkeypatch):
    bad = np.array([0.0, np.nan])
    monkeypatch.setattr(
        ppo_host, "_learn", lambda key, learner, rollout, *_: (learner, rollout.reward, bad)
    )
    with pytest.raises(GlaError, match="not finite after update 0"):
        train_host(Counter(), TINY, KEY, progress=False)


class Match(gymnasium.Env):
    """The reward is minus the squared distance of the action to what is seen; 8 steps."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def _draw(self):
        self.seen = self.np_random.uniform(-0.8, 0.8, 1).astype(np.float32)
        return self.seen

    def step(self, action):
        self.steps += 1
        reward = -float(((action - self.seen) ** 2).sum())
        return self._draw(), reward, False, self.steps == 8, {}


LONGER = ppo.PPOConfig(num_envs=8, num_steps=32, num_updates=30, gamma=0.5, hidden=16)


def train_to_match():
    vec = SyncVectorEnv([Match] * 8, autoreset_mode=AutoresetMode.SAME_STEP)
    return train_host(vec, LONGER, KEY, progress=False)


def test_it_learns_to_match_and_does_so_again():
    learner, finished = train_to_match()
    assert finished.shape == (30 * 32, 2)
    assert finished[:50, 1].mean() < -3.0
    # The noise of exploration is still in the returns; the mean action is what was learned.
    seen = np.linspace(-0.8, 0.8, 9, dtype=np.float32)[:, None]
    np.testing.assert_allclose(pol.gaussian(learner.policy, seen)[0], seen, atol=0.2)
    # All rollouts went into the observation normaliser.
    assert float(learner.observation_moments.weight) == pytest.approx(30 * 32 * 8, abs=0.01)
    assert float(learner.policy.std[0]) == pytest.approx(1.6 / np.sqrt(12), abs=0.02)
    again, _ = train_to_match()
    np.testing.assert_array_equal(pol.flatten(learner.policy), pol.flatten(again.policy))
