"""What the memory counts is what happened, whatever the numbers of states and actions."""

from collections import Counter, defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.errors import GlaError
from gla.tabular.tables import TablesConfig, decide, empty, find, observe

STATES, ACTIONS, STEPS = 7, 3, 400


@pytest.fixture(scope="module")
def stream():
    """A made-up lifetime: the state, the action taken in it, and what came before."""
    rng = np.random.default_rng(0)
    ends = rng.choice(3, STEPS, p=(0.8, 0.1, 0.1))
    ends[0] = 0
    return {
        "state": rng.integers(0, STATES, STEPS),
        "action": rng.integers(0, ACTIONS, STEPS),
        "reward": rng.normal(size=STEPS).astype(np.float32) * (np.arange(STEPS) > 0),
        "terminated": ends == 1,
        "truncated": ends == 2,
    }


def lived(stream, codes, config, actions=ACTIONS):
    """The tables after a lifetime whose states are observed as rows of `codes`."""

    def one(tables, step):
        tables = observe(
            tables, step["observation"], step["reward"], step["terminated"], step["truncated"],
            config.tolerance,
        )  # fmt: skip
        return decide(tables, step["action"]), tables

    steps = {**stream, "observation": codes[stream["state"]]}
    steps = {name: jnp.asarray(steps[name]) for name in steps}
    start = empty(config, codes.shape[1], actions)
    _, found = jax.jit(lambda: jax.lax.scan(one, start, steps))()
    return jax.tree.map(lambda leaf: np.asarray(leaf[-1]), found)


@pytest.fixture(scope="module")
def tables(stream):
    return lived(stream, np.eye(STATES, dtype=np.float32), TablesConfig(12, 8))


def test_counts_are_those_of_a_dictionary(stream, tables):
    visits, rewards, ends = Counter(), defaultdict(float), Counter()
    follows, starts = Counter(), Counter([stream["state"][0]])
    for t in range(1, STEPS):
        pair = int(stream["state"][t - 1]), int(stream["action"][t - 1])
        here = int(stream["state"][t])
        visits[pair] += 1
        rewards[pair] += float(stream["reward"][t])
        ends[pair] += bool(stream["terminated"][t])
        over = stream["terminated"][t] or stream["truncated"][t]
        if over:
            starts[here] += 1
        else:
            follows[(*pair, here)] += 1
    number = [int(np.argmax(row)) for row in tables.observations[:STATES]]
    assert sorted(number) == list(range(STATES)) and tables.known == STATES
    assert tables.ends == sum(ends.values()) and tables.ends > 20
    for slot, state in enumerate(number):
        assert tables.starts[slot] == starts[state]
        for action in range(ACTIONS):
            pair = state, action
            assert tables.visits[action, slot] == visits[pair] > 0
            assert tables.terminations[action, slot] == ends[pair]
            np.testing.assert_allclose(tables.rewards[action, slot], rewards[pair], atol=1e-4)
            counted = {
                number[tables.successors[k, action, slot]]: tables.counts[k, action, slot]
                for k in range(8)
                if tables.counts[k, action, slot]
            }
            assert counted == {s: c for (a, b, s), c in follows.items() if (a, b) == pair}


def test_how_states_look_changes_no_count(stream, tables):
    """Other one-hot places, or coordinates with rounding errors: the same tables."""
    rng = np.random.default_rng(1)
    config = TablesConfig(12, 8)
    permuted = lived(stream, np.eye(STATES, dtype=np.float32)[rng.permutation(STATES)], config)
    places = np.stack([np.arange(STATES) // 3, np.arange(STATES) % 3], 1).astype(np.float32)
    noisy = lived(stream, places + 1e-5 * rng.normal(size=places.shape).astype("f4"), config)
    for other in (permuted, noisy):
        for name in ("visits", "rewards", "terminations", "successors", "counts", "starts"):
            np.testing.assert_array_equal(getattr(other, name), getattr(tables, name))


def test_late_observations_share_the_last_slot_and_a_rare_successor_gives_way(stream):
    codes = np.eye(STATES, dtype=np.float32)
    found = lived(stream, codes, TablesConfig(4, 2))
    assert found.known == 4
    assert found.visits.sum() == STEPS - 1
    met = list(dict.fromkeys(stream["state"].tolist()))
    at_last = np.isin(stream["state"][:-1], met[3:])
    assert found.visits[:, 3].sum() == at_last.sum() > (stream["state"][:-1] == met[3]).sum()
    # Two successors are kept of four, so not all outcomes are counted any more.
    outcomes = STEPS - 1 - (stream["terminated"] | stream["truncated"]).sum()
    assert 0 < found.counts.sum() < outcomes
    assert (found.counts >= 0).all()


def test_zeros_are_an_observation_like_any_other():
    start = empty(TablesConfig(3, 1), 2, 2)
    one, slot = find(start, jnp.zeros(2), 1e-4)
    assert int(slot) == 0 and int(one.known) == 1
    two, slot = find(one, jnp.array([0.0, 1.0]), 1e-4)
    assert int(slot) == 1 and int(two.known) == 2
    assert int(find(two, jnp.zeros(2), 1e-4)[1]) == 0


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"slots": 1}, "slots is 1"),
        ({"successors": 0}, "successors is 0"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
    ],
)
def test_impossible_sizes_are_refused(settings, words):
    with pytest.raises(GlaError, match=words):
        TablesConfig(**settings)
