"""One expert for all tasks of a family: a policy that is told which task it is in.

PPO on one task learns that task alone. `train` lets PPO live in ever new tasks of a family at once
and shows the policy their hidden parameters beside the observation, so that what it finds out in
one task serves it in others: experts of a thousand tasks cost about as much as those of twenty. Of
such a teacher a student that sees only observations and rewards can learn to adapt: Kumar et al.
2021, "RMA: Rapid Motor Adaptation for Legged Robots".

Once the task is known, what the policy is told is constant, and all it does in the first layer is
to move its bias; and the frame in which the policy sees the task is one more linear map.
`specialize` puts both into the weights, so that every task has an ordinary policy of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla import policy as pol
from gla.agents import ppo
from gla.agents.blocks import check_seed
from gla.agents.distillation import draw_noise, heads, sample
from gla.agents.rollouts import (
    Fixed,
    Rolling,
    RolloutConfig,
    RolloutMaker,
    Rows,
    make_meta,
    plain_environment,
)
from gla.envs import registry
from gla.envs.base import (
    Environment,
    Params,
    State,
    Timestep,
    is_discrete,
    observation_size,
)
from gla.envs.splits import RunKeys, Split, run_keys, task_key
from gla.envs.telling import Telling, telling
from gla.envs.wrappers import Autoreset, TimeLimit
from gla.errors import GlaError
from gla.files import os_errors, write_bytes
from gla.progress import Progress
from gla.trees import from_arrays, to_arrays


class ToldState(NamedTuple):
    """State of an episode, the task that it was drawn in, and what is told of it."""

    inner: State
    params: Params
    told: Telling


class Told(Environment):
    """A family in which every episode is a new task, of which the policy is told.

    Observations are those of the task in its frame, and after them the numbers.

    Args:
        env: the family.
    """

    def __init__(self, env: Environment):
        self.env, self.name, self.horizon = env, env.name, env.horizon
        told = jax.eval_shape(lambda: telling(env, env.sample_params(jax.random.key(0))))
        size = observation_size(env) + told.numbers.shape[0]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = env.action_space

    def sample_params(self, key: jax.Array) -> Params:
        """Return nothing: tasks are drawn by `reset`."""
        del key
        return ()

    def reset(self, key: jax.Array, params: Params) -> tuple[ToldState, jax.Array]:
        """Draw a task and start an episode in it."""
        task, start = jax.random.split(key)
        drawn = self.env.sample_params(task)
        told = telling(self.env, drawn)
        inner, observation = self.env.reset(start, drawn)
        return ToldState(inner, drawn, told), _show(observation, told)

    def step(
        self, key: jax.Array, state: ToldState, action: jax.Array, params: Params
    ) -> tuple[ToldState, Timestep]:
        """Go on in the episode's own task."""
        if not is_discrete(self.action_space):
            action = action * state.told.signs
        inner, ts = self.env.step(key, state.inner, action, state.params)
        return state._replace(inner=inner), ts._replace(
            observation=_show(ts.observation, state.told),
            final_observation=_show(ts.final_observation, state.told),
        )


def _show(observation: jax.Array, told: Telling) -> jax.Array:
    return jnp.concatenate([told.frame @ observation, told.numbers])


def specialize(policy: pol.PolicyParams, told: Telling) -> pol.PolicyParams:
    """Return the policy of one task, which sees the task's own observations alone.

    Args:
        policy: of a `Told` environment.
        told: of the task.
    """
    n = told.frame.shape[0]
    scaled = policy.w1[:n] / policy.std[:n, None]
    numbers = policy._replace(mean=policy.mean[n:], std=policy.std[n:])
    shift = pol.normalize(numbers, told.numbers) @ policy.w1[n:] - policy.mean[:n] @ scaled
    return policy._replace(
        w1=told.frame.T @ scaled,
        b1=policy.b1 + shift,
        w3=policy.w3 * told.signs,
        b3=policy.b3 * told.signs,
        mean=jnp.zeros(n),
        std=jnp.ones(n),
    )


@dataclass(frozen=True, kw_only=True)
class GeneralistConfig(RolloutConfig):
    """Histories of an expert that was told its tasks.

    Attributes:
        environment: id of a plain environment with JAX physics.
        teacher: file in which the expert is kept (`.npz`). It is trained first where the file is
            not there yet; where training stopped it goes on.
        runs: number of tasks.
        seed: of the tasks, and of everything random in the training of the expert.
        split: of the tasks; the expert itself is trained on `train` tasks whatever is chosen here.
        updates: updates of a history; they go through the expert's versions, from worst to best.
        versions: how many versions of the expert are kept. The last is the expert, the others come
            from its training, more of them from its beginning.
        checkpoint_every: updates of the expert's training after which it is written to its file.
        ppo: settings of the expert's training; `ppo.num_envs` tasks are played at a time.
    """

    environment: str = "gla/RandomPotential-v0"
    teacher: str
    runs: int = 256
    seed: int = 0
    split: Split = "train"
    updates: int = 8
    versions: int = 8
    checkpoint_every: int = 50
    ppo: ppo.PPOConfig = field(
        default_factory=lambda: ppo.PPOConfig(
            num_envs=128, num_steps=200, num_updates=400, epochs=4, minibatches=16,
            learning_rate=1e-3, anneal=True, gamma=0.995, entropy_coefficient=0.01, hidden=64,
            initial_log_std=0.0, max_grad_norm=1.0,
        )
    )  # fmt: skip

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("runs", "versions", "checkpoint_every")
        check_seed(self.seed)
        if not self.teacher.endswith(".npz"):
            raise GlaError(f"teacher is {self.teacher!r}", "the name of a file that ends in .npz")
        if self.versions > self.ppo.num_updates + 1:
            raise GlaError(
                f"{self.versions} versions of an expert of {self.ppo.num_updates} updates",
                f"at most {self.ppo.num_updates + 1}",
            )

    @property
    def kept(self) -> list[int]:
        """After how many updates of training each version is kept."""
        shares = np.linspace(0.0, 1.0, self.versions) ** 2 if self.versions > 1 else np.ones(1)
        return np.round(shares * self.ppo.num_updates).astype(int).tolist()

    @property
    def identity(self) -> str:
        """What decides how an expert turns out, as text."""
        family = registry.resolve(self.environment).id
        parts = [family, self.seed, self.kept, dataclasses.asdict(self.ppo)]
        return json.dumps(parts, sort_keys=True)


def train(config: GeneralistConfig, env: Environment, progress: bool = True) -> np.ndarray:
    """Train the expert of a configuration, or go on, or read what was trained before.

    Args:
        config: what to train, and the file in which it is kept.
        env: the family.
        progress: show a progress bar on standard error.

    Returns:
        Its versions, f32[versions, P], for `gla.policy.unflatten` with the sizes of `Told(env)`.

    Raises:
        GlaError: if the file holds another expert, is damaged or cannot be written.
    """
    settings, path = config.ppo, Path(config.teacher)
    world = Autoreset(TimeLimit(Told(env), env.horizon or settings.num_steps))
    keys = run_keys(task_key("train", config.seed, jnp.int32(0)))
    identity = config.identity
    training = jax.eval_shape(lambda: ppo.begin(keys, world, (), settings))
    saved = _read(path, identity)
    versions: list[np.ndarray] = []
    if saved is None:
        training = ppo.begin(keys, world, (), settings)
    else:
        training = from_arrays(training, saved)
        versions = list(saved["versions"])

    def advance(training: ppo.Training, updates: int) -> tuple[ppo.Training, jax.Array]:
        training, record = ppo.advance(keys, world, (), settings, training, updates, 1)
        return training, record["mean_return"][-1]

    program = jax.jit(advance, static_argnums=1, donate_argnums=0)
    done = int(training.update)
    title = f"teaching {env.name}"
    with Progress(title, settings.num_updates, "updates", done, progress) as bar:
        while len(versions) < config.versions:
            if config.kept[len(versions)] <= done:
                versions.append(np.asarray(pol.flatten(training.learner.policy)))
                continue
            saves = (done // config.checkpoint_every + 1) * config.checkpoint_every
            stop = min(config.kept[len(versions)], saves, done + 10)
            training, mean_return = program(training, stop - done)
            if not np.isfinite(mean_return):
                raise GlaError(
                    f"the expert of {env.name} broke down after {done} updates: its returns are "
                    f"{float(mean_return)}", "finite numbers", "lower ppo.learning_rate",
                )  # fmt: skip
            bar.advance(stop - done, f"return {float(mean_return):.2f}")
            done = stop
            if done % config.checkpoint_every == 0 or done == settings.num_updates:
                _write(path, identity, training, versions)
    if saved is None or len(saved["versions"]) < config.versions:
        _write(path, identity, training, versions)
    return np.stack(versions)


def _write(path: Path, identity: str, training: ppo.Training, versions: list[np.ndarray]) -> None:
    arrays: dict[str, Any] = {"identity": np.array(identity), "versions": np.array(versions)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays | to_arrays(training))
    write_bytes(path, buffer.getvalue())


def _read(path: Path, identity: str) -> Mapping[str, np.ndarray] | None:
    """Return what a file holds; None where there is none."""
    if not path.exists():
        return None
    try:
        with os_errors(path, "read"), np.load(path) as file:
            saved = {name: file[name] for name in file.files}
        found = str(saved["identity"])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise GlaError(
            f"{path} is damaged or no expert", mend="delete it, or name another"
        ) from None
    if found != identity:
        raise GlaError(
            f"{path} holds an expert with other settings",
            "an expert of the same environment, seed, versions and ppo settings",
            "name another file",
        )
    return saved


class GeneralistMaker(RolloutMaker):
    """Makes histories of an expert that was told its tasks, from its worst version to its best.

    Every version of every run is recorded as a policy of the task's own observations, so that the
    store serves as experts wherever one of `gla collect ppo` does: to label what others do, or to
    be mixed and put behind noise (`gla.agents.distillation`, `gla.agents.agent_histories`).

    Args:
        config: what to make.
        progress: show a progress bar while the expert is trained.

    Raises:
        GlaError: if the environment is unknown, projected or a host simulator, a task's parameters
            are no numbers, or the expert's file does not fit (`train`).
    """

    method = "generalist"

    def __init__(self, config: GeneralistConfig, progress: bool = True):
        self.config = config
        env = plain_environment(config.environment, self.method)
        params = jax.eval_shape(lambda: env.sample_params(jax.random.key(0)))
        if not all(_is_number(leaf) for leaf in jax.tree.leaves(params)):
            raise GlaError(
                f"what sets the tasks of {env.name} apart are no numbers that could be told",
                "an environment whose tasks are",
            )
        self._versions = jnp.asarray(train(config, env, progress))
        teacher = hashlib.sha256(np.asarray(self._versions).tobytes()).hexdigest()[:12]
        meta = make_meta(
            config, env, self.method, config.environment, config.runs, config.split, config.seed,
            config.streams_per_run, ("distribution", "policy"), teacher=teacher,
        )  # fmt: skip
        meta = dataclasses.replace(meta, hidden=config.ppo.hidden)
        self._shape = ppo.policy_shape(Told(env), config.ppo)
        super().__init__(env, meta, config.window)

    def prepare(self, keys: RunKeys, params: Params, given: Any) -> jax.Array:
        """Return the policy of each update, f32[U, P]."""
        del keys, given
        told = telling(self._env, params)
        policies = pol.unflatten(self._shape, self._versions)
        own = jax.vmap(lambda policy: pol.flatten(specialize(policy, told)))(policies)
        updates, versions = self._meta.updates, len(self._versions)
        if updates == 1:
            return own[-1:]
        return own[np.round(np.linspace(0, versions - 1, updates)).astype(int)]

    def draw(self, key: jax.Array) -> Any:
        """Draw the noise of the actions."""
        meta = self._meta
        shape = (meta.steps, meta.parallel_envs, meta.action_size)
        return draw_noise(key, shape, meta.discrete)

    def _policy(self, fixed: Fixed, update: jax.Array) -> pol.PolicyParams:
        meta = self._meta
        shape = pol.PolicyShape(meta.observation_size, meta.action_size, meta.hidden, meta.discrete)
        return pol.unflatten(shape, fixed.own[update])

    def act(
        self,
        fixed: Fixed,
        memory: Any,
        step: jax.Array,
        noise: Any,
        env_state: State,
        observation: jax.Array,
    ) -> tuple[Any, jax.Array, Rows]:
        """Let the update's version act."""
        del env_state
        policy = self._policy(fixed, step // self._meta.steps)
        found = heads(policy, observation, self._meta.discrete)
        action = sample(found, jnp.zeros(()), noise, self._meta.discrete)
        return memory, action, {"distribution": found.mean}

    def complete(self, fixed: Fixed, update: jax.Array, rows: Rows) -> tuple[Rows, jax.Array]:
        """Add the version's standard deviation."""
        if self._meta.discrete:
            return rows, jnp.zeros(self._meta.action_size)
        return rows, pol.bounded_log_std(self._policy(fixed, update))

    def advance_one(
        self, task: jax.Array, fixed: Fixed, state: Rolling, updates: int
    ) -> tuple[Rolling, Rows]:
        """Go on with a run; the versions are recorded as well."""
        first = state.update
        state, record = super().advance_one(task, fixed, state, updates)
        record["policy"] = jax.lax.dynamic_slice_in_dim(fixed.own, first, updates)
        return state, record


def _is_number(leaf: Any) -> bool:
    return any(jnp.issubdtype(leaf.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
