"""Brax bodies whose limbs, masses, motors and gravity differ from task to task."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Params
from gla.envs.brax_adapter import BraxEnvironment, brax_envs
from gla.envs.checks import check_count
from gla.errors import GlaError, near_matches

Body = Literal["reacher", "ant"]
Range = tuple[float, float]

BOUNDS: Range = 0.5, 2.0
"""Least and largest scale that a range may hold: as far as the bodies were tried.

With every scale of 64 ants at one of these two, drawn by chance, and 1,000 steps of uniform random
actions on the spring backend, no number of an observation was larger than 30.
"""

# The links that have a length to scale, and those that have a mass to scale, by their indices.
# The ant's link 0 is its torso, which keeps its size; the reacher's link 2 is the target.
_LIMBS = {"reacher": (0, 1), "ant": (1, 2, 3, 4, 5, 6, 7, 8)}
_MASSES = {"reacher": (0, 1), "ant": (0, 1, 2, 3, 4, 5, 6, 7, 8)}
_FEET = 2, 4, 6, 8  # links of the ant
_ANT_GRAVITY: Range = 0.7, 1.4


@dataclass(frozen=True)
class RandomMorphologyConfig:
    """Size and difficulty of the family. Scales are factors on what Brax's own body has.

    Each scale is drawn log-uniformly from its range, so that with the range (1/s, s) a limb is as
    often halved as doubled. All ranges must lie in [0.5, 2].

    Attributes:
        length: of each limb, which is scaled as a whole, its thickness as well.
        mass: of each limb, and of the ant's torso.
        gear: of each motor, torque per unit action.
        gravity: of the world; None means (0.7, 1.4) for the ant. The reacher moves in a horizontal
            plane, where gravity does nothing, so there it must be None.
        difficulty: in [0, 1]: how much of each range is used, on the logarithmic scale. 0 gives
            Brax's own body in every task, 0.5 the square roots of the ranges, 1 all of them.
        horizon: steps in an episode.

    Raises:
        GlaError: if a number is out of its range.
    """

    length: Range = (0.75, 1.35)
    mass: Range = (0.65, 1.5)
    gear: Range = (0.65, 1.5)
    gravity: Range | None = None
    difficulty: float = 1.0
    horizon: int = 1000

    def __post_init__(self):
        for name in ("length", "mass", "gear", "gravity"):
            _check_range(name, getattr(self, name), optional=name == "gravity")
        if not _is_number(self.difficulty) or not 0 <= self.difficulty <= 1:
            raise GlaError(f"difficulty is {self.difficulty!r}", "a number from 0 to 1")
        check_count("horizon", self.horizon)


class MorphologyParams(NamedTuple):
    """One body, as factors on Brax's own; its limbs are in the order of Brax's links.

    Attributes:
        length: f32[limbs], 2 for the reacher (from the root out), 8 for the ant (upper and lower
            limb of each leg in turn).
        mass: f32[masses], of the same limbs, for the ant after that of its torso.
        gear: f32[k], one per action.
        gravity: f32[].
    """

    length: jax.Array
    mass: jax.Array
    gear: jax.Array
    gravity: jax.Array


class RandomMorphology(BraxEnvironment):
    """Brax's ant or reacher with limbs, masses, motors and gravity of its own in every task.

    Observations, actions, rewards and episode ends are those of the Brax environment; the body is
    not observed. With every scale at 1 it is Brax's environment.

    A limb is scaled as a whole: what is attached to it moves along, its shapes grow by `length`,
    its mass by `mass` and its inertia by `mass * length**2`, which is exact for a uniform solid.
    The rotor inertia of the joint that moves it is scaled with its inertia; friction, damping and
    joint limits stay Brax's. The spring backend holds joints together by stiff springs, which are
    scaled with the lighter of the two masses that they hold: a light limb would otherwise ring
    faster than the integrator follows.
    The spring and positional backends replace masses and inertias by powers of them (for the ant,
    all by 1); what is scaled is what they then use.

    - Ant: it starts as high as its longest lower limb needs, and the heights between which it is
      healthy, 0.2 and 1 m in Brax, are scaled by the same factor.
    - Reacher: the fingertip of the observation and the reward is that of the scaled arm; Brax
      writes its place into the code. Targets are drawn between the difference and the sum of the
      two lengths (0 to 0.2 m in Brax), hence within reach but for the fingertip's own 1 cm. The
      target is a body of its own in Brax's model and keeps its mass.

    The params are the scales (26 numbers for the ant, 7 for the reacher), from which `reset`
    and `step` compute the body, so that batches of different bodies run under `vmap`.

    Args:
        body: `reacher` or `ant`.
        config: ranges and difficulty.
        backend: as in `BraxEnvironment`.
        **kwargs: settings of the Brax constructor.

    Raises:
        GlaError: as `BraxEnvironment`, if there is no such body, or if gravity is varied for the
            reacher.
    """

    def __init__(
        self,
        body: Body,
        config: RandomMorphologyConfig | None = None,
        backend: str | None = None,
        **kwargs: Any,
    ):
        bodies = get_args(Body)
        if body not in bodies:
            raise GlaError(
                f"RandomMorphology has no body {body!r}{near_matches(str(body), bodies)}",
                " or ".join(bodies),
            )
        self.config = config or RandomMorphologyConfig()
        if body == "reacher" and self.config.gravity is not None:
            raise GlaError(
                f"gravity of the reacher is {self.config.gravity}",
                "None, because its arm moves in a horizontal plane",
            )
        self.body = body
        super().__init__(body, backend, **kwargs)
        self.name = f"random {body}"
        self.horizon = self.config.horizon
        ranges = (self.config.length, self.config.mass, self.config.gear, self._gravity_range())
        varied = self.config.difficulty > 0 and any(low < high for low, high in ranges)
        self.distinct_tasks = math.inf if varied else 1
        self._picture: Any = None

    def sample_params(self, key: jax.Array) -> MorphologyParams:
        """Draw a body: every scale independently, log-uniform in its range."""
        length_key, mass_key, gear_key, gravity_key = jax.random.split(key, 4)
        c = self.config

        def draw(key, bounds, shape):
            low, high = (c.difficulty * math.log(bound) for bound in bounds)
            return jnp.exp(jax.random.uniform(key, shape, jnp.float32, low, high))

        return MorphologyParams(
            draw(length_key, c.length, (len(_LIMBS[self.body]),)),
            draw(mass_key, c.mass, (len(_MASSES[self.body]),)),
            draw(gear_key, c.gear, self.action_space.shape),
            draw(gravity_key, self._gravity_range(), ()),
        )

    def _gravity_range(self) -> Range:
        if self.body == "reacher":
            return 1.0, 1.0
        return self.config.gravity or _ANT_GRAVITY

    def _make(self, name: str, **kwargs: Any) -> Any:
        return _scalable_reacher()(**kwargs) if name == "reacher" else super()._make(name, **kwargs)

    def _simulator(self, params: Params) -> Any:
        simulator = copy.copy(self.simulator)
        length = _per_link(params.length, _LIMBS[self.body], simulator.sys.num_links())
        mass = _per_link(params.mass, _MASSES[self.body], simulator.sys.num_links())
        backend = simulator.backend
        system = scaled_system(
            simulator.sys,
            length,
            mass,
            params.gear,
            params.gravity,
            backend in ("spring", "positional"),
        )
        if self.body == "ant":
            rise = jnp.max(length[jnp.array(_FEET)])
            system = system.replace(init_q=system.init_q.at[2].multiply(rise))
            low, high = simulator._healthy_z_range
            simulator._healthy_z_range = low * rise, high * rise
        else:
            simulator.lengths = params.length
            # The target may now be farther away than its sliding joints of 0.27 m allow.
            widest = jnp.maximum(1.0, jnp.mean(params.length))
            wider = jnp.ones(system.qd_size()).at[2:].set(widest)
            limit = jax.tree.map(lambda bound: bound * wider, system.dof.limit)
            system = system.tree_replace({"dof.limit": limit})
            wider = jnp.ones(system.njnt).at[2:].set(widest)
            system = system.replace(jnt_range=system.jnt_range * wider[:, None])
        simulator.sys = system
        return simulator

    def _drawn_model(self, params: Params) -> Any:
        if self._picture is None:
            self._picture = copy.copy(self.simulator.sys.mj_model)
        base, model = self.simulator.sys.mj_model, self._picture
        length = np.ones(model.nbody)
        length[np.array(_LIMBS[self.body]) + 1] = np.asarray(params.length)  # body 0 is the world
        model.body_pos[:] = base.body_pos * length[model.body_parentid, None]
        for field in ("geom_pos", "geom_size"):
            scaled = getattr(base, field) * length[model.geom_bodyid, None]
            getattr(model, field)[:] = scaled
        model.geom_rbound[:] = base.geom_rbound * length[model.geom_bodyid]
        return model


def _per_link(scales: jax.Array, links: tuple[int, ...], count: int) -> jax.Array:
    """Spread the scales of some links over all of them, f32[count]; the others have 1."""
    return jnp.ones(count).at[np.array(links)].set(scales)


def scaled_system(
    system: Any,
    length: jax.Array,
    mass: jax.Array,
    gear: jax.Array,
    gravity: jax.Array,
    reduced: bool,
) -> Any:
    """Return a Brax system with other limbs, masses, motors and gravity.

    Both descriptions of the body that a system holds, Brax's and MJX's, are scaled.

    Args:
        system: a `brax.base.System`.
        length: f32[links], factor on each link's size and on where its children are attached.
        mass: f32[links], factor on each link's mass.
        gear: f32[k], factor on each motor's torque.
        gravity: f32[], factor on gravity.
        reduced: whether the backend replaces masses and inertias by powers of them.
    """
    parents = np.array(system.link_parents)
    inertia = mass * length**2
    # Where a link hangs is a matter of its parent's length; roots hang in the world.
    place = jnp.where(parents < 0, 1.0, length[parents])
    hold = jnp.where(parents < 0, mass, jnp.minimum(mass, mass[parents]))
    link, dof = system.link, system.dof
    moved = np.array([i for i, dofs in enumerate(system.dof_ranges()) for _ in dofs])
    own_mass, own_inertia = link.inertia.mass, link.inertia.i
    if reduced:
        own_mass = own_mass ** (1 - system.spring_mass_scale)
        diagonals = jax.vmap(jnp.diagonal)(own_inertia)
        own_inertia = jax.vmap(jnp.diag)(diagonals ** (1 - system.spring_inertia_scale))
        system = system.replace(spring_mass_scale=jnp.zeros(()), spring_inertia_scale=jnp.zeros(()))
    link = link.replace(
        transform=link.transform.replace(pos=link.transform.pos * place[:, None]),
        inertia=link.inertia.replace(
            transform=link.inertia.transform.replace(
                pos=link.inertia.transform.pos * length[:, None]
            ),
            mass=own_mass * mass,
            i=own_inertia * inertia[:, None, None],
        ),
        invweight=link.invweight / mass,
        constraint_stiffness=link.constraint_stiffness * hold,
        constraint_vel_damping=link.constraint_vel_damping * hold,
    )
    dof = dof.replace(
        armature=dof.armature * inertia[moved],
        invweight=dof.invweight / inertia[moved],
    )
    # MJX counts the world as body 0.
    body_length, body_mass, body_place, body_inertia = (
        jnp.concatenate([jnp.ones(1), factor]) for factor in (length, mass, place, inertia)
    )
    shape = body_length[np.asarray(system.geom_bodyid)]
    system = system.replace(
        link=link,
        dof=dof,
        actuator=system.actuator.replace(gear=system.actuator.gear * gear),
        gravity=system.gravity * gravity,
        geom_pos=system.geom_pos * shape[:, None],
        geom_size=system.geom_size * shape[:, None],
        geom_rbound=system.geom_rbound * shape,
        body_pos=system.body_pos * body_place[:, None],
        body_ipos=system.body_ipos * body_length[:, None],
        body_mass=system.body_mass * body_mass,
        body_inertia=system.body_inertia * body_inertia[:, None],
        body_invweight0=system.body_invweight0 / jnp.stack([body_mass, body_inertia], 1),
        dof_armature=system.dof_armature * inertia[moved],
        dof_invweight0=system.dof_invweight0 / inertia[moved],
        actuator_gear=system.actuator_gear * gear[:, None],
    )
    return system.tree_replace({"opt.gravity": system.opt.gravity * gravity})


@functools.cache
def _scalable_reacher() -> Any:
    """Return Brax's reacher with `lengths`, factors f32[2] on the lengths of its two links."""
    brax_envs()
    from brax import base
    from brax.envs import reacher

    class ScalableReacher(reacher.Reacher):
        lengths: Any = np.ones(2, np.float32)

        def _get_obs(self, pipeline_state: Any) -> jax.Array:
            angles, target = pipeline_state.q[:2], pipeline_state.q[2:]
            offset = base.Transform.create(
                pos=jnp.stack([0.11 * self.lengths[1], jnp.zeros(()), jnp.zeros(())])
            )
            tip = pipeline_state.x.take(1).do(offset).pos
            velocity = offset.do(pipeline_state.xd.take(1)).vel[:2]
            return jnp.concatenate(
                [
                    jnp.cos(angles),
                    jnp.sin(angles),
                    target,
                    velocity,
                    tip - pipeline_state.x.pos[2],
                ]
            )

        def _random_target(self, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
            rng, distance_key, angle_key = jax.random.split(rng, 3)
            first, second = 0.1 * self.lengths[0], 0.1 * self.lengths[1]
            nearest = jnp.abs(first - second)
            distance = nearest + (first + second - nearest) * jax.random.uniform(distance_key)
            angle = jnp.pi * 2.0 * jax.random.uniform(angle_key)
            return rng, distance * jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    return ScalableReacher


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _check_range(name: str, value: Any, optional: bool) -> None:
    """Raise unless `value` is a range (low, high) of scales, or None where that is allowed."""
    if value is None and optional:
        return
    fits = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_number, value))
    if not fits or not BOUNDS[0] <= value[0] <= value[1] <= BOUNDS[1]:
        raise GlaError(
            f"the range of {name} is {value!r}",
            f"two numbers (low, high) with {BOUNDS[0]} <= low <= high <= {BOUNDS[1]}",
        )
