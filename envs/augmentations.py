"""Changes of a task that leave its core as it is: projections, permutations, flips, noise, delays.

Each augmentation is a frozen dataclass of settings with pure functions. The same functions run on
JAX arrays inside jitted functional environments (`gla.envs.wrappers.Augmented`) and on numpy arrays
around host simulators (`gla.envs.host_wrappers`), so both kinds show an agent the same thing:

    env = augment(env, (SignFlip(seed=3), RandomProjection(seed=7)))   # innermost first

An augmentation that draws something has a `seed`. A whole number fixes the draw, to the bit, in
every process and for every kind of environment: keys are threefry2x32 whatever JAX's defaults are.
`seed=None` draws anew with every task that `sample_params` draws, which functional environments can
do; host environments draw no tasks and refuse it, unless they are given one seed per
sub-environment. Two augmentations of one kind and seed draw the same; of different kinds they do
not.

The task itself stays that of the bare environment: `sample_params` of an augmented environment
draws the same inner task from the same key, so that an agent can be compared on the two.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla import projection as proj
from gla.envs.base import Environment, is_discrete
from gla.errors import GlaError

# What an augmentation drew: a pytree of arrays, or () where it draws nothing.
Parameters = Any
# Actions on their way, f32[d, ..., k] or i32[d, ...], or None where nothing is remembered.
Memory = Any
Range = tuple[float, float]

MAX_SEED = 2**32 - 1
_PRNG = "threefry2x32"
# Keys are derived by words far from the small numbers by which environments split their own.
_TASK_STREAM = 0x41554700
_NOISE_STREAM = 0x4E4F4900


def sizes(observations: gymnasium.Space, actions: gymnasium.Space) -> tuple[int, int]:
    """Return n observations and k actions (of a Discrete space: how many there are)."""
    n = int((observations.shape or (0,))[0])
    return n, int(actions.n) if is_discrete(actions) else int((actions.shape or (0,))[0])  # type: ignore[attr-defined]


def check_spaces(name: str, observations: gymnasium.Space, actions: gymnasium.Space) -> None:
    """Raise `GlaError` unless observations are a 1-D Box and actions a 1-D Box or Discrete."""
    box = gymnasium.spaces.Box
    flat = isinstance(observations, box) and len(observations.shape) == 1
    if not flat:
        raise GlaError(f"{name} has observations {observations}", "a Box with one axis")
    if not (is_discrete(actions) or (isinstance(actions, box) and len(actions.shape) == 1)):
        raise GlaError(f"{name} has actions {actions}", "a Box with one axis, or a Discrete space")


class Augmentation:
    """What all augmentations share; each maps nothing unless it says otherwise.

    Functions take arrays with any leading axes, of JAX or of numpy, and return the same kind. To
    write another, subclass it as a frozen dataclass.

    Attributes:
        seed: fixes what is drawn; None draws per task, or there is nothing to draw.
        stream: word that keeps draws of different augmentations apart where seeds are equal.
    """

    seed: int | None = None
    stream: ClassVar[int] = 0

    @property
    def random(self) -> bool:
        """Whether anything is drawn, so that seeds matter."""
        return False

    @property
    def keeps_optimum(self) -> bool:
        """Whether the best action of every state stays what it was (no action or reward changes).

        Oracles of the wrapped environment are passed on exactly then.
        """
        return False

    def spaces(
        self, name: str, observations: gymnasium.spaces.Box, actions: gymnasium.Space
    ) -> tuple[gymnasium.spaces.Box, gymnasium.Space]:
        """Return the (observation, action) spaces that the agent sees, given the task's.

        Args:
            name: the environment, for messages.
            observations: the task's observation space.
            actions: the task's action space.

        Raises:
            GlaError: if the augmentation does not fit the task.
        """
        del name
        return observations, actions

    def distinct(self, observation_size: int, action_size: int) -> float:
        """Return how many different draws there are, `math.inf` for a continuous range."""
        del observation_size, action_size
        return 1

    def draw(self, key: jax.Array, observation_size: int, action_size: int) -> Parameters:
        """Draw the parameters for a task of n observations and k actions; pure and jittable."""
        del key, observation_size, action_size
        return ()

    def memory(self, actions: gymnasium.Space) -> np.ndarray | None:
        """Return what is remembered at the start of an episode, given the task's actions."""
        del actions
        return None

    def noise_size(self, observation_size: int) -> int:
        """Return how many standard normals `map_observation` takes, 0 for none."""
        del observation_size
        return 0

    def map_observation(self, parameters: Parameters, observation: Any, noise: Any = None) -> Any:
        """Map task observations f32[..., n] to those that the agent sees, f32[..., n'].

        Args:
            parameters: as drawn.
            observation: f32[..., n].
            noise: standard normals f32[..., noise_size], or None where there are none.
        """
        del parameters, noise
        return observation

    def map_action(self, parameters: Parameters, memory: Memory, action: Any) -> tuple[Memory, Any]:
        """Map the agent's actions (f32[..., k'], or i32[...]) to the task's; return memory too."""
        del parameters
        return memory, action

    def map_reward(self, parameters: Parameters, reward: Any) -> Any:
        """Map rewards, floats [...], to those that the agent sees."""
        del parameters
        return reward


@dataclass(frozen=True, kw_only=True)
class _Seeded(Augmentation):
    """An augmentation that draws something.

    Attributes:
        seed: whole number from 0 to 2^32 - 1, or None: drawn anew for every task.
    """

    seed: int | None = 0

    def __post_init__(self):
        if self.seed is not None:
            check_seed(type(self).__name__, self.seed)

    @property
    def random(self) -> bool:
        """Whether anything is drawn."""
        return True


def check_seed(name: str, seed: Any) -> int:
    """Return a seed as an int.

    Raises:
        GlaError: if it is no whole number from 0 to 2^32 - 1.
    """
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not whole or not 0 <= seed <= MAX_SEED:
        raise GlaError(
            f"seed of {name} is {seed!r}",
            "a whole number from 0 to 2^32 - 1 (None, where tasks are drawn: one for each)",
        )
    return int(seed)


@dataclass(frozen=True)
class RandomProjection(_Seeded):
    """Random linear maps of observations and actions (`gla.projection`).

    Paper: "Towards General-Purpose In-Context Learning Agents", section 2. Box actions of the task
    should span [-1, 1].

    Attributes:
        observation_dim: length of the observations that the agent sees.
        action_dim: length of the agent's actions, or its number of action slots.
        kind: as in `gla.projection.ProjectionConfig`.
        seed: as in every augmentation.

    Raises:
        GlaError: if a setting makes no sense; in `spaces`, if the task is larger than the
            projection.
    """

    observation_dim: int = 64
    action_dim: int = 16
    kind: proj.Kind = "gaussian"

    def __post_init__(self):
        super().__post_init__()
        _ = self.config  # its own checks

    @property
    def config(self) -> proj.ProjectionConfig:
        """The settings as `gla.projection` takes them."""
        return proj.ProjectionConfig(self.observation_dim, self.action_dim, self.kind)

    def spaces(
        self, name: str, observations: gymnasium.spaces.Box, actions: gymnasium.Space
    ) -> tuple[gymnasium.spaces.Box, gymnasium.Space]:
        """Return an unbounded Box and a Box (or slots) of the projection's sizes."""
        proj.check_sizes(self.config, *sizes(observations, actions), name)
        seen = gymnasium.spaces.Box(-np.inf, np.inf, (self.observation_dim,), np.float32)
        if is_discrete(actions):
            return seen, gymnasium.spaces.Discrete(self.action_dim)
        # Task actions are clipped by the task, so agent actions need no tighter bound than this.
        bound = float(np.sqrt(self.action_dim))
        return seen, gymnasium.spaces.Box(-bound, bound, (self.action_dim,), np.float32)

    def distinct(self, observation_size: int, action_size: int) -> float:
        """Return infinity, or 1 for the identity."""
        return 1 if self.kind == "identity" else math.inf

    def draw(self, key: jax.Array, observation_size: int, action_size: int) -> proj.Projection:
        """Draw a projection."""
        return proj.sample(key, self.config, observation_size, action_size)

    def map_observation(
        self, parameters: proj.Projection, observation: Any, noise: Any = None
    ) -> Any:
        """Project f32[..., n] to f32[..., observation_dim]."""
        del noise
        return proj.project_observation(parameters, observation)

    def map_action(
        self, parameters: proj.Projection, memory: Memory, action: Any
    ) -> tuple[Memory, Any]:
        """Lower f32[..., action_dim] to f32[..., k], or slots to task actions."""
        return memory, proj.lower_action(parameters, action)


class Pair(NamedTuple):
    """One array for observations and one for actions; None for what stays as it is.

    Attributes:
        observation: [n], or None.
        action: [k], or None.
    """

    observation: Any
    action: Any


@dataclass(frozen=True)
class _Sides(_Seeded, abc.ABC):
    """An augmentation that changes observations, actions or both.

    Attributes:
        observations: whether observations are changed.
        actions: whether actions are changed.
        seed: as in every augmentation.
    """

    observations: bool = True
    actions: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not (self.observations or self.actions):
            raise GlaError(
                f"{type(self).__name__} changes neither observations nor actions",
                "at least one of observations=True and actions=True",
            )

    @property
    def keeps_optimum(self) -> bool:
        """Whether actions are left alone."""
        return not self.actions

    def draw(self, key: jax.Array, observation_size: int, action_size: int) -> Pair:
        """Draw what is changed."""
        one, two = jax.random.split(key)
        return Pair(
            self._draw_one(one, observation_size) if self.observations else None,
            self._draw_one(two, action_size) if self.actions else None,
        )

    @abc.abstractmethod
    def _draw_one(self, key: jax.Array, size: int) -> jax.Array:
        """Draw one array, [size]."""


@dataclass(frozen=True)
class Permutation(_Sides):
    """Random order of the entries of observations and of actions (Discrete: of the actions).

    Attributes:
        observations: whether observation entries are permuted.
        actions: whether action entries, or discrete actions, are permuted.
        seed: as in every augmentation.

    Raises:
        GlaError: if nothing is permuted.
    """

    stream: ClassVar[int] = 0x5045524D

    def spaces(
        self, name: str, observations: gymnasium.spaces.Box, actions: gymnasium.Space
    ) -> tuple[gymnasium.spaces.Box, gymnasium.Space]:
        """Return the same spaces, with the widest bounds for every entry that may move."""
        del name
        if self.observations:
            observations = _widest(observations)
        if self.actions and isinstance(actions, gymnasium.spaces.Box):
            actions = _widest(actions)
        return observations, actions

    def distinct(self, observation_size: int, action_size: int) -> float:
        """Return n! k! (of what is permuted), or infinity beyond floating point."""
        logs = math.lgamma(observation_size + 1) * self.observations
        logs += math.lgamma(action_size + 1) * self.actions
        return float(round(math.exp(logs))) if logs < 700 else math.inf

    def _draw_one(self, key: jax.Array, size: int) -> jax.Array:
        return jax.random.permutation(key, size).astype(jnp.int32)

    def map_observation(self, parameters: Pair, observation: Any, noise: Any = None) -> Any:
        """Permute f32[..., n]."""
        del noise
        if parameters.observation is None:
            return observation
        return observation[..., parameters.observation]

    def map_action(self, parameters: Pair, memory: Memory, action: Any) -> tuple[Memory, Any]:
        """Permute f32[..., k], or look discrete actions up."""
        if parameters.action is None:
            return memory, action
        if np.issubdtype(action.dtype, np.integer):
            return memory, parameters.action[action]
        return memory, action[..., parameters.action]


@dataclass(frozen=True)
class SignFlip(_Sides):
    """Random signs of the entries of observations and of actions.

    Attributes:
        observations: whether observation entries are flipped.
        actions: whether action entries are flipped; Box actions only.
        seed: as in every augmentation.

    Raises:
        GlaError: if nothing is flipped; in `spaces`, if actions are to be flipped that are
            discrete, or whose bounds are not symmetric about zero.
    """

    stream: ClassVar[int] = 0x5349474E

    def spaces(
        self, name: str, observations: gymnasium.spaces.Box, actions: gymnasium.Space
    ) -> tuple[gymnasium.spaces.Box, gymnasium.Space]:
        """Return the same spaces, with symmetric bounds for observations."""
        if self.observations:
            bound = np.maximum(np.abs(observations.low), np.abs(observations.high))
            observations = gymnasium.spaces.Box(-bound, bound, dtype=np.float32)
        if self.actions and (
            not isinstance(actions, gymnasium.spaces.Box) or np.any(actions.low != -actions.high)
        ):
            what = "discrete" if is_discrete(actions) else "not symmetric about zero"
            raise GlaError(
                f"{name} has actions that are {what} ({actions}), so they have no signs to flip",
                "a Box from -x to x",
                "SignFlip(actions=False), or Permutation for discrete actions",
            )
        return observations, actions

    def distinct(self, observation_size: int, action_size: int) -> float:
        """Return 2 to the number of signs, or infinity beyond floating point."""
        signs = observation_size * self.observations + action_size * self.actions
        return 2.0**signs if signs < 1000 else math.inf

    def _draw_one(self, key: jax.Array, size: int) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, 0.5, (size,)), 1.0, -1.0).astype(jnp.float32)

    def map_observation(self, parameters: Pair, observation: Any, noise: Any = None) -> Any:
        """Flip f32[..., n]."""
        del noise
        if parameters.observation is None:
            return observation
        return observation * parameters.observation

    def map_action(self, parameters: Pair, memory: Memory, action: Any) -> tuple[Memory, Any]:
        """Flip f32[..., k]."""
        if parameters.action is None:
            return memory, action
        return memory, action * parameters.action


class Affine(NamedTuple):
    """Reward seen = scale * reward + shift.

    Attributes:
        scale: f32[].
        shift: f32[].
    """

    scale: Any
    shift: Any


@dataclass(frozen=True)
class RewardScale(_Seeded):
    """Scales rewards, then shifts them.

    Attributes:
        scale: a number other than 0, or (low, high) to draw from log-uniformly, of one sign.
        shift: a number, or (low, high) to draw from uniformly, added at every step.
        seed: as in every augmentation; it matters where a range is given.

    Raises:
        GlaError: if a number is not finite, a range is empty, or a scale is 0.
    """

    stream: ClassVar[int] = 0x52455753

    scale: float | Range = 1.0
    shift: float | Range = 0.0

    def __post_init__(self):
        super().__post_init__()
        low, high = _range("reward scale", self.scale)
        if low <= 0 <= high:
            raise GlaError(
                f"reward scale is {self.scale!r}",
                "a number other than 0, or a range without it",
                "RewardMask hides rewards",
            )
        _range("reward shift", self.shift)

    @property
    def random(self) -> bool:
        """Whether a range is given."""
        return _wide(self.scale) or _wide(self.shift)

    def distinct(self, observation_size: int, action_size: int) -> float:
        """Return infinity where a range is given, or 1."""
        return math.inf if self.random else 1

    def draw(self, key: jax.Array, observation_size: int, action_size: int) -> Affine:
        """Draw scale and shift."""
        one, two = jax.random.split(key)
        low, high = _range("reward scale", self.scale)
        if low == high:
            scale = jnp.float32(low)
        else:
            logs = sorted((math.log(abs(low)), math.log(abs(high))))
            scale = jnp.exp(_uniform(one, *logs)) * math.copysign(1.0, low)
        return Affine(scale, _uniform(two, *_range("reward shift", self.shift)))

    def map_reward(self, parameters: Affine, reward: Any) -> Any:
        """Return scale * reward + shift."""
        return reward * parameters.scale + parameters.shift


@dataclass(frozen=True)
class RewardMask(Augmentation):
    """Hides rewards: the agent sees 0 at every step.

    What an agent gains over the same environment with this mask is what it learned from rewards.
    """

    def map_reward(self, parameters: Parameters, reward: Any) -> Any:
        """Return zeros."""
        del parameters
        return jnp.zeros_like(reward) if isinstance(reward, jax.Array) else np.zeros_like(reward)


class Spread(NamedTuple):
    """Standard deviation of noise on an observation o: relative * |o| + absolute.

    Attributes:
        relative: f32[].
        absolute: f32[].
    """

    relative: Any
    absolute: Any


@dataclass(frozen=True)
class ObservationNoise(_Seeded):
    """Gaussian sensor noise, new at every step and independent for every entry.

    An entry o is read as o + (std |o| + absolute_std) e with e ~ N(0, 1): a share of the reading
    and a floor that is there at zero too. The noise follows the keys of reset and step (functional)
    or `reset(seed=...)` (host); `seed` draws its size.

    Attributes:
        std: standard deviation as a share of each entry, >= 0, or (low, high) to draw from
            uniformly.
        absolute_std: standard deviation in units of the observation, >= 0, or (low, high).
        seed: as in every augmentation; it matters where a range is given.

    Raises:
        GlaError: if a number is negative or not finite, or a range is empty.
    """

    stream: ClassVar[int] = 0x4E4F4953

    std: float | Range = 0.1
    absolute_std: float | Range = 0.0

    def __post_init__(self):
        super().__post_init__()
        _range("noise std", self.std, least=0.0)
        _range("noise absolute_std", self.absolute_std, least=0.0)

    @property
    def random(self) -> bool:
        """Whether a range is given."""
        return _wide(self.std) or _wide(self.absolute_std)

    @property
    def keeps_optimum(self) -> bool:
        """True: only observations change."""
        return True

    def spaces(
        self, name: str, observations: gymnasium.spaces.Box, actions: gymnasium.Space
    ) -> tuple[gymnasium.spaces.Box, gymnasium.Space]:
        """Return an unbounded observation space and the same actions."""
        del name
        return gymnasium.spaces.Box(-np.inf, np.inf, observations.shape, np.float32), actions

    def distinct(self, observation_size: int, action_size: int) -> float:
        """Return infinity where a range is given, or 1."""
        return math.inf if self.random else 1

    def draw(self, key: jax.Array, observation_size: int, action_size: int) -> Spread:
        """Draw the size of the noise."""
        one, two = jax.random.split(key)
        return Spread(
            _uniform(one, *_range("noise std", self.std)),
            _uniform(two, *_range("noise absolute_std", self.absolute_std)),
        )

    def noise_size(self, observation_size: int) -> int:
        """Return one normal per entry."""
        return observation_size

    def map_observation(self, parameters: Spread, observation: Any, noise: Any = None) -> Any:
        """Add noise to f32[..., n]."""
        return observation + (abs(observation) * parameters.relative + parameters.absolute) * noise


@dataclass(frozen=True)
class ActionDelay(_Seeded):
    """Lets actions take effect some steps late.

    At step t of an episode the task gets the action of step t - d. Before that it gets zeros (the
    nearest allowed numbers, where zero is out of bounds) or, where actions are discrete, action 0.
    Every episode starts anew.

    Attributes:
        steps: the delay d, a whole number >= 0, or (low, high), both included, to draw from.
        seed: as in every augmentation; it matters where a range is given.

    Raises:
        GlaError: if a delay is negative or no whole number, or a range is empty.
    """

    stream: ClassVar[int] = 0x44454C59

    steps: int | tuple[int, int] = 1

    def __post_init__(self):
        super().__post_init__()
        low, high = _range("action delay", self.steps, least=0)
        if low != int(low) or high != int(high):
            raise GlaError(f"action delay is {self.steps!r}", "a whole number of steps")

    @property
    def _bounds(self) -> tuple[int, int]:
        low, high = _range("action delay", self.steps)
        return int(low), int(high)

    @property
    def random(self) -> bool:
        """Whether a range is given."""
        return _wide(self.steps)

    def distinct(self, observation_size: int, action_size: int) -> float:
        """Return the number of different delays."""
        low, high = self._bounds
        return high - low + 1

    def draw(self, key: jax.Array, observation_size: int, action_size: int) -> jax.Array:
        """Draw the delay, i32[]."""
        low, high = self._bounds
        return jax.random.randint(key, (), low, high + 1, jnp.int32)

    def memory(self, actions: gymnasium.Space) -> np.ndarray:
        """Return the actions before the first: f32[high, k] or i32[high], oldest first."""
        high = self._bounds[1]
        if isinstance(actions, gymnasium.spaces.Box):
            rest = np.clip(np.float32(0.0), actions.low, actions.high).astype(np.float32)
            return np.broadcast_to(rest, (high, *rest.shape)).copy()
        return np.zeros(high, np.int32)

    def map_action(self, parameters: Any, memory: Memory, action: Any) -> tuple[Memory, Any]:
        """Queue the action and return the one whose time has come; the memory keeps its type."""
        xp: Any = jnp if isinstance(memory, jax.Array) else np
        queue = xp.concatenate([memory, xp.asarray(action, memory.dtype)[None]])
        # The queue's last entry is this action, the one before it the previous step's, and so on.
        return queue[1:], queue[len(memory) - parameters]


def _range(what: str, value: Any, least: float = -math.inf) -> Range:
    """Return a number x as (x, x), and a pair as it is, after checks."""
    pair = value if isinstance(value, tuple) else (value, value)
    numbers = all(
        isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)
        for x in pair
    )
    if len(pair) != 2 or not numbers or not all(math.isfinite(x) for x in pair):
        raise GlaError(f"{what} is {value!r}", "a finite number, or a pair (low, high)")
    low, high = float(pair[0]), float(pair[1])
    if low > high:
        raise GlaError(f"{what} is {value!r}, from {low:g} down to {high:g}", "low <= high")
    if low < least:
        raise GlaError(f"{what} is {value!r}", f"at least {least:g}")
    return low, high


def _wide(value: Any) -> bool:
    """Return whether a checked setting is a range with more than one number in it."""
    return isinstance(value, tuple) and value[0] != value[1]


def _uniform(key: jax.Array, low: float, high: float) -> jax.Array:
    """Draw from [low, high), f32[]; exactly `low` where the two are equal."""
    if low == high:
        return jnp.float32(low)
    return jax.random.uniform(key, (), jnp.float32, low, high)


def _widest(box: gymnasium.spaces.Box) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(float(box.low.min()), float(box.high.max()), box.shape, np.float32)


def per_task(augmentation: Augmentation) -> bool:
    """Return whether every task gets a draw of its own (`seed=None` and something to draw)."""
    return augmentation.random and augmentation.seed is None


def task_parameters(
    augmentation: Augmentation,
    key: jax.Array,
    observation_size: int,
    action_size: int,
    depth: int = 0,
) -> Parameters:
    """Draw the parameters that belong to the task of `key`; pure and jittable.

    Args:
        augmentation: one with `seed=None`.
        key: the key of the task itself.
        observation_size: n, of the task.
        action_size: k, of the task.
        depth: number of augmentations inside this one, which keeps their draws apart.
    """
    return augmentation.draw(
        jax.random.fold_in(key, _TASK_STREAM + depth), observation_size, action_size
    )


@functools.lru_cache(maxsize=512)
def fixed_parameters(
    augmentation: Augmentation, observation_size: int, action_size: int
) -> Parameters:
    """Draw the parameters of an augmentation's seed, the same in every process.

    Neither JAX's default generator, nor its precision, nor a trace that is under way changes them.

    Args:
        augmentation: one with a seed, or with nothing to draw.
        observation_size: n, of the task.
        action_size: k, of the task.

    Returns:
        The parameters as read-only numpy arrays.
    """
    with (
        jax.ensure_compile_time_eval(),
        jax.threefry_partitionable(True),
        jax.enable_x64(False),
    ):
        key = jax.random.key(augmentation.seed or 0, impl=_PRNG)
        if augmentation.stream:
            key = jax.random.fold_in(key, augmentation.stream)
        drawn = augmentation.draw(key, observation_size, action_size)
        arrays = jax.tree.map(np.array, drawn)
    for array in jax.tree.leaves(arrays):
        array.flags.writeable = False
    return arrays


def host_parameters(
    augmentation: Augmentation, seed: int | None, observation_size: int, action_size: int
) -> Parameters:
    """Draw the parameters of a seed for a host environment, as numpy arrays.

    They are those of a functional environment with this seed.

    Raises:
        GlaError: if the seed is None and something has to be drawn.
    """
    if seed is None and augmentation.random:
        raise GlaError(
            f"seed of {type(augmentation).__name__} is None, but host environments draw no tasks",
            "a whole number, or one per sub-environment (seeds=... of HostAugmented)",
        )
    if augmentation.random:
        augmentation = replace(augmentation, seed=seed)  # type: ignore[type-var]
    return fixed_parameters(augmentation, observation_size, action_size)


def noise_key(key: jax.Array, depth: int) -> jax.Array:
    """Return the key of the observation noise in the reset or step of `key`."""
    return jax.random.fold_in(key, _NOISE_STREAM + depth)


def noise_generator(seed: int | None, depth: int) -> np.random.Generator:
    """Return the generator of a host environment's noise, apart from the simulator's own."""
    return np.random.default_rng(None if seed is None else [seed, _NOISE_STREAM + depth])


def depth_of(env: Any) -> int:
    """Return how many augmentations an environment of either kind already has."""
    depth = 0
    while env is not None:
        depth += isinstance(getattr(env, "augmentation", None), Augmentation)
        env = getattr(env, "env", None)
    return depth


def augment(env: Any, augmentations: Iterable[Augmentation]) -> Any:
    """Apply augmentations to an environment of any kind, innermost first.

    Args:
        env: an `Environment`, a Gymnasium vector environment or a single Gymnasium environment.
        augmentations: any number of augmentations.

    Returns:
        An environment of the same kind: `gla.envs.wrappers.Augmented`,
        `gla.envs.host_wrappers.HostAugmented` or `AugmentedHostEnv`; `env` itself for none.

    Raises:
        GlaError: if one of them does not fit, or is no augmentation.
    """
    from gla.envs import host_wrappers, wrappers

    wrap: Any
    if isinstance(env, Environment):
        wrap = wrappers.Augmented
    elif isinstance(env, gymnasium.vector.VectorEnv):
        wrap = host_wrappers.HostAugmented
    elif isinstance(env, gymnasium.Env):
        wrap = host_wrappers.AugmentedHostEnv
    else:
        raise GlaError(f"{env!r} is no environment", "an Environment or a Gymnasium environment")
    if not isinstance(augmentations, Iterable):
        raise GlaError(
            f"augmentations are {augmentations!r}", "a sequence, such as (SignFlip(seed=0),)"
        )
    for augmentation in augmentations:
        env = wrap(env, augmentation)
    return env


def check_augmentation(augmentation: Any) -> Augmentation:
    """Return an augmentation.

    Raises:
        GlaError: if it is none.
    """
    if not isinstance(augmentation, Augmentation):
        raise GlaError(
            f"augmentation is {augmentation!r}",
            "one of gla.envs.augmentations, such as SignFlip(seed=0)",
        )
    return augmentation
