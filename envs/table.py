"""The one table of environments: ids, factories, domains, horizons.

Everything here is a string or a number, so that reading it imports no simulator and no JAX. Sizes
of observations and actions are not here: they are read from the environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["functional", "host"]
ActionKind = Literal["continuous", "discrete"]

NAMESPACE = "gla/"
VERSION = "-v0"
PROJECTED = "-Projected"


@dataclass(frozen=True)
class EnvironmentSpec:
    """One row of the table.

    Attributes:
        id: the Gymnasium id of the plain environment, such as `gla/Pendulum-v0`.
        factory: `module:attribute` of what builds it: an `Environment` for functional kinds, a
            single `gymnasium.Env` (`gla.envs.host.HostEnv`) for host kinds.
        domain: the group under which results are reported.
        kind: `functional` (pure JAX, an `Environment`) or `host` (a C simulator behind a
            `gymnasium.vector.VectorEnv`).
        action_kind: `continuous` (Box in [-1, 1]) or `discrete`.
        horizon: steps after which an episode is truncated.
        source: the library and name that the environment comes from.
        description: one line for people.
        arguments: positional arguments of the factory.
        family: whether different task seeds give different tasks.
        projected: whether the id named the `-Projected` variant of this row.
    """

    id: str
    factory: str
    domain: str
    kind: Kind
    action_kind: ActionKind
    horizon: int
    source: str
    description: str
    arguments: tuple[str, ...] = ()
    family: bool = False
    projected: bool = False

    @property
    def projected_id(self) -> str:
        """The Gymnasium id of the `-Projected` variant."""
        return self.id.removesuffix(VERSION) + PROJECTED + VERSION

    @property
    def full_id(self) -> str:
        """The Gymnasium id that this spec stands for, with `-Projected` where it was asked for."""
        return self.projected_id if self.projected else self.id


def _own(
    name: str,
    factory: str,
    domain: str,
    horizon: int,
    description: str,
    actions: ActionKind = "continuous",
    arguments: tuple[str, ...] = (),
    family: bool = True,
    source: str = "gla",
) -> EnvironmentSpec:
    """Return the row of an environment of this package."""
    return EnvironmentSpec(
        f"{NAMESPACE}{name}{VERSION}",
        f"gla.envs.{factory}",
        domain,
        "functional",
        actions,
        horizon,
        source,
        description,
        arguments,
        family,
    )


def _gymnax(
    name: str, original: str, actions: ActionKind, horizon: int, description: str
) -> EnvironmentSpec:
    """Return the row of a gymnax environment; its suite is in its own name or it is classic."""
    suite = original.partition("-")[2]
    return EnvironmentSpec(
        f"{NAMESPACE}{name}{VERSION}",
        "gla.envs.gymnax_adapter:GymnaxEnvironment",
        f"gymnax-{suite}" if suite in ("bsuite", "misc") else "gymnax-classic",
        "functional",
        actions,
        horizon,
        f"gymnax {original}",
        description,
        (original,),
    )


def _brax(name: str, original: str, description: str, horizon: int = 1000) -> EnvironmentSpec:
    return EnvironmentSpec(
        f"{NAMESPACE}Brax{name}{VERSION}",
        "gla.envs.brax_adapter:BraxEnvironment",
        "brax",
        "functional",
        "continuous",
        horizon,
        f"brax {original}",
        description,
        (original,),
    )


def _mujoco(name: str, original: str, horizon: int, description: str) -> EnvironmentSpec:
    return EnvironmentSpec(
        f"{NAMESPACE}{name}{VERSION}",
        "gla.envs.host:mujoco_env",
        "mujoco",
        "host",
        "continuous",
        horizon,
        f"gymnasium {original}",
        description,
        (original,),
    )


def _dmc(domain: str, task: str, description: str) -> EnvironmentSpec:
    name = "".join(word.capitalize() for word in f"{domain}_{task}".split("_"))
    return EnvironmentSpec(
        f"{NAMESPACE}{name}{VERSION}",
        "gla.envs.host:dmc_env",
        "dmc",
        "host",
        "continuous",
        1000,
        f"dm_control {domain} {task}",
        description,
        (domain, task),
    )


_RANDOM = (
    _own(
        "RandomGoal",
        "random_goal:RandomGoal",
        "random-goal",
        200,
        "a damped body to be brought to a small place that every episode draws anew",
    ),
    _own(
        "RandomHinges",
        "random_hinges:RandomHinges",
        "random-hinges",
        100,
        "several hinges in random potentials, moved together through mixed motors",
    ),
    _own(
        "RandomLinear",
        "random_linear:RandomLinear",
        "random-linear",
        50,
        "random linear systems with a hidden goal",
    ),
    _own(
        "RandomMechanics",
        "random_mechanics:RandomMechanics",
        "random-mechanics",
        50,
        "coupled bodies in random potentials with random actuators and rewards",
    ),
    _own(
        "RandomNeural",
        "random_neural:RandomNeural",
        "random-neural",
        50,
        "systems whose dynamics and rewards are random neural networks",
    ),
    _own(
        "RandomPotential",
        "random_potential:RandomPotential",
        "random-potential",
        300,
        "weakly driven bodies in random potentials, to be swung up, held or spun",
    ),
    _own(
        "RandomTabular",
        "random_tabular:RandomTabular",
        "random-tabular",
        50,
        "random Markov decision processes with finitely many states",
        "discrete",
    ),
    _own(
        "RandomReacher",
        "random_morphology:RandomMorphology",
        "random-morphology",
        1000,
        "Brax's two-joint arm with limbs, masses, gears and gravity of its own",
        arguments=("reacher",),
        source="gla on brax reacher",
    ),
    _own(
        "RandomAnt",
        "random_morphology:RandomMorphology",
        "random-morphology",
        1000,
        "Brax's ant with limbs, masses, gears and gravity of its own",
        arguments=("ant",),
        source="gla on brax ant",
    ),
)

_TASKS = (
    _own(
        "Gridworld",
        "gridworld:Gridworld",
        "gridworld",
        20,
        "a 3x3 grid with a hidden goal, as in the GLA paper's Fig. 3",
        "discrete",
    ),
    _own(
        "FrozenLake",
        "tabular_tasks:FrozenLake",
        "tabular",
        100,
        "cross a slippery lake without falling into a hole",
        "discrete",
        family=False,
    ),
    _own(
        "CliffWalking",
        "tabular_tasks:CliffWalking",
        "tabular",
        100,
        "walk along a cliff to the goal",
        "discrete",
        family=False,
    ),
    _own(
        "Darkroom",
        "tabular_tasks:Darkroom",
        "tabular",
        100,
        "find a hidden goal in a dark room",
        "discrete",
    ),
    _own(
        "BraxAntDirection",
        "ant_direction:BraxAntDirection",
        "ant-direction",
        1000,
        "Brax's ant, paid for running in a hidden direction",
        arguments=("any",),
        source="gla on brax ant",
    ),
    _own(
        "BraxAntForwardBackward",
        "ant_direction:BraxAntDirection",
        "ant-direction",
        1000,
        "Brax's ant, paid for running forward or backward, as in the GLA paper's Fig. 4",
        arguments=("forward-backward",),
        source="gla on brax ant",
    ),
    EnvironmentSpec(
        "gla/AntDirection-v0",
        "gla.envs.ant_direction:mujoco_ant_direction_env",
        "ant-direction",
        "host",
        "continuous",
        1000,
        "gla on gymnasium Ant-v5",
        "MuJoCo's ant, paid for running in a hidden direction",
        ("any",),
        True,
    ),
    EnvironmentSpec(
        "gla/AntForwardBackward-v0",
        "gla.envs.ant_direction:mujoco_ant_direction_env",
        "ant-direction",
        "host",
        "continuous",
        1000,
        "gla on gymnasium Ant-v5",
        "MuJoCo's ant, paid for running forward or backward, as in the GLA paper's Fig. 4",
        ("forward-backward",),
        True,
    ),
)

_BANDITS = (
    _own(
        "BernoulliBandit",
        "bandits:BernoulliBandit",
        "bandits",
        100,
        "arms that pay 1 with hidden probabilities",
        "discrete",
    ),
    _own(
        "GaussianBandit",
        "bandits:GaussianBandit",
        "bandits",
        100,
        "arms that pay hidden means with noise",
        "discrete",
    ),
    _own(
        "LinearBandit",
        "bandits:LinearBandit",
        "bandits",
        100,
        "arms that pay by a hidden linear map of a visible context",
        "discrete",
    ),
    _own(
        "SupervisedBandit",
        "supervised_bandit:SupervisedBandit",
        "supervised",
        100,
        "a data set as a bandit: name the class of a randomly projected example",
        "discrete",
    ),
)

_GYMNAX = (
    _gymnax("Pendulum", "Pendulum-v1", "continuous", 200, "swing a pendulum up and hold it"),
    _gymnax(
        "MountainCarContinuous",
        "MountainCarContinuous-v0",
        "continuous",
        999,
        "drive a weak car out of a valley",
    ),
    _gymnax(
        "CartPole",
        "CartPole-v1",
        "discrete",
        500,
        "balance a pole on a cart by pushing left or right",
    ),
    _gymnax("Acrobot", "Acrobot-v1", "discrete", 500, "swing a two-link arm above a line"),
    _gymnax(
        "MountainCar",
        "MountainCar-v0",
        "discrete",
        200,
        "drive a weak car out of a valley by pushing left or right",
    ),
    _gymnax(
        "ReacherMisc",
        "Reacher-misc",
        "continuous",
        100,
        "move a two-joint arm to a visible goal, new in every episode",
    ),
    _gymnax(
        "PointRobotMisc",
        "PointRobot-misc",
        "continuous",
        100,
        "find a goal on a half circle, hidden and new in every episode",
    ),
    _gymnax("SwimmerMisc", "Swimmer-misc", "continuous", 500, "swim to a goal past sea urchins"),
    _gymnax("FourRooms", "FourRooms-misc", "discrete", 500, "walk through four rooms to a goal"),
    _gymnax("MetaMaze", "MetaMaze-misc", "discrete", 200, "find a hidden reward in a maze"),
    _gymnax("Pong", "Pong-misc", "discrete", 1000, "play Pong from pixels"),
    _gymnax(
        "FrozenLakeMisc", "FrozenLake-misc", "discrete", 100, "cross a frozen lake, gymnax's own"
    ),
    _gymnax(
        "BernoulliBanditMisc",
        "BernoulliBandit-misc",
        "discrete",
        100,
        "two arms whose probabilities are new in every episode",
    ),
    _gymnax(
        "GaussianBanditMisc",
        "GaussianBandit-misc",
        "discrete",
        100,
        "two arms whose means are new in every episode",
    ),
    _gymnax("Catch", "Catch-bsuite", "discrete", 1000, "catch a falling ball"),
    _gymnax("DeepSea", "DeepSea-bsuite", "discrete", 8, "explore to the far corner of a grid"),
    _gymnax(
        "MemoryChain", "MemoryChain-bsuite", "discrete", 1000, "remember a bit for a few steps"
    ),
    _gymnax(
        "UmbrellaChain",
        "UmbrellaChain-bsuite",
        "discrete",
        100,
        "choose an umbrella long before it may rain",
    ),
    _gymnax(
        "DiscountingChain",
        "DiscountingChain-bsuite",
        "discrete",
        100,
        "choose among rewards that come sooner or later",
    ),
    _gymnax(
        "SimpleBandit", "SimpleBandit-bsuite", "discrete", 100, "eleven arms that pay fixed rewards"
    ),
)

_BRAX = (
    _brax("Ant", "ant", "walk forward on four legs"),
    _brax("HalfCheetah", "halfcheetah", "run forward on two legs in the plane"),
    _brax("Hopper", "hopper", "hop forward on one leg"),
    _brax("Humanoid", "humanoid", "walk forward on two legs"),
    _brax("HumanoidStandup", "humanoidstandup", "stand up from lying"),
    _brax("InvertedPendulum", "inverted_pendulum", "balance a pole on a cart"),
    _brax("InvertedDoublePendulum", "inverted_double_pendulum", "balance two poles on a cart"),
    _brax("Pusher", "pusher", "push an object to a goal with an arm"),
    _brax("Reacher", "reacher", "move a two-joint arm to a visible goal"),
    _brax("Swimmer", "swimmer", "swim forward with three links"),
    _brax("Walker2d", "walker2d", "walk forward on two legs in the plane"),
)

_MUJOCO = (
    _mujoco("Reacher", "Reacher-v5", 50, "move a two-joint arm to a visible goal"),
    _mujoco("HalfCheetah", "HalfCheetah-v5", 1000, "run forward on two legs in the plane"),
    _mujoco(
        "Ant",
        "Ant-v5",
        1000,
        "walk forward on four legs, without contact forces in the observation",
    ),
    _mujoco("Hopper", "Hopper-v5", 1000, "hop forward on one leg"),
    _mujoco("Walker2d", "Walker2d-v5", 1000, "walk forward on two legs in the plane"),
    _mujoco("Swimmer", "Swimmer-v5", 1000, "swim forward with three links"),
    _mujoco("Pusher", "Pusher-v5", 100, "push an object to a goal with an arm"),
    _mujoco("InvertedPendulum", "InvertedPendulum-v5", 1000, "balance a pole on a cart"),
    _mujoco(
        "InvertedDoublePendulum",
        "InvertedDoublePendulum-v5",
        1000,
        "balance two poles on a cart",
    ),
    _mujoco("Humanoid", "Humanoid-v5", 1000, "walk forward on two legs"),
    _mujoco("HumanoidStandup", "HumanoidStandup-v5", 1000, "stand up from lying"),
    _mujoco("ReacherV4", "Reacher-v4", 50, "the version of the GLA paper's Fig. 5"),
    _mujoco("HalfCheetahV4", "HalfCheetah-v4", 1000, "the version of the GLA paper's Fig. 5"),
    _mujoco("AntV4", "Ant-v4", 1000, "the version of the GLA paper's Fig. 5"),
)

_DMC = (
    _dmc("cartpole", "balance", "keep a pole upright on a cart"),
    _dmc("cartpole", "balance_sparse", "keep a pole upright on a cart, paid only near the top"),
    _dmc("cartpole", "swingup", "swing a pole up on a cart and keep it upright"),
    _dmc("cartpole", "swingup_sparse", "swing a pole up on a cart, paid only near the top"),
    _dmc("acrobot", "swingup", "swing a two-link arm up by its elbow"),
    _dmc("acrobot", "swingup_sparse", "swing a two-link arm up by its elbow, paid only at the top"),
    _dmc("ball_in_cup", "catch", "swing a ball on a string into a cup"),
    _dmc("cheetah", "run", "run forward on two legs in the plane"),
    _dmc("finger", "spin", "spin a body with a finger"),
    _dmc("finger", "turn_easy", "turn a body's tip to a large goal with a finger"),
    _dmc("finger", "turn_hard", "turn a body's tip to a small goal with a finger"),
    _dmc("fish", "upright", "keep a fish upright"),
    _dmc("fish", "swim", "swim to a goal"),
    _dmc("hopper", "stand", "stand on one leg"),
    _dmc("hopper", "hop", "hop forward on one leg"),
    _dmc("humanoid", "stand", "stand on two legs"),
    _dmc("humanoid", "walk", "walk on two legs"),
    _dmc("humanoid", "run", "run on two legs"),
    _dmc("manipulator", "bring_ball", "bring a ball to a goal with a gripper"),
    _dmc("pendulum", "swingup", "swing a pendulum up, paid only near the top"),
    _dmc("point_mass", "easy", "move a point to the centre"),
    _dmc("reacher", "easy", "move a two-link arm's tip to a large goal"),
    _dmc("reacher", "hard", "move a two-link arm's tip to a small goal"),
    _dmc("swimmer", "swimmer6", "swim to a goal with six links"),
    _dmc("swimmer", "swimmer15", "swim to a goal with fifteen links"),
    _dmc("walker", "stand", "stand on two legs in the plane"),
    _dmc("walker", "walk", "walk on two legs in the plane"),
    _dmc("walker", "run", "run on two legs in the plane"),
)

TABLE: dict[str, EnvironmentSpec] = {
    spec.id: spec for spec in (*_RANDOM, *_TASKS, *_BANDITS, *_GYMNAX, *_BRAX, *_MUJOCO, *_DMC)
}
