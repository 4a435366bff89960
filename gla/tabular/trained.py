"""Read an evolved rule out of a checkpoint folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax

from gla import checkpoints
from gla.errors import GlaError
from gla.optimizers import OptimizerConfig
from gla.parallel import MeshConfig
from gla.steps import TrainState, begin
from gla.tabular.config import EvolutionConfig, EvolutionValidationConfig, config_from_json
from gla.tabular.rule import Rule, initial_rule, optimistic_rule, wary_rule

KIND = "evolution"  # tells these checkpoint folders from those of sequence models


@dataclass(frozen=True)
class Generations:
    """What `gla.steps` and `gla.loop` are to know of an evolution: their steps are generations."""

    steps: int
    optimizer: OptimizerConfig
    max_skips: int
    seed: int
    checkpoint_every: int
    validation: EvolutionValidationConfig
    tensorboard: bool
    mesh: MeshConfig = MeshConfig()
    batch_size: int = 1
    accumulate: int = 1
    steps_per_dispatch: int = 1
    diverged: float = 0.0  # fitness is bounded


def generations_of(config: EvolutionConfig) -> Generations:
    """Describe the generations of a training."""
    return Generations(
        config.generations, config.optimizer, config.max_skips, config.seed,
        config.checkpoint_every, config.validation, config.tensorboard,
    )  # fmt: skip


def first_state(config: EvolutionConfig) -> TrainState:
    """Return the state before the first generation."""
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    starts = {
        "blank": lambda: initial_rule(key),
        "optimistic": optimistic_rule,
        "wary": wary_rule,
    }
    return begin(starts[config.start](), generations_of(config))


class TrainedRule(NamedTuple):
    """What acts, out of a checkpoint folder.

    Attributes:
        config: what was trained.
        params: the rule, f32.
        sources: ids of the environments that it was meta-trained on.
    """

    config: EvolutionConfig
    params: Rule
    sources: tuple[str, ...]


def load_rule(path: str | os.PathLike, which: checkpoints.Which = "latest") -> TrainedRule:
    """Load an evolved rule; where training kept an average (`optimizer.ema`), the average.

    Args:
        path: checkpoint folder.
        which: `latest`, or `best` for the rule of the best validation.

    Raises:
        GlaError: if the folder is none, is of another version or another kind, or holds no such
            checkpoint or one that does not fit.
    """
    folder = Path(path).absolute()
    description = checkpoints.describe(folder)
    if description.get("kind") != KIND:
        raise GlaError(
            f"{folder} holds no evolved rule", "a folder that `gla meta-train evolve` wrote"
        )
    try:
        config = config_from_json(description["training"])
    except (KeyError, TypeError) as error:
        raise GlaError(
            f"{folder / 'config.json'} lacks or adds settings ({error})",
            "a file written by this version of gla",
        ) from None
    shapes = jax.eval_shape(lambda: first_state(config))
    params = checkpoints.restore_acting(folder, shapes, which)
    return TrainedRule(config, params, tuple(description["sources"]))
