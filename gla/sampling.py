"""Training sequences, sampled on the device: context, gap, relabelled targets, projection.

A sequence is a chain of segments from one stream of a learning history. Segment j shows
`segment_length` consecutive steps of update u_j; the updates move forward by a gap g per segment,
so the sequence shows learning g times faster than PPO's (paper, section 2, "sub-sample the data").
The target at a position is the action distribution of the policy `lead` updates later, computed at
the state that was visited; with lead 0 it is the recorded distribution itself, with a large lead
that of the last policy (the DPT limit). Because the target need not be the behaviour shown, there
is nothing to copy from the context.

A history whose maker kept no policies (an expert's, an imported file) is relabelled by what it
has: the distribution of its best policy at every visited state, else the distribution that acted,
else the action that was taken. `lead` means nothing there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gla import policy as pol
from gla import projection as proj
from gla.errors import GlaError
from gla.histories import HistoryStore
from gla.normalization import Statistics, normalize_observation, normalize_reward
from gla.tokens import make_tokens

# Where only the action taken is known, the target gives it this probability (discrete actions).
TAKEN = 0.99


@dataclass(frozen=True)
class SamplingConfig:
    """How sequences are cut out of histories. Ranges are inclusive.

    Attributes:
        segments: segments in a sequence.
        segment_length: steps of a segment, at most the steps of an update.
        first_update: range of the first segment's update.
        gap: range of g, updates between neighbouring segments.
        lead: range of the number of updates by which the target policy is ahead of the behaviour.
            A lead past the end means the last policy. Without meaning for histories without
            policies.
        jitter: each segment's update is moved by up to this many updates either way.
        score_power: streams are drawn with probability proportional to their score to this power
            (`gla.histories.scores`: how much and how steadily it improved); 0 draws all alike.
        keep: only this share of the streams, those with the best scores, is drawn from; in (0, 1].
    """

    segments: int = 8
    segment_length: int = 50
    first_update: tuple[int, int] = (0, 3)
    gap: tuple[int, int] = (3, 7)
    lead: tuple[int, int] = (5, 60)
    jitter: int = 0
    score_power: float = 0.0
    keep: float = 1.0

    def __post_init__(self):
        for name in ("segments", "segment_length"):
            if getattr(self, name) < 1:
                raise GlaError(
                    f"sampling {name} is {getattr(self, name)}", "a whole number of at least 1"
                )
        for name in ("first_update", "gap", "lead"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise GlaError(f"sampling {name} is {low} to {high}", "a range 0 <= low <= high")
        if self.jitter < 0:
            raise GlaError(f"sampling jitter is {self.jitter}", "a whole number >= 0")
        if not 0 <= self.score_power < math.inf:
            raise GlaError(f"sampling score_power is {self.score_power}", "a number >= 0")
        if not 0 < self.keep <= 1:
            raise GlaError(f"sampling keep is {self.keep}", "a share above 0, at most 1")

    @property
    def length(self) -> int:
        """Tokens in a sequence."""
        return self.segments * self.segment_length

    @property
    def weighted(self) -> bool:
        """Whether scores decide which streams are drawn."""
        return self.score_power > 0 or self.keep < 1

    def kept(self, streams: int) -> int:
        """Return how many of the best streams are drawn from, at least one."""
        # Not one more because 0.1 * 30 is 3.0000000000000004.
        return max(1, math.ceil(self.keep * streams - 1e-9))


class Histories(NamedTuple):
    """Learning histories of one environment as device arrays.

    Attributes:
        observation: f32[S, U, T, n], normalised.
        action: f32[S, U, T, k] or i32[S, U, T].
        reward: f32[S, U, T], normalised.
        terminated: bool[S, U, T].
        truncated: bool[S, U, T].
        policy: `PolicyParams` with leading axes [R, U], its normaliser composed with the task's,
            so that it takes normalised observations; None where the maker kept none.
        run: i32[S], the run that each stream belongs to.
        log_std: f32[R, U, k] of what acted, without `policy`; zero for discrete actions.
        target: f32[S, U, T, k], without `policy` the targets' means or logits; None where the mean
            is the action that was taken.
        target_log_std: f32[R, U, k], without `policy` the targets'; zero for discrete actions.
        score: f32[S], how well each stream learned.
        best: i32[S], the streams in order of their scores, the best first.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    policy: pol.PolicyParams | None
    run: jax.Array
    log_std: jax.Array | None = None
    target: jax.Array | None = None
    target_log_std: jax.Array | None = None
    score: jax.Array | None = None
    best: jax.Array | None = None


class Sequences(NamedTuple):
    """A batch for the model.

    Attributes:
        tokens: f32[B, L, F].
        target: `LiftedGaussian` with leading axes [B, L] (its action map [B]), or
            log-probabilities f32[B, L, m].
    """

    tokens: jax.Array
    target: proj.LiftedGaussian | jax.Array


def check(config: SamplingConfig, histories: Histories, name: str):
    """Raise `GlaError` if sequences cannot be cut out of these histories."""
    _, updates, steps = histories.reward.shape
    if config.segment_length > steps:
        raise GlaError(
            f"segments of {config.segment_length} steps do not fit into updates of {steps} "
            f"steps in the histories of {name}",
            mend=f"lower segment_length to at most {steps} or collect longer rollouts",
        )
    if config.first_update[0] >= updates:
        raise GlaError(
            f"first_update starts at {config.first_update[0]} but the histories of {name} have "
            f"{updates} updates",
            mend="lower first_update or collect more updates",
        )
    if config.weighted:
        if histories.score is None or histories.best is None:
            raise GlaError(
                f"the histories of {name} have no scores", "scores, to draw the better streams"
            )
        if not np.any(np.asarray(histories.score) > 0):
            raise GlaError(
                f"no stream of the histories of {name} improved: all their scores are 0",
                "a score above 0 for score_power or keep to prefer",
                "leave score_power at 0 and keep at 1, or see `gla histories plot`",
            )


def _uniform_int(key: jax.Array, bounds: tuple[int, int]) -> jax.Array:
    return jax.random.randint(key, (), bounds[0], bounds[1] + 1)


def _draw_stream(key: jax.Array, histories: Histories, config: SamplingConfig) -> jax.Array:
    """Draw the number of a stream, i32[]."""
    streams = histories.reward.shape[0]
    if not config.weighted:
        return jax.random.randint(key, (), 0, streams)
    assert histories.best is not None and histories.score is not None
    best = histories.best[: config.kept(streams)]
    if not config.score_power:
        return best[jax.random.randint(key, (), 0, len(best))]
    weight = histories.score[best] ** config.score_power
    # Inverse CDF. Streams of weight 0 come last, and sums of them may differ by a rounding error.
    below = jax.lax.cummax(jnp.cumsum(weight))
    place = jnp.searchsorted(below, jax.random.uniform(key) * below[-1], side="right")
    return best[jnp.minimum(place, jnp.maximum(jnp.sum(weight > 0), 1) - 1)]


def sample_sequence(
    key: jax.Array,
    histories: Histories,
    config: SamplingConfig,
    projection_config: proj.ProjectionConfig,
) -> Sequences:
    """Draw one sequence (no batch axis) with a fresh projection."""
    keys = jax.random.split(key, 9)
    _, updates, steps = histories.reward.shape
    discrete = jnp.issubdtype(histories.action.dtype, jnp.integer)
    n = histories.observation.shape[-1]
    if histories.policy is None:
        assert histories.log_std is not None and histories.target_log_std is not None
        k = histories.log_std.shape[-1]
    else:
        k = histories.policy.b3.shape[-1]
    stream = _draw_stream(keys[0], histories, config)
    run = histories.run[stream]
    number = jnp.arange(config.segments)
    start = _uniform_int(keys[1], config.first_update)
    behaviour = start + number * _uniform_int(keys[2], config.gap)
    if config.jitter:
        behaviour += jax.random.randint(keys[3], behaviour.shape, -config.jitter, config.jitter + 1)
    behaviour = jnp.clip(behaviour, 0, updates - 1)
    ahead = jnp.minimum(behaviour + _uniform_int(keys[4], config.lead), updates - 1)
    offset = jax.random.randint(keys[5], (config.segments,), 0, steps - config.segment_length + 1)

    def cut(array: jax.Array) -> jax.Array:
        """Gather the segments of one stream: [segments, segment_length, ...]."""
        rows = array[stream, behaviour]
        if config.segment_length == steps:
            return rows
        index = offset[:, None] + jnp.arange(config.segment_length)
        index = index.reshape(index.shape + (1,) * (rows.ndim - 2))
        return jnp.take_along_axis(rows, index, 1)

    observation, action = cut(histories.observation), cut(histories.action)
    reward = cut(histories.reward)
    terminated, truncated = cut(histories.terminated), cut(histories.truncated)
    # The state jumps between segments; the reader is told that an episode was cut there.
    truncated = truncated.at[:, -1].set(truncated[:, -1] | ~terminated[:, -1])

    projection = proj.sample(keys[6], projection_config, n, k)
    # Means of the target's Gaussian or logits, and its log standard deviations [segments, k].
    if histories.policy is None:
        assert histories.log_std is not None and histories.target_log_std is not None
        acted_log_std = histories.log_std
        outputs = cut(histories.action if histories.target is None else histories.target)
        log_std = histories.target_log_std[run, behaviour]
    else:
        acted_log_std = histories.policy.log_std
        target_policy = jax.tree.map(lambda x: x[run, ahead], histories.policy)
        if discrete:
            outputs = jax.vmap(pol.output)(target_policy, observation)
        else:
            outputs, log_std = jax.vmap(pol.gaussian)(target_policy, observation)
    target: proj.LiftedGaussian | jax.Array
    if discrete:
        target = proj.lift_logits(projection, outputs)
        slots = proj.lift_slot(keys[7], projection, action)
        shown = jax.nn.one_hot(slots, projection_config.action_dim)
    else:
        log_std = jnp.broadcast_to(log_std[:, None], outputs.shape)
        target = proj.lift_distribution(projection, outputs, log_std)
        spread = jnp.clip(acted_log_std[run, behaviour], *pol.LOG_STD_RANGE)
        spread = jnp.exp(jnp.mean(spread, -1))[:, None, None]
        shape = (config.segments, config.segment_length, projection_config.action_dim)
        noise = spread * jax.random.normal(keys[8], shape)
        shown = proj.lift_action(projection, action, noise)
    seen = proj.project_observation(projection, observation)

    def flat(x: jax.Array) -> jax.Array:
        return jnp.reshape(x, (config.length, *x.shape[2:]))

    def previous(x: jax.Array) -> jax.Array:
        x = flat(x)
        return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])

    tokens = make_tokens(
        flat(seen), previous(shown), previous(reward), previous(terminated), previous(truncated)
    )
    if isinstance(target, proj.LiftedGaussian):
        target = target._replace(
            mean=flat(target.mean),
            log_std=flat(target.log_std),
            null_log_std=flat(target.null_log_std),
        )
    else:
        target = flat(target)
    return Sequences(tokens, target)


def allocate(batch_size: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Share out a batch among sources in proportion to their weights, at least one each.

    Raises:
        GlaError: if a weight is not above 0 or the batch is smaller than the number of sources.
    """
    if any(not weight > 0 for weight in weights):
        raise GlaError(f"weights are {list(weights)}", "numbers above 0")
    if batch_size < len(weights):
        raise GlaError(
            f"a batch of {batch_size} sequences cannot hold {len(weights)} history sources",
            mend=f"raise batch_size to at least {len(weights)}",
        )
    ideal = np.asarray(weights, float) / sum(weights) * batch_size
    counts = np.maximum(np.floor(ideal).astype(int), 1)
    while counts.sum() != batch_size:  # largest remainders up, largest excesses down
        gap = ideal - counts
        if counts.sum() < batch_size:
            counts[np.argmax(gap)] += 1
        else:
            counts[np.argmin(np.where(counts > 1, gap, np.inf))] -= 1
    return tuple(int(count) for count in counts)


def from_store(store: HistoryStore) -> Histories:
    """Read the complete part of a store as normalised arrays.

    Observations and rewards are normalised by the task's random-policy window, as
    `gla.envs.wrappers.Normalized` does for a task that has no history. The recorded policies take
    raw observations, so their normalisers are composed with that one.

    The target of a store without policies is, whichever it has first,

    1. `target`, the distribution of the run's best policy at every visited state;
    2. `distribution`, the one that acted there;
    3. the action that was taken: a Gaussian around it with the smallest log standard deviation
       (`LOG_STD_RANGE[0]`, -2.3), or for discrete actions the probability `TAKEN`, 0.99, with the
       rest shared by the others.

    Log standard deviations are clipped to `LOG_STD_RANGE`, as those of policies are: an expert that
    acts without noise would otherwise be infinitely far from every prediction.

    Raises:
        GlaError: if the store is damaged or holds no complete block.
    """
    meta = store.meta
    read = store.read
    runs = read("reward_scale").shape[0]
    run = np.repeat(np.arange(runs), meta.streams_per_run)
    mean, std = jnp.asarray(read("observation_mean")), jnp.asarray(read("observation_std"))
    scale = jnp.asarray(read("reward_scale"))[run][:, None, None]
    statistics = Statistics(mean[run][:, None, None], std[run][:, None, None], scale)
    score = store.scores().score
    histories = Histories(
        observation=normalize_observation(statistics, jnp.asarray(read("observation"))),
        action=jnp.asarray(read("action")),
        reward=normalize_reward(statistics, jnp.asarray(read("reward"))),
        terminated=jnp.asarray(read("terminated")),
        truncated=jnp.asarray(read("truncated")),
        policy=None,
        run=jnp.asarray(run),
        score=jnp.asarray(score),
        best=jnp.asarray(np.argsort(-score, kind="stable").astype(np.int32)),
    )
    if "policy" not in meta.arrays:
        target, target_log_std, log_std = _targets(store, runs, histories.action)
        return histories._replace(target=target, target_log_std=target_log_std, log_std=log_std)
    shape = pol.PolicyShape(meta.observation_size, meta.action_size, meta.hidden, meta.discrete)
    policy = pol.unflatten(shape, jnp.asarray(read("policy")))
    policy = policy._replace(
        mean=(policy.mean - mean[:, None]) / std[:, None], std=policy.std / std[:, None]
    )
    return histories._replace(policy=policy)


def _targets(
    store: HistoryStore, runs: int, action: jax.Array
) -> tuple[jax.Array | None, jax.Array, jax.Array]:
    """Return target, target_log_std and log_std of `Histories` without policies."""
    meta = store.meta

    def spread(log_std: np.ndarray | float) -> jax.Array:
        """Give log standard deviations all axes, [R, U, k]."""
        shape = (runs, meta.updates, meta.action_size)
        if meta.discrete:
            return jnp.zeros(shape)
        return jnp.clip(jnp.broadcast_to(jnp.asarray(log_std), shape), *pol.LOG_STD_RANGE)

    acted = spread(store.read("log_std")) if "distribution" in meta.arrays else None
    if "target" in meta.arrays:
        log_std = spread(store.read("target_log_std")[:, None])
        return jnp.asarray(store.read("target")), log_std, log_std if acted is None else acted
    if acted is not None:
        return jnp.asarray(store.read("distribution")), acted, acted
    narrow = spread(pol.LOG_STD_RANGE[0])
    if not meta.discrete:
        return None, narrow, narrow
    taken = jax.nn.one_hot(action, meta.action_size, dtype=bool)
    rest = (1 - TAKEN) / max(meta.action_size - 1, 1)
    yes, no = np.log(np.array([TAKEN, rest], np.float32))
    return jnp.where(taken, yes, no), narrow, narrow
