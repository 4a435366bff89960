"""Make a learner out of its config."""

from __future__ import annotations

from gla.gpicl.config import LearnerConfig
from gla.gpicl.gradient import MAMLLearner
from gla.gpicl.learners import Learner
from gla.gpicl.mlp import MultiTaskMLP
from gla.gpicl.sequence import SequenceLearner
from gla.gpicl.vsml import VSML, PlainVSML


def make_learner(config: LearnerConfig, input_dim: int, classes: int) -> Learner:
    """Return the learner of a config.

    Args:
        config: which.
        input_dim: M, length of the inputs.
        classes: C, labels that it can answer with.
    """
    if config.kind == "sequence":
        return SequenceLearner(config.model, input_dim, classes, config.tokens)
    if config.kind == "vsml":
        return VSML(config.vsml, classes, input_dim)
    if config.kind == "vsml-plain":
        return PlainVSML(config.vsml, input_dim, classes)
    if config.kind == "maml":
        return MAMLLearner(config.gradient, input_dim, classes)
    return MultiTaskMLP(config.mlp, input_dim, classes)
