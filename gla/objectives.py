"""GLA's objective: how far the model's action distribution is from the target's (Eq. 1)."""

from __future__ import annotations

import jax

from gla import distributions as dist
from gla.projection import LiftedGaussian
from gla.tokens import gaussian_outputs


def forward_reverse_kl(target: LiftedGaussian | jax.Array, outputs: jax.Array) -> jax.Array:
    """Sum of forward and reverse KL at every position, in nats (paper, Eq. 1).

    Args:
        target: a `LiftedGaussian` or log-probabilities f32[L, m], of one sequence.
        outputs: the model's outputs, f32[L, 2 m] (continuous) or f32[L, m] (discrete).

    Returns:
        f32[L], zero exactly where the distributions agree.
    """
    if isinstance(target, LiftedGaussian):
        forward, reverse = dist.lifted_kls(target, *gaussian_outputs(outputs))
        return forward + reverse
    return dist.categorical_kl(target, outputs) + dist.categorical_kl(outputs, target)
