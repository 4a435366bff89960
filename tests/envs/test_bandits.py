"""Bandits: what they pay, what the oracle knows, what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs import drawing
from gla.envs.bandits import (
    BanditParams,
    BanditState,
    BernoulliBandit,
    BernoulliBanditConfig,
    GaussianBandit,
    GaussianBanditConfig,
    LinearBandit,
    LinearBanditConfig,
    LinearBanditParams,
    LinearBanditState,
)
from gla.envs.wrappers import Autoreset, TimeLimit
from gla.errors import GlaError

ENVIRONMENTS = {
    "bernoulli": BernoulliBandit(BernoulliBanditConfig(arms=3, horizon=40, prior=(2.0, 1.0))),
    "gaussian": GaussianBandit(GaussianBanditConfig(3, 40, prior=(-1.0, 3.0), noise=0.5)),
    "linear": LinearBandit(LinearBanditConfig(3, context_size=2, horizon=40, prior=2.0, noise=0.5)),
}
TASKS, STEPS = 200, 40


@pytest.fixture(scope="module", params=list(ENVIRONMENTS))
def rolled(request):
    """Roll uniform actions and the oracle's side by side, on many tasks at once."""
    env = ENVIRONMENTS[request.param]
    limited = Autoreset(TimeLimit(env))

    @jax.jit
    @jax.vmap
    def roll(key):
        task_key, reset_key, scan_key = jax.random.split(key, 3)
        params = env.sample_params(task_key)
        solution = env.solve(params)
        state, first = limited.reset(reset_key, params)

        def body(state, key):
            random_key, key = jax.random.split(key)
            best = env.best_action(solution, state.inner, params)
            action = jax.random.randint(random_key, (), 0, 3)
            before = state.inner
            _, best_ts = limited.step(key, state, best, params)
            state, ts = limited.step(key, state, action, params)
            return state, (before, best, best_ts.reward, action, ts)

        _, out = jax.lax.scan(body, state, jax.random.split(scan_key, STEPS))
        return params, first, out

    params, first, out = jax.tree.map(np.asarray, roll(jax.random.split(jax.random.key(0), TASKS)))
    return request.param, env, params, first, out


def means_of(name, params, states):
    """Return the mean payment of every arm before every pull, f32[TASKS, STEPS, arms]."""
    if name == "linear":
        return np.einsum("nad,ntd->nta", params.weights, states.context)
    return np.repeat(params.means[:, None], STEPS, 1)


def test_arms_pay_their_means_plus_noise(rolled):
    name, env, params, _, (states, _, _, actions, ts) = rolled
    means = np.take_along_axis(means_of(name, params, states), actions[..., None], -1)[..., 0]
    errors = ts.reward - means
    variance = means * (1 - means) if name == "bernoulli" else np.full(means.shape, 0.25)
    # 8,000 pulls: the mean error is 0 within four standard errors, arm by arm as well.
    for arm in range(3):
        at = actions == arm
        standard_error = np.sqrt(variance[at].mean() / at.sum())
        assert abs(errors[at].mean()) < 4 * standard_error
    np.testing.assert_allclose((errors**2).mean(), variance.mean(), rtol=0.05)
    if name == "bernoulli":
        assert set(np.unique(ts.reward)) == {0.0, 1.0}


def test_the_oracle_pulls_the_best_arm(rolled):
    name, _, params, _, (states, best, best_reward, _, ts) = rolled
    np.testing.assert_array_equal(best, means_of(name, params, states).argmax(-1))
    assert best.dtype == np.int32
    assert best_reward.mean() > ts.reward.mean() + 0.1


def test_observations_fit_the_space_and_episodes_only_end_by_time(rolled):
    name, env, _, first, (states, _, _, actions, ts) = rolled
    space = env.observation_space
    assert first.dtype == np.float32 and first.shape == (TASKS, *space.shape)
    assert (ts.final_observation >= space.low).all() and (ts.final_observation <= space.high).all()
    assert not ts.terminated.any()
    assert ts.truncated[:, -1].all() and not ts.truncated[:, :-1].any()
    if name == "linear":
        np.testing.assert_array_equal(states.context[:, 1:], ts.observation[:, :-1])
        np.testing.assert_allclose(np.linalg.norm(states.context, axis=-1), 2**0.5, rtol=1e-5)
        np.testing.assert_allclose(ts.observation.mean((0, 1)), 0.0, atol=0.05)
    else:
        assert (ts.observation == 1.0).all()
    # The state remembers the last pull.
    np.testing.assert_array_equal(states.arm[:, 1:], actions[:, :-1])
    np.testing.assert_array_equal(states.reward[:, 1:], ts.reward[:, :-1])
    assert (states.arm[:, 0] == -1).all()


def test_tasks_follow_the_prior(rolled):
    name, _, params, _, _ = rolled
    if name == "bernoulli":  # Beta(2, 1) has mean 2/3 and variance 1/18
        np.testing.assert_allclose(params.means.mean(), 2 / 3, atol=0.04)
        np.testing.assert_allclose(params.means.var(), 1 / 18, rtol=0.2)
    elif name == "gaussian":
        assert params.means.min() >= -1.0 and params.means.max() <= 3.0
        np.testing.assert_allclose(params.means.mean(), 1.0, atol=0.2)
        np.testing.assert_allclose(params.means.var(), 16 / 12, rtol=0.2)
    else:
        np.testing.assert_allclose(np.linalg.norm(params.weights, axis=-1), 2.0, rtol=1e-5)
        np.testing.assert_allclose(params.weights.mean((0, 1)), 0.0, atol=0.2)
    assert len(np.unique(jax.tree.leaves(params)[0].reshape(TASKS, -1), axis=0)) == TASKS


def test_a_known_linear_payment():
    env = LinearBandit(LinearBanditConfig(arms=2, context_size=2, noise=0.0))
    params = LinearBanditParams(jnp.array([[1.0, 2.0], [-3.0, 0.5]]))
    state = LinearBanditState(jnp.array([1.0, -1.0]), jnp.int32(-1), jnp.float32(0.0))
    step = jax.jit(env.step)
    for arm, reward in ((0, -1.0), (1, -3.5)):
        _, ts = step(jax.random.key(0), state, jnp.int32(arm), params)
        assert float(ts.reward) == pytest.approx(reward)
    assert int(env.best_action(env.solve(params), state, params)) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BernoulliBanditConfig(arms=1), "arms is 1; expected at least 2"),
        (lambda: GaussianBanditConfig(arms=2.0), "arms is 2.0"),
        (lambda: LinearBanditConfig(horizon=0), "horizon is 0"),
        (lambda: LinearBanditConfig(context_size=0), "context_size is 0"),
        (lambda: LinearBanditConfig(prior=0.0), "prior is 0.0"),
        (lambda: LinearBanditConfig(noise=-1.0), "noise is -1.0"),
        (lambda: BernoulliBanditConfig(prior=(0.0, 1.0)), "parameter of prior is 0.0"),
        (lambda: BernoulliBanditConfig(prior=(1.0,)), "expected a pair"),
        (lambda: GaussianBanditConfig(prior=(1.0, 1.0)), "expected the lower bound first"),
        (lambda: GaussianBanditConfig(prior=(0.0, np.inf)), "bound of prior is inf"),
        (lambda: GaussianBanditConfig(noise=np.nan), "noise is nan"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(GlaError, match=message):
        make()


def count(picture, colour):
    return int((picture == np.array(colour, np.uint8)).all(-1).sum())


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "linear"])
def test_pictures_show_the_arms_and_the_last_payment(name):
    env = ENVIRONMENTS[name]
    if name == "linear":
        params = LinearBanditParams(np.array([[0.9, 0.0], [0.1, 0.0], [0.2, 0.0]]))
        state = LinearBanditState(np.array([1.0, 1.0]), np.int32(-1), np.float32(0.0))
    else:
        params = BanditParams(np.array([0.9, 0.1, 0.2]))
        state = BanditState(np.int32(-1), np.float32(0.0))
    before = env.render(state, params)
    assert before.shape == (256, 256, 3) and before.dtype == np.uint8
    assert count(before, drawing.AGENT) == 0
    # Green and tallest on the left; the other two bars are 1/3 of it together.
    green = (before == np.array(drawing.GOAL, np.uint8)).all(-1)
    assert np.flatnonzero(green.any(0)).max() < 90
    assert 0.2 < count(before, drawing.BODY) / green.sum() < 0.5
    after = env.render(state._replace(arm=np.int32(2), reward=np.float32(1.0)), params)
    disc = (after == np.array(drawing.AGENT, np.uint8)).all(-1)
    assert disc.sum() > 50 and np.flatnonzero(disc.any(0)).min() > 170
