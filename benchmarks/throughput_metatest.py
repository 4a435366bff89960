"""How fast whole meta-tests run: agent, environment and bookkeeping, many lifetimes at once."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gla.agents.base import View
from gla.agents.gla import GLAAgent
from gla.benchmarks.runner import CHUNK, MetaTestConfig, make_lens, make_world, run_agent
from gla.benchmarks.timing import Bench, Comparison, Goal, Program
from gla.envs import registry
from gla.envs.wrappers import Autoreset, TimeLimit
from gla.models import ModelConfig, make_model
from gla.projection import ProjectionConfig
from gla.tokens import Interface

ENVIRONMENT = "gla/RandomLinear-v0"
# The quickstart's agent: 0.6M parameters, a window of 400.
VIEW = View(ProjectionConfig(observation_dim=24, action_dim=6))
MODEL = ModelConfig(width=128, layers=3, heads=4, window=400)
FEW, MANY = 64, 2048


def lifetimes_programs(
    bench: Bench, few: int = FEW, many: int = MANY, model: ModelConfig = MODEL
) -> list[Program]:
    """Return a meta-test by a loop over steps, and by one compiled scan of few and many lifetimes.

    Args:
        bench: is told of the agent's size.
        few: lifetimes.
        many: lifetimes.
        model: of the agent; its weights are random, which costs the same.
    """
    scanned = _agent(model)
    net = scanned.model
    looped = copy.copy(scanned)
    looped.jittable = False
    bench.notes.append(
        f"{net.parameter_count:,} parameters, {net.state_size:,} numbers of state a lifetime, "
        f"{CHUNK} steps of {ENVIRONMENT} a call, through a projection for each lifetime"
    )

    def program(name: str, agent: GLAAgent, lifetimes: int) -> Program:
        config = MetaTestConfig(ENVIRONMENT, lifetimes, CHUNK)
        world = make_world(config)
        lens = make_lens(world, VIEW, config)
        call: Callable[[], object] = lambda: run_agent(agent, world, config, lens)  # noqa: E731
        return Program(name, call, lifetimes * CHUNK)

    return [
        program(f"{few:,} lifetimes, a call per step", looped, few),
        program(f"{few:,} lifetimes", scanned, few),
        program(f"{many:,} lifetimes", scanned, many),
    ]


def _agent(model: ModelConfig) -> GLAAgent:
    interface = Interface(VIEW.projection.observation_dim, VIEW.projection.action_dim)
    net = make_model(model, interface.token_size, interface.outputs)
    return GLAAgent(net.init(jax.random.key(0)), model, interface, VIEW)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _bare_scan(act: Any, env: Any, steps: int, params: Any, state: Any, key: jax.Array) -> Any:
    """Let an agent act in a projected environment, with nothing checked and only rewards kept."""
    rows = jax.tree.leaves(params)[0].shape[0]
    env_state, observation = jax.vmap(env.reset)(jax.random.split(key, rows), params)
    nothing = jnp.zeros(rows, bool)

    def one(carry: Any, key: jax.Array) -> Any:
        env_state, seen, state = carry
        keys = jax.random.split(key, rows)
        state, action = act(state, *seen, keys)
        env_state, ts = jax.vmap(env.step)(keys, env_state, action, params)
        return (env_state, (ts.observation, ts.reward, ts.terminated, ts.truncated), state), (
            ts.reward
        )

    carry = env_state, (observation, jnp.zeros(rows), nothing, nothing), state
    return jax.lax.scan(one, carry, jax.random.split(key, steps))[1]


def runner_programs(
    bench: Bench, lifetimes: int = FEW, model: ModelConfig = MODEL, id: str = ENVIRONMENT
) -> list[Program]:
    """Return an agent and an environment in a bare scan, and the meta-test of the same.

    Args:
        bench: is told how many steps a call has.
        lifetimes: at once.
        model: of the agent.
        id: of a functional environment.
    """
    agent = _agent(model)
    projection = VIEW.projection
    projected = registry.make_functional(
        registry.find(id).projected_id, projection_seed=None,
        observation_dim=projection.observation_dim, action_dim=projection.action_dim,
    )  # fmt: skip
    env = Autoreset(TimeLimit(projected))
    params = jax.vmap(projected.sample_params)(jax.random.split(jax.random.key(1), lifetimes))
    spaces = projected.observation_space, projected.action_space

    def bare() -> np.ndarray:
        state = agent.init(None, lifetimes, *spaces)
        return np.asarray(_bare_scan(agent.act, env, CHUNK, params, state, jax.random.key(2)))

    bench.notes.append(f"{CHUNK} steps of {lifetimes} lifetimes on {id} a call, one compiled scan")
    return [
        Program("agent and environment", bare, lifetimes * CHUNK),
        Program("meta-test", _tested(agent, id, lifetimes), lifetimes * CHUNK),
    ]


def host_runner_programs(
    bench: Bench,
    lifetimes: int = 32,
    model: ModelConfig = MODEL,
    id: str = "gla/HalfCheetah-v0",
    steps: int = CHUNK,
) -> list[Program]:
    """Return the same two on a host simulator, in a loop over steps.

    Args:
        bench: closes the simulators.
        lifetimes: at once.
        model: of the agent.
        id: of a host environment.
        steps: of a call.
    """
    agent = _agent(model)
    projection = VIEW.projection
    envs = registry.make_host(
        registry.find(id).projected_id, lifetimes, projection_seed=0,
        observation_dim=projection.observation_dim, action_dim=projection.action_dim,
    )  # fmt: skip
    bench.stack.callback(envs.close)
    spaces = envs.single_observation_space, envs.single_action_space
    act = jax.jit(agent.act, donate_argnums=0)
    split = jax.jit(functools.partial(jax.random.split, num=lifetimes))

    def bare() -> np.ndarray:
        state = jax.tree.map(jnp.copy, agent.init(None, lifetimes, *spaces))
        observation, _ = envs.reset(seed=0)
        seen = [observation, np.zeros(lifetimes, np.float32), *np.zeros((2, lifetimes), bool)]
        key, rewards = jax.random.key(0), []
        for number in range(steps):
            state, action = act(state, *seen, split(jax.random.fold_in(key, number)))
            observation, reward, terminated, truncated, _ = envs.step(np.asarray(action))
            seen = [observation, np.asarray(reward, np.float32), terminated, truncated]
            rewards.append(reward)
        return np.stack(rewards)

    bench.notes.append(f"{steps} steps of {lifetimes} lifetimes on {id} a call, a loop over steps")
    return [
        Program("agent and environment", bare, lifetimes * steps),
        Program("meta-test", _tested(agent, id, lifetimes, steps), lifetimes * steps),
    ]


def _tested(agent: GLAAgent, id: str, lifetimes: int, steps: int = CHUNK) -> Callable[[], object]:
    """Return a call of the runner on lifetimes that are set up already."""
    config = MetaTestConfig(id, lifetimes, steps)
    world = make_world(config)
    lens = make_lens(world, VIEW, config)
    return lambda: run_agent(agent, world, config, lens)


COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        "lifetimes",
        "How fast do many lifetimes pass in one compiled meta-test?",
        lifetimes_programs,
        "environment steps",
        (Goal(f"{FEW:,} lifetimes", "speed", 1.0),),
    ),
    Comparison(
        "runner",
        "What does the meta-test add to agent and environment, in one compiled scan?",
        runner_programs,
        "environment steps",
        (Goal("meta-test", "overhead", 0.1),),
    ),
    Comparison(
        "runner-host",
        "What does the meta-test add to agent and environment, with a host simulator?",
        host_runner_programs,
        "environment steps",
        (Goal("meta-test", "overhead", 0.1),),
    ),
)
