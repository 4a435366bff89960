"""Watch an agent live one lifetime: its first and its last whole episode, side by side.

What is watched is lifetime i of a meta-test (`gla.benchmarks.runner`) with the same seed: the same
task, projection, episodes and random numbers. It is run step by step, where a meta-test runs many
steps and lifetimes as one program, so sums may be rounded otherwise.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from gla.agents.base import Agent
from gla.agents.external import load_agent
from gla.benchmarks import film
from gla.benchmarks.results import Lifetime
from gla.benchmarks.runner import (
    MetaTestConfig,
    lifetimes_of,
    make_lens,
    make_world,
    run_agent,
)
from gla.benchmarks.worlds import FunctionalWorld, HostWorld, World
from gla.checkpoints import Which
from gla.envs import registry
from gla.envs.base import Environment
from gla.envs.splits import Split, step_key
from gla.errors import GlaError
from gla.progress import Progress

_EPISODES = 8  # of the longest length, in a lifetime whose steps nobody named


@dataclass(frozen=True)
class WatchConfig:
    """Which lifetime is watched, and for how long.

    Attributes:
        steps: environment steps of the lifetime; 0 for eight episodes of the longest length.
        lifetime: number of the lifetime in a meta-test.
        seed: seed of the meta-test: of tasks, projections, episodes and actions.
        split: task split.
        masked: hide the rewards, to watch the agent's reward-masked twin.
        size: height of the pictures of the environment, in pixels.

    Raises:
        GlaError: if a value is out of its range.
    """

    steps: int = 0
    lifetime: int = 0
    seed: int = 0
    split: Split = "test"
    masked: bool = False
    size: int = 240

    def __post_init__(self):
        if self.steps < 0:
            raise GlaError(f"steps is {self.steps}", "a number >= 1, or 0 for eight episodes")
        if not 32 <= self.size <= 1080:
            raise GlaError(f"size is {self.size}", "a number of pixels from 32 to 1080")


class Watched(NamedTuple):
    """What was watched.

    Attributes:
        path: of the film.
        lifetime: returns and lengths of its whole episodes.
        stride: every how many steps there is a picture.
    """

    path: Path
    lifetime: Lifetime
    stride: int

    @property
    def sentence(self) -> str:
        """What is to be seen, in one line."""
        returns = self.lifetime.episode_returns
        said = f"film: {self.path} (episode 1: return {film.number(returns[0])}"
        if len(returns) > 1:
            said += f", episode {len(returns)}: {film.number(returns[-1])}"
        return said + (f"; one step in {self.stride} is shown)" if self.stride > 1 else ")")


class Camera:
    """A world of one lifetime that takes pictures of it; for `run_agent` it is the world itself.

    Episodes are pictured that may turn out to be the first or the last whole one. An episode's end
    and the next one's start are one step, so its last picture is taken in the midst of that step.

    Args:
        world: of one lifetime.
        steps: how many will be taken.
        horizon: longest length of an episode; `math.inf` if unknown.
        size: height of the pictures.

    Attributes:
        first: the first episode.
        last: the last one of those that are whole.

    Raises:
        GlaError: if the environment cannot be drawn, or not on this machine.
    """

    def __init__(self, world: World, steps: int, horizon: float, size: int):
        self.plain, self.name, self.rows = world.plain, world.name, world.rows
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.first: film.Reel | None = None
        self.last: film.Reel | None = None
        self._world, self._steps, self._horizon, self._size = world, steps, horizon, size
        self._reel: film.Reel | None = None
        self._number = self._episode = self._within = 0
        self._total = 0.0
        if isinstance(world, HostWorld):
            simulator = world.env.envs[0]  # type: ignore[attr-defined]
            self._host, self._reset_host = simulator, simulator.reset
            simulator.reset = self._before_reset

    def reset(self) -> np.ndarray:
        """Start the lifetime: f32[1, n]."""
        observation = self._world.reset()
        self._number = self._episode = 0
        self._begin()
        return observation

    def step(self, action: Any) -> tuple[np.ndarray, ...]:
        """Advance the lifetime: (observation, reward, terminated, truncated)."""
        world = self._world
        before = world._state if isinstance(world, FunctionalWorld) else None
        seen = world.step(action)
        self._within += 1
        self._total += float(seen[1][0])
        ended = bool(seen[2][0] or seen[3][0])
        if self._reel and ended:
            if isinstance(world, FunctionalWorld):
                self._shot = self._shrunk(_last_picture(world, self._number, before, action))
            self._reel.take(self._within, self._shot, self._total)
            self.first, self.last = self.first or self._reel, self._reel
        elif self._reel and self._reel.wants(self._within):
            self._reel.take(self._within, self._picture(), self._total)
        self._number += 1
        if ended:
            self._begin()
        return seen

    def _begin(self) -> None:
        """Begin an episode; it is pictured unless another whole one must come after it."""
        self._reel = None
        self._episode, self._within, self._total = self._episode + 1, 0, 0.0
        if self._episode == 1 or self._number + 2 * self._horizon > self._steps:
            self._reel = film.Reel(self._episode)
            self._reel.take(0, self._picture(), 0.0)

    def _before_reset(self, **kwargs: Any) -> Any:
        """Take the last picture of an episode of a host simulator, then let it reset."""
        if self._reel:
            self._shot = self._picture()
        return self._reset_host(**kwargs)

    def _picture(self) -> np.ndarray:
        world = self._world
        if isinstance(world, FunctionalWorld):
            return self._shrunk(world.env.render(_row(world._state), _row(world.params)))
        return self._shrunk(self._host.render())

    def _shrunk(self, picture: np.ndarray) -> np.ndarray:
        """Return a picture at the height that was asked for."""
        from PIL import Image

        image = Image.fromarray(np.asarray(picture, np.uint8))
        width = max(round(image.width * self._size / image.height), 1)
        return np.array(image.resize((width, self._size), Image.Resampling.LANCZOS))


def _row(tree: Any) -> Any:
    """Return the only row of stacked arrays."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _last_picture(world: FunctionalWorld, number: int, state: Any, action: Any) -> np.ndarray:
    """Take the step that ended an episode once more, without the reset, and draw where it led."""
    limited = world.env.env  # type: ignore[attr-defined]
    key = world.keys.environment[0]
    params = _row(world.params)
    state = _step_alone(limited, number, _row(state), np.asarray(action)[0], params, key)
    return limited.render(state, params)


@functools.partial(jax.jit, static_argnums=0)
def _step_alone(env: Environment, number: Any, state: Any, action: Any, params: Any, key: Any):
    step, _ = jax.random.split(step_key(key, number, 0))  # as `Autoreset` does
    return env.step(step, state, action, params)[0]


def film_lifetime(
    agent: Agent, environment: str, config: WatchConfig, progress: bool = True
) -> tuple[film.Film, Lifetime]:
    """Let an agent live one lifetime and film it.

    Args:
        agent: any `Agent`.
        environment: id of an environment that can be drawn, with options if need be
            (`gla.envs.registry.split_options`).
        config: which lifetime.
        progress: show a progress bar.

    Returns:
        The film, and the returns and lengths of all whole episodes.

    Raises:
        GlaError: if the environment cannot be drawn, or not on this machine; if no episode is
            whole; and as `make_world`, `make_lens` and `run_agent` do.
    """
    spec, options, _ = registry.resolve(environment)
    # With options of its own an environment may have longer episodes than the table says.
    horizon = math.inf if options else spec.horizon
    test = MetaTestConfig(
        environment,
        lifetimes=1,
        steps=config.steps or _EPISODES * spec.horizon,
        seed=config.seed,
        first=config.lifetime,
        split=config.split,
    )
    world = make_world(test, **({"render_mode": "rgb_array"} if spec.kind == "host" else {}))
    try:
        if isinstance(world, FunctionalWorld) and not world.plain.can_render:
            raise GlaError(
                f"there are no pictures of {spec.id}",
                "an environment that can be drawn",
                "`gla envs show ID` shows a picture of those that can",
            )
        lens = make_lens(world, agent.view, test) if agent.view else None
        camera = Camera(world, test.steps, horizon, config.size)
        with Progress(f"watch {spec.id}", test.steps, "steps", enabled=progress) as bar:
            trace = run_agent(
                agent, cast(World, camera), test, lens, config.masked, tick=bar.advance
            )
    finally:
        world.close()
    lifetime = lifetimes_of(trace)[0]
    if camera.first is None or camera.last is None:
        raise GlaError(
            f"no episode of {spec.id} is whole after {test.steps} steps",
            f"as many steps as an episode has, up to {spec.horizon}",
        )
    stored = registry.references(environment)
    masked = ", rewards masked" if config.masked else ""
    shot = film.Film(
        f"{environment}: {agent.name}{masked}, lifetime {config.lifetime}",
        [camera.first] if camera.last is camera.first else [camera.first, camera.last],
        lifetime.episode_returns,
        stored.get("null", {}).get("return"),
        stored.get("expert", {}).get("return"),
    )
    return shot, lifetime


def watch(
    spec: str,
    environment: str,
    out: str | os.PathLike[str],
    config: WatchConfig = WatchConfig(),  # noqa: B008
    which: Which = "latest",
    ask: Mapping[str, float] | None = None,
    progress: bool = True,
) -> Watched:
    """Film an agent's first and last whole episode of one lifetime, and its returns.

    Args:
        spec: checkpoint folder, or module:factory of an agent.
        environment: id of an environment that can be drawn.
        out: file to write, `.gif` or `.mp4`; one that is there is replaced.
        config: which lifetime.
        which: of a checkpoint folder, the `latest` weights or the `best`.
        ask: of a checkpoint folder, how much improvement is asked for.
        progress: show a progress bar.

    Raises:
        GlaError: as `load_agent`, `film_lifetime` and `gla.benchmarks.film.write_film` do.
    """
    path = film.check_name(out)
    shot, lifetime = film_lifetime(load_agent(spec, which, ask), environment, config, progress)
    film.write_film(film.pictures(shot), path)
    return Watched(path, lifetime, shot.stride)
