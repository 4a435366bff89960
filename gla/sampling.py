"""Training sequences, sampled on the device: context, gap, relabelled targets, projection.

A sequence is a chain of segments from one stream of a learning history. A segment shows
`segment_length` consecutive steps of one update. Segments form stages: the segments of a stage are
of consecutive updates, and from stage to stage the first of them moves forward by a gap g, so the
sequence shows learning g times faster than PPO's (paper, section 2, "sub-sample the data"). With
one segment per stage the updates are u, u + g, u + 2g, ...; with two stages a context from update u
on is followed by targets from update u + g on, as in Eq. 1.

The target at a position is the action distribution of the policy `lead` updates later, computed at
the state that was visited; with lead 0 it is the recorded distribution itself, with a large lead
that of the last policy (the DPT limit). Because the target need not be the behaviour shown, there
is nothing to copy from the context.

Conditions (the paper's eta) tell the model how much improvement its target shows, in units that
`gla.tokens.condition_features` documents. Here

- `gap` is the number of updates by which the target's policy is ahead of the policy that acted one
  stage before, at the same place in it: g plus the lead, and less where the history ends. In the
  first stage that policy is thought g updates before the one that acts;
- `return` is the mean normalised reward per step, in the sampled stream, of the update that the
  target's policy made;
- `position` counts the steps of the sequence.

A history whose maker kept no policies (an expert's, an imported file) is relabelled by what it
has: the distribution of its best policy at every visited state, else the distribution that acted,
else the action that was taken. `lead` means nothing there; the
target's update is the last where it is the best policy's, and otherwise the one that is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gla import policy as pol
from gla import projection as proj
from gla.errors import GlaError
from gla.histories import HistoryMeta, HistoryStore
from gla.normalization import Statistics, expanded, normalize_observation, normalize_reward
from gla.tokens import Interface, check_conditions, condition_features, make_tokens

# Where only the action taken is known, the target gives it this probability (discrete actions).
TAKEN = 0.99
# More updates than any history has: as a first update, gap or lead, as far as there is.
LAST = 1_000_000


@dataclass(frozen=True)
class SamplingConfig:
    """How sequences are cut out of histories. Ranges are inclusive.

    Attributes:
        segments: segments in a sequence.
        segment_length: steps of a segment, at most the steps of an update.
        first_update: range of the first segment's update; it ends, at the latest, where the first
            stage still fits into the history.
        gap: range of g, updates from the start of a stage to the start of the next. Where that is
            past the end, the stage consists of the last updates (the maximal gap).
        lead: range of the number of updates by which the target policy is ahead of the behaviour.
            A lead past the end means the last policy. Without meaning for histories without
            policies.
        jitter: each segment's update is moved by up to this many updates either way.
        score_power: streams are drawn with probability proportional to their score to this power
            (`gla.histories.scores`: how much and how steadily it improved); 0 draws all alike.
        keep: only this share of the streams, those with the best scores, is drawn from; in (0, 1].
        stages: number of stages, which divides the segments; 0: each segment is one.
        loss_on: which positions count in the loss, `all` or those of the `last` stage.
        gap_final: the range of g at the end of meta-training; it moves there from `gap` in a
            straight line, rounded. None: it stays.
        conditions: what the model is told about the target, some of `gap`, `return`, `position`.
        condition_dropout: probability that a condition is hidden for a whole sequence, each
            condition on its own, so that an agent can act without it; in [0, 1].
    """

    segments: int = 8
    segment_length: int = 50
    first_update: tuple[int, int] = (0, 3)
    gap: tuple[int, int] = (3, 7)
    lead: tuple[int, int] = (5, 60)
    jitter: int = 0
    score_power: float = 0.0
    keep: float = 1.0
    stages: int = 0
    loss_on: Literal["all", "last"] = "all"
    gap_final: tuple[int, int] | None = None
    conditions: tuple[str, ...] = ()
    condition_dropout: float = 0.3

    def __post_init__(self):
        for name in ("segments", "segment_length"):
            if getattr(self, name) < 1:
                raise GlaError(
                    f"sampling {name} is {getattr(self, name)}", "a whole number of at least 1"
                )
        object.__setattr__(self, "conditions", tuple(self.conditions))  # JSON has lists
        check_conditions(self.conditions)
        for name in ("first_update", "gap", "lead", "gap_final"):
            if getattr(self, name) is None:
                continue
            object.__setattr__(self, name, tuple(getattr(self, name)))
            low, high = getattr(self, name)
            if not 0 <= low <= high <= LAST:
                raise GlaError(
                    f"sampling {name} is {low} to {high}", f"a range 0 <= low <= high <= {LAST}"
                )
        if self.jitter < 0:
            raise GlaError(f"sampling jitter is {self.jitter}", "a whole number >= 0")
        if not 0 <= self.score_power < math.inf:
            raise GlaError(f"sampling score_power is {self.score_power}", "a number >= 0")
        if not 0 < self.keep <= 1:
            raise GlaError(f"sampling keep is {self.keep}", "a share above 0, at most 1")
        if self.stages < 0 or (self.stages and self.segments % self.stages):
            raise GlaError(
                f"sampling stages is {self.stages} for {self.segments} segments",
                "a number that divides the segments, or 0 for one stage per segment",
            )
        if self.loss_on not in ("all", "last"):
            raise GlaError(f"sampling loss_on is {self.loss_on!r}", "all or last")
        if not 0 <= self.condition_dropout <= 1:
            raise GlaError(
                f"sampling condition_dropout is {self.condition_dropout}", "a probability"
            )

    @property
    def length(self) -> int:
        """Tokens in a sequence."""
        return self.segments * self.segment_length

    @property
    def stage_segments(self) -> int:
        """Segments in a stage."""
        return self.segments // (self.stages or self.segments)

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
        told: f32[R, z], what is told of each run's task, each number centred and scaled over all of
            the store; None where nothing is.
        target_update: i32[U], without `policy` the update to whose policy the targets of each
            update belong; None where it is that update itself.
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
    told: jax.Array | None = None
    target_update: jax.Array | None = None


class Sequences(NamedTuple):
    """One sequence for the model, or a batch of them with a leading axis B everywhere.

    Attributes:
        tokens: f32[L, F].
        target: `LiftedGaussian` with leading axis [L] (its action map has none), or
            log-probabilities f32[L, m].
        action: f32[L, m] or slots i32[L], what was done at this step, as shown in agent space.
        reward: f32[L], normalised, what it brought.
        next_observation: f32[L, n], projected, what was seen then; zero where it is not known.
        known: bool[L], false where the next observation is not of the same episode and segment: a
            history does not keep what an episode's last step showed.
        weight: f32[L], of the position in the loss.
        told: f32[L, z], what is told of the task, the same at every position; NaN where nothing is.
            None where no head asks for it.
    """

    tokens: jax.Array
    target: proj.LiftedGaussian | jax.Array
    action: jax.Array
    reward: jax.Array
    next_observation: jax.Array
    known: jax.Array
    weight: jax.Array
    told: jax.Array | None = None


def check(
    config: SamplingConfig, histories: Histories, name: str, scores: np.ndarray | None = None
):
    """Raise `GlaError` if sequences cannot be cut out of these histories.

    Args:
        config: how they would be cut.
        histories: all of a store, or some of its runs.
        name: of the histories, for the message.
        scores: f32[streams] of the whole store, where the histories are some of its runs.
    """
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
    if config.stage_segments > updates:
        raise GlaError(
            f"stages of {config.stage_segments} segments do not fit into the {updates} updates of "
            f"the histories of {name}",
            mend="raise stages, lower segments or collect more updates",
        )
    if config.weighted:
        if histories.score is None or histories.best is None:
            raise GlaError(
                f"the histories of {name} have no scores", "scores, to draw the better streams"
            )
        if not np.any(np.asarray(histories.score if scores is None else scores) > 0):
            raise GlaError(
                f"no stream of the histories of {name} improved: all their scores are 0",
                "a score above 0 for score_power or keep to prefer",
                "leave score_power at 0 and keep at 1, or see `gla histories plot`",
            )


def _uniform_int(key: jax.Array, bounds: tuple[Any, Any]) -> jax.Array:
    return jax.random.randint(key, (), bounds[0], bounds[1] + 1)


def gap_range(config: SamplingConfig, progress: jax.Array | float) -> tuple[Any, Any]:
    """Return the range of g, two i32[], when the share `progress` in [0, 1] of training is done."""
    if config.gap_final is None:
        return config.gap
    low, high = (
        jnp.round(first + (last - first) * jnp.clip(progress, 0.0, 1.0)).astype(jnp.int32)
        for first, last in zip(config.gap, config.gap_final, strict=True)
    )
    return low, high


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
    # None of a few runs of a store may have improved: then they are alike.
    weight = jnp.where(weight[0] > 0, weight, 1.0)
    # Inverse CDF. Streams of weight 0 come last, and sums of them may differ by a rounding error.
    below = jax.lax.cummax(jnp.cumsum(weight))
    place = jnp.searchsorted(below, jax.random.uniform(key) * below[-1], side="right")
    return best[jnp.minimum(place, jnp.maximum(jnp.sum(weight > 0), 1) - 1)]


def sample_sequence(
    key: jax.Array,
    histories: Histories,
    config: SamplingConfig,
    projection_config: proj.ProjectionConfig,
    interface: Interface,
    progress: jax.Array | float = 0.0,
) -> Sequences:
    """Draw one sequence (no batch axis) with a fresh projection.

    Args:
        key: random key.
        histories: where it comes from.
        config: how it is cut.
        projection_config: agent space; the interface has the same sizes.
        interface: which conditions are read (`Interface.conditions`).
        progress: f32[] in [0, 1], the share of meta-training that is done.
    """
    keys = jax.random.split(key, 9)
    _, updates, steps = histories.reward.shape
    discrete = jnp.issubdtype(histories.action.dtype, jnp.integer)
    n = histories.observation.shape[-1]
    stream = _draw_stream(keys[0], histories, config)
    run = histories.run[stream]
    gap = jnp.minimum(_uniform_int(keys[2], gap_range(config, progress)), updates)
    behaviour = _draw_updates(keys[1], keys[3], config, gap, updates)
    if histories.policy is not None:
        ahead = jnp.minimum(behaviour + _uniform_int(keys[4], config.lead), updates - 1)
    elif histories.target_update is not None:
        ahead = histories.target_update[behaviour]
    else:
        ahead = behaviour
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

    # Means of the target's Gaussian or logits, and its log standard deviations [segments, k].
    if histories.policy is None:
        assert histories.log_std is not None and histories.target_log_std is not None
        acted_log_std = histories.log_std
        outputs = cut(histories.action if histories.target is None else histories.target)
        log_std = histories.target_log_std[run, behaviour]
    else:
        acted_log_std = histories.policy.log_std
        target_policy = jax.tree.map(lambda x: x[run, ahead], histories.policy)
        seen = expanded(observation) if projection_config.logarithmic else observation
        if discrete:
            outputs = jax.vmap(pol.output)(target_policy, seen)
        else:
            outputs, log_std = jax.vmap(pol.gaussian)(target_policy, seen)
    projection = proj.sample(keys[6], projection_config, n, acted_log_std.shape[-1])
    target: proj.LiftedGaussian | jax.Array
    if discrete:
        target = proj.lift_logits(projection, outputs)
        done = proj.lift_slot(keys[7], projection, action)
        shown = jax.nn.one_hot(done, projection_config.action_dim)
    else:
        log_std = jnp.broadcast_to(log_std[:, None], outputs.shape)
        target = proj.lift_distribution(projection, outputs, log_std)
        spread = jnp.clip(acted_log_std[run, behaviour], *pol.LOG_STD_RANGE)
        spread = jnp.exp(jnp.mean(spread, -1))[:, None, None]
        shape = (config.segments, config.segment_length, projection_config.action_dim)
        noise = spread * jax.random.normal(keys[8], shape)
        done = shown = proj.lift_action(projection, action, noise)
    seen = proj.project_observation(projection, observation)

    def flat(x: jax.Array) -> jax.Array:
        return jnp.reshape(x, (config.length, *x.shape[2:]))

    def previous(x: jax.Array) -> jax.Array:
        x = flat(x)
        return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])

    conditions = None
    if interface.conditions:
        # A key beyond those above: what they draw stays the same.
        hide = jax.random.fold_in(key, len(keys))
        conditions = _conditions(hide, histories, config, interface, stream, gap, behaviour, ahead)
    tokens = make_tokens(
        flat(seen),
        previous(shown),
        previous(reward),
        previous(terminated),
        previous(truncated),
        conditions,
    )
    if isinstance(target, proj.LiftedGaussian):
        target = target._replace(
            mean=flat(target.mean),
            log_std=flat(target.log_std),
            null_log_std=flat(target.null_log_std),
        )
    else:
        target = flat(target)
    known = flat(~(terminated | truncated))
    following = jnp.roll(flat(seen), -1, 0)
    weight = jnp.ones(config.length)
    if config.loss_on == "last":
        before = (config.segments - config.stage_segments) * config.segment_length
        weight = (jnp.arange(config.length) >= before).astype(jnp.float32)
    return Sequences(
        tokens=tokens,
        target=target,
        action=flat(done),
        reward=flat(reward),
        next_observation=jnp.where(known[:, None], following, 0.0),
        known=known,
        weight=weight,
        told=_told(histories, run, interface.told, config.length),
    )


def _told(histories: Histories, run: jax.Array, size: int, length: int) -> jax.Array | None:
    """Return what is told of a run's task, f32[length, size], if `size` is not 0."""
    if not size:
        return None
    told = jnp.full(size, jnp.nan)
    if histories.told is not None:
        told = told.at[: histories.told.shape[-1]].set(histories.told[run])
    return jnp.broadcast_to(told, (length, size))


def _draw_updates(
    first_key: jax.Array,
    jitter_key: jax.Array,
    config: SamplingConfig,
    gap: jax.Array,
    updates: int,
) -> jax.Array:
    """Draw the update that each segment shows, i32[segments]."""
    stage, place = np.divmod(np.arange(config.segments), config.stage_segments)
    # A stage that would go past the end consists of the last updates.
    last_start = max(updates - config.stage_segments, 0)
    low, high = (min(bound, last_start) for bound in config.first_update)
    start = _uniform_int(first_key, (low, high)) + stage * gap
    if config.jitter:
        start += jax.random.randint(jitter_key, start.shape, -config.jitter, config.jitter + 1)
    return jnp.clip(jnp.minimum(start, last_start) + place, 0, updates - 1)


def _conditions(
    key: jax.Array,
    histories: Histories,
    config: SamplingConfig,
    interface: Interface,
    stream: jax.Array,
    gap: jax.Array,
    behaviour: jax.Array,
    ahead: jax.Array,
) -> jax.Array:
    """Return the condition features of every position, f32[L, 2 c], some of them hidden."""
    size, updates = config.stage_segments, histories.reward.shape[1]
    before = jnp.concatenate([behaviour[:size] - gap, behaviour[:-size]])
    by_segment = {
        "gap": jnp.clip(ahead - before, 0, updates - 1),
        "return": jnp.mean(histories.reward[stream, ahead], -1),
    }
    values = {name: jnp.repeat(x, config.segment_length) for name, x in by_segment.items()}
    values["position"] = jnp.arange(config.length, dtype=jnp.float32)
    features = condition_features(interface, {name: values[name] for name in interface.conditions})
    shown = jax.random.uniform(key, (len(interface.conditions),)) >= config.condition_dropout
    return features * jnp.repeat(shown, 2)


def align_targets(parts: Sequence[Sequences]) -> list[Sequences]:
    """Give the targets of several sources the same k, the largest, so that they can be joined."""
    targets = [part.target for part in parts if isinstance(part.target, proj.LiftedGaussian)]
    if not targets:
        return list(parts)
    k = max(target.log_std.shape[-1] for target in targets)
    return [
        part._replace(target=pad_target(target, k))
        for part, target in zip(parts, targets, strict=True)
    ]


def pad_target(target: proj.LiftedGaussian, k: int) -> proj.LiftedGaussian:
    """Give a lifted Gaussian k columns without changing the distribution that it stands for.

    The new columns of B are zero and their standard deviations those of the null space, so that in
    both KL divergences (`gla.distributions.lifted_kls`) they cancel.
    """
    more = k - target.log_std.shape[-1]
    if not more:
        return target
    null = target.null_log_std[..., None]
    columns = jnp.zeros((*target.action_map.shape[:-1], more))
    return target._replace(
        log_std=jnp.concatenate([target.log_std, jnp.repeat(null, more, -1)], -1),
        action_map=jnp.concatenate([target.action_map, columns], -1),
    )


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


def from_store(
    store: HistoryStore,
    runs: Sequence[int] | None = None,
    scores: np.ndarray | None = None,
    logarithmic: bool = False,
) -> Histories:
    """Read the complete part of a store, or some of its runs, as normalised arrays.

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

    Args:
        store: an open store.
        runs: numbers of the runs to read, in any order; nothing else is read. None: all.
        scores: f32[streams of the complete blocks], where `store.scores().score` is known already.
        logarithmic: bound normalised numbers by a logarithm instead of at +-10.

    Raises:
        GlaError: if the store is damaged, holds no complete block or not one of these runs.
    """
    meta = store.meta
    read = _reader(store, runs)
    count = read("reward_scale").shape[0]
    run = np.repeat(np.arange(count), meta.streams_per_run)
    mean, std = jnp.asarray(read("observation_mean")), jnp.asarray(read("observation_std"))
    scale = jnp.asarray(read("reward_scale"))[run][:, None, None]
    statistics = Statistics(mean[run][:, None, None], std[run][:, None, None], scale)
    score = store.scores().score if scores is None else scores
    if runs is not None:
        score = score.reshape(-1, meta.streams_per_run)[_places(store, runs)].ravel()
    histories = Histories(
        observation=normalize_observation(
            statistics, jnp.asarray(read("observation")), logarithmic
        ),
        action=jnp.asarray(read("action")),
        reward=normalize_reward(statistics, jnp.asarray(read("reward")), logarithmic),
        terminated=jnp.asarray(read("terminated")),
        truncated=jnp.asarray(read("truncated")),
        policy=None,
        run=jnp.asarray(run),
        score=jnp.asarray(score),
        best=jnp.asarray(np.argsort(-score, kind="stable").astype(np.int32)),
        told=_scaled_told(store, read),
    )
    if "policy" not in meta.arrays:
        target, target_log_std, log_std = _targets(meta, read, count, histories.action)
        last = jnp.full(meta.updates, meta.updates - 1) if "target" in meta.arrays else None
        return histories._replace(
            target=target, target_log_std=target_log_std, log_std=log_std, target_update=last
        )
    shape = pol.PolicyShape(meta.observation_size, meta.action_size, meta.hidden, meta.discrete)
    policy = pol.unflatten(shape, jnp.asarray(read("policy")))
    policy = policy._replace(
        mean=(policy.mean - mean[:, None]) / std[:, None], std=policy.std / std[:, None]
    )
    return histories._replace(policy=policy)


def _scaled_told(store: HistoryStore, read: Callable[[str], np.ndarray]) -> jax.Array | None:
    """Return what is told of the runs, centred and scaled by all that the store has."""
    if not store.meta.told:
        return None
    every = store.read("told")
    deviation = every.std(0)
    return jnp.asarray((read("told") - every.mean(0)) / np.where(deviation > 1e-6, deviation, 1.0))


def complete_runs(store: HistoryStore) -> list[int]:
    """Return the numbers of the runs of all complete blocks, in order."""
    return [run for block in store.complete_blocks() for run in store.meta.block_runs(block)]


def _places(store: HistoryStore, runs: Sequence[int]) -> list[int]:
    """Return where runs stand among the complete ones."""
    place = {run: i for i, run in enumerate(complete_runs(store))}
    for run in runs:
        if run not in place:
            raise GlaError(f"run {run} of the histories in {store.place} is not complete")
    return [place[run] for run in runs]


def _reader(store: HistoryStore, runs: Sequence[int] | None) -> Callable[[str], np.ndarray]:
    """Return what reads an array by its name, of all runs or of these in this order."""
    if runs is None:
        return store.read
    spans: list[range] = []  # neighbours are read as one
    for run in runs:
        if spans and spans[-1].stop == run:
            spans[-1] = range(spans[-1].start, run + 1)
        else:
            spans.append(range(run, run + 1))
    return lambda name: np.concatenate([store.read(name, span) for span in spans])


def _targets(
    meta: HistoryMeta, read: Callable[[str], np.ndarray], runs: int, action: jax.Array
) -> tuple[jax.Array | None, jax.Array, jax.Array]:
    """Return target, target_log_std and log_std of `Histories` without policies."""

    def spread(log_std: np.ndarray | float) -> jax.Array:
        """Give log standard deviations all axes, [R, U, k]."""
        shape = (runs, meta.updates, meta.action_size)
        if meta.discrete:
            return jnp.zeros(shape)
        return jnp.clip(jnp.broadcast_to(jnp.asarray(log_std), shape), *pol.LOG_STD_RANGE)

    acted = spread(read("log_std")) if "distribution" in meta.arrays else None
    if "target" in meta.arrays:
        log_std = spread(read("target_log_std")[:, None])
        return jnp.asarray(read("target")), log_std, log_std if acted is None else acted
    if acted is not None:
        return jnp.asarray(read("distribution")), acted, acted
    narrow = spread(pol.LOG_STD_RANGE[0])
    if not meta.discrete:
        return None, narrow, narrow
    taken = jax.nn.one_hot(action, meta.action_size, dtype=bool)
    rest = (1 - TAKEN) / max(meta.action_size - 1, 1)
    yes, no = np.log(np.array([TAKEN, rest], np.float32))
    return jnp.where(taken, yes, no), narrow, narrow
