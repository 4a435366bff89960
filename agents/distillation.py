"""Histories made of policies that were learned before, without learning again.

`NoiseDistilledMaker` plays an expert through noise that fades, which looks like learning:
AD^eps (Zisman et al. 2024, "Emergence of In-Context Reinforcement Learning from Noise
Distillation"), for continuous actions as in Vintix (Polubarov et al. 2025, "Vintix: Action Model
via In-Context Reinforcement Learning"). `MixedQualityMaker` plays policies of all qualities in
turns and labels what they saw with the best one, as OmniRL does (Wang et al. 2025). Both take their
policies from a history store of PPO (`gla.agents.collect`), run by run and so task by task.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gla import policy as pol
from gla.agents import ppo
from gla.agents.blocks import check_seed
from gla.agents.rollouts import (
    Fixed,
    RolloutConfig,
    RolloutMaker,
    Rows,
    Schedule,
    make_meta,
    plain_environment,
)
from gla.envs import registry
from gla.envs.base import Environment, Params, State
from gla.envs.splits import RunKeys, Split
from gla.errors import GlaError
from gla.histories import HistoryMeta, HistoryStore, identity

# Variance of uniform actions in [-1, 1].
UNIFORM_VARIANCE = 1.0 / 3.0


@dataclass(frozen=True, kw_only=True)
class DistilledConfig(RolloutConfig):
    """What is taken from a store of PPO's histories.

    Attributes:
        experts: the store whose policies act, collected with `gla collect ppo`: a folder, or a URL
            that TensorStore knows.
        environment: None for that of the experts; any other is refused.
        runs: number of runs, each on the task of the experts' run of the same number; None for as
            many as the experts have, which is the most there can be.
        seed: None for that of the experts; any other is refused.
        split: None for that of the experts; any other is refused.
    """

    experts: str
    environment: str | None = None
    runs: int | None = None
    seed: int | None = None
    split: Split | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.runs is not None:
            self._check_counts("runs")
        if self.seed is not None:
            check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class NoiseDistilledConfig(DistilledConfig):
    """Histories of an expert behind fading noise.

    Attributes:
        noise: share eps of uniform noise in the behaviour, from 1 (random) to 0 (the expert).
    """

    noise: Schedule = field(default_factory=Schedule)

    def __post_init__(self):
        super().__post_init__()
        self.noise.check("noise", 0.0, 1.0)


class Experts:
    """The policies of a store of PPO's histories, and the tasks that they were learned on.

    Args:
        config: which store, and what it should hold.

    Raises:
        GlaError: if there is no such store, it is incomplete, holds no policies, or other tasks
            than the configuration asks for.
    """

    def __init__(self, config: DistilledConfig):
        self.store = HistoryStore.open(config.experts)
        self.meta: HistoryMeta = self.store.meta
        where = f"the experts' store {self.store.path}"
        if "policy" not in self.meta.arrays:
            raise GlaError(
                f"{where} holds no policies (it was made by {self.meta.method})",
                "histories collected with `gla collect ppo`",
            )
        environment = config.environment and registry.resolve(config.environment).id
        for name, wanted in (
            ("environment", environment), ("seed", config.seed), ("split", config.split),
        ):  # fmt: skip
            found = getattr(self.meta, name)
            if wanted is not None and wanted != found:
                raise GlaError(
                    f"{where} has {name} {found!r} instead of {wanted!r}",
                    "experts of the same tasks",
                    f"leave {name} out, or collect experts for it",
                )
        self.runs: int = config.runs or self.meta.runs
        if self.runs > self.meta.runs:
            raise GlaError(f"{where} has {self.meta.runs} runs instead of {self.runs}", "as many")
        lacking = [block for block in self.store.missing_blocks() if self._needs(block)]
        if lacking:
            raise GlaError(
                f"{where} is not complete (block {lacking[0]} is missing)",
                mend="run the `gla collect ppo` that made it again",
            )
        self.shape = pol.PolicyShape(
            self.meta.observation_size, self.meta.action_size, self.meta.hidden, self.meta.discrete
        )

    def _needs(self, block: int) -> bool:
        return self.meta.block_runs(block).start < self.runs

    def check_environment(self, env_meta: HistoryMeta) -> None:
        """Raise a `GlaError` unless the policies fit an environment's observations and actions."""
        for name in ("observation_size", "action_size", "discrete"):
            found, wanted = getattr(self.meta, name), getattr(env_meta, name)
            if found != wanted:
                raise GlaError(
                    f"the experts of {self.meta.environment} have {name} {found} instead of "
                    f"{wanted}",
                    "experts of this version of the environment",
                )

    @property
    def name(self) -> str:
        """The same for the same experts, wherever they lie, and different for others."""
        content = json.dumps(identity(self.meta), sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        return (
            f"{self.meta.method} on {self.meta.environment}, {self.meta.updates} updates, {digest}"
        )

    def versions(self, runs: range, numbers: np.ndarray) -> np.ndarray:
        """Read versions of the policies of some runs.

        Args:
            runs: which.
            numbers: i32[runs, V], the updates whose policies are wanted.

        Returns:
            f32[runs, V, P], for `gla.policy.unflatten`.

        Raises:
            GlaError: if the store is damaged.
        """
        # One run at a time: all versions of many runs need not fit into memory.
        return np.stack(
            [
                self.store.read("policy", [run])[0, row]
                for run, row in zip(runs, numbers, strict=True)
            ]
        )

    def last(self, runs: range) -> np.ndarray:
        """Read the last policies of some runs, f32[runs, P]; errors as `versions`."""
        return self.versions(runs, np.full((len(runs), 1), self.meta.updates - 1))[:, 0]

    @functools.cached_property
    def every_last(self) -> np.ndarray:
        """The last policies of all runs, f32[runs, P], read once."""
        return self.last(range(self.runs))


class Heads(NamedTuple):
    """What a policy says about a state.

    Attributes:
        mean: f32[..., k], the Gaussian's mean or log-probabilities.
        log_std: f32[..., k], of the Gaussian; zeros for discrete actions.
    """

    mean: jax.Array
    log_std: jax.Array


def heads(params: pol.PolicyParams, observation: jax.Array, discrete: bool) -> Heads:
    """Return a policy's distribution at raw observations f32[..., n]."""
    if discrete:
        mean = jax.nn.log_softmax(pol.output(params, observation))
        return Heads(mean, jnp.zeros_like(mean))
    mean, log_std = pol.gaussian(params, observation)
    return Heads(mean, jnp.broadcast_to(log_std, mean.shape))


def mix(heads: Heads, share: jax.Array, discrete: bool) -> Heads:
    """Return the distribution of a policy behind noise.

    For discrete actions it is the mixture (1 - eps) pi + eps / k, exactly. For continuous ones the
    action (1 - eps) a + eps u, with a from the policy and u uniform in [-1, 1], is no Gaussian;
    what is returned is the Gaussian of the same mean, (1 - eps) mu, and the same variance,
    (1 - eps)^2 sigma^2 + eps^2 / 3, in each coordinate.

    Args:
        heads: of the policy, leaves f32[..., k].
        share: eps, f32[...] or a shape that broadcasts to it, in [0, 1].
        discrete: whether actions are discrete.
    """
    share = jnp.asarray(share)[..., None]
    kept = 1.0 - share
    if discrete:
        uniform = jnp.log(share) - jnp.log(heads.mean.shape[-1])
        return Heads(jnp.logaddexp(jnp.log(kept) + heads.mean, uniform), heads.log_std)
    variance = (kept * jnp.exp(heads.log_std)) ** 2 + share**2 * UNIFORM_VARIANCE
    return Heads(kept * heads.mean, 0.5 * jnp.log(variance))


class Noise(NamedTuple):
    """Noise of actions: standard `policy` f32[..., k] and `uniform` f32[..., k] in [-1, 1].

    For discrete actions `policy` is Gumbel noise and `uniform` is not used.
    """

    policy: jax.Array
    uniform: jax.Array


def draw_noise(key: jax.Array, shape: tuple[int, ...], discrete: bool) -> Noise:
    """Draw noise of actions of a shape (..., k)."""
    policy_key, uniform_key = jax.random.split(key)
    own = ppo.draw_noise(policy_key, shape, discrete)
    if discrete:
        return Noise(own, jnp.zeros((*shape[:-1], 0)))
    return Noise(own, jax.random.uniform(uniform_key, shape, minval=-1.0, maxval=1.0))


def sample(heads: Heads, share: jax.Array, noise: Noise, discrete: bool) -> jax.Array:
    """Sample actions f32[..., k] or i32[...] of a policy behind noise; arguments as in `mix`."""
    if discrete:
        return jnp.argmax(mix(heads, share, True).mean + noise.policy, -1).astype(jnp.int32)
    share = jnp.asarray(share)[..., None]
    own = heads.mean + jnp.exp(heads.log_std) * noise.policy
    return (1.0 - share) * own + share * noise.uniform


class _DistilledMaker(RolloutMaker):
    """Rolls out what `Experts` holds."""

    method: str

    def __init__(self, config: DistilledConfig):
        self.experts = experts = Experts(config)
        env: Environment = plain_environment(experts.meta.environment, self.method)
        meta = make_meta(
            config, env, self.method, experts.meta.environment, experts.runs, experts.meta.split,
            experts.meta.seed, config.streams_per_run, experts=experts.name,
        )  # fmt: skip
        experts.check_environment(meta)
        super().__init__(env, meta, config.window)

    def draw(self, key: jax.Array) -> Any:
        """Draw the noise of the actions."""
        meta = self._meta
        shape = (meta.steps, meta.parallel_envs, meta.action_size)
        return draw_noise(key, shape, meta.discrete)


class NoiseDistilledMaker(_DistilledMaker):
    """Makes histories of an expert behind fading noise.

    The expert of a run is the last policy of the same run of PPO. In every step the share eps of
    noise is that of the schedule: continuous actions are (1 - eps) a + eps u, with a drawn from the
    expert and u uniform in [-1, 1] (Vintix); discrete ones are drawn from (1 - eps) pi + eps / k
    (AD^eps).

    `distribution` is what `mix` says of each step, exactly for discrete actions and by its first
    two moments for continuous ones; of the latter the standard deviation, which is stored once per
    update, is that at the middle of the update. `target` is the expert's own distribution at every
    state.

    Args:
        config: what to make.

    Raises:
        GlaError: if the experts do not fit (`Experts`).
    """

    method = "noise-distilled"

    def __init__(self, config: NoiseDistilledConfig):
        self.config = config
        super().__init__(config)

    def given(self, runs: range) -> np.ndarray:
        """Return the last policies, f32[runs, P]."""
        return self.experts.last(runs)

    def prepare(self, keys: RunKeys, params: Params, given: Any) -> pol.PolicyParams:
        """Return the expert."""
        del keys, params
        return pol.unflatten(self.experts.shape, given)

    def act(
        self,
        fixed: Fixed,
        memory: Any,
        step: jax.Array,
        noise: Any,
        env_state: State,
        observation: jax.Array,
    ) -> tuple[Any, jax.Array, Rows]:
        """Let the expert act behind noise."""
        del env_state
        discrete, share = self._meta.discrete, self.config.noise.at(self.share(step))
        expert = heads(fixed.own, observation, discrete)
        rows = {"distribution": mix(expert, share, discrete).mean, "target": expert.mean}
        return memory, sample(expert, share, noise, discrete), rows

    def complete(self, fixed: Fixed, update: jax.Array, rows: Rows) -> tuple[Rows, jax.Array]:
        """Add the standard deviation at the middle of the update."""
        middle = update * self._meta.steps + 0.5 * (self._meta.steps - 1)
        share = self.config.noise.at(self.share(middle))
        zeros = jnp.zeros(self._meta.action_size)
        expert = Heads(zeros, self.target_log_std(fixed))
        return rows, zeros if self._meta.discrete else mix(expert, share, False).log_std

    def target_log_std(self, fixed: Fixed) -> jax.Array:
        """Return the expert's log standard deviation f32[k]; zeros for discrete actions."""
        if self._meta.discrete:
            return jnp.zeros(self._meta.action_size)
        return pol.bounded_log_std(fixed.own)


Range = tuple[float, float]


@dataclass(frozen=True)
class QualityShares:
    """How often each quality acts; the shares are divided by their sum.

    The defaults carry OmniRL's mixture of qualities over to continuous control.

    Attributes:
        random: uniform actions.
        early: a version from early in PPO's run.
        middle: one from the middle.
        noisy: PPO's last policy behind noise.
        late: a late version.
        foreign: the last policy of another run, an expert of another task. It moves with purpose,
            so states are seen that noise does not find, and what it does is not what is asked for.

    Raises:
        GlaError: if a share is negative, or all are zero.
    """

    random: float = 0.10
    early: float = 0.10
    middle: float = 0.10
    noisy: float = 0.35
    late: float = 0.35
    foreign: float = 0.0

    def __post_init__(self):
        values = [getattr(self, name) for name in QUALITIES]
        if not all(0 <= value < float("inf") for value in values) or not sum(values) > 0:
            raise GlaError(f"the shares of qualities are {values}", "numbers >= 0, one above 0")

    @property
    def cumulative(self) -> np.ndarray:
        """f32[7]: the quality q of `QUALITIES` takes [cumulative[q], cumulative[q + 1])."""
        values = np.array([getattr(self, name) for name in QUALITIES], np.float64)
        sums = np.concatenate([[0.0], np.cumsum(values / values.sum())])
        return np.where(sums > 1 - 1e-6, 1.0, sums).astype(np.float32)


# From worst to best.
QUALITIES = ("random", "foreign", "early", "middle", "noisy", "late")
RANDOM, FOREIGN, NOISY = (QUALITIES.index(name) for name in ("random", "foreign", "noisy"))


@dataclass(frozen=True, kw_only=True)
class MixedQualityConfig(DistilledConfig):
    """Histories in which policies of all qualities take turns.

    Attributes:
        shares: how often each quality acts.
        unit: who acts changes with every `update`, for all streams of a run at once, or with every
            `episode`, for each stream by itself.
        order: in which order qualities come: `random`, so that the context is a mixture, or
            `rising`, so that it is a curriculum.
        early: range of PPO's run, as shares of its updates, that early versions come from.
        middle: likewise for middle versions.
        late: likewise for late versions.
        noise: range of the share of uniform noise before the noisy last policy.
        versions: how many versions each of the three ranges gives to a run, drawn for each run; and
            how many foreign experts there are in it.
    """

    shares: QualityShares = field(default_factory=QualityShares)
    unit: Literal["update", "episode"] = "update"
    order: Literal["random", "rising"] = "random"
    early: Range = (0.0, 0.25)
    middle: Range = (0.4, 0.6)
    late: Range = (0.9, 1.0)
    noise: Range = (0.2, 0.6)
    versions: int = 4

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("versions")
        for name in ("early", "middle", "late", "noise"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                raise GlaError(f"{name} is {low} to {high}", "a range low <= high in [0, 1]")
        for name, choices in (("unit", ("update", "episode")), ("order", ("random", "rising"))):
            if getattr(self, name) not in choices:
                raise GlaError(f"{name} is {getattr(self, name)!r}", " or ".join(choices))


class Bank(NamedTuple):
    """What can act in a run.

    Attributes:
        policies: f32[3 V + 1, P]: V early versions, V middle ones, V late ones, each from the
            earliest to the latest, and PPO's last policy; with foreign experts f32[4 V + 1, P].
        places: f32[U], where in the order of qualities each update stands, in [0, 1).
    """

    policies: jax.Array
    places: jax.Array


class MixedQualityMaker(_DistilledMaker):
    """Makes histories in which policies of all qualities take turns, labelled by the best.

    Who acts is told by one number q in [0, 1) per update (or per stream and episode), its place in
    the order from uniform actions over foreign, early, middle and the noisy last to late ones: the
    shares divide [0, 1) among the qualities, and the place within a quality's part tells the
    version, or from much to little the share of noise. In random order the places of a run's
    updates are spread evenly over [0, 1) and shuffled, so that the shares are met as closely as
    whole updates can; the places of episodes are drawn one by one. In rising order q is the share
    of the history that is over. An episode goes on where an update ends: with `unit="update"` who
    acts may change within it.

    `target` is the distribution of PPO's last policy at every state. `distribution` is that of the
    behaviour (`mix`). For continuous actions `log_std` is that of the update's behaviour, exactly
    for `unit="update"` (where actions are uniform or noisy: of the Gaussian of the same variance),
    and the root mean square over an update's steps and streams for `unit="episode"`.

    Args:
        config: what to make.

    Raises:
        GlaError: if the experts do not fit (`Experts`).
    """

    method = "mixed-quality"

    def __init__(self, config: MixedQualityConfig):
        self.config = config
        super().__init__(config)
        self._choose = jax.jit(jax.vmap(self._choose_one))
        self._choose_others = jax.jit(jax.vmap(self._others_of))
        if config.shares.foreign and self.experts.runs < 2:
            raise GlaError("one run of a store has no foreign experts", "at least two runs")

    def _choose_one(self, task: jax.Array) -> jax.Array:
        """Draw which versions a run has, i32[3 V + 1]."""
        key, last = self._own_keys(self.keys(task))[0], self.experts.meta.updates - 1
        config = self.config
        draws = jnp.sort(jax.random.uniform(key, (3, config.versions)), -1)
        low, high = jnp.array([config.early, config.middle, config.late]).T[..., None]
        chosen = jnp.round((low + draws * (high - low)) * last).astype(jnp.int32)
        return jnp.append(chosen.reshape(-1), last)

    def _others_of(self, task: jax.Array) -> jax.Array:
        """Draw which other runs have the foreign experts, i32[V]."""
        key = jax.random.fold_in(self._own_keys(self.keys(task))[0], 1)
        runs = self.experts.runs
        away = jax.random.randint(key, (self.config.versions,), 1, runs)
        return (task + away) % runs

    def _own_keys(self, keys: RunKeys) -> jax.Array:
        return jax.random.split(jax.random.split(keys.agent)[0])

    def given(self, runs: range) -> np.ndarray:
        """Return the drawn versions, f32[runs, 3 V + 1, P], and foreign experts after them."""
        own = self.experts.versions(runs, np.asarray(self._choose(np.array(runs))))
        if not self.config.shares.foreign:
            return own
        lent = self.experts.every_last[np.asarray(self._choose_others(np.array(runs)))]
        return np.concatenate([own, lent], 1)

    def prepare(self, keys: RunKeys, params: Params, given: Any) -> Bank:
        """Return what can act, and when."""
        del params
        count = self._meta.updates
        order = jnp.arange(count)
        offset: Any = 0.5
        if self.config.order == "random":
            offset_key, order_key = jax.random.split(self._own_keys(keys)[1])
            # One offset for all: as many updates of a quality as its share, or one more or less.
            offset = jax.random.uniform(offset_key)
            order = jax.random.permutation(order_key, count)
        places = jnp.minimum((order + offset) / count, _BELOW_ONE)
        return Bank(given, places.astype(jnp.float32))

    def start(self, keys: RunKeys, fixed: Fixed) -> jax.Array:
        """Return room for the place of each environment in the order of qualities, f32[N]."""
        del keys, fixed
        return jnp.zeros(self._meta.parallel_envs)

    def draw(self, key: jax.Array) -> Any:
        """Draw the noise of the actions, and places f32[T, N] for the episodes that begin."""
        own, place_key = jax.random.split(key)
        shape = (self._meta.steps, self._meta.parallel_envs)
        return super().draw(own), jax.random.uniform(place_key, shape)

    def quality(self, place: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return who acts at places f32[...] in the order of qualities.

        Returns:
            The quality, a number of `QUALITIES`, i32[...]; the row of `Bank.policies`, i32[...]
            (any for random actions); the share of uniform noise, f32[...].
        """
        config = self.config
        bounds = jnp.asarray(config.shares.cumulative)
        quality = jnp.sum(place[..., None] >= bounds[1:-1], -1)
        low, width = bounds[quality], bounds[quality + 1] - bounds[quality]
        within = jnp.clip((place - low) / jnp.maximum(width, 1e-9), 0.0, _BELOW_ONE)
        version = jnp.floor(within * config.versions).astype(jnp.int32)
        row = version + config.versions * jnp.array([0, 3, 0, 1, 2, 2])[quality]
        row = jnp.where(quality == FOREIGN, row + 1, row)
        # Behind the noise is PPO's last policy, the bank's last; the noise falls.
        row = jnp.where(quality == NOISY, 3 * config.versions, row)
        least, most = config.noise
        noisy = most + (least - most) * within
        share = jnp.where(quality == RANDOM, 1.0, jnp.where(quality == NOISY, noisy, 0.0))
        return quality.astype(jnp.int32), row, share

    def act(
        self,
        fixed: Fixed,
        memory: Any,
        step: jax.Array,
        noise: Any,
        env_state: State,
        observation: jax.Array,
    ) -> tuple[Any, jax.Array, Rows]:
        """Let whose turn it is act in each environment."""
        meta = self._meta
        noise, fresh = noise
        if self.config.unit == "update":
            place = fixed.own.places[step // meta.steps]
            memory = jnp.broadcast_to(place, memory.shape)
        elif self.config.order == "rising":
            fresh = jnp.full_like(fresh, jnp.minimum(self.share(step), _BELOW_ONE))
        if self.config.unit == "episode":
            memory = jnp.where(env_state.steps == 0, fresh, memory)
        _, row, share = self.quality(memory)
        params = pol.unflatten(self.experts.shape, fixed.own.policies[row])
        found = jax.vmap(lambda p, seen: heads(p, seen, meta.discrete))(params, observation)
        action, mixed = sample(found, share, noise, meta.discrete), mix(found, share, meta.discrete)
        return memory, action, {"distribution": mixed.mean, "log_std": mixed.log_std}

    def complete(self, fixed: Fixed, update: jax.Array, rows: Rows) -> tuple[Rows, jax.Array]:
        """Label what was seen, and sum up the standard deviations."""
        del update
        rows = dict(rows)
        deviations = rows.pop("log_std")
        rows["target"] = heads(self._best(fixed), rows["observation"], self._meta.discrete).mean
        return rows, 0.5 * jnp.log(jnp.mean(jnp.exp(2.0 * deviations), (0, 1)))

    def _best(self, fixed: Fixed) -> pol.PolicyParams:
        return pol.unflatten(self.experts.shape, fixed.own.policies[3 * self.config.versions])

    def target_log_std(self, fixed: Fixed) -> jax.Array:
        """Return the last policy's log standard deviation f32[k]; zeros for discrete actions."""
        if self._meta.discrete:
            return jnp.zeros(self._meta.action_size)
        return pol.bounded_log_std(self._best(fixed))


# The largest float32 below 1.
_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
