"""Histories of an oracle behind fading noise: learning to imitate where the answer is known.

Environments with an oracle (`Environment.solve`, such as bandits, data sets as bandits and random
MDPs) need no expert to be trained. What is recorded looks like learning, because the share of
random actions falls, and the target of every step is what the oracle would have done (Lee et al.
2023, "Supervised Pretraining Can Learn In-Context Reinforcement Learning").
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from gla.agents.blocks import check_seed
from gla.agents.rollouts import (
    Fixed,
    RolloutConfig,
    RolloutMaker,
    Rows,
    Schedule,
    make_meta,
    plain_environment,
)
from gla.envs.base import Environment, Params, State, is_discrete
from gla.envs.splits import RunKeys, Split
from gla.errors import GlaError

LEAST_NOISE = 1e-3  # of distributions, so that no action is impossible


@dataclass(frozen=True)
class OracleConfig(RolloutConfig):
    """What is recorded.

    Attributes:
        environment: id of a functional environment with an oracle and discrete actions.
        runs: tasks.
        seed: of the tasks.
        split: of the tasks.
        options: settings of the environment, as `name=value` with a value in JSON, such as
            `fewest_classes=2`; the recorded id stays that of the plain environment.
        noise: share of uniform actions in the behaviour, from 1 (random) to 0 (the oracle).
    """

    environment: str = "gla/SupervisedBandit-v0"
    runs: int = 512
    seed: int = 0
    split: Split = "train"
    options: tuple[str, ...] = ()
    noise: Schedule = field(default_factory=lambda: Schedule(0.9, 0.0))

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("runs")
        check_seed(self.seed)
        self.noise.check("noise", 0.0, 1.0)


def parse_settings(words: tuple[str, ...]) -> dict[str, Any]:
    """Read settings of an environment, such as `pool=8`.

    Raises:
        GlaError: if a word is not a name, an equals sign and a value in JSON.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        try:
            if not (equals and name.isidentifier()):
                raise ValueError
            found[name] = json.loads(value)
        except ValueError:
            raise GlaError(
                f"the setting of the environment is {word!r}",
                "name=value with a value in JSON, such as pool=8 or dataset='\"mnist\"'",
            ) from None
    return found


class OracleMaker(RolloutMaker):
    """Acts as the oracle or at random, and records what the oracle would have done.

    Args:
        config: what is recorded.

    Raises:
        GlaError: if the environment has no oracle or no discrete actions, or a setting does not
            fit.
    """

    def __init__(self, config: OracleConfig):
        env = plain_environment(config.environment, "the oracle", **parse_settings(config.options))
        if not env.has_oracle or not is_discrete(env.action_space):
            raise GlaError(
                f"{config.environment} has no oracle for discrete actions",
                "a bandit or a tabular environment, such as gla/SupervisedBandit-v0",
            )
        self._noise = config.noise
        meta = make_meta(
            config, env, "oracle", config.environment, config.runs, config.split, config.seed,
            config.streams_per_run,
        )  # fmt: skip
        super().__init__(env, meta, config.window)
        self._env: Environment = env

    def prepare(self, keys: RunKeys, params: Params, given: Any) -> Any:
        """Solve the task."""
        del keys, given
        return self._env.solve(params)

    def draw(self, key: jax.Array) -> jax.Array:
        """Draw what decides actions, f32[T, N, actions]."""
        m = self._meta
        return jax.random.gumbel(key, (m.steps, m.parallel_envs, m.action_size))

    def act(
        self,
        fixed: Fixed,
        memory: Any,
        step: jax.Array,
        noise: Any,
        env_state: State,
        observation: jax.Array,
    ) -> tuple[Any, jax.Array, Rows]:
        """Act; distribution and target are log-probabilities, f32[N, actions]."""
        del observation
        best = jax.vmap(lambda state: self._env.best_action(fixed.own, state, fixed.params))(
            env_state.inner
        )
        sure, count = jax.nn.one_hot(best, self._meta.action_size), self._meta.action_size

        def behind(share: jax.Array | float) -> jax.Array:
            share = jnp.maximum(share, LEAST_NOISE)
            return jnp.log((1 - share) * sure + share / count)

        behaviour = behind(self._noise.at(self.share(step)))
        rows = {"distribution": behaviour, "target": behind(0.0)}
        return memory, jnp.argmax(behaviour + noise, -1).astype(jnp.int32), rows

    def complete(self, fixed: Fixed, update: jax.Array, rows: Rows) -> tuple[Rows, jax.Array]:
        """Return the rows as they are."""
        del fixed, update
        return rows, jnp.zeros(self._meta.action_size)
