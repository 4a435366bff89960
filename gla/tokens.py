"""What the sequence model reads and writes at each step.

A token holds the observation and what the previous step brought: its action, reward and flags. So
one token is one transition, three times shorter than separate tokens. Conditions may follow, which
say how much improvement is asked for (the paper's eta, section 2). The model's outputs are the
parameters of an action distribution in agent space, and of auxiliary heads if there are any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gla.errors import GlaError, near_matches

LOG_STD_LOW, LOG_STD_HIGH = -3.0, 1.0

CONDITIONS = ("gap", "return", "position")
# A gap of so many updates, and a position of so many steps, is shown as 1.
GAP_SCALE, POSITION_SCALE = 100.0, 4096.0
# Returns per step are in units of normalised rewards, which have this bound.
RETURN_CLIP = 10.0


class Heads(NamedTuple):
    """The model's outputs, taken apart.

    Attributes:
        action: f32[..., 2 m] of a Gaussian (see `gaussian_outputs`) or logits f32[..., m].
        reward: f32[...], predicted reward of this step; None without that head.
        observation: f32[..., n], predicted next observation; None without that head.
        told: f32[..., z], what the model thinks is told of the task; None without that head.
    """

    action: jax.Array
    reward: jax.Array | None
    observation: jax.Array | None
    told: jax.Array | None = None


@dataclass(frozen=True)
class Interface:
    """Sizes of agent space, and what else is read and written.

    Attributes:
        observation_dim: length of projected observations, n.
        action_dim: length of actions, or the number of action slots, m.
        discrete: whether actions are slots.
        conditions: which of `CONDITIONS` a token ends with, in this order; two features each, see
            `condition_features`.
        squashed: whether the action distribution is a tanh-Gaussian, on (-1, 1)^m.
        predict_reward: whether a head predicts the reward of this step.
        predict_observation: whether a head predicts the next observation.
        told: how many numbers that could be told of the task a head predicts.
    """

    observation_dim: int
    action_dim: int
    discrete: bool = False
    conditions: tuple[str, ...] = ()
    squashed: bool = False
    predict_reward: bool = False
    predict_observation: bool = False
    told: int = 0

    def __post_init__(self):
        object.__setattr__(self, "conditions", tuple(self.conditions))  # JSON has lists
        check_conditions(self.conditions)
        for name in ("observation_dim", "action_dim"):
            if getattr(self, name) < 1:
                raise GlaError(f"{name} is {getattr(self, name)}", "a whole number of at least 1")
        if self.discrete and self.squashed:
            raise GlaError("squashed actions are asked for but the actions are discrete")

    @property
    def token_size(self) -> int:
        """Length of a token."""
        return self.observation_dim + self.action_dim + 3 + 2 * len(self.conditions)

    @property
    def action_outputs(self) -> int:
        """Numbers per token that describe the action distribution."""
        return self.action_dim if self.discrete else 2 * self.action_dim

    @property
    def outputs(self) -> int:
        """Numbers that the model returns per token."""
        extra = self.predict_reward + self.observation_dim * self.predict_observation
        return self.action_outputs + extra + self.told

    def split(self, outputs: jax.Array) -> Heads:
        """Take the model's outputs f32[..., `outputs`] apart."""
        action, rest = outputs[..., : self.action_outputs], outputs[..., self.action_outputs :]
        reward = rest[..., 0] if self.predict_reward else None
        stop = rest.shape[-1] - self.told
        seen = rest[..., int(self.predict_reward) : stop] if self.predict_observation else None
        return Heads(action, reward, seen, rest[..., stop:] if self.told else None)


def check_conditions(conditions: tuple[str, ...]) -> None:
    """Raise `GlaError` if a condition is unknown or named twice."""
    for name in conditions:
        if name not in CONDITIONS:
            raise GlaError(
                f"condition {name!r} is unknown{near_matches(name, CONDITIONS)}",
                f"some of {', '.join(CONDITIONS)}",
            )
    if len(set(conditions)) < len(conditions):
        raise GlaError(f"conditions are {', '.join(conditions)}", "each at most once")


def condition_features(
    interface: Interface,
    values: Mapping[str, jax.Array | float | None],
    shape: tuple[int, ...] = (),
) -> jax.Array:
    """Put conditions as the model reads them: for each one its value and whether it is known.

    The sampler calls this with what it sampled, an agent with what its user asks for, so a number
    means the same to both:

    - `gap`: PPO updates by which the policy asked for lies ahead of the one that acted in the
      stretch of context before (see `gla.sampling`); >= 0, shown as log(1 + gap) / log(101);
    - `return`: mean normalised reward per step of the policy asked for; shown as it is, within
      +-10;
    - `position`: steps since the lifetime began; >= 0, shown as log(1 + position) / log(4097),
      at most 1.

    Args:
        interface: which conditions there are.
        values: of each condition, f32[...] that broadcast together; missing or None: unknown,
            which is shown as (0, 0).
        shape: leading axes to broadcast to, where the values alone do not have them.

    Returns:
        f32[..., 2 * len(interface.conditions)].

    Raises:
        GlaError: if a value is given for a condition that the model does not read.
    """
    for name, value in values.items():
        if value is not None and name not in interface.conditions:
            known = ", ".join(interface.conditions) or "none, as it was trained without conditions"
            raise GlaError(f"the model does not read the condition {name!r}", known)
    scaled = {
        name: _scale(name, jnp.asarray(value, jnp.float32))
        for name, value in values.items()
        if value is not None
    }
    shape = jnp.broadcast_shapes(shape, *(value.shape for value in scaled.values()))
    columns: list[jax.Array] = []
    for name in interface.conditions:
        columns.append(jnp.broadcast_to(scaled.get(name, jnp.zeros(())), shape))
        columns.append(jnp.full(shape, float(name in scaled)))
    return jnp.stack(columns, -1) if columns else jnp.zeros((*shape, 0))


def _scale(name: str, value: jax.Array) -> jax.Array:
    if name == "return":
        return jnp.clip(value, -RETURN_CLIP, RETURN_CLIP)
    shown = jnp.log1p(jnp.maximum(value, 0.0))
    if name == "gap":
        return shown / jnp.log1p(GAP_SCALE)
    return jnp.minimum(shown / jnp.log1p(POSITION_SCALE), 1.0)


def make_tokens(
    observation: jax.Array,
    previous_action: jax.Array,
    previous_reward: jax.Array,
    previous_terminated: jax.Array,
    previous_truncated: jax.Array,
    conditions: jax.Array | None = None,
) -> jax.Array:
    """Concatenate the parts of tokens.

    Args:
        observation: f32[..., observation_dim], projected.
        previous_action: f32[..., action_dim]; slots as one-hot; zero at the start of a lifetime.
        previous_reward: f32[...], normalised; zero at the start of a lifetime.
        previous_terminated: bool[...].
        previous_truncated: bool[...].
        conditions: f32[..., 2 c] of `condition_features`, broadcast to the observation's leading
            axes; None where there are none.

    Returns:
        f32[..., token_size].
    """
    scalars = [previous_reward, previous_terminated, previous_truncated]
    parts = [observation, previous_action]
    parts += [jnp.asarray(x, jnp.float32)[..., None] for x in scalars]
    if conditions is not None:
        parts.append(jnp.broadcast_to(conditions, (*observation.shape[:-1], conditions.shape[-1])))
    return jnp.concatenate(parts, -1)


def gaussian_outputs(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Split action outputs f32[..., 2 m] into mean f32[..., m] and bounded log_std f32[..., m]."""
    mean, raw = jnp.split(outputs, 2, -1)
    middle, half = 0.5 * (LOG_STD_LOW + LOG_STD_HIGH), 0.5 * (LOG_STD_HIGH - LOG_STD_LOW)
    return mean, middle + half * jnp.tanh(raw)
