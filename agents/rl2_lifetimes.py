"""Whole lifetimes of a recurrent agent on many tasks at once, for RL^2 (`gla.agents.rl2`).

Tasks, projections, normalisation and tokens are those of the meta-test, from the same keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gla import distributions as dist
from gla import projection as proj
from gla.agents.base import View
from gla.agents.rl2_config import RL2Config
from gla.envs import registry
from gla.envs.base import Environment, action_size, is_discrete, observation_size
from gla.envs.splits import RunKeys, Split, run_keys, step_key, task_key
from gla.envs.vectorized import step_batch, strong_types
from gla.envs.wrappers import Normalized, TimeLimit, projected_spaces
from gla.errors import GlaError
from gla.models import SequenceModel, make_model
from gla.normalization import Statistics, normalize_observation, normalize_reward
from gla.tokens import Interface, gaussian_outputs, make_tokens

# What an agent's random numbers of a lifetime are for, as the meta-test numbers its purposes.
PROJECTION, ACT = 0, 2


class Tasks(NamedTuple):
    """Tasks of one environment as a lifetime meets them, leading axis m.

    Attributes:
        params: of the environment.
        keys: random keys of each lifetime.
        statistics: what a window of random actions showed of each task.
        projection: one per lifetime.
        logarithmic: bool[m], whether large numbers are bounded by a logarithm.
    """

    params: Any
    keys: RunKeys
    statistics: Statistics
    projection: proj.Projection
    logarithmic: jax.Array


class Lifetimes(NamedTuple):
    """What M agents lived through in T steps.

    Attributes:
        tokens: f32[M, T, F], what the model read.
        action: f32[M, T, m] or slots i32[M, T], in agent space.
        log_prob: f32[M, T], of the actions.
        value: f32[M, T], predicted.
        reward: f32[M, T], normalised, that each step brought.
    """

    tokens: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array


def open_environments(config: RL2Config) -> list[Environment]:
    """Build the environments that a config names.

    Raises:
        GlaError: if there is none, one is unknown, projected or a host simulator, does not fit
            into agent space, or the kinds of actions differ.
    """
    if not config.environments:
        raise GlaError("rl2 was given no environments", "ids such as gla/RandomLinear-v0")
    envs = []
    for id in config.environments:
        spec, options, _ = registry.resolve(id)
        if spec.projected or spec.kind != "functional":
            is_what = "already projected" if spec.projected else "a host simulator"
            raise GlaError(
                f"{spec.full_id} is {is_what}",
                "a plain id of a functional environment, as rl2 lives all lifetimes at once",
                "see `gla envs list --kind functional`",
            )
        env = registry.make_functional(spec.id, **options)
        projected_spaces(env, config.projection, id)
        envs.append(env)
    if len({is_discrete(env.action_space) for env in envs}) > 1:
        raise GlaError(
            "the environments mix continuous and discrete actions",
            "environments of one action kind",
            "train one agent on each",
        )
    return envs


def make_interface(config: RL2Config, envs: Sequence[Environment]) -> Interface:
    """Return what the agent reads and writes."""
    agent_space = config.projection
    discrete = is_discrete(envs[0].action_space)
    return Interface(agent_space.observation_dim, agent_space.action_dim, discrete)


def make_recurrent(config: RL2Config, interface: Interface) -> SequenceModel:
    """Return the model that is trained: the agent's outputs, and a value last."""
    return make_model(config.model, interface.token_size, interface.outputs + 1)


def draw_tasks(env: Environment, view: View, split: Split, seed: int, indices: jax.Array) -> Tasks:
    """Draw tasks and how they are shown, the same as a meta-test with this split and seed.

    Args:
        env: the bare environment.
        view: agent space and the length of the random-action window.
        split: of the tasks.
        seed: of the set of tasks.
        indices: i32[m], numbers of the tasks in that set.
    """

    def one(index: jax.Array) -> Tasks:
        keys = run_keys(task_key(split, seed, index))
        params = env.sample_params(keys.task)
        statistics = Normalized(env, view.window).measure(keys.window, params).statistics
        projection = proj.sample(
            jax.random.fold_in(keys.agent, PROJECTION),
            view.projection,
            observation_size(env),
            action_size(env),
        )
        bound = jnp.asarray(view.projection.logarithmic)
        return Tasks(params, keys, statistics, projection, bound)

    return jax.vmap(one)(indices)


def live(
    params: Any,
    model: SequenceModel,
    interface: Interface,
    envs: Sequence[Environment],
    tasks: Sequence[Tasks],
    steps: int,
) -> Lifetimes:
    """Let the model act for whole lifetimes, those of all environments side by side.

    Args:
        params: of the model.
        model: of `make_recurrent`.
        interface: what it reads and writes.
        envs: the bare environments.
        tasks: of each of them; lifetimes are in this order.
        steps: T, steps of a lifetime.
    """
    limited = [TimeLimit(env) for env in envs]
    counts = [group.statistics.reward_scale.shape[0] for group in tasks]
    rows, borders = sum(counts), np.cumsum(counts)[:-1].tolist()
    act_keys = jax.vmap(lambda key: jax.random.fold_in(key, ACT))(
        jnp.concatenate([group.keys.agent for group in tasks])
    )

    def show(group: Tasks, observation: jax.Array) -> jax.Array:
        shown = normalize_observation(group.statistics, observation, group.logarithmic[:, None])
        return jax.vmap(proj.project_observation)(group.projection, shown)

    def one(carry, number):
        states, seen, previous_action, memory = carry
        token = make_tokens(seen[0], previous_action, *seen[1:])
        outputs, memory = model.step(params, token, memory)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(act_keys)
        action, log_prob = draw_action(keys, outputs[:, :-1], interface)
        parts = jnp.split(action, borders)
        after, seen = [], []
        for env, group, state, part in zip(limited, tasks, states, parts, strict=True):
            lowered = jax.vmap(proj.lower_action)(group.projection, part)
            step_keys = jax.vmap(lambda key: step_key(key, number, 0))(group.keys.environment)
            state, ts = step_batch(env, step_keys, state, lowered, group.params)
            reward = normalize_reward(group.statistics, ts.reward, group.logarithmic)
            after.append(state)
            seen.append((show(group, ts.observation), reward, ts.terminated, ts.truncated))
        joined = tuple(jnp.concatenate(column) for column in zip(*seen, strict=True))
        shown = jax.nn.one_hot(action, interface.action_dim) if interface.discrete else action
        lived = Lifetimes(token, action, log_prob, outputs[:, -1], joined[1])
        return strong_types((tuple(after), joined, shown, memory)), lived

    states, shown = [], []
    for env, group in zip(limited, tasks, strict=True):
        reset_keys = jax.vmap(lambda key: step_key(key, -1, 0))(group.keys.environment)
        state, observation = jax.vmap(env.reset)(reset_keys, group.params)
        states.append(state)
        shown.append(show(group, observation))
    nothing = jnp.zeros(rows, bool)
    first = (jnp.concatenate(shown), jnp.zeros(rows), nothing, nothing)
    no_action = jnp.zeros((rows, interface.action_dim))
    carry = (tuple(states), first, no_action, model.initial_state(rows))
    _, lived = jax.lax.scan(one, strong_types(carry), jnp.arange(steps))
    return Lifetimes(*(jnp.swapaxes(part, 0, 1) for part in lived))


def draw_action(
    keys: jax.Array, outputs: jax.Array, interface: Interface
) -> tuple[jax.Array, jax.Array]:
    """Draw actions, each with its own key, as `GLAAgent` does; and their log-probabilities."""
    if interface.discrete:
        action = jax.vmap(jax.random.categorical)(keys, outputs).astype(jnp.int32)
    else:
        mean, log_std = gaussian_outputs(outputs)
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
        action = mean + jnp.exp(log_std) * noise
    return action, judge_action(action, outputs, interface)[0]


def judge_action(
    action: jax.Array, outputs: jax.Array, interface: Interface
) -> tuple[jax.Array, jax.Array]:
    """Return log-probabilities of actions and the policy's entropy in nats, f32[...] each."""
    if interface.discrete:
        return dist.categorical_log_prob(action, outputs), dist.categorical_entropy(outputs)
    mean, log_std = gaussian_outputs(outputs)
    return dist.gaussian_log_prob(action, mean, log_std), dist.gaussian_entropy(log_std)
