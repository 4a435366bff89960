"""A fixed policy as an agent: what it plays, for one policy and for one per lifetime."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import policy as pol
from gla.agents.base import Agent
from gla.agents.policy_agent import PolicyAgent
from gla.errors import GlaError

BOX = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
FOUR = gymnasium.spaces.Discrete(4)


def make_params(seed, actions=2, discrete=False):
    params = pol.init(jax.random.key(seed), pol.PolicyShape(3, actions, 8, discrete))
    return params._replace(w3=params.w3 * 100)  # away from the zero output of a fresh policy


def stack(*policies):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *policies)


def play(agent, observation, space, key=1):
    rows = len(observation)
    state = agent.init(jax.random.key(0), rows, BOX, space)
    nothing = jnp.zeros(rows, bool)
    seen = (jnp.asarray(observation), jnp.zeros(rows), nothing, nothing)
    after, action = jax.jit(agent.act)(state, *seen, jax.random.split(jax.random.key(key), rows))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    return np.asarray(action)


@pytest.fixture
def observation():
    return np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def test_it_is_an_agent():
    agent = PolicyAgent(make_params(0), False)
    assert isinstance(agent, Agent) and agent.jittable and agent.view is None


def test_deterministic_play_is_the_mean_or_the_likeliest_action(observation):
    params = make_params(0)
    action = play(PolicyAgent(params, False), observation, ACTIONS)
    np.testing.assert_allclose(action, pol.gaussian(params, observation)[0], atol=1e-6)
    logits = make_params(1, 4, True)
    chosen = play(PolicyAgent(logits, True), observation, FOUR)
    assert chosen.dtype == np.int32
    np.testing.assert_array_equal(chosen, np.argmax(pol.output(logits, observation), -1))


def test_sampling_follows_the_distribution():
    params, count = make_params(0), 20_000
    observation = np.tile(np.float32([0.3, -1.0, 0.5]), (count, 1))
    mean, log_std = pol.gaussian(params, observation[0])
    action = play(PolicyAgent(params, False, deterministic=False), observation, ACTIONS)
    np.testing.assert_allclose(action.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(action.std(0), np.exp(log_std), rtol=0.03)
    logits = make_params(1, 4, True)
    drawn = play(PolicyAgent(logits, True, deterministic=False), observation, FOUR)
    shares = np.bincount(drawn, minlength=4) / count
    np.testing.assert_allclose(
        shares, jax.nn.softmax(pol.output(logits, observation[0])), atol=0.02
    )


@pytest.mark.parametrize("discrete", [False, True])
def test_stacked_policies_each_play_their_own_lifetime(observation, discrete):
    actions, space = (4, FOUR) if discrete else (2, ACTIONS)
    policies = [make_params(seed, actions, discrete) for seed in range(5)]
    agent = PolicyAgent(stack(*policies), discrete)
    together = play(agent, observation, space)
    for row, params in enumerate(policies):
        alone = play(PolicyAgent(params, discrete), observation[row : row + 1], space)
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_policies_of_one_size_share_a_program():
    assert PolicyAgent(make_params(0), False).act is PolicyAgent(make_params(1), False).act


def test_what_does_not_fit_is_refused():
    stacked = PolicyAgent(stack(make_params(0), make_params(1)), False)
    with pytest.raises(GlaError, match="holds 2 policies.*each of 3"):
        stacked.init(jax.random.key(0), 3, BOX, ACTIONS)
    agent = PolicyAgent(make_params(0), False)
    with pytest.raises(GlaError, match="2 continuous action outputs; expected 3.*4 discrete"):
        agent.init(jax.random.key(0), 3, BOX, FOUR)
    with pytest.raises(GlaError, match="3 observations"):
        agent.init(jax.random.key(0), 3, gymnasium.spaces.Box(-1, 1, (7,)), ACTIONS)
    with pytest.raises(GlaError, match="first weights"):
        PolicyAgent(make_params(0)._replace(w1=jnp.zeros(3)), False)
