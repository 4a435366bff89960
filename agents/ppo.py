"""PPO (Schulman et al. 2017) that remembers everything.

Pure parts - rollout, advantages, update - that compose into one `lax.scan` over updates. The same
update serves host simulators (`gla.agents.ppo_host`). Truncated episodes bootstrap from the value
of their final observation, terminated ones from zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gla import distributions as dist
from gla import policy as pol
from gla.envs.base import Environment, action_size, is_discrete, observation_size
from gla.envs.splits import RunKeys, step_key
from gla.errors import GlaError


@dataclass(frozen=True)
class PPOConfig:
    """PPO's settings.

    Attributes:
        num_envs: parallel environments in a rollout.
        num_steps: steps of each in a rollout.
        num_updates: rollouts (and versions of the policy).
        epochs: passes over a rollout.
        minibatches: minibatches per pass; must divide num_envs * num_steps.
        learning_rate: Adam's step size at the start.
        anneal: whether the step size falls linearly to zero.
        gamma: discount.
        gae_lambda: lambda of generalised advantage estimation (Schulman et al. 2016).
        clip: clipping range of the probability ratio.
        entropy_coefficient: weight of the entropy bonus.
        value_coefficient: weight of the value loss.
        max_grad_norm: gradients are clipped to this global norm.
        hidden: units in each of the two hidden layers.
        initial_log_std: starting log standard deviation of continuous actions.
    """

    num_envs: int = 8
    num_steps: int = 50
    num_updates: int = 60
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 3e-3
    anneal: bool = False
    gamma: float = 0.97
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy_coefficient: float = 0.0
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5
    hidden: int = 32
    initial_log_std: float = -0.5

    def __post_init__(self):
        positive = ("num_envs", "num_steps", "num_updates", "epochs", "minibatches", "hidden")
        for name in positive:
            if getattr(self, name) < 1:
                raise GlaError(f"ppo {name} is {getattr(self, name)}", "a whole number >= 1")
        for name in ("gamma", "gae_lambda"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise GlaError(f"ppo {name} is {getattr(self, name)}", "a number in [0, 1]")
        for name in ("learning_rate", "clip", "max_grad_norm"):
            if not getattr(self, name) > 0.0:
                raise GlaError(f"ppo {name} is {getattr(self, name)}", "a number above 0")
        if (self.num_envs * self.num_steps) % self.minibatches:
            raise GlaError(
                f"ppo minibatches={self.minibatches} does not divide the rollout of "
                f"{self.num_envs} x {self.num_steps} steps",
                mend="choose a divisor",
            )


class Moments(NamedTuple):
    """Running weight f32[] (a count), mean f32[...] and variance f32[...]."""

    weight: jax.Array
    mean: jax.Array
    variance: jax.Array


class Rollout(NamedTuple):
    """One rollout; leading axes [num_steps, num_envs].

    Attributes:
        observation: f32[T, N, n], raw.
        action: f32[T, N, k] or i32[T, N], as the policy sampled it (unclipped).
        distribution: f32[T, N, k], the Gaussian's mean or the logits.
        log_prob: f32[T, N].
        value: f32[T, N], in units of the scaled reward.
        reward: f32[T, N], raw.
        terminated: bool[T, N].
        truncated: bool[T, N].
        final_observation: f32[T, N, n], raw, before any autoreset.
    """

    observation: jax.Array
    action: jax.Array
    distribution: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    final_observation: jax.Array


class LearnerState(NamedTuple):
    """Everything that learning changes.

    Attributes:
        policy: the policy, its observation normaliser included.
        critic: the value network.
        optimizer: optax state.
        observation_moments: of raw observations, f32[n].
        return_moments: of the running discounted return, f32[].
        running_return: f32[N], discounted return of each parallel environment.
    """

    policy: pol.PolicyParams
    critic: pol.PolicyParams
    optimizer: Any
    observation_moments: Moments
    return_moments: Moments
    running_return: jax.Array


def policy_shape(env: Any, config: PPOConfig) -> pol.PolicyShape:
    """Return the policy's sizes for an environment of either kind."""
    space = getattr(env, "single_action_space", None) or env.action_space
    return pol.PolicyShape(
        observation_size(env), action_size(env), config.hidden, is_discrete(space)
    )


def make_optimizer(config: PPOConfig) -> optax.GradientTransformation:
    """Adam with gradient clipping and an optional linear decay to zero."""
    steps = config.num_updates * config.epochs * config.minibatches
    rate: Any = config.learning_rate
    if config.anneal:
        rate = optax.linear_schedule(config.learning_rate, 0.0, steps)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(rate, eps=1e-5))


def init(key: jax.Array, shape: pol.PolicyShape, config: PPOConfig) -> LearnerState:
    """Draw a fresh learner."""
    policy_key, critic_key = jax.random.split(key)
    policy = pol.init(policy_key, shape, config.initial_log_std)
    critic_shape = pol.PolicyShape(shape.observations, 1, shape.hidden)
    critic = pol.init(critic_key, critic_shape)
    n = shape.observations
    return LearnerState(
        policy,
        critic,
        make_optimizer(config).init((policy, critic)),
        Moments(jnp.asarray(1e-4), jnp.zeros(n), jnp.ones(n)),
        Moments(jnp.asarray(1e-4), jnp.zeros(()), jnp.ones(())),
        jnp.zeros(config.num_envs),
    )


def act(
    key: jax.Array, policy: pol.PolicyParams, observation: jax.Array, discrete: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sample actions: returns (action, distribution, log_prob) with leading axes kept."""
    if discrete:
        logits = pol.output(policy, observation)
        action = jax.random.categorical(key, logits).astype(jnp.int32)
        return action, logits, dist.categorical_log_prob(action, logits)
    mean, log_std = pol.gaussian(policy, observation)
    action = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    return action, mean, dist.gaussian_log_prob(action, mean, log_std)


def value_of(state: LearnerState, observation: jax.Array) -> jax.Array:
    """Values f32[...] of raw observations f32[..., n], in units of the scaled reward."""
    normalized = pol.normalize(state.policy, observation)
    # The critic's own normaliser stays at mean 0, std 1.
    return pol.output(state.critic, normalized)[..., 0]


def advantages(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    gamma: float,
    gae_lambda: float,
) -> jax.Array:
    """Generalised advantage estimation (Schulman et al. 2016, Eq. 16).

    Args:
        reward: f32[T, ...].
        value: f32[T, ...], of the observation acted on.
        next_value: f32[T, ...], of the observation that the action led to, before any autoreset.
        terminated: bool[T, ...]; no value follows.
        truncated: bool[T, ...]; `next_value` follows, but the sum over later steps is cut.
        gamma: discount.
        gae_lambda: decay of the sum.

    Returns:
        f32[T, ...].
    """
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    carry_on = jnp.where(terminated | truncated, 0.0, gamma * gae_lambda)

    def backward(later, inputs):
        delta_t, carry_t = inputs
        now = delta_t + carry_t * later
        return now, now

    _, result = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, carry_on), reverse=True)
    return result


def merge_moments(moments: Moments, batch: jax.Array) -> Moments:
    """Add a batch f32[N, ...] to running moments (Chan et al. 1983)."""
    count = batch.shape[0]
    mean, variance = jnp.mean(batch, 0), jnp.var(batch, 0)
    total = moments.weight + count
    delta = mean - moments.mean
    m2 = moments.variance * moments.weight + variance * count
    m2 = m2 + delta**2 * moments.weight * count / total
    return Moments(total, moments.mean + delta * count / total, m2 / total)


def _loss(networks, batch, normalizer: pol.PolicyParams, config: PPOConfig, discrete: bool):
    policy, critic = networks
    # Normalisers move by their moments, never by gradients.
    policy = policy._replace(mean=normalizer.mean, std=normalizer.std)
    critic = jax.lax.stop_gradient(critic)._replace(
        **{name: getattr(critic, name) for name in ("w1", "b1", "w2", "b2", "w3", "b3")}
    )
    observation, action, old_log_prob, advantage, target, old_value = batch
    if discrete:
        logits = pol.output(policy, observation)
        log_prob = dist.categorical_log_prob(action, logits)
        entropy = jnp.mean(dist.categorical_entropy(logits))
    else:
        mean, log_std = pol.gaussian(policy, observation)
        log_prob = dist.gaussian_log_prob(action, mean, log_std)
        entropy = dist.gaussian_entropy(log_std)
    advantage = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8)
    ratio = jnp.exp(log_prob - old_log_prob)
    clipped = jnp.clip(ratio, 1.0 - config.clip, 1.0 + config.clip)
    policy_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
    value = pol.output(critic, pol.normalize(policy, observation))[..., 0]
    near = old_value + jnp.clip(value - old_value, -config.clip, config.clip)
    value_loss = 0.5 * jnp.mean(jnp.maximum((value - target) ** 2, (near - target) ** 2))
    return (
        policy_loss + config.value_coefficient * value_loss - (config.entropy_coefficient * entropy)
    )


def scale_rewards(
    state: LearnerState, rollout: Rollout, gamma: float
) -> tuple[LearnerState, jax.Array]:
    """Scale rewards by the running standard deviation of the discounted return.

    Returns the state with updated moments and the scaled rewards, f32[T, N], clipped to +-10.
    """

    def forward(running, inputs):
        reward, done = inputs
        running = running * gamma + reward
        return jnp.where(done, 0.0, running), running

    done = rollout.terminated | rollout.truncated
    running, returns = jax.lax.scan(forward, state.running_return, (rollout.reward, done))
    moments = merge_moments(state.return_moments, jnp.ravel(returns))
    scaled = jnp.clip(rollout.reward * jax.lax.rsqrt(moments.variance + 1e-8), -10.0, 10.0)
    return state._replace(return_moments=moments, running_return=running), scaled


def update(
    key: jax.Array, state: LearnerState, rollout: Rollout, config: PPOConfig, discrete: bool
) -> LearnerState:
    """Learn from one rollout; the observation normaliser is moved after the gradient steps."""
    state, reward = scale_rewards(state, rollout, config.gamma)
    next_value = value_of(state, rollout.final_observation)
    advantage = advantages(
        reward,
        rollout.value,
        next_value,
        rollout.terminated,
        rollout.truncated,
        config.gamma,
        config.gae_lambda,
    )
    size = config.num_envs * config.num_steps
    batch = (
        rollout.observation,
        rollout.action,
        rollout.log_prob,
        advantage,
        advantage + rollout.value,
        rollout.value,
    )
    batch = jax.tree.map(lambda x: jnp.reshape(x, (size, *x.shape[2:])), batch)
    optimizer = make_optimizer(config)
    normalizer = state.policy

    def minibatch(carry, indices):
        networks, optimizer_state = carry
        part = jax.tree.map(lambda x: x[indices], batch)
        grads = jax.grad(_loss)(networks, part, normalizer, config, discrete)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, networks)
        return (optax.apply_updates(networks, updates), optimizer_state), None

    def epoch(carry, epoch_key):
        order = jax.random.permutation(epoch_key, size)
        return jax.lax.scan(minibatch, carry, jnp.reshape(order, (config.minibatches, -1)))

    carry = ((state.policy, state.critic), state.optimizer)
    ((policy, critic), optimizer_state), _ = jax.lax.scan(
        epoch, carry, jax.random.split(key, config.epochs)
    )
    moments = merge_moments(state.observation_moments, jnp.reshape(rollout.observation, (size, -1)))
    policy = policy._replace(mean=moments.mean, std=jnp.maximum(jnp.sqrt(moments.variance), 1e-3))
    return state._replace(
        policy=policy,
        critic=critic,
        optimizer=optimizer_state,
        observation_moments=moments,
    )


def train(
    keys: RunKeys, env: Environment, params: Any, config: PPOConfig, record_envs: int
) -> tuple[LearnerState, dict[str, jax.Array]]:
    """Run PPO on one task and return the learner and what `record_envs` environments saw.

    Args:
        keys: from `gla.envs.splits.run_keys`.
        env: an environment with `TimeLimit` and `Autoreset`.
        params: the task.
        config: settings.
        record_envs: how many of the parallel environments are recorded, <= num_envs.

    Returns:
        The final learner and a record: `observation` f32[R, U, T, n], `action`, `distribution`
        f32[R, U, T, k], `log_std` f32[U, k], `reward`, `value` f32[R, U, T], `terminated`,
        `truncated` bool[R, U, T], `policy` f32[U, P], `mean_return` f32[U] (mean reward per step
        over all environments times the horizon).
    """
    shape = policy_shape(env, config)
    discrete = shape.discrete
    init_key, scan_key = jax.random.split(keys.agent)
    learner = init(init_key, shape, config)
    env_ids = jnp.arange(config.num_envs)
    horizon = float(env.horizon or config.num_steps)

    def keys_at(step):
        return jax.vmap(lambda i: step_key(keys.environment, step, i))(env_ids)

    env_state, observation = jax.vmap(env.reset, in_axes=(0, None))(keys_at(-1), params)

    def interact(carry, inputs):
        env_state, observation, learner = carry
        key, step = inputs
        action, distribution, log_prob = act(key, learner.policy, observation, discrete)
        value = value_of(learner, observation)
        env_state, ts = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
            keys_at(step), env_state, action, params
        )
        row = Rollout(
            observation,
            action,
            distribution,
            log_prob,
            value,
            ts.reward,
            ts.terminated,
            ts.truncated,
            ts.final_observation,
        )
        return (env_state, ts.observation, learner), row

    def one_update(carry, inputs):
        learner, env_state, observation = carry
        key, number = inputs
        act_key, learn_key = jax.random.split(key)
        steps = number * config.num_steps + jnp.arange(config.num_steps)
        (env_state, observation, _), rollout = jax.lax.scan(
            interact,
            (env_state, observation, learner),
            (jax.random.split(act_key, config.num_steps), steps),
        )
        record = {
            name: jnp.swapaxes(getattr(rollout, name)[:, :record_envs], 0, 1)
            for name in (
                "observation",
                "action",
                "distribution",
                "reward",
                "value",
                "terminated",
                "truncated",
            )
        }
        low, high = pol.LOG_STD_RANGE
        record["log_std"] = jnp.clip(learner.policy.log_std, low, high)
        record["policy"] = pol.flatten(learner.policy)
        record["mean_return"] = jnp.mean(rollout.reward) * horizon
        learner = update(learn_key, learner, rollout, config, discrete)
        return (learner, env_state, observation), record

    updates = jnp.arange(config.num_updates)
    (learner, _, _), record = jax.lax.scan(
        one_update,
        (learner, env_state, observation),
        (jax.random.split(scan_key, config.num_updates), updates),
    )
    streams = ("observation", "action", "distribution", "reward", "value")
    for name in (*streams, "terminated", "truncated"):
        record[name] = jnp.swapaxes(record[name], 0, 1)
    return learner, record
