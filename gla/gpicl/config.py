"""What to meta-train in GPICL: data, tasks, learner, optimiser, for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from gla import datasets as data_sets
from gla.datasets import Dataset, Normalize, Part
from gla.errors import GlaError, near_matches
from gla.gpicl.gradient import GradientConfig
from gla.gpicl.mlp import MLPConfig
from gla.gpicl.sequence import TokenForm
from gla.gpicl.tasks import TaskConfig
from gla.gpicl.vsml import VSMLConfig
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig
from gla.parallel import MeshConfig
from gla.settings import plain
from gla.steps import check_settings

LearnerKind = Literal["sequence", "vsml", "vsml-plain", "maml", "mlp"]


@dataclass(frozen=True)
class LearnerConfig:
    """Which learner is meta-trained.

    Attributes:
        kind: `sequence`: a model of `gla.models`; `vsml` and `vsml-plain`: Variable Shared Meta
            Learning with and without its symmetries; `maml`: online gradient descent from
            meta-trained initial weights; `mlp`: a classifier that sees one example only.
        tokens: of `sequence`, what a token holds: `pairs` (x_t, x_{t-1}, y_{t-1}), or the `paper`'s
            (x_t, y_{t-1}), which takes longer to learn.
        model: of `sequence`.
        vsml: of `vsml` and `vsml-plain`.
        gradient: of `maml`.
        mlp: of `mlp`.

    Raises:
        GlaError: if a name is unknown.
    """

    kind: LearnerKind = "sequence"
    tokens: TokenForm = "pairs"
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(width=96, layers=3, window=100, positions="learned")
    )
    vsml: VSMLConfig = field(default_factory=VSMLConfig)
    gradient: GradientConfig = field(default_factory=GradientConfig)
    mlp: MLPConfig = field(default_factory=MLPConfig)

    def __post_init__(self):
        for name, kind in (("kind", LearnerKind), ("tokens", TokenForm)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise GlaError(
                    f"the learner's {name} is {value!r}{near_matches(str(value), known)}",
                    "one of " + ", ".join(known),
                )


@dataclass(frozen=True)
class DataConfig:
    """Of which data sets tasks are made.

    Attributes:
        datasets: what `gla.datasets.load` takes: `digits`, `mnist`, `openml:NAME`, a path. Every
            batch holds tasks of all of them.
        weights: share of each in a batch; empty means equal shares.
        folder: where bare names are looked for (default: the environment variable `GLA_DATA`).
        resize: bring images to this height and width; 0 keeps them. Of no meaning to inputs that
            are not images.
        normalize: how inputs are scaled before they are projected, see `gla.datasets.load`.
    """

    datasets: tuple[str, ...] = ("digits",)
    weights: tuple[float, ...] = ()
    folder: str | None = None
    resize: int = 8
    normalize: Normalize = "standard"

    def __post_init__(self):
        if not self.datasets:
            raise GlaError("no data set is named", "at least one, such as digits")
        if self.weights and len(self.weights) != len(self.datasets):
            raise GlaError(
                f"{len(self.weights)} weights for {len(self.datasets)} data sets",
                "one weight per data set, or none for equal shares",
            )
        if self.resize < 0:
            raise GlaError(f"resize is {self.resize}", "a whole number >= 0")

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights, filled in."""
        return self.weights or (1.0,) * len(self.datasets)

    def load(self, name: str, part: Part) -> Dataset:
        """Read one part of a data set as this config has it.

        Raises:
            GlaError: see `gla.datasets.load`.
        """
        data = data_sets.load(name, part, folder=self.folder, normalize=self.normalize)
        if self.resize and data.image_shape not in (None, (self.resize, self.resize)):
            data = data_sets.load(
                name, part, folder=self.folder, normalize=self.normalize, resize=self.resize
            )
        return data


@dataclass(frozen=True)
class LearnerValidationConfig:
    """How learners are validated while they are meta-trained.

    Attributes:
        every: steps between validations, a multiple of steps_per_dispatch; 0 makes none.
        patience: validations in a row without a better score that end training; 0 never ends it.
        datasets: data sets that are not trained on, to be validated on too.
        sequences: of each validation.
    """

    every: int = 0
    patience: int = 0
    datasets: tuple[str, ...] = ()
    sequences: int = 256

    def __post_init__(self):
        for name, least in (("every", 0), ("patience", 0), ("sequences", 1)):
            if getattr(self, name) < least:
                raise GlaError(
                    f"validation {name} is {getattr(self, name)}", f"a whole number >= {least}"
                )
        if not self.every and (self.patience or self.datasets):
            raise GlaError(
                "validation is described but validation.every is 0",
                "the number of steps between validations",
            )


@dataclass(frozen=True)
class GPICLConfig:
    """What to train, on what, for how long (GPICL, Algorithm 1).

    Attributes:
        data: the data sets.
        tasks: how tasks are made of them.
        learner: what is trained.
        optimizer: how weights follow gradients.
        validation: on seen and unseen tasks and data sets.
        mesh: how devices are used; may change when training goes on.
        batch_size: sequences per step.
        accumulate: parts of a batch that are computed one after the other. Divides the share of
            every data set.
        steps: optimiser steps.
        steps_per_dispatch: steps in one call of the jitted program.
        checkpoint_every: steps between checkpoints, a multiple of steps_per_dispatch.
        max_skips: skipped steps in a row that stop training.
        diverged: training stops where the smoothed loss is so many times its first value; 0 never.
        seed: of initial weights and batches.
        statistics: measure gradients and updates tensor by tensor and log them (Figs. 12 to 14).
        tensorboard: write TensorBoard event files beside `metrics.jsonl`.
    """

    data: DataConfig = field(default_factory=DataConfig)
    tasks: TaskConfig = field(default_factory=lambda: TaskConfig(fixed_share=0.3, fewest_classes=2))
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig("muon", 3e-3, "wsd", warmup=100)
    )
    validation: LearnerValidationConfig = field(default_factory=LearnerValidationConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    batch_size: int = 32
    accumulate: int = 1
    steps: int = 3000
    steps_per_dispatch: int = 25
    checkpoint_every: int = 500
    max_skips: int = 10
    diverged: float = 10.0
    seed: int = 0
    statistics: bool = False
    tensorboard: bool = False

    def __post_init__(self):
        check_settings(self, {"validation.every": self.validation.every})
        kind = self.learner.kind
        if self.tasks.hidden_share and kind != "sequence":
            raise GlaError(
                f"tasks hidden_share is {self.tasks.hidden_share} and the learner is {kind}",
                "0, or a learner of kind sequence",
            )

    @property
    def micro_batch(self) -> int:
        """Sequences that are computed at once."""
        return self.batch_size // self.accumulate


_PARTS: dict[str, Any] = {
    "data": DataConfig,
    "tasks": TaskConfig,
    "optimizer": OptimizerConfig,
    "validation": LearnerValidationConfig,
    "mesh": MeshConfig,
}
_LEARNER_PARTS: dict[str, Any] = {
    "model": ModelConfig,
    "vsml": VSMLConfig,
    "gradient": GradientConfig,
    "mlp": MLPConfig,
}


def config_from_json(value: dict[str, Any]) -> GPICLConfig:
    """Rebuild a config from the `training` part of a checkpoint's description.

    Raises:
        KeyError: if a part is missing.
        TypeError: if there is a setting that this version does not know.
        GlaError: if a setting is out of range.
    """

    def parts(kinds: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
        return {name: kind(**plain(whole[name])) for name, kind in kinds.items()}

    theirs = value["learner"]
    learner = LearnerConfig(**{**plain(theirs), **parts(_LEARNER_PARTS, theirs)})
    return GPICLConfig(**{**plain(value), **parts(_PARTS, value), "learner": learner})
