"""PPO on host simulators: rollouts in numpy, the learning of `gla.agents.ppo` compiled."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from gla import policy as pol
from gla.agents import ppo
from gla.envs.checks import check_finite
from gla.errors import GlaError
from gla.progress import Progress

_init = functools.partial(jax.jit, static_argnames=("shape", "config"))(ppo.init)


@functools.partial(jax.jit, static_argnames="discrete")
def _act(key, number, policy, observation, discrete):
    return ppo.act(jax.random.fold_in(key, number), policy, observation, discrete)


@functools.partial(jax.jit, static_argnames=("config", "discrete"))
def _learn(key, learner, rollout, config, discrete):
    # The values of a whole rollout at once: one call instead of one per step, same numbers.
    rollout = rollout._replace(value=ppo.value_of(learner, rollout.observation))
    learner = ppo.update(key, learner, rollout, config, discrete)
    return learner, jnp.all(jnp.isfinite(pol.flatten(learner.policy)))


def _check(vec: VectorEnv, config: ppo.PPOConfig, name: str) -> None:
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


def train_host(
    vec: VectorEnv, config: ppo.PPOConfig, key: jax.Array, progress: bool = True
) -> tuple[ppo.LearnerState, np.ndarray]:
    """Run PPO on a host simulator.

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
    _check(vec, config, name)
    shape = ppo.policy_shape(vec, config)
    seed_key, init_key, act_key, learn_key = jax.random.split(key, 4)
    learner = _init(init_key, shape, config)
    observation, _ = vec.reset(seed=int(jax.random.randint(seed_key, (), 0, 2**30)))
    observation = np.array(observation, np.float32)
    rows, running = config.num_envs, np.zeros(config.num_envs)
    episodes: list[tuple[float, float]] = []
    total = config.num_updates * config.num_steps * rows
    with Progress(f"ppo on {name}", total, "steps", enabled=progress) as bar:
        for update in range(config.num_updates):
            # New arrays every time: JAX may still be reading those of the last update.
            rollout = _empty_rollout(config, shape)
            before = len(episodes)
            for t in range(config.num_steps):
                number = update * config.num_steps + t
                policy = learner.policy
                action, *more = _act(act_key, number, policy, observation, shape.discrete)
                action = np.asarray(action)
                rollout.observation[t] = observation
                rollout.action[t] = action
                rollout.distribution[t], rollout.log_prob[t] = more
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
                steps = float((number + 1) * rows)
                episodes += [(steps, float(value)) for value in running[ended]]
                running[ended] = 0.0
            learner, sound = _learn(
                jax.random.fold_in(learn_key, update), learner, rollout, config, shape.discrete
            )
            if not sound:
                raise GlaError(
                    f"ppo's policy on {name} is not finite after update {update}",
                    "finite weights",
                    "lower the learning rate",
                )
            recent = [value for _, value in episodes[before:]]
            note = f"return {np.mean(recent):.1f}" if recent else ""
            bar.advance(config.num_steps * rows, note)
    return learner, np.array(episodes, np.float64).reshape(-1, 2)


def _empty_rollout(config: ppo.PPOConfig, shape: pol.PolicyShape) -> Any:
    """Return a `Rollout` of numpy arrays to be filled."""

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
