"""The conformance kit: one call says whether an environment keeps the contract of the package.

    from gla.envs.testing import check

    check(MyEnvironment()).require()

It takes an environment of any kind: an `Environment`, a registered id, a Gymnasium environment or
vector environment, or a function that makes one. What it checks of functional environments is in
`gla.envs.testing_functional`, of host environments in `gla.envs.testing_host`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
from gymnasium.vector import VectorEnv

from gla.envs.base import Environment
from gla.errors import GlaError, near_matches

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: what was checked, one or two words.
        status: `passed`, `failed` or `skipped`.
        note: one plain line: of a failure what is wrong, what was expected and how to mend it; of a
            skipped check why; of a passed one what was seen, if that is worth a word.
    """

    name: str
    status: Status
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What was checked of one environment, in order; `str` gives a table for people.

    Attributes:
        environment: its name or id.
        checks: the outcomes.
    """

    environment: str
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    def require(self) -> Report:
        """Return the report if no check failed, for use in a test of your own.

        Raises:
            GlaError: with the first failure, and the names of the others.
        """
        if self.passed:
            return self
        first, *others = self.failures
        more = f" (also failed: {', '.join(check.name for check in others)})" if others else ""
        raise GlaError(f"{self.environment} fails the check {first.name!r}{more}: {first.note}")

    def __str__(self) -> str:
        wide = max((len(check.name) for check in self.checks), default=0)
        lines = [
            f"{check.status:7}  {check.name:{wide}}  {check.note}".rstrip() for check in self.checks
        ]
        count = {status: 0 for status in ("passed", "failed", "skipped")}
        for check in self.checks:
            count[check.status] += 1
        total = ", ".join(f"{n} {status}" for status, n in count.items() if n)
        return "\n".join([self.environment, *lines, total])


class Skipped(Exception):
    """Raised by a check that does not apply; its text says why."""


# (name, check, names of the checks that must have passed before it)
Plan = Sequence[tuple[str, Callable[[], str | None], tuple[str, ...]]]


def carry_out(environment: str, plan: Plan, only: Sequence[str] | None = None) -> Report:
    """Run checks in order and collect their outcomes.

    A check returns a note or None, raises `Skipped` where it does not apply and `GlaError` where
    it fails. Any other exception is a failure too: an environment must not crash.

    Args:
        environment: its name, for the report.
        plan: the checks; one whose needs did not pass is skipped.
        only: names of the checks to run, and what they need; None runs all.

    Raises:
        GlaError: if `only` names no check.
    """
    if only is not None:
        plan = _chosen(plan, only)
    outcomes: dict[str, Check] = {}
    for name, function, needs in plan:
        lacking = [need for need in needs if outcomes[need].status != "passed"]
        if lacking:
            outcomes[name] = Check(name, "skipped", f"needs {lacking[0]!r} to pass")
            continue
        try:
            outcomes[name] = Check(name, "passed", function() or "")
        except Skipped as reason:
            outcomes[name] = Check(name, "skipped", str(reason))
        except GlaError as error:
            outcomes[name] = Check(name, "failed", str(error))
        except Exception as error:  # whatever an environment under test raises
            said = " ".join(str(error).split())[:300]
            outcomes[name] = Check(name, "failed", f"it raised {type(error).__name__}: {said}")
    return Report(environment, tuple(outcomes.values()))


def _chosen(plan: Plan, only: Sequence[str]) -> Plan:
    """Return the named checks and those that they need."""
    needs = {name: needed for name, _, needed in plan}
    for name in only:
        if name not in needs:
            raise GlaError(
                f"there is no check {name!r}{near_matches(name, needs)}",
                "one of " + ", ".join(needs),
            )
    wanted = set(only)
    for name, _, needed in reversed(plan):  # a check comes after those it needs
        if name in wanted:
            wanted.update(needed)
    return [entry for entry in plan if entry[0] in wanted]


def check(
    environment: Any,
    *,
    seed: int = 0,
    steps: int | None = None,
    only: Sequence[str] | None = None,
) -> Report:
    """Check that an environment keeps the contract of the package.

    Args:
        environment: an `Environment`; an id of the registry; a `gymnasium.Env` or `VectorEnv`; or
            a function without arguments (or a class) that makes one of them. Given a function, or
            an id, more can be checked of host environments: that two of them made alike do the
            same, and that a vector environment does what single ones do.
        seed: of the tasks, episodes and actions that are tried.
        steps: steps to try; by default 24 for functional environments, and whole episodes of up to
            1,000 steps for the others.
        only: names of the checks to run, such as `("arrays", "ends")`, beside what they need; by
            default all.

    Returns:
        A report; nothing is raised for a broken environment. `report.passed` says whether
        everything passed, `report.require()` raises if not, `print(report)` shows all of it.

    Raises:
        GlaError: if there is no such id or check, or `environment` is none of the above.
    """
    if isinstance(environment, str):
        return _check_id(environment, seed, steps, only)
    made, make = environment, None
    known = (Environment, gymnasium.Env, VectorEnv)
    if callable(environment) and not isinstance(environment, known):
        make, made = environment, environment()
    name = str(getattr(made, "name", type(made).__name__))
    if isinstance(made, Environment):
        from gla.envs.testing_functional import functional_plan

        return carry_out(name, functional_plan(made, seed, steps), only)
    from gla.envs.testing_host import host_plan, vector_plan

    if isinstance(made, VectorEnv):
        return carry_out(name, vector_plan(made, seed, steps), only)
    if isinstance(made, gymnasium.Env):
        return carry_out(name, host_plan(made, seed, steps, make=make), only)
    raise GlaError(
        f"there is nothing to check about {type(made).__name__}",
        "an Environment, an id, a gymnasium.Env or VectorEnv, or a function that makes one",
    )


def _check_id(id: str, seed: int, steps: int | None, only: Sequence[str] | None) -> Report:
    from gla.envs import registry

    spec = registry.find(id)
    name = spec.full_id
    if spec.kind == "functional":
        from gla.envs.testing_functional import functional_plan

        env = registry.make_functional(name)
        plan = functional_plan(env, seed, steps, spec=spec)
        return carry_out(name, plan, only)
    from gla.envs.testing_host import host_plan

    def make(**settings: Any) -> gymnasium.Env:
        return registry.make_host_single(name, **settings)

    def make_vector(num_envs: int) -> VectorEnv:
        return registry.make_host(name, num_envs)

    plan = host_plan(make(), seed, steps, make=make, make_vector=make_vector, spec=spec)
    return carry_out(name, plan, only)


def gymnasium_check(env: gymnasium.Env) -> None:
    """Run Gymnasium's own `check_env`, its warnings as failures, without pictures.

    Its advice about infinite bounds and about actions beyond [-1, 1] (of projections) is left out.

    Raises:
        GlaError: if it finds anything.
    """
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, module="gymnasium")
        warnings.filterwarnings("ignore", ".*(infinity|symmetric and normalized).*")
        try:
            check_env(env, skip_render_check=True)
        except (AssertionError, UserWarning, TypeError, ValueError) as error:
            said = " ".join(str(error).split())[:300]
            raise GlaError(
                f"Gymnasium's check_env says: {said}", mend="see gymnasium.utils.env_checker"
            ) from error


def check_picture(picture: Any) -> str:
    """Return the size of a picture as text.

    Raises:
        GlaError: if it is not uint8[height, width, 3], or is empty.
    """
    dtype: Any = getattr(picture, "dtype", None)
    shape: Any = getattr(picture, "shape", ())
    if str(dtype) != "uint8" or len(shape) != 3 or shape[-1] != 3:
        raise GlaError(
            f"render returned {type(picture).__name__} {dtype}{list(shape)}",
            "uint8[height, width, 3]",
        )
    if picture.size == 0 or (picture == picture[:1, :1]).all():
        raise GlaError("render returned a picture of one colour", "something to be seen")
    return f"{shape[0]} x {shape[1]}"


def draws(render: Callable[[], Any]) -> Any:
    """Return what `render` returns; skip the check where this machine has no OpenGL.

    Raises:
        Skipped: if the reason is a missing renderer.
        GlaError: whatever else `render` raises.
    """
    try:
        return render()
    except GlaError as error:
        if "OpenGL" in str(error):
            raise Skipped(str(error)) from error
        raise
