"""Brax environments behind our protocol: the same numbers, honest ends, new starts and goals."""

import os
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs import brax_adapter
from gla.envs.brax_adapter import BACKENDS, NAMES, BraxEnvironment, backends_of, brax_envs
from gla.envs.wrappers import Autoreset, Projected, TimeLimit, random_action
from gla.errors import GlaError
from gla.projection import ProjectionConfig

EXACT = True  # see conftest.py

pytest.importorskip("brax")
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def make():
    """Make each environment once."""
    made = {}

    def get(name, backend=None):
        backend = backend or backends_of(name)[0]
        if (name, backend) not in made:
            made[name, backend] = BraxEnvironment(name, backend)
        return made[name, backend]

    return get


def raw_step(env, state, action):
    """Step Brax's own environment from a pipeline state."""
    zero = jnp.zeros(())
    return env.step(brax_envs().State(state, None, zero, zero), action)


def projected(env):
    """See an environment through the identity, padded with zeros."""
    n, k = env.observation_space.shape[0], env.action_space.shape[0]
    outer = Projected(env, ProjectionConfig(n + 3, k, kind="identity"))
    return outer, jax.jit(outer.sample_params)(KEY)


@pytest.mark.parametrize(
    ("name", "backend"),
    [("ant", "spring"), ("inverted_pendulum", "mjx"), ("swimmer", "generalized")],
)
def test_a_thousand_steps_are_brax_own_also_through_the_identity(make, name, backend):
    env = make(name, backend)
    outer, params = projected(env)
    n = env.observation_space.shape[0]
    actions = jax.random.uniform(KEY, (1000, *env.action_space.shape), minval=-1.5, maxval=1.5)

    def roll_ours(actions):
        def body(state, action):
            state, ts = outer.step(KEY, state, action, params)
            return state, (ts.observation[:n], ts.reward, ts.terminated, ts.truncated)

        state, observation = outer.reset(KEY, params)
        return observation[:n], jax.lax.scan(body, state, actions)[1]

    def roll_theirs(actions):
        def body(state, action):
            after = raw_step(env.simulator, state, action)
            return after.pipeline_state, (after.obs, after.reward, after.done > 0)

        start = env.simulator.reset(KEY)
        return start.obs, jax.lax.scan(body, start.pipeline_state, actions)[1]

    # Two programs, compiled apart and run freely: bitwise equality over 1,000 chaotic steps.
    first, (observations, rewards, terminated, truncated) = jax.jit(roll_ours)(actions)
    own_first, own = jax.jit(roll_theirs)(jnp.clip(actions, -1.0, 1.0))
    np.testing.assert_array_equal(first, own_first)
    for mine, reference in zip((observations, rewards, terminated), own, strict=True):
        np.testing.assert_array_equal(mine, reference)
    assert np.isfinite(observations).all() and np.std(observations, 0).min() > 1e-3
    assert not truncated.any() and terminated.any() == (name != "swimmer")


def trace(function, *arguments):
    """Trace a function: (its operations in order, but for casts and reshapes; its results)."""
    traced, results = jax.make_jaxpr(function, return_shape=True)(*arguments)
    left_out = {"convert_element_type", "reshape", "squeeze", "broadcast_in_dim", "ne"}
    operations = [
        re.sub(r"0x[0-9a-f]+", "", f"{e.primitive} {e.params} {[v.aval.shape for v in e.outvars]}")
        for e in traced.eqns
        if e.primitive.name not in left_out
    ]
    return operations, types(results)


def types(tree):
    """Return the shape, type and strength of type of every array."""
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, bool(leaf.weak_type)), tree)


@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, None) for name in NAMES]
    + [("inverted_pendulum", backend) for backend in BACKENDS if backend != "spring"],
)
def test_each_step_is_the_program_of_brax_with_strong_types(make, name, backend):
    env = make(name, backend)
    state, observation = jax.eval_shape(env.reset, KEY, ())
    action = jax.ShapeDtypeStruct(env.action_space.shape, jnp.float32)

    def theirs(state, action):
        after = raw_step(env.simulator, state, jnp.clip(action, -1.0, 1.0))
        return after.pipeline_state, after.obs, after.reward, after.done

    own, _ = trace(theirs, state, action)
    mine, (next_state, ts) = trace(lambda s, a: env.step(KEY, s, a, ()), state, action)
    # Ours adds casts, the false flag of truncation, and the comparison of done with 0: left out.
    assert mine == own and len(own) > 5
    # The same strong types from reset and step, so that a caller compiles once.
    assert types(state) == next_state
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    numbers = (env.observation_space.shape, jnp.float32, False)
    assert types(observation) == ts.observation == ts.final_observation == numbers
    assert ts.reward == ((), jnp.float32, False)
    assert ts.terminated == ts.truncated == ((), bool, False)


def test_the_actuators_get_their_whole_range(make):
    # Brax's environments scale actions themselves wherever that range is not [-1, 1].
    scaled = {"humanoid", "humanoidstandup", "inverted_pendulum", "pusher"}
    for name in set(NAMES) - scaled:
        limits = np.asarray(make(name).simulator.sys.actuator.ctrl_range)
        np.testing.assert_array_equal(limits, np.tile([-1.0, 1.0], (len(limits), 1)))


def test_resets_draw_new_starts_and_goals_and_stepping_traces_once(make):
    env = Autoreset(TimeLimit(make("inverted_pendulum"), 3))
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(env.step, n=1))
    params = env.sample_params(KEY)
    state, observation = jax.jit(env.reset)(KEY, params)
    starts = [observation]
    for key in jax.random.split(KEY, 7):
        state, ts = step(key, state, random_action(key, env.action_space), params)
        if ts.truncated:
            starts.append(ts.observation)
    assert len(starts) == 3 and len(np.unique(np.stack(starts), axis=0)) == 3

    reacher = make("reacher")
    _, observations = jax.jit(jax.vmap(reacher.reset, (0, None)))(jax.random.split(KEY, 4), ())
    goals = np.asarray(observations[:, 4:6])
    assert len(np.unique(goals, axis=0)) == 4
    assert (np.linalg.norm(goals, axis=1) <= 0.2).all()


def test_the_task_is_fixed_and_its_horizon_is_that_of_brax(make):
    env = make("reacher")
    assert env.sample_params(KEY) == () and env.distinct_tasks == 1
    assert env.horizon == 1000


def test_pictures_show_the_state(make):
    env = make("reacher")
    shapes = jax.eval_shape(env.reset, KEY, ())[0]
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    try:
        pictures = [
            env.render(state.replace(q=np.array([angle, 0.0, 0.1, 0.1])), ()) for angle in (0, 2)
        ]
    except GlaError as error:
        assert "MUJOCO_GL" in str(error)
        pytest.skip("no OpenGL here")
    assert env.can_render
    for picture in pictures:
        assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8
    moved = np.abs(pictures[0].astype(int) - pictures[1]).max(-1) > 30
    assert 0.001 < moved.mean() < 0.5  # the arm has moved, the room has not


def run_python(code, **environment):
    """Run code in a fresh process; return its output."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    return done.stdout + done.stderr


def test_making_an_environment_says_nothing_and_a_missing_renderer_is_said_plainly():
    code = """
import numpy as np
from gla.envs.brax_adapter import BraxEnvironment, draw_model
from gla.errors import GlaError
env = BraxEnvironment("halfcheetah")
try:
    draw_model(env.simulator.sys.mj_model, np.zeros(9), env.name)
except GlaError as error:
    print(error)
"""
    said = run_python(code, MUJOCO_GL="disabled").splitlines()
    assert len(said) == 1 and "brax halfcheetah cannot be drawn" in said[0]
    assert "set MUJOCO_GL=egl" in said[0]


def test_a_missing_brax_is_said_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "brax.envs", None)
    brax_adapter.brax_envs.cache_clear()
    try:
        with pytest.raises(GlaError, match=r"Brax cannot be imported.*pip install 'brax>=0.14.2'"):
            BraxEnvironment("ant")
    finally:
        brax_adapter.brax_envs.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("Ant",), {}, r"no environment 'Ant' \(did you mean ant"),
        (("ant", "sprint"), {}, r"no backend 'sprint' \(did you mean spring"),
        (("swimmer", "spring"), {}, "swimmer does not run on backend 'spring'.*'generalized'"),
        (("ant",), {"control_cost": 1.0}, "cannot make ant .*control_cost.*brax.envs.ant.Ant"),
    ],
)
def test_what_brax_lacks_is_refused(arguments, settings, message):
    with pytest.raises(GlaError, match=message):
        BraxEnvironment(*arguments, **settings)
