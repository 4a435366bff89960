"""Histories of any agent's lifetimes, labelled by experts where there are some.

A sequence model that continues PPO's histories meets at meta-test histories of its own making,
which look different. `AgentMaker` lets it live in training tasks and labels what it sees there with
what the tasks' experts would have done: DAgger (Ross et al. 2011, "A Reduction of Imitation
Learning and Structured Prediction to No-Regret Online Learning"). Without experts it records what
the agent did, such as the lifetimes of a learner from which Algorithm Distillation may learn.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from gla import policy as pol
from gla import projection as proj
from gla.agents.base import Agent
from gla.agents.blocks import check_seed
from gla.agents.distillation import DistilledConfig, Experts, heads
from gla.agents.external import load_agent
from gla.agents.lens import Lens, act_through
from gla.agents.rollouts import (
    Fixed,
    RolloutConfig,
    RolloutMaker,
    Rows,
    make_meta,
    plain_environment,
)
from gla.checkpoints import describe, latest_step
from gla.envs.base import Environment, Params, State, Timestep, action_size, observation_size
from gla.envs.splits import RunKeys, Split
from gla.envs.wrappers import projected_spaces
from gla.errors import GlaError


@dataclass(frozen=True, kw_only=True)
class AgentHistoriesConfig(RolloutConfig):
    """Which agent lives in which tasks.

    Attributes:
        agent: a folder of `gla meta-train`, `ppo`, `sac`, `random-search` or `module:factory`, as
            `gla meta-test` takes it; it must be written in JAX.
        experts: a store of `gla collect ppo`: the agent lives in its tasks, and its last policies
            label every state. None: no labels.
        environment: id of a plain environment with JAX physics; None for that of the experts.
        runs: number of tasks; None for as many as the experts have, or 128.
        seed: of the tasks; None for that of the experts, or 0.
        split: of the tasks; None for that of the experts, or `train`.
        masked: hide rewards from the agent.
    """

    agent: str
    experts: str | None = None
    environment: str | None = None
    runs: int | None = None
    seed: int | None = None
    split: Split | None = None
    masked: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.runs is not None:
            self._check_counts("runs")
        if self.seed is not None:
            check_seed(self.seed)
        if self.experts is None and self.environment is None:
            raise GlaError(
                "neither experts nor an environment were given",
                "experts, a store of `gla collect ppo`, or the id of an environment",
            )


class Living(NamedTuple):
    """A lifetime under way.

    Attributes:
        agent: its state.
        lens: how the task is shown, or None.
        reward: f32[N], of the previous step.
        terminated: bool[N], likewise.
        truncated: bool[N], likewise.
    """

    agent: Any
    lens: Lens | None
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class AgentMaker(RolloutMaker):
    """Makes histories of an agent's lifetimes, one in every recorded stream.

    Every stream is a lifetime of its own: an empty memory, a projection of its own, the task of its
    run. The task's own observations and actions are recorded, as ever; the distribution behind an
    action is not known, because an agent does not tell it.

    Args:
        config: which agent, and where.

    Raises:
        GlaError: if the agent is not written in JAX, the experts do not fit (`Experts`), or the
            environment is unknown, projected, a host simulator or too large for agent space.
    """

    def __init__(self, config: AgentHistoriesConfig):
        self.config = config
        self.experts: Experts | None = None
        seed, runs, split = config.seed or 0, config.runs or 128, config.split or "train"
        environment = config.environment
        if config.experts is not None:
            self.experts = Experts(
                DistilledConfig(
                    experts=config.experts, environment=environment, runs=config.runs,
                    seed=config.seed, split=config.split,
                )
            )  # fmt: skip
            known, runs = self.experts.meta, self.experts.runs
            environment, seed, split = known.environment, known.seed, cast(Split, known.split)
        assert environment is not None
        self.agent: Agent = load_agent(config.agent)
        if not self.agent.jittable:
            raise GlaError(
                f"the agent {config.agent!r} is not written in JAX",
                "an agent whose `act` is a pure function of arrays (jittable)",
            )
        env: Environment = plain_environment(environment, "agent")
        if self.agent.view is not None:
            projected_spaces(env, self.agent.view.projection, environment)
        meta = make_meta(
            config, env, "agent", environment, runs, split, seed, config.streams_per_run,
            ("target",) if self.experts else (),
            experts=self.experts and self.experts.name, agent=_identity(config.agent),
        )  # fmt: skip
        super().__init__(env, meta, config.window)
        if self.experts:
            self.experts.check_environment(meta)

    def given(self, runs: range) -> Any:
        """Return the experts, f32[runs, P]."""
        if self.experts is None:
            return ()
        return self.experts.last(runs)

    def prepare(self, keys: RunKeys, params: Params, given: Any) -> Any:
        """Return the expert."""
        del keys, params
        return pol.unflatten(self.experts.shape, given) if self.experts else ()

    def start(self, keys: RunKeys, fixed: Fixed) -> Living:
        """Return lifetimes that have not begun."""
        count, view = self._meta.parallel_envs, self.agent.view
        projection_key, init_key = jax.random.split(jax.random.split(keys.agent)[0])
        lens = None
        if view is not None:
            sizes = observation_size(self._env), action_size(self._env)
            draw = jax.vmap(lambda key: proj.sample(key, view.projection, *sizes))
            shared = jax.tree.map(
                lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), fixed.statistics
            )
            drawn = draw(jax.random.split(projection_key, count))
            lens = Lens(shared, drawn, jnp.asarray(view.projection.logarithmic))
        spaces: tuple[Any, ...] = (self._env.observation_space, self._env.action_space)
        if view is not None:
            spaces = projected_spaces(self._env, view.projection, self._meta.environment)
        state = self.agent.init(jax.random.split(init_key, count), count, *spaces)
        no = jnp.zeros(count, bool)
        return Living(state, lens, jnp.zeros(count), no, no)

    def draw(self, key: jax.Array) -> jax.Array:
        """Draw the agent's keys, key[T, N]."""
        return jax.random.split(key, (self._meta.steps, self._meta.parallel_envs))

    def act(
        self,
        fixed: Fixed,
        memory: Living,
        step: jax.Array,
        noise: jax.Array,
        env_state: State,
        observation: jax.Array,
    ) -> tuple[Living, jax.Array, Rows]:
        """Let the agent act in each environment, and ask the expert."""
        del step, env_state
        seen = (observation, memory.reward, memory.terminated, memory.truncated)
        visible = 0.0 if self.config.masked else 1.0
        state, action = act_through(self.agent.act, memory.lens, visible, memory.agent, seen, noise)
        rows = {}
        if self.experts:
            rows["target"] = heads(fixed.own, observation, self._meta.discrete).mean
        return memory._replace(agent=state), action, rows

    def learn(
        self,
        fixed: Fixed,
        memory: Living,
        step: jax.Array,
        env_state: State,
        action: jax.Array,
        ts: Timestep,
    ) -> Living:
        """Remember what the step brought, to show it with the next observation."""
        del fixed, step, env_state, action
        return memory._replace(reward=ts.reward, terminated=ts.terminated, truncated=ts.truncated)

    def complete(self, fixed: Fixed, update: jax.Array, rows: Rows) -> tuple[Rows, jax.Array]:
        """Add nothing."""
        del fixed, update
        return rows, jnp.zeros(self._meta.action_size)

    def target_log_std(self, fixed: Fixed) -> jax.Array:
        """Return the expert's log standard deviation f32[k]; zeros for discrete actions."""
        if self._meta.discrete or not self.experts:
            return jnp.zeros(self._meta.action_size)
        return pol.bounded_log_std(fixed.own)


def _identity(agent: str) -> str:
    """Return a name that is the same for the same agent, wherever its folder lies."""
    folder = Path(agent)
    if not folder.is_dir():
        return agent
    content = describe(folder)
    training = {**content["training"], "histories": None}  # paths; what they hold stands beside
    text = json.dumps([training, content.get("histories")], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{digest}, {latest_step(folder.absolute())} steps"
