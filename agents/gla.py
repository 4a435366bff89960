"""GLA at meta-test time (Algorithm 2): frozen weights, a growing history, no gradient."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp

from gla import checkpoints
from gla.agents.base import View
from gla.envs.base import is_discrete
from gla.errors import GlaError
from gla.models import Cache, Transformer, TransformerConfig
from gla.projection import ProjectionConfig
from gla.tokens import Interface, gaussian_outputs, make_tokens


class GLAState(NamedTuple):
    """What acting needs: weights (never changed) and the history of every lifetime.

    Attributes:
        params: the model's parameters. They travel in the state so that a compiled program takes
            them as an argument rather than as constants.
        cache: the model's memory of each history.
        previous_action: f32[N, m], zero at the start of a lifetime.
    """

    params: Any
    cache: Cache
    previous_action: jax.Array


class GLAAgent:
    """A meta-trained sequence model that acts.

    Args:
        params: the model's parameters.
        model: its size.
        interface: agent space.
        view: how tasks are shown.
        name: for tables.
    """

    jittable = True

    def __init__(
        self,
        params: Any,
        model: TransformerConfig,
        interface: Interface,
        view: View,
        name: str = "gla",
    ):
        self.params, self.config, self.interface = params, model, interface
        self.view: View | None = view
        self.name = name
        self._model = Transformer(model, interface.outputs)

    def init(
        self,
        key: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> GLAState:
        """Return empty histories.

        Raises:
            GlaError: if the agent was trained for the other kind of actions.
        """
        del key, observation_space
        if is_discrete(action_space) != self.interface.discrete:
            kinds = ("continuous", "discrete")
            raise GlaError(
                f"the agent {self.name!r} was meta-trained on {kinds[self.interface.discrete]} "
                f"actions and this environment's are {kinds[is_discrete(action_space)]}",
                f"an environment with {kinds[self.interface.discrete]} actions",
            )
        cache = Transformer.empty_cache(self.config, num_envs)
        return GLAState(self.params, cache, jnp.zeros((num_envs, self.interface.action_dim)))

    def act(self, state, observation, reward, terminated, truncated, key):
        """Append one transition to each history and sample from the predicted distribution."""
        token = make_tokens(observation, state.previous_action, reward, terminated, truncated)
        outputs: Any
        cache: Any
        outputs, cache = self._model.apply(
            state.params, token, state.cache, method=Transformer.step
        )
        if self.interface.discrete:
            action = jax.random.categorical(key, outputs).astype(jnp.int32)
            shown = jax.nn.one_hot(action, self.interface.action_dim)
        else:
            mean, log_std = gaussian_outputs(outputs)
            action = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
            shown = action
        return GLAState(state.params, cache, shown), action


def load(path: str | os.PathLike, name: str = "gla") -> GLAAgent:
    """Load the agent of a checkpoint folder.

    Raises:
        GlaError: if the folder is none, or holds no checkpoint or one that does not fit.
    """
    from gla.training import config_from_json as read_config
    from gla.training import init_state

    folder = Path(path).absolute()
    description = checkpoints.describe(folder)
    try:
        config = read_config(description["training"])
        interface = Interface(**description["interface"])
    except (KeyError, TypeError) as error:
        raise GlaError(
            f"{folder / 'config.json'} lacks or adds settings ({error})",
            "a file written by this version of gla",
        ) from None
    state = checkpoints.restore_latest(
        folder, jax.eval_shape(lambda: init_state(config, interface))
    )
    view = View(ProjectionConfig(**description["training"]["projection"]))
    return GLAAgent(state.params, config.model, interface, view, name)
