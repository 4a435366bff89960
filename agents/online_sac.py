"""Soft actor-critic that learns within one lifetime, from one environment.

Off-policy, so it makes more of few interactions than PPO does: the second baseline that is given
the same interactions as an in-context agent. Twin critics, target networks, a temperature that is
adjusted to a target entropy (Haarnoja et al. 2018, "Soft actor-critic algorithms and
applications"); a gradient step after every environment step. Continuous actions are drawn from a
squashed Gaussian; for discrete ones expectations over all actions take the place of samples
(Christodoulou 2019).

Observations are centred and scaled by running statistics, rewards scaled by the running standard
deviation of the discounted return; both are applied when a batch is drawn, so that old steps are
seen as new ones are.

An agent is not shown where an episode ended, only where the next one began. So where an episode
was truncated, the observation before its last step stands in for the one after it. After a
termination no value follows, as always.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import optax

from gla import distributions as dist
from gla.agents.backends import map_runs
from gla.agents.base import View, each
from gla.agents.online import fresh_moments, normalize, put_row, repeated, sizes_of, split_each
from gla.agents.ppo import Moments, merge_moments
from gla.envs.vectorized import strong_types
from gla.errors import GlaError

LOG_STD_RANGE = (-5.0, 2.0)
REWARD_CLIP = 10.0


@dataclass(frozen=True)
class OnlineSACConfig:
    """Settings of soft actor-critic within a lifetime.

    Attributes:
        start: steps of uniform actions before anything is learned.
        batch: steps in a minibatch, drawn uniformly from the buffer.
        capacity: steps that the buffer of one lifetime holds; the oldest go first.
        learning_rate: Adam's step size for policy, critics and temperature.
        gamma: discount.
        tau: share of the critics that the target networks move by after every gradient step.
        target_entropy: entropy of the policy that the temperature aims at, in nats per axis of a
            continuous action.
        discrete_target_entropy: the same for discrete actions, as a share of the largest entropy,
            the logarithm of their number. (Christodoulou's 0.98 keeps acting nearly at random.)
        initial_temperature: at the start.
        hidden: units in each of the two hidden layers of all networks.

    Raises:
        GlaError: if a value is out of its range.
    """

    start: int = 100
    batch: int = 64
    capacity: int = 10_000
    learning_rate: float = 3e-3
    gamma: float = 0.97
    tau: float = 0.02
    target_entropy: float = -1.5
    discrete_target_entropy: float = 0.2
    initial_temperature: float = 0.03
    hidden: int = 64

    def __post_init__(self):
        for name in ("start", "batch", "capacity", "hidden"):
            if getattr(self, name) < 1:
                raise GlaError(f"sac {name} is {getattr(self, name)}", "a whole number >= 1")
        for name in ("gamma", "discrete_target_entropy"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise GlaError(f"sac {name} is {getattr(self, name)}", "a number in [0, 1]")
        if not 0.0 < self.tau <= 1.0:
            raise GlaError(f"sac tau is {self.tau}", "a number in (0, 1]")
        for name in ("learning_rate", "initial_temperature"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise GlaError(f"sac {name} is {getattr(self, name)}", "a number above 0")
        if not math.isfinite(self.target_entropy):
            raise GlaError(f"sac target_entropy is {self.target_entropy}", "a finite number")


Network = tuple[tuple[jax.Array, jax.Array], ...]  # weights f32[i, o] and biases f32[o] of 3 layers


class Networks(NamedTuple):
    """What gradients change.

    Attributes:
        policy: n -> k logits, or 2 k means and log standard deviations before squashing.
        critics: two of them, n + k -> 1, or n -> k values of discrete actions.
        log_temperature: f32[].
    """

    policy: Network
    critics: tuple[Network, Network]
    log_temperature: jax.Array


class Learner(NamedTuple):
    """What learning changes.

    Attributes:
        networks: what gradients change.
        targets: the critics as they were some time ago.
        optimizer: optax state.
    """

    networks: Networks
    targets: tuple[Network, Network]
    optimizer: Any


class Statistics(NamedTuple):
    """Running statistics of what was seen.

    Attributes:
        observation: of observations, f32[n].
        returns: of the running discounted return, f32[].
        running_return: f32[], of the episode under way.
    """

    observation: Moments
    returns: Moments
    running_return: jax.Array


class Batch(NamedTuple):
    """Steps to learn from, normalised.

    Attributes:
        observation: f32[B, n].
        action: f32[B, k], or i32[B].
        reward: f32[B].
        terminated: bool[B].
        following: f32[B, n], the observation after the step, or what stands in for it.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    following: jax.Array


class OnlineSACState(NamedTuple):
    """What N lifetimes have learned and seen.

    Attributes:
        step: i32[], steps taken, the same in all lifetimes.
        learner: each leaf [N, ...].
        statistics: each leaf [N, ...].
        observation: f32[N, n], of the last step.
        action: f32[N, k], or i32[N] for discrete actions, of the last step.
        buffer: f32[capacity, N, 2 n + k + 2], the last steps: observation, action (one number if
            it is discrete), reward, whether the task ended, following observation.
    """

    step: jax.Array
    learner: Learner
    statistics: Statistics
    observation: jax.Array
    action: jax.Array
    buffer: jax.Array


def _init_network(key: jax.Array, sizes: tuple[int, ...], last_scale: float) -> Network:
    scales = [math.sqrt(2.0)] * (len(sizes) - 2) + [last_scale]
    keys = jax.random.split(key, len(scales))
    return tuple(
        (jax.nn.initializers.orthogonal(scale)(key, shape), jnp.zeros(shape[1]))
        for key, scale, shape in zip(keys, scales, itertools.pairwise(sizes), strict=True)
    )


def _run(network: Network, x: jax.Array) -> jax.Array:
    for weight, bias in network[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = network[-1]
    return x @ weight + bias


def squashed_gaussian(outputs: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw actions f32[..., k] in [-1, 1] and their log-density f32[...].

    Args:
        outputs: f32[..., 2 k], means and log standard deviations before squashing.
        noise: f32[..., k], standard normal.
    """
    mean, log_std = jnp.split(outputs, 2, -1)
    log_std = jnp.clip(log_std, *LOG_STD_RANGE)
    x = mean + jnp.exp(log_std) * noise
    # log(1 - tanh(x)^2), written so that nothing cancels where x is large.
    log_slope = 2.0 * (math.log(2.0) - x - jax.nn.softplus(-2.0 * x))
    return jnp.tanh(x), dist.gaussian_log_prob(x, mean, log_std) - jnp.sum(log_slope, -1)


def _least(critics: tuple[Network, Network], inputs: jax.Array) -> jax.Array:
    return jnp.minimum(_run(critics[0], inputs), _run(critics[1], inputs))


def soft_value(
    policy: Network,
    critics: tuple[Network, Network],
    temperature: jax.Array,
    observation: jax.Array,
    noise: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Return the soft values f32[B] of normalised observations f32[B, n], and entropies f32[B].

    The value is that of the lesser critic plus temperature times entropy.

    Args:
        policy: chooses.
        critics: value what it chooses.
        temperature: f32[].
        observation: f32[B, n].
        noise: f32[B, k], standard normals that sample continuous actions; None for discrete ones,
            which are summed over.
    """
    outputs = _run(policy, observation)
    if noise is None:
        log_p = jax.nn.log_softmax(outputs)
        value, entropy = _least(critics, observation), dist.categorical_entropy(outputs)
        return jnp.sum(jnp.exp(log_p) * value, -1) + temperature * entropy, entropy
    action, log_prob = squashed_gaussian(outputs, noise)
    value = _least(critics, jnp.concatenate([observation, action], -1))[:, 0]
    return value - temperature * log_prob, -log_prob


def _value_of(critic: Network, batch: Batch) -> jax.Array:
    """Return a critic's values f32[B] of what was done."""
    if batch.action.ndim == 1:
        values = _run(critic, batch.observation)
        return jnp.take_along_axis(values, batch.action[:, None], -1)[:, 0]
    return _run(critic, jnp.concatenate([batch.observation, batch.action], -1))[:, 0]


def _loss(
    networks: Networks,
    targets: tuple[Network, Network],
    batch: Batch,
    noise: tuple[jax.Array, jax.Array] | None,
    gamma: float,
    target_entropy: float,
) -> jax.Array:
    """Sum the losses of critics, policy and temperature, each of which moves nothing else.

    Args:
        networks: to be improved.
        targets: the critics as they were some time ago.
        batch: steps.
        noise: standard normals f32[B, k] of actions after and at the batch's observations; None
            for discrete actions.
        gamma: discount.
        target_entropy: in nats.
    """
    frozen = jax.lax.stop_gradient(networks)
    temperature = jnp.exp(frozen.log_temperature)
    later, now = noise or (None, None)
    rest, _ = soft_value(frozen.policy, targets, temperature, batch.following, later)
    goal = batch.reward + gamma * jnp.where(batch.terminated, 0.0, rest)
    errors = [_value_of(critic, batch) - goal for critic in networks.critics]
    critic_loss = 0.5 * sum(jnp.mean(error**2) for error in errors)
    value, entropy = soft_value(
        networks.policy, frozen.critics, temperature, batch.observation, now
    )
    excess = jax.lax.stop_gradient(jnp.mean(entropy)) - target_entropy
    return critic_loss - jnp.mean(value) + networks.log_temperature * excess


def _watch(
    statistics: Statistics,
    first: jax.Array,
    observation: jax.Array,
    reward: jax.Array,
    done: jax.Array,
    gamma: float,
) -> Statistics:
    """Add what one lifetime was shown; no reward comes with its first observation."""
    running = statistics.running_return * gamma + reward
    returns = merge_moments(statistics.returns, running[None])
    returns = jax.tree.map(lambda new, old: jnp.where(first, old, new), returns, statistics.returns)
    return Statistics(
        merge_moments(statistics.observation, observation[None]),
        returns,
        jnp.where(done, 0.0, running),
    )


def _unpack(statistics: Statistics, rows: jax.Array, n: int, discrete: bool) -> Batch:
    """Return rows f32[B, F] of the buffer, normalised."""
    action, reward = rows[:, n : -n - 2], rows[:, -n - 2]
    scaled = reward * jax.lax.rsqrt(statistics.returns.variance + 1e-8)
    return Batch(
        normalize(statistics.observation, rows[:, :n]),
        action[:, 0].astype(jnp.int32) if discrete else action,
        jnp.clip(scaled, -REWARD_CLIP, REWARD_CLIP),
        rows[:, -n - 1] > 0.5,
        normalize(statistics.observation, rows[:, -n:]),
    )


class OnlineSAC:
    """Soft actor-critic that starts anew in every lifetime.

    Args:
        config: settings.
    """

    name = "SAC, online"
    jittable = True
    view: View | None = None

    def __init__(self, config: OnlineSACConfig | None = None):
        self.config = config or OnlineSACConfig()
        # On all weights as one vector: a dozen small programs less to compile and to run.
        self._optimizer = optax.flatten(optax.adam(self.config.learning_rate))

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> OnlineSACState:
        """Draw fresh networks for every lifetime."""
        n, k, discrete = sizes_of(observation_space, action_space)
        hidden = (self.config.hidden, self.config.hidden)
        actor = (n, *hidden, k if discrete else 2 * k)
        critic = (n, *hidden, k) if discrete else (n + k, *hidden, 1)

        def one(key: jax.Array) -> Learner:
            keys = jax.random.split(key, 3)
            critics = (_init_network(keys[1], critic, 1.0), _init_network(keys[2], critic, 1.0))
            temperature = jnp.log(jnp.float32(self.config.initial_temperature))
            networks = Networks(_init_network(keys[0], actor, 0.01), critics, temperature)
            # Copies: an array that is there twice cannot be given up to a compiled program.
            targets = jax.tree.map(jnp.copy, critics)
            return Learner(networks, targets, self._optimizer.init(networks))

        learner, width = jax.vmap(one)(keys), 1 if discrete else k
        statistics = Statistics(fresh_moments(n), fresh_moments(), jnp.float32(0.0))
        state = OnlineSACState(
            jnp.int32(0),
            learner,
            repeated(statistics, num_envs),
            jnp.zeros((num_envs, n)),
            jnp.zeros(num_envs, jnp.int32) if discrete else jnp.zeros((num_envs, k)),
            jnp.zeros((self.config.capacity, num_envs, 2 * n + width + 2)),
        )
        return strong_types(state)

    def act(
        self,
        state: OnlineSACState,
        observation: jax.Array,
        reward: jax.Array,
        terminated: jax.Array,
        truncated: jax.Array,
        keys: jax.Array,
    ) -> tuple[OnlineSACState, jax.Array]:
        """Keep what the last action led to, learn from a batch of what was kept, and act."""
        config, (num_envs, n) = self.config, observation.shape
        discrete = state.action.ndim == 1
        draw_keys, noise_keys, act_keys, start_keys = split_each(keys, 4)
        statistics = jax.vmap(_watch, (0, None, 0, 0, 0, None))(
            state.statistics, state.step == 0, observation, reward, terminated | truncated,
            config.gamma,
        )  # fmt: skip
        came = (
            state.observation,
            state.action[:, None] if discrete else state.action,
            reward[:, None],
            terminated[:, None],
            jnp.where(truncated[:, None], state.observation, observation),
        )
        row = jnp.concatenate([part.astype(jnp.float32) for part in came], -1)
        # At the first step there is nothing to keep: that row is written anew before it is read.
        buffer = put_row(state.buffer, (state.step - 1) % config.capacity, row)

        def learn() -> Learner:
            kept = jnp.minimum(state.step, config.capacity)
            rows = each(lambda key: jax.random.randint(key, (config.batch,), 0, kept), draw_keys)
            drawn = buffer[rows, jnp.arange(num_envs)[:, None]]
            batch = jax.vmap(_unpack, (0, 0, None, None))(statistics, drawn, n, discrete)
            return strong_types(map_runs(self._improve, noise_keys, state.learner, batch))

        learning = state.step >= config.start
        learner = jax.lax.cond(learning, learn, lambda: state.learner)
        seen = jax.vmap(normalize)(statistics.observation, observation)
        outputs = jax.vmap(_run)(learner.networks.policy, seen)
        if discrete:
            chosen = jax.vmap(jax.random.categorical)(act_keys, outputs).astype(jnp.int32)
            drawn = each(lambda key: jax.random.randint(key, (), 0, outputs.shape[-1]), start_keys)
        else:
            shape = state.action.shape[1:]
            noise = each(lambda key: jax.random.normal(key, shape), act_keys)
            chosen, _ = squashed_gaussian(outputs, noise)
            drawn = each(lambda key: jax.random.uniform(key, shape, minval=-1.0), start_keys)
        action = jnp.where(learning, chosen, drawn)
        return strong_types(
            OnlineSACState(state.step + 1, learner, statistics, observation, action, buffer)
        ), action

    def _improve(self, key: jax.Array, learner: Learner, batch: Batch) -> Learner:
        """Take one gradient step in one lifetime."""
        config, noise, target_entropy = self.config, None, 0.0
        if batch.action.ndim == 1:
            choices = learner.networks.policy[-1][1].shape[-1]
            target_entropy = config.discrete_target_entropy * math.log(choices)
        else:
            target_entropy = config.target_entropy * batch.action.shape[-1]
            noise = tuple(jax.random.normal(key, (2, *batch.action.shape)))
        grads = jax.grad(_loss)(
            learner.networks, learner.targets, batch, noise, config.gamma, target_entropy
        )
        updates, optimizer = self._optimizer.update(grads, learner.optimizer, learner.networks)
        networks: Networks = optax.apply_updates(learner.networks, updates)
        targets = optax.incremental_update(networks.critics, learner.targets, config.tau)
        return Learner(networks, targets, optimizer)


def sac() -> OnlineSAC:
    """Return soft actor-critic with its default settings."""
    return OnlineSAC()
