"""Histories of learners that see the number of the state: Q-learning, and planning.

`QLearningMaker` records Q-learning (Watkins and Dayan 1992; Sutton and Barto, "Reinforcement
Learning: An Introduction", 2nd edition, section 6.5), `ValueIterationMaker` an expert that plans
ever further ahead. Both act on tasks that are tables (`gla.envs.random_tabular`), whose best policy
is known exactly, so that every visited state can be labelled with it (OmniRL, Wang et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

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
from gla.envs.base import Params, State, Timestep
from gla.envs.random_tabular import TabularEnvironment, TabularParams, make_backup
from gla.envs.splits import RunKeys, Split
from gla.errors import GlaError

# Values that differ by less, relative to the larger of 1 and the best, are equal but for rounding.
TIE = 3e-6


@dataclass(frozen=True)
class TabularConfig(RolloutConfig):
    """What both learners have in common.

    Attributes:
        environment: id of a plain tabular environment, such as gla/RandomTabular-v0.
        runs: number of runs, each on a task of its own.
        seed: seed of the set of tasks and of everything random in the runs.
        split: `train`, `validation` or `test` tasks.
        softness: share of uniform actions in the targets, in (0, 1], so that their
            log-probabilities are finite; the rest is shared equally by the best actions.
    """

    environment: str = "gla/RandomTabular-v0"
    runs: int = 128
    seed: int = 0
    split: Split = "train"
    softness: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("runs")
        check_seed(self.seed)
        _check_share("softness", self.softness)


def _check_share(name: str, value: float) -> None:
    if not 1e-6 <= value <= 1:
        raise GlaError(
            f"{name} is {value}",
            "a share from 1e-6 to 1",
            "a probability of 0 has no finite logarithm",
        )


def values_to_go(params: TabularParams, horizon: int) -> jax.Array:
    """Return the best expected return of every action with so many steps to go.

    Backward induction, as `TabularEnvironment.solve` does it, of which this keeps all values.

    Args:
        params: the task.
        horizon: H.

    Returns:
        f32[H + 1, S, A], the sum of rewards of the next j steps if the action is taken first and
        the best ones after it; 0 for j = 0.
    """
    backup = make_backup(params)

    def earlier(later: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        values = backup(jnp.max(later, -1))
        return values, values

    nothing = jnp.zeros(params.successors.shape[:2], jnp.float32)
    _, values = jax.lax.scan(earlier, nothing, None, horizon)
    return jnp.concatenate([nothing[None], values])


def greedy(values: jax.Array, share: float | jax.Array, tie: float = TIE) -> jax.Array:
    """Return the log-probabilities f32[..., A] of eps-greedy actions.

    With probability 1 - eps one of the best actions is taken, each equally often, otherwise any.

    Args:
        values: f32[..., A], of the actions.
        share: eps, f32[] or f32[..., 1], above 0.
        tie: relative difference below which values count as equal.
    """
    best = jnp.max(values, -1, keepdims=True)
    among = values >= best - tie * jnp.maximum(1.0, jnp.abs(best))
    among = among / jnp.sum(among, -1, keepdims=True)
    return jnp.log((1.0 - share) * among + share / values.shape[-1])


class TabularMaker(RolloutMaker):
    """Acts with the number of the state in sight and labels states with the best policy.

    The best policy depends on the steps that are left of an episode (`TabularEnvironment`); past
    knowing them it is the environment's own oracle, with all best actions instead of the first.

    Args:
        config: what to make.
        method: the maker's name.
        parallel_envs: parallel environments of a run.

    Raises:
        GlaError: if the environment is no table, or two of its states look the same.
    """

    def __init__(self, config: TabularConfig, method: str, parallel_envs: int):
        env = plain_environment(config.environment, method)
        if not isinstance(env, TabularEnvironment):
            raise GlaError(
                f"{method} cannot learn {config.environment}, which is no table of states",
                "a tabular environment",
                "such as gla/RandomTabular-v0, gla/Gridworld-v0, gla/FrozenLake-v0, "
                "gla/CliffWalking-v0 or gla/Darkroom-v0",
            )
        self._table = env
        self._softness = config.softness
        looks = np.asarray(jax.vmap(env.observe)(jnp.arange(env.states)))
        if len(np.unique(looks, axis=0)) < env.states:
            raise GlaError(
                f"{config.environment} shows two states alike", "observations that tell the state"
            )
        self._looks = looks
        meta = make_meta(
            config, env, method, config.environment, config.runs, config.split, config.seed,
            parallel_envs,
        )  # fmt: skip
        super().__init__(env, meta, config.window)

    def number_of(self, observation: jax.Array) -> jax.Array:
        """Return the numbers i32[...] of the states that look like observations f32[..., n]."""
        # The nearest one: |a - b|^2 = |a|^2 - 2 a b + |b|^2, of which |a|^2 is the same for all.
        looks = jnp.asarray(self._looks)
        distance = jnp.sum(looks**2, -1) - 2.0 * (observation @ looks.T)
        return jnp.argmin(distance, -1).astype(jnp.int32)

    def prepare(self, keys: RunKeys, params: Params, given: Any) -> jax.Array:
        """Return the values of all actions with 0..H steps to go, f32[H + 1, S, A]."""
        del keys, given
        return values_to_go(params, self._table.horizon)

    def place(self, env_state: State) -> tuple[jax.Array, jax.Array]:
        """Return the steps to go i32[N], at least 1, and the numbers of the states i32[N]."""
        inner = env_state.inner
        return self._table.horizon - jnp.minimum(inner.steps, self._table.horizon - 1), inner.number

    def best(self, fixed: Fixed, env_state: State) -> jax.Array:
        """Return the log-probabilities f32[N, A] of the best policy."""
        return greedy(fixed.own[self.place(env_state)], self._softness)

    def draw(self, key: jax.Array) -> Any:
        """Draw Gumbel noise f32[T, N, A]."""
        meta = self._meta
        return jax.random.gumbel(key, (meta.steps, meta.parallel_envs, meta.action_size))

    def complete(self, fixed: Fixed, update: jax.Array, rows: Rows) -> tuple[Rows, jax.Array]:
        """Add zeros: discrete actions have no standard deviation."""
        del fixed, update
        return rows, jnp.zeros(self._meta.action_size)


@dataclass(frozen=True)
class QLearningConfig(TabularConfig):
    """Histories of tabular Q-learning.

    Attributes:
        num_envs: parallel environments of a run that learn one table together; the change of an
            entry that several of them visit in the same step is their mean.
        policy: `epsilon-greedy`, or `softmax` of the values divided by a temperature.
        epsilon: share of uniform actions of the eps-greedy policy, above 0.
        temperature: of the softmax, above 0.
        learning_rate: step size, in [0, 1].
        gamma: discount, in [0, 1].
        initial_value: values of all actions before the first step, in units of the reward; at least
            what can be earned makes every action worth a try (optimism in the face of uncertainty).
        targets: `optimal` labels states with the task's best policy, `last` with the greedy policy
            of the run's last table.
    """

    num_envs: int = 1
    policy: Literal["epsilon-greedy", "softmax"] = "epsilon-greedy"
    epsilon: Schedule = field(default_factory=lambda: Schedule(1.0, 0.02))
    temperature: Schedule = field(default_factory=lambda: Schedule(1.0, 0.05))
    learning_rate: Schedule = field(default_factory=lambda: Schedule(0.5, 0.1))
    gamma: float = 0.9
    initial_value: float = 1.0
    targets: Literal["optimal", "last"] = "optimal"

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("num_envs")
        if self.streams_per_run > self.num_envs:
            raise GlaError(
                f"streams_per_run is {self.streams_per_run}", f"at most num_envs, {self.num_envs}"
            )
        self.epsilon.check("epsilon", 1e-6, 1.0)
        self.temperature.check("temperature", 1e-3, 1e6)
        self.learning_rate.check("learning_rate", 0.0, 1.0)
        if not 0 <= self.gamma <= 1:
            raise GlaError(f"gamma is {self.gamma}", "a number in [0, 1]")
        for name, choices in (
            ("policy", ("epsilon-greedy", "softmax")), ("targets", ("optimal", "last")),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise GlaError(f"{name} is {getattr(self, name)!r}", " or ".join(choices))


class QLearningMaker(TabularMaker):
    """Makes histories of tabular Q-learning, which learns in every step.

    `distribution` holds the log-probabilities of the policy that acted. Where an episode is cut off
    by its time limit, the value of the state that it reached is bootstrapped from; a state that
    ends it is worth nothing.

    Args:
        config: what to make.

    Raises:
        GlaError: if the environment is not tabular.
    """

    def __init__(self, config: QLearningConfig):
        self.config = config
        self.keeps_last_state = config.targets == "last"
        super().__init__(config, "q-learning", config.num_envs)
        self._label = jax.jit(jax.vmap(self._label_one))

    def start(self, keys: RunKeys, fixed: Fixed) -> jax.Array:
        """Return the table of values f32[S, A]."""
        del keys, fixed
        shape = (self._table.states, self._meta.action_size)
        return jnp.full(shape, self.config.initial_value, jnp.float32)

    def act(
        self,
        fixed: Fixed,
        memory: Any,
        step: jax.Array,
        noise: Any,
        env_state: State,
        observation: jax.Array,
    ) -> tuple[Any, jax.Array, Rows]:
        """Act by the table."""
        del observation
        values, share = memory[env_state.inner.number], self.share(step)
        if self.config.policy == "softmax":
            distribution = jax.nn.log_softmax(values / self.config.temperature.at(share))
        else:
            distribution = greedy(values, self.config.epsilon.at(share), tie=0.0)
        rows = {"distribution": distribution}
        if self.config.targets == "optimal":
            rows["target"] = self.best(fixed, env_state)
        return memory, jnp.argmax(distribution + noise, -1).astype(jnp.int32), rows

    def learn(
        self,
        fixed: Fixed,
        memory: Any,
        step: jax.Array,
        env_state: State,
        action: jax.Array,
        ts: Timestep,
    ) -> jax.Array:
        """Move the values of what was done towards what came of it."""
        del fixed
        following = self.number_of(ts.final_observation)
        rest = jnp.where(ts.terminated, 0.0, jnp.max(memory[following], -1))
        at = (env_state.inner.number, action)
        change = ts.reward + self.config.gamma * rest - memory[at]
        total = jnp.zeros_like(memory).at[at].add(change)
        visits = jnp.zeros_like(memory).at[at].add(1.0)
        rate = self.config.learning_rate.at(self.share(step))
        return memory + rate * total / jnp.maximum(visits, 1.0)

    def _label_one(self, values: jax.Array, observation: jax.Array) -> jax.Array:
        return greedy(values[self.number_of(observation)], self._softness)

    def targets(
        self, runs: range, state: Mapping[str, np.ndarray], observation: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Label states with the greedy policy of each run's last table."""
        table = self.state_of(runs, state).memory
        seen = observation.reshape(len(runs), -1, observation.shape[-1])
        target = np.asarray(self._label(table[: len(runs)], seen))
        return {
            "target": target.reshape(*observation.shape[:-1], -1),
            "target_log_std": np.zeros((len(runs), self._meta.action_size), np.float32),
        }


@dataclass(frozen=True)
class ValueIterationConfig(TabularConfig):
    """Histories of an expert that plans ever further ahead.

    Attributes:
        noise: share of uniform actions in the behaviour, above 0.
        power: of U updates, number u looks H (u / (U - 1))^power steps ahead, rounded, where H is
            the length of an episode; above 0, and the higher, the slower it begins.
    """

    noise: float = 0.05
    power: float = 2.0

    def __post_init__(self):
        super().__post_init__()
        _check_share("noise", self.noise)
        if not 0 < self.power < float("inf"):
            raise GlaError(f"power is {self.power}", "a number above 0")


class ValueIterationMaker(TabularMaker):
    """Makes histories of successive policies of value iteration.

    After k sweeps over all states, value iteration knows what is best with k steps to go. Each
    update acts by such a policy, from k = 0, which knows nothing and acts uniformly, to the length
    of an episode, which is optimal; where fewer steps are left of the episode, fewer sweeps count.
    So the context shows an expert that improves although it learns nothing from what it does, and
    `target` is the best policy throughout.

    Args:
        config: what to make.

    Raises:
        GlaError: if the environment is not tabular.
    """

    def __init__(self, config: ValueIterationConfig):
        self.config = config
        super().__init__(config, "value-iteration", config.streams_per_run)

    def sweeps(self, update: jax.Array) -> jax.Array:
        """Return how many sweeps an update's policy has seen, i32[...]."""
        share = update / jnp.float32(max(self._meta.updates - 1, 1))
        ahead = jnp.round(self._table.horizon * share**self.config.power)
        return ahead.astype(jnp.int32)

    def act(
        self,
        fixed: Fixed,
        memory: Any,
        step: jax.Array,
        noise: Any,
        env_state: State,
        observation: jax.Array,
    ) -> tuple[Any, jax.Array, Rows]:
        """Act by the plan of this update."""
        del observation
        left, number = self.place(env_state)
        ahead = jnp.minimum(left, self.sweeps(step // self._meta.steps))
        distribution = greedy(fixed.own[ahead, number], self.config.noise)
        rows = {"distribution": distribution, "target": self.best(fixed, env_state)}
        return memory, jnp.argmax(distribution + noise, -1).astype(jnp.int32), rows
