"""How the reference scores of every environment are measured.

The expert is a long PPO run of this package; where PPO finds no good policy, a hand-written
controller or a planner; where a task can be solved exactly, its oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from gla.agents import ppo
from gla.agents.controllers import swing_up_pendulum
from gla.agents.planner import Cost, finger_turn_cost
from gla.errors import GlaError


@dataclass(frozen=True)
class Recipe:
    """How the references of one id are measured.

    Attributes:
        ppo: settings of the expert's training; None where the expert is a controller or a planner
            or, if there is none either, the environment's oracle.
        lifetimes: number of lifetimes of the final measurements; in a family, tasks.
        episodes: episodes of each of them that count.
        screening: lifetimes on which all null controllers compete for the final measurement.
        per_task: train one expert on each task (families), not one for all.
        block: tasks that are trained as one compiled call.
        seed: seed of the expert's training.
        seeds: number of seeds, from that one on, with which it is trained; the first is the expert,
            the others show how far it was luck. One where `per_task`.
        privileges: settings of the environment that only the expert has, such as to see its task.
        controller: a hand-written expert (`gla.agents.controllers`), for tasks that PPO does not
            solve.
        planner: the cost by which an expert plans with the simulator (`gla.agents.planner`),
            likewise.
    """

    ppo: ppo.PPOConfig | None
    lifetimes: int = 64
    episodes: int = 1
    screening: int = 8
    per_task: bool = False
    block: int = 4
    seed: int = 0
    seeds: int = 1
    privileges: tuple[tuple[str, Any], ...] = ()
    controller: Callable[[jax.Array], jax.Array] | None = None
    planner: Cost | None = None

    def __post_init__(self):
        for name in ("lifetimes", "episodes", "screening", "block", "seeds"):
            if getattr(self, name) < 1:
                raise GlaError(f"recipe {name} is {getattr(self, name)}", "a whole number >= 1")
        if self.seeds > 1 and (self.per_task or self.ppo is None):
            raise GlaError("a recipe has several seeds", "one, unless PPO trains a single expert")

    @property
    def steps(self) -> int:
        """Environment steps of one expert's training; 0 for an oracle."""
        return (
            0 if self.ppo is None else self.ppo.num_envs * self.ppo.num_steps * self.ppo.num_updates
        )


def _ppo(envs: int, steps: int, updates: int, **changes: Any) -> ppo.PPOConfig:
    """Settings that suit most long runs."""
    defaults: dict[str, Any] = {
        "epochs": 10,
        "minibatches": 32,
        "learning_rate": 3e-4,
        "anneal": True,
        "gamma": 0.99,
        "hidden": 64,
    }
    return ppo.PPOConfig(
        num_envs=envs, num_steps=steps, num_updates=updates, **{**defaults, **changes}
    )


_FAMILY = Recipe(
    _ppo(16, 50, 150, epochs=8, minibatches=8, learning_rate=1e-3, gamma=0.97, hidden=32),
    episodes=4,
    screening=64,
    per_task=True,
)

# Families whose rewards are often found late, so that experts explore for longer.
_SEARCHING_FAMILY = Recipe(
    _ppo(
        16,
        150,
        300,
        epochs=8,
        minibatches=8,
        learning_rate=1e-3,
        gamma=0.995,
        hidden=32,
        initial_log_std=0.0,
        entropy_coefficient=0.003,
    ),
    episodes=2,
    screening=64,
    per_task=True,
)

_ORACLE = Recipe(None, lifetimes=512, screening=128)
# The expert alone sees in which direction it should run, as two numbers more.
_DIRECTION = Recipe(
    _ppo(16, 256, 300, initial_log_std=-1.0), screening=4, privileges=(("show_direction", True),)
)

RECIPES: dict[str, Recipe] = {
    "gla/RandomGoal-v0": _SEARCHING_FAMILY,
    "gla/RandomHinges-v0": _FAMILY,
    "gla/RandomLinear-v0": _FAMILY,
    "gla/RandomMechanics-v0": _FAMILY,
    "gla/RandomNeural-v0": _FAMILY,
    "gla/RandomPotential-v0": _SEARCHING_FAMILY,
    "gla/Pendulum-v0": Recipe(
        _ppo(32, 200, 150, learning_rate=1e-3, gamma=0.95), lifetimes=512, screening=32, seeds=5
    ),
    "gla/CartPole-v0": Recipe(_ppo(32, 128, 100, learning_rate=1e-3), screening=32, seeds=5),
    "gla/ReacherMisc-v0": Recipe(
        _ppo(32, 200, 400, learning_rate=1e-3, gamma=0.97), lifetimes=128, screening=64
    ),
    "gla/PointRobotMisc-v0": Recipe(
        _ppo(32, 200, 100, learning_rate=1e-3, gamma=0.97), lifetimes=256, screening=64
    ),
    # Reward comes only at the top of the hill, so: many environments, whole episodes and noise as
    # wide as the policy allows, until chance finds it.
    "gla/MountainCarContinuous-v0": Recipe(
        _ppo(64, 999, 30, minibatches=37, gamma=0.999, initial_log_std=0.5), screening=16
    ),
    "gla/BraxReacher-v0": Recipe(
        _ppo(
            64,
            128,
            1000,
            epochs=8,
            minibatches=16,
            learning_rate=1e-3,
            gamma=0.98,
            gae_lambda=0.9,
            initial_log_std=-1.0,
        ),
        lifetimes=128,
        screening=16,
        seeds=5,
    ),
    "gla/BraxAnt-v0": Recipe(_ppo(32, 128, 300, initial_log_std=-1.0), screening=4, seeds=5),
    "gla/Reacher-v0": Recipe(
        _ppo(16, 250, 250, gamma=0.97, initial_log_std=-1.0), lifetimes=128, screening=32, seeds=5
    ),
    "gla/HalfCheetah-v0": Recipe(_ppo(16, 256, 488), seeds=5),
    "gla/Ant-v0": Recipe(_ppo(16, 256, 300, initial_log_std=-1.0), screening=4),
    "gla/CartpoleBalance-v0": Recipe(_ppo(16, 250, 75)),
    "gla/CartpoleSwingup-v0": Recipe(_ppo(16, 250, 250)),
    "gla/ReacherHard-v0": Recipe(_ppo(16, 250, 300), screening=16),
    "gla/PendulumSwingup-v0": Recipe(None, controller=swing_up_pendulum),
    "gla/FingerTurnEasy-v0": Recipe(None, screening=32, planner=finger_turn_cost),
    "gla/Hopper-v0": Recipe(_ppo(16, 256, 400)),
    "gla/ReacherV4-v0": Recipe(
        _ppo(16, 250, 250, gamma=0.97, initial_log_std=-1.0), lifetimes=128, screening=32
    ),
    "gla/HalfCheetahV4-v0": Recipe(_ppo(16, 256, 488)),
    "gla/AntV4-v0": Recipe(_ppo(16, 256, 300, initial_log_std=-1.0), screening=4),
    "gla/AntForwardBackward-v0": _DIRECTION,
    "gla/AntDirection-v0": _DIRECTION,
    "gla/Gridworld-v0": _ORACLE,
    "gla/RandomTabular-v0": _ORACLE,
    "gla/FrozenLake-v0": _ORACLE,
    "gla/CliffWalking-v0": _ORACLE,
    "gla/Darkroom-v0": _ORACLE,
    "gla/BernoulliBandit-v0": _ORACLE,
    "gla/GaussianBandit-v0": _ORACLE,
    "gla/LinearBandit-v0": _ORACLE,
    "gla/SupervisedBandit-v0": _ORACLE,
}
