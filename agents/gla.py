"""GLA at meta-test time (Algorithm 2): frozen weights, a growing history, no gradient."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp

from gla.agents.base import View, each
from gla.checkpoints import Which
from gla.envs.base import is_discrete
from gla.errors import GlaError, near_matches
from gla.models import ModelConfig, State, make_model
from gla.tokens import Interface, condition_features, gaussian_outputs, make_tokens

# What a user may ask for. The third condition, the position in the lifetime, the agent counts.
ASKABLE = ("gap", "return")


class GLAState(NamedTuple):
    """What acting needs: weights (never changed) and the history of every lifetime.

    Attributes:
        params: the model's parameters. They travel in the state so that a compiled program takes
            them as an argument rather than as constants.
        memory: the model's memory of each history.
        previous_action: f32[N, m], zero at the start of a lifetime.
        noise: f32[N, m], standard normal, from which the last action was drawn.
    """

    params: Any
    memory: State
    previous_action: jax.Array
    noise: jax.Array


class GLAAgent:
    """A meta-trained sequence model that acts.

    Args:
        params: the model's parameters.
        model: its kind and size.
        interface: what it reads and writes.
        view: how tasks are shown.
        name: for tables.
        ask: how much improvement to ask for (the paper's eta), of a model that was trained with
            such conditions: `gap`, PPO updates that the policy asked for lies ahead, and `return`,
            its mean normalised reward per step. What is not asked for is shown as unknown.
        correlation: of the noise of successive actions, in [0, 1), see `ActingConfig`.

    Raises:
        GlaError: if something is asked for that the model does not read.
    """

    jittable = True

    def __init__(
        self,
        params: Any,
        model: ModelConfig,
        interface: Interface,
        view: View,
        name: str = "gla",
        ask: Mapping[str, float] | None = None,
        correlation: float = 0.0,
    ):
        self.params, self.interface, self.correlation = params, interface, correlation
        self.view: View | None = view
        self.ask = dict(ask or {})
        condition_features(interface, self.ask)  # refuses what the model does not read
        asked = ", ".join(f"{what} {value:g}" for what, value in self.ask.items())
        self.name = f"{name} ({asked})" if asked else name
        self.model = make_model(model, interface.token_size, interface.outputs)

    def init(
        self,
        keys: jax.Array | None,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> GLAState:
        """Return empty histories.

        Raises:
            GlaError: if the agent was trained for the other kind of actions.
        """
        del observation_space
        if is_discrete(action_space) != self.interface.discrete:
            kinds = ("continuous", "discrete")
            raise GlaError(
                f"the agent {self.name!r} was meta-trained on {kinds[self.interface.discrete]} "
                f"actions and this environment's are {kinds[is_discrete(action_space)]}",
                f"an environment with {kinds[self.interface.discrete]} actions",
            )
        memory = self.model.initial_state(num_envs)
        nothing = jnp.zeros((num_envs, self.interface.action_dim))
        noise = nothing
        if self.correlation and keys is not None:
            noise = each(lambda key: jax.random.normal(key, nothing.shape[1:]), keys)
        return GLAState(self.params, memory, nothing, noise)

    def act(self, state, observation, reward, terminated, truncated, keys):
        """Append one transition to each history and sample from the predicted distribution."""
        token = self.tokens(
            observation, state.previous_action, reward, terminated, truncated, state.memory.length
        )
        outputs, memory = self.model.step(state.params, token, state.memory)
        noise = each(lambda key: jax.random.normal(key, state.noise.shape[1:]), keys)
        if self.correlation:
            rho = self.correlation
            noise = rho * state.noise + math.sqrt(1.0 - rho**2) * noise
        action = self._sample(keys, noise, self.interface.split(outputs).action)
        shown = action
        if self.interface.discrete:
            shown = jax.nn.one_hot(action, self.interface.action_dim)
        return GLAState(state.params, memory, shown, noise), action

    def tokens(
        self,
        observation: jax.Array,
        previous_action: jax.Array,
        reward: jax.Array,
        terminated: jax.Array,
        truncated: jax.Array,
        position: jax.Array,
    ) -> jax.Array:
        """Return what the model reads, with the improvement that is asked for.

        Args:
            observation: f32[..., n], in agent space.
            previous_action: f32[..., m], slots as one-hot; zero at the start of a lifetime.
            reward: f32[...], of the previous step, normalised; zero at the start.
            terminated: bool[...], of the previous step.
            truncated: bool[...], likewise.
            position: i32[...], steps since the lifetime began.

        Returns:
            f32[..., token_size].
        """
        conditions: dict[str, Any] = dict(self.ask)
        if "position" in self.interface.conditions:
            conditions["position"] = position
        return make_tokens(
            observation,
            previous_action,
            reward,
            terminated,
            truncated,
            condition_features(self.interface, conditions, reward.shape),
        )

    def _sample(self, keys: jax.Array, noise: jax.Array, outputs: jax.Array) -> jax.Array:
        if self.interface.discrete:
            if not self.correlation:
                return jax.vmap(jax.random.categorical)(keys, outputs).astype(jnp.int32)
            # Gumbel noise of the same ranks: what is drawn has the same distribution.
            below = jnp.clip(jax.scipy.stats.norm.cdf(noise), 1e-6, 1.0 - 1e-6)
            return jnp.argmax(outputs - jnp.log(-jnp.log(below)), -1).astype(jnp.int32)
        mean, log_std = gaussian_outputs(outputs)
        action = mean + jnp.exp(log_std) * noise
        return jnp.tanh(action) if self.interface.squashed else action


def parse_ask(words: Sequence[str]) -> dict[str, float]:
    """Read what a user asks for, such as `gap=32 return=0.5`.

    Raises:
        GlaError: if a word is not one of `ASKABLE`, an equals sign and a number.
    """
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            if name not in ASKABLE:
                raise ValueError
            found[name] = float(value)
        except ValueError:
            raise GlaError(
                f"asked for {word!r}{near_matches(name, ASKABLE) if name not in ASKABLE else ''}",
                " or ".join(f"{known}=NUMBER" for known in ASKABLE),
            ) from None
    return found


def load(
    path: str | os.PathLike,
    name: str = "gla",
    which: Which = "latest",
    ask: Mapping[str, float] | None = None,
) -> GLAAgent:
    """Load the agent of a checkpoint folder.

    Args:
        path: the folder.
        name: for tables.
        which: `latest`, or `best` for the weights of the best validation.
        ask: see `GLAAgent`.

    Raises:
        GlaError: if the folder is none, or holds no checkpoint or one that does not fit, or
            something is asked for that the model does not read.
    """
    from gla.training import load_trained

    config, interface, params = load_trained(path, which)
    view = View(config.projection)
    correlation = config.acting.correlation
    return GLAAgent(params, config.model, interface, view, name, ask, correlation)
