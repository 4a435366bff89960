"""PPO (Schulman et al. 2017) that learns within one lifetime, from one environment.

It is given the same interactions as an in-context agent, and nothing before them: the baseline
that says what ordinary reinforcement learning makes of a lifetime. Losses, advantages and
normalisation are those of `gla.agents.ppo`.

An agent is not shown where an episode ended, only where the next one began. So the value of the
state that a truncated episode was cut at is not known; that of the last observation that was seen,
one step before, stands in for it. After a termination no value follows, as always.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp

from gla import policy as pol
from gla.agents import ppo as learning
from gla.agents.backends import map_runs
from gla.agents.base import View
from gla.agents.online import put_row, sizes_of, split_each
from gla.envs.vectorized import strong_types


@dataclass(frozen=True)
class OnlinePPOConfig:
    """Settings of PPO within a lifetime; the names mean what they mean in `PPOConfig`.

    The defaults suit lifetimes of a few thousand steps, in which many updates from few steps learn
    the most. Where there are tens of thousands, `ppo_long` gets further.

    Attributes:
        num_steps: environment steps between updates.
        epochs: passes over these steps.
        minibatches: minibatches per pass; must divide `num_steps`.
        learning_rate: Adam's step size.
        gamma: discount.
        gae_lambda: lambda of generalised advantage estimation.
        clip: clipping range of the probability ratio.
        entropy_coefficient: weight of the entropy bonus.
        value_coefficient: weight of the value loss.
        max_grad_norm: gradients are clipped to this global norm.
        hidden: units in each of the two hidden layers.
        initial_log_std: starting log standard deviation of continuous actions.

    Raises:
        GlaError: if a value is out of its range.
    """

    num_steps: int = 64
    epochs: int = 10
    minibatches: int = 4
    learning_rate: float = 3e-3
    gamma: float = 0.97
    gae_lambda: float = 0.9
    clip: float = 0.2
    entropy_coefficient: float = 0.0
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5
    hidden: int = 32
    initial_log_std: float = -0.5

    def __post_init__(self):
        self.ppo()

    def ppo(self) -> learning.PPOConfig:
        """Return the settings of one update, and check them."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return learning.PPOConfig(num_envs=1, num_updates=1, **own)


class Rows(NamedTuple):
    """The steps since the last update.

    Attributes:
        observation: f32[T, N, n].
        action: f32[T, N, k] as it was sampled, unclipped, or i32[T, N].
        distribution: f32[T, N, k], the Gaussian's mean or the logits.
        reward: f32[T, N].
        terminated: bool[T, N].
        truncated: bool[T, N].
    """

    observation: jax.Array
    action: jax.Array
    distribution: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class OnlinePPOState(NamedTuple):
    """What N lifetimes have learned.

    Attributes:
        step: i32[], steps taken, the same in all lifetimes.
        learner: what learning changes, each leaf [N, ...].
        rows: the steps since the last update.
    """

    step: jax.Array
    learner: learning.LearnerState
    rows: Rows


def _look_around(learner: learning.LearnerState, observation: jax.Array) -> learning.LearnerState:
    """Normalise by the first rollout's observations f32[T, n] before anything is learned from it.

    `gla.agents.ppo` moves the normaliser after each update; by then the first one has learned from
    observations of any scale. A fresh policy does all but the same at any scale. Later updates
    change nothing here.
    """
    seen = learning.merge_moments(learner.observation_moments, observation)
    first, policy = learner.observation_moments.weight < 1.0, learner.policy
    deviation = jnp.maximum(jnp.sqrt(seen.variance), 1e-3)
    return learner._replace(
        policy=policy._replace(
            mean=jnp.where(first, seen.mean, policy.mean),
            std=jnp.where(first, deviation, policy.std),
        )
    )


def _complete(
    learner: learning.LearnerState, rows: Rows, following: jax.Array, discrete: bool
) -> learning.Rollout:
    """Return the rollout [T, 1, ...] of one lifetime from its rows [T, ...].

    Args:
        learner: of that lifetime.
        rows: what it did.
        following: f32[n], the observation after the last row.
        discrete: whether actions are discrete.
    """
    rows = jax.tree.map(lambda x: x[:, None], rows)
    shown = jnp.concatenate([rows.observation[1:], following[None, None]])
    ended = (rows.terminated | rows.truncated)[..., None]
    return learning.Rollout(
        rows.observation,
        rows.action,
        rows.distribution,
        learning.log_prob_of(learner.policy, rows.action, rows.distribution, discrete),
        learning.value_of(learner, rows.observation),
        rows.reward,
        rows.terminated,
        rows.truncated,
        jnp.where(ended, rows.observation, shown),
    )


class OnlinePPO:
    """PPO that starts anew in every lifetime.

    All lifetimes update after the same steps, each from its own.

    Args:
        config: settings.
        name: for tables.
    """

    jittable = True
    view: View | None = None

    def __init__(self, config: OnlinePPOConfig | None = None, name: str = "PPO, online"):
        self.name = name
        self.config = config or OnlinePPOConfig()
        self._ppo = self.config.ppo()

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> OnlinePPOState:
        """Draw a fresh learner for every lifetime."""
        n, k, discrete = sizes_of(observation_space, action_space)
        shape = pol.PolicyShape(n, k, self.config.hidden, discrete)
        learner = jax.vmap(lambda key: learning.init(key, shape, self._ppo))(keys)
        leading = (self.config.num_steps, num_envs)
        action = jnp.zeros(leading, jnp.int32) if discrete else jnp.zeros((*leading, k))
        nothing = jnp.zeros(leading, bool)
        rows = Rows(
            jnp.zeros((*leading, n)), action, jnp.zeros((*leading, k)), jnp.zeros(leading),
            nothing, nothing.copy(),
        )  # fmt: skip
        return strong_types(OnlinePPOState(jnp.int32(0), learner, rows))

    def act(
        self,
        state: OnlinePPOState,
        observation: jax.Array,
        reward: jax.Array,
        terminated: jax.Array,
        truncated: jax.Array,
        keys: jax.Array,
    ) -> tuple[OnlinePPOState, jax.Array]:
        """Keep what the last action led to, learn if that fills the rollout, and act."""
        steps, rows = self.config.num_steps, state.rows
        discrete = rows.action.ndim == 2
        act_keys, learn_keys = split_each(keys, 2)
        came = put_row(
            (rows.reward, rows.terminated, rows.truncated),
            (state.step - 1) % steps,
            (reward, terminated, truncated),
        )
        rows = rows._replace(reward=came[0], terminated=came[1], truncated=came[2])

        def learn() -> learning.LearnerState:
            def one(key, learner, rows, following):
                learner = _look_around(learner, rows.observation)
                rollout = _complete(learner, rows, following, discrete)
                return learning.update(key, learner, rollout, self._ppo, discrete)

            by_lifetime = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), rows)
            return strong_types(map_runs(one, learn_keys, state.learner, by_lifetime, observation))

        full = (state.step > 0) & (state.step % steps == 0)
        learner = jax.lax.cond(full, learn, lambda: state.learner)

        def choose(key, policy, observation):
            noise = learning.draw_noise(key, rows.distribution.shape[2:], discrete)
            return learning.act(policy, observation, noise, discrete)

        action, distribution = jax.vmap(choose)(act_keys, learner.policy, observation)
        did = put_row(
            (rows.observation, rows.action, rows.distribution),
            state.step % steps,
            (observation, action, distribution),
        )
        rows = rows._replace(observation=did[0], action=did[1], distribution=did[2])
        state = strong_types(OnlinePPOState(state.step + 1, learner, rows))
        return state, action if discrete else jnp.clip(action, -1.0, 1.0)


def ppo() -> OnlinePPO:
    """Return PPO for lifetimes of a few thousand steps."""
    return OnlinePPO()


def ppo_long() -> OnlinePPO:
    """Return PPO for lifetimes of tens of thousands of steps: fewer updates, each from more."""
    return OnlinePPO(OnlinePPOConfig(num_steps=256, gamma=0.98), "PPO, online, long lifetimes")
