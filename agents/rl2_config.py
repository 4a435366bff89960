"""What RL^2 is meta-trained on, and how (`gla.agents.rl2`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gla.errors import GlaError
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig
from gla.projection import ProjectionConfig
from gla.sampling import allocate
from gla.settings import check_counts


@dataclass(frozen=True)
class LifetimePPOConfig:
    """PPO's settings where what is optimised is the return of whole lifetimes.

    Attributes:
        epochs: passes over a batch of lifetimes.
        minibatches: parts of a batch, of whole lifetimes each; must divide their number.
        gamma: discount; it runs on across the ends of episodes.
        gae_lambda: lambda of generalised advantage estimation (Schulman et al. 2016).
        clip: clipping range of the probability ratio.
        entropy_coefficient: weight of the entropy bonus at the start of training. Without enough
            of it the policy stands still before it has found that trying things out pays.
        entropy_final: weight at the end; in between it moves in a straight line.
        value_coefficient: weight of the value loss.
    """

    epochs: int = 1
    minibatches: int = 4
    gamma: float = 0.9
    gae_lambda: float = 0.9
    clip: float = 0.2
    entropy_coefficient: float = 0.02
    entropy_final: float = 0.0
    value_coefficient: float = 0.5

    def __post_init__(self):
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise GlaError(f"ppo {name} is {getattr(self, name)}", "a whole number >= 1")
        for name in ("gamma", "gae_lambda"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise GlaError(f"ppo {name} is {getattr(self, name)}", "a number in [0, 1]")
        if not 0.0 < self.clip < math.inf:
            raise GlaError(f"ppo clip is {self.clip}", "a number above 0")
        for name in ("entropy_coefficient", "entropy_final", "value_coefficient"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise GlaError(f"ppo {name} is {getattr(self, name)}", "a number >= 0")


@dataclass(frozen=True)
class LifetimeValidationConfig:
    """How the weights are tried on unseen tasks, and when that ends training.

    The tasks are those of the `validation` split of the environments that are trained on, always
    the same ones.

    Attributes:
        every: updates between validations; 0 makes none.
        patience: validations in a row without a better score that end training; 0 never ends it.
        lifetimes: lifetimes in each environment.
    """

    every: int = 0
    patience: int = 0
    lifetimes: int = 64

    def __post_init__(self):
        check_counts(self, "validation", {"every": 0, "patience": 0, "lifetimes": 1})
        if self.patience and not self.every:
            raise GlaError(
                "validation.patience is set but validation.every is 0",
                "the number of updates between validations",
            )


def _optimizer() -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=1e-3, schedule="linear", warmup=10, weight_decay=0.0, max_grad_norm=0.5
    )


@dataclass(frozen=True)
class RL2Config:
    """Where a recurrent agent lives its lifetimes, and how it learns from them.

    Attributes:
        environments: ids of functional environments, all continuous or all discrete, with options
            if need be (`gla.envs.registry.split_options`).
        weights: relative share of each environment in a batch; empty means equal shares.
        projection: agent space and the distribution of projections. The default is the agent
            space of the quickstart, so that tables compare.
        model: backbone and size. Recurrent ones carry a small state through the whole lifetime.
        ppo: how the return of lifetimes is optimised.
        optimizer: how weights follow gradients; its steps are gradient steps, of which an update
            has ppo.epochs x ppo.minibatches.
        validation: on unseen tasks.
        lifetimes: whole lifetimes that are lived for one update, each on a task of its own.
        steps: environment steps of a lifetime.
        updates: batches of lifetimes, each of them lived once and learned from.
        checkpoint_every: updates between checkpoints.
        max_skips: skipped gradient steps in a row that stop training.
        seed: of initial weights, tasks, projections, episodes and actions.
        tensorboard: write TensorBoard event files beside `metrics.jsonl`.
    """

    environments: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    projection: ProjectionConfig = field(default_factory=lambda: ProjectionConfig(24, 6))
    model: ModelConfig = field(default_factory=lambda: ModelConfig("lstm", 64, layers=1, mlp=2))
    ppo: LifetimePPOConfig = field(default_factory=LifetimePPOConfig)
    optimizer: OptimizerConfig = field(default_factory=_optimizer)
    validation: LifetimeValidationConfig = field(default_factory=LifetimeValidationConfig)
    lifetimes: int = 128
    steps: int = 400
    updates: int = 2000
    checkpoint_every: int = 50
    max_skips: int = 20
    seed: int = 0
    tensorboard: bool = False

    def __post_init__(self):
        for name in ("lifetimes", "steps", "updates", "checkpoint_every", "max_skips"):
            if getattr(self, name) < 1:
                raise GlaError(f"rl2 {name} is {getattr(self, name)}", "a whole number >= 1")
        if not 0 <= self.seed < 2**31:
            raise GlaError(f"seed is {self.seed}", "a whole number from 0 to 2^31 - 1")
        if self.updates * self.lifetimes >= 2**31:
            raise GlaError(
                f"{self.updates} updates of {self.lifetimes} lifetimes need more tasks than have "
                "numbers",
                "less than 2^31 lifetimes in all",
            )
        if self.lifetimes % self.ppo.minibatches:
            raise GlaError(
                f"ppo.minibatches={self.ppo.minibatches} does not divide the {self.lifetimes} "
                "lifetimes of a batch",
                mend="choose a divisor",
            )
        if len(set(self.environments)) < len(self.environments):
            raise GlaError(
                f"environments are {', '.join(self.environments)}",
                "each at most once",
                "give it a larger weight instead",
            )
        if self.weights and len(self.weights) != len(self.environments):
            raise GlaError(
                f"{len(self.weights)} weights for {len(self.environments)} environments",
                "one weight per environment, or none for equal shares",
            )
        if any(not 0 < weight < math.inf for weight in self.weights):
            raise GlaError(f"weights are {list(self.weights)}", "numbers above 0")
        if self.lifetimes < len(self.environments):
            raise GlaError(
                f"{self.lifetimes} lifetimes cannot be shared by {len(self.environments)} "
                "environments",
                f"lifetimes of at least {len(self.environments)}",
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """Lifetimes of each environment in a batch."""
        return allocate(self.lifetimes, self.weights or (1.0,) * len(self.environments))

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of one update."""
        return self.ppo.epochs * self.ppo.minibatches
