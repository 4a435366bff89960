"""The small feed-forward policy whose every version a learning history keeps.

Because the parameters of every PPO update are stored, the action distribution of any later update
can be computed at any state that an earlier one visited. The functions here are all that is needed
for that, so they live in the core, beside the sampler that uses them; PPO (`gla.agents`) trains the
same network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

LOG_STD_RANGE = (-2.3, 0.5)
OBSERVATION_CLIP = 10.0


@dataclass(frozen=True)
class PolicyShape:
    """Sizes of a policy: n observations, k action outputs, two hidden layers of `hidden` units."""

    observations: int
    actions: int
    hidden: int
    discrete: bool = False

    @property
    def size(self) -> int:
        """Number of stored floats, normaliser included."""
        return sum(math.prod(shape) for shape in _shapes(self).values())


class PolicyParams(NamedTuple):
    """Weights of the policy and the observation normaliser that it was used with.

    Attributes:
        w1: f32[n, h], b1: f32[h], w2: f32[h, h], b2: f32[h], w3: f32[h, k], b3: f32[k].
        log_std: f32[k], unused (zero) for discrete actions.
        mean: f32[n], running mean of observations.
        std: f32[n], running standard deviation of observations.
    """

    w1: jax.Array
    b1: jax.Array
    w2: jax.Array
    b2: jax.Array
    w3: jax.Array
    b3: jax.Array
    log_std: jax.Array
    mean: jax.Array
    std: jax.Array


def _shapes(shape: PolicyShape) -> dict[str, tuple[int, ...]]:
    n, k, h = shape.observations, shape.actions, shape.hidden
    return {
        "w1": (n, h),
        "b1": (h,),
        "w2": (h, h),
        "b2": (h,),
        "w3": (h, k),
        "b3": (k,),
        "log_std": (k,),
        "mean": (n,),
        "std": (n,),
    }


def init(key: jax.Array, shape: PolicyShape, log_std: float | jax.Array = -0.5) -> PolicyParams:
    """Draw a policy that starts close to a zero-mean Gaussian (or uniform categorical)."""
    keys = jax.random.split(key, 3)
    orthogonal = jax.nn.initializers.orthogonal
    shapes = _shapes(shape)
    zeros = {name: jnp.zeros(s) for name, s in shapes.items()}
    zeros["w1"] = orthogonal(math.sqrt(2))(keys[0], shapes["w1"])
    zeros["w2"] = orthogonal(math.sqrt(2))(keys[1], shapes["w2"])
    zeros["w3"] = orthogonal(0.01)(keys[2], shapes["w3"])
    zeros["log_std"] = jnp.full(shapes["log_std"], 0.0 if shape.discrete else log_std)
    zeros["std"] = jnp.ones(shapes["std"])
    return PolicyParams(**zeros)


def normalize(params: PolicyParams, observation: jax.Array) -> jax.Array:
    """Centre and scale observations f32[..., n] as the policy does, clipped to +-10."""
    scaled = (observation - params.mean) / params.std
    return jnp.clip(scaled, -OBSERVATION_CLIP, OBSERVATION_CLIP)


def output(params: PolicyParams, observation: jax.Array) -> jax.Array:
    """Run the network: observations f32[..., n] -> f32[..., k], linear outputs (logits)."""
    return network(params, normalize(params, observation))


def network(params: PolicyParams, normalized: jax.Array) -> jax.Array:
    """Run the network on observations f32[..., n] that are normalised already."""
    x = jnp.tanh(normalized @ params.w1 + params.b1)
    x = jnp.tanh(x @ params.w2 + params.b2)
    return x @ params.w3 + params.b3


def gaussian(params: PolicyParams, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (mean f32[..., k] in [-1, 1], log_std f32[k]) of a continuous policy.

    The mean is bounded by tanh, the noise around it is not: see `gla.distributions`.
    """
    return jnp.tanh(output(params, observation)), bounded_log_std(params)


def bounded_log_std(params: PolicyParams) -> jax.Array:
    """Return the log standard deviation f32[..., k] as it is used, clipped to `LOG_STD_RANGE`."""
    return jnp.clip(params.log_std, *LOG_STD_RANGE)


def flatten(params: PolicyParams) -> jax.Array:
    """Concatenate a policy's arrays into f32[shape.size]."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in params])


def unflatten(shape: PolicyShape, flat: jax.Array) -> PolicyParams:
    """Undo `flatten` for f32[..., shape.size], leading axes kept."""
    arrays, start = {}, 0
    for name, sizes in _shapes(shape).items():
        stop = start + math.prod(sizes)
        arrays[name] = jnp.reshape(flat[..., start:stop], flat.shape[:-1] + sizes)
        start = stop
    return PolicyParams(**arrays)
