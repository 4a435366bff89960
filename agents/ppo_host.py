"""PPO on host simulators: rollouts in numpy, the learning of `gla.agents.ppo` compiled."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from gla import policy as pol
from gla.agents import ppo
from gla.envs.checks import check_finite
from gla.errors import GlaError
from gla.histories.scores import episode_return
from gla.progress import Progress

_init = functools.partial(jax.jit, static_argnames=("shape", "config"))(ppo.init)
_noise = functools.partial(jax.jit, static_argnames=("shape", "discrete"))(ppo.draw_noise)


@functools.partial(jax.jit, static_argnames=("config", "discrete"))
def _learn(key, learner, rollout, config, discrete, hyper):
    # What the rollout needs of the networks, all rows at once: one call instead of one per step.
    rollout = rollout._replace(
        value=ppo.value_of(learner, rollout.observation),
        log_prob=ppo.log_prob_of(learner.policy, rollout.action, rollout.distribution, discrete),
    )
    learned = ppo.update(key, learner, rollout, config, discrete, hyper)
    return learned, rollout.value, pol.flatten(learned.policy)


class HostKeys(NamedTuple):
    """Random keys of one run: of the episodes, the first weights, the actions and the learning."""

    episodes: jax.Array
    init: jax.Array
    act: jax.Array
    learn: jax.Array


def host_keys(key: jax.Array) -> HostKeys:
    """Split the key of a run by purpose."""
    return HostKeys(*jax.random.split(key, 4))


class HostTraining(NamedTuple):
    """A PPO run under way on a simulator, which has a state of its own.

    Attributes:
        learner: what it has learned.
        observation: f32[N, n], to be acted on next.
        running: f64[N], return so far of each episode under way.
        update: updates done.
    """

    learner: ppo.LearnerState
    observation: np.ndarray
    running: np.ndarray
    update: int


class HostUpdate(NamedTuple):
    """What one update did.

    Attributes:
        rollout: `gla.agents.ppo.Rollout` of numpy arrays, without log-probabilities.
        policy: f32[P], flat parameters of the policy that acted.
        log_std: f32[k], its log standard deviation as used.
        mean_return: f32, return per episode over all sub-environments (`episode_return`).
        reward_deviation: f32, by which rewards were divided for the value.
        episodes: f64[E, 2], of every finished episode the steps that all sub-environments together
            had taken when it ended, and its return.
    """

    rollout: ppo.Rollout
    policy: np.ndarray
    log_std: np.ndarray
    mean_return: np.ndarray
    reward_deviation: np.ndarray
    episodes: np.ndarray


def check_vector(vec: VectorEnv, config: ppo.PPOConfig, name: str) -> None:
    """Raise `GlaError` if PPO with these settings cannot be run on a vector environment."""
    if vec.num_envs != config.num_envs:
        raise GlaError(
            f"{name} has {vec.num_envs} sub-environments and ppo num_envs is {config.num_envs}",
            "the same number",
        )
    mode = vec.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        raise GlaError(
            f"{name} resets in the mode {getattr(mode, 'value', mode)}",
            "SAME_STEP, which keeps every final observation",
            "make it with gla.envs.make_host, or pass autoreset_mode=AutoresetMode.SAME_STEP",
        )


def final_observations(
    observation: np.ndarray, ended: np.ndarray, infos: dict[str, Any]
) -> np.ndarray:
    """Return where each sub-environment really arrived, before any autoreset.

    Args:
        observation: f32[N, n], of the new episode where one ended.
        ended: bool[N].
        infos: from the vector environment's step, with `final_obs` where an episode ended.

    Returns:
        f32[N, n].

    Raises:
        GlaError: if an episode ended and its last observation is missing.
    """
    final = np.array(observation, np.float32)
    if not ended.any():
        return final
    kept = infos.get("final_obs")
    for i in np.flatnonzero(ended):
        if kept is None or kept[i] is None:
            raise GlaError(
                f"the final observation of sub-environment {i} is missing from infos['final_obs']",
                "a vector environment with SAME_STEP autoreset",
            )
        final[i] = kept[i]
    return final


def begin_host(
    vec: VectorEnv, config: ppo.PPOConfig, keys: HostKeys, hyper: ppo.Hyper | None = None
) -> HostTraining:
    """Reset a simulator and draw a learner; arguments as in `advance_host`."""
    hyper = hyper or ppo.hyper_of(config)
    learner = _init(keys.init, ppo.policy_shape(vec, config), config, hyper)
    observation, _ = vec.reset(seed=int(jax.random.randint(keys.episodes, (), 0, 2**30)))
    return HostTraining(
        learner, np.array(observation, np.float32), np.zeros(config.num_envs, np.float64), 0
    )


def advance_host(
    vec: VectorEnv,
    config: ppo.PPOConfig,
    keys: HostKeys,
    training: HostTraining,
    horizon: int | None = None,
    hyper: ppo.Hyper | None = None,
) -> tuple[HostTraining, HostUpdate]:
    """Make one update of PPO on a simulator.

    Args:
        vec: a vector environment that `check_vector` accepts, where `training` left it.
        config: settings.
        keys: the same in all calls of a run.
        training: from `begin_host` or the call before.
        horizon: steps after which episodes are truncated, for `mean_return`; None: of a rollout.
        hyper: settings of this run; None takes those of `config`.

    Raises:
        GlaError: if an observation, reward, action or the policy is not finite.
    """
    name = getattr(vec, "name", type(vec.unwrapped).__name__)
    hyper = hyper or ppo.hyper_of(config)
    shape = ppo.policy_shape(vec, config)
    discrete, learner, update = shape.discrete, training.learner, training.update
    size = (config.num_steps, config.num_envs, shape.actions)
    noise = np.asarray(_noise(jax.random.fold_in(keys.act, update), size, discrete))
    policy = jax.tree.map(np.asarray, learner.policy)
    rollout = _empty_rollout(config, shape)
    observation, running = training.observation, training.running.copy()
    episodes: list[tuple[float, float]] = []
    for t in range(config.num_steps):
        number = update * config.num_steps + t
        action, distribution = _act(policy, observation, noise[t], discrete)
        rollout.observation[t] = observation
        rollout.action[t], rollout.distribution[t] = action, distribution
        check_finite(name, number, None, None, action)
        observation, reward, terminated, truncated, infos = vec.step(action)
        observation = np.array(observation, np.float32)
        ended = terminated | truncated
        final = final_observations(observation, ended, infos)
        check_finite(name, number, observation, reward)
        check_finite(name, number, final, None)
        rollout.reward[t] = reward
        rollout.terminated[t], rollout.truncated[t] = terminated, truncated
        rollout.final_observation[t] = final
        running += reward
        steps = float((number + 1) * config.num_envs)
        episodes += [(steps, float(value)) for value in running[ended]]
        running[ended] = 0.0
    horizon = horizon or config.num_steps
    done = HostUpdate(
        rollout,
        np.asarray(pol.flatten(learner.policy)),
        np.asarray(pol.bounded_log_std(learner.policy)),
        np.asarray(episode_return(rollout.reward, rollout.terminated, horizon, (0, 1))),
        np.sqrt(np.asarray(learner.return_moments.variance) + np.float32(1e-8)),
        np.array(episodes, np.float64).reshape(-1, 2),
    )
    learner, value, flat = _learn(
        jax.random.fold_in(keys.learn, update), learner, rollout, config, discrete, hyper
    )
    if not np.isfinite(np.asarray(flat)).all():
        raise GlaError(
            f"ppo's policy on {name} is not finite after update {update}",
            "finite weights",
            "lower the learning rate",
        )
    done = done._replace(rollout=rollout._replace(value=np.asarray(value)))
    return HostTraining(learner, observation, running, update + 1), done


def train_host(
    vec: VectorEnv, config: ppo.PPOConfig, key: jax.Array, progress: bool = True
) -> tuple[ppo.LearnerState, np.ndarray]:
    """Run PPO on a host simulator from beginning to end.

    Truncated episodes bootstrap from the value of their final observation, terminated ones from
    zero, as in `gla.agents.ppo`.

    Args:
        vec: a vector environment with SAME_STEP autoreset, as `gla.envs.make_host` builds; it is
            reset first and stays open.
        config: settings; `num_envs` must be that of `vec`.
        key: random key; equal keys give equal runs on the same machine.
        progress: show a progress bar on standard error.

    Returns:
        The final learner and every finished episode in order, f64[E, 2]: environment steps taken
        by all sub-environments together when it ended, and its return.

    Raises:
        GlaError: if `vec` does not fit the settings or does not reset in the same step, or if an
            observation, reward, action or the policy is not finite.
    """
    name = getattr(vec, "name", type(vec.unwrapped).__name__)
    check_vector(vec, config, name)
    keys = host_keys(key)
    training = begin_host(vec, config, keys)
    episodes = []
    steps = config.num_steps * config.num_envs
    with Progress(f"ppo on {name}", config.num_updates * steps, "steps", enabled=progress) as bar:
        for _ in range(config.num_updates):
            training, done = advance_host(vec, config, keys, training)
            episodes.append(done.episodes)
            recent = done.episodes[:, 1]
            bar.advance(steps, f"return {recent.mean():.1f}" if len(recent) else "")
    return training.learner, np.concatenate(episodes)


def _act(
    policy: pol.PolicyParams, observation: np.ndarray, noise: np.ndarray, discrete: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`gla.agents.ppo.act` in numpy: for a few rows that is faster than a call of a program."""
    clip = pol.OBSERVATION_CLIP
    x = ((observation - policy.mean) / policy.std).clip(-clip, clip)
    x = np.tanh(x @ policy.w1 + policy.b1)
    x = np.tanh(x @ policy.w2 + policy.b2)
    x = x @ policy.w3 + policy.b3
    if discrete:
        return np.argmax(x + noise, -1).astype(np.int32), x
    mean = np.tanh(x)
    return mean + np.exp(policy.log_std.clip(*pol.LOG_STD_RANGE)) * noise, mean


def _empty_rollout(config: ppo.PPOConfig, shape: pol.PolicyShape) -> Any:
    """Return a `Rollout` of numpy arrays to be filled: new ones, as JAX may still read the last."""

    def make(*size: int, dtype: Any = np.float32) -> np.ndarray:
        return np.zeros((config.num_steps, config.num_envs, *size), dtype)

    parts: Any = {
        "observation": make(shape.observations),
        "action": make(dtype=np.int32) if shape.discrete else make(shape.actions),
        "distribution": make(shape.actions),
        "log_prob": make(),
        "value": make(),
        "reward": make(),
        "terminated": make(dtype=bool),
        "truncated": make(dtype=bool),
        "final_observation": make(shape.observations),
    }
    return ppo.Rollout(**parts)
