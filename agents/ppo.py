"""PPO (Schulman et al. 2017) that remembers everything.

Pure parts - rollout, advantages, update - that compose into `lax.scan` over updates, as many at a
time as one likes. The same update serves host simulators (`gla.agents.ppo_host`). Truncated
episodes bootstrap from the value of their final observation, terminated ones from zero.

Sizes are static (`PPOConfig`); what may differ from seed to seed is traced (`Hyper`).
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
from gla.envs.vectorized import step_batch, strong_types
from gla.errors import GlaError
from gla.histories.scores import episode_return


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


class Hyper(NamedTuple):
    """The settings that may differ between seeds of one compiled program, each f32[].

    They mean what the fields of `PPOConfig` of the same names mean.
    """

    learning_rate: jax.Array
    gamma: jax.Array
    gae_lambda: jax.Array
    clip: jax.Array
    entropy_coefficient: jax.Array
    value_coefficient: jax.Array
    max_grad_norm: jax.Array
    initial_log_std: jax.Array


def hyper_of(config: PPOConfig) -> Hyper:
    """Return the traced settings of a configuration."""
    return Hyper(*(jnp.float32(getattr(config, name)) for name in Hyper._fields))


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


def make_optimizer(config: PPOConfig, hyper: Hyper) -> optax.GradientTransformation:
    """Adam with gradient clipping and an optional linear decay to zero.

    On all weights as one vector: a dozen small programs less to compile and to run.
    """
    steps = config.num_updates * config.epochs * config.minibatches
    rate: Any = hyper.learning_rate
    if config.anneal:
        rate = optax.linear_schedule(rate, 0.0, steps)
    return optax.flatten(
        optax.chain(optax.clip_by_global_norm(hyper.max_grad_norm), optax.adam(rate, eps=1e-5))
    )


def init(
    key: jax.Array, shape: pol.PolicyShape, config: PPOConfig, hyper: Hyper | None = None
) -> LearnerState:
    """Draw a fresh learner; `hyper` is the configuration's own where none is given."""
    hyper = hyper or hyper_of(config)
    policy_key, critic_key = jax.random.split(key)
    policy = pol.init(policy_key, shape, hyper.initial_log_std)
    critic_shape = pol.PolicyShape(shape.observations, 1, shape.hidden)
    critic = pol.init(critic_key, critic_shape)
    n = shape.observations
    return LearnerState(
        policy,
        critic,
        make_optimizer(config, hyper).init((policy, critic)),
        Moments(jnp.asarray(1e-4), jnp.zeros(n), jnp.ones(n)),
        Moments(jnp.asarray(1e-4), jnp.zeros(()), jnp.ones(())),
        jnp.zeros(config.num_envs),
    )


def draw_noise(key: jax.Array, shape: tuple[int, ...], discrete: bool) -> jax.Array:
    """Draw the noise f32[*shape] of `act`: Gumbel for logits, Gaussian for means."""
    return (jax.random.gumbel if discrete else jax.random.normal)(key, shape)


def act(
    policy: pol.PolicyParams, observation: jax.Array, noise: jax.Array, discrete: bool
) -> tuple[jax.Array, jax.Array]:
    """Sample actions.

    Args:
        policy: acts.
        observation: f32[..., n], raw.
        noise: f32[..., k], from `draw_noise`.
        discrete: whether actions are discrete.

    Returns:
        The action, f32[..., k] or i32[...], and the distribution f32[..., k] it was drawn from.
    """
    if discrete:
        logits = pol.output(policy, observation)
        return jnp.argmax(logits + noise, -1).astype(jnp.int32), logits
    mean, log_std = pol.gaussian(policy, observation)
    return mean + jnp.exp(log_std) * noise, mean


def log_prob_of(
    policy: pol.PolicyParams, action: jax.Array, distribution: jax.Array, discrete: bool
) -> jax.Array:
    """Log-probabilities f32[...] of actions under the distributions that `act` returned."""
    if discrete:
        return dist.categorical_log_prob(action, distribution)
    return dist.gaussian_log_prob(action, distribution, pol.bounded_log_std(policy))


def value_of(state: LearnerState, observation: jax.Array) -> jax.Array:
    """Values f32[...] of raw observations f32[..., n], in units of the scaled reward."""
    # The critic has no normaliser of its own.
    return pol.network(state.critic, pol.normalize(state.policy, observation))[..., 0]


def next_values(state: LearnerState, rollout: Rollout) -> jax.Array:
    """Values f32[T, N] of where each action led, before any autoreset.

    They are the values of the following row, which are there already; only where an episode was
    truncated, and after the last row, are there others to compute. After a termination they mean
    nothing.
    """
    last = value_of(state, rollout.final_observation[-1])
    following = jnp.concatenate([rollout.value[1:], last[None]])

    def look() -> jax.Array:
        final = value_of(state, rollout.final_observation)
        return jnp.where(rollout.truncated, final, following)

    return jax.lax.cond(jnp.any(rollout.truncated), look, lambda: following)


def advantages(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    gamma: float | jax.Array,
    gae_lambda: float | jax.Array,
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

    start = jnp.zeros_like(delta[0])
    _, result = jax.lax.scan(backward, start, (delta, carry_on), reverse=True, unroll=8)
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


class Batch(NamedTuple):
    """What PPO learns from, any leading axes [...].

    Attributes:
        observation: f32[..., n], normalised.
        action: f32[..., k], or f32[..., 1] holding the number of a discrete action.
        log_prob: f32[...], of the action when it was taken.
        advantage: f32[...].
        target: f32[...], of the value.
        value: f32[...], when the action was taken.
    """

    observation: jax.Array
    action: jax.Array
    log_prob: jax.Array
    advantage: jax.Array
    target: jax.Array
    value: jax.Array


def _pack(batch: Batch) -> jax.Array:
    """Join a batch into f32[..., F]: its rows are then gathered in one go."""
    return jnp.concatenate([x[..., None] if x.ndim == 1 else x for x in batch], -1)


def _unpack(packed: jax.Array, n: int) -> Batch:
    scalars = jnp.moveaxis(packed[..., -4:], -1, 0)
    return Batch(packed[..., :n], packed[..., n:-4], *scalars)


def _loss(networks, batch: Batch, config: PPOConfig, hyper: Hyper, discrete: bool):
    policy, critic = networks
    outputs = pol.network(policy, batch.observation)
    if discrete:
        log_prob = dist.categorical_log_prob(batch.action[:, 0].astype(jnp.int32), outputs)
        entropy = jnp.mean(dist.categorical_entropy(outputs))
    else:
        log_std = pol.bounded_log_std(policy)
        log_prob = dist.gaussian_log_prob(batch.action, jnp.tanh(outputs), log_std)
        entropy = dist.gaussian_entropy(log_std)
    advantage = batch.advantage
    advantage = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8)
    ratio = jnp.exp(log_prob - batch.log_prob)
    clipped = jnp.clip(ratio, 1.0 - hyper.clip, 1.0 + hyper.clip)
    policy_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
    value = pol.network(critic, batch.observation)[..., 0]
    near = batch.value + jnp.clip(value - batch.value, -hyper.clip, hyper.clip)
    value_loss = 0.5 * jnp.mean(
        jnp.maximum((value - batch.target) ** 2, (near - batch.target) ** 2)
    )
    return policy_loss + hyper.value_coefficient * value_loss - hyper.entropy_coefficient * entropy


def scale_rewards(
    state: LearnerState, rollout: Rollout, gamma: float | jax.Array
) -> tuple[LearnerState, jax.Array]:
    """Scale rewards by the running standard deviation of the discounted return.

    Returns the state with updated moments and the scaled rewards, f32[T, N], clipped to +-10.
    """

    def forward(running, inputs):
        reward, done = inputs
        running = running * gamma + reward
        return jnp.where(done, 0.0, running), running

    done = rollout.terminated | rollout.truncated
    running, returns = jax.lax.scan(forward, state.running_return, (rollout.reward, done), unroll=8)
    moments = merge_moments(state.return_moments, jnp.ravel(returns))
    scaled = jnp.clip(rollout.reward * jax.lax.rsqrt(moments.variance + 1e-8), -10.0, 10.0)
    return state._replace(return_moments=moments, running_return=running), scaled


def update(
    key: jax.Array,
    state: LearnerState,
    rollout: Rollout,
    config: PPOConfig,
    discrete: bool,
    hyper: Hyper | None = None,
) -> LearnerState:
    """Learn from one rollout; the observation normaliser is moved after the gradient steps."""
    hyper = hyper or hyper_of(config)
    state, reward = scale_rewards(state, rollout, hyper.gamma)
    advantage = advantages(
        reward,
        rollout.value,
        next_values(state, rollout),
        rollout.terminated,
        rollout.truncated,
        hyper.gamma,
        hyper.gae_lambda,
    )
    size, n = config.num_envs * config.num_steps, rollout.observation.shape[-1]
    action = rollout.action[..., None].astype(jnp.float32) if discrete else rollout.action
    batch = Batch(
        pol.normalize(state.policy, rollout.observation),
        action,
        rollout.log_prob,
        advantage,
        advantage + rollout.value,
        rollout.value,
    )
    rows = _pack(Batch(*(jnp.reshape(x, (size, *x.shape[2:])) for x in batch)))
    optimizer = make_optimizer(config, hyper)

    def minibatch(carry, indices):
        networks, optimizer_state = carry
        grads = jax.grad(_loss)(networks, _unpack(rows[indices], n), config, hyper, discrete)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, networks)
        return (optax.apply_updates(networks, updates), optimizer_state), None

    def epoch(carry, epoch_key):
        order = _shuffled(epoch_key, size)
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


def _shuffled(key: jax.Array, size: int) -> jax.Array:
    """Return the numbers below `size` in random order, i32[size].

    One sort of random words that carry a row's number in their lowest bits: a fifth of the time of
    `jax.random.permutation`, which sorts pairs, more than once. Rows whose random bits are equal
    keep their order; with 16 of these bits or more that is rare.
    """
    bits = max(1, (size - 1).bit_length())
    if bits > 16:
        return jax.random.permutation(key, size)
    mask = jnp.uint32((1 << bits) - 1)
    words = jax.random.bits(key, (size,), jnp.uint32) & ~mask
    return (jnp.sort(words | jnp.arange(size, dtype=jnp.uint32)) & mask).astype(jnp.int32)


class Training(NamedTuple):
    """A PPO run under way, from which it can be continued.

    Attributes:
        learner: what it has learned.
        env_state: states of the parallel environments, each leaf [N, ...].
        observation: f32[N, n], to be acted on next.
        update: i32[], updates done.
    """

    learner: LearnerState
    env_state: Any
    observation: jax.Array
    update: jax.Array


def begin(
    keys: RunKeys, env: Environment, params: Any, config: PPOConfig, hyper: Hyper | None = None
) -> Training:
    """Start a PPO run; arguments as in `advance`."""
    init_key, _ = jax.random.split(keys.agent)
    learner = init(init_key, policy_shape(env, config), config, hyper)
    starts = _step_keys(keys, -1, config.num_envs)
    env_state, observation = jax.vmap(env.reset, in_axes=(0, None))(starts, params)
    return strong_types(Training(learner, env_state, observation, jnp.int32(0)))


def _step_keys(keys: RunKeys, step: jax.Array | int, envs: int) -> jax.Array:
    return jax.vmap(lambda env: step_key(keys.environment, step, env))(jnp.arange(envs))


def _update_keys(keys: RunKeys, update: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the keys of acting and learning, of the run and the update's number alone."""
    _, run_key = jax.random.split(keys.agent)
    act_key, learn_key = jax.random.split(jax.random.fold_in(run_key, update))
    return act_key, learn_key


def play(
    keys: RunKeys, env: Environment, params: Any, config: PPOConfig, training: Training
) -> tuple[Training, Rollout]:
    """Let the policy act for one rollout; arguments as in `advance`."""
    key, _ = _update_keys(keys, training.update)
    learner, discrete = training.learner, is_discrete(env.action_space)
    steps = training.update * config.num_steps + jnp.arange(config.num_steps)
    shape = (config.num_steps, config.num_envs, action_size(env))

    def interact(carry, inputs):
        env_state, observation = carry
        noise, step = inputs
        action, distribution = act(learner.policy, observation, noise, discrete)
        env_state, ts = step_batch(
            env, lambda: _step_keys(keys, step, config.num_envs), env_state, action, params, None
        )
        row = (
            observation,
            action,
            distribution,
            ts.reward,
            ts.terminated,
            ts.truncated,
            ts.final_observation,
        )
        return strong_types((env_state, ts.observation)), row

    (env_state, observation), rows = jax.lax.scan(
        interact,
        (training.env_state, training.observation),
        (draw_noise(key, shape, discrete), steps),
    )
    seen, action, distribution, reward, terminated, truncated, final = rows
    # All rows at once: the same numbers as step by step, in one matrix product instead of many.
    rollout = Rollout(
        seen,
        action,
        distribution,
        log_prob_of(learner.policy, action, distribution, discrete),
        value_of(learner, seen),
        reward,
        terminated,
        truncated,
        final,
    )
    return training._replace(env_state=env_state, observation=observation), rollout


def learn(
    keys: RunKeys,
    env: Environment,
    config: PPOConfig,
    training: Training,
    rollout: Rollout,
    record_envs: int,
    hyper: Hyper | None = None,
) -> tuple[Training, dict[str, jax.Array]]:
    """Learn from the rollout of `play`; the record is that of `advance` for this update alone."""
    discrete = is_discrete(env.action_space)
    _, key = _update_keys(keys, training.update)
    horizon = float(env.horizon or config.num_steps)
    learner = training.learner
    record = {name: jnp.swapaxes(getattr(rollout, name)[:, :record_envs], 0, 1) for name in STREAMS}
    record["log_std"] = pol.bounded_log_std(learner.policy)
    record["policy"] = pol.flatten(learner.policy)
    record["mean_return"] = episode_return(rollout.reward, rollout.terminated, horizon, (0, 1))
    record["reward_deviation"] = jnp.sqrt(learner.return_moments.variance + 1e-8)
    learner = update(key, learner, rollout, config, discrete, hyper)
    training = training._replace(learner=learner, update=training.update + 1)
    return strong_types(training), record


def advance(
    keys: RunKeys,
    env: Environment,
    params: Any,
    config: PPOConfig,
    training: Training,
    updates: int,
    record_envs: int,
    hyper: Hyper | None = None,
) -> tuple[Training, dict[str, jax.Array]]:
    """Go on with a PPO run on one task and record what `record_envs` environments see.

    What is recorded of an environment does not depend on how many others are recorded.

    Args:
        keys: from `gla.envs.splits.run_keys`, the same in all calls of a run.
        env: an environment with `TimeLimit` and `Autoreset`.
        params: the task.
        config: settings.
        training: from `begin` or the call before.
        updates: how many updates to make.
        record_envs: how many of the parallel environments are recorded, <= num_envs.
        hyper: settings of this run; None takes those of `config`.

    Returns:
        The run so far and a record of these U updates: `observation` f32[R, U, T, n], `action`,
        `distribution` f32[R, U, T, k], `reward`, `value` f32[R, U, T], `terminated`, `truncated`
        bool[R, U, T], `log_std` f32[U, k], `policy` f32[U, P], `mean_return` f32[U] (return per
        episode over all environments, `gla.histories.episode_return`), `reward_deviation` f32[U]
        (by which rewards were divided for the value).
    """

    def one_update(training: Training, _):
        training, rollout = play(keys, env, params, config, training)
        return learn(keys, env, config, training, rollout, record_envs, hyper)

    training, record = jax.lax.scan(one_update, training, None, length=updates)
    for name in STREAMS:
        record[name] = jnp.swapaxes(record[name], 0, 1)
    return training, record


STREAMS = ("observation", "action", "distribution", "reward", "value", "terminated", "truncated")


def train(
    keys: RunKeys,
    env: Environment,
    params: Any,
    config: PPOConfig,
    record_envs: int,
    hyper: Hyper | None = None,
) -> tuple[LearnerState, dict[str, jax.Array]]:
    """Run PPO on one task from beginning to end; arguments and record as in `advance`."""
    training = begin(keys, env, params, config, hyper)
    training, record = advance(
        keys, env, params, config, training, config.num_updates, record_envs, hyper
    )
    return training.learner, record
