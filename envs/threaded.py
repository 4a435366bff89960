"""Host simulators whose physics runs on several threads, with the numbers of `HostVectorEnv`.

MuJoCo lets go of Python's lock while it computes, so threads can advance the physics of several
sub-environments at once; the Python around it still runs on one core. Every sub-environment
advances in its own `MjData`, so the numbers are those of the plain class to the bit, whatever the
number of threads. Observations, rewards and ends come from the simulator's own code; where that
takes longer than the physics, which is so for the small runners, they are computed for all
sub-environments at once (`_RULES`), in the same operations.

`mujoco.rollout`, which steps batches in C, is not used. By its interface it does not give back
`qacc_warmstart`, from which MuJoCo's solver starts in the next step, so the numbers would differ in
the last digits as soon as something touches the ground. Nor would it be faster here: it copies
states in and out and keeps no `MjData` per sub-environment, so the last substep, which leaves the
positions and forces that rewards read, would have to run once more on one core.
"""

from __future__ import annotations

import abc
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from gla.cores import usable_cores
from gla.envs.checks import as_array, check_finite
from gla.envs.host import HostEnv, HostVectorEnv, VectorStep
from gla.errors import GlaError

# More threads wait for Python's lock more than they compute.
MOST_THREADS = 8
# Degrees of freedom x substeps x evaluations per substep, each about 0.6 us on one core. Below this
# handing the work over costs about as much as it saves (measured on 2 cores).
LEAST_WORK = 250


class ThreadedHostVectorEnv(HostVectorEnv):
    """Like `HostVectorEnv`, to the bit; the physics of sub-environments runs on several threads.

    A step that cannot be taken by all (an action that does not fit, a sub-environment that was not
    reset) goes the way of the plain class, with its errors. After any other error in the middle of
    a step, reset before going on.

    Attributes:
        threads: how many threads advance the physics, the caller's among them.

    Args:
        factories: one per sub-environment; each builds a `HostEnv` that `can_advance`.
        threads: at least 2.

    Raises:
        GlaError: if a sub-environment is none whose physics can be advanced by itself.
    """

    def __init__(self, factories: Sequence[Callable[[], gymnasium.Env]], threads: int):
        super().__init__(factories)
        self.threads = min(threads, self.num_envs)
        self._jobs: Jobs = queue.SimpleQueue()
        for env in self.envs:
            if not can_advance(env):
                raise GlaError(
                    f"{self.name} cannot be stepped on several threads",
                    "Gymnasium's MuJoCo or DeepMind Control",
                    "use HostVectorEnv",
                )
        self._rule = _rule_of(self.envs)
        self._pushes = [
            _Push(env, self._jobs)  # type: ignore[arg-type]
            for env in self.envs
            if self._rule
        ]
        self._ahead = [_ahead_of(env, self._jobs) for env in self.envs if not self._rule]
        for _ in range(self.threads - 1):
            threading.Thread(
                target=_help, args=(self._jobs,), name="gla-physics", daemon=True
            ).start()
        # Helpers know the queue alone, so an environment that nobody closes can still go.
        self._dismiss = weakref.finalize(self, _dismiss, self._jobs, self.threads - 1)

    def step(self, actions: Any) -> VectorStep:
        """Advance every sub-environment: `actions` f32[num_envs, k]."""
        if self._rule:
            controls = self._scaled(actions)
            return super().step(actions) if controls is None else self._step_together(controls)
        if not self._prepare(actions):
            return super().step(actions)
        for ahead in self._ahead:
            ahead.order()
        for ahead in self._ahead:
            self._jobs.put(ahead)
        try:
            return super().step(actions)
        except BaseException:
            self._recall()
            raise

    def _prepare(self, actions: Any) -> bool:
        """Let every sub-environment check its action; return whether all can be stepped."""
        try:
            # As `HostVectorEnv.step` does before it looks at each; what fails here fails there.
            rows = np.asarray(actions)
            if rows.shape != self.action_space.shape:
                return False
            for ahead, row in zip(self._ahead, rows, strict=True):
                ahead.env.prepare(row)
        except (GlaError, TypeError, ValueError):
            for ahead in self._ahead:
                ahead.env.forget_prepared()
            return False
        return True

    def _scaled(self, actions: Any) -> np.ndarray | None:
        """Return the controls of all sub-environments, f[m, k], or None if not all can step."""
        rows = as_array(actions)
        if rows is None or rows.shape != self.action_space.shape:
            return None
        rows = rows.astype(np.float32)
        if not np.isfinite(rows).all() or not all(push.env.running for push in self._pushes):
            return None
        return self._pushes[0].env.scale_actions(rows)

    def _step_together(self, controls: np.ndarray) -> VectorStep:
        """Advance the physics, then compute all that is seen of it at once (`_RULES`)."""
        assert self._rule is not None
        pushes = self._pushes
        before = np.array([push.qpos[0] for push in pushes])
        for push, control in zip(pushes, controls, strict=True):
            push.order(control)
            self._jobs.put(push)
        try:
            for push in pushes:
                push.wait()
        except BaseException:
            self._recall()
            raise
        qpos, qvel = np.array([p.qpos for p in pushes]), np.array([p.qvel for p in pushes])
        seen = self._rule(pushes[0].base, before, qpos, qvel, controls)
        observations, rewards, terminated, own_infos = seen
        observations = observations.astype(np.float32)
        sound = bool(np.isfinite(observations).all() and np.isfinite(rewards).all())
        truncated = np.zeros(self.num_envs, bool)
        for i, push in enumerate(pushes):
            truncated[i] = push.count(bool(terminated[i]))
            if not sound:
                check_finite(self.name, push.env.steps, observations[i], rewards[i])
        kept: list[Any] = list(observations)
        self._rewards, self._terminations, self._truncations = rewards, terminated, truncated
        self._autoreset_envs = terminated | truncated
        infos: dict[str, Any] = {}
        if self._autoreset_envs.any():
            for i, ended in enumerate(self._autoreset_envs):
                info = {key: value[i] for key, value in own_infos.items()}
                if ended:
                    final = {"final_obs": kept[i], "final_info": info}
                    infos = self._add_info(infos, final, i)
                    kept[i], info = self.envs[i].reset()
                infos = self._add_info(infos, info, i)
            observations = np.stack(kept)
        else:
            for key, value in own_infos.items():
                infos[key], infos[f"_{key}"] = value, np.ones(self.num_envs, bool)
        self._env_obs, self._observations = kept, observations
        # Copies, as the plain class gives them: the caller may write into what it gets.
        return observations.copy(), rewards.copy(), terminated.copy(), truncated.copy(), infos

    def _recall(self) -> None:
        """Undo what was ordered and not asked for."""
        never_begun: set[_Job | None] = set()
        while True:
            try:
                never_begun.add(self._jobs.get_nowait())
            except queue.Empty:
                break
        for job in [*self._pushes, *self._ahead]:
            job.recall(job in never_begun)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the simulators and let the threads go."""
        self._dismiss()
        super().close_extras(**kwargs)


def _help(jobs: Jobs) -> None:
    """Run jobs until there is None."""
    while (job := jobs.get()) is not None:
        job.run()
        del job  # not kept while waiting for the next one


def _dismiss(jobs: Jobs, helpers: int) -> None:
    for _ in range(helpers):
        jobs.put(None)


class _Job(abc.ABC):
    """The physics of one sub-environment: put into the queue, done by any thread, waited for."""

    def __init__(self, env: HostEnv, jobs: Jobs):
        self.env = env
        self._jobs = jobs
        self._error: BaseException | None = None
        self._done = threading.Lock()  # free while there is a result that nobody has waited for
        self._done.acquire()

    @abc.abstractmethod
    def _do(self) -> None:
        """Advance the physics."""

    @abc.abstractmethod
    def recall(self, never_begun: bool) -> None:
        """Put an end to it after an error elsewhere; `never_begun` if it was still in the queue."""

    def run(self) -> None:
        """Do it, on any thread."""
        try:
            self._do()
        except BaseException as error:  # raised where the simulator would have raised it
            self._error = error
        finally:
            self._done.release()

    def wait(self) -> None:
        """Wait until it is done; do what is still to be done meanwhile, this or another one."""
        while not self._done.acquire(blocking=False):
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                self._done.acquire()
                break
            if job is not None:
                job.run()

    def _raise(self) -> None:
        """Raise what went wrong, once."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error


Jobs = queue.SimpleQueue[_Job | None]


class _Ahead(_Job):
    """Advances the physics of one sub-environment before its own code asks for that.

    `order`, then `run` on any thread, then the sub-environment is stepped as usual: where its own
    code advances the physics, it finds that done (`_take`).
    """

    def __init__(self, env: HostEnv, jobs: Jobs):
        import mujoco

        super().__init__(env, jobs)
        self._copy = mujoco.mj_copyData
        self._before = mujoco.MjData(self._pointers()[0])
        self._ordered = self._waited = False
        self._control: Any = None

    @abc.abstractmethod
    def _pointers(self) -> tuple[Any, Any]:
        """Return MuJoCo's own model and data."""

    @abc.abstractmethod
    def _advance(self) -> None:
        """Advance the physics by the simulator's own code, all substeps, under `_control`."""

    def order(self) -> None:
        """Note what is to be done: a step under the action that the sub-environment prepared."""
        self._control = self.env.prepared
        self._ordered, self._waited, self._error = True, False, None

    def _do(self) -> None:
        model, data = self._pointers()
        # Kept to be read (some rewards compare before and after) and to go back to.
        self._copy(self._before, model, data)
        self._advance()

    def wait(self) -> None:
        """Wait until it is done, as all jobs do."""
        super().wait()
        self._waited = True

    def _take(self, same: bool) -> bool:
        """Return whether the physics has been advanced as is asked now; else it is put back."""
        self._ordered = False
        self._raise()
        if not same:
            self._undo()
        return same

    def _undo(self) -> None:
        model, data = self._pointers()
        self._copy(data, model, self._before)

    def recall(self, never_begun: bool) -> None:
        """Undo it, if it was ordered and not asked for."""
        self.env.forget_prepared()
        if not self._ordered:
            return
        self._ordered = False
        if never_begun:
            return
        if not self._waited:
            self._done.acquire()
        self._undo()


class _GymnasiumAhead(_Ahead):
    """Of Gymnasium's MuJoCo environments, whose `step` asks `do_simulation`."""

    def __init__(self, env: HostEnv, jobs: Jobs):
        base: Any = env.simulator.unwrapped
        self._base, self._data = base, base.data
        super().__init__(env, jobs)
        self._step, self._simulate = self._base.step, self._base.do_simulation
        self._base.step, self._base.do_simulation = self._answer_step, self._answer

    def _pointers(self) -> tuple[Any, Any]:
        return self._base.model, self._data

    def _advance(self) -> None:
        self._simulate(self._control, self._base.frame_skip)

    def _answer_step(self, action: Any) -> Any:
        if not self._ordered:
            return self._step(action)
        self.wait()
        # Rewards may read positions of before; until the simulation is asked for, it is before.
        self._base.data = self._before
        try:
            return self._step(action)
        finally:
            self._base.data = self._data
            self.recall(False)  # if this step asked for no simulation

    def _answer(self, control: Any, frames: int) -> None:
        if not self._ordered:
            return self._simulate(control, frames)
        self._base.data = self._data
        same = control is self._control or np.array_equal(control, self._control)
        if not self._take(same and frames == self._base.frame_skip):
            self._simulate(control, frames)
        return None


class _ControlAhead(_Ahead):
    """Of DeepMind Control, whose `step` sets the controls and asks `Physics.step`."""

    def __init__(self, env: HostEnv, jobs: Jobs):
        simulator: Any = env.simulator.unwrapped
        self._base, self._physics = simulator._env, simulator._env.physics
        super().__init__(env, jobs)
        self._step, self._simulate = self._base.step, self._physics.step
        self._base.step, self._physics.step = self._answer_step, self._answer

    def _pointers(self) -> tuple[Any, Any]:
        return self._physics.model.ptr, self._physics.data.ptr

    def _advance(self) -> None:
        self._physics.set_control(self._control)
        self._simulate(self._base._n_sub_steps)

    def _answer_step(self, action: Any) -> Any:
        if not self._ordered:
            return self._step(action)
        self.wait()  # nothing of the state is read before `Physics.step`
        try:
            return self._step(action)
        finally:
            self.recall(False)  # if this step asked for no simulation

    def _answer(self, nstep: int = 1) -> None:
        if not self._ordered:
            return self._simulate(nstep)
        control = self._physics.data.ctrl.copy()
        same = np.array_equal(control, self._control) and nstep == self._base._n_sub_steps
        if not self._take(same):
            self._physics.set_control(control)
            self._simulate(nstep)
        return None


class _Push(_Job):
    """Advances one sub-environment whose observation and reward are computed elsewhere."""

    def __init__(self, env: HostEnv, jobs: Jobs):
        import mujoco

        super().__init__(env, jobs)
        base: Any = env.simulator.unwrapped
        self.base = base
        self._control: Any = None
        self._waited = True
        self._limit: Any = env.simulator  # Gymnasium's TimeLimit
        self._advance, self._model, self._data = mujoco.mj_step, base.model, base.data
        self.qpos, self.qvel, self._ctrl = self._data.qpos, self._data.qvel, self._data.ctrl

    def _do(self) -> None:
        self._ctrl[:] = self._control
        self._advance(self._model, self._data, nstep=self.base.frame_skip)

    def order(self, control: np.ndarray) -> None:
        """Note the controls of the next step, f[k]."""
        self._control, self._waited, self._error = control, False, None

    def wait(self) -> None:
        """Wait until it is done, as all jobs do, and raise what went wrong."""
        super().wait()
        self._waited = True
        self._raise()

    def recall(self, never_begun: bool) -> None:
        """Let it end; where it began, the step is taken."""
        if not self._waited and not never_begun:
            self._done.acquire()
        self._waited = True

    def count(self, terminated: bool) -> bool:
        """Count a step; return whether the time limit ends the episode."""
        self._limit._elapsed_steps += 1
        truncated = self._limit._elapsed_steps >= self._limit._max_episode_steps
        self.env.count(terminated or truncated)
        return truncated


# Observations f64[m, n], rewards f64[m], terminated bool[m] and infos of [m], from an environment,
# qpos[0] before f64[m], qpos f64[m, q] and qvel f64[m, v] after, and controls f32[m, k].
_Seen = tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]
_Rule = Callable[[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray], _Seen]


def _run(
    base: Any, before: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, controls: np.ndarray
) -> _Seen:
    """Do what HalfCheetah's, Hopper's and Walker2d's `step` do after the simulation."""
    velocity = (qpos[:, 0] - before) / base.dt
    forward = base._forward_reward_weight * velocity
    cost = base._ctrl_cost_weight * np.sum(np.square(controls), axis=1)  # f32[m], as in Gymnasium
    infos = {"x_position": qpos[:, 0].copy()}
    moves, terminated = qvel, np.zeros(len(qpos), bool)
    name, rewards = "reward_forward", forward
    survive = None
    if hasattr(base, "_healthy_reward"):
        infos["z_distance_from_origin"] = qpos[:, 1] - base.init_qpos[1]
        moves = np.clip(qvel, -10, 10)
        healthy = _between(base._healthy_z_range, qpos[:, 1])
        healthy &= _between(base._healthy_angle_range, qpos[:, 2])
        if hasattr(base, "_healthy_state_range"):
            state = np.concatenate([qpos[:, 2:], qvel], axis=1)
            healthy &= _between(base._healthy_state_range, state).all(axis=1)
        if base._terminate_when_unhealthy:
            terminated = ~healthy
        survive = healthy * base._healthy_reward
        rewards = forward + survive
    elif type(base).__module__.endswith("_v4"):
        name = "reward_run"
    infos |= {"x_velocity": velocity, name: forward, "reward_ctrl": -cost}
    if survive is not None:
        infos["reward_survive"] = survive
    places = qpos[:, 1:] if base._exclude_current_positions_from_observation else qpos
    return np.concatenate([places, moves], axis=1), rewards - cost, terminated, infos


def _between(limits: tuple[float, float], values: np.ndarray) -> np.ndarray:
    return np.logical_and(limits[0] < values, values < limits[1])


# By the name of Gymnasium's class, module and all.
_RULES: dict[str, _Rule] = {
    f"gymnasium.envs.mujoco.{name}": _run
    for name in (
        "half_cheetah_v4.HalfCheetahEnv",
        "half_cheetah_v5.HalfCheetahEnv",
        "hopper_v5.HopperEnv",
        "walker2d_v5.Walker2dEnv",
    )
}


def _rule_of(envs: Sequence[gymnasium.Env]) -> _Rule | None:
    """Return the rule that holds for all these environments, or None."""
    wrappers = gymnasium.wrappers
    rule, first = None, None
    for env in envs:
        limit: Any = getattr(env, "simulator", None)
        if type(limit) is not wrappers.TimeLimit or type(limit.env) is not wrappers.OrderEnforcing:
            return None  # another wrapper may change what is seen
        base: Any = limit.env.env
        rule = _RULES.get(f"{type(base).__module__}.{type(base).__name__}")
        if (
            rule is None or base.render_mode == "human"
        ):  # pictures are drawn in the middle of a step
            return None
        settings = repr((base.fullpath, base.frame_skip, list(base.init_qpos), limit))
        settings += repr(sorted((k, v) for k, v in vars(base).items() if k in _SETTINGS))
        first = first or settings
        if settings != first:
            return None
    return rule


_SETTINGS = {
    "_forward_reward_weight",
    "_ctrl_cost_weight",
    "_healthy_reward",
    "_terminate_when_unhealthy",
    "_healthy_z_range",
    "_healthy_angle_range",
    "_healthy_state_range",
    "_exclude_current_positions_from_observation",
}


def _kind_of(env: gymnasium.Env) -> type[_Ahead] | None:
    """Return what advances the physics of an environment, or None if nothing can."""
    if type(env).step is not HostEnv.step:
        return None
    base: Any = env.simulator.unwrapped  # type: ignore[attr-defined]
    if all(hasattr(base, name) for name in ("do_simulation", "frame_skip", "model", "data")):
        return _GymnasiumAhead
    control = getattr(type(base), "__module__", "").startswith("shimmy.dm_control")
    if control and hasattr(base._env, "_n_sub_steps"):
        from dm_control.suite import base as suite

        # The controls must be what `before_step` sets: the action as it is.
        if type(base._env.task).before_step is suite.Task.before_step:
            return _ControlAhead
    return None


def _ahead_of(env: gymnasium.Env, jobs: Jobs) -> _Ahead:
    kind = _kind_of(env)
    assert kind is not None and isinstance(env, HostEnv)
    return kind(env, jobs)


def can_advance(env: gymnasium.Env) -> bool:
    """Return whether the physics of a host environment can be advanced on another thread."""
    return _kind_of(env) is not None


def work_of(env: gymnasium.Env) -> int:
    """Return how much physics a step is, in evaluations of one degree of freedom."""
    import mujoco

    base: Any = env.unwrapped.simulator.unwrapped  # type: ignore[attr-defined]
    if hasattr(base, "frame_skip"):
        model, substeps = base.model, base.frame_skip
    else:
        model, substeps = base._env.physics.model, base._env._n_sub_steps
    stages = 4 if model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4 else 1
    return int(model.nv) * int(substeps) * stages


def host_vector_env(
    factories: Sequence[Callable[[], gymnasium.Env]], threads: int | None = None
) -> HostVectorEnv:
    """Put host environments side by side, with threads where they help.

    Args:
        factories: one per sub-environment.
        threads: how many advance the physics; None: one per usable core, at most 8, if a step is
            enough work; 0 or 1: none but the caller's.

    Returns:
        A `ThreadedHostVectorEnv`, or a plain `HostVectorEnv` for one thread, one sub-environment, a
        simulator that cannot be advanced by itself, and, if `threads` is None, steps so small that
        it is faster.

    Raises:
        GlaError: if `threads` is neither None nor a whole number of at least 0.
    """
    if threads is not None and (
        isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or threads < 0
    ):
        raise GlaError(f"threads is {threads!r}", "a whole number of at least 0, or None")
    wanted = min(usable_cores(), MOST_THREADS) if threads is None else int(threads)
    wanted = min(wanted, len(factories))
    if wanted < 2:
        return HostVectorEnv(factories)
    first = factories[0]()
    factories = [lambda: first, *factories[1:]]
    helps = can_advance(first) and (
        threads is not None or _rule_of([first]) is not None or work_of(first) >= LEAST_WORK
    )
    return ThreadedHostVectorEnv(factories, wanted) if helps else HostVectorEnv(factories)
