"""Evolve the rule of a tabular agent: whole lifetimes, no gradient through any of them.

Evolution strategies (Salimans et al. 2017, "Evolution Strategies as a Scalable Alternative to
Reinforcement Learning"; Metz et al. 2019 and Vicol et al. 2021 on why they suit long unrolled
computations). In a generation, pairs of rules differ from the present one by the same normal
numbers, added and subtracted. All of them live on the same tasks with the same random numbers, so
that what differs is the rule. On each task they are ranked by their fitness, and the ranks (or how
far a rule is above the mean, `shaping`) weigh the numbers: that estimates the gradient, which an
optimiser follows.

Every random number of generation i comes from the seed and i alone, so a resumed run repeats an
uninterrupted one bit for bit on the same machine. What happens when something goes wrong is told in
`gla.loop`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gla import loop
from gla.agents.evolution_lifetimes import (
    Fitness,
    draw_tasks,
    judge,
    live,
    open_environments,
)
from gla.envs import registry
from gla.envs.random_tabular import TabularEnvironment
from gla.envs.splits import Split
from gla.packages import package_versions
from gla.steps import Metrics, TrainState, take_steps
from gla.tabular.config import EvolutionConfig
from gla.tabular.rule import Rule
from gla.tabular.trained import KIND, first_state, generations_of

SEGMENTS = 5  # parts of a lifetime whose returns are logged


def vary(key: jax.Array, rule: Rule, pairs: int, noise: float) -> tuple[Rule, Rule]:
    """Draw pairs of rules around one.

    Args:
        key: decides the numbers.
        rule: the present one.
        pairs: P.
        noise: standard deviation of the numbers.

    Returns:
        The 2 P rules, each leaf [2 P, ...], first those to which numbers were added, and the
        standard normal numbers [P, ...].
    """
    leaves, structure = jax.tree.flatten(rule)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.normal(key, (pairs, *leaf.shape)) for key, leaf in zip(keys, leaves, strict=True)
    ]
    both = [
        jnp.concatenate([leaf + noise * numbers, leaf - noise * numbers])
        for leaf, numbers in zip(leaves, drawn, strict=True)
    ]
    return jax.tree.unflatten(structure, both), jax.tree.unflatten(structure, drawn)


def ranks(fitness: jax.Array) -> jax.Array:
    """Return ranks in [-0.5, 0.5] along the first axis, f32[N, ...]; equals share a rank."""
    below = jnp.sum(fitness[:, None] > fitness[None], 1)
    same = jnp.sum(fitness[:, None] == fitness[None], 1)
    return (below + 0.5 * (same - 1)) / max(fitness.shape[0] - 1, 1) - 0.5


def centred(fitness: jax.Array) -> jax.Array:
    """Return by how much each of N rules is above the mean of all on its tasks, f32[N, ...]."""
    return fitness - jnp.mean(fitness, 0)


SHAPINGS = {"rank": ranks, "score": centred}


def estimate(weights: jax.Array, numbers: Rule, noise: float) -> Rule:
    """Return the estimated gradient of what the weights measure.

    Args:
        weights: f32[2 P], of the rules as `vary` orders them.
        numbers: [P, ...], by which they differ.
        noise: standard deviation.
    """
    pairs = weights.shape[0] // 2
    difference = (weights[:pairs] - weights[pairs:]) / (2.0 * pairs * noise)
    return jax.tree.map(lambda drawn: jnp.tensordot(difference, drawn, 1), numbers)


@dataclass(frozen=True)
class Evolution:
    """A training without its rule: what is the same in every generation.

    Attributes:
        config: what to train.
        envs: the bare environments.
        held_out: those of validation.
    """

    config: EvolutionConfig
    envs: tuple[TabularEnvironment, ...]
    held_out: tuple[TabularEnvironment, ...]

    def test(
        self, rules: Rule, env: TabularEnvironment, split: Split, indices: jax.Array, steps: int
    ) -> Fitness:
        """Live with every one of N rules on every one of B tasks; leaves [N, B, ...]."""
        many, count = jax.tree.leaves(rules)[0].shape[0], indices.shape[0]
        tasks = draw_tasks(env, split, self.config.seed, indices)
        tasks = jax.tree.map(lambda leaf: jnp.tile(leaf, (many,) + (1,) * (leaf.ndim - 1)), tasks)
        each = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, 0), rules)
        reward, ended = live(each, env, tasks, self.config.tables, self.config.sweeps, steps)
        found = judge(reward, ended, tasks, min(SEGMENTS, steps))
        return jax.tree.map(lambda leaf: leaf.reshape(many, count, *leaf.shape[1:]), found)

    def overall(self, fitness: Fitness) -> jax.Array:
        """Return the one number that is maximised."""
        return (1.0 - self.config.late) * fitness.life + self.config.late * fitness.late

    def generation(self, state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        """Live with variations of the rule, and change it."""
        config, number = self.config, state.step

        def gradient(rule: Rule, key: jax.Array, progress: jax.Array):
            del progress
            rules, numbers = vary(key, rule, config.pairs, config.noise)
            standing, terms, parts = [], {}, []
            for place, (id, env) in enumerate(zip(config.environments, self.envs, strict=True)):
                first = (number * len(self.envs) + place) * config.tasks
                found = self.test(
                    rules, env, "train", first + jnp.arange(config.tasks), config.steps
                )
                fitness = self.overall(found)
                standing.append(jnp.mean(SHAPINGS[config.shaping](fitness), 1))
                terms[f"{_label(id)}/fitness"] = jnp.mean(fitness)
                parts.append(jnp.mean(found.by_segment, (0, 1)))
            mean = jnp.mean(jnp.stack(list(terms.values())))
            upward = estimate(jnp.mean(jnp.stack(standing), 0), numbers, config.noise)
            downward = jax.tree.map(jnp.negative, upward)
            terms = {"loss": 1.0 - mean, "fitness": mean, **terms}
            return downward, terms, jnp.mean(jnp.stack(parts), 0)

        return take_steps(state, gradient, generations_of(config))

    def validate(self, rule: Rule) -> dict[str, jax.Array]:
        """Live on held-out tasks, the same at every call; `score` is the mean fitness."""
        config, own = self.config, self.config.validation
        rules = jax.tree.map(lambda leaf: leaf[None], rule)
        found: dict[str, jax.Array] = {}
        ids = own.environments or config.environments
        for id, env in zip(ids, self.held_out, strict=True):
            fitness = self.test(
                rules, env, "validation", jnp.arange(own.lifetimes), own.steps or config.steps
            )
            found[f"{_label(id)}/fitness"] = jnp.mean(self.overall(fitness))
            found[f"{_label(id)}/late"] = jnp.mean(fitness.late)
        scores = [value for name, value in found.items() if name.endswith("/fitness")]
        return {"score": jnp.mean(jnp.stack(scores)), **found}


def _label(id: str) -> str:
    """Return an id as it stands in logs."""
    return id.split("/")[-1]


def make_evolution(config: EvolutionConfig) -> Evolution:
    """Build the environments of a training.

    Raises:
        GlaError: as `open_environments`.
    """
    envs = open_environments(config.environments)
    held_out = config.validation.environments
    others = open_environments(held_out, "validation") if held_out else envs
    return Evolution(config, tuple(envs), tuple(others))


def evolve(
    config: EvolutionConfig,
    path: str | os.PathLike,
    fresh: bool = False,
    progress: bool = True,
    minutes: float | None = None,
) -> Path:
    """Evolve a rule, or go on, and keep checkpoints in a folder that `gla.load` opens.

    Each line of `metrics.jsonl` is about one generation: `step`, its number; `fitness`, the mean
    over its rules and tasks, and of each environment (`<name>/fitness`); `loss`, 1 minus that;
    `by_segment`, the return of episodes early to late in the lifetime. All are 0 for uniform
    actions and 1 for the best policy.

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
    evolution = make_evolution(config)
    validate = jax.jit(evolution.validate)
    job = loop.Job(
        config=generations_of(config),
        title="evolution",
        description={
            "kind": KIND,
            "training": dataclasses.asdict(config),
            "sources": [registry.resolve(id).id for id in config.environments],
            "histories": [],
            "packages": package_versions(),
        },
        defaults=json.loads(json.dumps(dataclasses.asdict(EvolutionConfig()))),
        begin=lambda: first_state(config),
        take=evolution.generation,
        data=lambda step: None,
        validate=lambda rule: {name: float(x) for name, x in validate(rule).items()},
        note=_note,
        memory=f"lower pairs ({config.pairs}), tasks ({config.tasks}) or validation.lifetimes "
        f"({config.validation.lifetimes})",
    )
    return loop.train(job, path, fresh, progress, minutes)


def _note(values: dict[str, Any]) -> str:
    """Say beside the progress bar how it goes."""
    if values["loss"] is None:
        return f"{values['skipped']} generations skipped"
    parts = " ".join(f"{x:.2f}" for x in values["by_segment"])
    return f"fitness {values['fitness']:.2f}, early to late in the lifetime: {parts}"
