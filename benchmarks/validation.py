"""Validation during meta-training: the weights act on unseen tasks of named environments."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from gla.agents.base import View
from gla.agents.gla import GLAAgent
from gla.benchmarks.runner import MetaTestConfig, make_lens, make_world, run_agent
from gla.histories import HistoryStore
from gla.normalization import normalize_reward
from gla.training import MetaTrainConfig, make_interface


class Validator:
    """Acts with given parameters on validation tasks: a `validate` of `gla.training.meta_train`.

    Tasks (of the `validation` split, so neither trained on nor met at meta-test), projections and
    random numbers are the same at every call, so equal parameters have equal scores. Rewards are
    normalised per task as the agent sees them, so that no environment drowns another.

    Args:
        config: the whole training; `config.validation` names environments, lifetimes and steps.

    Raises:
        GlaError: if there are no histories, or an environment is unknown, has the other kind of
            actions or does not fit into agent space.
    """

    def __init__(self, config: MetaTrainConfig):
        own = config.validation
        # Stores are checked by the training itself; here one is asked for its kind of actions.
        discrete = bool(config.histories) and HistoryStore.open(config.histories[0]).meta.discrete
        interface, view = make_interface(config, discrete), View(config.projection)
        # The parameters are filled in at every call. One agent, as programs are kept by its `act`.
        self._agent = GLAAgent(None, config.model, interface, view)
        self._tests = []
        for id in own.environments:
            test = MetaTestConfig(
                id, own.lifetimes, own.steps, seed=config.seed, split="validation"
            )
            world = make_world(test)
            self._agent.init(None, 1, world.observation_space, world.action_space)
            self._tests.append((test, world, make_lens(world, view, test)))

    def __call__(self, params: Any) -> dict[str, float]:
        """Let the parameters act.

        Args:
            params: of the model.

        Returns:
            `score`, the mean over environments of the normalised reward per step in the last
            quarter of the lifetimes, and for each environment that number (`<name>/late`) and how
            much it is above that of the first quarter (`<name>/gain`).
        """
        self._agent.params = params
        found: dict[str, float] = {}
        late = []
        for test, world, lens in self._tests:
            trace = run_agent(self._agent, world, test, lens)
            reward = np.asarray(normalize_reward(lens.statistics, jnp.asarray(trace.reward)))
            quarter = max(1, len(reward) // 4)
            first, last = (
                part.mean(dtype=np.float64) for part in (reward[:quarter], reward[-quarter:])
            )
            late.append(last)
            name = test.environment.split("/")[-1]
            found |= {f"{name}/late": float(last), f"{name}/gain": float(last - first)}
        return {"score": float(np.mean(late)), **found}

    def close(self):
        """Give simulators back."""
        for _, world, _ in self._tests:
            world.close()
