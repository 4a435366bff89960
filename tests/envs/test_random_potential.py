import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs import registry
from gla.envs.random_potential import PotentialState, RandomPotential, RandomPotentialConfig
from gla.errors import GlaError

BODIES = ("hinge", "slider", "pair")


def task(env, **changes):
    params = env.sample_params(jax.random.key(3))
    return params._replace(**{name: jnp.asarray(x, jnp.float32) for name, x in changes.items()})


def only(number):
    return np.eye(5)[number]


def still(**changes):
    """Changes that leave nothing but what is asked for."""
    return {
        "damping": [0.0, 0.0], "waves": [0.0, 0.0, 0.0], "phases": [0.0, 0.0, 0.0], "track": 0.0,
        "lever": [0.0, 0.0], "strength": 1.0, "time_step": 0.1, "top_speed": 5.0, "cost": 0.0,
        "objective": only(1), "goal": 0.0,
    } | changes  # fmt: skip


# First observation, observation and reward after 5 steps of the action -2, which is clipped to -1,
# in the task of key 1 from the reset of key 2. Stored histories rely on them.
GOLDEN = {
    "hinge": ([-0.88694, -0.46189, 0.00346], [-0.84394, -0.53643, 0.11975], -0.05302),
    "slider": ([-0.84717, 0.00346], [-0.81694, 0.04023], -0.04119),
    "pair": (
        [0.26262, -0.88694, -0.46189, 0.00238, -0.01283],
        [0.71458, -0.99493, -0.10058, 0.13157, -0.07097],
        -0.13475,
    ),
}


@pytest.mark.parametrize("body", BODIES)
def test_tasks_and_trajectories_stay_what_they_were_and_can_be_drawn(body):
    env = RandomPotential(RandomPotentialConfig(body=body))
    assert env.distinct_tasks == math.inf and env.can_render and not env.has_oracle
    params = jax.jit(env.sample_params)(jax.random.key(1))
    state, first = jax.jit(env.reset)(jax.random.key(2), params)
    before = env.render(state, params)
    step = jax.jit(env.step)
    for _ in range(5):
        state, ts = step(jax.random.key(0), state, jnp.array([-2.0]), params)
    expected_first, expected_last, expected_reward = GOLDEN[body]
    np.testing.assert_allclose(first, expected_first, atol=1e-4)
    np.testing.assert_allclose(ts.observation, expected_last, atol=1e-4)
    np.testing.assert_allclose(ts.reward, expected_reward, atol=1e-4)
    after = env.render(state, params)
    assert before.shape == after.shape == (256, 256, 3) and after.dtype == np.uint8
    assert (before != after).any(-1).mean() > 0.001


def test_a_free_hinge_is_pushed_by_hand():
    env = RandomPotential()
    params = task(env, **still(strength=-2.0))
    state = PotentialState(jnp.array([0.0]), jnp.array([0.0]))
    state, ts = env.step(jax.random.key(0), state, jnp.array([0.5]), params)
    # Two half steps of 0.05 at an acceleration of -1: v -0.05, -0.1 and q -0.0025, -0.0075.
    np.testing.assert_allclose(state.v, [-0.1], rtol=1e-5)
    np.testing.assert_allclose(state.q, [-0.0075], rtol=1e-5)
    shown = [math.cos(0.0075), -math.sin(0.0075), -0.02]
    np.testing.assert_allclose(ts.observation, shown, rtol=1e-5)
    np.testing.assert_allclose(ts.reward, math.cos(0.0075), rtol=1e-5)


def test_energy_is_kept_without_damping_and_lost_with_it():
    env = RandomPotential()
    params = task(env, **still(waves=[1.0, 0.3, 0.2], phases=[0.4, 1.0, -2.0], time_step=0.04))

    def energy(state):
        k = np.arange(1, 4)
        wave = np.asarray(params.waves) / k * np.cos(k * float(state.q[0]) - params.phases)
        return 0.5 * float(state.v[0]) ** 2 + wave.sum()

    def after(params):
        state = PotentialState(jnp.array([1.0]), jnp.array([0.5]))
        step = jax.jit(lambda state: env.step(jax.random.key(0), state, jnp.zeros(1), params)[0])
        for _ in range(200):
            state = step(state)
        return energy(state)

    start = energy(PotentialState(jnp.array([1.0]), jnp.array([0.5])))
    assert abs(after(params) - start) < 0.05
    assert after(params._replace(damping=jnp.array([0.2, 0.0]))) < start - 0.3


def test_goals_are_often_where_the_potential_is_highest():
    env = RandomPotential(RandomPotentialConfig(free=0.0))
    params = jax.vmap(env.sample_params)(jax.random.split(jax.random.key(0), 500))
    angle = np.linspace(-np.pi, np.pi, 400)
    k = np.arange(1, 4)
    waves, phases = np.asarray(params.waves), np.asarray(params.phases)
    height = (waves / k)[:, None] * np.cos(k * angle[:, None] - phases[:, None])
    best = angle[height.sum(-1).argmax(-1)]
    away = np.abs((best - np.asarray(params.goal) + np.pi) % (2 * np.pi) - np.pi)
    assert 0.55 < (away < 0.1).mean() < 0.72
    assert np.allclose(np.asarray(params.objective).sum(-1), 1.0, atol=1e-5)


def test_walls_stop_a_slider_and_arrival_ends_its_episode():
    env = RandomPotential(RandomPotentialConfig(body="slider"))
    params = task(env, **still(objective=only(4), goal=0.9, width=0.05))
    fast = PotentialState(jnp.array([-0.99]), jnp.array([-4.0]))
    state, ts = env.step(jax.random.key(0), fast, jnp.zeros(1), params)
    assert state.q[0] == -1.0 and state.v[0] == 0.0 and not ts.terminated and ts.reward == 0.0
    near = PotentialState(jnp.array([0.88]), jnp.array([0.0]))
    _, ts = env.step(jax.random.key(0), near, jnp.zeros(1), params)
    assert ts.terminated and ts.reward == 20.0
    _, ts = env.step(jax.random.key(0), near, jnp.zeros(1), params._replace(objective=only(2)))
    assert not ts.terminated, "only arrival ends episodes"


def test_the_free_hinge_of_a_pair_feels_the_slider():
    env = RandomPotential(RandomPotentialConfig(body="pair"))
    state = PotentialState(jnp.zeros(2), jnp.zeros(2))

    def hinge(lever):
        params = task(env, **still(lever=lever))
        return env.step(jax.random.key(0), state, jnp.ones(1), params)[0].v[1]

    assert hinge([0.0, 0.0]) == 0.0 and hinge([0.0, 1.0]) < 1e-4 < hinge([1.0, 0.0])
    np.testing.assert_allclose(hinge([2.0, 0.0]), 0.2, rtol=1e-3)


@pytest.mark.parametrize("body", BODIES)
def test_what_an_expert_is_told_is_turned_to_the_goal(body):
    """Two hinges that differ by a turn alone, and by which way they are pushed, look alike."""
    env = RandomPotential(RandomPotentialConfig(body=body))
    params = env.sample_params(jax.random.key(5))
    numbers, frame, signs = env.tell(params)
    assert numbers.ndim == 1 and np.isfinite(numbers).all()
    other = params._replace(strength=-params.strength)
    turn = 0.0 if body == "slider" else 0.7
    along, across = np.cos(turn), np.sin(turn)
    rotation = np.array([[along, -across], [across, along]], np.float32)
    other = other._replace(
        goal=params.goal + turn,
        phases=params.phases + turn * jnp.arange(1, 4),
        lever=jnp.asarray(rotation) @ params.lever,
    )
    same, other_frame, other_signs = env.tell(other)
    np.testing.assert_allclose(same, numbers, atol=2e-5)
    np.testing.assert_allclose(other_signs, -signs)
    q = jnp.array([0.3, -1.2]) if body == "pair" else jnp.array([-0.4])
    v = 0.1 * q
    moved = q.at[-1].add(turn)
    for action in (0.8, -0.3):
        one, seen = env.step(None, PotentialState(q, v), action * signs, params)
        two, seen_turned = env.step(None, PotentialState(moved, v), action * other_signs, other)
        np.testing.assert_allclose(
            frame @ seen.observation, other_frame @ seen_turned.observation, atol=1e-5
        )
        np.testing.assert_allclose(seen.reward, seen_turned.reward, atol=1e-5)
        np.testing.assert_allclose(one.v, two.v, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"body": "wheel"}, "body is 'wheel'; expected one of hinge, slider, pair"),
        ({"horizon": 0}, "horizon is 0"),
        ({"time_step": (0.1, 0.6)}, "time_step is 0.6; .* at most 0.5"),
        ({"strength": 1.0}, "strength is 1.0; expected a pair"),
        ({"free": 2}, "free is 2"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(GlaError, match=message):
        RandomPotentialConfig(**settings)


def test_settings_come_with_the_id():
    env = registry.make_functional("gla/RandomPotential-v0", body="pair", time_step=[0.1, 0.2])
    assert env.observation_space.shape == (5,) and env.config.time_step == (0.1, 0.2)
