"""Grid worlds with a hidden goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.checks import check_count
from gla.envs.random_linear import check_number
from gla.envs.random_tabular import TabularEnvironment, TabularParams, TabularState, cumulative
from gla.errors import GlaError, near_matches

Cell = tuple[int, int]
Observation = Literal["one-hot", "coordinates"]

UP, RIGHT, DOWN, LEFT, STAY = (-1, 0), (0, 1), (1, 0), (0, -1), (0, 0)


def grid_successors(rows: int, columns: int, moves: Sequence[Cell]) -> np.ndarray:
    """Return where each move leads from each cell of a walled grid, i32[rows * columns, moves].

    Cells are numbered row by row from the upper left; a move into the wall stays where it is.

    Args:
        rows: number of rows.
        columns: number of columns.
        moves: (row, column) steps.
    """
    row, column = np.divmod(np.arange(rows * columns)[:, None], columns)
    down, right = np.array(moves).T
    to_row = np.clip(row + down, 0, rows - 1)
    to_column = np.clip(column + right, 0, columns - 1)
    return (to_row * columns + to_column).astype(np.int32)


def draw_grid(
    rows: int, columns: int, agent: int, goal: int, start: int = -1, hazards: Sequence[int] = ()
) -> np.ndarray:
    """Draw a grid of cells, numbered row by row from the upper left: uint8[256, 256, 3].

    Args:
        rows: number of rows.
        columns: number of columns.
        agent: cell of the agent, a disc.
        goal: cell of the goal, green with a diamond.
        start: cell with a mark, or -1.
        hazards: cells to keep out of, orange.
    """
    from gla.envs import drawing

    canvas = drawing.Canvas((-0.15, -0.15), (columns + 0.15, rows + 0.15))
    gap = 0.04
    for cell in range(rows * columns):
        row, column = divmod(cell, columns)
        left, low = column + gap, rows - 1 - row + gap
        side = 1 - 2 * gap
        middle = np.array([column + 0.5, rows - row - 0.5])
        corners = np.array([(0, 0), (side, 0), (side, side), (0, side)]) + (left, low)
        colour = drawing.GRID
        if cell == goal:
            colour = drawing.GOAL
        elif cell in hazards:
            colour = drawing.HAZARD
        canvas.polygon(corners, colour)
        if cell == goal:
            diamond = middle + 0.24 * np.array([(-1, 0), (0, -1), (1, 0), (0, 1)])
            canvas.polygon(diamond, drawing.BACKGROUND)
        if cell == start:
            canvas.polygon((corners - middle) * 0.8 + middle, drawing.BACKGROUND)
            canvas.polygon((corners - middle) * 0.7 + middle, drawing.GRID)
        if cell == agent:
            canvas.disc(middle, 0.34, drawing.BACKGROUND)
            canvas.disc(middle, 0.3, drawing.AGENT)
    return canvas.array()


@dataclass(frozen=True)
class GridworldConfig:
    """Size and rules of the grid.

    Attributes:
        size: N, rows and columns of the grid, at least 2.
        goal: (row, column) of the goal, from (0, 0) at the upper left, the same for every task; or
            `random` for a goal of its own in every task.
        start: (row, column) of the first cell of every episode; or `random` for any cell but the
            goal, drawn anew in every episode.
        horizon: steps in an episode.
        goal_ends: whether entering the goal ends the episode; otherwise every step that ends there
            pays.
        step_reward: reward of a step that does not end on the goal (which pays 1), at most 0.
        stay: whether there is a fifth action that does nothing.
        observation: `one-hot`, f32[N * N], or `coordinates`, the f32[2] row and column in 0..N-1.

    Raises:
        GlaError: if a value is out of its range, a cell lies outside the grid, or the goal is the
            start and ends the episode.
    """

    size: int = 3
    goal: Cell | Literal["random"] = "random"
    start: Cell | Literal["random"] = (0, 0)
    horizon: int = 20
    goal_ends: bool = True
    step_reward: float = -0.05
    stay: bool = False
    observation: Observation = "one-hot"

    def __post_init__(self):
        for name in ("size", "horizon"):
            check_count(name, getattr(self, name))
        if self.size < 2:
            raise GlaError(f"size is {self.size}", "a whole number of at least 2")
        check_cell("goal", self.goal, self.size)
        check_cell("start", self.start, self.size)
        check_number("step_reward", self.step_reward, high=0.0)
        check_choice("observation", self.observation, ("one-hot", "coordinates"))
        if self.goal_ends and self.goal != "random" and tuple(self.goal) == tuple(self.start):
            raise GlaError(f"goal and start are both {self.goal}", "two different cells")


def check_cell(name: str, value: Any, size: int) -> None:
    """Raise a `GlaError` unless `value` is `random` or a (row, column) of a grid of `size` rows."""
    if isinstance(value, str) and value == "random":
        return
    whole = isinstance(value, (tuple, list)) and all(
        isinstance(v, (int, np.integer)) and not isinstance(v, bool) and 0 <= v < size
        for v in value
    )
    if not whole or len(value) != 2:
        raise GlaError(
            f"{name} is {value!r}", f"'random' or a (row, column), each from 0 to {size - 1}"
        )


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise a `GlaError` unless `value` is one of `choices`."""
    if value not in choices:
        near = near_matches(value, choices) if isinstance(value, str) else ""
        raise GlaError(f"{name} is {value!r}{near}", " or ".join(map(repr, choices)))


class Gridworld(TabularEnvironment):
    """An N x N grid, walled, with directional moves and a goal that is hidden from the agent.

    The GLA paper (Section 3 and Fig. 3, left) uses "a 3x3 grid with directional movement actions
    and a goal position at a fixed location": that is
    `GridworldConfig(goal=(2, 2))`. The paper leaves open the start, the rewards, the observation
    and the length of an episode. Here an episode starts in the upper left cell and lasts at most
    20 steps; entering the goal pays 1 and ends it, every other step costs 0.05, so the return says
    how quickly the goal is found: it lies in [-1, 1], 0.85 for the far corner in four steps. The
    cell is observed one-hot; actions are 0 up, 1 right, 2 down, 3 left (and 4 stay).

    A random goal is any cell but the fixed start. Where the goal does not end the episode, or the
    start is random, it may be any cell. `distinct_tasks` is the number of goals.

    Args:
        config: size and rules.
    """

    moves: tuple[Cell, ...] = (UP, RIGHT, DOWN, LEFT, STAY)
    can_render = True

    def __init__(self, config: GridworldConfig | None = None, name: str = "Gridworld"):
        self.config = c = config or GridworldConfig()
        super().__init__(name, c.size**2, 5 if c.stay else 4, c.horizon)
        if c.observation == "coordinates":
            self.observation_space = gymnasium.spaces.Box(0.0, c.size - 1.0, (2,), np.float32)
        self.distinct_tasks = len(self._goals())

    def _goals(self) -> np.ndarray:
        """Return the cells where the goal may be, i32[distinct_tasks]."""
        c = self.config
        if c.goal != "random":
            return np.array([self._number(c.goal)], np.int32)
        cells = np.arange(self.states, dtype=np.int32)
        if c.goal_ends and c.start != "random":
            return np.delete(cells, self._number(c.start))
        return cells

    def _number(self, cell: Any) -> int:
        return int(cell[0]) * self.config.size + int(cell[1])

    def observe(self, number: jax.Array) -> jax.Array:
        """Return the observation of a cell, i32[]: one-hot f32[N * N], or (row, column) f32[2]."""
        if self.config.observation == "one-hot":
            return super().observe(number)
        size = self.config.size
        return jnp.stack([number // size, number % size]).astype(jnp.float32)

    def sample_params(self, key: jax.Array) -> TabularParams:
        """Draw the goal and write the tables of the grid."""
        c = self.config
        goal = jax.random.choice(key, self._goals())
        cells = jnp.arange(self.states)
        moves = self.moves[: int(self.action_space.n)]  # type: ignore[attr-defined]
        successors = jnp.asarray(grid_successors(c.size, c.size, moves))[..., None]
        if c.start == "random":
            starts = (cells != goal) / (self.states - 1)
        else:
            starts = (cells == self._number(c.start)).astype(jnp.float32)
        return TabularParams(
            successors,
            jnp.ones(successors.shape, jnp.float32),
            jnp.where(successors == goal, 1.0, jnp.float32(c.step_reward)),
            (cells == goal) & c.goal_ends,
            cumulative(starts),
        )

    def render(self, state: TabularState, params: TabularParams) -> np.ndarray:
        """Draw the grid, the agent and the hidden goal: uint8[256, 256, 3]."""
        arrivals = np.asarray(params.successors)[np.asarray(params.rewards) == 1.0]
        start = -1 if self.config.start == "random" else self._number(self.config.start)
        size = self.config.size
        return draw_grid(size, size, int(state.number), int(arrivals[0]), start)
