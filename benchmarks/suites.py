"""The environments of each leaderboard suite.

Every id here has reference scores in `envs/references.json`; `gla references --suite NAME` measures
them again.
"""

from __future__ import annotations

from gla.errors import GlaError, near_matches

# gla-fig5: the cross-domain set of the GLA paper's Fig. 5, in its versions. cross-domain: bodies on
# which standing still earns little or nothing. The others test unseen tasks of a family.
SUITES: dict[str, tuple[str, ...]] = {
    "gla-fig5": (
        "gla/AntV4-v0",
        "gla/ReacherV4-v0",
        "gla/HalfCheetahV4-v0",
        "gla/CartpoleBalance-v0",
    ),
    "cross-domain": (
        "gla/CartpoleSwingup-v0",
        "gla/ReacherHard-v0",
        "gla/PendulumSwingup-v0",
        "gla/FingerTurnEasy-v0",
        "gla/HalfCheetah-v0",
        "gla/Hopper-v0",
        "gla/Pendulum-v0",
        "gla/MountainCarContinuous-v0",
    ),
    "ant-direction": ("gla/AntForwardBackward-v0", "gla/AntDirection-v0"),
    "gridworld": ("gla/Gridworld-v0",),
    "random-systems": ("gla/RandomLinear-v0", "gla/RandomMechanics-v0", "gla/RandomNeural-v0"),
    "tabular": ("gla/FrozenLake-v0", "gla/Darkroom-v0", "gla/CliffWalking-v0"),
    "bandits": ("gla/BernoulliBandit-v0", "gla/GaussianBandit-v0", "gla/LinearBandit-v0"),
    "supervised": ("gla/SupervisedBandit-v0",),
}


def suite(name: str) -> tuple[str, ...]:
    """Return the ids of a suite.

    Raises:
        GlaError: if there is no such suite.
    """
    if name not in SUITES:
        raise GlaError(
            f"there is no suite {name!r}{near_matches(name, SUITES)}", "one of " + ", ".join(SUITES)
        )
    return SUITES[name]
