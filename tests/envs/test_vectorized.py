"""Stepping a batch with autoreset: the same as `Autoreset`, without needless resets."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs import registry
from gla.envs.augmentations import ActionDelay, ObservationNoise, RandomProjection, augment
from gla.envs.base import Environment, timestep
from gla.envs.vectorized import limited, stack_tasks, step_batch
from gla.envs.wrappers import Autoreset, Projected, TimeLimit, random_action

EXACT = True  # see conftest.py

M, STEPS = 4, 12


class Coin(Environment):
    """Ends an episode with probability 1/3."""

    name = "Coin"
    horizon = 5
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def sample_params(self, key):
        return {"offset": jax.random.normal(key, (2,)), "constant": jnp.arange(3.0)}

    def reset(self, key, params):
        # A Python number and a random key: both may be part of a state.
        return {"age": 0, "walk": key}, params["offset"] + jax.random.normal(key, (2,))

    def step(self, key, state, action, params):
        age = state["age"] + 1
        observation = params["offset"] * age + jnp.sin(action)
        terminated = jax.random.uniform(key) < 1 / 3
        state = {"age": age, "walk": state["walk"]}
        return state, timestep(observation, observation[0], terminated, jnp.zeros((), bool))


class CountedCoin(Coin):
    """Counts its resets on the host."""

    def __init__(self):
        self.resets = 0

    def _count(self, key):
        del key
        self.resets += 1

    def reset(self, key, params):
        jax.debug.callback(self._count, jax.random.key_data(key))
        return super().reset(key, params)


def play(env, stepper, params, axes, length=STEPS):
    """Step M episodes under random actions: all time steps, and the last states."""
    keys = jax.random.split(jax.random.key(3), M)
    states, _ = jax.vmap(env.reset, in_axes=(0, axes))(keys, params)
    # The types of a step, as a driver would give them, so that the scan's carry keeps its own.
    states = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), states)
    actions = random_action(jax.random.key(4), env.action_space, (length, M))

    def body(states, inputs):
        number, action = inputs
        keys = jax.random.split(jax.random.fold_in(jax.random.key(5), number), M)
        return stepper(keys, states, action, params)

    return jax.jit(lambda s: jax.lax.scan(body, s, (jnp.arange(length), actions)))(states)


def leaves(tree):
    for leaf in jax.tree.leaves(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        yield np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_same(one, other):
    """Whole numbers and keys to the bit, real numbers to the rounding of a fused program."""
    for a, b in zip(leaves(one), leaves(other), strict=True):
        assert a.dtype == b.dtype
        if np.issubdtype(a.dtype, np.floating):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(a, b)


CASES = {
    "own tasks": (Coin, 5, False),
    "one task, ends at random": (lambda: registry.make_functional("CartPole-v0"), 9, True),
}


def autoreset(env, axes):
    return jax.vmap(Autoreset(env).step, in_axes=(0, 0, 0, axes))


def batched(env, axes):
    def stepper(keys, states, actions, params):
        return step_batch(env, keys, states, actions, params, axes)

    return stepper


@pytest.mark.parametrize("case", CASES)
def test_it_is_autoreset(case):
    make, horizon, shared = CASES[case]
    env = TimeLimit(make(), horizon)
    axes = None if shared else 0
    keys = jax.random.split(jax.random.key(0), M)
    params = env.sample_params(keys[0]) if shared else jax.vmap(env.sample_params)(keys)
    expected = play(env, autoreset(env, axes), params, axes)
    assert (np.asarray(expected[1].terminated) | np.asarray(expected[1].truncated)).any()

    def given_later(keys, states, actions, params):
        return step_batch(Autoreset(env), lambda: keys, states, actions, params, axes)

    assert_same(play(env, batched(env, axes), params, axes), expected)
    if case == "own tasks":
        assert_same(play(env, given_later, params, axes), expected)


AUGMENTED = {
    # The first has a memory of actions, the second draws noise, whose keys must not change.
    "delayed and projected": (ActionDelay(2), RandomProjection(6, 3, seed=None)),
    "noisy": (ObservationNoise(0.1),),
}


@pytest.mark.parametrize("case", AUGMENTED)
def test_it_is_autoreset_under_augmentations(case):
    env = limited(augment(Coin(), AUGMENTED[case]))
    params = jax.vmap(env.sample_params)(jax.random.split(jax.random.key(0), M))
    got = play(env, batched(env, 0), params, 0)
    expected = play(env, autoreset(env, 0), params, 0)
    assert np.asarray(expected[1].terminated).any() and np.asarray(expected[1].truncated).any()
    assert_same(got, expected)


def test_a_time_limit_goes_inside_augmentations_and_is_kept():
    env = Projected(Coin())
    inside = limited(env, 3)
    assert isinstance(inside, Projected) and isinstance(inside.env, TimeLimit)
    assert inside.horizon == 3 and env.env.horizon == 5
    assert limited(inside) is inside
    assert limited(Coin()).horizon == 5


def test_resets_are_computed_only_where_an_episode_ended():
    env = CountedCoin()
    params = env.sample_params(jax.random.key(0))

    _, ts = play(env, batched(env, None), params, None)
    jax.effects_barrier()
    ended = np.asarray(ts.terminated).any(1).sum()
    assert 0 < ended < STEPS
    assert env.resets == M + M * ended
    env.resets = 0
    expected = play(env, autoreset(env, None), params, None)
    jax.effects_barrier()
    assert env.resets == M + M * STEPS
    assert_same(expected[1], ts)


def test_inside_another_vmap_it_is_still_right():
    env = TimeLimit(Coin(), 3)
    tasks = jax.vmap(env.sample_params)(jax.random.split(jax.random.key(1), 2))

    def run(params):
        return play(env, batched(env, None), params, None, length=4)

    def plain(params):
        return play(env, autoreset(env, None), params, None, length=4)

    assert_same(jax.vmap(run)(tasks), jax.vmap(plain)(tasks))


def test_what_tasks_have_in_common_is_kept_once():
    env = Coin()
    one, two = (env.sample_params(jax.random.key(i)) for i in range(2))
    params, axes = stack_tasks([one, two, one])
    assert axes == {"offset": 0, "constant": None}
    np.testing.assert_array_equal(params["constant"], one["constant"])
    np.testing.assert_array_equal(
        params["offset"], np.stack([one["offset"], two["offset"], one["offset"]])
    )
    again, axes = stack_tasks([two] * 3)
    assert axes == {"offset": None, "constant": None}
    np.testing.assert_array_equal(again["offset"], two["offset"])


def test_tasks_that_differ_in_a_random_key_are_stacked():
    keys = [jax.random.key(i) for i in (0, 1)]
    params, axes = stack_tasks([{"key": keys[0]}, {"key": keys[1]}])
    assert axes == {"key": 0} and params["key"].shape == (2,)
    _, axes = stack_tasks([{"key": keys[0]}, {"key": jax.random.key(0)}])
    assert axes == {"key": None}
