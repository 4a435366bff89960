"""Learning algorithms that own their loop, such as `model.learn(env)`, as agents.

An agent is asked for one action at a time; such an algorithm asks the environment for one step at
a time. So every lifetime runs the algorithm in a thread of its own, on an environment whose
`step` hands over the action and waits until the benchmark has the next observation. Only one
thread runs at a time, and each keeps what it draws from the global random generators to itself:
with equal seeds a lifetime is the same, in whatever company it runs.
"""

from __future__ import annotations

import copy
import queue
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from gla.agents.base import View, seeds_of
from gla.envs.checks import check_action
from gla.errors import GlaError

CLOSE_PATIENCE = 30.0  # seconds for all loops of an agent to end once their lifetimes are over

# The global generators belong to the process, so only one loop of it may run at a time.
_TURN = threading.Lock()


class LifetimeOver(BaseException):
    """Raised inside `step` and `reset` when the lifetime is over: the loop has to end.

    It is no `Exception`, so that an algorithm that catches those ends as well.
    """


class Seen(NamedTuple):
    """What a lifetime shows: observation f32[n], and reward and ends of the step before it."""

    observation: np.ndarray
    reward: float
    terminated: bool
    truncated: bool


class _Ended(NamedTuple):
    """What a loop hands over instead of an action when it ends: its error, None if it returned."""

    error: BaseException | None


class LifetimeEnv(gymnasium.Env):
    """One lifetime on one task, as a Gymnasium environment.

    `step` waits for the benchmark. Two things differ from other environments:

    - *The last observation of an episode is not shown*, because an agent is given the first one of
      the new episode in its place. When `step` returns an end, its observation is the one that the
      last action was chosen on, the nearest that was ever seen, and `info["final_observation"]`
      is `"unknown"`. A value function that is evaluated there after `truncated` is late by one
      step; after `terminated` it is not to be used anyway.
    - `reset` is granted after an end and before the first step of an episode. It cannot be granted
      in mid-episode, since episodes end when the task says so. Its seed and options are ignored:
      the task is the benchmark's.

    Args:
        observation_space: of the task, as the agent sees it; a Box of shape [n].
        action_space: likewise, Box or Discrete; it is copied and seeded.
        seed: for samples from `action_space`.

    Raises:
        GlaError: from `step` and `reset`, if they are called at the wrong time or an action does
            not fit.
    """

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space, seed: int
    ):
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = copy.deepcopy(action_space)
        self.action_space.seed(seed)
        self.steps = 0
        self._inbox: queue.SimpleQueue[Seen | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[np.ndarray | _Ended] = queue.SimpleQueue()
        self._over = False
        self._first: np.ndarray | None = None  # of the episode, to be handed out by `reset`
        self._last: np.ndarray | None = None  # what the next action is chosen on

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the first observation of the episode, f32[n], and no information."""
        del seed, options
        if self._first is None:
            if self._last is not None:
                raise GlaError(
                    f"the algorithm reset the environment in mid-episode, at step {self.steps}",
                    "a reset after terminated or truncated",
                    "episodes end when the task says so: step on until then",
                )
            self._first = self._wait().observation
        self._last = self._first
        return self._first.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act and wait for what comes of it."""
        if self._last is None:
            raise GlaError(
                f"the algorithm called step without a reset, at step {self.steps}",
                "a reset at the beginning and after terminated or truncated",
            )
        checked = check_action("the task", self.action_space, action, self.steps)
        self._outbox.put(checked)
        seen = self._wait()
        self.steps += 1
        if not (seen.terminated or seen.truncated):
            self._first, self._last = None, seen.observation
            return seen.observation.copy(), seen.reward, False, False, {}
        stand_in, self._first, self._last = self._last, seen.observation, None
        told = {"final_observation": "unknown"}
        return stand_in.copy(), seen.reward, seen.terminated, seen.truncated, told

    def exchange(self, seen: Seen) -> np.ndarray | _Ended:
        """Show what came of the last action; wait for the next one (from outside the loop)."""
        self._inbox.put(seen)
        return self._outbox.get()

    def end(self, error: BaseException | None) -> None:
        """Say that the loop has ended (from inside)."""
        self._outbox.put(_Ended(error))

    def finish(self) -> None:
        """Let the lifetime be over (from outside)."""
        self._over = True
        self._inbox.put(None)

    def _wait(self) -> Seen:
        seen = None if self._over else self._inbox.get()
        if seen is None:
            raise LifetimeOver
        return seen


class _Draws(NamedTuple):
    """Where the global generators of `random`, `numpy` and (None: not imported) `torch` stand."""

    python: Any
    numpy: Any
    torch: Any

    @classmethod
    def start(cls, seed: int) -> _Draws:
        """Return where they stand when seeded; torch's only where it was imported."""
        generator = np.random.RandomState(seed)  # noqa: NPY002 (the one that has a global state)
        torch = sys.modules.get("torch")
        drawn = None if torch is None else torch.Generator().manual_seed(seed).get_state()
        return cls(random.Random(seed).getstate(), generator.get_state(legacy=False), drawn)

    @classmethod
    def read(cls) -> _Draws:
        """Return where they stand now."""
        numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
        torch = sys.modules.get("torch")
        drawn = None if torch is None else torch.random.get_rng_state()
        return cls(random.getstate(), numpy, drawn)

    def write(self) -> None:
        """Let them stand here."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        if self.torch is not None:
            sys.modules["torch"].random.set_rng_state(self.torch)


class _Lifetime:
    """One loop in its thread."""

    def __init__(self, run: Callable[[gymnasium.Env, int], object], env: LifetimeEnv, seed: int):
        self.env, self._draws, self._started = env, _Draws.start(seed), False

        def live() -> None:
            error: BaseException | None = None
            try:
                run(env, seed)
            except BaseException as raised:  # whatever it is, `act` has to tell of it
                error = raised
            env.end(error)

        self.thread = threading.Thread(target=live, daemon=True)

    def advance(self, seen: Seen) -> np.ndarray | _Ended:
        """Let the loop run until its next action."""
        self._draws.write()
        if not self._started:
            self._started = True
            self.thread.start()
        reply = self.env.exchange(seen)
        self._draws = _Draws.read()
        return reply

    def finish(self) -> None:
        """Tell the loop to end."""
        if self._started:
            self.env.finish()

    def join(self, until: float) -> bool:
        """Wait for the thread to end; return whether it did."""
        if self._started:
            self.thread.join(max(0.0, until - time.monotonic()))
        return not self.thread.is_alive()


class LoopState:
    """The loops of `num_envs` lifetimes.

    Attributes:
        lifetimes: the loops; none once they are closed.
    """

    def __init__(self, lifetimes: list[_Lifetime]):
        self.lifetimes = lifetimes


class LoopAgent:
    """Runs a learning algorithm that owns its loop, from scratch in every lifetime.

    The algorithm is called as `run(env, seed)` and goes on until `env.step` ends it by raising
    `LifetimeOver`; it need not catch that. To return earlier is an error, as the lifetime goes on:
    give a finite algorithm more steps than any lifetime has.

    The global generators of `random`, `numpy.random` and `torch` start from `seed` in every
    lifetime and are kept apart (torch's on the CPU, and only if it was imported before the first
    lifetime). Threads, processes or files of its own the algorithm has to give back by itself
    (`try: ... finally: ...`).

    Args:
        run: takes a `LifetimeEnv` and a seed in [0, 2^32). It is called once per lifetime, from
            several threads of which only one runs at a time.
        name: for tables.
        view: how tasks are shown, or None for raw observations, rewards and actions.
    """

    jittable = False

    def __init__(
        self,
        run: Callable[[gymnasium.Env, int], object],
        name: str,
        view: View | None = None,
    ):
        self.run, self.name = run, name
        self.view: View | None = view

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> LoopState:
        """Return loops that start with the first call of `act`."""
        del num_envs
        return LoopState(
            [
                _Lifetime(self.run, LifetimeEnv(observation_space, action_space, seed), seed)
                for seed in seeds_of(keys)
            ]
        )

    def act(
        self,
        state: LoopState,
        observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        keys: jax.Array,
    ) -> tuple[LoopState, Any]:
        """Let every loop run until its next action: f32[num_envs, k] or integers [num_envs].

        Raises:
            GlaError: if a loop raised something or returned, or its action does not fit. All loops
                are ended then.
        """
        del keys
        if not state.lifetimes:
            raise GlaError(f"the lifetimes of the agent {self.name!r} are over", "a new init")
        rows = [np.asarray(part) for part in (reward, terminated, truncated)]
        shown = np.array(observation, np.float32)  # the loops keep its rows
        actions = []
        try:
            with _TURN:
                outside = _Draws.read()
                try:
                    for number, lifetime in enumerate(state.lifetimes):
                        seen = Seen(shown[number], *(part[number].item() for part in rows))
                        reply = lifetime.advance(seen)
                        if isinstance(reply, _Ended):
                            raise self._complaint(number, lifetime, reply.error) from reply.error
                        actions.append(reply)
                finally:
                    outside.write()
        except BaseException:
            self.close(state)
            raise
        return state, np.stack(actions)

    def close(self, state: LoopState) -> None:
        """End all loops; harmless where they have ended.

        A loop that does not end within `CLOSE_PATIENCE` seconds is warned of and left behind.
        """
        lifetimes, state.lifetimes = state.lifetimes, []
        for lifetime in lifetimes:
            lifetime.finish()
        until = time.monotonic() + CLOSE_PATIENCE
        stuck = [i for i, lifetime in enumerate(lifetimes) if not lifetime.join(until)]
        if stuck:
            warnings.warn(
                f"the agent {self.name!r} still runs in lifetime {stuck[0]} although that is over "
                f"({len(stuck)} in all): let LifetimeOver pass through its loop",
                RuntimeWarning,
                stacklevel=2,
            )

    def _complaint(self, number: int, lifetime: _Lifetime, error: BaseException | None) -> GlaError:
        steps = f"{lifetime.env.steps} step{'' if lifetime.env.steps == 1 else 's'}"
        if error is None:
            return GlaError(
                f"the agent {self.name!r} stopped learning after {steps} of lifetime {number}",
                "a loop that goes on until env.step ends it",
                "give it more steps than a lifetime has",
            )
        where = f"the agent {self.name!r} failed after {steps} of lifetime {number}"
        if isinstance(error, GlaError):
            return GlaError(f"{where}: {error.what}", error.expected, error.mend)
        said = " ".join(str(error).split())[:300]
        return GlaError(f"{where}: {type(error).__name__}" + (f": {said}" if said else ""))
