"""What a person wants to know about an environment, gathered from the table and from itself.

`gla envs list` and `gla envs show` print it, `gla.envs.catalog_pages` writes it down. Sizes, bounds
and settings are read from the environment and its factory, never from a table, so they cannot be
out of date. Choosing and listing ids imports no simulator and no JAX.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import textwrap
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gla.envs import registry
from gla.envs.table import TABLE, EnvironmentSpec
from gla.errors import GlaError, near_matches

if TYPE_CHECKING:
    import gymnasium
    import numpy as np

_LABEL = 13  # width of the labels of `describe`


@dataclass(frozen=True)
class Setting:
    """One keyword that an environment can be made with.

    Attributes:
        name: the keyword; `**kwargs` stands for those of the original simulator.
        default: its default, as Python writes it; empty where there is none.
        meaning: what it does, from the documentation of the factory.
        fields: fields of the dataclass that it takes, if it takes one.
    """

    name: str
    default: str
    meaning: str
    fields: tuple[Setting, ...] = ()

    @property
    def call(self) -> str:
        """The keyword with its default, such as `horizon=50`."""
        return f"{self.name}={self.default}" if self.default else self.name


@dataclass(frozen=True)
class Facts:
    """What an environment says of itself.

    Attributes:
        spec: its row of the table.
        observation_space: Box, 1-D float32; of a projected id, what the agent sees.
        action_space: Box in [-1, 1] or Discrete; of a projected id, the agent's.
        distinct_tasks: how many tasks it draws, 1 for a fixed task, `math.inf` for a continuous
            family.
        can_render: whether there are pictures of it.
        projected_sizes: lengths of the observation and action of the `-Projected` id by default.
        settings: the keywords of its factory.
    """

    spec: EnvironmentSpec
    observation_space: gymnasium.spaces.Box
    action_space: gymnasium.Space
    distinct_tasks: float
    can_render: bool
    projected_sizes: tuple[int, int]
    settings: tuple[Setting, ...]


def domains() -> list[str]:
    """Return the domains in the order of the table."""
    return list(dict.fromkeys(spec.domain for spec in TABLE.values()))


def select(
    word: str = "",
    domain: str = "",
    kind: str = "",
    actions: str = "",
    family: bool = False,
) -> list[EnvironmentSpec]:
    """Return the rows of the table that fit all filters, in the order of the table.

    An empty filter lets everything pass.

    Args:
        word: part of the id, of the original's name or of the description, in any case.
        domain: such as `brax`.
        kind: `functional` or `host`.
        actions: `continuous` or `discrete`.
        family: only families, whose task seeds give different tasks.

    Raises:
        GlaError: if a filter has no such value, or nothing fits.
    """
    rows = list(TABLE.values())
    filters = {"domain": domain, "kind": kind, "action_kind": actions}
    for name, value in filters.items():
        known = list(dict.fromkeys(getattr(spec, name) for spec in TABLE.values()))
        if value and value not in known:
            what = {"action_kind": "kind of actions"}.get(name, name)
            raise GlaError(
                f"there is no {what} {value!r}{near_matches(value, known)}",
                "one of " + ", ".join(known),
            )
        rows = [spec for spec in rows if not value or getattr(spec, name) == value]
    if family:
        rows = [spec for spec in rows if spec.family]
    low = word.lower()
    rows = [s for s in rows if low in f"{s.id}\n{s.source}\n{s.description}".lower()]
    if not rows:
        given = [word, *filters.values(), "family" if family else ""]
        raise GlaError(
            f"no environment fits {' + '.join(repr(each) for each in given if each)}",
            "fewer filters, or a word from an id, a source or a description",
        )
    return rows


def listing(specs: Iterable[EnvironmentSpec]) -> str:
    """Return an aligned table of environments with their reference scores, grouped by domain.

    Args:
        specs: rows of the table, at least one; those of a domain stand together.

    Returns:
        Lines of at most 80 columns, as long as no id has more than 34 letters.
    """
    specs = list(specs)
    wide = max(len(spec.id) for spec in specs)
    lines = [f"{'id':<{wide}} {'actions':<10} {'steps':>5} {'tasks':>6} {'null':>8} {'expert':>8}"]
    group = ("", "")
    for spec in specs:
        if group != (spec.domain, spec.kind):
            group = spec.domain, spec.kind
            lines += ["", f"{spec.domain} ({spec.kind})"]
        stored = registry.references(spec.id)
        null, expert = (
            number(stored[side]["return"]) if side in stored else "-" for side in ("null", "expert")
        )
        tasks = "family" if spec.family else "1"
        lines.append(
            f"{spec.id:<{wide}} {spec.action_kind:<10} {spec.horizon:>5} {tasks:>6} "
            f"{null:>8} {expert:>8}"
        )
    return "\n".join(lines)


def number(value: float) -> str:
    """Write a return for people: two decimals below 10, else one."""
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}"


@functools.cache
def facts(id: str) -> Facts:
    """Build an environment and return what it says of itself.

    Raises:
        GlaError: if there is no such id, or what it needs is not installed.
    """
    from gla.envs.base import action_size, observation_size

    spec = registry.find(id)
    plain = dataclasses.replace(spec, projected=False)
    make = registry.make_host_single if spec.kind == "host" else registry.make_functional
    env: Any = make(plain.id)
    projection = registry.projection_config(env)
    sizes = projection.observation_dim, projection.action_dim
    tasks = getattr(env, "distinct_tasks", math.inf if spec.family else 1)
    if spec.projected:
        env = make(spec.full_id)
        sizes = observation_size(env), action_size(env)
    found = Facts(
        spec,
        env.observation_space,
        env.action_space,
        tasks,
        spec.kind == "host" or env.can_render,
        sizes,
        settings_of(plain),
    )
    if spec.kind == "host":
        env.close()
    return found


def settings_of(spec: EnvironmentSpec) -> tuple[Setting, ...]:
    """Return the keywords of the factory of an environment, with their documentation.

    Raises:
        GlaError: if what the factory needs is not installed.
    """
    factory = registry.load(spec.factory)
    parameters = list(inspect.signature(factory).parameters.values())[len(spec.arguments) :]
    meanings = _documented(factory, "Args")
    takes = _annotations(factory.__init__ if inspect.isclass(factory) else factory)
    found = []
    for each in parameters:
        if each.name == "task_key":  # what `task_seed` becomes
            continue
        stars = "**" if each.kind is inspect.Parameter.VAR_KEYWORD else ""
        default = "" if each.default is inspect.Parameter.empty else repr(each.default)
        meaning = meanings.get(stars + each.name, "")
        config = next((t for t in takes.get(each.name, ()) if dataclasses.is_dataclass(t)), None)
        fields: tuple[Setting, ...] = ()
        if isinstance(config, type):
            fields = _fields(config)
            default = f"{config.__name__}()"
            meaning = meaning or f"size and difficulty, from {config.__module__}."
        found.append(Setting(stars + each.name, default, meaning, fields))
    return tuple(found)


def _fields(config: type) -> tuple[Setting, ...]:
    """Return the fields of a dataclass of settings."""
    meanings = _documented(config, "Attributes")
    found = []
    for field in dataclasses.fields(config):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        default = "" if value is dataclasses.MISSING else repr(value)
        found.append(Setting(field.name, default, meanings.get(field.name, "")))
    return tuple(found)


def _annotations(function: Any) -> dict[str, tuple[Any, ...]]:
    """Return the types that each parameter takes; {} where they cannot be evaluated."""
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # a type that is imported for type checkers only
        return {}
    return {name: typing.get_args(hint) or (hint,) for name, hint in hints.items()}


def _documented(owner: Any, section: str) -> dict[str, str]:
    """Return the entries of a section of a Google docstring by name."""
    _, _, text = (inspect.getdoc(owner) or "").partition(f"\n{section}:\n")
    entries: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            break
        start = re.match(r" {4}(\*{0,2}\w+)(?: \([^)]*\))?: (.*)", line)
        if start:
            name = start[1]
            entries[name] = start[2].strip()
        elif name and line.strip():
            entries[name] += " " + line.strip()
    return entries


def make_settings(spec: EnvironmentSpec, can_render: bool) -> tuple[Setting, ...]:
    """Return the keywords of `gymnasium.make` that environments have in common."""
    told = {}
    if spec.family:
        told["task_seed"] = (
            "0",
            ("which task of the family; `make_vec` takes `task_seeds`, one each, as well."),
        )
    if spec.kind == "functional":
        told["horizon"] = str(spec.horizon), "steps after which an episode is truncated."
    if spec.projected:
        own = " (None: one of its own for every task drawn)" if spec.kind == "functional" else ""
        meanings = {
            "projection_seed": f"which projection{own}.",
            "observation_dim": "length of the observation; None: 64, or the next power of two "
            "that holds the task's.",
            "action_dim": "length of the action, or number of slots; None: 16, or likewise.",
            "kind": "gaussian, orthogonal, slots or identity.",
        }
        for name, default in registry.PROJECTION_DEFAULTS.items():
            told[name] = repr(default), meanings[name]
    told["augmentations"] = "()", "changes of the task, from gla.envs.augmentations."
    if can_render:
        told["render_mode"] = "None", "'rgb_array' for pictures."
    return tuple(Setting(name, *rest) for name, rest in told.items())


def describe(id: str, width: int = 80) -> str:
    """Return everything about an environment that fits on a screen.

    Args:
        id: any form that `gla.envs.registry.find` takes.
        width: columns.

    Raises:
        GlaError: if there is no such id. Where a package is missing, the text says so instead.
    """
    spec = registry.find(id)
    kind = (
        "functional: pure JAX, for jit and vmap"
        if spec.kind == "functional"
        else "host: a C simulator behind Gymnasium's interface"
    )
    rows = [("from", spec.source), ("domain", spec.domain), ("kind", kind)]
    settings = make_settings(spec, can_render=False)
    try:
        told = facts(spec.full_id)
    except GlaError as error:
        rows.append(("not here", str(error)))
    else:
        settings = make_settings(spec, told.can_render)
        names = {setting.name for setting in settings}  # described once, whoever takes them
        settings += tuple(each for each in told.settings if each.name not in names)
        rows += [
            ("observation", describe_space(told.observation_space)),
            ("action", describe_space(told.action_space)),
            ("tasks", describe_tasks(told.distinct_tasks)),
        ]
        if not spec.projected:
            sizes = "{} observations and {} actions".format(*told.projected_sizes)
            rows.append(("projected", f"{spec.projected_id}, {sizes} unless told otherwise"))
    rows.append(("horizon", f"{spec.horizon} steps in an episode"))
    stored = registry.references(spec.full_id)
    rows += [
        ("score 0", describe_reference(stored.get("null"))),
        ("score 1", describe_reference(stored.get("expert"))),
    ]
    if command := stored.get("expert", {}).get("command"):
        rows.append(("", f"both measured by: {command}"))
    lines = [f"{spec.full_id}: {spec.description}", ""]
    for label, text in rows:
        lines += _hanging(label, text, _LABEL, width)
    lines += ["", "settings of gymnasium.make, with their defaults:"]
    for setting in settings:
        lines += _hanging(setting.call, setting.meaning, 28, width, 2)
        for field in setting.fields:
            lines += _hanging(field.call, field.meaning, 28, width, 4)
    lines += ["", *one_line(spec)]
    return "\n".join(lines)


def one_line(spec: EnvironmentSpec) -> list[str]:
    """Return the Python lines that make an environment: through Gymnasium, and as functions."""
    lines = [f'env = gymnasium.make("gla:{spec.full_id}")']
    if spec.kind == "functional":
        lines.append(f'env = gla.envs.make_functional("{spec.full_id}")')
    return lines


def _hanging(label: str, text: str, indent: int, width: int, left: int = 0) -> list[str]:
    """Return a label and its text, wrapped beside it; below it where the label is too long."""
    first = (" " * left + label).ljust(indent)
    start = [] if first[-1:] == " " else [first]
    body = textwrap.wrap(
        text,
        max(width, indent + 20),
        initial_indent=" " * indent if start else first,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )
    return start + (body or ([] if start else [first.rstrip()]))


def describe_space(space: gymnasium.Space) -> str:
    """Return one phrase for a Box or Discrete space, such as `3 numbers in [-1, 1]`."""
    import gymnasium
    import numpy as np

    if isinstance(space, gymnasium.spaces.Discrete):
        return f"one of {int(space.n)}, 0 to {int(space.n) - 1}"
    assert isinstance(space, gymnasium.spaces.Box)
    size = f"{space.shape[0]} number{'' if space.shape == (1,) else 's'}"
    low, high = float(space.low.min()), float(space.high.max())
    if np.isinf([low, high]).any():
        bounded = int(space.bounded_below.sum() + space.bounded_above.sum())
        return f"{size}, {'some of them' if bounded else 'all'} unbounded"
    same = (space.low == low).all() and (space.high == high).all()
    return f"{size} {'in' if same else 'within'} [{low:.4g}, {high:.4g}]"


def describe_tasks(tasks: float) -> str:
    """Return one phrase for the number of tasks of an environment."""
    if tasks == 1:
        return "1, fixed"
    return f"{'endlessly many' if math.isinf(tasks) else int(tasks)}, one for every task seed"


def describe_reference(score: dict[str, Any] | None) -> str:
    """Return one phrase for a reference score.

    Args:
        score: an entry of `gla.envs.registry.references`, or None where none was measured.
    """
    if score is None:
        return "not measured"
    interval = ""
    if "low" in score and "high" in score:
        interval = f" (95% from {number(score['low'])} to {number(score['high'])})"
    if "controller" in score:
        return (
            f"{number(score['return'])}{interval}: {score['controller']}, "
            "the best controller that never looks"
        )
    return f"{number(score['return'])}{interval}: {score.get('provenance', 'the expert')}"


def frame(id: str, task_seed: int = 0, steps: int = 0, seed: int = 0) -> np.ndarray:
    """Draw a picture of an environment.

    Args:
        id: any form that `gla.envs.registry.find` takes.
        task_seed: of a family, which task of the `test` split.
        steps: random actions before the picture is taken; less where an episode ends.
        seed: of the start and of the actions.

    Returns:
        uint8[height, width, 3].

    Raises:
        GlaError: if there is no such id, it cannot be drawn, or not on this machine.
    """
    import numpy as np

    spec = registry.find(id)
    env: Any
    if spec.kind == "host":
        env = registry.make_host_single(spec.full_id, task_seed, render_mode="rgb_array")
    else:
        from gla.envs.gym_api import FunctionalEnv

        drawn = registry.make_functional(spec.full_id)
        if not drawn.can_render:
            raise GlaError(f"there are no pictures of {spec.full_id}")
        env = FunctionalEnv(drawn, task_seed, render_mode="rgb_array")
    try:
        env.reset(seed=seed)
        env.action_space.seed(seed)
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                break
        return np.asarray(env.render(), np.uint8)
    finally:
        env.close()
