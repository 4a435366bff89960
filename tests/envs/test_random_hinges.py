import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs.random_hinges import RandomHinges, RandomHingesConfig
from gla.envs.random_potential import PotentialState
from gla.errors import GlaError

KEY = jax.random.key(0)


def test_tasks_and_trajectories_stay_what_they_were_and_can_be_drawn():
    env = RandomHinges()
    assert env.distinct_tasks == math.inf and env.can_render and not env.has_oracle
    params = jax.jit(env.sample_params)(jax.random.key(1))
    state, first = jax.jit(env.reset)(jax.random.key(2), params)
    before = env.render(state, params)
    step = jax.jit(env.step)
    for _ in range(5):
        state, ts = step(KEY, state, jnp.full(2, -2.0), params)
    # Stored histories rely on these.
    np.testing.assert_allclose(
        first, [0.41755, 0.48098, 0.90865, 0.87673, -0.01936, 0.00056], atol=1e-4
    )
    np.testing.assert_allclose(
        ts.observation, [-0.98444, 0.7911, -0.1757, -0.61169, 1.0, -1.0], atol=1e-4
    )
    np.testing.assert_allclose(ts.reward, 0.28345, atol=1e-4)
    after = env.render(state, params)
    assert before.shape == after.shape == (256, 256, 3) and after.dtype == np.uint8
    assert (before != after).any(-1).mean() > 0.001


def test_a_single_hinge_is_one_of_random_potential():
    env = RandomHinges(RandomHingesConfig(joints=1))
    params = env.sample_params(jax.random.key(4))
    assert abs(float(params.motors[0, 0])) == pytest.approx(1.0) and params.shares[0] == 1.0
    alone = jax.tree.map(lambda leaf: leaf[0], params.hinges)
    state, _ = env.reset(jax.random.key(5), params)
    other = PotentialState(state.q, state.v)
    for _ in range(20):
        action = jnp.array([0.7])
        state, ts = env.step(KEY, state, action, params)
        other, expected = env.hinge.step(KEY, other, params.motors[0] * action, alone)
    np.testing.assert_allclose(ts.observation, expected.observation, atol=1e-5)
    np.testing.assert_allclose(ts.reward, expected.reward, atol=1e-5)


def quiet(env, **changes):
    """A task of two hinges without potentials, damping and costs."""
    params = env.sample_params(jax.random.key(3))
    hinges = params.hinges._replace(
        waves=jnp.zeros((2, 3)), damping=jnp.zeros((2, 2)), cost=jnp.zeros(2), goal=jnp.zeros(2),
        strength=jnp.array([1.0, 2.0]), time_step=jnp.full(2, 0.1), top_speed=jnp.full(2, 5.0),
        objective=jnp.tile(jnp.eye(5)[1], (2, 1)),
    )  # fmt: skip
    params = params._replace(hinges=hinges, motors=jnp.eye(2), coupling=jnp.zeros((2, 2)))
    return params._replace(**changes)


def test_motors_mix_actions_and_shares_mix_rewards():
    env = RandomHinges()
    crossed = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    params = quiet(env, motors=crossed, shares=jnp.array([0.25, 0.75]))
    state = PotentialState(jnp.array([0.0, math.pi]), jnp.zeros(2))
    state, ts = env.step(KEY, state, jnp.array([0.5, -9.0]), params)
    # Clipped to (0.5, -1); pushes -1 and -0.5 at strengths 1 and 2.
    np.testing.assert_allclose(state.v, [-0.1, -0.1], rtol=1e-5)
    np.testing.assert_allclose(ts.reward, 0.25 - 0.75, atol=1e-4)


def test_springs_pull_hinges_together_and_keep_energy():
    env = RandomHinges()
    k = 0.8
    params = quiet(env, coupling=jnp.array([[0.0, k], [k, 0.0]]))
    state = PotentialState(jnp.array([0.0, 1.5]), jnp.zeros(2))

    def energy(state):
        q, v = np.asarray(state.q), np.asarray(state.v)
        return 0.5 * (v**2).sum() - k * math.cos(q[0] - q[1])

    start, nearest = energy(state), 9.0
    step = jax.jit(lambda state: env.step(KEY, state, jnp.zeros(2), params)[0])
    for _ in range(100):
        state = step(state)
        nearest = min(nearest, abs(float(state.q[0] - state.q[1])))
        np.testing.assert_allclose(state.v.sum(), 0.0, atol=1e-4)
    assert nearest < 0.1 and abs(energy(state) - start) < 0.05


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"joints": 0}, "joints is 0"),
        ({"coupling": -1.0}, "coupling is -1"),
        ({"strength": (2.0, 1.0)}, "strength"),
        ({"damping": (0.1, 9.0)}, "damping"),
        ({"free": 1.5}, "free is 1.5"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(GlaError, match=message):
        RandomHingesConfig(**wrong)
