"""What `gla.envs.testing.check` asks of host environments: Gymnasium's, single and vectorised."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from gla.envs.base import is_discrete
from gla.envs.table import EnvironmentSpec
from gla.envs.testing import Plan, Skipped, check_picture, draws, gymnasium_check
from gla.envs.testing_functional import check_row
from gla.errors import GlaError

STEPS = 1000  # the longest stretch that is tried
SHORT = 20  # steps for what shows at once
AFTER = 5  # steps past the time limit
TASKS = 8


class Record(NamedTuple):
    """A stretch of t steps, with a reset after each end.

    Attributes:
        observations: f32[t + 1, n], where an episode ended the first of the next.
        finals: f32[t, n], what each step returned.
        rewards: f64[t].
        terminated: bool[t].
        truncated: bool[t].
    """

    observations: np.ndarray
    finals: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def host_plan(
    env: gymnasium.Env,
    seed: int,
    steps: int | None,
    make: Callable[..., gymnasium.Env] | None = None,
    make_vector: Callable[[int], VectorEnv] | None = None,
    spec: EnvironmentSpec | None = None,
) -> Plan:
    """Return the checks of a single host environment.

    Args:
        env: the environment.
        seed: of episodes and actions.
        steps: steps to try; if None, one episode and a little more, at most 1,000 steps.
        make: makes another such environment.
        make_vector: makes a vector environment of the given number of them; by default they are
            put side by side by `gla.envs.host.HostVectorEnv`.
        spec: its row in the registry, if it has one.
    """
    c = _Single(env, seed, steps, make, make_vector, spec)
    return (
        ("spaces", c.spaces, ()),
        ("numbers", c.numbers, ("spaces",)),
        ("seeds", c.seeds, ("numbers",)),
        ("actions", c.actions, ("seeds",)),
        ("ends", c.ends, ("numbers",)),
        ("vector", c.vector, ("seeds", "ends")),
        *([("tasks", c.tasks, ("seeds",))] if spec else []),
        ("pictures", c.pictures, ("numbers",)),
        ("gymnasium", functools.partial(gymnasium_check, env), ("numbers",)),
        *([("table", c.table, ("ends",))] if spec else []),
    )


def vector_plan(env: VectorEnv, seed: int, steps: int | None) -> Plan:
    """Return the checks of a vector environment; arguments as in `host_plan`."""
    c = _Vector(env, seed, STEPS if steps is None else steps)
    return (
        ("spaces", c.spaces, ()),
        ("numbers", c.numbers, ("spaces",)),
        ("seeds", c.seeds, ("numbers",)),
        ("autoreset", c.autoreset, ("numbers",)),
    )


def random_actions(space: Any, rng: np.random.Generator, shape: tuple[int, ...] = ()) -> Any:
    """Draw uniform actions of a Box (f32[*shape, k]) or Discrete (i64[*shape]) space."""
    if is_discrete(space):
        return rng.integers(0, int(space.n), shape)
    size = (*shape, *space.shape)
    return rng.uniform(space.low, space.high, size).astype(np.float32)


class _Single:
    """The checks of a single environment and the stretch of steps that they share."""

    def __init__(
        self,
        env: gymnasium.Env,
        seed: int,
        steps: int | None,
        make: Callable[..., gymnasium.Env] | None,
        make_vector: Callable[[int], VectorEnv] | None,
        spec: EnvironmentSpec | None,
    ):
        self.env, self.seed, self.make, self.spec = env, seed, make, spec
        limit = spec.horizon + AFTER if spec else STEPS
        self.steps = min(limit, STEPS + AFTER) if steps is None else steps
        self._make_vector = make_vector

    def actions_of(self, steps: int) -> np.ndarray:
        return random_actions(self.env.action_space, np.random.default_rng(self.seed), (steps,))

    def play(self, env: gymnasium.Env, actions: Any, seed: int | None = None) -> Record:
        """Take actions from a seeded start, with a reset after each end."""
        observations = [env.reset(seed=self.seed if seed is None else seed)[0]]
        rows = []
        for t, action in enumerate(actions):
            observation, reward, terminated, truncated, _ = env.step(action)
            if not (_is_flag(terminated) and _is_flag(truncated)):
                raise GlaError(
                    f"terminated is {terminated!r} and truncated {truncated!r} at step {t + 1}",
                    "True or False",
                )
            rows.append((observation, float(reward), bool(terminated), bool(truncated)))
            if terminated or truncated:
                observation, _ = env.reset()
            observations.append(observation)
        finals, rewards, ended, cut = map(np.array, zip(*rows, strict=True))
        return Record(np.stack(observations), finals, rewards, ended, cut)

    @functools.cached_property
    def record(self) -> Record:
        """The stretch that most checks look at."""
        return self.play(self.env, self.actions_of(self.steps))

    def spaces(self) -> str:
        return _check_spaces(self.env.observation_space, self.env.action_space)

    def numbers(self) -> str:
        observation, _ = self.env.reset(seed=self.seed)
        if getattr(observation, "dtype", None) != np.float32:
            raise GlaError(
                f"reset returned {type(observation).__name__} of type "
                f"{getattr(observation, 'dtype', 'none')}",
                "an array of float32",
            )
        _, reward, *_ = self.env.step(self.actions_of(1)[0])
        if not isinstance(reward, (float, np.floating)):
            raise GlaError(f"the reward {reward!r} is a {type(reward).__name__}", "a float")
        record = self.record
        _check_numbers(self.env.observation_space, record.observations)
        _check_numbers(self.env.observation_space, record.finals)
        if not np.isfinite(record.rewards).all():
            at = int(np.argmin(np.isfinite(record.rewards)))
            raise GlaError(f"the reward of step {at + 1} is {record.rewards[at]}", "finite numbers")
        return f"rewards from {record.rewards.min():.3g} to {record.rewards.max():.3g}"

    def seeds(self) -> str:
        actions = self.actions_of(min(SHORT, self.steps))
        one = self.play(self.env, actions)
        made = self.make() if self.make else self.env
        if not _equal(one, self.play(made, actions)):
            raise GlaError(
                f"two episodes of seed {self.seed} differ under the same actions",
                "the same",
                "draw everything random from self.np_random",
            )
        starts = [made.reset(seed=self.seed + i)[0] for i in range(1, 5)]
        if made is not self.env:
            made.close()
        same = all(np.array_equal(start, one.observations[0]) for start in starts)
        return "deterministic start" if same else "random starts"

    @property
    def _unwrapped(self) -> bool:
        """Whether no wrapper maps actions."""
        space: Any = self.env.action_space
        return is_discrete(space) or bool((space.low == -1.0).all() and (space.high == 1.0).all())

    def actions(self) -> str:
        space: Any = self.env.action_space
        if is_discrete(space):
            return f"{int(space.n)} discrete actions"
        if not self._unwrapped:
            raise Skipped("a wrapper maps actions; what it wraps clips them")
        actions = 3.0 * self.actions_of(min(SHORT, self.steps))
        if not _equal(self.play(self.env, actions), self.play(self.env, actions.clip(-1.0, 1.0))):
            raise GlaError(
                "an action beyond [-1, 1] does not do what the clipped action does",
                "actions clipped to [-1, 1]",
            )
        return "clipped to [-1, 1]"

    def lengths(self) -> list[tuple[int, bool]]:
        """The length of each finished episode and whether it was truncated."""
        ended = np.flatnonzero(self.record.terminated | self.record.truncated)
        lengths = np.diff(np.concatenate([[-1], ended]))
        return [
            (int(n), bool(self.record.truncated[t])) for n, t in zip(lengths, ended, strict=True)
        ]

    def ends(self) -> str:
        if (self.record.terminated & self.record.truncated).any():
            raise GlaError("a step is both terminated and truncated", "one of them at most")
        limits = {length for length, truncated in self.lengths() if truncated}
        if len(limits) > 1:
            raise GlaError(
                f"episodes were truncated after {sorted(limits)} steps", "one time limit"
            )
        natural = ", natural ends seen" if self.record.terminated.any() else ""
        if not limits:
            return f"no time limit seen in {self.steps} steps{natural}"
        return f"truncated at step {limits.pop()}{natural}"

    def vector(self) -> str:
        """A vector environment of three does what the single one does, resets included."""
        vector = self._vector()
        try:
            if vector.metadata.get("autoreset_mode") is not AutoresetMode.SAME_STEP:
                raise GlaError(
                    f"its autoreset_mode is {vector.metadata.get('autoreset_mode')}",
                    "AutoresetMode.SAME_STEP in metadata['autoreset_mode']",
                )
            return self._compare(vector)
        finally:
            vector.close()

    def _vector(self) -> VectorEnv:
        if self._make_vector:
            return self._make_vector(3)
        if self.make:
            from gla.envs.host import HostVectorEnv

            return HostVectorEnv([self.make] * 3)
        raise Skipped("only a function that makes the environment can be vectorised")

    def _compare(self, vector: VectorEnv) -> str:
        """Compare the middle sub-environment with the record."""
        record, actions = self.record, self.actions_of(self.steps)
        seeds: Any = [self.seed + 7, self.seed, self.seed + 3]
        observations, _ = vector.reset(seed=seeds)
        others = random_actions(
            self.env.action_space, np.random.default_rng(self.seed + 1), (self.steps, 3)
        )
        others[:, 1] = actions
        # Wrappers round batches otherwise, and small differences grow along an episode.
        compared, tolerance = (self.steps, 0.0) if self._unwrapped else (SHORT, 1e-3)
        for t in range(self.steps):
            expect = functools.partial(_expect, t + 1, tolerance=tolerance)
            if t < compared:
                _expect(t, "observation", observations[1], record.observations[t], tolerance)
            observations, rewards, terminated, truncated, infos = vector.step(others[t])
            done = terminated[1] or truncated[1]
            if done and ("final_obs" not in infos or not infos["_final_obs"][1]):
                raise GlaError(
                    f"infos has no final_obs where an episode ended, at step {t + 1}",
                    "infos['final_obs'] and infos['_final_obs']",
                )
            if t < compared:
                expect("reward", rewards[1], record.rewards[t])
                expect("terminated", terminated[1], record.terminated[t])
                expect("truncated", truncated[1], record.truncated[t])
                if done:
                    expect("final_obs", infos["final_obs"][1], record.finals[t])
        ended = int((record.terminated | record.truncated)[:compared].sum())
        return f"the same as a single one in {min(compared, self.steps)} steps and {ended} resets"

    def tasks(self) -> str:
        if self.spec is None or not self.spec.family or self.make is None:
            raise Skipped("one task")
        seen = set()
        for task_seed in range(TASKS):
            env = self.make(task_seed=task_seed)
            record = self.play(env, self.actions_of(min(SHORT, self.steps)))
            seen.add((record.observations.tobytes(), record.rewards.tobytes()))
            env.close()
        if len(seen) < 2:
            raise GlaError(f"{TASKS} task seeds gave one task", "different tasks of a family")
        return f"{len(seen)} of {TASKS} task seeds gave different tasks"

    def pictures(self) -> str:
        if self.env.render_mode is not None:
            env, made = self.env, False
        elif self.spec and self.make and "rgb_array" in self.env.metadata.get("render_modes", ()):
            env, made = self.make(render_mode="rgb_array"), True
        else:
            raise Skipped("it was made without a render mode")
        try:
            env.reset(seed=self.seed)
            return check_picture(draws(env.render))
        finally:
            if made:
                env.close()

    def table(self) -> str:
        assert self.spec is not None
        check_row(self.spec, self.env.action_space)
        lengths = self.lengths()
        wrong = [
            n for n, cut in lengths if n > self.spec.horizon or (cut and n < self.spec.horizon)
        ]
        if wrong:
            raise GlaError(
                f"an episode has {wrong[0]} steps", f"at most {self.spec.horizon}, as in the table"
            )
        if any(cut for _, cut in lengths):
            return f"truncated at step {self.spec.horizon}"
        return f"ended by itself after {max((n for n, _ in lengths), default=0)} steps at most"


class _Run(NamedTuple):
    """Steps of a vector environment.

    Attributes:
        seen: the first observations, then observations, rewards and ends of every step.
        ended: whether any episode ended.
    """

    seen: list[np.ndarray]
    ended: bool


class _Vector:
    """The checks of a vector environment."""

    def __init__(self, env: VectorEnv, seed: int, steps: int):
        self.env, self.seed, self.steps = env, seed, steps

    def spaces(self) -> str:
        env = self.env
        said = _check_spaces(env.single_observation_space, env.single_action_space)
        for what, space, single in (
            ("observation", env.observation_space, env.single_observation_space),
            ("action", env.action_space, env.single_action_space),
        ):
            expected = (env.num_envs, *(single.shape or ()))
            if space.shape != expected:
                raise GlaError(f"the {what} space has shape {space.shape}", f"{expected}")
        return f"{env.num_envs} x {said}"

    def play(self, steps: int) -> _Run:
        """Take random actions from a seeded start."""
        env, m = self.env, self.env.num_envs
        rng = np.random.default_rng(self.seed)
        observations, _ = env.reset(seed=self.seed)
        seen, ended = [np.array(observations)], False
        for t in range(steps):
            actions = random_actions(env.single_action_space, rng, (m,))
            observations, rewards, terminated, truncated, infos = env.step(actions)
            for what, value in (("terminated", terminated), ("truncated", truncated)):
                if np.asarray(value).dtype != bool or np.shape(value) != (m,):
                    raise GlaError(f"{what} is {np.asarray(value).dtype}{np.shape(value)}", "bool")
            if np.shape(rewards) != (m,) or not np.isfinite(rewards).all():
                raise GlaError(f"rewards at step {t + 1} are {rewards}", f"{m} finite numbers")
            done = np.asarray(terminated) | np.asarray(truncated)
            if (np.asarray(terminated) & np.asarray(truncated)).any():
                raise GlaError("a step is both terminated and truncated", "one of them at most")
            for i in np.flatnonzero(done):
                ended = True
                if "final_obs" not in infos or not infos["_final_obs"][i]:
                    raise GlaError(
                        f"infos has no final_obs where an episode ended, at step {t + 1}",
                        "infos['final_obs'] and infos['_final_obs']",
                    )
                _check_numbers(env.single_observation_space, np.stack([infos["final_obs"][i]]))
            seen += [np.array(observations), np.array(rewards), done]
        return _Run(seen, ended)

    @functools.cached_property
    def record(self) -> _Run:
        return self.play(self.steps)

    def numbers(self) -> None:
        observations, _ = self.env.reset(seed=self.seed)
        expected = (self.env.num_envs, *(self.env.single_observation_space.shape or ()))
        if observations.dtype != np.float32 or observations.shape != expected:
            raise GlaError(
                f"observations are {observations.dtype}{list(observations.shape)}",
                f"float32{list(expected)}",
            )
        seen = self.record.seen
        for rows in (seen[0], *seen[1::3]):  # the first; then observations, rewards, ends
            _check_numbers(self.env.single_observation_space, rows)

    def seeds(self) -> None:
        short = min(SHORT, self.steps)
        pairs = zip(self.play(short).seen, self.play(short).seen, strict=True)
        if any(one.tobytes() != other.tobytes() for one, other in pairs):
            raise GlaError(
                f"two runs of seed {self.seed} differ under the same actions", "the same"
            )

    def autoreset(self) -> str:
        mode = self.env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise GlaError(
                f"its autoreset_mode is {mode}",
                "AutoresetMode.SAME_STEP in metadata['autoreset_mode']",
            )
        return "final_obs seen" if self.record.ended else f"no episode ended in {self.steps} steps"


def _check_spaces(observations: Any, actions: Any) -> str:
    """Return the sizes as text; raise if the spaces are not those of a host environment."""
    if (
        not isinstance(observations, gymnasium.spaces.Box)
        or len(observations.shape) != 1
        or observations.dtype != np.float32
    ):
        raise GlaError(
            f"the observation space is {observations}",
            "a one-dimensional float32 Box",
            "wrap the simulator in gla.envs.HostEnv",
        )
    if not is_discrete(actions):
        box = isinstance(actions, gymnasium.spaces.Box) and actions.dtype == np.float32
        if not box or not (
            np.isfinite(actions.high).all() and (actions.low == -actions.high).all()
        ):
            raise GlaError(
                f"the action space is {actions}",
                "Discrete, or a float32 Box from -1 to 1",
                "wrap the simulator in gla.envs.HostEnv",
            )
    return f"{observations.shape[0]} observations, {actions}"


def _check_numbers(space: Any, observations: np.ndarray) -> None:
    """Raise if one of the observations f32[t, n] is not finite or leaves the space."""
    if not np.isfinite(observations).all():
        t, at = np.argwhere(~np.isfinite(observations))[0]
        raise GlaError(f"number {at} of an observation is {observations[t, at]}", "finite numbers")
    outside = (observations < space.low) | (observations > space.high)
    if outside.any():
        t, at = np.argwhere(outside)[0]
        raise GlaError(
            f"number {at} of an observation is {observations[t, at]}",
            f"{space.low[at]} to {space.high[at]}, as the observation space says",
        )


def _is_flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _equal(one: Record, other: Record) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def _expect(step: int, what: str, seen: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Raise, with the number that differs most, unless the two are equal (up to a tolerance)."""
    seen, expected = np.asarray(seen), np.asarray(expected)
    if seen.shape == expected.shape and np.allclose(seen, expected, tolerance, tolerance):
        return
    if seen.shape == expected.shape and seen.ndim:
        at = int(np.argmax(np.abs(seen - expected)))
        what, seen, expected = f"number {at} of {what}", seen[at], expected[at]
    raise GlaError(
        f"{what} of a sub-environment is {seen} at step {step}",
        f"{expected}, as a single environment of its seed",
    )
