"""From tables to actions: optimistic planning whose every number is learned.

Three channels of values are backed up over the empirical model, warm-started from step to step.

- `gain` is the value of what is known: rewards, ends as they were met, tried actions only.
- `novelty` is the value of finding out: a bonus for rarely tried actions, no rewards.
- `hope` is the value under optimism: rewards in units of what is at stake, plus a bonus.

What is at stake is the difference between the largest and the smallest `gain` of the known states,
so that nothing depends on the scale of rewards. How bonuses fall with counts, how much they weigh
as data come in, how far values look ahead, what untried actions are worth and how the three become
a policy are the learned part, a few hundred numbers (`Rule`).

The pieces are known: count-based bonuses (Strehl and Littman 2008, MBIE-EB), optimism in the face
of the unknown (Brafman and Tennenholtz 2002, R-max), bonuses in units of the span of the values
(Bartlett and Tewari 2009, REGAL).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gla.tabular.tables import Tables

GAIN, NOVELTY, HOPE = range(3)
CHANNELS = 3
# Numbers about the whole lifetime and about one action, see `_context` and `_features`.
CONTEXT, FEATURES = 7, 8
SCATTER = 6  # which number of the context says how much outcomes scatter
HIDDEN = 16
SMALL = 1e-6


class Rule(NamedTuple):
    """All that is learned; what an entry is good for is told by `resolve` and `logits_of`.

    Attributes:
        horizon: f32[3], how far each channel looks ahead: its discount is 1 - exp(-horizon).
        prior: f32[3, 7], logarithm of how many observations the prior of an action counts for,
            linear in the context.
        unknown: f32[3], where between the lowest and the highest value of the known states that
            prior lies, as logits.
        fall: f32[2], logarithm of the power of a count by which each bonus falls.
        resume: f32[2], share of a start's value that follows a termination, as logits.
        weight: f32[7], the logarithm of the weight of the bonus in `hope`, linear in the context.
        width: f32[3], logarithm of how far behind the best an action is when its standing is -1/2.
        sharpness: f32[3, 7], logarithm of how much each channel counts, linear in the context.
        w1: f32[15, 16], first layer of a residual on each action's logit.
        b1: f32[16].
        w2: f32[16], its second layer.
    """

    horizon: jax.Array
    prior: jax.Array
    unknown: jax.Array
    fall: jax.Array
    resume: jax.Array
    weight: jax.Array
    width: jax.Array
    sharpness: jax.Array
    w1: jax.Array
    b1: jax.Array
    w2: jax.Array


def initial_rule(key: jax.Array) -> Rule:
    """Return a rule from which learning starts: discounts of 0.99, nearly uniform actions."""
    inputs = CONTEXT + FEATURES
    return Rule(
        horizon=jnp.full(3, 4.6),
        prior=jnp.zeros((CHANNELS, CONTEXT)).at[:, 0].set(-2.0),
        unknown=jnp.zeros(3),
        fall=jnp.full(2, -0.7),
        resume=jnp.zeros(2),
        weight=jnp.zeros(CONTEXT).at[0].set(-1.0),
        width=jnp.full(3, -1.0),
        sharpness=jnp.zeros((CHANNELS, CONTEXT)),
        w1=jax.random.normal(key, (inputs, HIDDEN)) * inputs**-0.5,
        b1=jnp.zeros(HIDDEN),
        w2=jnp.zeros(HIDDEN),
    )


def optimistic_rule() -> Rule:
    """Return a rule that was set by hand: act greedily under optimism, after R-max and MBIE-EB.

    Discounts of 0.99, a bonus that falls with the root of a count or so, untried actions that lead
    nearly to the best known. It says what the built-in parts can do; nothing in it is learned.
    """
    rule = initial_rule(jax.random.key(0))
    logarithm = jnp.log(jnp.array([0.5, 0.1, 10.0]))
    return rule._replace(
        horizon=jnp.full(3, jnp.log(100.0)),
        prior=jnp.zeros((CHANNELS, CONTEXT)).at[:, 0].set(jnp.array([-6.0, -2.0, -2.0])),
        unknown=jnp.array([0.0, 2.0, 3.0]),
        fall=jnp.full(2, jnp.log(0.7)),
        resume=jnp.array([0.0, -3.0]),
        weight=jnp.zeros(CONTEXT),
        width=jnp.full(3, jnp.log(0.05)),
        sharpness=jnp.zeros((CHANNELS, CONTEXT)).at[:, 0].set(logarithm),
    )


def wary_rule() -> Rule:
    """Return the optimistic rule, only the more optimistic the more outcomes scatter.

    Where every action always does the same, one try tells all, and this is `optimistic_rule`. Where
    three outcomes are equally likely, the optimistic prior of an action counts for two observations
    instead of an eighth and its bonus weighs fourteen times as much. Set by hand as well.
    """
    rule = optimistic_rule()
    return rule._replace(
        prior=rule.prior.at[HOPE, SCATTER].set(4.0),
        fall=rule.fall.at[1].set(0.0),
        weight=rule.weight.at[SCATTER].set(4.0),
    )


def _range(tables: Tables, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the lowest and the highest value of known states, f32[3] each."""
    known = jnp.arange(values.shape[1]) < tables.known
    low = jnp.min(jnp.where(known, values, jnp.inf), 1)
    high = jnp.max(jnp.where(known, values, -jnp.inf), 1)
    return low, high


def stake_of(tables: Tables, values: jax.Array) -> jax.Array:
    """Return the difference between the best and the worst `gain` of known states, f32[]."""
    low, high = _range(tables, values)
    return (high - low)[GAIN]


def scatter_of(tables: Tables) -> jax.Array:
    """Return how unlike each other the outcomes of the same action in the same state are, f32[].

    That is the share of repetitions that did not lead to the commonest outcome of their pair; 0
    where the world is deterministic, 2/3 where three successors are equally likely.
    """
    total = jnp.sum(tables.counts, 0) + tables.terminations
    commonest = jnp.maximum(jnp.max(tables.counts, 0), tables.terminations)
    repeated = jnp.sum(jnp.maximum(total - 1.0, 0.0))
    return jnp.sum(total - commonest) / jnp.maximum(repeated, 1.0)


def _context(tables: Tables, stake: jax.Array) -> jax.Array:
    """Return numbers about the lifetime so far, f32[7], each about within [0, 1]."""
    actions, slots = tables.visits.shape
    known = jnp.arange(slots) < tables.known
    pairs = jnp.maximum(tables.known * actions, 1).astype(jnp.float32)
    untried = jnp.sum(known & (tables.visits == 0)) / pairs
    age = tables.age.astype(jnp.float32)
    return jnp.stack(
        [
            jnp.ones(()),
            jnp.log1p(age / pairs) / 4.0,
            untried,
            (stake > SMALL).astype(jnp.float32),
            jnp.log1p(jnp.sum(tables.visits[:, tables.slot])) / 6.0,
            tables.ends / jnp.maximum(jnp.sum(tables.starts), 1.0),
            scatter_of(tables),
        ]
    )


class _Sources(NamedTuple):
    """What a backup adds up besides the values of successors.

    Attributes:
        now: f32[3, A, M], what an action is worth at once.
        prior: f32[3], what it leads to before anything is known.
        weight: f32[3], how many observations that counts for.
        total: f32[A, M], outcomes that were counted.
        resume: f32[3], share of a start's value that follows a termination.
    """

    now: jax.Array
    prior: jax.Array
    weight: jax.Array
    total: jax.Array
    resume: jax.Array


def _sources(
    rule: Rule, tables: Tables, stake: jax.Array, context: jax.Array, discounts: jax.Array
) -> _Sources:
    reward = tables.rewards / jnp.maximum(tables.visits, 1.0)
    seen = jnp.log1p(tables.visits)
    power = jnp.exp(rule.fall)
    novelty, bonus = jnp.exp(-power[0] * seen), jnp.exp(-power[1] * seen)
    weight = jnp.exp(jnp.clip(rule.weight @ context, -10.0, 5.0))
    scaled = jnp.where(stake > SMALL, reward / jnp.maximum(stake, SMALL), 0.0)
    # Shares of what would be earned for ever after: weights then do not depend on discounts.
    rest = 1.0 - discounts
    now = jnp.stack([reward, rest[NOVELTY] * novelty, scaled + rest[HOPE] * weight * bonus])
    resume = jnp.concatenate([jnp.zeros(1), jax.nn.sigmoid(rule.resume)])
    total = jnp.sum(tables.counts, 0) + tables.terminations
    prior = jnp.exp(jnp.clip(rule.prior @ context, -10.0, 5.0))
    return _Sources(now, jax.nn.sigmoid(rule.unknown), prior, total, resume)


def _backup(
    sources: _Sources, discounts: jax.Array, tables: Tables, values: jax.Array
) -> jax.Array:
    """Return the values f32[3, A, M] of all actions from those of states f32[3, M]."""
    start = values @ tables.starts / jnp.maximum(jnp.sum(tables.starts), 1.0)

    def one(value, now, prior, weight, resume, discount):
        # Gathers of single numbers: those of rows take a CPU six times as long.
        each = zip(tables.counts, tables.successors, strict=True)
        follows = sum(count * value[successor] for count, successor in each)
        follows = follows + tables.terminations * resume + weight * prior
        return now + discount * follows / (sources.total + weight)

    low, high = _range(tables, values)
    prior = low + sources.prior * (high - low)
    parts = (sources.now, prior, sources.weight, sources.resume * start, discounts)
    return jnp.stack([one(values[i], *(part[i] for part in parts)) for i in range(CHANNELS)])


def _best(tables: Tables, actions: jax.Array) -> jax.Array:
    """Return the values of states f32[3, M]; `gain` counts on tried actions, if there are any."""
    tried = tables.visits > 0
    counted = tried | ~jnp.any(tried, 0)
    gain = jnp.max(jnp.where(counted, actions[GAIN], -jnp.inf), 0)
    best = jnp.max(actions, 1).at[GAIN].set(gain)
    return jnp.where(jnp.arange(best.shape[1]) < tables.known, best, 0.0)


def plan(rule: Rule, tables: Tables, values: jax.Array, sweeps: int) -> tuple[jax.Array, jax.Array]:
    """Back values up over all that is known.

    Args:
        rule: what is learned.
        tables: what is known.
        values: f32[3, M], of the step before.
        sweeps: backups of all states.

    Returns:
        The new values and the logits f32[A] of the actions in the current slot.
    """
    stake = stake_of(tables, values)
    context = _context(tables, stake)
    discounts = 1.0 - jnp.exp(-jnp.maximum(rule.horizon, 0.05))
    sources = _sources(rule, tables, stake, context, discounts)
    actions = jnp.zeros((CHANNELS, *tables.visits.shape))
    for _ in range(sweeps):
        actions = _backup(sources, discounts, tables, values)
        values = _best(tables, actions)
    return values, logits_of(rule, tables, actions, context)


def _features(tables: Tables, standing: jax.Array) -> jax.Array:
    """Return numbers about each action of the current slot, f32[A, 8]."""
    visits, ended = tables.visits[:, tables.slot], tables.terminations[:, tables.slot]
    return jnp.concatenate(
        [
            standing,
            jnp.stack(
                [
                    (1.0 + visits) ** -0.5,
                    jnp.log1p(visits) / 4.0,
                    (visits == 0).astype(jnp.float32),
                    visits / jnp.maximum(jnp.sum(visits), 1.0),
                    ended / jnp.maximum(visits, 1.0),
                ],
                -1,
            ),
        ],
        -1,
    )


def gaps_of(tables: Tables, actions: jax.Array) -> jax.Array:
    """Return by how much known actions are behind the best of their state in the mean, f32[3].

    Args:
        tables: say what is known.
        actions: f32[3, A, M], values of all actions.
    """
    known = jnp.arange(actions.shape[2]) < tables.known
    behind = jnp.where(known, jnp.max(actions, 1, keepdims=True) - actions, 0.0)
    return jnp.sum(behind, (1, 2)) / (jnp.maximum(tables.known, 1) * actions.shape[1])


def logits_of(rule: Rule, tables: Tables, actions: jax.Array, context: jax.Array) -> jax.Array:
    """Return the logits f32[A] of a policy in the current slot from values f32[3, A, M].

    An action's standing in a channel is 0 for the best and falls to -1 the further it is behind, in
    units of how far actions are behind in the mean. So a policy is as sharp far from a reward,
    where values differ little, as it is beside it.
    """
    here = actions[:, :, tables.slot].T
    behind = (jnp.max(here, 0) - here) / jnp.maximum(gaps_of(tables, actions), SMALL)
    standing = -behind / (behind + jnp.exp(rule.width))
    sharpness = jnp.exp(jnp.clip(rule.sharpness @ context, -10.0, 5.0))
    around = jnp.broadcast_to(context, (standing.shape[0], CONTEXT))
    inputs = jnp.concatenate([_features(tables, standing), around], -1)
    residual = jnp.tanh(inputs @ rule.w1 + rule.b1) @ rule.w2
    return standing @ sharpness + residual
