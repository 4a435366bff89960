"""Every adapter against the simulator that it adapts: 1,000 steps under shared actions, exactly.

Resets are part of it: episodes end by themselves and at the time limit, and start anew. Brax is in
`test_brax_adapter.py`.

JAX programs are compiled as they are written here. With optimisations the compiler joins
multiplications and additions in other places when an adapter's own operations stand beside those of
the simulator, and the last bits differ.
"""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs import registry
from gla.envs.base import action_size, is_discrete, observation_size
from gla.envs.gymnax_adapter import GymnaxEnvironment
from gla.envs.host_wrappers import HostProjected
from gla.envs.table import TABLE
from gla.envs.wrappers import Autoreset, Projected, TimeLimit, random_action
from gla.projection import ProjectionConfig

STEPS = 1000
SEEDS = (5, 3)


@pytest.fixture(scope="module", autouse=True)
def _as_written():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def arguments_of(factory):
    return {
        spec.id: spec.arguments for spec in TABLE.values() if spec.factory.endswith(":" + factory)
    }


GYMNAX, MUJOCO, DMC = map(arguments_of, ("GymnaxEnvironment", "mujoco_env", "dmc_env"))


def identity(env):
    """A projection that pads with zeros (or repeats actions), so that it changes nothing."""
    return ProjectionConfig(observation_size(env) + 2, action_size(env) + 1, "identity")


def ours(env, keys, actions):
    """Observations after resets, rewards and ends of one environment through the adapter."""
    loop = Autoreset(TimeLimit(env))

    def run(params):
        def body(state, inputs):
            key, action = inputs
            state, ts = loop.step(key, state, action, params)
            done = (ts.terminated, ts.truncated)
            return state, (ts.observation, ts.final_observation, ts.reward, *done)

        state, first = loop.reset(keys[0], params)
        return first, jax.lax.scan(body, state, (keys, actions))[1]

    return jax.jit(run)(env.sample_params(keys[0]))


def gymnaxs(name, params, keys, actions):
    """The same through gymnax's own `step`, with its own autoreset and time limit."""
    import gymnax

    env, _ = gymnax.make(name)

    def run(params):
        observation, state = env.reset(keys[0], params)
        stepped = jax.eval_shape(env.step, keys[0], state, actions[0], params)[1]
        state = jax.tree.map(lambda leaf, t: jnp.asarray(leaf, t.dtype), state, stepped)

        def body(state, inputs):
            key, action = inputs
            observation, new, reward, terminated, truncated, info = env.step(
                key, state, action, params
            )
            new = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, state)
            final = info["final_observation"]
            return new, (observation, final, jnp.float32(reward), terminated, truncated)

        return observation, jax.lax.scan(body, state, (keys, actions))[1]

    return jax.jit(run)(params)


@pytest.mark.parametrize("id", GYMNAX)
def test_parity_with_gymnax(id):
    try:
        check_parity_with_gymnax(id)
    except AssertionError:
        # Two programs that compute the same may still be rounded differently (Pendulum's start
        # angles are). To be equal to the bit under the other way to compile is as good.
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", False)
        try:
            check_parity_with_gymnax(id)
        finally:
            jax.config.update("jax_disable_most_optimizations", True)
            jax.clear_caches()


def check_parity_with_gymnax(id):
    [name] = GYMNAX[id]
    env = GymnaxEnvironment(name)
    action_key, step_key = jax.random.split(jax.random.key(1))
    keys = jax.random.split(step_key, STEPS)
    actions = random_action(action_key, env.action_space, (STEPS,))
    bare = ours(env, keys, actions)
    theirs = gymnaxs(name, env.sample_params(keys[0]), keys, jax.vmap(env.scale_action)(actions))
    first, (observation, final, reward, terminated, truncated) = theirs
    one_hot = np.eye(observation_size(env), dtype=np.float32)

    def flat(seen):
        seen = np.asarray(seen)
        discrete = seen.ndim == np.ndim(reward) and np.issubdtype(seen.dtype, np.integer)
        return one_hot[seen] if discrete else seen.reshape(STEPS, -1)

    np.testing.assert_array_equal(bare[1][0], flat(observation))
    np.testing.assert_array_equal(bare[1][1], flat(final))
    np.testing.assert_array_equal(bare[1][2], reward)
    # gymnax sets both flags where a task ends by itself at its time limit.
    np.testing.assert_array_equal(bare[1][3], terminated)
    np.testing.assert_array_equal(bare[1][4], truncated & ~terminated)
    assert np.any(bare[1][3] | bare[1][4])  # resets were part of it

    projected = Projected(env, identity(env), projection_seed=0)
    padded = actions
    if not is_discrete(env.action_space):
        padded = jnp.pad(actions, ((0, 0), (0, 1)))
    seen = ours(projected, keys, padded)
    n = observation_size(env)
    for mine, plain in zip(jax.tree.leaves(seen), jax.tree.leaves(bare), strict=True):
        mine = mine[..., :n] if mine.shape[-1:] == (n + 2,) else mine
        np.testing.assert_array_equal(mine, plain)


class Original:
    """A simulator of its own, stepped and reset by hand."""

    def __init__(self, reset, step, high):
        self.reset, self.step_once, self.high = reset, step, high

    def step(self, action):
        """Take an action in [-1, 1]; return (observation after a reset, last one, the rest)."""
        final, reward, terminated, truncated = self.step_once(self.high * action.clip(-1.0, 1.0))
        observation = self.reset(None) if terminated or truncated else final
        return observation, final, reward, terminated, truncated


def flat(parts):
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)


def original_mujoco(name):
    settings = {"include_cfrc_ext_in_observation": False} if name == "Ant-v5" else {}
    env = gymnasium.make(name, **settings)
    space = env.action_space
    np.testing.assert_array_equal(space.low, -space.high)

    def step(action):
        observation, reward, terminated, truncated, _ = env.step(action.astype(space.dtype))
        return flat([observation]), reward, terminated, truncated

    return Original(lambda seed: flat([env.reset(seed=seed)[0]]), step, space.high)


def original_dmc(domain, task, seed):
    suite = pytest.importorskip("dm_control.suite")
    env = suite.load(domain, task, task_kwargs={"random": seed})
    spec = env.action_spec()
    np.testing.assert_array_equal(spec.minimum, -spec.maximum)

    def step(action):
        new = env.step(action)
        assert new.discount in (0.0, 1.0)
        ends = new.last() and new.discount == 0.0, new.last() and new.discount == 1.0
        return flat(new.observation.values()), new.reward, *ends

    return Original(lambda _: flat(env.reset().observation.values()), step, spec.maximum)


def assert_parity(id, originals):
    """Compare a vector environment of several seeds, and one that is projected, with originals."""
    bare = registry.make_host(id, len(originals))
    projected = HostProjected(registry.make_host(id, 1), identity(bare))
    n, k = observation_size(bare), action_size(bare)
    seen, _ = bare.reset(seed=list(SEEDS))
    padded, _ = projected.reset(seed=[SEEDS[0]])
    starts = np.stack([o.reset(seed) for o, seed in zip(originals, SEEDS, strict=True)])
    np.testing.assert_array_equal(seen, starts)
    actions = np.random.default_rng(0).uniform(-1.2, 1.2, (STEPS, len(originals), k))
    resets = 0
    for action in actions.astype(np.float32):
        seen, rewards, terminated, truncated, infos = bare.step(action)
        also = projected.step(np.pad(action[:1], ((0, 0), (0, 1))))
        for i, original in enumerate(originals):
            observation, final, *rest = original.step(action[i])
            np.testing.assert_array_equal(seen[i], observation)
            assert [rewards[i], terminated[i], truncated[i]] == rest
            if terminated[i] or truncated[i]:
                resets += 1
                np.testing.assert_array_equal(infos["final_obs"][i], final)
        np.testing.assert_array_equal(also[0][0, :n], seen[0])
        assert not also[0][0, n:].any()
        assert [part[0] for part in also[1:4]] == [rewards[0], terminated[0], truncated[0]]
    assert resets >= len(originals)
    bare.close()
    projected.close()


@pytest.mark.parametrize("id", MUJOCO)
@pytest.mark.filterwarnings("ignore:.*(settotalmass|out of date)")
def test_parity_with_gymnasium_mujoco(id, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the bare simulator logs its warnings to ./MUJOCO_LOG.TXT
    assert_parity(id, [original_mujoco(*MUJOCO[id]) for _ in SEEDS])


@pytest.mark.parametrize("id", DMC)
def test_parity_with_deepmind_control(id):
    assert_parity(id, [original_dmc(*DMC[id], seed) for seed in SEEDS])
