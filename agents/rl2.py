"""RL^2: a recurrent agent, meta-trained by reinforcement learning across lifetimes.

Duan et al. 2016, "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning"; Wang et al.
2016, "Learning to reinforcement learn". No history of another learner is shown. A batch of unseen
tasks is drawn, the agent lives a whole lifetime of several episodes on each, and PPO (Schulman et
al. 2017) raises the return of lifetimes: it is the discounted sum over all later rewards, whichever
episode they fall into, and ends with the lifetime. So exploring early pays where it helps later.
Gradients go back through the whole lifetime.

Tasks, projections, normalisation and tokens are those of the meta-test, so what is trained here
acts there unchanged (`gla.agents.gla.load`). The model has one output more than the agent needs,
the value, which stays behind when the agent is loaded.

Every random number of update i comes from the seed and i alone, so a resumed run repeats an
uninterrupted one bit for bit on the same machine. What happens when something goes wrong is told in
`gla.loop`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gla import loop
from gla.agents.base import View
from gla.agents.ppo import advantages
from gla.agents.rl2_config import LifetimePPOConfig, LifetimeValidationConfig, RL2Config
from gla.agents.rl2_lifetimes import (
    Lifetimes,
    draw_tasks,
    judge_action,
    live,
    make_interface,
    make_recurrent,
    open_environments,
)
from gla.envs import registry
from gla.envs.base import Environment
from gla.envs.splits import Split
from gla.models import SequenceModel
from gla.optimizers import OptimizerConfig
from gla.packages import package_versions
from gla.parallel import MeshConfig
from gla.steps import Metrics, TrainState, begin, take_steps
from gla.tokens import Interface
from gla.training import RL2_KIND

SEGMENTS = 8  # parts of a lifetime whose rewards are logged


class Lesson(NamedTuple):
    """What PPO learns from.

    Attributes:
        lifetimes: M of T steps.
        advantage: f32[M, T], of mean 0 and standard deviation 1 in each environment.
        target: f32[M, T], of the value.
    """

    lifetimes: Lifetimes
    advantage: jax.Array
    target: jax.Array


def make_lesson(lifetimes: Lifetimes, config: LifetimePPOConfig, counts: Sequence[int]) -> Lesson:
    """Estimate advantages across the ends of episodes (Schulman et al. 2016).

    A lifetime is the one episode of the learner above: nothing follows its last step. Rewards
    are counted in units of 1 - gamma, so that values are about as large as a reward.

    Args:
        lifetimes: those of all environments, one environment after the other.
        config: discounts.
        counts: lifetimes of each environment. Advantages are scaled within each, so that none with
            large rewards drowns the others.
    """
    steps = lifetimes.reward.shape[1]
    reward = lifetimes.reward.T * max(1.0 - config.gamma, 1.0 / steps)
    value = lifetimes.value.T
    nothing = jnp.zeros_like(value[:1])
    last = jnp.broadcast_to((jnp.arange(steps) == steps - 1)[:, None], value.shape)
    advantage = advantages(
        reward,
        value,
        jnp.concatenate([value[1:], nothing]),
        last,
        jnp.zeros_like(last),
        config.gamma,
        config.gae_lambda,
    )
    parts = jnp.split(advantage.T, np.cumsum(counts)[:-1].tolist())
    scaled = [(part - jnp.mean(part)) / (jnp.std(part) + 1e-8) for part in parts]
    return Lesson(lifetimes, jnp.concatenate(scaled), (advantage + value).T)


def ppo_loss(
    params: Any,
    lesson: Lesson,
    model: SequenceModel,
    interface: Interface,
    config: LifetimePPOConfig,
    progress: jax.Array | float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Evaluate PPO's clipped objective (Schulman et al. 2017, Eq. 9) on whole lifetimes.

    Args:
        params: of the model.
        lesson: a minibatch of lifetimes.
        model: of `make_recurrent`.
        interface: what it reads and writes.
        config: clipping and weights.
        progress: f32[] in [0, 1], share of the training that is done.

    Returns:
        The loss f32[], and its terms f32[] each: `policy`, `value`, `entropy` in nats, `kl`, an
        estimate of the divergence from the policy that acted, and `clipped`, the share of steps
        whose ratio left the range.
    """
    lived = lesson.lifetimes
    outputs, _ = model.apply(params, lived.tokens)
    log_prob, entropies = judge_action(lived.action, outputs[..., :-1], interface)
    change = log_prob - lived.log_prob
    ratio = jnp.exp(change)
    near = jnp.clip(ratio, 1.0 - config.clip, 1.0 + config.clip)
    policy = -jnp.mean(jnp.minimum(ratio * lesson.advantage, near * lesson.advantage))
    value = 0.5 * jnp.mean((outputs[..., -1] - lesson.target) ** 2)
    entropy = jnp.mean(entropies)
    bonus: Any = config.entropy_coefficient
    bonus += progress * (config.entropy_final - config.entropy_coefficient)
    loss = policy + config.value_coefficient * value - bonus * entropy
    return loss, {
        "loss": loss,
        "policy": policy,
        "value": value,
        "entropy": entropy,
        "kl": jnp.mean(ratio - 1.0 - change),
        "clipped": jnp.mean(jnp.abs(ratio - 1.0) > config.clip),
    }


@dataclass(frozen=True)
class _Steps:
    """What `gla.steps` and `gla.loop` are to know of a training.

    Steps are gradient steps to the former and updates to the latter.
    """

    steps: int
    optimizer: OptimizerConfig
    max_skips: int
    seed: int
    checkpoint_every: int = 1
    validation: LifetimeValidationConfig = LifetimeValidationConfig()
    tensorboard: bool = False
    mesh: MeshConfig = MeshConfig()
    batch_size: int = 1
    accumulate: int = 1
    steps_per_dispatch: int = 1
    diverged: float = 0.0  # how large PPO's loss is says nothing about progress


def _updates(config: RL2Config) -> _Steps:
    """Describe the updates."""
    return _Steps(
        *(config.updates, config.optimizer, config.max_skips, config.seed),
        *(config.checkpoint_every, config.validation, config.tensorboard),
    )


def _gradient_steps(config: RL2Config) -> _Steps:
    """Describe the gradient steps of all updates."""
    return dataclasses.replace(_updates(config), steps=config.updates * config.gradient_steps)


def learn(
    state: TrainState,
    lesson: Lesson,
    key: jax.Array,
    model: SequenceModel,
    interface: Interface,
    config: RL2Config,
) -> tuple[TrainState, Metrics]:
    """Take the gradient steps of one update.

    Args:
        state: `step` counts updates.
        lesson: the batch of lifetimes.
        key: decides how it is cut into minibatches.
        model: of `make_recurrent`.
        interface: what it reads and writes.
        config: what to train.
    """
    many, settings = config.gradient_steps, _gradient_steps(config)
    orders = jax.lax.map(
        lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), config.lifetimes),
        jnp.arange(config.ppo.epochs),
    )

    def one(state: TrainState, rows: jax.Array):
        part = jax.tree.map(lambda leaf: leaf[rows], lesson)

        def gradient(params: Any, key: jax.Array, progress: jax.Array):
            del key
            (_, terms), grads = jax.value_and_grad(ppo_loss, has_aux=True)(
                params, part, model, interface, config.ppo, progress
            )
            return grads, terms, jnp.zeros(0)

        return take_steps(state, gradient, settings)

    # `take_steps` counts gradient steps, the loop counts updates.
    inner = state._replace(step=state.step * many)
    inner, each = jax.lax.scan(one, inner, orders.reshape(many, -1))
    taken = jnp.maximum(jnp.sum(each.taken), 1)
    mean = jax.tree.map(lambda x: jnp.sum(jnp.where(each.taken > 0, x, 0.0)) / taken, each.terms)
    metrics = Metrics(
        mean,
        jnp.sum(jnp.where(each.taken > 0, each.gradient_norm, 0.0)) / taken,
        each.learning_rate[-1],
        each.by_segment[-1],
        jnp.sum(each.taken),
        None,
    )
    return inner._replace(step=-(-inner.step // many)), metrics


# The whole training


@dataclass(frozen=True)
class Learner:
    """A training without its weights: what is the same in every update.

    Attributes:
        config: what to train.
        envs: the bare environments.
        names: of these, for logs.
        interface: what the agent reads and writes.
        model: the agent's outputs, and a value last.
    """

    config: RL2Config
    envs: tuple[Environment, ...]
    names: tuple[str, ...]
    interface: Interface
    model: SequenceModel

    def begin(self) -> TrainState:
        """Draw initial weights."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), 0)
        return begin(self.model.init(key), _gradient_steps(self.config))

    def live(self, params: Any, split: Split, first: jax.Array, counts: Sequence[int]) -> Lifetimes:
        """Live a lifetime on each of the tasks from number `first` on, i32[]."""
        view, tasks = View(self.config.projection), []
        for env, count in zip(self.envs, counts, strict=True):
            numbers = first + jnp.arange(count)
            tasks.append(draw_tasks(env, view, split, self.config.seed, numbers))
            first = first + count
        return live(params, self.model, self.interface, self.envs, tasks, self.config.steps)

    def update(self, state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        """Live a batch of lifetimes on new tasks and learn from it."""
        config, number = self.config, state.step
        lived = self.live(state.params, "train", number * config.lifetimes, config.counts)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 1), number)
        lesson = make_lesson(lived, config.ppo, config.counts)
        state, metrics = learn(state, lesson, key, self.model, self.interface, config)
        parts = np.linspace(0, config.steps, min(SEGMENTS, config.steps) + 1).round().astype(int)
        by_segment = [jnp.mean(lived.reward[:, a:b]) for a, b in itertools.pairwise(parts)]
        return state, metrics._replace(
            terms=metrics.terms | self.progress_of(lived, config.counts),
            by_segment=jnp.stack(by_segment),
        )

    def progress_of(self, lived: Lifetimes, counts: Sequence[int]) -> dict[str, jax.Array]:
        """Return normalised reward per step late in the lifetimes, and the gain over early."""
        found: dict[str, jax.Array] = {}
        quarter = max(1, self.config.steps // 4)
        parts = jnp.split(lived.reward, np.cumsum(counts)[:-1].tolist())
        for name, reward in zip(self.names, parts, strict=True):
            late = jnp.mean(reward[:, -quarter:])
            found |= {f"{name}/late": late, f"{name}/gain": late - jnp.mean(reward[:, :quarter])}
        return found

    def validate(self, params: Any) -> dict[str, jax.Array]:
        """Live on held-out tasks, the same at every call; `score` is the mean of the late ones."""
        counts = (self.config.validation.lifetimes,) * len(self.envs)
        lived = self.live(params, "validation", jnp.int32(0), counts)
        found = self.progress_of(lived, counts)
        late = [value for name, value in found.items() if name.endswith("/late")]
        return {"score": jnp.mean(jnp.stack(late)), **found}


def make_learner(config: RL2Config) -> Learner:
    """Build the environments and the model of a training.

    Raises:
        GlaError: as `open_environments`.
    """
    envs = open_environments(config)
    names = tuple(id.split("/")[-1] for id in config.environments)
    interface = make_interface(config, envs)
    return Learner(config, tuple(envs), names, interface, make_recurrent(config, interface))


def rl2_train(
    config: RL2Config,
    path: str | os.PathLike,
    fresh: bool = False,
    progress: bool = True,
    minutes: float | None = None,
) -> Path:
    """Train, or go on training, and keep checkpoints in a folder that `gla.agents.gla.load` opens.

    Each line of `metrics.jsonl` is about one update: `step`, its number; the terms of the loss
    (`ppo_loss`); for each environment the normalised reward per step in the last quarter of the
    lifetimes (`<name>/late`) and how much it is above that in the first (`<name>/gain`); and
    `by_segment`, the normalised reward per step early to late in the lifetime.

    Args:
        config: what to train.
        path: checkpoint folder.
        fresh: delete a checkpoint folder that is there first.
        progress: show a progress bar.
        minutes: stop, and count as finished, after this many minutes of training in this call.

    Returns:
        The absolute path of the folder.

    Raises:
        GlaError: as `open_environments`, and the rules at the top of `gla.loop`; a folder with
            other settings.
    """
    loop.check_minutes(minutes)
    learner = make_learner(config)
    validate = jax.jit(learner.validate)
    job = loop.Job(
        config=_updates(config),
        title=f"rl2 on {', '.join(learner.names)}",
        description={
            "kind": RL2_KIND,
            "training": dataclasses.asdict(config),
            "interface": dataclasses.asdict(learner.interface),
            "sources": [registry.resolve(id).id for id in config.environments],
            "histories": [],
            "packages": package_versions(),
        },
        defaults=json.loads(json.dumps(dataclasses.asdict(RL2Config()))),
        begin=learner.begin,
        take=learner.update,
        data=lambda step: None,
        validate=lambda params: {name: float(x) for name, x in validate(params).items()},
        note=_note,
        memory=f"raise ppo.minibatches ({config.ppo.minibatches}), lower lifetimes "
        f"({config.lifetimes}), or set model.remat=True (now {config.model.remat})",
    )
    return loop.train(job, path, fresh, progress, minutes)


def _note(values: dict[str, Any]) -> str:
    """Say beside the progress bar how it goes."""
    if values["loss"] is None:
        return f"{values['skipped']} gradient steps skipped"
    parts = " ".join(f"{x:.2f}" for x in values["by_segment"])
    return f"reward per step, early to late in the lifetime: {parts}"
