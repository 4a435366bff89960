"""What a tabular agent is evolved on, and how (`gla.agents.evolution`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from gla.errors import GlaError
from gla.optimizers import OptimizerConfig
from gla.settings import check_counts, plain
from gla.tabular.tables import TablesConfig

Start = Literal["blank", "optimistic", "wary"]
Shaping = Literal["rank", "score"]


@dataclass(frozen=True)
class EvolutionValidationConfig:
    """How the rule is tried on unseen tasks, and when that ends training.

    The tasks are of the `validation` split, always the same ones.

    Attributes:
        environments: ids of tabular environments; empty for those that are trained on. Other
            options than in training show whether the rule carries over to them.
        every: generations between validations; 0 makes none.
        patience: validations in a row without a better score that end training; 0 never ends it.
        lifetimes: lifetimes in each environment.
        steps: environment steps of each; 0 for as many as in training.

    Raises:
        GlaError: if a value is out of its range.
    """

    environments: tuple[str, ...] = ()
    every: int = 0
    patience: int = 0
    lifetimes: int = 16
    steps: int = 0

    def __post_init__(self):
        check_counts(self, "validation", {"every": 0, "patience": 0, "lifetimes": 1, "steps": 0})
        if self.patience and not self.every:
            raise GlaError(
                "validation.patience is set but validation.every is 0",
                "the number of generations between validations",
            )


def _optimizer() -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=0.03, schedule="cosine", warmup=5, weight_decay=0.0, b2=0.99,
        max_grad_norm=0.0, ema=0.95,
    )  # fmt: skip


@dataclass(frozen=True)
class EvolutionConfig:
    """Where a tabular agent lives its lifetimes, and how its rule is evolved.

    Attributes:
        environments: ids of tabular environments, with options if need be
            (`gla.envs.registry.split_options`). Every generation lives in all of them.
        start: the rule that evolution begins from: `blank` hardly prefers any action, `optimistic`
            is optimism as textbooks have it (`gla.tabular.rule.optimistic_rule`), `wary` the same
            with more of it where outcomes scatter (`gla.tabular.rule.wary_rule`).
        tables: size of the memory when the agent acts. In training it has as many slots as the
            environment has states, at most these.
        sweeps: backups of all states in a step, at least 1.
        pairs: antithetic pairs of a generation: rules that differ from the present one by the same
            numbers, added and subtracted.
        tasks: of each environment in a generation. All its rules live on the same tasks, with the
            same random numbers.
        noise: standard deviation by which rules differ from the present one, above 0.
        steps: environment steps of a lifetime.
        late: weight in [0, 1] of the last fifth of a lifetime in its fitness; the rest is for the
            whole of it.
        shaping: what weighs the variations of a rule: `rank`, their order on each task, so that all
            tasks count alike, or `score`, how far they are above the mean, so that tasks on which
            all do equally well count for nothing.
        generations: how many.
        optimizer: how the rule follows the estimated gradient.
        validation: on unseen tasks.
        checkpoint_every: generations between checkpoints.
        max_skips: skipped generations in a row that stop training.
        seed: of the initial rule, its variations, tasks, episodes and actions.
        tensorboard: write TensorBoard event files beside `metrics.jsonl`.

    Raises:
        GlaError: if a value is out of its range.
    """

    environments: tuple[str, ...] = ()
    start: Start = "blank"
    tables: TablesConfig = field(default_factory=TablesConfig)
    sweeps: int = 2
    pairs: int = 16
    tasks: int = 1
    noise: float = 0.1
    steps: int = 1000
    late: float = 0.5
    shaping: Shaping = "rank"
    generations: int = 600
    optimizer: OptimizerConfig = field(default_factory=_optimizer)
    validation: EvolutionValidationConfig = field(default_factory=EvolutionValidationConfig)
    checkpoint_every: int = 20
    max_skips: int = 20
    seed: int = 0
    tensorboard: bool = False

    def __post_init__(self):
        for name, kind in (("start", Start), ("shaping", Shaping)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise GlaError(f"evolve {name} is {value!r}", " or ".join(get_args(kind)))
        counts = (
            "sweeps",
            "pairs",
            "tasks",
            "steps",
            "generations",
            "checkpoint_every",
            "max_skips",
        )
        check_counts(self, "evolve", dict.fromkeys(counts, 1))
        if not 0.0 < self.noise < math.inf:
            raise GlaError(f"evolve noise is {self.noise}", "a number above 0")
        if not 0.0 <= self.late <= 1.0:
            raise GlaError(f"evolve late is {self.late}", "a number in [0, 1]")
        if not 0 <= self.seed < 2**31:
            raise GlaError(f"seed is {self.seed}", "a whole number from 0 to 2^31 - 1")
        if self.generations * self.tasks * max(len(self.environments), 1) >= 2**31:
            raise GlaError(
                f"{self.generations} generations of {self.tasks} tasks need more tasks than have "
                "numbers",
                "less than 2^31 tasks in all",
            )
        for words, ids in (
            ("environments", self.environments),
            ("validation environments", self.validation.environments),
        ):
            if len(set(ids)) < len(ids):
                raise GlaError(f"{words} are {', '.join(ids)}", "each at most once")


def config_from_json(value: dict[str, Any]) -> EvolutionConfig:
    """Rebuild a config from the `training` part of a checkpoint's description.

    Raises:
        KeyError: if a part is missing.
        TypeError: if there is a setting that this version does not know.
        GlaError: if a setting is out of range.
    """
    kinds = {
        "tables": TablesConfig,
        "optimizer": OptimizerConfig,
        "validation": EvolutionValidationConfig,
    }
    parts = {name: kind(**plain(value[name])) for name, kind in kinds.items()}
    return EvolutionConfig(**{**plain(value), **parts})
