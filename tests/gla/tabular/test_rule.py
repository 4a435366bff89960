"""The planner's values are those of the counted process; what is renumbered stays the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.tabular.rule import (
    CHANNELS,
    GAIN,
    HOPE,
    NOVELTY,
    initial_rule,
    plan,
    scatter_of,
    stake_of,
)
from gla.tabular.tables import TablesConfig, empty

SLOTS, ACTIONS, BRANCHES, KNOWN = 6, 3, 2, 5


@pytest.fixture(scope="module")
def tables():
    """A made-up memory of five states, with rewards of both signs and ends."""
    rng = np.random.default_rng(0)
    pairs, known = (ACTIONS, SLOTS), np.arange(SLOTS) < KNOWN
    counts = rng.integers(1, 6, (BRANCHES, *pairs)) * known
    terminations = rng.integers(0, 2, pairs) * known
    visits = counts.sum(0) + terminations
    return empty(TablesConfig(SLOTS, BRANCHES), 1, ACTIONS)._replace(
        known=jnp.int32(KNOWN),
        visits=jnp.asarray(visits, jnp.float32),
        rewards=jnp.asarray(visits * rng.normal(size=pairs), jnp.float32),
        terminations=jnp.asarray(terminations, jnp.float32),
        successors=jnp.asarray(rng.integers(0, KNOWN, (BRANCHES, *pairs)), jnp.int32),
        counts=jnp.asarray(counts, jnp.float32),
        starts=jnp.zeros(SLOTS).at[0].set(4.0),
        ends=jnp.float32(3.0),
        age=jnp.int32(60),
        slot=jnp.int32(2),
    )


@pytest.fixture(scope="module")
def rule():
    """Initial numbers but for a second layer that says something."""
    rule = initial_rule(jax.random.key(0))
    return rule._replace(w2=0.3 * jax.random.normal(jax.random.key(1), rule.w2.shape))


step = jax.jit(plan, static_argnums=3)


def planned(rule, tables, values, sweeps):
    """Values and logits after many sweeps, four at a time as in as many steps."""
    for _ in range(sweeps // 4):
        values, logits = step(rule, tables, values, 4)
    return values, logits


NOTHING = jnp.zeros((CHANNELS, SLOTS))


def test_gain_is_the_value_of_the_counted_process(rule, tables):
    """Against value iteration in numpy, with a prior of no weight."""
    surely = rule._replace(
        prior=jnp.zeros_like(rule.prior).at[:, 0].set(-30.0), horizon=jnp.full(CHANNELS, 2.3)
    )
    found, _ = planned(surely, tables, NOTHING, 300)
    gamma = 1 - np.exp(-2.3)
    t = jax.tree.map(np.asarray, tables)
    values = np.zeros(SLOTS)
    for _ in range(300):
        best = np.zeros(SLOTS)
        for s in range(KNOWN):
            for a in range(ACTIONS):
                following = sum(
                    t.counts[k, a, s] * values[t.successors[k, a, s]] for k in range(BRANCHES)
                )
                total = t.counts[:, a, s].sum() + t.terminations[a, s]
                q = t.rewards[a, s] / t.visits[a, s] + gamma * following / total
                best[s] = q if a == 0 else max(best[s], q)
        values = best
    np.testing.assert_allclose(found[GAIN], values, rtol=1e-4, atol=1e-4)
    spread = values[:KNOWN].max() - values[:KNOWN].min()
    np.testing.assert_allclose(stake_of(tables, found), spread, rtol=1e-4)


def test_rarely_tried_actions_are_new_and_hopeful(rule, tables):
    often = tables._replace(visits=tables.visits.at[1, 2].add(1000.0))
    often = often._replace(rewards=tables.rewards.at[1, 2].multiply(1001.0 / tables.visits[1, 2]))
    values, _ = planned(rule, tables, NOTHING, 40)
    others, _ = planned(rule, often, NOTHING, 40)
    assert (others[NOVELTY] <= values[NOVELTY] + 1e-6).all()
    assert float(others[NOVELTY, 2]) < float(values[NOVELTY, 2])
    assert values.shape == (CHANNELS, SLOTS) and bool(jnp.isfinite(values).all())


def _counted(counts, terminations=0):
    """A memory of one pair that led to each of its successors so often."""
    memory = empty(TablesConfig(SLOTS, 3), 1, ACTIONS)
    return memory._replace(
        counts=memory.counts.at[:, 1, 2].set(jnp.asarray(counts, jnp.float32)),
        terminations=memory.terminations.at[1, 2].set(terminations),
    )


@pytest.mark.parametrize(
    ("counts", "terminations", "expected"),
    [
        ((0, 0, 0), 0, 0.0),  # nothing was tried
        ((1, 0, 0), 0, 0.0),  # nothing was repeated
        ((9, 0, 0), 0, 0.0),  # the same again and again
        ((3, 0, 0), 1, 1 / 3),  # an end is an outcome too
        ((0, 0, 0), 5, 0.0),
        ((10, 10, 11), 0, 20 / 30),  # evenly on three
    ],
)
def test_scatter_is_the_share_of_uncommon_outcomes(counts, terminations, expected):
    assert float(scatter_of(_counted(counts, terminations))) == pytest.approx(expected)


def test_a_rule_may_trust_few_observations_less_where_outcomes_scatter(rule, tables):
    """The prior, here that all leads to the best, counts for more there, and only there."""
    hopeful = rule._replace(unknown=rule.unknown.at[HOPE].set(9.0))
    wary = hopeful._replace(prior=hopeful.prior.at[HOPE, -1].set(4.0))
    surely = tables._replace(counts=tables.counts.at[1:].set(0.0), terminations=tables.visits * 0)
    for memory, differs in ((tables, True), (surely, False)):
        trusting = planned(hopeful, memory, NOTHING, 40)[0][HOPE, :KNOWN]
        wanted = planned(wary, memory, NOTHING, 40)[0][HOPE, :KNOWN]
        assert bool(jnp.all(wanted > trusting + 1e-3)) == differs
        assert differs or bool(jnp.all(wanted == trusting))


def test_renumbered_states_get_the_same_actions(rule, tables):
    order = np.array([3, 0, 4, 2, 1, 5])  # new slot i holds what slot order[i] held
    place = np.argsort(order)
    other = tables._replace(
        **{
            name: getattr(tables, name)[..., order]
            for name in ("visits", "rewards", "terminations", "counts", "starts")
        },
        successors=jnp.asarray(place)[tables.successors[..., order]].astype(jnp.int32),
        slot=jnp.int32(place[2]),
    )
    values, logits = planned(rule, tables, NOTHING, 32)
    others, same = planned(rule, other, NOTHING, 32)
    np.testing.assert_allclose(others, values[:, order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(same, logits, rtol=1e-4, atol=1e-5)
    assert float(jnp.ptp(logits)) > 0.05


def test_renumbered_actions_get_their_logits(rule, tables):
    order = np.array([2, 0, 1])
    other = tables._replace(
        visits=tables.visits[order],
        rewards=tables.rewards[order],
        terminations=tables.terminations[order],
        successors=tables.successors[:, order],
        counts=tables.counts[:, order],
    )
    logits = planned(rule, tables, NOTHING, 32)[1]
    same = planned(rule, other, NOTHING, 32)[1]
    np.testing.assert_allclose(same, logits[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_the_scale_of_rewards_is_of_no_account(rule, tables, scale):
    values, logits = planned(rule, tables, NOTHING, 60)
    scaled = tables._replace(rewards=scale * tables.rewards)
    others, same = planned(rule, scaled, NOTHING, 60)
    np.testing.assert_allclose(others[GAIN], scale * values[GAIN], rtol=1e-3, atol=1e-5 * scale)
    np.testing.assert_allclose(others[HOPE], values[HOPE], rtol=0.02)
    np.testing.assert_allclose(same, logits, rtol=0.02, atol=0.02)


def test_the_initial_rule_is_nearly_uniform(tables):
    _, logits = planned(initial_rule(jax.random.key(0)), tables, NOTHING, 32)
    assert float(jax.nn.softmax(logits).max()) < 0.85


def test_a_policy_is_as_sharp_far_from_a_reward_as_beside_it():
    """A chain of thirty states, forward and back, that is all known and pays at its end."""
    length = 30
    forward, back = np.minimum(np.arange(length) + 1, length - 1), np.arange(length) - 1
    successors = np.stack([forward, np.maximum(back, 0)])[None]
    visits = np.full((2, length), 50.0)
    chain = empty(TablesConfig(length, 1), 1, 2)._replace(
        known=jnp.int32(length),
        visits=jnp.asarray(visits, jnp.float32),
        rewards=jnp.zeros((2, length)).at[0, length - 1].set(50.0),
        successors=jnp.asarray(successors, jnp.int32),
        counts=jnp.asarray(visits, jnp.float32)[None],
        starts=jnp.zeros(length).at[0].set(30.0),
        age=jnp.int32(3000),
    )
    rule = initial_rule(jax.random.key(0))
    nothing = jnp.zeros((CHANNELS, length))
    preferred = []
    for slot in (1, length - 2):
        logits = planned(rule, chain._replace(slot=jnp.int32(slot)), nothing, 1200)[1]
        preferred.append(float(logits[0] - logits[1]))
    far, near = preferred
    assert 0.4 * near < far and near > 0.5
