"""gla.envs: tasks behind one functional protocol, and host simulators behind Gymnasium's.

Names are loaded when first used, so that `import gla` stays free of JAX and of simulators.
"""

import importlib
from typing import Any

if __name__ != "gla.envs":
    raise ImportError("this folder is the package gla.envs: write 'import gla.envs'")

_EXPORTS = {
    "ant_direction": ("BraxAntDirection",),
    "augmentations": (
        "ActionDelay",
        "Augmentation",
        "ObservationNoise",
        "Permutation",
        "RandomProjection",
        "RewardMask",
        "RewardScale",
        "SignFlip",
        "augment",
    ),
    "bandits": (
        "BernoulliBandit",
        "BernoulliBanditConfig",
        "GaussianBandit",
        "GaussianBanditConfig",
        "LinearBandit",
        "LinearBanditConfig",
    ),
    "base": ("Environment", "Timestep", "timestep", "observation_size", "action_size"),
    "brax_adapter": ("BraxEnvironment",),
    "gridworld": ("Gridworld", "GridworldConfig"),
    "gym_api": ("FunctionalEnv", "FunctionalVectorEnv"),
    "gymnax_adapter": ("GymnaxEnvironment",),
    "host": ("HostEnv", "HostVectorEnv", "make_dmc", "make_mujoco"),
    "host_wrappers": (
        "AugmentedHostEnv",
        "HostAugmented",
        "HostNormalized",
        "HostProjected",
        "ProjectedHostEnv",
    ),
    "random_goal": ("RandomGoal", "RandomGoalConfig"),
    "random_hinges": ("RandomHinges", "RandomHingesConfig"),
    "random_linear": ("RandomLinear", "RandomLinearConfig"),
    "random_mechanics": ("RandomMechanics", "RandomMechanicsConfig"),
    "random_morphology": ("RandomMorphology", "RandomMorphologyConfig"),
    "random_neural": ("RandomNeural", "RandomNeuralConfig"),
    "random_potential": ("RandomPotential", "RandomPotentialConfig"),
    "random_tabular": ("RandomTabular", "RandomTabularConfig", "TabularEnvironment"),
    "registry": ("find", "make_functional", "make_host", "references", "register_all"),
    "splits": ("KeyRange", "Splits", "split_of", "task_key"),
    "supervised_bandit": ("SupervisedBandit", "SupervisedBanditConfig"),
    "table": ("EnvironmentSpec",),
    "tabular_tasks": ("CliffWalking", "Darkroom", "FrozenLake"),
    "tasks": ("FiniteTasks", "count_distinct_tasks"),
    "vectorized": ("step_batch",),
    "wrappers": ("Augmented", "Autoreset", "Normalized", "Projected", "TimeLimit"),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Load an exported name from its module (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the exported names."""
    return sorted({*globals(), *_HOME})
