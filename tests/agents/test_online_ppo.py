"""PPO within one lifetime: it learns, from what the protocol shows and from nothing else."""

import functools

import chex
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import policy as pol
from gla.agents import ppo as learning
from gla.agents.base import Agent
from gla.agents.online import split_each
from gla.agents.online_ppo import OnlinePPO, OnlinePPOConfig, ppo, ppo_long
from gla.errors import GlaError

OBSERVATIONS = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
CONTINUOUS = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
TWO = gymnasium.spaces.Discrete(2)
SPACES = {"continuous": CONTINUOUS, "discrete": TWO}
SMALL = OnlinePPOConfig(num_steps=16, epochs=4, minibatches=2, hidden=8, learning_rate=1e-2)


def keys_of(rows, step):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(5), i), step))(
        jnp.arange(rows)
    )


def live(agent, space, rows, steps, offset=0.0):
    """Live on a probe: observes +-1 (and an offset), earns -(action - 0.7 observation)^2.

    Discrete actions count as -1 and 1. Returns the last state, actions and rewards [steps, rows].
    """

    def one(carry, step):
        state, side, reward = carry
        done = jnp.broadcast_to(step > 0, (rows,))  # episodes have one step
        no = jnp.zeros(rows, bool)
        state, action = agent.act(
            state, side + offset, reward, done, no, keys_of(rows, 2 * step + 1)
        )
        chosen = action[:, 0] if action.ndim == 2 else 2.0 * action - 1.0
        reward = -((chosen - 0.7 * side[:, 0]) ** 2)
        side = jax.vmap(lambda k: jax.random.rademacher(k, (1,), jnp.float32))(
            keys_of(rows, 2 * step + 2)
        )
        return (state, side, reward), (action, reward)

    @jax.jit
    def run():
        state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, space)
        carry = (state, jnp.ones((rows, 1)), jnp.zeros(rows))
        (state, _, _), record = jax.lax.scan(one, carry, jnp.arange(steps))
        return state, *record

    return jax.tree.map(np.asarray, run())


@pytest.mark.parametrize(("kind", "best"), [("continuous", -0.01), ("discrete", -0.09)])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_it_learns_what_the_observation_asks_for(kind, best, offset):
    _, action, reward = live(OnlinePPO(SMALL), SPACES[kind], 2, 1200, offset)
    # At first it acts around zero, or at random.
    assert (reward[:32].mean(0) < best - 0.3).all()
    assert (reward[-100:].mean(0) > best - 0.1).all()
    if kind == "continuous":
        assert action.dtype == np.float32 and action.shape == (1200, 2, 1)
        assert np.abs(action).max() == 1.0, "samples beyond the bounds are clipped"
    else:
        assert action.dtype == np.int32 and action.shape == (1200, 2)


def draw(rng, steps, rows):
    """Things that an agent might be shown, all kinds of ends among them."""
    ends = rng.random((steps, rows))
    shown = (
        rng.normal(size=(steps, rows, 1)).astype(np.float32),
        rng.normal(size=(steps, rows)).astype(np.float32),
        ends < 0.2,
        ends > 0.8,
    )
    for part in shown[1:]:
        part[0] = 0  # nothing comes with the first observation
    return shown


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_updates_are_those_of_ppo_on_what_was_shown(kind):
    """Put together by hand, from the outside: two rollouts and what is learned from each."""
    agent, rows, steps = OnlinePPO(SMALL), 2, SMALL.num_steps
    shown = draw(np.random.default_rng(0), 2 * steps + 1, rows)
    discrete = kind == "discrete"
    state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, SPACES[kind])
    act = jax.jit(agent.act)
    learners, kept = [state.learner], []
    for t in range(2 * steps + 1):
        state, _ = act(state, *(part[t] for part in shown), keys_of(rows, t + 1))
        learners.append(state.learner)
        kept.append(
            [np.asarray(x[t % steps]) for x in (state.rows.action, state.rows.distribution)]
        )
    for t in range(2 * steps):
        if t not in (0, steps):
            jax.tree.map(np.testing.assert_array_equal, learners[t + 1], learners[t])
    for first in (0, steps):
        last = first + steps
        before, after = learners[first + 1], learners[last + 1]
        observation, reward, terminated, truncated = (
            part[first + (i > 0) : last + (i > 0)] for i, part in enumerate(shown)
        )
        action, distribution = (
            np.stack([kept[t][i] for t in range(first, last)]) for i in range(2)
        )
        following = shown[0][first + 1 : last + 1]
        # What an episode ended in is not shown: what was seen before stands in.
        final = np.where((terminated | truncated)[..., None], observation, following)
        learn_keys = split_each(keys_of(rows, last + 1), 2)[1]
        for row in range(rows):
            learner = jax.tree.map(lambda x, row=row: x[row], before)
            if first == 0:
                seen = learning.merge_moments(learner.observation_moments, observation[:, row])
                normalized = learner.policy._replace(mean=seen.mean, std=jnp.sqrt(seen.variance))
                learner = learner._replace(policy=normalized)
            one = slice(row, row + 1)
            rollout = learning.Rollout(
                observation[:, one], action[:, one], distribution[:, one],
                learning.log_prob_of(
                    learner.policy, action[:, one], distribution[:, one], discrete
                ),
                learning.value_of(learner, observation[:, one]),
                reward[:, one], terminated[:, one], truncated[:, one], final[:, one],
            )  # fmt: skip
            update = jax.jit(
                functools.partial(learning.update, config=SMALL.ppo(), discrete=discrete)
            )
            expected = update(learn_keys[row], learner, rollout)
            for one_leaf, leaf in zip(
                jax.tree.leaves(expected), jax.tree.leaves(after), strict=True
            ):
                np.testing.assert_allclose(leaf[row], one_leaf, rtol=1e-3, atol=1e-4)
            moved = np.abs(after.policy.w1[row] - before.policy.w1[row]).max()
            assert moved > 1e-2, "something was learned"


def test_actions_are_what_the_policy_draws():
    agent, rows = OnlinePPO(SMALL), 3
    state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, CONTINUOUS)
    no = np.zeros(rows, bool)
    seen = np.ones((rows, 1), np.float32)
    keys = jax.random.split(jax.random.key(1), (400, rows))
    draws = jax.jit(
        jax.vmap(lambda k: agent.act(state, seen, no * 1.0, no, no, k)[0].rows.action[0])
    )
    drawn = np.asarray(draws(keys))[..., 0]
    mean, log_std = jax.vmap(pol.gaussian)(state.learner.policy, seen)
    np.testing.assert_allclose(drawn.mean(0), mean[:, 0], atol=0.15)
    np.testing.assert_allclose(drawn.std(0), np.exp(log_std[:, 0]), rtol=0.15)
    assert abs(np.corrcoef(drawn.T)[0, 1:]).max() < 0.2, "lifetimes draw for themselves"


def test_a_lifetime_is_the_same_in_any_company():
    agent = OnlinePPO(SMALL)
    _, alone, earned = live(agent, TWO, 1, 200)
    _, together, also = live(agent, TWO, 3, 200)
    np.testing.assert_array_equal(together[:, :1], alone)
    np.testing.assert_allclose(also[:, :1], earned, rtol=1e-5)
    assert (together[:, 1] != together[:, 0]).any()


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_it_is_traced_once(kind):
    agent, rows = OnlinePPO(SMALL), 2
    chex.clear_trace_counter()
    act = jax.jit(chex.assert_max_traces(agent.act, n=1), donate_argnums=0)
    state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, SPACES[kind])
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    shown = draw(np.random.default_rng(1), SMALL.num_steps + 2, rows)
    for t in range(SMALL.num_steps + 2):
        state, action = act(state, *(part[t] for part in shown), keys_of(rows, t))
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == shapes
    assert action.shape == ((rows,) if kind == "discrete" else (rows, 1))
    assert int(state.step) == SMALL.num_steps + 2


def test_without_rewards_it_stays_finite():
    agent, rows = OnlinePPO(SMALL), 2
    act = jax.jit(agent.act)
    state = agent.init(keys_of(rows, 0), rows, OBSERVATIONS, CONTINUOUS)
    no, nothing = np.zeros(rows, bool), np.zeros((rows, 1), np.float32)
    for t in range(2 * SMALL.num_steps + 1):
        state, action = act(state, nothing, no * np.float32(1), no, no, keys_of(rows, t))
    assert np.isfinite(action).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.learner))


def test_the_factory_gives_an_agent():
    agent = ppo()
    assert isinstance(agent, Agent) and agent.name == "PPO, online"
    assert agent.jittable and agent.view is None and agent.config == OnlinePPOConfig()
    longer = ppo_long()
    assert isinstance(longer, Agent) and longer.name != agent.name
    assert longer.config.num_steps > agent.config.num_steps


@pytest.mark.parametrize(
    "settings",
    [
        {"num_steps": 0},
        {"epochs": 0},
        {"num_steps": 10, "minibatches": 3},
        {"learning_rate": 0.0},
        {"gamma": 1.5},
        {"gae_lambda": -0.1},
        {"clip": 0.0},
        {"max_grad_norm": float("nan")},
        {"hidden": 0},
    ],
)
def test_a_config_out_of_range_is_refused(settings):
    with pytest.raises(GlaError, match="ppo "):
        OnlinePPOConfig(**settings)
