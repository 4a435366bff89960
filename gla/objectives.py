"""What meta-training minimises at every position of a sequence.

The action terms compare the model's action distribution with the target policy's (GLA, Eq. 1:
forward + reverse KL) or with the action that was taken (Algorithm Distillation, Laskin et al. 2022:
negative log-likelihood). Auxiliary heads predict what the step brings, and what the task is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from gla import distributions as dist
from gla.errors import GlaError
from gla.projection import LiftedGaussian
from gla.sampling import Sequences
from gla.tokens import Interface, gaussian_outputs


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms of the loss; one with weight 0 is not computed.

    An `Interface` that fits has the same `squashed`, `predict_reward` where `reward` is above 0,
    `predict_observation` where `observation` is, and `told_size` as its `told` where `told` is.

    Attributes:
        forward: of KL(target || model), in nats; it covers all that the target does.
        reverse: of KL(model || target), in nats; it avoids what the target does not do.
        nll: of the negative log-likelihood of the action that was taken, in nats.
        reward: of the squared error of the predicted reward of this step (normalised units). The
            model predicts it before it knows the action, so the best prediction is the mean over
            its own actions.
        observation: of the mean squared error of the predicted next observation, known likewise.
        told: of the mean squared error of what could be told of the task, such as its goal and its
            dynamics, each number in units of its standard deviation. At meta-test nobody is told;
            here it says what there is to find out (as in RMA, Kumar et al. 2021, where a policy
            acts on such estimates). Of no effect on histories of which nothing is told.
        told_size: room for how many numbers are told.
        squashed: the model's actions are tanh-Gaussian, on (-1, 1); they allow `nll` alone.
    """

    forward: float = 1.0
    reverse: float = 1.0
    nll: float = 0.0
    reward: float = 0.0
    observation: float = 0.0
    told: float = 0.0
    told_size: int = 64
    squashed: bool = False

    def __post_init__(self):
        for name in ("forward", "reverse", "nll", "reward", "observation", "told"):
            if not 0 <= getattr(self, name) < math.inf:
                raise GlaError(f"objective {name} is {getattr(self, name)}", "a number >= 0")
        if self.told_size < 1:
            raise GlaError(f"objective told_size is {self.told_size}", "a whole number >= 1")
        if self.forward == self.reverse == self.nll == 0:
            raise GlaError(
                "objective forward, reverse and nll are all 0", "at least one of them above 0"
            )
        if self.squashed and (self.forward or self.reverse):
            _refuse_squashed()


def _refuse_squashed() -> None:
    raise GlaError(
        "squashed actions have no closed-form KL divergence from a target that is not squashed",
        "forward 0 and reverse 0, and nll above 0",
    )


def losses(
    outputs: jax.Array, sequence: Sequences, config: ObjectiveConfig, interface: Interface
) -> dict[str, jax.Array]:
    """Evaluate the objective at every position of one sequence.

    Args:
        outputs: the model's, f32[L, interface.outputs].
        sequence: one sequence, without a batch axis (vmap over batches).
        config: weights of the terms.
        interface: how the outputs are laid out.

    Returns:
        f32[L] each: `loss`, the weighted sum, and beside it every term with a weight above 0,
        itself not weighted: `forward_kl`, `reverse_kl`, `nll`, `reward`, `observation`, `told`.
        Positions do not yet have `sequence.weight`.

    Raises:
        GlaError: if the interface lacks a head, or squashed actions are to be compared by KL.
    """
    heads = interface.split(outputs)
    terms: dict[str, tuple[float, jax.Array]] = {}
    if config.forward or config.reverse:
        if interface.squashed:
            _refuse_squashed()
        forward, reverse = action_kls(sequence.target, heads.action)
        if config.forward:
            terms["forward_kl"] = config.forward, forward
        if config.reverse:
            terms["reverse_kl"] = config.reverse, reverse
    if config.nll:
        terms["nll"] = config.nll, -action_log_prob(sequence.action, heads.action, interface)
    if config.reward:
        if heads.reward is None:
            raise GlaError("the objective predicts rewards but the model has no head for them")
        terms["reward"] = config.reward, (heads.reward - sequence.reward) ** 2
    if config.observation:
        if heads.observation is None:
            raise GlaError("the objective predicts observations but the model has no head for them")
        error = jnp.mean((heads.observation - sequence.next_observation) ** 2, -1)
        terms["observation"] = config.observation, jnp.where(sequence.known, error, 0.0)
    if config.told:
        if heads.told is None or sequence.told is None:
            raise GlaError("the objective asks for what is told but the model has no head for it")
        there = ~jnp.isnan(sequence.told)
        error = jnp.where(there, heads.told - jnp.where(there, sequence.told, 0.0), 0.0) ** 2
        terms["told"] = config.told, jnp.sum(error, -1) / jnp.maximum(jnp.sum(there, -1), 1)
    weighted = [weight * value for weight, value in terms.values()]
    named = {name: value for name, (_, value) in terms.items()}
    return {"loss": sum(weighted[1:], weighted[0]), **named}


def action_kls(
    target: LiftedGaussian | jax.Array, outputs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Forward and reverse KL at every position, in nats; zero where the distributions agree.

    Args:
        target: a `LiftedGaussian` or log-probabilities f32[L, m], of one sequence.
        outputs: the model's action outputs, f32[L, 2 m] (continuous) or f32[L, m] (discrete).

    Returns:
        (KL(target || model), KL(model || target)), each f32[L].
    """
    if isinstance(target, LiftedGaussian):
        return dist.lifted_kls(target, *gaussian_outputs(outputs))
    return dist.categorical_kl(target, outputs), dist.categorical_kl(outputs, target)


def action_log_prob(action: jax.Array, outputs: jax.Array, interface: Interface) -> jax.Array:
    """Log-probability or log-density f32[...] of actions in agent space, in nats.

    Args:
        action: f32[..., m], or slots i32[...].
        outputs: the model's action outputs.
        interface: which kind of distribution they describe.
    """
    if interface.discrete:
        return dist.categorical_log_prob(action, outputs)
    log_prob = dist.tanh_gaussian_log_prob if interface.squashed else dist.gaussian_log_prob
    return log_prob(action, *gaussian_outputs(outputs))
