"""Random projections of observations and actions: one task becomes endlessly many.

The same functions serve the environment wrapper (`gla.envs`) and the batch sampler
(`gla.sampling`), so the two cannot disagree: a projected history replays exactly through the
wrapped environment.

An agent lives in *agent space* (observations of `observation_dim` numbers, actions of `action_dim`
numbers or slots); a task lives in *task space*. With W the observation map and B the action map,

    observation seen by the agent   W o
    action sent to the task         B^T a'            (`lower_action`)
    recorded action shown to agent  B a + (I - B B^T) e   (`lift_action`, e fills the null space)

B has orthonormal columns, so `lower_action(lift_action(a)) == a` and a Gaussian policy lifts to a
Gaussian in closed form. Paper: "Towards General-Purpose In-Context Learning Agents", section 2
(observations to 64 dimensions, actions to 16); its projection distribution is not stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from gla.errors import GlaError

Kind = Literal["gaussian", "orthogonal", "slots", "identity"]
Bound = Literal["clip", "log"]


@dataclass(frozen=True)
class ProjectionConfig:
    """How tasks are projected.

    Attributes:
        observation_dim: length of the observations that the agent sees, >= the task's own.
        action_dim: length of the agent's actions (or its number of action slots), likewise.
        kind: distribution of the observation map. `gaussian`: entries N(0, 1/n) for a task with n
            observations, so that unit-variance observations stay so. `orthogonal`: orthonormal
            columns scaled by sqrt(observation_dim / n), which keeps the same scale. `slots`: every
            number in a slot of its own, with a random sign, the other slots zero; actions as well.
            `identity`: zero padding, with the action map an identity too.
        bound: what becomes of large normalised observations and rewards before they are shown:
            `clip` at +-10, or `log`, sign(x) log(1 + |x|) (`gla.normalization`).
    """

    observation_dim: int = 64
    action_dim: int = 16
    kind: Kind = "gaussian"
    bound: Bound = "clip"

    def __post_init__(self):
        for name in ("observation_dim", "action_dim"):
            if getattr(self, name) < 1:
                raise GlaError(f"{name} is {getattr(self, name)}", "a whole number of at least 1")
        for name, choices in (("kind", Kind), ("bound", Bound)):
            if getattr(self, name) not in get_args(choices):
                known = " or ".join(get_args(choices))
                raise GlaError(f"projection {name} is {getattr(self, name)!r}", known)

    @property
    def logarithmic(self) -> bool:
        """Whether large numbers are bounded by a logarithm."""
        return self.bound == "log"


class Projection(NamedTuple):
    """One sampled projection; a pytree, so it can be stacked and vmapped.

    Attributes:
        observation_map: f32[observation_dim, n].
        action_map: f32[action_dim, k], orthonormal columns.
        slots: i32[action_dim], for discrete tasks the task action behind each agent slot.
    """

    observation_map: jax.Array
    action_map: jax.Array
    slots: jax.Array


class LiftedGaussian(NamedTuple):
    """A Gaussian in agent space that is N(mean, diag(exp(2 log_std))) along B's columns.

    Its covariance is B diag(exp(2 log_std)) B^T + exp(2 null_log_std) (I - B B^T).

    Attributes:
        mean: f32[..., action_dim].
        log_std: f32[..., k], log standard deviations along the columns of `action_map`.
        null_log_std: f32[...], log standard deviation of the null-space noise.
        action_map: f32[action_dim, k], B.
    """

    mean: jax.Array
    log_std: jax.Array
    null_log_std: jax.Array
    action_map: jax.Array


def check_sizes(config: ProjectionConfig, observation_size: int, action_size: int, name: str):
    """Raise `GlaError` if a task does not fit into agent space."""
    for what, size, dim in (
        ("observation", observation_size, config.observation_dim),
        ("action", action_size, config.action_dim),
    ):
        if size > dim:
            raise GlaError(
                f"{name} has {what}s of {size} numbers, more than the projection's {dim}",
                f"a task that fits into {what}_dim={dim}",
                f"raise {what}_dim to at least {size}",
            )


def sample(
    key: jax.Array, config: ProjectionConfig, observation_size: int, action_size: int
) -> Projection:
    """Draw a projection.

    Args:
        key: random key.
        config: dimensions and kind.
        observation_size: n, the task's number of observations.
        action_size: k, the task's number of actions.

    Raises:
        GlaError: if the task does not fit (`check_sizes`).
    """
    check_sizes(config, observation_size, action_size, "the task")
    n, k, dim = observation_size, action_size, config.observation_dim
    if config.kind == "identity":
        slots = jnp.arange(config.action_dim) % k
        return Projection(jnp.eye(dim)[:, :n], jnp.eye(config.action_dim)[:, :k], slots)
    observation_key, action_key, slot_key = jax.random.split(key, 3)
    observation_map = sample_map(observation_key, config.kind, dim, n)
    # Every slot stands for some action; slots past the number of actions repeat them.
    slots = jax.random.permutation(slot_key, config.action_dim) % k
    draw = _signed_slots if config.kind == "slots" else _orthonormal_columns
    return Projection(
        observation_map, draw(action_key, config.action_dim, k), slots.astype(jnp.int32)
    )


def sample_map(key: jax.Array, kind: Kind, dim: int, size: int) -> jax.Array:
    """Draw a map A of inputs, f32[dim, size]; unit-variance inputs stay so.

    Args:
        key: random key.
        kind: `gaussian`: entries N(0, 1/size); `orthogonal`: orthonormal columns scaled by
            sqrt(dim / size), or orthonormal rows where dim < size; `slots`: one entry of -1 or 1 in
            every column, no two in a row, or in every row where dim < size; `identity`: zero
            padding, which needs dim >= size.
        dim: length of what is seen.
        size: length of what is there.
    """
    if kind == "identity":
        return jnp.eye(dim, size)
    if kind == "gaussian":
        return jax.random.normal(key, (dim, size), jnp.float32) / size**0.5
    draw = _signed_slots if kind == "slots" else _orthonormal_columns
    if dim < size:
        return draw(key, size, dim).T
    return draw(key, dim, size) * (1.0 if kind == "slots" else (dim / size) ** 0.5)


def _orthonormal_columns(key: jax.Array, rows: int, columns: int) -> jax.Array:
    """Draw a Haar-distributed matrix with orthonormal columns, f32[rows, columns]."""
    q, r = jnp.linalg.qr(jax.random.normal(key, (rows, columns), jnp.float32))
    return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)


def _signed_slots(key: jax.Array, rows: int, columns: int) -> jax.Array:
    """Draw a matrix of columns with one entry each, -1 or 1, in different rows."""
    place_key, sign_key = jax.random.split(key)
    places = jax.random.permutation(place_key, rows)[:columns]
    signs = jax.random.rademacher(sign_key, (columns,), jnp.float32)
    return jax.nn.one_hot(places, rows).T * signs


def project_observation(projection: Projection, observation: jax.Array) -> jax.Array:
    """Map task observations f32[..., n] to agent observations f32[..., observation_dim]."""
    return observation @ projection.observation_map.T


def lower_action(projection: Projection, action: jax.Array) -> jax.Array:
    """Map agent actions to task actions: f32[..., action_dim] -> f32[..., k], or slots i32[...]."""
    if jnp.issubdtype(action.dtype, jnp.integer):
        return projection.slots[action]
    return action @ projection.action_map


def lift_action(projection: Projection, action: jax.Array, null_noise: jax.Array) -> jax.Array:
    """Map recorded task actions f32[..., k] to agent space f32[..., action_dim].

    Args:
        projection: the map.
        action: f32[..., k].
        null_noise: f32[..., action_dim]; its part outside the span of B fills the null space, so
            that lifted actions look like draws of a policy that acts on all of agent space.
    """
    b = projection.action_map
    return action @ b.T + null_noise - (null_noise @ b) @ b.T


def lift_slot(key: jax.Array, projection: Projection, action: jax.Array) -> jax.Array:
    """Map recorded discrete actions i32[...] to a random slot that stands for each, i32[...]."""
    stands_for = projection.slots == action[..., None]
    return jax.random.categorical(key, jnp.where(stands_for, 0.0, -jnp.inf)).astype(jnp.int32)


def lift_distribution(
    projection: Projection, mean: jax.Array, log_std: jax.Array
) -> LiftedGaussian:
    """Lift the task-space Gaussian N(mean, diag(exp(2 log_std))) to agent space.

    The null space gets the geometric mean of the policy's own standard deviations.

    Args:
        projection: the map.
        mean: f32[..., k].
        log_std: f32[..., k].
    """
    b = projection.action_map
    return LiftedGaussian(mean @ b.T, log_std, jnp.mean(log_std, -1), b)


def lift_logits(projection: Projection, logits: jax.Array) -> jax.Array:
    """Lift log-probabilities f32[..., k] of a discrete policy to slots, f32[..., action_dim].

    An action's probability is shared equally by the slots that stand for it.
    """
    log_p = jax.nn.log_softmax(logits)
    shares = jnp.sum(projection.slots[:, None] == projection.slots[None, :], -1)
    return log_p[..., projection.slots] - jnp.log(shares.astype(jnp.float32))
