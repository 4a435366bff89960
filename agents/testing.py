"""The conformance kit: one call says whether an agent keeps the protocol.

    from gla.agents.testing import check

    check(MyAgent).require()

The agent is shown made-up observations, rewards and ends, so that a check takes moments and says
nothing about how well it acts. Its outcome is a `gla.envs.testing.Report`, as for environments.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.agents.base import Agent, View
from gla.agents.external import check_agent, load_agent
from gla.envs.base import is_discrete
from gla.envs.checks import check_action
from gla.envs.testing import Check, Plan, Report, Skipped, carry_out
from gla.errors import GlaError

OBSERVATIONS, AXES, CHOICES = 4, 3, 3  # of the made-up task, for agents without a view
ROWS = 4  # lifetimes of a batch
TOLERANCE = 1e-3  # of actions that should be the same: batches round differently

GRACE = 2.0  # seconds for a thread to end

KINDS = ("continuous", "discrete")


class Stream(NamedTuple):
    """What a batch of lifetimes is shown, whatever it does.

    Attributes:
        observation: f32[T, N, n].
        reward: f32[T, N], zero at the beginning.
        terminated: bool[T, N].
        truncated: bool[T, N].
        keys: key[T, N].
        first: key[N], for `init`.
    """

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    keys: jax.Array
    first: jax.Array

    def rows(self, chosen: Sequence[int]) -> Stream:
        """Return some of the lifetimes."""
        index = np.array(chosen)
        return Stream(
            self.observation[:, index],
            self.reward[:, index],
            self.terminated[:, index],
            self.truncated[:, index],
            self.keys[:, index],
            self.first[index],
        )


def check(
    agent: Agent | str | Callable[[], Any],
    *,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    steps: int = 16,
    only: Sequence[str] | None = None,
) -> Report:
    """Check that an agent keeps the protocol of `gla.agents.base`.

    Args:
        agent: an agent, a function (or class) without arguments that makes one, or what
            `gla meta-test --agent` takes, such as "module:factory" or "tcp://HOST:PORT".
        kinds: of actions that the agent is for: `continuous`, `discrete` or both.
        seed: of what is shown.
        steps: to be shown, at least 8.
        only: names of the checks to run, beside what they need; by default all.

    Returns:
        A report; nothing is raised for a broken agent. `report.passed` says whether everything
        passed, `report.require()` raises if not, `print(report)` shows all of it. A kind of
        actions that the agent refuses with a `GlaError` in `init` is skipped.

    Raises:
        GlaError: if there is no such agent, kind or check, or too few steps.
    """
    if steps < 8:
        raise GlaError(f"an agent is to be checked for {steps} steps", "at least 8")
    if not kinds or set(kinds) - set(KINDS):
        raise GlaError(f"the kinds of actions are {list(kinds)}", " and ".join(KINDS) + ", or one")
    if isinstance(agent, str):
        agent = load_agent(agent)
    elif isinstance(agent, type) or not hasattr(agent, "act"):
        agent = agent()
    tested = check_agent(agent, type(agent).__name__)
    plan: list[Any] = [("attributes", functools.partial(_attributes, tested), ())]
    for kind in kinds:
        plan += _Kind(tested, kind, seed, steps).plan()
    return _require_one_kind(carry_out(str(tested.name), plan, only), kinds)


def make_stream(observations: int, seed: int, steps: int, rows: int = ROWS) -> Stream:
    """Make up what `rows` lifetimes are shown: episodes that end at different steps."""
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(steps, rows)).astype(np.float32)
    reward[0] = 0.0
    number = np.arange(steps)[:, None] + 2 * np.arange(rows)
    terminated, truncated = number % 7 == 6, number % 5 == 4
    terminated[0] = truncated[0] = False
    keys = jax.random.split(jax.random.key(seed), (steps + 1, rows))
    observation = rng.normal(size=(steps, rows, observations)).astype(np.float32)
    return Stream(observation, reward, terminated, truncated, keys[1:], keys[0])


class _Kind:
    """The checks of an agent on one kind of actions."""

    def __init__(self, agent: Agent, kind: str, seed: int, steps: int):
        self.agent, self.kind = agent, kind
        view = agent.view if isinstance(agent.view, View) else None
        axes = CHOICES if kind == "discrete" else AXES
        if view is not None:
            axes = view.projection.action_dim
        size = OBSERVATIONS if view is None else view.projection.observation_dim
        unbounded = np.full(size, np.inf, np.float32)
        self.observations = gymnasium.spaces.Box(-unbounded, unbounded)
        one = np.ones(axes, np.float32)
        self.actions: gymnasium.Space = gymnasium.spaces.Box(-one, one)
        if kind == "discrete":
            self.actions = gymnasium.spaces.Discrete(axes)
        self.stream = make_stream(size, seed, steps)

    def plan(self) -> Plan:
        """Return the checks."""
        actions = f"{self.kind} actions"
        return [
            (actions, self.check_actions, ()),
            (f"{self.kind} repeats", self.check_repeats, (actions,)),
            (f"{self.kind} batches", self.check_batches, (actions,)),
            (f"{self.kind} states", self.check_states, (actions,)),
            (f"{self.kind} compiles", self.check_compiles, (actions,)),
            (f"{self.kind} close", self.check_close, (actions,)),
        ]

    def begin(self, stream: Stream) -> Any:
        """Return the first state."""
        rows = len(stream.first)
        return self.agent.init(stream.first, rows, self.observations, self.actions)

    def act(self, state: Any, stream: Stream, t: int, act: Any = None) -> tuple[Any, np.ndarray]:
        """Show step `t`: the new state and checked actions."""
        seen = [jnp.asarray(part[t]) for part in stream[:5]]
        given = (act or self.agent.act)(state, *seen)
        if not isinstance(given, tuple) or len(given) != 2:
            raise GlaError(f"act gave a {type(given).__name__}", "a pair of new state and actions")
        batch = gymnasium.vector.utils.batch_space(self.actions, len(stream.first))
        return given[0], np.array(check_action("the task", batch, given[1], t))

    def live(self, stream: Stream, act: Any = None) -> np.ndarray:
        """Show all steps: actions [T, N, ...]."""
        state, actions = self.begin(stream), []
        try:
            for t in range(len(stream.reward)):
                state, action = self.act(state, stream, t, act)
                actions.append(action)
        finally:
            self.close(state)
        return np.stack(actions)

    def close(self, state: Any) -> None:
        """Call `close`, if there is one."""
        close = getattr(self.agent, "close", None)
        if close is not None:
            close(state)

    def check_actions(self) -> str:
        """Actions have the right shape and type and are finite, over several episodes."""
        try:
            self.close(self.begin(self.stream))
        except GlaError as error:
            raise Skipped(f"it refuses such tasks: {error}") from error
        actions = self.live(self.stream)
        return f"{actions.dtype}{list(actions.shape[1:])}"

    def check_repeats(self) -> None:
        """Equal keys, equal actions."""
        self.same(
            self.live(self.stream), self.live(self.stream), "twice the same lifetimes",
            "draw from the keys alone, and keep what is remembered in the state",
        )  # fmt: skip

    def check_batches(self) -> None:
        """A lifetime does the same in whatever company it runs."""
        chosen = [ROWS - 1, 1]
        self.same(
            self.live(self.stream)[:, chosen], self.live(self.stream.rows(chosen)),
            f"lifetimes {chosen} of a batch of {ROWS} alone",
            "draw what is random in lifetime i from keys[i], as with gla.agents.base.each or "
            "seeds_of, and let no lifetime see another",
        )  # fmt: skip

    def check_states(self) -> None:
        """Two batches may be under way at once: all memory is in the state."""
        first, second = self.stream, self.stream.rows(list(range(ROWS))[::-1])
        alone = self.live(first)
        states, actions = [self.begin(first), self.begin(second)], []
        try:
            for t in range(len(first.reward)):
                states[0], action = self.act(states[0], first, t)
                states[1], _ = self.act(states[1], second, t)
                actions.append(action)
        finally:
            for state in states:
                self.close(state)
        self.same(
            alone, np.stack(actions), "lifetimes beside others of the same agent",
            "keep what is remembered in the state, not on the agent",
        )  # fmt: skip

    def check_compiles(self) -> None:
        """An agent that says it is jittable is."""
        if not self.agent.jittable:
            raise Skipped("the agent is not jittable")
        self.same(
            self.live(self.stream), self.live(self.stream, jax.jit(self.agent.act)),
            "the compiled act", "let act be a pure function of arrays, or set jittable to False",
        )  # fmt: skip

    def check_close(self) -> None:
        """Nothing is left behind."""
        before = set(threading.enumerate())
        state = self.begin(self.stream)
        state, _ = self.act(state, self.stream, 0)
        self.close(state)
        for thread in set(threading.enumerate()) - before:
            thread.join(GRACE)
            if thread.is_alive():
                raise GlaError(
                    f"the thread {thread.name} still runs after the lifetimes are over",
                    mend="end threads in close(state)",
                )

    def same(self, one: np.ndarray, other: np.ndarray, what: str, mend: str) -> None:
        """Raise if actions differ."""
        distance = np.abs(one.astype(np.float64) - other).reshape(*one.shape[:2], -1).max(-1)
        allowed = 0.0 if is_discrete(self.actions) else TOLERANCE
        if (distance > allowed).any():
            t, row = np.argwhere(distance > allowed)[0]
            raise GlaError(
                f"{what} gave other actions: {one[t, row]} and {other[t, row]} at step {t} of "
                f"the lifetime in row {row}",
                "the same",
                mend,
            )


def _attributes(agent: Agent) -> str:
    """What tables and the runner read has the right type."""
    for name, kind in (("name", str), ("jittable", bool)):
        value = getattr(agent, name)
        if not isinstance(value, kind):
            raise GlaError(f"{name} is {value!r}", f"a {kind.__name__}")
    if not (agent.view is None or isinstance(agent.view, View)):
        raise GlaError(f"view is {agent.view!r}", "None or a gla.agents.base.View")
    return "no view" if agent.view is None else "a view"


def _require_one_kind(report: Report, kinds: Sequence[str]) -> Report:
    """Fail an agent that refuses every kind of actions."""
    named = {check.name: check for check in report.checks}
    tried = [named[f"{kind} actions"] for kind in kinds if f"{kind} actions" in named]
    if not tried or any(check.status != "skipped" for check in tried):
        return report
    note = f"it acts in no kind of spaces; {tried[0].note}"
    return Report(report.environment, (*report.checks, Check("spaces", "failed", note)))
