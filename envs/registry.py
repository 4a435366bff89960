"""Finding, building and registering environments by id.

Looking an id up, or registering all of them with Gymnasium, imports no simulator and no JAX.
Gymnasium 1.x ignores plugins found through package entry points; `import gla` calls
`register_all`, so `gymnasium.make("gla:gla/Ant-v0")` works in a fresh process.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from gla.envs.table import NAMESPACE, PROJECTED, TABLE, VERSION, EnvironmentSpec
from gla.errors import GlaError, near_matches

if TYPE_CHECKING:
    import gymnasium
    import jax

    from gla.envs.base import Environment
    from gla.projection import ProjectionConfig

# None: as large as the paper's (64 and 16), or the next power of two that holds the task.
PROJECTION_DEFAULTS: dict[str, Any] = {
    "projection_seed": 0,
    "observation_dim": None,
    "action_dim": None,
    "kind": "gaussian",
}


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
    known = [*TABLE, *(spec.projected_id for spec in TABLE.values())]
    # Compare names alone: the shared "gla/" would make short words look alike.
    bare = {entry.removeprefix(NAMESPACE): entry for entry in known}
    hint = near_matches(name, bare)
    raise GlaError(
        f"no environment is called {id!r}{hint}",
        "one of the ids that `gla envs list` shows, or its -Projected-v0 form",
    )


def split_options(id: str) -> tuple[str, dict[str, Any]]:
    """Split an id with options, such as `gla/SupervisedBandit-v0?dataset=mnist&part=test`.

    One string then says all about an environment, in a results file as in a suite.

    Returns:
        The id alone, and the keyword arguments of its factory. Values are read as JSON where they
        can be and are strings elsewhere.

    Raises:
        GlaError: if an option is no `name=value`, or is there twice.
    """
    plain, mark, rest = str(id).partition("?")
    options: dict[str, Any] = {}
    for word in rest.split("&") if mark else ():
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()) or name in options:
            raise GlaError(
                f"{id!r} has the option {word!r}", "options once each, as ?name=value&name=value"
            )
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return plain, options


class Named(NamedTuple):
    """What an id with options names.

    Attributes:
        spec: the table's row.
        options: keyword arguments of its factory; empty without options.
        id: as tables have it: the plain id, and the options as they were given.
    """

    spec: EnvironmentSpec
    options: dict[str, Any]
    id: str


def resolve(id: str) -> Named:
    """Look up an id with or without options (`split_options`).

    Raises:
        GlaError: if there is none of that id, or an option is malformed.
    """
    plain, options = split_options(id)
    spec = find(plain)
    return Named(spec, options, spec.id + str(id)[len(plain) :])


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


def projection_config(
    env: Any,
    observation_dim: int | None = None,
    action_dim: int | None = None,
    kind: Any = "gaussian",
) -> ProjectionConfig:
    """Return the projection of an environment; dimensions that are None fit themselves to it.

    They are 64 for observations and 16 for actions, as in the GLA paper (section 2), or the next
    power of two where the task is larger.

    Args:
        env: an environment of either kind.
        observation_dim: length of the observations that the agent sees.
        action_dim: length of the agent's actions, or its number of action slots.
        kind: as in `ProjectionConfig`.

    Raises:
        GlaError: if a setting makes no sense.
    """
    from gla.envs.base import action_size, observation_size
    from gla.projection import ProjectionConfig

    def fit(size: int, least: int) -> int:
        return max(least, 1 << (size - 1).bit_length())

    return ProjectionConfig(
        fit(observation_size(env), 64) if observation_dim is None else observation_dim,
        fit(action_size(env), 16) if action_dim is None else action_dim,
        kind,
    )


def _into_config(
    spec: EnvironmentSpec, factory: Any, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a factory, fields of its config's dataclass gathered in it."""
    if not settings:
        return {}
    parameters = inspect.signature(factory).parameters
    kind: Any = None
    if "config" in parameters:
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
        kinds = typing.get_args(hints["config"]) or (hints["config"],)
        kind = next((one for one in kinds if dataclasses.is_dataclass(one)), None)
    if kind is None:
        return dict(settings)
    names = {field.name for field in dataclasses.fields(kind)}
    unknown = [name for name in settings if name not in {*names, *parameters}]
    if unknown:
        raise GlaError(
            f"{spec.id} has no setting {unknown[0]!r}{near_matches(unknown[0], names)}",
            ", ".join(sorted(names)),
        )
    # JSON has lists where ranges are tuples.
    inside = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if name in names - set(parameters)
    }
    rest = {name: value for name, value in settings.items() if name not in inside}
    if inside:
        rest["config"] = dataclasses.replace(rest.get("config") or kind(), **inside)
    return rest


def _build(spec: EnvironmentSpec, kwargs: dict[str, Any]) -> Any:
    factory = load(spec.factory)
    try:
        return factory(*spec.arguments, **_into_config(spec, factory, kwargs))
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise GlaError(
            f"{spec.id} cannot be built: {error}", "only settings that its factory knows"
        ) from error


def _augment(env: Any, augmentations: Sequence[Any]) -> Any:
    if not augmentations:
        return env
    from gla.envs.augmentations import augment

    return augment(env, augmentations)


def make_functional(id: str, augmentations: Sequence[Any] = (), **kwargs: Any) -> Environment:
    """Build a functional environment; a `-Projected` id is wrapped in `Projected`.

    No time limit is applied: wrap it in `gla.envs.wrappers.TimeLimit`.

    Args:
        id: an id of a functional environment.
        augmentations: of `gla.envs.augmentations`, applied from the first to the last, inside the
            projection of a projected id.
        **kwargs: settings of the factory, fields of its `config` by their own names; a projected
            id also takes
            `projection_seed=0` (None: a projection of its own for every sampled task),
            `observation_dim`, `action_dim` (see `projection_config`) and `kind="gaussian"`.

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
    from gla.envs.wrappers import Projected

    projection, settings = split_projection(kwargs) if spec.projected else ({}, kwargs)
    env = _augment(_build(spec, settings), augmentations)
    if not spec.projected:
        return env
    seed = projection.pop("projection_seed")
    return Projected(env, projection_config(env, **projection), projection_seed=seed)


def make_host(
    id: str,
    num_envs: int,
    task_seeds: int | Sequence[int] = 0,
    task_keys: Sequence[jax.Array] | None = None,
    augmentations: Sequence[Any] = (),
    threads: int | None = None,
    **kwargs: Any,
) -> gymnasium.vector.VectorEnv:
    """Build a host simulator as a vector environment that resets in the step that ends an episode.

    Args:
        id: an id of a host simulator.
        num_envs: number of sub-environments, at least 1.
        task_seeds: of a family, the task of the `test` split of each sub-environment, or one for
            all of them.
        task_keys: of a family, one task key (`gla.envs.splits.task_key`) per sub-environment
            instead.
        augmentations: as in `make_functional`.
        threads: how many advance the physics; the numbers are the same for all. None: one per
            usable core where that is faster; 0 or 1: none but the caller's.
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
    from gla.envs.checks import check_count
    from gla.envs.host_wrappers import HostProjected
    from gla.envs.threaded import host_vector_env

    projection, settings = split_projection(kwargs) if spec.projected else ({}, kwargs)
    tasks = _host_tasks(spec, check_count("num_envs", num_envs), task_seeds, task_keys)
    factories = [functools.partial(_build, spec, {**settings, **task}) for task in tasks]
    env = _augment(host_vector_env(factories, threads), augmentations)
    if not spec.projected:
        return env
    seeds = projection.pop("projection_seed")
    return HostProjected(env, projection_config(env, **projection), seeds)


def make_host_single(
    id: str, task_seed: int = 0, augmentations: Sequence[Any] = (), **kwargs: Any
) -> gymnasium.Env:
    """Build one host simulator as a plain `gymnasium.Env`; settings as in `make_host`.

    Raises:
        GlaError: as `make_host`.
    """
    spec = find(id)
    if spec.kind != "host":
        raise GlaError(f"{spec.full_id} is a functional environment", "the id of a host simulator")
    from gla.envs.host_wrappers import ProjectedHostEnv

    projection, settings = split_projection(kwargs) if spec.projected else ({}, kwargs)
    [task] = _host_tasks(spec, 1, task_seed, None)
    env = _augment(_build(spec, {**settings, **task}), augmentations)
    if not spec.projected:
        return env
    seed = projection.pop("projection_seed")
    return ProjectedHostEnv(env, projection_config(env, **projection), seed)


def _host_tasks(
    spec: EnvironmentSpec,
    count: int,
    seeds: int | Sequence[int],
    keys: Sequence[jax.Array] | None,
) -> list[dict[str, Any]]:
    """Return the settings that give each sub-environment its task; {} where there is only one."""
    if not spec.family:
        return [{}] * count
    if keys is None:
        from gla.envs.checks import check_task_seed
        from gla.envs.splits import task_key

        numbers = list(seeds) if isinstance(seeds, Sequence) else [seeds] * count
        keys = [task_key("test", check_task_seed(seed)) for seed in numbers]
    if len(keys) != count:
        raise GlaError(
            f"there are {len(keys)} tasks for {count} sub-environments",
            "one task per sub-environment",
        )
    return [{"task_key": key} for key in keys]


@functools.cache
def _all_references() -> dict[str, Any]:
    path = resources.files("gla.envs").joinpath("references.json")
    return json.loads(path.read_text(encoding="utf-8"))


def references(id: str) -> dict[str, Any]:
    """Return the reference scores of an id, or {} where none were measured.

    Args:
        id: any form that `find` takes; a projected id without an entry of its own gives that of
            the plain environment, whose returns mean the same. With options (`split_options`) it
            is another task, of which nothing is stored.

    Returns:
        A dict with the entries `null` ({"controller": str, "return": float, ...}), `expert`
        ({"return": float, "provenance": str, ...}) and `expert_beats_null` (bool, whether their
        95% intervals say so).
    """
    plain, options = split_options(id)
    spec, table = find(plain), _all_references()
    if options:
        return {}
    return dict(table.get(spec.full_id) or table.get(spec.id) or {})


def register_all() -> None:
    """Register every id and its `-Projected` variant with Gymnasium; again does nothing."""
    import gymnasium

    for spec in TABLE.values():
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
