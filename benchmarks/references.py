"""Reference scores: the best null controller and an expert of our own.

They are the two ends of the scale on which agents are scored, 0 and 1. The expert is a long PPO
run of this package, or the oracle of a task that can be solved exactly;
`gla.benchmarks.recipes.RECIPES` holds the settings, so that `gla references ID` measures the same
numbers again.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import gla
from gla.agents.base import Agent
from gla.agents.controllers import Controller
from gla.agents.nulls import null_controllers
from gla.agents.planner import Planner
from gla.agents.policy_agent import PolicyAgent
from gla.benchmarks.experts import Expert, play_oracle, train_experts
from gla.benchmarks.recipes import RECIPES, Recipe
from gla.benchmarks.results import Lifetime
from gla.benchmarks.runner import (
    MetaTestConfig,
    World,
    lifetimes_of,
    make_world,
    run_agent,
)
from gla.benchmarks.statistics import Interval, beats, bootstrap_interval, iqm
from gla.envs import registry
from gla.envs.table import EnvironmentSpec
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
        `expert` (return, low, high, episodes, steps, seed, provenance, command, seconds, curve, and
        `seeds` where the recipe has several: the first is the expert, of all of them there are
        `returns`, their interquartile mean `iqm` with its interval `low` and `high`, `curves`) and
        `expert_beats_null`, which is false where the 95% intervals overlap.

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
    measured, trained = _measure_expert(spec, recipe, progress)
    seconds = time.monotonic() - began
    expert, episodes = measured[0], recipe.lifetimes * recipe.episodes
    curves = [thin(run.finished, recipe.steps) for run in trained if len(run.finished)]
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
            "curve": curves[0] if curves else [],
            **({"seeds": _over_seeds(measured, curves)} if recipe.seeds > 1 else {}),
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
) -> tuple[list[Interval], list[Expert]]:
    """Return the expert's return with each seed, and what was trained if anything was."""
    trained: list[Expert] = []
    agents: list[Agent] = []
    if recipe.ppo is not None:
        trained = train_experts(spec, recipe, progress)
        discrete = spec.action_kind == "discrete"
        agents = [PolicyAgent(expert.policy, discrete) for expert in trained]
    elif recipe.controller is not None:
        agents = [Controller("expert", recipe.controller)]
    elif recipe.planner is None:
        lifetimes = play_oracle(spec, recipe.lifetimes, recipe.episodes)
        return [_interval(lifetimes, recipe.episodes)], trained
    test = _World(spec, recipe, "test", recipe.lifetimes, dict(recipe.privileges))
    if recipe.planner is not None:
        agents = [Planner("expert", test.world.env, recipe.planner)]
    return test.play(agents, "expert", progress), trained


def _over_seeds(measured: Sequence[Interval], curves: Sequence[Any]) -> dict[str, Any]:
    """Summarise the experts of several seeds."""
    returns = [interval.estimate for interval in measured]
    middle = bootstrap_interval(returns, iqm)
    return {
        "returns": [_short(value) for value in returns],
        "iqm": _short(middle.estimate),
        "low": _short(middle.low),
        "high": _short(middle.high),
        "curves": list(curves),
    }


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
