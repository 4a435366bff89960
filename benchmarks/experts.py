"""Training the experts that give the upper end of the scale of scores."""

from __future__ import annotations

import operator
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gla import policy as pol
from gla.agents import ppo
from gla.agents.backends import map_runs, padded
from gla.agents.ppo_host import train_host
from gla.benchmarks.recipes import Recipe
from gla.benchmarks.results import Lifetime
from gla.benchmarks.runner import Trace, has_oracle, lifetimes_of, solve
from gla.benchmarks.worlds import MetaTestConfig, make_world
from gla.envs import registry
from gla.envs.splits import RunKeys, run_keys, task_key
from gla.envs.table import EnvironmentSpec
from gla.envs.wrappers import Autoreset, TimeLimit
from gla.errors import GlaError
from gla.progress import Progress

# A training is called in about so many parts, so that its progress is seen.
PARTS = 20


class Expert(NamedTuple):
    """A trained expert.

    Attributes:
        policy: its last policy; stacked over tasks [L, ...] where each has one of its own.
        finished: f64[E, 2], of every finished episode of its training the steps taken when it
            ended, and its return.
        seconds: of wall clock that its training took; seeds that trained at once share it.
    """

    policy: pol.PolicyParams
    finished: np.ndarray
    seconds: float


def train_experts(spec: EnvironmentSpec, recipe: Recipe, progress: bool = True) -> list[Expert]:
    """Train the expert of a recipe with each of its seeds.

    Args:
        spec: of the environment.
        recipe: with PPO settings.
        progress: show a progress bar on standard error.

    Raises:
        GlaError: if a value is not finite.
    """
    if recipe.ppo is None:
        raise GlaError(f"the expert of {spec.id} is not trained", "a recipe with PPO settings")
    if spec.kind == "functional":
        return _train_functional(spec, recipe, progress)
    return [_train_host(spec, recipe, recipe.seed + n, progress) for n in range(recipe.seeds)]


def _train_host(spec: EnvironmentSpec, recipe: Recipe, seed: int, progress: bool) -> Expert:
    assert recipe.ppo is not None
    tasks = [task_key("train", seed, index) for index in range(recipe.ppo.num_envs)]
    vec = registry.make_host(
        spec.id, recipe.ppo.num_envs, task_keys=tasks, **dict(recipe.privileges)
    )
    began = time.monotonic()
    try:
        learner, finished = train_host(vec, recipe.ppo, task_key("train", seed), progress)
    finally:
        vec.close()
    return Expert(learner.policy, finished, time.monotonic() - began)


def _train_functional(spec: EnvironmentSpec, recipe: Recipe, progress: bool) -> list[Expert]:
    """Train with all seeds, or on all tasks of the test, a block of them spread over devices."""
    assert recipe.ppo is not None
    bare = registry.make_functional(spec.id, **dict(recipe.privileges))
    env, config = Autoreset(TimeLimit(bare)), recipe.ppo
    if recipe.per_task:
        tasks = np.arange(recipe.lifetimes)
        seeds, block = np.full(recipe.lifetimes, recipe.seed), padded(recipe.block)
    else:
        seeds = recipe.seed + np.arange(recipe.seeds)
        tasks, block = np.zeros(recipe.seeds, int), padded(recipe.seeds)
    parts = max(n for n in range(1, PARTS + 1) if config.num_updates % n == 0)

    def begin(seed, index):
        task, keys = _training_keys(recipe, seed, index)
        return ppo.begin(keys, env, bare.sample_params(task), config)

    def go_on(seed, index, training):
        task, keys = _training_keys(recipe, seed, index)
        updates = config.num_updates // parts
        training, record = ppo.advance(
            keys, env, bare.sample_params(task), config, training, updates, config.num_envs
        )
        return training, record["reward"], record["terminated"] | record["truncated"]

    start = jax.jit(lambda *runs: map_runs(begin, *runs))
    advance = jax.jit(lambda *runs: map_runs(go_on, *runs))
    policies, finished, began = [], [], time.monotonic()
    total = len(seeds) * recipe.steps
    with Progress(f"ppo on {spec.id}", total, "steps", enabled=progress) as bar:
        for first in range(0, len(seeds), block):
            # A short last block is filled up, so that only one program is compiled.
            rows = np.minimum(np.arange(block) + first, len(seeds) - 1)
            count = min(block, len(seeds) - first)
            chosen = jnp.asarray(seeds[rows]), jnp.asarray(tasks[rows])
            training, made = start(*chosen), []
            for _ in range(parts):
                training, reward, done = advance(*chosen, training)
                made.append((np.asarray(reward)[:count], np.asarray(done)[:count]))
                bar.advance(count * recipe.steps // parts)
            whole = operator.itemgetter(slice(count))
            policy = jax.tree.map(whole, jax.tree.map(np.asarray, training.learner.policy))
            reward, done = (np.concatenate(part, 2) for part in zip(*made, strict=True))
            if not np.isfinite(reward).all() or not all(np.isfinite(x).all() for x in policy):
                raise GlaError(
                    f"ppo on {spec.id} met values that are not finite",
                    "finite rewards and weights",
                    "bound the environment or lower the learning rate",
                )
            policies.append(policy)
            finished += [_finished(reward[i : i + 1], done[i : i + 1]) for i in range(count)]
    seconds = time.monotonic() - began
    stacked: pol.PolicyParams = jax.tree.map(lambda *parts: np.concatenate(parts), *policies)
    if recipe.per_task:
        return [Expert(stacked, np.concatenate(finished), seconds)]
    return [
        Expert(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), ended, seconds)
        for i, ended in enumerate(finished)
    ]


def _training_keys(
    recipe: Recipe, seed: int | jax.Array, index: int | jax.Array
) -> tuple[jax.Array, RunKeys]:
    """Return the key that draws task `index` and the keys of its training with a seed.

    In families the task is that of the test, its episodes and noise are not.
    """
    if not recipe.per_task:
        keys = run_keys(task_key("train", seed, index))
        return keys.task, keys
    task = run_keys(task_key("test", 0, index)).task
    keys = run_keys(task_key("train", seed, index))
    return task, keys


def _finished(reward: np.ndarray, done: np.ndarray) -> np.ndarray:
    """List the finished episodes of f32[B, R, U, T] rewards and ends: f64[E, 2] as `thin` takes."""
    rows, envs = reward.reshape(-1, *reward.shape[2:]), reward.shape[1]
    rewards = rows.reshape(len(rows), -1).T
    lives = lifetimes_of(Trace(rewards, done.reshape(len(rows), -1).T))
    pairs = [
        np.stack([np.cumsum(life.episode_lengths) * envs, life.episode_returns], 1)
        for life in lives
        if not life.unfinished
    ]
    return np.concatenate(pairs) if pairs else np.zeros((0, 2))


def play_oracle(spec: EnvironmentSpec, lifetimes: int, episodes: int) -> tuple[Lifetime, ...]:
    """Play the tasks of the test split with full knowledge of each of them.

    Args:
        spec: of a functional environment with an oracle.
        lifetimes: number of lifetimes, each on a task of its own in families.
        episodes: each lifetime is as long as that many episodes at most.

    Raises:
        GlaError: if the environment has no oracle.
    """
    config = MetaTestConfig(spec.id, lifetimes, spec.horizon * episodes)
    world = make_world(config)
    if not has_oracle(world):
        raise GlaError(f"{spec.id} has no oracle", "an environment that can be solved exactly")
    return solve(world, config.steps)
