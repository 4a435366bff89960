"""A fixed policy as an agent: the expert that scores are measured against, or a recorded one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp

from gla import policy as pol
from gla.agents.base import View, each
from gla.envs.base import is_discrete
from gla.errors import GlaError


class PolicyState(NamedTuple):
    """The weights, never changed.

    They travel in the state, so that a compiled program takes them as an argument and serves every
    policy of the same size.
    """

    params: pol.PolicyParams


def _actor(discrete: bool, stacked: bool, deterministic: bool) -> Callable[..., Any]:
    """Return the `act` of one kind of policy."""

    def heads(params, observation):
        if discrete:
            return pol.output(params, observation), params.log_std
        return pol.gaussian(params, observation)

    def act(state, observation, reward, terminated, truncated, keys):
        del reward, terminated, truncated
        both = jax.vmap(heads) if stacked else heads
        output, log_std = both(state.params, observation)
        if discrete:
            chosen = jnp.argmax(output, -1)
            if not deterministic:
                chosen = jax.vmap(jax.random.categorical)(keys, output)
            return state, chosen.astype(jnp.int32)
        if deterministic:
            return state, output
        noise = each(lambda key: jax.random.normal(key, output.shape[1:]), keys)
        return state, output + jnp.exp(log_std) * noise

    return act


# Made once: compiled programs are found again by the identity of `act`.
_ACTORS = {
    (discrete, stacked, deterministic): _actor(discrete, stacked, deterministic)
    for discrete in (False, True)
    for stacked in (False, True)
    for deterministic in (False, True)
}


class PolicyAgent:
    """Plays a policy that was trained before, such as a long PPO run's last one.

    Args:
        params: one policy for all lifetimes, or policies stacked along a leading axis, one for
            each lifetime (the tasks of a family).
        discrete: whether its outputs are logits.
        name: for tables.
        deterministic: play the mean action or the likeliest one instead of sampling.

    Raises:
        GlaError: if the arrays are not those of a policy.
    """

    jittable = True
    view: View | None = None

    def __init__(
        self,
        params: pol.PolicyParams,
        discrete: bool,
        name: str = "expert",
        deterministic: bool = True,
    ):
        ndim = jnp.ndim(params.w1)
        if ndim not in (2, 3):
            raise GlaError(
                f"the first weights of the policy {name!r} are shaped {jnp.shape(params.w1)}",
                "[n, h], or [lifetimes, n, h] for policies of their own",
            )
        self.params = pol.PolicyParams(*(jnp.asarray(leaf) for leaf in params))
        self.discrete, self.name, self.deterministic = discrete, name, deterministic
        self.stacked = ndim == 3
        self.act = _ACTORS[bool(discrete), self.stacked, bool(deterministic)]

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> PolicyState:
        """Return the weights.

        Raises:
            GlaError: if the policy was made for other observations, other actions or another
                number of lifetimes.
        """
        del keys
        discrete = is_discrete(action_space)
        actions = int(action_space.n) if discrete else int((action_space.shape or (1,))[0])  # type: ignore[attr-defined]
        wanted = (int((observation_space.shape or (1,))[0]), actions, discrete)
        given = (*self.params.w1.shape[-2:-1], *self.params.b3.shape[-1:], bool(self.discrete))
        if wanted != given:
            words = "{} observations and {} {} action outputs"
            kinds = ("continuous", "discrete")
            raise GlaError(
                f"the policy {self.name!r} has " + words.format(*given[:2], kinds[given[2]]),
                words.format(*wanted[:2], kinds[wanted[2]]),
            )
        if self.stacked and self.params.w1.shape[0] != num_envs:
            raise GlaError(
                f"the agent {self.name!r} holds {self.params.w1.shape[0]} policies",
                f"one for each of {num_envs} lifetimes",
            )
        return PolicyState(self.params)
