"""Planning with the simulator itself: an expert for host tasks that PPO does not solve.

Predictive sampling (Howell et al. 2022): try noisy variations of the last plan in copies of the
simulator, keep the cheapest, play its beginning, plan again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import jax
import numpy as np

from gla.agents.base import View
from gla.errors import GlaError

Cost = Callable[[Any, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class PlannerConfig:
    """How far and how widely plans reach.

    Attributes:
        horizon: control steps of a plan.
        knots: parts of a plan in which the action is constant; divides `horizon`.
        samples: plans that are tried each time, the last one and doing nothing among them.
        noise: standard deviation of the variations, in units of the action range [-1, 1].
        every: control steps between plans.
    """

    horizon: int = 40
    knots: int = 8
    samples: int = 24
    noise: float = 0.5
    every: int = 2

    def __post_init__(self):
        if self.samples < 2 or self.every < 1 or self.knots < 1 or self.horizon % self.knots:
            raise GlaError(f"the planner's settings are {self}", "knots that divide the horizon")


class Planner:
    """An agent that plans with the simulators of a vector environment of DeepMind Control tasks.

    It knows their states and dynamics, which no other agent does.

    Args:
        name: for tables.
        envs: the `HostVectorEnv` that it will play.
        cost: maps (MuJoCo model, sensor readings f64[samples, physics steps, sensors]) to costs
            f64[samples].
        config: settings.
        seed: seed of the variations.

    Raises:
        GlaError: if a sub-environment is no DeepMind Control task.
    """

    jittable = False
    view: View | None = None

    def __init__(
        self,
        name: str,
        envs: Any,
        cost: Cost,
        config: PlannerConfig | None = None,
        seed: int = 0,
    ):
        self.name, self.cost, self.config = name, cost, config or PlannerConfig()
        self.tasks = [getattr(env.simulator.unwrapped, "_env", None) for env in envs.envs]
        if any(not hasattr(task, "physics") for task in self.tasks):
            raise GlaError(f"{envs.name} cannot be planned", "tasks of DeepMind Control")
        self.seed = seed

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> dict[str, Any]:
        """Return empty plans f64[num_envs, horizon, k] and the generator of their variations."""
        del keys, observation_space
        size = int((action_space.shape or (1,))[0])
        return {
            "step": 0,
            "plans": np.zeros((num_envs, self.config.horizon, size)),
            "random": np.random.default_rng(self.seed),
        }

    def act(
        self,
        state: dict[str, Any],
        observation: jax.Array,
        reward: jax.Array,
        terminated: jax.Array,
        truncated: jax.Array,
        keys: jax.Array,
    ) -> tuple[dict[str, Any], Any]:
        """Play the plans, made anew every few steps: f32[num_envs, k]."""
        del observation, reward, keys
        plans, ended = state["plans"], np.asarray(terminated) | np.asarray(truncated)
        plans[ended] = 0.0
        for row, task in enumerate(self.tasks):
            if ended[row] or state["step"] % self.config.every == 0:
                plans[row] = self._improve(task, plans[row], state["random"])
        action = plans[:, 0].astype(np.float32)
        state["plans"] = np.concatenate([plans[:, 1:], plans[:, -1:]], 1)
        state["step"] += 1
        return state, action

    def _improve(self, task: Any, plan: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the cheapest of some variations of a plan f64[horizon, k]."""
        import mujoco
        from mujoco import rollout

        c = self.config
        model, data = task.physics.model.ptr, task.physics.data.ptr
        hold = c.horizon // c.knots
        noise = c.noise * random.normal(size=(c.samples, c.knots, plan.shape[1]))
        plans = np.clip(plan + np.repeat(noise, hold, 1), -1.0, 1.0)
        plans[0], plans[1] = plan, 0.0
        low, high = model.actuator_ctrlrange.T
        controls = (low + high) / 2 + (high - low) / 2 * plans
        kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        start = np.zeros(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, data, start, kind)
        _, sensors = rollout.rollout(
            model,
            mujoco.MjData(model),
            np.repeat(start[None], c.samples, 0),
            np.repeat(controls, task._n_sub_steps, 1),
        )
        return plans[int(np.argmin(self.cost(model, sensors)))]


def finger_turn_cost(model: Any, sensors: np.ndarray) -> np.ndarray:
    """Return the cost of plans for DeepMind Control's finger turn tasks, f64[samples].

    The mean distance (m) of the body's tip from the inner part of the goal, and 0.05 for each
    share of the time outside of it.
    """
    tip, goal = (model.sensor(name).adr[0] for name in ("tip", "target"))
    radius = float(model.site("target").size[0])
    away = np.linalg.norm(sensors[..., tip : tip + 3] - sensors[..., goal : goal + 3], axis=-1)
    return np.maximum(away - 0.7 * radius, 0.0).mean(1) + 0.05 * (away > radius).mean(1)
