"""Optimisers of meta-training: what is done with a gradient, and how large a step is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from gla.errors import GlaError

# What `None` stands for: b1, b2 and weight_decay as their authors and optax have them.
_USUAL = {
    "adamw": (0.9, 0.999, 1e-4),
    "lion": (0.9, 0.99, 1e-3),
    "sign": (0.9, None, 0.0),
    "muon": (0.95, 0.999, 1e-4),
    "sgd": (0.9, None, 0.0),
}


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser, its step size over training, and the averaging of weights.

    Attributes:
        name: `adamw`; `lion` (Chen et al. 2023); `sign`, the sign of the averaged gradient, that
            is Lion with b1 = b2 and no decay, which shortens the plateau before in-context
            learning most (GPICL, section 4.3); `muon` (Jordan et al. 2024), which orthogonalises
            the averaged gradient of every matrix and leaves the rest to AdamW with Nesterov's
            momentum; `sgd` with momentum.
        learning_rate: step size after the warm-up. Lion and sign want about a tenth of AdamW's.
        schedule: how the step size falls after the warm-up: `cosine` or `linear` to `final_rate`,
            `constant`, or `wsd`, constant and then linear over the last `decay` of the steps.
        warmup: steps over which the step size rises linearly from 0.
        final_rate: share of the step size that is left at the end, in [0, 1].
        decay: share of the steps over which `wsd` falls, in (0, 1]; of no meaning to the others.
        weight_decay: decoupled weight decay; none: 1e-4 for adamw and muon, 1e-3 for lion, else 0.
        b1: decay of the averaged gradient, in [0, 1); none: 0.95 for muon, else 0.9. Muon's rest
            goes by 0.9.
        b2: decay of the averaged square (adamw, muon's rest) or of what is remembered (lion), in
            [0, 1); none: 0.99 for lion, else 0.999.
        eps: what adamw and muon add to the denominator. 1e-10 to 1e-12 shortens GPICL's plateau,
            whose gradients are small.
        max_grad_norm: gradients are scaled down to this global norm; 0 leaves them.
        ema: decay of an average of the weights, in [0, 1), which then is what acts and is
            validated; 0 keeps none. Early on the average is shorter: min(ema, (1 + n) / (10 + n))
            after n steps.
    """

    name: Literal["adamw", "lion", "sign", "muon", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup: int = 50
    final_rate: float = 0.05
    decay: float = 0.2
    weight_decay: float | None = None
    b1: float | None = None
    b2: float | None = None
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    ema: float = 0.0

    def __post_init__(self):
        if self.name not in _USUAL:
            raise GlaError(f"the optimizer is {self.name!r}", f"one of {', '.join(_USUAL)}")
        schedules = ("cosine", "linear", "constant", "wsd")
        if self.schedule not in schedules:
            raise GlaError(f"the schedule is {self.schedule!r}", f"one of {', '.join(schedules)}")
        for name in ("learning_rate", "eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise GlaError(f"optimizer {name} is {getattr(self, name)}", "a number above 0")
        if self.eps < 1e-30:
            raise GlaError(f"optimizer eps is {self.eps}", "a number that float32 holds, >= 1e-30")
        for name in ("warmup", "max_grad_norm", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise GlaError(f"optimizer {name} is {value}", "a number >= 0")
        if not 0 <= self.final_rate <= 1 or not 0 < self.decay <= 1:
            raise GlaError(
                f"optimizer final_rate is {self.final_rate} and decay {self.decay}",
                "final_rate in [0, 1] and decay in (0, 1]",
            )
        for name in ("b1", "b2", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise GlaError(f"optimizer {name} is {value}", "a number in [0, 1)")
        if self.name == "sign" and (self.b2 is not None or self.weight_decay):
            raise GlaError(
                "the optimizer `sign` has no b2 and no weight decay", mend="choose `lion` for these"
            )
        if self.name == "sgd" and self.b2 is not None:
            raise GlaError("the optimizer `sgd` has no b2", mend="leave it away")


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Return the step size f32[] as a function of the number of steps taken.

    Args:
        config: which.
        steps: at which the schedule ends. A warm-up that is not shorter is cut to one less.
    """
    peak, last = config.learning_rate, config.learning_rate * config.final_rate
    steps = max(steps, 2)
    warmup = min(config.warmup, steps - 1)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, last)
    parts: list[optax.Schedule] = [optax.linear_schedule(0.0, peak, warmup)] if warmup else []
    borders = [warmup] if warmup else []
    if config.schedule == "constant":
        parts.append(optax.constant_schedule(peak))
    else:
        falls = steps - warmup
        if config.schedule == "wsd":
            falls = min(max(round(config.decay * steps), 1), falls)
            if steps - falls > warmup:
                parts.append(optax.constant_schedule(peak))
                borders.append(steps - falls)
        parts.append(optax.linear_schedule(peak, last, falls))
    return optax.join_schedules(parts, borders)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Build the optimiser for a training of `steps` steps."""
    rate = make_schedule(config, steps)
    usual_b1, usual_b2, usual_decay = _USUAL[config.name]
    b1: Any = usual_b1 if config.b1 is None else config.b1
    b2: Any = usual_b2 if config.b2 is None else config.b2
    weight_decay: Any = usual_decay if config.weight_decay is None else config.weight_decay
    chain = []
    if config.max_grad_norm:
        chain.append(optax.clip_by_global_norm(config.max_grad_norm))
    if config.name == "adamw":
        chain.append(optax.adamw(rate, b1, b2, config.eps, weight_decay=weight_decay))
    elif config.name == "lion":
        chain.append(optax.lion(rate, b1, b2, weight_decay=weight_decay))
    elif config.name == "sign":
        chain.append(optax.lion(rate, b1, b1, weight_decay=0.0))
    elif config.name == "muon":
        chain.append(
            contrib.muon(
                rate,
                beta=b1,
                eps=config.eps,
                weight_decay=weight_decay,
                adam_b1=_USUAL["adamw"][0],
                adam_b2=b2,
                adam_weight_decay=weight_decay,
                muon_weight_dimension_numbers=_matrices,
            )
        )
    else:
        if weight_decay:
            chain.append(optax.add_decayed_weights(weight_decay))
        chain.append(optax.sgd(rate, momentum=b1 or None))
    return optax.chain(*chain)


def _matrices(params: Any) -> Any:
    """Say which parameters are matrices: those of two axes, and kernels that split their outputs.

    The latter, such as those of queries, keys and values of several heads, have the inputs first.
    """

    def one(leaf: Any) -> contrib.MuonDimensionNumbers | None:
        if leaf.ndim < 2:
            return None
        return contrib.MuonDimensionNumbers(0, tuple(range(1, leaf.ndim)))

    return jax.tree.map(one, params)


def average(ema: Any, params: Any, decay: float, taken: jax.Array) -> Any:
    """Move an average of the weights one step on.

    Args:
        ema: the average, a pytree f32.
        params: the weights after this step.
        decay: its final decay.
        taken: i32[], number of steps before this one.
    """
    rate = jnp.minimum(decay, (1.0 + taken) / (10.0 + taken))
    return jax.tree.map(lambda a, p: a + (1 - rate) * (p - a), ema, params)
