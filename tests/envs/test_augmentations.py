"""Augmentations: the same task, shown the same way, by every kind of environment."""

import functools
import json
import math
import os
import subprocess
import sys
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from gla import projection as proj
from gla.envs.augmentations import (
    ActionDelay,
    ObservationNoise,
    Permutation,
    RandomProjection,
    RewardMask,
    RewardScale,
    SignFlip,
    augment,
    fixed_parameters,
)
from gla.envs.base import Environment, timestep
from gla.envs.host import HostEnv, vectorize
from gla.envs.host_wrappers import AugmentedHostEnv, HostAugmented
from gla.envs.wrappers import Augmented, Autoreset, TimeLimit
from gla.errors import GlaError

EXACT = True  # see conftest.py

START = np.float32([1.0, -2.0, 0.5])
ENDS = 5


class WalkState(NamedTuple):
    place: jax.Array
    steps: jax.Array


def push(action, discrete):
    """How an action moves the place, as numpy or JAX; continuous ones are clipped."""
    if discrete:
        return np.eye(3, dtype=np.float32)[:, 0] * (action + 1.0)
    action = action.clip(-1.0, 1.0)
    return action[0] * np.float32([1, 0, 0]) + action[1] * np.float32([0, 2, 0])


class Walk(Environment):
    """Places move as they are pushed, the reward is what was pushed plus params; 5 steps."""

    name = "Walk"
    horizon = 100
    distinct_tasks = 7.0

    def __init__(self, discrete=False):
        self.discrete = discrete
        self.observation_space = gymnasium.spaces.Box(-20.0, 40.0, (3,), np.float32)
        box = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(4) if discrete else box

    def sample_params(self, key):
        return jax.random.uniform(key)

    def reset(self, key, params):
        return WalkState(jnp.asarray(START), jnp.int32(0)), jnp.asarray(START)

    def step(self, key, state, action, params):
        moved = push(action, self.discrete)
        place, steps = state.place + moved, state.steps + 1
        reward = moved.sum() + params
        return WalkState(place, steps), timestep(place, reward, steps >= ENDS, jnp.zeros((), bool))


class HostWalk(gymnasium.Env):
    """The same walk with params 0 outside of JAX."""

    def __init__(self, discrete=False):
        walk = Walk(discrete)
        self.discrete = discrete
        self.observation_space, self.action_space = walk.observation_space, walk.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = START.copy(), 0
        return self.place, {}

    def step(self, action):
        moved = push(action, self.discrete).astype(np.float32)
        self.place, self.steps = self.place + moved, self.steps + 1
        return self.place, float(moved.sum()), self.steps >= ENDS, False, {}


def host_walk(discrete=False):
    return HostEnv(HostWalk(discrete), "Walk")


STEPS = 12  # two ends of episodes


def actions_for(space, steps=STEPS, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(0, space.n, steps).astype(np.int32)
    return rng.uniform(-1, 1, (steps, *space.shape)).astype(np.float32)


@functools.cache
def player(env):
    """A compiled function that plays actions in an environment."""

    @jax.jit
    def run(key, params, actions):
        state, first = env.reset(key, params)

        def body(carry, action):
            state, key = carry
            key, step_key = jax.random.split(key)
            state, ts = env.step(step_key, state, action, params)
            return (state, key), ts

        return first, jax.lax.scan(body, (state, key), actions)[1]

    return run


def play(env, actions, params=None, seed=0):
    """Play actions in a functional environment; returns first observation and timesteps."""
    key = jax.random.key(seed)
    params = env.sample_params(key) if params is None else params
    return jax.tree.map(np.asarray, player(env)(key, params, actions))


def with_params(env, value):
    """The params of a stack of augmentations, with those of the task itself replaced."""
    if not isinstance(env, (Augmented, Autoreset)):
        return jnp.float32(value)
    inner = with_params(env.env, value)
    if isinstance(env, Autoreset):
        return inner
    return env.sample_params(jax.random.key(0))._replace(inner=inner)


SHOWN = {
    "projection": (False, (RandomProjection(8, 5, seed=3),)),
    "orthogonal": (False, (RandomProjection(8, 5, "orthogonal", seed=1),)),
    "slots": (True, (RandomProjection(8, 9, seed=3),)),
    "permutation": (False, (Permutation(seed=5),)),
    "discrete-permutation": (True, (Permutation(seed=5),)),
    "flip": (False, (SignFlip(seed=2),)),
    "scale": (False, (RewardScale((0.5, 4.0), (-1.0, 1.0), seed=4),)),
    "mask": (False, (RewardMask(),)),
    "delay": (False, (ActionDelay(2),)),
    "discrete-delay": (True, (ActionDelay((0, 3), seed=1),)),
    "stack": (
        False,
        (
            ActionDelay(1),
            SignFlip(seed=2),
            RewardScale(-2.0, 0.25),
            RandomProjection(8, 5, seed=3),
            Permutation(seed=6),
            ActionDelay(2),
        ),
    ),
}


@pytest.mark.parametrize("name", SHOWN)
def test_every_kind_of_environment_shows_the_same(name):
    discrete, augmentations = SHOWN[name]
    env = augment(Walk(discrete), augmentations)
    actions = actions_for(env.action_space)
    # Autoreset outside and inside of the augmentations.
    outside = Autoreset(env)
    inside = augment(Autoreset(Walk(discrete)), augmentations)
    first, ts = play(outside, actions, with_params(outside, 0.0))
    other_first, other = play(inside, actions, with_params(inside, 0.0))
    np.testing.assert_array_equal(first, other_first)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), ts, other)
    assert ts.terminated.sum() == 2

    vector = augment(vectorize(lambda: host_walk(discrete), 2), augmentations)
    single = augment(host_walk(discrete), augmentations)
    assert isinstance(vector, HostAugmented) and isinstance(single, AugmentedHostEnv)
    for space, batch in (
        (single.observation_space, vector.single_observation_space),
        (single.action_space, vector.single_action_space),
    ):
        assert space == batch
    assert single.observation_space == env.observation_space
    assert single.action_space == env.action_space
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    same(vector.reset(seed=0)[0], np.stack([first, first]))
    same(single.reset(seed=0)[0], first)
    for t, action in enumerate(actions):
        seen, rewards, ends, _, infos = vector.step(np.stack([action, action]))
        same(seen, np.stack([ts.observation[t]] * 2))
        same(rewards, np.full(2, ts.reward[t]))
        assert rewards.dtype == np.float64 and seen.dtype == np.float32
        one, reward, end, _, _ = single.step(action)
        same(one, ts.final_observation[t])
        same(reward, ts.reward[t])
        assert type(reward) is float and one.dtype == np.float32
        assert end == ts.terminated[t] == ends[1]
        if end:
            same(infos["final_obs"][1], ts.final_observation[t])
            same(single.reset()[0], ts.observation[t])


def test_sub_environments_with_seeds_of_their_own_equal_single_ones():
    for augmentation in (RandomProjection(8, 5), ActionDelay((0, 4)), RewardScale((1.0, 2.0))):
        vector = HostAugmented(vectorize(host_walk, 3), augmentation, seeds=[4, 9, 4])
        singles = [
            AugmentedHostEnv(host_walk(), type(augmentation)(**{**vars(augmentation), "seed": s}))
            for s in (4, 9, 4)
        ]
        jax.tree.map(
            np.testing.assert_array_equal, vector.parameters, [e.parameters for e in singles]
        )
        assert not all(
            np.array_equal(a, b)
            for a, b in zip(*map(jax.tree.leaves, vector.parameters[:2]), strict=True)
        )
        seen = vector.reset(seed=0)[0]
        np.testing.assert_allclose(seen, [e.reset(seed=0)[0] for e in singles], rtol=1e-6)
        for action in actions_for(vector.single_action_space, 4):
            seen, rewards, *_ = vector.step(np.stack([action] * 3))
            rows = [e.step(action) for e in singles]
            np.testing.assert_allclose(seen, [row[0] for row in rows], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(rewards, [row[1] for row in rows], rtol=1e-6)


DRAWN = {
    "gaussian": RandomProjection(5, 3, seed=7),
    "orthogonal": RandomProjection(5, 3, "orthogonal", seed=7),
    "permutation": Permutation(seed=7),
    "flip": SignFlip(seed=7),
    "scale": RewardScale((0.5, 4.0), (-1.0, 1.0), seed=7),
    "noise": ObservationNoise((0.0, 1.0), (0.0, 2.0), seed=7),
    "delay": ActionDelay((0, 1000), seed=7),
}


def drawn_numbers():
    return {
        name: [np.asarray(leaf).reshape(-1)[:4].tolist() for leaf in jax.tree.leaves(found)]
        for name, found in (
            (name, fixed_parameters(augmentation, 6 if name in ("permutation", "flip") else 3, 2))
            for name, augmentation in DRAWN.items()
        )
    }


GOLDEN = {
    "gaussian": [
        [0.64319545, 0.08177086, -0.30163908, -0.25001937],
        [0.47057521, 0.85771833, -0.27868012, -0.07819022],
        [0, 1, 0],
    ],
    "orthogonal": [
        [0.62544900, -0.02516091, -0.26870325, -0.24312109],
        [0.47057521, 0.85771833, -0.27868012, -0.07819022],
        [0, 1, 0],
    ],
    "permutation": [[5, 2, 3, 0], [1, 0]],
    "flip": [[-1, 1, -1, -1], [1, 1]],
    "scale": [[3.88267398], [-0.04145622]],
    "noise": [[0.5904175], [1.57222366]],
    "delay": [[653]],
}


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        for one, two in zip(found[name], wanted[name], strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, err_msg=name)


def test_draws_of_a_seed_are_the_numbers_they_always_were():
    close(drawn_numbers(), GOLDEN)


def test_a_fresh_process_with_other_defaults_draws_the_same():
    code = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('augmented', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(json.dumps(module.drawn_numbers()))"
    )
    settings = {
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_ENABLE_X64": "1",
        "JAX_THREEFRY_PARTITIONABLE": "0",
    }
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, __file__],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == drawn_numbers()


def test_a_projection_is_that_of_gla_projection():
    found = fixed_parameters(RandomProjection(8, 5, seed=11), 3, 2)
    wanted = proj.sample(jax.random.key(11), proj.ProjectionConfig(8, 5), 3, 2)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_seed_belongs_to_the_environment_and_none_to_the_task():
    seeded = augment(Walk(), (SignFlip(seed=1), RandomProjection(8, 5, seed=1)))
    free = augment(Walk(), (SignFlip(seed=None), RandomProjection(8, 5, seed=None)))
    keys = jax.random.split(jax.random.key(0), 8)
    assert seeded.distinct_tasks == 7.0 and free.distinct_tasks == math.inf
    params, fixed, bare = jax.jit(
        lambda keys: [jax.vmap(env.sample_params)(keys) for env in (free, seeded, Walk())]
    )(keys)
    assert fixed.augmentation == () and fixed.inner.augmentation == ()
    assert len(np.unique(params.augmentation.observation_map[:, 0, 0])) == 8
    assert len(np.unique(params.inner.augmentation.observation, axis=0)) > 2
    # Whatever is changed about it, the task of a key is that of the bare environment.
    for found in (params.inner.inner, fixed.inner.inner):
        np.testing.assert_array_equal(found, bare)
    # Parameters that are handed in are used.
    found = seeded.parameters(params._replace(augmentation=params.augmentation))
    assert found is params.augmentation


def test_two_of_a_kind_draw_differently_for_a_task():
    env = augment(Walk(), (RewardScale((1.0, 2.0), seed=None), RewardScale((1.0, 2.0), seed=None)))
    params = env.sample_params(jax.random.key(0))
    assert params.augmentation.scale != params.inner.augmentation.scale


def test_distinct_tasks_count_the_draws():
    count = lambda a: Augmented(Walk(), a).distinct_tasks / 7  # noqa: E731
    assert count(Permutation(seed=None)) == 6 * 2
    assert count(SignFlip(actions=False, seed=None)) == 8
    assert count(ActionDelay((1, 3), seed=None)) == 3
    assert count(ActionDelay(3, seed=None)) == 1
    assert count(RewardMask()) == count(RandomProjection(8, 5, "identity", seed=None)) == 1
    assert Permutation(seed=None).distinct(400, 2) == math.inf


def test_a_delayed_action_takes_effect_that_many_steps_later():
    env = Autoreset(augment(Walk(), (ActionDelay(2),)))
    actions = actions_for(env.action_space, 10)
    _, ts = play(env, actions, with_params(env, 0.0))
    pushed = actions @ np.float32([1.0, 2.0])
    # Both episodes of 5 steps begin with two steps of nothing, and lose their last two actions.
    np.testing.assert_allclose(ts.reward, [0, 0, *pushed[:3], 0, 0, *pushed[5:8]], rtol=1e-5)


def test_a_delay_rests_on_the_nearest_allowed_action():
    space = gymnasium.spaces.Box(np.float32([1.0, -1.0]), np.float32([2.0, 1.0]))
    np.testing.assert_array_equal(ActionDelay(2).memory(space), [[1.0, 0.0]] * 2)
    assert ActionDelay((0, 3)).memory(gymnasium.spaces.Discrete(3)).tolist() == [0, 0, 0]


def test_noise_has_the_asked_size_and_is_new_at_every_step():
    still = np.zeros((400, 2), np.float32)
    noisy = augment(Walk(), (ObservationNoise(0.2, 0.1), ObservationNoise(0.0, 0.3)))
    env = Autoreset(noisy)
    first, ts = play(env, still, with_params(env, 0.0))
    middle = ~ts.terminated
    # One observation, seen twice where no episode ended.
    np.testing.assert_array_equal(ts.observation[middle], ts.final_observation[middle])
    noise = np.concatenate([first[None], ts.observation]) - START
    std = np.hypot(0.2 * abs(START) + 0.1, 0.3)
    np.testing.assert_allclose(noise.std(0), std, rtol=0.15)
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=0.1)
    assert len(np.unique(noise)) == noise.size
    correlated = np.corrcoef(noise.T) - np.eye(3)
    assert np.abs(correlated).max() < 0.2
    # The same keys, the same noise; with Autoreset inside, the last and the first have their own.
    again, _ = play(env, still, with_params(env, 0.0))
    np.testing.assert_array_equal(first, again)
    inside = augment(Autoreset(Walk()), (ObservationNoise(0.0, 1.0),))
    _, ts = play(inside, still, with_params(inside, 0.0))
    same = (ts.observation == ts.final_observation).all(1)
    np.testing.assert_array_equal(same, ~ts.terminated)
    ends = ts.terminated
    assert not np.allclose(ts.final_observation[ends], ts.observation[ends], atol=1e-3)


def test_noise_of_host_environments_follows_the_seed_of_reset():
    stack = (ObservationNoise(0.0, 0.5), ObservationNoise(0.0, 0.5))
    vector = augment(vectorize(host_walk, 2), stack)
    singles = [augment(host_walk(), stack) for _ in range(2)]

    def run(seed):
        rows = [vector.reset(seed=seed)[0]]
        for _ in range(7):
            seen, *_, infos = vector.step(np.zeros((2, 2), np.float32))
            rows += [np.stack(infos["final_obs"])] if "final_obs" in infos else []
            rows += [seen]
        return np.stack(rows)

    seen = run(3)
    assert seen.shape == (9, 2, 3) and len(np.unique(seen)) == seen.size
    np.testing.assert_allclose((seen - START).std(), 0.5 * 2**0.5, rtol=0.25)
    np.testing.assert_array_equal(seen, run([3, 4]))
    assert not np.allclose(seen, run(5))
    for i, env in enumerate(singles):
        rows = [env.reset(seed=3 + i)[0]]
        for _ in range(7):
            observation, _, end, *_ = env.step(np.zeros(2, np.float32))
            rows += [observation] + ([env.reset()[0]] if end else [])
        np.testing.assert_array_equal(seen[:, i], rows)


def test_a_masked_reset_leaves_the_others_alone():
    stack = (ActionDelay(1), ObservationNoise(0.0, 0.5))
    envs, other = (augment(vectorize(host_walk, 2), stack) for _ in range(2))
    for env in (envs, other):
        env.reset(seed=0)
        before, *_ = env.step(np.ones((2, 2), np.float32))
    mask = np.array([True, False])
    after, _ = envs.reset(seed=[8, 9], options={"reset_mask": mask})
    np.testing.assert_array_equal(after[1], before[1])
    assert not np.allclose(after[0], before[0])
    seen, rewards, *_ = envs.step(np.zeros((2, 2), np.float32))
    untouched, expected, *_ = other.step(np.zeros((2, 2), np.float32))
    np.testing.assert_array_equal(seen[1], untouched[1])
    # The first forgot the action that the second still has to carry out.
    assert rewards.tolist() == [0.0, 3.0] and expected.tolist() == [3.0, 3.0]


def test_permutations_and_flips_are_what_their_names_say():
    permutation = fixed_parameters(Permutation(seed=0), 30, 9)
    assert sorted(permutation.observation) == list(range(30)) != list(permutation.observation)
    assert sorted(permutation.action) == list(range(9))
    flip = fixed_parameters(SignFlip(seed=0), 30, 9)
    assert set(flip.observation.tolist()) == {-1.0, 1.0}
    assert fixed_parameters(SignFlip(actions=False), 3, 2).action is None
    with pytest.raises(ValueError, match="read-only"):
        flip.observation[0] = 0.0


def test_spaces_hold_what_is_seen():
    low, high = np.float32([-1, -np.inf, 0]), np.float32([3, 2, 5])
    box = gymnasium.spaces.Box(low, high)
    move = gymnasium.spaces.Box(np.float32([-1, -2]), np.float32([1, 2]))
    seen, act = Permutation().spaces("X", box, move)
    assert seen.low.tolist() == [-np.inf] * 3 and seen.high.tolist() == [5.0] * 3
    assert act.low.tolist() == [-2.0] * 2
    seen, act = SignFlip().spaces("X", box, move)
    assert seen.high.tolist() == [3.0, np.inf, 5.0] == (-seen.low).tolist() and act == move
    seen, act = ObservationNoise().spaces("X", box, move)
    assert not seen.is_bounded() and act == move
    for same in (RewardMask(), ActionDelay(2), RewardScale(2.0)):
        assert same.spaces("X", box, move) == (box, move)


def test_the_masked_twin_is_the_same_task_without_rewards():
    bare, masked = Autoreset(Walk()), Autoreset(augment(Walk(), (RewardMask(),)))
    actions = actions_for(bare.action_space)
    _, ts = play(bare, actions)
    _, twin = play(masked, actions)
    assert np.abs(ts.reward).min() > 0 and not twin.reward.any()
    np.testing.assert_array_equal(ts.observation, twin.observation)


def test_a_range_draws_inside_of_it_for_every_task():
    keys = jax.random.split(jax.random.key(0), 200)
    env = augment(Walk(), (RewardScale((-4.0, -0.25), (1.0, 2.0), seed=None),))
    drawn = jax.jit(jax.vmap(env.sample_params))(keys).augmentation
    assert -4 <= drawn.scale.min() < -3 and -0.4 < drawn.scale.max() <= -0.25
    np.testing.assert_allclose(np.log(-drawn.scale).mean(), 0.0, atol=0.2)  # log-uniform
    assert drawn.shift.min() >= 1 and drawn.shift.max() < 2
    delays = jax.jit(jax.vmap(lambda key: ActionDelay((1, 3)).draw(key, 3, 2)))(keys)
    assert set(delays.tolist()) == {1, 2, 3}


def test_gymnasium_makes_the_same_augmented_task_of_either_form():
    stack = (SignFlip(seed=3), RewardScale((0.1, 10.0), seed=2))
    one = gymnasium.make("gla/Reacher-v0", augmentations=stack)
    many = gymnasium.make_vec("gla/Reacher-v0", num_envs=2, augmentations=stack)
    np.testing.assert_array_equal(one.reset(seed=4)[0], many.reset(seed=3)[0][1])
    action = np.float32([0.5, -0.25])
    seen, reward, *_ = one.step(action)
    batch, rewards, *_ = many.step(np.stack([action, action]))
    np.testing.assert_array_equal(seen, batch[1])
    assert reward == rewards[1]
    one.close(), many.close()


def next_step_envs():
    return SyncVectorEnv([host_walk], autoreset_mode=AutoresetMode.NEXT_STEP)


class Pictures(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (2, 2))
    action_space = gymnasium.spaces.Discrete(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RandomProjection(0), "observation_dim is 0"),
        (lambda: RandomProjection(kind="magic"), "kind is 'magic'"),
        (lambda: RandomProjection(seed=-1), "seed of RandomProjection is -1"),
        (lambda: SignFlip(seed=True), "seed of SignFlip is True"),
        (lambda: SignFlip(seed=2**32), "seed of SignFlip"),
        (lambda: SignFlip(seed=0.5), "seed of SignFlip is 0.5"),
        (lambda: Permutation(False, False), "neither observations nor actions"),
        (lambda: ActionDelay(-1), "action delay is -1; expected at least 0"),
        (lambda: ActionDelay(0.5), "action delay is 0.5; expected a whole number"),
        (lambda: ActionDelay((3, 1)), "low <= high"),
        (lambda: ObservationNoise(-0.1), "noise std is -0.1"),
        (lambda: ObservationNoise(0.1, float("nan")), "absolute_std is nan"),
        (lambda: RewardScale(float("inf")), "reward scale is inf"),
        (lambda: RewardScale(0.0), "RewardMask hides rewards"),
        (lambda: RewardScale((-1.0, 1.0)), "a range without it"),
        (lambda: RewardScale((1.0, 2.0, 3.0)), "a pair"),
        (lambda: RewardScale("two"), "reward scale is 'two'"),
        (lambda: RewardScale(1.0, float("nan")), "reward shift is nan"),
        (lambda: augment(Walk(True), (SignFlip(),)), "Walk .* discrete .*no signs.*actions=False"),
        (lambda: augment(Walk(), (RandomProjection(2, 5),)), "Walk .* observation_dim"),
        (lambda: augment(Walk(), ("flip",)), "augmentation is 'flip'"),
        (lambda: augment(Walk(), SignFlip()), "expected a sequence"),
        (lambda: augment("Walk", ()), "'Walk' is no environment"),
        (lambda: augment(host_walk(), (SignFlip(seed=None),)), "draw no tasks"),
        (lambda: augment(vectorize(host_walk, 2), (SignFlip(seed=None),)), "draw no tasks"),
        (lambda: HostAugmented(vectorize(host_walk, 2), SignFlip(), [1]), "2, one per sub-env"),
        (lambda: HostAugmented(vectorize(host_walk, 2), SignFlip(), [1, -1]), "is -1"),
        (lambda: augment(next_step_envs(), (SignFlip(),)), "SAME_STEP"),
        (lambda: augment(Pictures(), (Permutation(),)), "a Box with one axis"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(call, message):
    with pytest.raises(GlaError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_actions_that_do_not_fit_are_refused():
    env = augment(host_walk(), (RandomProjection(8, 5),))
    env.reset(seed=0)
    with pytest.raises(GlaError, match=r"shape \(5,\)"):
        env.step(np.zeros(2, np.float32))
    vector = augment(vectorize(host_walk, 2), (SignFlip(),))
    vector.reset(seed=0)
    with pytest.raises(GlaError, match="action that is nan .*step 1 in sub-environment 1"):
        vector.step(np.float32([[0, 0], [np.nan, 0]]))


def test_time_limits_and_augmentations_compose_in_either_order():
    one = Autoreset(TimeLimit(augment(Walk(), (ActionDelay(1),)), 3))
    two = Autoreset(augment(TimeLimit(Walk(), 3), (ActionDelay(1),)))
    actions = actions_for(one.action_space)
    first, second = (play(env, actions, augment(Walk(), (ActionDelay(1),)).sample_params(
        jax.random.key(0))) for env in (one, two))  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert first[1].truncated.sum() == 4
