"""Reference scores: the best null controller and an expert of our own.

They are the two ends of the scale on which agents are scored, 0 and 1. The expert is a long PPO
run of this package, or the oracle of a task that can be solved exactly;
`gla.benchmarks.recipes.RECIPES` holds the settings, so that `gla references ID` measures the same
numbers again.
"""

from __future__ import annotations

import functools
import json
import operator
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gla
from gla import policy as pol
from gla.agents import ppo
from gla.agents.backends import map_runs
from gla.agents.base import Agent
from gla.agents.controllers import Controller
from gla.agents.nulls import null_controllers
from gla.agents.planner import Planner
from gla.agents.policy_agent import PolicyAgent
from gla.agents.ppo_host import train_host
from gla.benchmarks.recipes import RECIPES, Recipe
from gla.benchmarks.results import Lifetime
from gla.benchmarks.runner import (
    MetaTestConfig,
    Trace,
    World,
    lifetimes_of,
    make_world,
    run_agent,
)
from gla.benchmarks.statistics import Interval, beats, bootstrap_interval
from gla.envs import registry
from gla.envs.splits import RunKeys, run_keys, step_key, task_key
from gla.envs.table import EnvironmentSpec
from gla.envs.wrappers import Autoreset, TimeLimit
from gla.errors import GlaError
from gla.files import write_text
from gla.progress import Progress

CURVE_POINTS = 50
FINALISTS = 3


def measure(id: str, progress: bool = True, recipe: Recipe | None = None) -> dict[str, Any]:
    """Measure the reference scores of one id.

    Null controllers compete on `recipe.screening` lifetimes of the validation split; the best few
    meet the test split, where the winner is the reference, so that luck in the choice does not
    raise its score. The expert's final policy plays there too, deterministically.

    Args:
        id: a plain registered id.
        progress: show progress bars on standard error.
        recipe: settings; None takes those of `RECIPES`.

    Returns:
        The entry of `envs/references.json`: `null` (controller, return, low, high, episodes),
        `expert` (return, low, high, episodes, steps, seed, provenance, command, seconds, curve)
        and `expert_beats_null`, which is false where the 95% intervals overlap.

    Raises:
        GlaError: if the id is unknown or projected, has no recipe, or a value is not finite.
    """
    spec = registry.find(id)
    if spec.projected:
        raise GlaError(
            f"{spec.full_id} is projected",
            "a plain id",
            f"measure {spec.id}, whose returns mean the same",
        )
    if recipe is None and spec.id not in RECIPES:
        raise GlaError(f"there is no recipe for {spec.id}", "one in gla.benchmarks.recipes")
    recipe = recipe or RECIPES[spec.id]
    null_name, null = _measure_null(spec, recipe, progress)
    began = time.monotonic()
    expert, finished = _measure_expert(spec, recipe, progress)
    seconds = time.monotonic() - began
    episodes = recipe.lifetimes * recipe.episodes
    return {
        "null": {"controller": null_name, **_as_numbers(null), "episodes": episodes},
        "expert": {
            **_as_numbers(expert),
            "episodes": episodes,
            "steps": recipe.steps,
            "seed": recipe.seed,
            "provenance": _provenance(recipe),
            "command": f"gla references {spec.id}",
            "seconds": round(seconds, 1),
            "curve": thin(finished, recipe.steps) if len(finished) else [],
        },
        "expert_beats_null": beats(expert, null),
    }


def update_file(path: str | os.PathLike[str], id: str, entry: dict[str, Any]) -> None:
    """Put one entry into a file of references, atomically; other entries stay.

    Args:
        path: such as `envs/references.json`; made if it is not there.
        id: a plain registered id.
        entry: from `measure`.

    Raises:
        GlaError: if the file holds something else or cannot be written, or the entry is no JSON.
    """
    path = Path(path)
    try:
        table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, OSError) as error:
        raise GlaError(f"{path} cannot be read as JSON ({error})", "a file of references") from None
    if not isinstance(table, dict):
        raise GlaError(f"{path} holds a {type(table).__name__}", "an object with an entry per id")
    table[registry.find(id).id] = entry
    order = {known: place for place, known in enumerate(registry.TABLE)}
    names = sorted(table, key=lambda name: (order.get(name, len(order)), name))
    try:
        blocks = [f" {json.dumps(name)}: {_lines(table[name])}" for name in names]
    except (TypeError, ValueError) as error:
        raise GlaError(
            f"the references of {id} cannot be written as JSON ({error})", "plain, finite values"
        ) from None
    write_text(path, "{\n" + ",\n".join(blocks) + "\n}\n")


def thin(finished: np.ndarray, steps: int, points: int = CURVE_POINTS) -> list[tuple[int, float]]:
    """Average finished episodes over windows of steps.

    Args:
        finished: f64[E, 2], steps taken when an episode ended, and its return.
        steps: steps of the whole training.
        points: number of windows.

    Returns:
        (last step of the window, mean return) for every window in which an episode ended.
    """
    window = np.clip(np.ceil(finished[:, 0] * points / steps).astype(int) - 1, 0, points - 1)
    return [
        (round((index + 1) * steps / points), _short(finished[window == index, 1].mean()))
        for index in np.unique(window)
    ]


class _World:
    """Lifetimes of one split on which several agents play, closed after one call of `play`."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        recipe: Recipe,
        split: Any,
        lifetimes: int,
        settings: dict[str, Any] | None = None,
    ):
        steps = spec.horizon * recipe.episodes
        self.config = MetaTestConfig(spec.id, lifetimes=lifetimes, steps=steps, split=split)
        self.world: World = make_world(self.config, **(settings or {}))
        self.episodes = recipe.episodes

    def play(self, agents: Sequence[Agent], what: str, progress: bool) -> list[Interval]:
        """Return the mean return of each agent with its interval over lifetimes."""
        total = len(agents) * self.config.lifetimes * self.config.steps
        title = f"{what} on {self.config.environment}"
        intervals = []
        with Progress(title, total, "steps", enabled=progress) as bar:
            try:
                for agent in agents:
                    tick = functools.partial(_tick, bar, self.config.lifetimes, agent.name)
                    trace = run_agent(agent, self.world, self.config, tick=tick)
                    intervals.append(_interval(lifetimes_of(trace), self.episodes))
            finally:
                self.world.close()
        return intervals


def _tick(bar: Progress, rows: int, name: str, steps: int) -> None:
    bar.advance(steps * rows, name)


def _interval(lifetimes: Sequence[Lifetime], episodes: int) -> Interval:
    """Return the mean over the first `episodes` episodes of each lifetime.

    Counting all whole episodes would favour short ones where lengths differ; the first few always
    fit, because lifetimes are that many horizons long.
    """
    means = [np.mean(life.episode_returns[:episodes]) for life in lifetimes]
    return bootstrap_interval(np.array(means))


def _measure_null(spec: EnvironmentSpec, recipe: Recipe, progress: bool) -> tuple[str, Interval]:
    screen = _World(spec, recipe, "validation", recipe.screening)
    agents = null_controllers(screen.world.action_space)
    seen = screen.play(agents, "null controllers", progress)
    # Sorting is stable, so of equals the first of the list, such as zero action, stays first.
    ranks = sorted(range(len(agents)), key=lambda index: -seen[index].estimate)
    finalists = [agents[index] for index in ranks[:FINALISTS]]
    final = _World(spec, recipe, "test", recipe.lifetimes)
    measured = final.play(finalists, "best null controllers", progress)
    best = max(range(len(finalists)), key=lambda index: measured[index].estimate)
    return finalists[best].name, measured[best]


def _measure_expert(
    spec: EnvironmentSpec, recipe: Recipe, progress: bool
) -> tuple[Interval, np.ndarray]:
    """Return the expert's return, and the finished episodes of its training where it had any."""
    finished = np.zeros((0, 2))
    if recipe.ppo is not None:
        policy, finished = _train(spec, recipe, progress)
        agent: Agent = PolicyAgent(policy, spec.action_kind == "discrete")
    elif recipe.controller is not None:
        agent = Controller("expert", recipe.controller)
    elif recipe.planner is None:
        lifetimes = play_oracle(spec, recipe.lifetimes, recipe.episodes)
        return _interval(lifetimes, recipe.episodes), finished
    test = _World(spec, recipe, "test", recipe.lifetimes, dict(recipe.privileges))
    if recipe.planner is not None:
        agent = Planner("expert", test.world.env, recipe.planner)
    return test.play([agent], "expert", progress)[0], finished


def _train(
    spec: EnvironmentSpec, recipe: Recipe, progress: bool
) -> tuple[pol.PolicyParams, np.ndarray]:
    """Return the expert's policy, stacked over tasks in families, and its finished episodes."""
    if spec.kind == "functional":
        return _train_functional(spec, recipe, progress)
    assert recipe.ppo is not None
    tasks = [task_key("train", recipe.seed, index) for index in range(recipe.ppo.num_envs)]
    vec = registry.make_host(
        spec.id, recipe.ppo.num_envs, task_keys=tasks, **dict(recipe.privileges)
    )
    try:
        key = task_key("train", recipe.seed)
        learner, finished = train_host(vec, recipe.ppo, key, progress)
    finally:
        vec.close()
    return learner.policy, finished


def play_oracle(spec: EnvironmentSpec, lifetimes: int, episodes: int) -> tuple[Lifetime, ...]:
    """Play the tasks of the test split with full knowledge of each of them.

    Args:
        spec: of a functional environment with an oracle.
        lifetimes: number of lifetimes, each on a task of its own in families.
        episodes: each lifetime is as long as that many episodes at most.

    Raises:
        GlaError: if the environment has no oracle.
    """
    env = Autoreset(TimeLimit(registry.make_functional(spec.id)))

    def one(index):
        keys = run_keys(task_key("test", 0, index))
        params = env.sample_params(keys.task)
        solution = env.solve(params)
        state, _ = env.reset(step_key(keys.environment, -1, 0), params)

        def step(state, number):
            action = env.best_action(solution, state, params)
            state, ts = env.step(step_key(keys.environment, number, 0), state, action, params)
            return state, (ts.reward, ts.terminated | ts.truncated)

        return jax.lax.scan(step, state, jnp.arange(spec.horizon * episodes))[1]

    reward, done = jax.jit(jax.vmap(one))(jnp.arange(lifetimes))
    return lifetimes_of(Trace(np.asarray(reward).T, np.asarray(done).T))


def _training_keys(recipe: Recipe, index: jax.Array) -> tuple[jax.Array, RunKeys]:
    """Return the key that draws task `index` and the keys of its training.

    In families the task is that of the test, its episodes and noise are not.
    """
    if not recipe.per_task:
        keys = run_keys(task_key("train", recipe.seed, index))
        return keys.task, keys
    task = run_keys(task_key("test", 0, index)).task
    keys = run_keys(task_key("train", recipe.seed, index))
    return task, keys


def _train_functional(
    spec: EnvironmentSpec, recipe: Recipe, progress: bool
) -> tuple[pol.PolicyParams, np.ndarray]:
    assert recipe.ppo is not None
    bare = registry.make_functional(spec.id, **dict(recipe.privileges))
    env, config = Autoreset(TimeLimit(bare)), recipe.ppo
    count = recipe.lifetimes if recipe.per_task else 1

    def one(index):
        task, keys = _training_keys(recipe, index)
        params = bare.sample_params(task)
        learner, record = ppo.train(keys, env, params, config, config.num_envs)
        done = record["terminated"] | record["truncated"]
        return learner.policy, record["reward"], done

    block = min(recipe.block, count)
    train = jax.jit(lambda tasks: map_runs(one, tasks))
    policies, finished = [], []
    with Progress(f"ppo on {spec.id}", count * recipe.steps, "steps", enabled=progress) as bar:
        for start in range(0, count, block):
            # A short last block is padded, so that only one program is compiled.
            tasks = jnp.minimum(jnp.arange(block) + start, count - 1)
            trained = jax.tree.map(np.asarray, train(tasks))
            whole = slice(min(block, count - start))
            policy, reward, done = jax.tree.map(operator.itemgetter(whole), trained)
            if not np.isfinite(reward).all() or not all(np.isfinite(x).all() for x in policy):
                raise GlaError(
                    f"ppo on {spec.id} met values that are not finite",
                    "finite rewards and weights",
                    "bound the environment or lower the learning rate",
                )
            policies.append(policy)
            ended = _finished(reward, done)
            finished.append(ended)
            last = ended[ended[:, 0] > 0.9 * recipe.steps, 1]
            note = f"return {last.mean():.2f}" if len(last) else ""
            bar.advance(len(reward) * recipe.steps, note)
    stacked: pol.PolicyParams = jax.tree.map(lambda *parts: np.concatenate(parts), *policies)
    if not recipe.per_task:
        stacked = jax.tree.map(lambda part: part[0], stacked)
    return stacked, np.concatenate(finished)


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


def _provenance(recipe: Recipe) -> str:
    versions = f"gla {gla.__version__}, jax {jax.__version__}"
    if recipe.controller is not None:
        return f"controller {recipe.controller.__name__}, {versions}"
    if recipe.planner is not None:
        return f"planner with {recipe.planner.__name__}, which knows the simulator, {versions}"
    if recipe.ppo is None:
        return f"oracle, which knows the task and its state, {versions}"
    count = f"{recipe.steps / 1e6:.2g}M steps" if recipe.steps >= 1e5 else f"{recipe.steps:,} steps"
    what = f"PPO, {count}"
    if recipe.per_task:
        what = f"PPO on each of {recipe.lifetimes} test tasks, {count} each"
    versions = f"gla {gla.__version__}, jax {jax.__version__}"
    return f"{what}, seed {recipe.seed}, deterministic policy, {versions}"


def _as_numbers(interval: Interval) -> dict[str, float]:
    return {
        "return": _short(interval.estimate),
        "low": _short(interval.low),
        "high": _short(interval.high),
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _lines(entry: Any) -> str:
    """Write an entry with one line for each of its parts."""
    if not isinstance(entry, dict):
        return json.dumps(entry, allow_nan=False)
    parts = [f"  {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in entry.items()]
    return "{\n" + ",\n".join(parts) + "\n }"
