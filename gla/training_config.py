"""What to meta-train, on what, for how long: one config made of those of its parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gla import sampling
from gla.errors import GlaError
from gla.loading import LoadingConfig
from gla.models import ModelConfig
from gla.objectives import ObjectiveConfig
from gla.optimizers import OptimizerConfig
from gla.parallel import MeshConfig
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.settings import check_counts, plain
from gla.steps import check_settings
from gla.tokens import Interface


@dataclass(frozen=True)
class ValidationConfig:
    """How the weights are validated on unseen tasks, and when that ends training.

    In-context learning can be transient: with few training tasks it comes and goes while the
    training loss falls (Singh et al. 2023), so the last weights need not be the best.

    Attributes:
        every: steps between validations, a multiple of steps_per_dispatch; 0 makes none.
        patience: validations in a row without a better score that end training; 0 never ends it.
        histories: folders of history stores of held-out tasks, on which the mean loss is taken.
        batches: batches of those, the same at every validation.
        environments: environments whose unseen tasks are acted in.
        lifetimes: lifetimes in each of them.
        steps: steps of a lifetime.
    """

    every: int = 0
    patience: int = 0
    histories: tuple[str, ...] = ()
    batches: int = 4
    environments: tuple[str, ...] = ()
    lifetimes: int = 16
    steps: int = 400

    def __post_init__(self):
        least = {"every": 0, "patience": 0, "batches": 1, "lifetimes": 1, "steps": 1}
        check_counts(self, "validation", least)
        if not self.every and (self.patience or self.histories or self.environments):
            raise GlaError(
                "validation is described but validation.every is 0",
                "the number of steps between validations",
            )


@dataclass(frozen=True)
class ActingConfig:
    """How the agent draws actions from what the model says; training does not depend on it.

    Attributes:
        correlation: of the noise of one step with that of the next, in [0, 1). Above 0 the noise of
            every action dimension is a first-order autoregressive process; each action by itself
            still has the model's distribution. Independent noise hardly moves a body that one step
            hardly moves; noise that lasts explores (Eberhard et al. 2023, "Pink Noise Is All You
            Need", compare its kinds).

    Raises:
        GlaError: if it is out of its range.
    """

    correlation: float = 0.0

    def __post_init__(self):
        if not 0.0 <= self.correlation < 1.0:
            raise GlaError(f"acting correlation is {self.correlation}", "a number in [0, 1)")


@dataclass(frozen=True)
class MetaTrainConfig:
    """What to train, on what, for how long.

    Attributes:
        histories: folders of history stores, all continuous or all discrete.
        weights: relative share of each store in a batch; empty means equal shares.
        initial: folder of an agent of the same model and agent space, with whose weights (those
            that act) training begins; empty: with random ones. It is read once, at the start, and
            what it was meta-trained on counts among this agent's training sources.
        projection: agent space and the distribution of projections.
        sampling: how sequences are cut out of histories.
        objective: what is minimised.
        model: backbone and size.
        optimizer: how weights follow gradients.
        acting: how the agent draws actions.
        validation: on unseen tasks.
        loading: how much of the histories is in memory at once.
        mesh: how devices are used; may change when training goes on.
        batch_size: sequences per step.
        accumulate: parts of a batch that are computed one after the other, which takes as much
            less memory; the gradient is the same up to rounding. Divides every store's share.
        bptt: truncated back-propagation through time: the sequence is run in stretches of so many
            tokens, the model's state is carried over, gradients end at the borders, and memory
            does not grow with the sequence. 0 is the whole sequence; must divide its length.
        steps: optimiser steps.
        steps_per_dispatch: steps in one call of the jitted program.
        checkpoint_every: steps between checkpoints, a multiple of steps_per_dispatch.
        max_skips: skipped steps in a row that stop training.
        diverged: training stops where the smoothed loss is so many times its first value; 0 never.
        seed: of initial weights and batches.
        tensorboard: write TensorBoard event files beside `metrics.jsonl`.
    """

    histories: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    initial: str = ""
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    acting: ActingConfig = field(default_factory=ActingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    loading: LoadingConfig = field(default_factory=LoadingConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    batch_size: int = 16
    accumulate: int = 1
    bptt: int = 0
    steps: int = 2000
    steps_per_dispatch: int = 10
    checkpoint_every: int = 200
    max_skips: int = 10
    diverged: float = 10.0
    seed: int = 0
    tensorboard: bool = False

    def __post_init__(self):
        refresh = self.loading.refresh if self.loading.resident else 0
        periods = {"validation.every": self.validation.every, "loading.refresh": refresh}
        check_settings(self, periods)
        if self.bptt < 0:
            raise GlaError(f"bptt is {self.bptt}", "a number >= 0")
        if self.bptt and self.sampling.length % self.bptt:
            raise GlaError(
                f"bptt={self.bptt} does not divide the {self.sampling.length} tokens of a sequence",
                mend="choose a divisor of sampling.segments x sampling.segment_length",
            )
        if self.batch_size % self.accumulate:
            raise GlaError(
                f"accumulate={self.accumulate} does not divide batch_size={self.batch_size}"
            )
        if self.weights and len(self.weights) != len(self.histories):
            raise GlaError(
                f"{len(self.weights)} weights for {len(self.histories)} history stores",
                "one weight per store, or none for equal shares",
            )
        # Sizes of the batch are checked as early as everything else.
        if self.histories:
            counts = sampling.allocate(self.batch_size, self.shares)
            if any(count % self.accumulate for count in counts):
                raise GlaError(
                    f"accumulate={self.accumulate} does not divide the stores' shares of a batch, "
                    f"{', '.join(str(count) for count in counts)}",
                    mend="choose batch_size and weights so that it divides each",
                )
        if self.validation.histories:
            sampling.allocate(self.micro_batch, (1.0,) * len(self.validation.histories))

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights, filled in."""
        return self.weights or (1.0,) * len(self.histories)

    @property
    def micro_batch(self) -> int:
        """Sequences that are computed at once."""
        return self.batch_size // self.accumulate


def make_interface(config: MetaTrainConfig, discrete: bool) -> Interface:
    """Return what the model reads and writes."""
    return Interface(
        config.projection.observation_dim,
        config.projection.action_dim,
        discrete,
        conditions=config.sampling.conditions,
        squashed=config.objective.squashed,
        predict_reward=config.objective.reward > 0,
        predict_observation=config.objective.observation > 0,
        told=config.objective.told_size if config.objective.told else 0,
    )


def config_from_json(value: dict[str, Any]) -> MetaTrainConfig:
    """Rebuild a `MetaTrainConfig` from the `training` part of a checkpoint's description.

    Raises:
        KeyError: if a part is missing.
        TypeError: if there is a setting that this version does not know.
        GlaError: if a setting is out of range.
    """
    kinds = {
        "projection": ProjectionConfig, "sampling": SamplingConfig, "objective": ObjectiveConfig,
        "model": ModelConfig, "optimizer": OptimizerConfig, "validation": ValidationConfig,
        "loading": LoadingConfig, "mesh": MeshConfig, "acting": ActingConfig,
    }  # fmt: skip

    value = {"acting": {}} | value  # agents made before there was a choice
    parts = {name: kind(**plain(value[name])) for name, kind in kinds.items()}
    return MetaTrainConfig(**{**plain(value), **parts})
