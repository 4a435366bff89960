"""Known tabular tasks: FrozenLake, CliffWalking and Darkroom.

None of them is drawn by the random families, which makes them held-out tests of an agent that was
meta-trained on those.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.gridworld import (
    DOWN,
    LEFT,
    RIGHT,
    STAY,
    UP,
    Cell,
    Gridworld,
    GridworldConfig,
    check_choice,
    draw_grid,
    grid_successors,
)
from gla.envs.random_tabular import TabularEnvironment, TabularParams, TabularState, cumulative

# S start, F ice, H hole, G goal: Gymnasium's own maps of these names.
LAKES = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": (
        "SFFFFFFF",
        "FFFFFFFF",
        "FFFHFFFF",
        "FFFFFHFF",
        "FFFHFFFF",
        "FHHFFFHF",
        "FHFFHFHF",
        "FFFHFFFG",
    ),
}
LAKE_HORIZONS = {"4x4": 100, "8x8": 200}


class FrozenLake(TabularEnvironment):
    """Gymnasium's FrozenLake-v1, to the last entry of its tables, in JAX.

    Cross the ice from the upper left to the lower right: the goal pays 1 and ends the episode, a
    hole ends it unpaid. On slippery ice the walker goes each with probability 1/3 as told or to
    one of the two sides. Actions are 0 left, 1 down, 2 right, 3 up. The cell is observed one-hot,
    f32[16] or f32[64]. The best policy succeeds with probability 0.74 within 100 steps of the
    slippery 4x4 lake.

    Args:
        map_name: `4x4` or `8x8`.
        slippery: whether the walker slips.
        horizon: steps in an episode (default: Gymnasium's, 100 on the 4x4 map, 200 on the 8x8).

    Raises:
        GlaError: if there is no such map, or the horizon is not at least 1.
    """

    can_render = True

    def __init__(
        self,
        map_name: Literal["4x4", "8x8"] = "4x4",
        slippery: bool = True,
        horizon: int | None = None,
    ):
        check_choice("map_name", map_name, tuple(LAKES))
        self.map_name, self.slippery = map_name, slippery
        limit = LAKE_HORIZONS[map_name] if horizon is None else horizon
        super().__init__("FrozenLake", len(LAKES[map_name]) ** 2, 4, limit)

    def sample_params(self, key: jax.Array) -> TabularParams:
        """Return the tables of the lake, whatever the key."""
        del key
        lake = LAKES[self.map_name]
        tiles = np.array([list(row) for row in lake]).reshape(-1)
        towards = grid_successors(len(lake), len(lake), (LEFT, DOWN, RIGHT, UP))
        terminal = np.isin(tiles, ("G", "H"))
        towards[terminal] = np.flatnonzero(terminal)[:, None]
        turns = (-1, 0, 1) if self.slippery else (0,)
        successors = np.stack([towards[:, (np.arange(4) + turn) % 4] for turn in turns], -1)
        arrives = (tiles == "G")[successors] & ~terminal[:, None, None]
        return TabularParams(
            jnp.asarray(successors),
            cumulative(jnp.full(successors.shape, 1.0 / len(turns))),
            jnp.asarray(arrives, jnp.float32),
            jnp.asarray(terminal),
            cumulative(jnp.asarray(tiles == "S", jnp.float32)),
        )

    def render(self, state: TabularState, params: TabularParams) -> np.ndarray:
        """Draw the lake; holes are orange: uint8[256, 256, 3]."""
        del params
        lake = LAKES[self.map_name]
        tiles = "".join(lake)
        holes = [i for i, tile in enumerate(tiles) if tile == "H"]
        return draw_grid(
            len(lake), len(lake), int(state.number), tiles.index("G"), tiles.index("S"), holes
        )


class CliffWalking(TabularEnvironment):
    """Gymnasium's CliffWalking-v1 (not slippery), to the last entry of its tables, in JAX.

    Sutton and Barto, "Reinforcement Learning: An Introduction" (2nd edition), Example 6.6: walk
    from the lower left to the lower right corner of a 4 x 12 grid. Each step pays -1, falling off
    the cliff between the corners pays -100 and puts the walker back to the start, the goal ends
    the episode. Actions are 0 up, 1 right, 2 down, 3 left. The cell is observed one-hot, f32[48].
    The best return is -13.

    Gymnasium sets no time limit, and a policy that never arrives would never end. The limit here
    is 100 steps, more than seven times what the best policy needs; returns lie in [-10000, -13].

    Args:
        horizon: steps in an episode.

    Raises:
        GlaError: if the horizon is not at least 1.
    """

    ROWS, COLUMNS = 4, 12
    can_render = True

    def __init__(self, horizon: int = 100):
        super().__init__("CliffWalking", self.ROWS * self.COLUMNS, 4, horizon)

    def sample_params(self, key: jax.Array) -> TabularParams:
        """Return the tables of the cliff, whatever the key."""
        del key
        start, goal = self.states - self.COLUMNS, self.states - 1
        towards = grid_successors(self.ROWS, self.COLUMNS, (UP, RIGHT, DOWN, LEFT))
        falls = (towards > start) & (towards < goal)
        successors = np.where(falls, start, towards)[..., None]
        cells = jnp.arange(self.states)
        return TabularParams(
            jnp.asarray(successors, jnp.int32),
            jnp.ones(successors.shape, jnp.float32),
            jnp.asarray(np.where(falls, -100.0, -1.0)[..., None], jnp.float32),
            cells == goal,
            cumulative(cells == start),
        )

    def render(self, state: TabularState, params: TabularParams) -> np.ndarray:
        """Draw the grid; the cliff is orange: uint8[256, 256, 3]."""
        del params
        start, goal = self.states - self.COLUMNS, self.states - 1
        cliff = range(start + 1, goal)
        return draw_grid(self.ROWS, self.COLUMNS, int(state.number), goal, start, cliff)


class Darkroom(Gridworld):
    """A dark room with a hidden goal, as in in-context reinforcement learning papers.

    The defaults are those of the Decision-Pretrained Transformer (Lee et al. 2023,
    arXiv:2306.14892, and its code): 10 x 10 cells, episodes of 100 steps from the corner (0, 0),
    five actions (0 and 1 change the first coordinate by +1 and -1, 2 and 3 the second, 4 stays),
    and a reward of 1 for every step that ends on the goal, which does not end the episode. Each of
    the 100 cells is a task. The agent sees its coordinates alone, f32[2] in 0..9; returns lie in
    [0, 100], and the best is 101 minus the distance of the goal from the corner, at most 100.

    Algorithm Distillation (Laskin et al. 2022, arXiv:2210.14215) has 9 x 9 cells, episodes of 20
    steps from the centre: `Darkroom(9, 20, start="center")`; its hard variant, 17 x 17 with a
    reward that is paid once, is `Darkroom(17, 20, start="center", goal_ends=True)`, where the goal
    ends the episode because nothing more can be earned in it.

    Args:
        size: rows and columns of the room, at least 2.
        horizon: steps in an episode.
        goal: (row, column) of the goal, or `random` for one of its own in every task.
        start: (row, column) of the first cell; `center`; or `random` for any cell but the goal.
        goal_ends: whether entering the goal ends the episode.
        observation: `coordinates`, f32[2] in 0..size-1, or `one-hot`, f32[size * size].

    Raises:
        GlaError: as `GridworldConfig`.
    """

    moves = (DOWN, UP, RIGHT, LEFT, STAY)

    def __init__(
        self,
        size: int = 10,
        horizon: int = 100,
        goal: Cell | Literal["random"] = "random",
        start: Cell | Literal["center", "random"] = (0, 0),
        goal_ends: bool = False,
        observation: Literal["one-hot", "coordinates"] = "coordinates",
    ):
        if isinstance(start, str) and start == "center" and isinstance(size, int):
            start = (size // 2, size // 2)
        config = GridworldConfig(
            size=size,
            goal=goal,
            start=start,
            horizon=horizon,
            goal_ends=goal_ends,
            step_reward=0.0,
            stay=True,
            observation=observation,
        )
        super().__init__(config, "Darkroom")
