"""What `gla.envs.testing.check` asks of functional environments (`gla.envs.base.Environment`)."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Environment, Params, Timestep, is_discrete
from gla.envs.table import EnvironmentSpec
from gla.envs.testing import Plan, Skipped, check_picture, draws, gymnasium_check
from gla.envs.vectorized import stack_tasks
from gla.envs.wrappers import Autoreset, TimeLimit, random_action
from gla.errors import GlaError

ROWS = 4  # episodes that run side by side
TASKS = 16  # tasks drawn to count how many differ
RESETS = 8  # sets of keys with which episodes are started
STEPS = 24
NO_HORIZON = 16  # the limit that is tried where an environment has none
SMALL = 1500  # operations up to which a program is compiled once more, without vmap


def functional_plan(
    env: Environment, seed: int, steps: int | None, spec: EnvironmentSpec | None = None
) -> Plan:
    """Return the checks of a functional environment; `reset` and `step` are compiled once for all.

    Args:
        env: the environment.
        seed: of the tasks, episodes and actions that are tried.
        steps: steps to try, 24 if None.
        spec: its row in the registry, if it has one.
    """
    c = _Checks(env, seed, STEPS if steps is None else steps)
    return (
        ("spaces", c.spaces, ()),
        ("arrays", c.arrays, ("spaces",)),
        ("pure", c.pure, ("arrays",)),
        ("tasks", c.tasks, ("arrays",)),
        ("numbers", c.numbers, ("arrays",)),
        ("one program", c.one_program, ("numbers",)),
        ("determinism", c.determinism, ("numbers",)),
        ("batches", c.batches, ("numbers",)),
        ("actions", c.actions, ("numbers",)),
        ("ends", c.ends, ("numbers",)),
        ("autoreset", c.autoreset, ("determinism", "ends")),
        ("pictures", c.pictures, ("numbers",)),
        ("oracle", c.oracle, ("numbers",)),
        ("gymnasium", functools.partial(c.gymnasium, spec), ("numbers",)),
        *([("table", functools.partial(c.table, spec), ("spaces",))] if spec else []),
    )


class _Checks:
    """The checks of one environment and what they share: tasks, compiled functions, a rollout."""

    def __init__(self, env: Environment, seed: int, steps: int):
        self.env, self.seed, self.steps = env, seed, steps
        self.traces = {"reset": 0, "step": 0}
        self.rng = np.random.default_rng(seed)

    # What the checks share. Nothing here runs before "spaces" passed.

    @functools.cached_property
    def limit(self) -> int:
        return self.env.horizon or NO_HORIZON

    @functools.cached_property
    def loop(self) -> Environment:
        """The environment as it is used: with its time limit and autoreset."""
        return Autoreset(TimeLimit(self.env, self.limit))

    def keys(self, purpose: int, count: int) -> jax.Array:
        root = jax.random.key(self.seed, impl="threefry2x32")
        return jax.random.split(jax.random.fold_in(root, purpose), count)

    @functools.cached_property
    def drawn(self) -> list[Params]:
        """`TASKS` tasks, and the first of them once more."""
        sample = jax.jit(self.env.sample_params)
        keys = self.keys(0, TASKS)
        return [sample(keys[i]) for i in (*range(TASKS), 0)]

    @functools.cached_property
    def params(self) -> tuple[Params, Any]:
        """The tasks of the rows and their axes for vmap."""
        return stack_tasks(self.drawn[:ROWS])

    def counted(self, name: str, function: Any) -> Any:
        def traced(*arguments):
            self.traces[name] += 1
            return function(*arguments)

        return traced

    @functools.cached_property
    def _reset(self) -> Any:
        axes = self.params[1]
        return jax.jit(self.counted("reset", jax.vmap(self.loop.reset, (0, axes))))

    @functools.cached_property
    def _step(self) -> Any:
        axes = self.params[1]
        return jax.jit(self.counted("step", jax.vmap(self.loop.step, (0, 0, 0, axes))))

    def reset(self, purpose: int) -> tuple[Any, jax.Array]:
        return self._reset(self.keys(purpose, ROWS), self.params[0])

    def step(self, purpose: int, state: Any, actions: np.ndarray) -> tuple[Any, Timestep]:
        return self._step(self.keys(purpose, ROWS), state, actions, self.params[0])

    def random_actions(self, scale: float = 1.0) -> np.ndarray:
        space: Any = self.env.action_space
        if is_discrete(space):
            return self.rng.integers(0, int(space.n), ROWS).astype(np.int32)
        size = (ROWS, *space.shape)
        return (scale * self.rng.uniform(space.low, space.high, size)).astype(np.float32)

    @functools.cached_property
    def start(self) -> tuple[Any, np.ndarray, np.ndarray]:
        """States and observations of first steps, and actions to take there."""
        state, observation = self.reset(1)
        return state, np.asarray(observation), self.random_actions()

    # The checks.

    def spaces(self) -> str:
        env = self.env
        if not isinstance(getattr(env, "name", None), str):
            raise GlaError("it has no name", "a short text in `name`", "set self.name")
        observations = getattr(env, "observation_space", None)
        if (
            not isinstance(observations, gymnasium.spaces.Box)
            or len(observations.shape) != 1
            or observations.dtype != np.float32
        ):
            raise GlaError(
                f"the observation space is {observations}",
                "a one-dimensional float32 Box",
                "flatten observations, and make discrete ones one-hot",
            )
        actions = getattr(env, "action_space", None)
        if isinstance(actions, gymnasium.spaces.Discrete):
            if int(actions.start) != 0 or int(actions.n) < 2:
                raise GlaError(f"the action space is {actions}", "Discrete(n) from 0, n at least 2")
        elif not isinstance(actions, gymnasium.spaces.Box) or len(actions.shape) != 1:
            raise GlaError(f"the action space is {actions}", "a one-dimensional Box or Discrete")
        elif actions.dtype != np.float32 or not self._fits(actions):
            raise GlaError(
                f"the action space is {actions}",
                "a float32 Box from -1 to 1",
                "clip actions to [-1, 1] and scale them in step",
            )
        horizon = getattr(env, "horizon", None)
        whole = isinstance(horizon, (int, np.integer)) and not isinstance(horizon, bool)
        if horizon is not None and not (whole and horizon >= 1):
            raise GlaError(f"the horizon is {horizon!r}", "a whole number of steps, or None")
        return f"{observations.shape[0]} observations, {actions}"

    def _fits(self, space: gymnasium.spaces.Box) -> bool:
        """Return whether Box actions span [-1, 1]; wrappers may show a wider space."""
        low, high = np.asarray(space.low), np.asarray(space.high)
        if hasattr(self.env, "env"):
            return bool(np.isfinite(high).all() and (low == -high).all())
        return bool((low == -1.0).all() and (high == 1.0).all())

    @functools.cached_property
    def types(self) -> tuple[Any, ...]:
        """Types of (key, params, state, action), as JAX sees them."""
        key = jax.eval_shape(functools.partial(jax.random.key, impl="threefry2x32"), 0)
        params = jax.eval_shape(lambda key: self.env.sample_params(key), key)
        state, _ = jax.eval_shape(lambda *a: self.env.reset(*a), key, params)
        discrete = is_discrete(self.env.action_space)
        action = jax.ShapeDtypeStruct(
            self.env.action_space.shape or (), jnp.int32 if discrete else jnp.float32
        )
        return key, params, state, action

    def arrays(self) -> None:
        env = self.env
        key, params, state, action = self.types
        observation = jax.eval_shape(lambda *a: env.reset(*a), key, params)[1]
        after, ts = jax.eval_shape(lambda *a: env.step(*a), key, state, action, params)
        if not isinstance(ts, Timestep):
            raise GlaError(
                f"step returned {type(ts).__name__} beside the state",
                "a Timestep",
                "build it with gla.envs.timestep",
            )
        for what, tree in (
            ("params", params),
            ("the state after reset", state),
            ("the observation of reset", observation),
            ("the state after step", after),
            ("the timestep", ts),
        ):
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                if leaf.weak_type:
                    raise GlaError(
                        f"{what}{jax.tree_util.keystr(path)} is a weakly typed {leaf.dtype}",
                        "a strong type, or callers compile twice",
                        "use jnp.float32(...), jnp.int32(...) or jax.lax.convert_element_type",
                    )
        one: Any
        one, other = jax.tree.structure(state), jax.tree.structure(after)
        if one != other:
            raise GlaError(
                f"reset gives a state {one} and step {other}",
                "the same structure",
            )
        before = jax.tree_util.tree_leaves_with_path(state)
        for (path, old), new in zip(before, jax.tree.leaves(after), strict=True):
            if (old.shape, old.dtype) != (new.shape, new.dtype):
                raise GlaError(
                    f"state{jax.tree_util.keystr(path)} is {_type(old)} after reset and "
                    f"{_type(new)} after step",
                    "the same shape and type",
                    "convert it in reset or step",
                )
        shape = env.observation_space.shape
        for what, leaf, expected, dtype in (
            ("reset's observation", observation, shape, jnp.float32),
            ("observation", ts.observation, shape, jnp.float32),
            ("final_observation", ts.final_observation, shape, jnp.float32),
            ("reward", ts.reward, (), jnp.float32),
            ("terminated", ts.terminated, (), jnp.bool_),
            ("truncated", ts.truncated, (), jnp.bool_),
        ):
            if (leaf.shape, leaf.dtype) != (expected, dtype):
                raise GlaError(
                    f"{what} is {_type(leaf)}", _type(jax.ShapeDtypeStruct(expected, dtype))
                )

    @functools.cached_property
    def program(self) -> tuple[list[str], list[list[Any]]]:
        """The programs of sample_params, reset and step, and their constants."""
        key, params, state, action = self.types
        env, texts, constants = self.env, [], []
        for function, arguments in (
            (lambda *a: env.sample_params(*a), (key,)),
            (lambda *a: env.reset(*a), (key, params)),
            (lambda *a: env.step(*a), (key, state, action, params)),
        ):
            made = jax.make_jaxpr(function)(*arguments)
            # Addresses of Python functions differ between any two traces.
            texts.append(re.sub(r"0x[0-9a-f]+", "", str(made)))
            constants.append(list(made.consts))
        return texts, constants

    def pure(self) -> str:
        texts, constants = self.program
        again = type(self)(self.env, self.seed, self.steps)
        again.types = self.types
        more_texts, more_constants = again.program
        for name, one, two, some, others in zip(
            ("sample_params", "reset", "step"),
            texts,
            more_texts,
            constants,
            more_constants,
            strict=True,
        ):
            same = one == two and len(some) == len(others)
            if not same or not all(map(_same, some, others)):
                raise GlaError(
                    f"{name} gives another program when it is traced again",
                    "a pure function of its arguments",
                    "take randomness from the key and memory from the state, not from self, "
                    "numpy.random or the clock",
                )
        for name, value in vars(self.env).items():
            if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
                raise GlaError(
                    f"the attribute {name!r} keeps a value of a traced call",
                    "nothing written to self in reset or step",
                    "put it into the state",
                )
        return f"step has {_size(texts[2]):,} operations"

    def tasks(self) -> str:
        distinct = self.env.distinct_tasks
        if isinstance(distinct, bool) or not isinstance(distinct, (int, float)) or distinct < 1:
            raise GlaError(f"distinct_tasks is {distinct!r}", "1, a larger number, or math.inf")
        prints = [_fingerprint(task) for task in self.drawn]
        if prints[0] != prints[-1]:
            raise GlaError("sample_params gave two different tasks for one key", "the same task")
        seen = len(set(prints))
        wrong = {
            1: seen != 1,
            math.inf: seen != TASKS,
        }.get(distinct, not 1 < seen <= distinct)
        if wrong:
            raise GlaError(
                f"{TASKS} keys drew {seen} different tasks, but distinct_tasks is {distinct}",
                "as many as distinct_tasks says",
                "set distinct_tasks: 1 for a fixed task, math.inf for a continuous family",
            )
        return "one task" if distinct == 1 else f"{seen} of {TASKS} keys drew different tasks"

    def numbers(self) -> str:
        space = self.env.observation_space
        state, observations = self.reset(1)
        rewards = []
        for t in range(self.steps + 1):
            for row in np.asarray(observations):
                if not np.isfinite(row).all():
                    raise GlaError(f"an observation at step {t} is {row}", "finite numbers")
                if not space.contains(row):
                    at = int(np.argmax((row < space.low) | (row > space.high)))
                    raise GlaError(
                        f"number {at} of an observation at step {t} is {row[at]}",
                        f"{space.low[at]} to {space.high[at]}, as observation_space says",
                        "widen the space or mend the observation",
                    )
            if t == self.steps:
                break
            state, ts = self.step(100 + t, state, self.random_actions())
            observations = ts.final_observation
            rewards.append(np.asarray(ts.reward))
            if not np.isfinite(rewards[-1]).all():
                raise GlaError(f"a reward at step {t + 1} is {rewards[-1]}", "finite numbers")
        return f"rewards from {np.min(rewards):.3g} to {np.max(rewards):.3g}"

    def one_program(self) -> None:
        for name, count in self.traces.items():
            if count != 1:
                raise GlaError(
                    f"{name} was traced {count} times for arguments of the same kind",
                    "one program",
                    "give reset and step outputs the same strong types",
                )

    def determinism(self) -> str:
        state, observation, actions = self.start
        if not _same((state, observation), self.reset(1)):
            raise GlaError("reset gave two different starts for one key", "the same start")
        one, other = self.step(2, state, actions), self.step(2, state, actions)
        if not _same(one, other):
            raise GlaError("step gave two different results for one key", "the same result")
        random_steps = not _same(one, self.step(3, state, actions))
        return ", ".join(
            [
                "random starts" if self.random_start else "deterministic start",
                "random steps" if random_steps else "deterministic steps",
            ]
        )

    @functools.cached_property
    def random_start(self) -> bool:
        """Whether the same tasks start differently under different keys."""
        return any(not _same(self.start[:2], self.reset(10 + i)) for i in range(RESETS))

    def batches(self) -> None:
        texts, _ = self.program
        if (size := _size(texts[1]) + _size(texts[2])) > SMALL:
            raise Skipped(f"not compiled again without vmap: {size:,} operations")
        state, _, actions = self.start
        batch = self.step(2, state, actions)
        keys = self.keys(2, ROWS)
        single = jax.jit(self.loop.step)
        for i in (0, ROWS - 1):
            row = jax.tree.map(lambda leaf, i=i: leaf[i], state)
            alone = single(keys[i], row, actions[i], self.drawn[i])
            together = jax.tree.map(lambda leaf, i=i: leaf[i], batch)
            if not _close(alone, together):
                raise GlaError(
                    "a step gives another result within a batch (jax.vmap) than alone",
                    "the same",
                    "let nothing depend on the shape of the batch",
                )

    def actions(self) -> str:
        space: Any = self.env.action_space
        if is_discrete(space):
            return f"{int(space.n)} discrete actions"
        if not ((space.low == -1.0).all() and (space.high == 1.0).all()):
            raise Skipped("a wrapper maps actions; what it wraps clips them")
        state, _, _ = self.start
        actions = self.random_actions(scale=3.0)
        actions[0] = 3.0
        if not _same(self.step(2, state, actions), self.step(2, state, actions.clip(-1.0, 1.0))):
            raise GlaError(
                "an action beyond [-1, 1] does not do what the clipped action does",
                "actions clipped to [-1, 1]",
                "begin step with action = jnp.clip(action, -1.0, 1.0)",
            )
        return "clipped to [-1, 1]"

    def at(self, steps: int) -> Any:
        """Return the start states as if `steps` steps had been taken."""
        state = self.start[0]
        return state._replace(steps=jnp.full_like(state.steps, steps))

    def ends(self) -> str:
        actions = self.start[2]
        _, ts = self.step(2, self.at(self.limit - 1), actions)
        terminated, truncated = np.asarray(ts.terminated), np.asarray(ts.truncated)
        if (terminated & truncated).any():
            raise GlaError("a step is both terminated and truncated", "one of them at most")
        if not (terminated | truncated).all():
            raise GlaError(f"an episode goes on at its limit, step {self.limit}", "its end")
        if self.limit == 1:
            return "episodes of one step"
        state, _ = self.reset(1)
        ended = False
        for t in range(self.steps):
            state, ts = self.step(100 + t, state, self.random_actions())
            terminated, truncated = np.asarray(ts.terminated), np.asarray(ts.truncated)
            if (terminated & truncated).any():
                raise GlaError("a step is both terminated and truncated", "one of them at most")
            if t + 1 < self.limit and truncated.any():
                raise GlaError(
                    f"step itself truncated an episode at step {t + 1} at the latest",
                    f"no end but a natural one before the horizon, {self.limit}",
                    "leave time limits to horizon and the TimeLimit wrapper",
                )
            ended |= bool(terminated.any())
        natural = "natural ends seen" if ended else "no natural end seen"
        return f"truncated at step {self.limit}, {natural}"

    def autoreset(self) -> str:
        state, observation, actions = self.start
        _, free = self.step(2, self.at(0), actions)
        _, last = self.step(2, self.at(self.limit - 1), actions)
        if not _same(free.final_observation, last.final_observation):
            raise GlaError(
                "final_observation of a step that ends an episode is not its last observation",
                "what step returned before the reset",
            )
        fresh = [self.step(2 + i, self.at(self.limit - 1), actions) for i in range(RESETS)]
        if any(np.asarray(after.steps).any() for after, _ in fresh):
            raise GlaError("a new episode does not begin at step 0", "a true reset")
        repeats = all(_same((after, ts.observation), (state, observation)) for after, ts in fresh)
        if repeats and self.random_start:
            raise GlaError(
                "a new episode starts as the first one did, though reset draws starts",
                "a start drawn anew",
                "do not keep the first state",
            )
        return "new starts" if self.random_start else "deterministic start"

    def pictures(self) -> str:
        if not self.env.can_render:
            try:
                self.env.render(None, None)
            except GlaError as error:
                raise Skipped("it has no pictures (can_render is false)") from error
            raise GlaError("render draws, but can_render is false", "can_render = True")
        state = jax.tree.map(lambda leaf: leaf[0], self.start[0]).inner
        return check_picture(draws(lambda: self.env.render(state, self.drawn[0])))

    def oracle(self) -> str:
        env: Any = self.env
        if not env.has_oracle:
            raise Skipped("it has no oracle (has_oracle is false)")
        limited = TimeLimit(env, min(self.limit, 100))

        def episode(key, best):
            """Return the return of one episode of the best or of random actions."""
            task_key, reset_key, steps_key = jax.random.split(key, 3)
            params = env.sample_params(task_key)
            solution = env.solve(params)
            state, _ = limited.reset(reset_key, params)

            def body(carry, key):
                state, going = carry
                action_key, step_key = jax.random.split(key)
                chosen = env.best_action(solution, state.inner, params)
                drawn = random_action(action_key, env.action_space)
                if (chosen.shape, chosen.dtype) != (drawn.shape, drawn.dtype):
                    raise GlaError(f"best_action gives {_type(chosen)}", f"{_type(drawn)}")
                action = jnp.where(best, chosen, drawn)
                state, ts = limited.step(step_key, state, action, params)
                reward = jnp.where(going, ts.reward, 0.0)
                return (state, going & ~ts.terminated), (reward, chosen)

            keys = jax.random.split(steps_key, limited.limit)
            _, (rewards, actions) = jax.lax.scan(body, (state, jnp.array(True)), keys)
            return jnp.sum(rewards), actions

        run = jax.jit(jax.vmap(episode))
        keys = self.keys(4, 32)
        (best, actions), (drawn, _) = run(keys, jnp.full(32, True)), run(keys, jnp.full(32, False))
        space = env.action_space
        outside = [a for a in np.asarray(actions).reshape(-1, *space.shape) if a not in space]
        if outside:
            raise GlaError(f"best_action gave {outside[0]}", f"an action of {space}")
        best_mean, drawn_mean = float(jnp.mean(best)), float(jnp.mean(drawn))
        if not best_mean >= drawn_mean:
            raise GlaError(
                f"best actions earn {best_mean:.3g} per episode and random ones {drawn_mean:.3g}",
                "best actions that earn more",
            )
        return f"best actions earn {best_mean:.3g} per episode, random ones {drawn_mean:.3g}"

    def gymnasium(self, spec: EnvironmentSpec | None) -> None:
        if spec:
            gymnasium_check(gymnasium.make(spec.full_id).unwrapped)
            return
        from gla.envs.gym_api import FunctionalEnv

        gymnasium_check(FunctionalEnv(self.env, horizon=self.limit))

    def table(self, spec: EnvironmentSpec) -> None:
        check_row(spec, self.env.action_space)
        if self.env.horizon != spec.horizon:
            raise GlaError(f"its horizon is {self.env.horizon}", f"{spec.horizon}, as in the table")
        if not spec.projected and (self.env.distinct_tasks > 1) != spec.family:
            raise GlaError(
                f"distinct_tasks is {self.env.distinct_tasks} and the table's family {spec.family}",
                "a family where tasks differ",
            )


def check_row(spec: EnvironmentSpec, space: gymnasium.Space) -> None:
    """Raise if the table gives an environment another kind of actions than it has."""
    if is_discrete(space) != (spec.action_kind == "discrete"):
        raise GlaError(f"its actions are {space}", f"{spec.action_kind} ones, as in the table")


def _type(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _size(text: str) -> int:
    """Return how many operations a printed program has, one a line."""
    return text.count("\n")


def _plain(leaf: Any) -> np.ndarray:
    """Return a leaf as numpy numbers, random keys as their words."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _same(one: Any, other: Any) -> bool:
    """Return whether two trees hold the same numbers, to the bit (NaN equals NaN)."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(_plain(a).tobytes() == _plain(b).tobytes() for a, b in pairs)


def _close(one: Any, other: Any) -> bool:
    """Return whether two trees hold the same numbers up to rounding."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.allclose(_plain(a), _plain(b), 1e-3, 1e-4, equal_nan=True) for a, b in pairs)


def _fingerprint(task: Params) -> int:
    return hash(tuple(_plain(leaf).tobytes() for leaf in jax.tree.leaves(task)))
