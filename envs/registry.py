"""The one table of environments: ids, factories, domains, horizons, reference scores.

Everything here is a string or a number, so that looking an id up, or registering all of them with
Gymnasium, imports no simulator and no JAX. Gymnasium 1.x ignores plugins found through package
entry points; `import gla` calls `register_all`, so `gymnasium.make("gla:gla/Ant-v0")` works in a
fresh process.
"""

from __future__ import annotations

import functools
import importlib
import json
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from gla.errors import GlaError, near_matches

if TYPE_CHECKING:
    import gymnasium

    from gla.envs.base import Environment

Kind = Literal["functional", "host"]
ActionKind = Literal["continuous", "discrete"]

NAMESPACE = "gla/"
VERSION = "-v0"
PROJECTED = "-Projected"
PROJECTION_DEFAULTS: dict[str, Any] = {
    "projection_seed": 0,
    "observation_dim": 64,
    "action_dim": 16,
    "kind": "gaussian",
}


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
    projected: bool = False

    @property
    def projected_id(self) -> str:
        """The Gymnasium id of the `-Projected` variant."""
        return self.id.removesuffix(VERSION) + PROJECTED + VERSION

    @property
    def full_id(self) -> str:
        """The Gymnasium id that this spec stands for, with `-Projected` where it was asked for."""
        return self.projected_id if self.projected else self.id


_GYMNAX = "gla.envs.gymnax_adapter:GymnaxEnvironment"
_MUJOCO = "gla.envs.host:mujoco_env"
_DMC = "gla.envs.host:dmc_env"

_TABLE = (
    EnvironmentSpec(
        "gla/RandomLinear-v0",
        "gla.envs.random_linear:RandomLinear",
        "random-linear",
        "functional",
        "continuous",
        50,
        "gla",
        "random linear systems with a hidden goal",
    ),
    EnvironmentSpec(
        "gla/RandomMechanics-v0",
        "gla.envs.random_mechanics:RandomMechanics",
        "random-mechanics",
        "functional",
        "continuous",
        50,
        "gla",
        "coupled bodies in random potentials with random actuators and rewards",
    ),
    EnvironmentSpec(
        "gla/RandomNeural-v0",
        "gla.envs.random_neural:RandomNeural",
        "random-neural",
        "functional",
        "continuous",
        50,
        "gla",
        "systems whose dynamics and rewards are random neural networks",
    ),
    EnvironmentSpec(
        "gla/Pendulum-v0",
        _GYMNAX,
        "gymnax-classic",
        "functional",
        "continuous",
        200,
        "gymnax Pendulum-v1",
        "swing a pendulum up and hold it",
        ("Pendulum-v1",),
    ),
    EnvironmentSpec(
        "gla/ReacherMisc-v0",
        _GYMNAX,
        "gymnax-misc",
        "functional",
        "continuous",
        100,
        "gymnax Reacher-misc",
        "move a two-joint arm to a visible goal, new in every episode",
        ("Reacher-misc",),
    ),
    EnvironmentSpec(
        "gla/PointRobotMisc-v0",
        _GYMNAX,
        "gymnax-misc",
        "functional",
        "continuous",
        100,
        "gymnax PointRobot-misc",
        "find a goal on a half circle, hidden and new in every episode",
        ("PointRobot-misc",),
    ),
    EnvironmentSpec(
        "gla/MountainCarContinuous-v0",
        _GYMNAX,
        "gymnax-classic",
        "functional",
        "continuous",
        999,
        "gymnax MountainCarContinuous-v0",
        "drive a weak car out of a valley",
        ("MountainCarContinuous-v0",),
    ),
    EnvironmentSpec(
        "gla/CartPole-v0",
        _GYMNAX,
        "gymnax-classic",
        "functional",
        "discrete",
        500,
        "gymnax CartPole-v1",
        "balance a pole on a cart by pushing left or right",
        ("CartPole-v1",),
    ),
    EnvironmentSpec(
        "gla/Reacher-v0",
        _MUJOCO,
        "mujoco",
        "host",
        "continuous",
        50,
        "gymnasium Reacher-v5",
        "move a two-joint arm to a visible goal",
        ("Reacher-v5",),
    ),
    EnvironmentSpec(
        "gla/HalfCheetah-v0",
        _MUJOCO,
        "mujoco",
        "host",
        "continuous",
        1000,
        "gymnasium HalfCheetah-v5",
        "run forward on two legs in the plane",
        ("HalfCheetah-v5",),
    ),
    EnvironmentSpec(
        "gla/Ant-v0",
        _MUJOCO,
        "mujoco",
        "host",
        "continuous",
        1000,
        "gymnasium Ant-v5",
        "walk forward on four legs, without contact forces in the observation",
        ("Ant-v5",),
    ),
    EnvironmentSpec(
        "gla/CartpoleBalance-v0",
        _DMC,
        "dmc",
        "host",
        "continuous",
        1000,
        "dm_control cartpole balance",
        "keep a pole upright on a cart",
        ("cartpole", "balance"),
    ),
    EnvironmentSpec(
        "gla/CartpoleSwingup-v0",
        _DMC,
        "dmc",
        "host",
        "continuous",
        1000,
        "dm_control cartpole swingup",
        "swing a pole up on a cart and keep it upright",
        ("cartpole", "swingup"),
    ),
)

TABLE: dict[str, EnvironmentSpec] = {spec.id: spec for spec in _TABLE}


def find(id: str) -> EnvironmentSpec:
    """Return the spec of an id; for a `-Projected` id the base spec with `projected=True`.

    Args:
        id: such as `gla:gla/Ant-v0`, `gla/Ant-v0`, `Ant-v0` or `Ant-Projected-v0`.

    Raises:
        GlaError: if no such environment exists; near matches are suggested.
    """
    name = str(id).removeprefix("gla:").removeprefix(NAMESPACE)
    full = NAMESPACE + name
    if full in TABLE:
        return TABLE[full]
    base = NAMESPACE + name.removesuffix(PROJECTED + VERSION) + VERSION
    if name.endswith(PROJECTED + VERSION) and base in TABLE:
        return replace(TABLE[base], projected=True)
    known = [*TABLE, *(spec.projected_id for spec in _TABLE)]
    # Compare names alone: the shared "gla/" would make short words look alike.
    bare = {entry.removeprefix(NAMESPACE): entry for entry in known}
    hint = near_matches(name, bare)
    raise GlaError(
        f"no environment is called {id!r}{hint}",
        "one of the ids that `gla envs list` shows, or its -Projected-v0 form",
    )


def load(path: str) -> Any:
    """Import `module:attribute`.

    Raises:
        GlaError: if the module or the attribute does not exist.
    """
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise GlaError(
            f"{path} cannot be loaded ({error})",
            "an installed module and a name in it, as module:name",
        ) from error


def split_projection(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keyword arguments into (projection settings with defaults, the others)."""
    settings = {key: kwargs.get(key, value) for key, value in PROJECTION_DEFAULTS.items()}
    return settings, {key: v for key, v in kwargs.items() if key not in PROJECTION_DEFAULTS}


def _build(spec: EnvironmentSpec, kwargs: dict[str, Any]) -> Any:
    factory = load(spec.factory)
    try:
        return factory(*spec.arguments, **kwargs)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise GlaError(
            f"{spec.id} cannot be built: {error}", "only settings that its factory knows"
        ) from error


def make_functional(id: str, **kwargs: Any) -> Environment:
    """Build a functional environment; a `-Projected` id is wrapped in `Projected`.

    No time limit is applied: wrap it in `gla.envs.wrappers.TimeLimit`.

    Args:
        id: an id of a functional environment.
        **kwargs: settings of the factory (such as `config`); a projected id also takes
            `projection_seed=0` (None: a projection of its own for every sampled task),
            `observation_dim=64`, `action_dim=16` and `kind="gaussian"`.

    Raises:
        GlaError: if the id is unknown, is a host simulator, or a setting does not fit.
    """
    spec = find(id)
    if spec.kind != "functional":
        raise GlaError(
            f"{spec.full_id} is a host simulator ({spec.source})",
            "the id of a functional environment",
            "use gla.envs.make_host or gymnasium.make_vec",
        )
    if not spec.projected:
        return _build(spec, kwargs)
    from gla.envs.wrappers import Projected
    from gla.projection import ProjectionConfig

    projection, kwargs = split_projection(kwargs)
    seed = projection.pop("projection_seed")
    return Projected(_build(spec, kwargs), ProjectionConfig(**projection), projection_seed=seed)


def make_host(id: str, num_envs: int, **kwargs: Any) -> gymnasium.vector.VectorEnv:
    """Build a host simulator as a vector environment that resets in the step that ends an episode.

    Args:
        id: an id of a host simulator.
        num_envs: number of sub-environments, at least 1.
        **kwargs: settings of the simulator; a projected id also takes the projection settings of
            `make_functional` (with an integer `projection_seed`, or a sequence of one per
            sub-environment).

    Raises:
        GlaError: if the id is unknown or not a host simulator, its simulator is not installed, or
            a setting does not fit.
    """
    spec = find(id)
    if spec.kind != "host":
        raise GlaError(
            f"{spec.full_id} is a functional environment",
            "the id of a host simulator",
            "use gla.envs.make_functional or gymnasium.make_vec",
        )
    from gla.envs.host import vectorize
    from gla.envs.host_wrappers import HostProjected

    if not spec.projected:
        return vectorize(lambda: _build(spec, kwargs), num_envs)
    from gla.projection import ProjectionConfig

    projection, kwargs = split_projection(kwargs)
    seeds = projection.pop("projection_seed")
    config = ProjectionConfig(**projection)
    return HostProjected(vectorize(lambda: _build(spec, kwargs), num_envs), config, seeds)


def make_host_single(id: str, **kwargs: Any) -> gymnasium.Env:
    """Build one host simulator as a plain `gymnasium.Env`; settings as in `make_host`.

    Raises:
        GlaError: as `make_host`.
    """
    spec = find(id)
    if spec.kind != "host":
        raise GlaError(f"{spec.full_id} is a functional environment", "the id of a host simulator")
    if not spec.projected:
        return _build(spec, kwargs)
    from gla.envs.host_wrappers import ProjectedHostEnv
    from gla.projection import ProjectionConfig

    projection, kwargs = split_projection(kwargs)
    seed = projection.pop("projection_seed")
    return ProjectedHostEnv(_build(spec, kwargs), ProjectionConfig(**projection), seed)


@functools.cache
def _all_references() -> dict[str, Any]:
    path = resources.files("gla.envs").joinpath("references.json")
    return json.loads(path.read_text(encoding="utf-8"))


def references(id: str) -> dict[str, Any]:
    """Return the reference scores of an id, or {} where none were measured.

    Args:
        id: any form that `find` takes; a projected id without an entry of its own gives that of
            the plain environment, whose returns mean the same.

    Returns:
        A dict with the entries `null` ({"controller": str, "return": float, ...}), `expert`
        ({"return": float, "provenance": str, ...}) and `expert_beats_null` (bool, whether their
        95% intervals say so).
    """
    spec, table = find(id), _all_references()
    return dict(table.get(spec.full_id) or table.get(spec.id) or {})


def register_all() -> None:
    """Register every id and its `-Projected` variant with Gymnasium; again does nothing."""
    import gymnasium

    for spec in _TABLE:
        for full_id, projection in ((spec.id, {}), (spec.projected_id, PROJECTION_DEFAULTS)):
            if full_id in gymnasium.registry:
                continue
            gymnasium.register(
                full_id,
                entry_point="gla.envs.gym_api:make_single",
                vector_entry_point="gla.envs.gym_api:make_vector",
                # Time limits are ours (or the simulator's), so Gymnasium must not add its own.
                max_episode_steps=None,
                kwargs={"environment_id": full_id, **projection},
            )
