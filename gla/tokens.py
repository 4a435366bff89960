"""What the sequence model reads and writes at each step.

A token holds the observation and what the previous step brought: its action, reward and flags. So
one token is one transition, three times shorter than separate tokens. The model's outputs are the
parameters of an action distribution in agent space.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

LOG_STD_LOW, LOG_STD_HIGH = -3.0, 1.0


@dataclass(frozen=True)
class Interface:
    """Sizes of agent space.

    Attributes:
        observation_dim: length of projected observations.
        action_dim: length of actions, or the number of action slots.
        discrete: whether actions are slots.
    """

    observation_dim: int
    action_dim: int
    discrete: bool = False

    @property
    def token_size(self) -> int:
        """Length of a token."""
        return self.observation_dim + self.action_dim + 3

    @property
    def outputs(self) -> int:
        """Numbers that the model returns per token."""
        return self.action_dim if self.discrete else 2 * self.action_dim


def make_tokens(
    observation: jax.Array,
    previous_action: jax.Array,
    previous_reward: jax.Array,
    previous_terminated: jax.Array,
    previous_truncated: jax.Array,
) -> jax.Array:
    """Concatenate the parts of tokens.

    Args:
        observation: f32[..., observation_dim], projected.
        previous_action: f32[..., action_dim]; slots as one-hot; zero at the start of a lifetime.
        previous_reward: f32[...], normalised; zero at the start of a lifetime.
        previous_terminated: bool[...].
        previous_truncated: bool[...].

    Returns:
        f32[..., token_size].
    """
    scalars = [previous_reward, previous_terminated, previous_truncated]
    parts = [observation, previous_action]
    parts += [jnp.asarray(x, jnp.float32)[..., None] for x in scalars]
    return jnp.concatenate(parts, -1)


def gaussian_outputs(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Split model outputs f32[..., 2 m] into mean f32[..., m] and bounded log_std f32[..., m]."""
    mean, raw = jnp.split(outputs, 2, -1)
    middle, half = 0.5 * (LOG_STD_LOW + LOG_STD_HIGH), 0.5 * (LOG_STD_HIGH - LOG_STD_LOW)
    return mean, middle + half * jnp.tanh(raw)
