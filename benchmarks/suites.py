"""Suites of the leaderboard: what is tested, on which lifetimes and for how long.

A suite is frozen once it is released. Its name ends in its version, and its digest covers all that
decides what an agent meets, so that two results of a suite can always be compared. To change
anything is to add a suite with the next version.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gla.errors import GlaError, near_matches

WINDOW = 200


@dataclass(frozen=True)
class Task:
    """One environment of a suite.

    Attributes:
        environment: id, with options if need be (`gla.benchmarks.worlds.split_options`).
        steps: environment steps of a lifetime.
    """

    environment: str
    steps: int


@dataclass(frozen=True)
class Suite:
    """What is tested.

    Attributes:
        name: with its version, such as `random-systems-v1`.
        about: what it shows, in one sentence.
        tasks: environments.
        allowed: patterns of the environment ids on which an agent may have been meta-trained, as
            `fnmatch` reads them. Tasks of the `test` split are never trained on in any case.
        excluded: patterns of ids that are not allowed even so.
        lifetimes: on each environment; their tasks, projections and episodes follow from `seed`.
        seed: of all that is random.
        window: steps of random actions that normalise each task, for agents that want that.
        null_steps: steps of a null controller's lifetime; it does not change, so few will do.
    """

    name: str
    about: str
    tasks: tuple[Task, ...]
    allowed: tuple[str, ...] = ("gla/*",)
    excluded: tuple[str, ...] = ()
    lifetimes: int = 32
    seed: int = 0
    window: int = WINDOW
    null_steps: int = 1000

    @property
    def environments(self) -> tuple[str, ...]:
        """Ids of its environments, in order."""
        return tuple(task.environment for task in self.tasks)

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of all that an agent meets."""
        parts = dataclasses.asdict(self)
        del parts["about"]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def foreign(self, sources: Sequence[str]) -> list[str]:
        """Return those of an agent's training sources that the suite does not allow."""

        def fits(id: str, patterns: Sequence[str]) -> bool:
            return any(fnmatch.fnmatchcase(id, pattern) for pattern in patterns)

        # Options draw other tasks of the same family.
        plain = {id: id.partition("?")[0] for id in sources}
        return [
            id
            for id, name in plain.items()
            if not fits(name, self.allowed) or fits(name, self.excluded)
        ]


def _tasks(steps: int, *environments: str) -> tuple[Task, ...]:
    return tuple(Task(f"gla/{name}", steps) for name in environments)


# Relatives of the bodies of `cross-domain`, whatever simulator they come from.
_BODIES = tuple(
    f"gla/*{body}*"
    for body in (
        "Cartpole", "CartPole", "Reacher", "Pendulum", "Finger", "Cheetah", "Hopper", "MountainCar",
    )
)  # fmt: skip
_FIG5 = ("AntV4-v0", "ReacherV4-v0", "HalfCheetahV4-v0", "CartpoleBalance-v0")

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            "random-systems-v1",
            "Unseen tasks of procedural families: linear systems, coupled bodies, random networks.",
            _tasks(4000, "RandomLinear-v0", "RandomMechanics-v0", "RandomNeural-v0"),
        ),
        Suite(
            "cross-domain-v1",
            "Bodies that an agent has never met and on which standing still earns little.",
            _tasks(
                4000,
                "CartpoleSwingup-v0", "ReacherHard-v0", "PendulumSwingup-v0", "FingerTurnEasy-v0",
                "HalfCheetah-v0", "Hopper-v0", "Pendulum-v0", "MountainCarContinuous-v0",
            ),
            excluded=_BODIES,
        ),
        Suite(
            "gla-fig5-v1",
            "Kirsch et al. 2023, Fig. 5: other bodies, after meta-training on projected Ant only.",
            _tasks(64_000, *_FIG5),
            allowed=("gla/Ant-v0", "gla/AntV4-v0", "gla/BraxAnt-v0"),
        ),
        Suite(
            "gla-fig5-short-v1",
            "Fig. 5 of Kirsch et al. 2023, the first eighth of its lifetimes.",
            _tasks(8000, *_FIG5),
            allowed=("gla/Ant-v0", "gla/AntV4-v0", "gla/BraxAnt-v0"),
        ),
        Suite(
            "ant-direction-v1",
            "Kirsch et al. 2023, Fig. 4: an ant finds out from rewards which way to walk.",
            _tasks(8000, "AntForwardBackward-v0", "AntDirection-v0"),
            allowed=("gla/*Ant*",),
        ),
        Suite(
            "gridworld-v1",
            "Kirsch et al. 2023, Fig. 3: an unseen goal in a small grid.",
            _tasks(1000, "Gridworld-v0"),
        ),
        Suite(
            "tabular-v1",
            "Grids of the literature for agents that have met random decision processes only.",
            _tasks(5000, "FrozenLake-v0", "Darkroom-v0", "CliffWalking-v0"),
            allowed=("gla/RandomTabular-v0",),
        ),
        Suite(
            "bandits-v1",
            "Unseen bandits.",
            _tasks(1000, "BernoulliBandit-v0", "GaussianBandit-v0", "LinearBandit-v0"),
        ),
        Suite(
            "supervised-v1",
            "Data sets as bandits, after Kirsch et al. 2022, Table 1: name classes of examples.",
            _tasks(
                1000,
                "SupervisedBandit-v0?part=test",
                "SupervisedBandit-v0?dataset=mnist&part=test&resize=8",
                "SupervisedBandit-v0?dataset=fashion-mnist&part=test&resize=8",
            ),
        ),
    )
}  # fmt: skip


def find(name: str) -> Suite:
    """Return a suite by its name; without a version, the newest of that name.

    Raises:
        GlaError: if there is none.
    """
    versions = [one for one in SUITES if re.sub(r"-v\d+$", "", one) == name]
    if name not in SUITES and not versions:
        raise GlaError(
            f"there is no suite {name!r}{near_matches(name, SUITES)}", "one of " + ", ".join(SUITES)
        )
    newest = max(versions, key=lambda one: int(one.rpartition("-v")[2]), default=name)
    return SUITES[name if name in SUITES else newest]
