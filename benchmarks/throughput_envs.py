"""Comparisons of how fast the environments step: projections, Gymnasium, families."""

from __future__ import annotations

from typing import Any

from gla.benchmarks.timing import Bench, Comparison, Goal, Program


def scan_program(
    name: str, env: Any, params: Any, actions: Any, params_axes: Any = None
) -> Program:
    """Make a program that steps a functional environment with autoreset in one jitted scan.

    Random keys are split in every step, as training loops do; actions are drawn beforehand. The
    observation is carried from step to step, so that none can be optimised away.

    Args:
        name: of the program.
        env: an `Environment` with a horizon.
        params: its task, or several.
        actions: f32[steps, m, k] or i32[steps, m].
        params_axes: axes of the params over the m environments, as in `jax.vmap`.
    """
    import jax
    import jax.numpy as jnp

    from gla.envs.vectorized import limited, step_batch

    world = limited(env)
    steps, m = actions.shape[:2]

    def body(carry, inputs):
        states, _, total, params = carry
        number, action = inputs
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), m)
        states, ts = step_batch(world, keys, states, action, params, params_axes)
        return (states, ts.observation, total + ts.reward, params), None

    @jax.jit
    def play(states, observation, params, actions):
        start = (states, observation, jnp.zeros(m), params)
        return jax.lax.scan(body, start, (jnp.arange(steps), actions))[0][:3]

    keys = jax.random.split(jax.random.key(1), m)
    reset = jax.jit(jax.vmap(world.reset, in_axes=(0, params_axes)))
    states, observation = reset(keys, params)
    return Program(
        name,
        lambda: jax.block_until_ready(play(states, observation, params, actions)),
        steps * m,
    )


def gymnax_program(name: str, gymnax_id: str, actions: Any) -> Program:
    """Make a program that steps a gymnax environment as its documentation shows.

    Args:
        name: of the program.
        gymnax_id: such as `Pendulum-v1`.
        actions: in gymnax's own units, [steps, m] or [steps, m, k].
    """
    import gymnax
    import jax
    import jax.numpy as jnp

    env, params = gymnax.make(gymnax_id)
    steps, m = actions.shape[:2]

    def body(carry, inputs):
        states, _, total = carry
        number, action = inputs
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), m)
        observation, states, reward, *_ = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
            keys, states, action, params
        )
        states = jax.tree.map(lambda new, old: new.astype(old.dtype), states, carry[0])
        return (states, observation, total + reward), None

    @jax.jit
    def play(states, observation, actions):
        start = (states, observation, jnp.zeros(m))
        return jax.lax.scan(body, start, (jnp.arange(steps), actions))[0]

    keys = jax.random.split(jax.random.key(1), m)
    observation, states = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(keys, params)
    states = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), states)
    return Program(
        name, lambda: jax.block_until_ready(play(states, observation, actions)), steps * m
    )


def vector_program(name: str, envs: Any, actions: Any) -> Program:
    """Make a program that steps a Gymnasium vector environment; actions [steps, m, ...]."""
    envs.reset(seed=0)

    def call():
        for action in actions:
            envs.step(action)

    return Program(name, call, len(actions) * envs.num_envs)


PLAIN, PROJECTED, OWN = "plain", "projected", "projected, each its own"
ENVS = 256
FAMILY_ENVS = 1024
HOST_ENVS = 16


def projection_programs(environment: str, steps: int) -> list[Program]:
    """Make the programs that show what a projection to 64 and 16 numbers costs.

    All of them play the same episodes: actions are drawn in agent space, and the plain environment
    gets them lowered beforehand.
    """
    import jax
    import jax.numpy as jnp

    from gla.envs import registry
    from gla.envs.wrappers import Projected, random_action

    plain = registry.make_functional(environment)
    fixed, own = Projected(plain, projection_seed=0), Projected(plain)
    task = fixed.sample_params(jax.random.key(2))
    actions = random_action(jax.random.key(3), fixed.action_space, (steps, ENVS))
    _, lowered = fixed.augmentation.map_action(fixed.parameters(task), None, actions)
    tasks = jax.jit(jax.vmap(own.sample_params))(jax.random.split(jax.random.key(2), ENVS))
    # One task for all; only the projections differ.
    tasks = tasks._replace(inner=task.inner)
    axes = jax.tree.map(lambda _: 0, tasks)._replace(inner=None)
    return [
        scan_program(PLAIN, plain, task.inner, jnp.asarray(lowered)),
        scan_program(PROJECTED, fixed, task, actions),
        scan_program(OWN, own, tasks, actions, axes),
    ]


def vector_programs(steps: int = 50) -> list[Program]:
    """Make the programs that step Pendulum through vector environments."""
    import gymnasium
    import numpy as np

    from gla.envs.gym_api import make_vector

    generator = np.random.default_rng(0)
    # In [-1, 1] for ours, in the simulator's own [-2, 2] for the others: the same torques.
    unit = generator.uniform(-1, 1, (steps, ENVS, 1)).astype(np.float32)
    wide = generator.uniform(-4, 4, (steps, ENVS, 16)).astype(np.float32)
    return [
        vector_program(
            "Gymnasium SyncVectorEnv",
            gymnasium.make_vec("Pendulum-v1", ENVS, vectorization_mode="sync"),
            2 * unit,
        ),
        vector_program("gla", make_vector("gla/Pendulum-v0", ENVS), unit),
        vector_program("gla, projected", make_vector("gla/Pendulum-Projected-v0", ENVS), wide),
        gymnax_program("gymnax in a scan", "Pendulum-v1", 2 * unit),
    ]


def family_programs(environment: str, steps: int) -> list[Program]:
    """Make the programs that step 1,024 different tasks of a family in a scan."""
    import jax

    from gla.envs import registry
    from gla.envs.wrappers import random_action

    env = registry.make_functional(environment)
    tasks = jax.jit(jax.vmap(env.sample_params))(jax.random.split(jax.random.key(2), FAMILY_ENVS))
    actions = random_action(jax.random.key(3), env.action_space, (steps, FAMILY_ENVS))
    torques = jax.random.uniform(jax.random.key(3), (steps, FAMILY_ENVS, 1), minval=-2, maxval=2)
    return [
        gymnax_program("gymnax Pendulum", "Pendulum-v1", torques),
        scan_program(environment, env, tasks, actions, 0),
    ]


def host_programs(bench: Bench, environment: str, steps: int = 50) -> list[Program]:
    """Make the programs that step a host simulator one after the other and in threads."""
    import numpy as np

    from gla.envs import registry

    programs = []
    for name, threads in (("one after the other", 1), ("in threads", None)):
        envs = registry.make_host(environment, HOST_ENVS, threads=threads)
        bench.stack.callback(envs.close)
        shape = (steps, HOST_ENVS, *(envs.single_action_space.shape or ()))
        actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        programs.append(vector_program(name, envs, actions))
    return programs


def _host(name: str, environment: str) -> Comparison:
    return Comparison(
        f"host-{name}",
        f"How fast are {HOST_ENVS} of {environment}, a host simulator, in threads?",
        lambda bench: host_programs(bench, environment),
        goals=(Goal("in threads", "speed", 1.2),),
    )


def _projection(name: str, environment: str, steps: int, bound: float) -> Comparison:
    return Comparison(
        f"projection-{name}",
        f"What does a random projection add to {environment}, {ENVS} environments?",
        lambda _: projection_programs(environment, steps),
        goals=(Goal(PROJECTED, "overhead", bound),),
    )


def _family(name: str, environment: str) -> Comparison:
    return Comparison(
        f"family-{name}",
        f"How fast are {FAMILY_ENVS:,} different tasks of {environment}?",
        lambda _: family_programs(environment, 500),
        goals=(Goal(environment, "rate", 5e6),),
    )


COMPARISONS: tuple[Comparison, ...] = (
    _projection("cartpole", "gla/CartPole-v0", 500, 0.15),
    _projection("pendulum", "gla/Pendulum-v0", 500, 0.15),
    _projection("brax-pendulum", "gla/BraxInvertedPendulum-v0", 50, 0.05),
    _projection("brax-ant", "gla/BraxAnt-v0", 10, 0.05),
    Comparison(
        "vector-pendulum",
        f"How fast is `gymnasium.make_vec` of Pendulum, {ENVS} environments?",
        lambda _: vector_programs(),
        goals=(Goal("gla", "speed", 20.0),),
    ),
    _host("halfcheetah", "gla/HalfCheetah-v0"),
    _host("ant", "gla/Ant-v0"),
    _family("linear", "gla/RandomLinear-v0"),
    _family("tabular", "gla/RandomTabular-v0"),
)
