"""PPO settings that are drawn for each run, so that histories differ in how they were learned."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp

from gla.agents.ppo import Hyper
from gla.errors import GlaError

Range = tuple[float, float]
# Drawn so that every factor is as likely as any other.
_LOGARITHMIC = ("learning_rate", "max_grad_norm")
_STREAM = 0x48797065  # separates these draws from all others made of a run's key


@dataclass(frozen=True)
class HyperRanges:
    """Ranges from which each run draws a setting of its own; None leaves it as configured.

    Learning rate and gradient norm are drawn log-uniformly, the others uniformly.

    Attributes:
        learning_rate: Adam's step size, above 0.
        gamma: discount, in [0, 1].
        gae_lambda: lambda of generalised advantage estimation, in [0, 1].
        clip: clipping range of the probability ratio, above 0.
        entropy_coefficient: weight of the entropy bonus.
        value_coefficient: weight of the value loss.
        max_grad_norm: global norm to which gradients are clipped, above 0.
        initial_log_std: starting log standard deviation of continuous actions.

    Raises:
        GlaError: if a range is not low <= high within these bounds.
    """

    learning_rate: Range | None = None
    gamma: Range | None = None
    gae_lambda: Range | None = None
    clip: Range | None = None
    entropy_coefficient: Range | None = None
    value_coefficient: Range | None = None
    max_grad_norm: Range | None = None
    initial_log_std: Range | None = None

    def __post_init__(self):
        for field in fields(self):
            bounds = getattr(self, field.name)
            if bounds is None:
                continue
            low, high = bounds
            least, most = 0.0, math.inf
            if field.name in ("gamma", "gae_lambda"):
                most = 1.0
            if field.name == "initial_log_std":
                least = -math.inf
            positive = field.name in (*_LOGARITHMIC, "clip")
            if not (least <= low <= high <= most) or (positive and low <= 0):
                raise GlaError(
                    f"vary {field.name} is {low} to {high}",
                    f"a range low <= high {'above 0' if positive else f'in [{least}, {most}]'}",
                )

    @property
    def any(self) -> bool:
        """Whether anything is drawn."""
        return any(getattr(self, field.name) is not None for field in fields(self))


def draw_hyper(key: jax.Array, ranges: HyperRanges, default: Hyper) -> Hyper:
    """Draw the settings of one run from its agent's key."""
    values = default._asdict()
    for number, name in enumerate(Hyper._fields):
        bounds = getattr(ranges, name)
        if bounds is not None:
            own = jax.random.fold_in(jax.random.fold_in(key, _STREAM), number)
            low, high = bounds
            if name in _LOGARITHMIC:
                low, high = math.log(low), math.log(high)
            drawn = jax.random.uniform(own, (), minval=low, maxval=high)
            values[name] = jnp.exp(drawn) if name in _LOGARITHMIC else drawn
    return Hyper(**values)
