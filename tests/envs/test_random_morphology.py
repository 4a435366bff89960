"""Bodies that differ from task to task: bounded, consistent, and Brax's own at scale one."""

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs.brax_adapter import BraxEnvironment
from gla.envs.random_morphology import (
    RandomMorphology,
    RandomMorphologyConfig,
    scaled_system,
)
from gla.errors import GlaError

pytest.importorskip("brax")
KEYS = jax.random.split(jax.random.key(0), 8)
STEPS = 150


@pytest.fixture(scope="module", params=["reacher", "ant"])
def env(request):
    return RandomMorphology(request.param)


def uniform(env, scale, gravity=1.0):
    """Return params with every scale the same."""
    drawn = jax.eval_shape(env.sample_params, KEYS[0])
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, scale, jnp.float32), drawn)
    return params._replace(gravity=jnp.float32(gravity))


@pytest.fixture(scope="module")
def rolled(env):
    """Roll Brax's body, the extremes of the bounds and drawn bodies side by side, in one program.

    Returns (params, first observations, timesteps), each with a leading axis of bodies, and the
    actions.
    """
    bodies = [uniform(env, 1.0), uniform(env, 0.5), uniform(env, 2.0)]
    bodies += [env.sample_params(key) for key in KEYS[3:]]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *bodies)
    actions = jax.random.uniform(KEYS[0], (STEPS, *env.action_space.shape), minval=-1.0)

    @jax.jit
    def roll(params):
        def body(states, action):
            step = jax.vmap(env.step, (None, 0, None, 0))
            return step(KEYS[0], states, action, params)

        states, first = jax.vmap(env.reset, (None, 0))(KEYS[1], params)
        return first, jax.lax.scan(body, states, actions)[1]

    first, ts = jax.tree.map(np.asarray, roll(params))
    return params, first, jax.tree.map(lambda leaf: np.swapaxes(leaf, 0, 1), ts), actions


def test_every_body_is_bounded_under_random_actions(env, rolled):
    _, first, ts, _ = rolled
    assert np.isfinite(first).all() and np.isfinite(ts.reward).all()
    assert np.abs(ts.observation).max() < 200.0
    # The bodies behave differently under the same actions and the same start key.
    assert len(np.unique(ts.reward[:, 50])) == 8


def test_at_scale_one_the_body_is_brax_own(env):
    ones = env._simulator(uniform(env, 1.0)).sys
    # What the spring backend uses is masses and inertias raised to powers; these are taken first.
    own = env.simulator.sys
    mass = own.link.inertia.mass ** (1 - own.spring_mass_scale)
    power = 1 - own.spring_inertia_scale
    diagonals = jax.vmap(jnp.diagonal)(own.link.inertia.i) ** power
    own = own.tree_replace(
        {
            "link.inertia.mass": mass,
            "link.inertia.i": jax.vmap(jnp.diag)(diagonals),
            "spring_mass_scale": jnp.zeros(()),
            "spring_inertia_scale": jnp.zeros(()),
        }
    )
    mine, reference = jax.tree.leaves_with_path(ones), jax.tree.leaves_with_path(own)
    assert len(mine) == len(reference) > 100
    for (path, leaf), (_, expected) in zip(mine, reference, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("env", ["reacher"], indirect=True)  # of the ant, only the body is ours
def test_at_scale_one_the_reacher_runs_as_brax_own(env, rolled):
    _, first, ts, actions = rolled
    plain = BraxEnvironment("reacher")

    @jax.jit
    def roll(actions):
        state, observation = plain.reset(KEYS[1], ())
        step = lambda state, action: plain.step(KEYS[0], state, action, ())  # noqa: E731
        return observation, jax.lax.scan(step, state, actions)[1]

    own_first, own = roll(actions)
    np.testing.assert_allclose(first[0], own_first, atol=1e-5)
    for field in ("observation", "reward"):  # two programs, which round apart
        mine, reference = getattr(ts, field)[0], getattr(own, field)
        np.testing.assert_allclose(mine, reference, rtol=1e-3, atol=1e-3)


def test_the_start_suits_the_body(env, rolled):
    params, first, ts, _ = rolled
    if env.body == "ant":
        rise = np.asarray(params.length)[:, 1::2].max(1)
        # The same key, so the same noise of at most 0.1 m on a height of 0.55 m times the rise.
        np.testing.assert_allclose(first[:, 0] - 0.55 * rise, first[0, 0] - 0.55, atol=1e-5)
        assert not ts.terminated[:, 0].any()
    else:
        target, to_target = first[:, 4:6], first[:, 8:10]
        lengths = np.asarray(params.length)
        distance = np.linalg.norm(target, axis=1)
        assert (distance <= 0.1 * lengths.sum(1) + 1e-6).all()
        assert (distance >= 0.1 * np.abs(lengths[:, 0] - lengths[:, 1]) - 1e-6).all()
        # The tip, by the geometry of a two-joint arm with the second link's tip at 0.11.
        angles = np.arctan2(first[:, 2:4], first[:, 0:2])
        folded = angles.cumsum(1)
        reach = lengths * [0.1, 0.11]
        tip = np.stack([(reach * np.cos(folded)).sum(1), (reach * np.sin(folded)).sum(1)], 1)
        np.testing.assert_allclose(to_target, tip - target, atol=2e-4)
        # The target stays where it is, also beyond Brax's own limit of 0.27 m.
        np.testing.assert_allclose(ts.observation[:, -1, 4:6], target, atol=2e-3)


def test_drawn_scales_lie_in_their_ranges_and_difficulty_narrows_them(env):
    draw = jax.vmap(env.sample_params)(jax.random.split(KEYS[0], 500))
    limbs, masses = (8, 9) if env.body == "ant" else (2, 2)
    assert draw.length.shape == (500, limbs) and draw.mass.shape == (500, masses)
    assert draw.gear.shape == (500, *env.action_space.shape) and draw.gravity.shape == (500,)
    for scales, (low, high) in ((draw.length, (0.75, 1.35)), (draw.mass, (0.65, 1.5))):
        assert low <= scales.min() < low * 1.02 and high / 1.02 < scales.max() <= high
        # Log-uniform: as much below the middle of the logarithms as above.
        assert abs(np.mean(np.asarray(scales) < math.sqrt(low * high)) - 0.5) < 0.06
    varies = float(np.ptp(draw.gravity)) > 0
    assert varies == (env.body == "ant") and env.distinct_tasks == math.inf

    half = RandomMorphology(env.body, RandomMorphologyConfig(difficulty=0.5))
    some = jax.vmap(half.sample_params)(jax.random.split(KEYS[0], 500))
    np.testing.assert_allclose(some.length, np.sqrt(draw.length), rtol=1e-5)
    none = RandomMorphology(env.body, RandomMorphologyConfig(difficulty=0.0))
    for leaf in none.sample_params(KEYS[0]):
        np.testing.assert_array_equal(leaf, np.ones(leaf.shape))
    assert none.distinct_tasks == 1


def test_a_body_scaled_as_a_whole_has_the_mass_and_inertia_of_a_similar_body(env):
    """Against MuJoCo's own count of mass, and the law of inertia: mass times length squared."""
    import mujoco

    system = env.simulator.sys
    links, motors = system.num_links(), env.action_space.shape[0]
    length, mass = jnp.full(links, 1.2), jnp.linspace(0.8, 1.3, links)
    scaled = scaled_system(
        system, length, mass, jnp.full(motors, 1.5), jnp.float32(0.5), reduced=False
    )
    model = system.mj_model
    np.testing.assert_allclose(scaled.link.inertia.mass, model.body_mass[1:] * mass, rtol=1e-6)
    np.testing.assert_allclose(scaled.body_mass[1:], scaled.link.inertia.mass, rtol=1e-6)
    diagonal = np.asarray(jax.vmap(jnp.diagonal)(scaled.link.inertia.i))
    expected = model.body_inertia[1:] * 1.2**2 * np.asarray(mass)[:, None]
    np.testing.assert_allclose(diagonal, expected, rtol=1e-5)
    np.testing.assert_allclose(scaled.body_inertia[1:], expected, rtol=1e-5)
    np.testing.assert_allclose(scaled.actuator.gear, 1.5 * system.actuator.gear)
    np.testing.assert_allclose(scaled.gravity, 0.5 * system.gravity)
    np.testing.assert_allclose(scaled.opt.gravity, 0.5 * system.opt.gravity)
    # A limb that grows carries what hangs on it outwards; a root hangs in the world.
    roots = np.array(system.link_parents) < 0
    grown = np.where(roots[:, None], 1.0, 1.2) * np.asarray(system.link.transform.pos)
    np.testing.assert_allclose(scaled.link.transform.pos, grown, rtol=1e-6)
    # The reciprocal inertias that the contact solvers use, against MuJoCo's own recomputation.
    heavy = copy.copy(model)
    heavy.body_mass[:] *= 1.3
    heavy.body_inertia[:] *= 1.3
    heavy.dof_armature[:] *= 1.3
    mujoco.mj_setConst(heavy, mujoco.MjData(heavy))
    same = jnp.full(links, 1.3)
    ours = scaled_system(
        system, jnp.ones(links), same, jnp.ones(motors), jnp.float32(1.0), reduced=False
    )
    np.testing.assert_allclose(ours.dof_invweight0, heavy.dof_invweight0, rtol=1e-4)
    np.testing.assert_allclose(ours.body_invweight0[1:], heavy.body_invweight0[1:], rtol=1e-4)


def test_pictures_show_the_scaled_body(env):
    state = jax.eval_shape(env.reset, KEYS[0], env.sample_params(KEYS[0]))[0]
    state = state.replace(q=np.asarray(env.simulator.sys.init_q))
    long = uniform(env, 1.0)._replace(length=jnp.full_like(uniform(env, 1.0).length, 1.9))
    model = env._drawn_model(long)
    base = env.simulator.sys.mj_model
    limb = 2 if env.body == "reacher" else 3  # one that hangs on a limb, counted from the world
    np.testing.assert_allclose(model.body_pos[limb], 1.9 * base.body_pos[limb])
    np.testing.assert_allclose(model.geom_size[7], 1.9 * base.geom_size[7])
    np.testing.assert_array_equal(model.geom_size[0], base.geom_size[0])  # the floor
    try:
        pictures = [env.render(state, params) for params in (uniform(env, 1.0), long)]
    except GlaError as error:
        assert "MUJOCO_GL" in str(error)
        pytest.skip("no OpenGL here")
    assert pictures[0].shape == (240, 320, 3)
    assert (np.abs(pictures[0].astype(int) - pictures[1]).max(-1) > 30).mean() > 0.001


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomMorphology("aunt"), r"no body 'aunt' \(did you mean ant"),
        (lambda: RandomMorphologyConfig(length=(0.1, 1.0)), "range of length is .*0.5 <= low"),
        (lambda: RandomMorphologyConfig(mass=(1.2, 0.8)), "range of mass is"),
        (lambda: RandomMorphologyConfig(gear=1.0), "range of gear is 1.0"),
        (lambda: RandomMorphologyConfig(difficulty=1.5), "difficulty is 1.5; .* from 0 to 1"),
        (lambda: RandomMorphologyConfig(horizon=0), "horizon is 0"),
        (
            lambda: RandomMorphology("reacher", RandomMorphologyConfig(gravity=(0.9, 1.1))),
            "gravity of the reacher .* horizontal plane",
        ),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(GlaError, match=message):
        build()
