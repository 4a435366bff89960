"""Training sequences cut out of histories in which every number says where it comes from."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from gla import policy as pol
from gla import sampling
from gla.errors import GlaError
from gla.histories import STREAM_ARRAYS, HistoryMeta, HistoryStore, array_shapes
from gla.projection import ProjectionConfig
from gla.sampling import LAST, Histories, SamplingConfig
from gla.tokens import Interface, condition_features

STREAMS, UPDATES, STEPS, RUNS, K = 4, 9, 6, 2, 2
IDENTITY = ProjectionConfig(observation_dim=3, action_dim=K, kind="identity")
# Every config and projection compiles for seconds, so three of them serve all tests.
CONFIG = SamplingConfig(segments=3, segment_length=4, first_update=(0, 2), gap=(2, 3), lead=(0, 1))
FAR = SamplingConfig(
    segments=3, segment_length=STEPS, first_update=(0, 2), gap=(5, 5), lead=(50, 50)
)
JITTERED = SamplingConfig(
    segments=3, segment_length=4, first_update=(2, 2), gap=(2, 2), lead=(2, 2), jitter=1
)
ROOMY = ProjectionConfig(observation_dim=3, action_dim=K + 40, kind="identity")
SLOTS = ProjectionConfig(observation_dim=3, action_dim=5, kind="identity")  # slots 0 1 0 1 0
COUNT = 48


def grid():
    """The observation (stream, update, step) / 10 at every place, f32[S, U, T, 3]."""
    return np.stack(np.indices((STREAMS, UPDATES, STEPS)), -1).astype(np.float32) / 10


def random_policies(discrete=False):
    """Policies with large random weights, so that no two agree anywhere: leading axes [R, U]."""
    shape = pol.PolicyShape(3, K, 5, discrete)
    flat = np.random.default_rng(0).normal(size=(RUNS, UPDATES, shape.size)).astype(np.float32)
    policies = jax.tree.map(np.asarray, pol.unflatten(shape, flat))
    return policies._replace(
        std=1 + np.abs(policies.std), log_std=np.clip(policies.log_std, -2.0, 0.4)
    )


def histories(discrete=False):
    where = np.indices((STREAMS, UPDATES, STEPS))
    number = where[0] * 1000 + where[1] * 10 + where[2]  # exact in float32
    action = np.stack([number, -number], -1).astype(np.float32)
    if discrete:
        action = (number % K).astype(np.int32)
    return Histories(
        observation=jnp.asarray(grid()),
        action=jnp.asarray(action),
        reward=jnp.asarray(number + 0.5, jnp.float32),
        terminated=jnp.asarray(number % 3 == 0),
        truncated=jnp.asarray(number % 7 == 0),
        policy=random_policies(discrete=discrete),
        run=jnp.asarray([0, 0, 1, 1]),
    )


def interface_of(projection, discrete=False, conditions=()):
    return Interface(projection.observation_dim, projection.action_dim, discrete, conditions)


@functools.cache
def sampler(config, projection, discrete=False, conditions=()):
    """A compiled function of (keys, histories) that samples a sequence for each key."""
    interface = interface_of(projection, discrete, conditions)
    return jax.jit(
        jax.vmap(
            lambda key, h: sampling.sample_sequence(key, h, config, projection, interface),
            (0, None),
        )
    )


@functools.cache
def draw_all(config, projection, discrete=False):
    """`Sequences` of COUNT sampled sequences, as numpy arrays."""
    keys = jax.random.split(jax.random.key(0), COUNT)
    many = sampler(config, projection, discrete)(keys, histories(discrete))
    return jax.tree.map(np.asarray, many)


def places_of(tokens):
    """The (stream, update, step) that each token's observation says, i[..., L, 3]."""
    places = np.rint(tokens[..., :3] * 10).astype(int)
    np.testing.assert_allclose(places / 10, tokens[..., :3], atol=1e-6)
    return places


def draw_many(config, projection, discrete=False):
    """(places i[count, L, 3], tokens, target) of sampled sequences, as numpy arrays."""
    many = draw_all(config, projection, discrete)
    return places_of(many.tokens), many.tokens, many.target


@pytest.fixture(scope="module")
def near():
    return draw_many(CONFIG, IDENTITY)


@pytest.fixture(scope="module")
def far():
    return draw_many(FAR, ROOMY)


@pytest.fixture(scope="module")
def jittered():
    return draw_many(JITTERED, SLOTS, discrete=True)


def by_segment(places):
    """Places by segment: i[count, segments, segment_length, 3]."""
    return places.reshape(len(places), 3, -1, 3)


def first_updates(places):
    """The update of each segment, i[count, segments]."""
    return by_segment(places)[:, :, 0, 1]


def at(policies, places, lead):
    """What the policies `lead` updates later say at places: (mean or logits, log_std)."""
    run, update = places[..., 0] // 2, np.minimum(places[..., 1] + lead, UPDATES - 1)
    chosen = jax.tree.map(lambda x: np.asarray(x)[run, update], policies)
    seen = places.astype(np.float32) / 10
    outputs, (mean, log_std) = jax.jit(
        jax.vmap(jax.vmap(lambda p, o: (pol.output(p, o), pol.gaussian(p, o))))
    )(chosen, seen)
    return np.asarray(outputs), np.asarray(mean), np.asarray(log_std)


def test_a_segment_is_a_stretch_of_one_update_of_one_stream(near):
    places, tokens, _ = near
    assert tokens.shape == (COUNT, 12, 3 + K + 3)
    parts = by_segment(places)
    assert (parts[..., 0] == parts[:, :1, :1, 0]).all(), "one stream per sequence"
    assert (parts[..., 1] == parts[:, :, :1, 1]).all(), "one update per segment"
    assert (np.diff(parts[..., 2], axis=2) == 1).all(), "consecutive steps"
    assert parts[..., 2].max() < STEPS
    # Everything that may be drawn is drawn.
    assert set(parts[:, 0, 0, 0]) == set(range(STREAMS))
    assert set(parts[:, :, 0, 2].ravel()) == {0, 1, 2}


def test_updates_move_on_by_the_gap(near):
    updates = first_updates(near[0])
    first, gap = updates[:, :1], updates[:, 1:2] - updates[:, :1]
    assert set(first.ravel()) == {0, 1, 2} and set(gap.ravel()) == {2, 3}
    np.testing.assert_array_equal(updates, first + np.arange(3) * gap)


def test_updates_stop_at_the_last(far):
    updates = first_updates(far[0])
    np.testing.assert_array_equal(updates, np.minimum(updates[:, :1] + [[0, 5, 10]], UPDATES - 1))


def test_jitter_moves_each_segment_on_its_own(jittered):
    moved = first_updates(jittered[0]) - (2 + 2 * np.arange(3))
    assert set(moved.ravel()) == {-1, 0, 1}
    assert (moved != moved[:, :1]).any()


def test_whole_updates_are_taken_from_their_first_step(far):
    assert (by_segment(far[0])[..., 2] == np.arange(STEPS)).all()


def previous(values):
    return np.concatenate([np.zeros_like(values[:, :1]), values[:, :-1]], 1)


def test_action_reward_and_flags_are_those_of_the_step_before(near):
    places, tokens, _ = near
    number = places @ [1000, 10, 1]
    action = previous(np.stack([number, -number], -1))
    np.testing.assert_allclose(tokens[..., 3 : 3 + K], action, atol=1e-3)
    np.testing.assert_array_equal(tokens[..., 3 + K], previous(number + 0.5))
    terminated, truncated = number % 3 == 0, number % 7 == 0
    # The state jumps after a segment, and the reader is told so unless the task ended there.
    last = np.arange(12) % 4 == 3
    truncated = truncated | (last & ~terminated)
    np.testing.assert_array_equal(tokens[..., 4 + K], previous(terminated))
    np.testing.assert_array_equal(tokens[..., 5 + K], previous(truncated))
    assert (tokens[:, 0, 3:] == 0).all(), "nothing came before a lifetime"
    assert tokens[:, 4::4, 4 + K :].max(-1).all(), "every segment's end is seen"


def test_the_target_is_a_later_policy_at_the_visited_state(near):
    places, _, target = near
    leads = []
    for lead in (0, 1):
        _, mean, log_std = at(random_policies(), places, lead)
        same = np.isclose(target.log_std, log_std, atol=1e-6).all((1, 2))
        np.testing.assert_allclose(target.mean[same], mean[same], atol=1e-5)
        null = np.mean(log_std, -1)
        np.testing.assert_allclose(target.null_log_std[same], null[same], atol=1e-6)
        leads.append(same)
    # One lead per sequence, and both occur.
    assert np.logical_xor(*leads).all() and leads[0].any() and leads[1].any()


def test_a_lead_past_the_end_is_the_last_policy(far):
    places, _, target = far
    _, mean, log_std = at(random_policies(), places, UPDATES)
    np.testing.assert_allclose(target.mean[..., :K], mean, atol=1e-5)
    np.testing.assert_array_equal(target.mean[..., K:], 0.0)
    np.testing.assert_allclose(target.log_std, log_std, atol=1e-6)


def test_the_null_space_is_filled_with_the_behaviours_own_spread(far):
    places, tokens, _ = far
    noise = tokens[:, 1:, 3 + K : 3 + K + 40]
    log_std = np.asarray(random_policies().log_std)[places[..., 0] // 2, places[..., 1]]
    spread = np.exp(log_std.mean(-1))[:, :-1]
    # Over 48 x 17 x 40 numbers the standard deviation of standard noise is known to 0.4%.
    assert np.std(noise / spread[..., None]) == pytest.approx(1.0, abs=0.02)
    assert abs(np.mean(noise)) < 0.02


def test_discrete_actions_become_slots(jittered):
    places, tokens, target = jittered
    one_hot = tokens[:, 1:, 3:8]
    assert (np.sort(one_hot, -1) == [0, 0, 0, 0, 1]).all()
    action = (places @ [1000, 10, 1] % K)[:, :-1]
    np.testing.assert_array_equal(one_hot.argmax(-1) % 2, action)
    assert set(one_hot.argmax(-1).ravel()) == set(range(5)), "every slot is used"
    logits, _, _ = at(random_policies(discrete=True), places, 2)
    expected = scipy.special.log_softmax(logits, -1)[..., [0, 1, 0, 1, 0]]
    np.testing.assert_allclose(target, expected - np.log([3, 2, 3, 2, 3]), atol=1e-4)


def test_every_sequence_gets_a_projection_of_its_own():
    config = ProjectionConfig(8, 5)
    keys = jnp.stack([jax.random.key(seed) for seed in (0, 0, 1)])
    drawn = jax.tree.map(np.asarray, sampler(CONFIG, config)(keys, histories()))
    first, again, other = (jax.tree.map(lambda x, i=i: x[i], drawn) for i in range(3))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    b = first.target.action_map
    assert not np.allclose(b, other.target.action_map)
    # What was shown and what is asked for go through the same map.
    shown = first.tokens[1:, 8:13] @ b
    assert np.abs(shown[:, 0]).max() > 5
    np.testing.assert_allclose(shown[:, 0], -shown[:, 1], atol=1e-2)
    assert first.target.mean.shape == (12, 5)
    np.testing.assert_allclose(first.target.mean @ b @ b.T, first.target.mean, atol=1e-5)


# Reading a store


def write_store(path):
    """A store whose normalised observations are `grid()` and whose policies are known."""
    meta = HistoryMeta(
        environment="gla/Made-v0", observation_size=3, action_size=K, discrete=False, horizon=STEPS,
        runs=RUNS, streams_per_run=2, updates=UPDATES, steps=STEPS, parallel_envs=2, hidden=5,
        split="train", seed=0, block=1, settings={}, packages={},
    )  # fmt: skip
    rng = np.random.default_rng(1)
    mean, std = rng.normal(size=(RUNS, 3)), rng.uniform(0.5, 2.0, (RUNS, 3))
    run = np.repeat(np.arange(RUNS), 2)
    raw = (grid() * std[run][:, None, None] + mean[run][:, None, None]).astype(np.float32)
    policies = random_policies()
    chosen = jax.tree.map(lambda x: x[run], policies)
    distribution, log_std = jax.jit(jax.vmap(jax.vmap(pol.gaussian)))(chosen, raw)
    arrays = {
        "observation": raw,
        "distribution": distribution,
        "reward": rng.normal(size=raw.shape[:3]) * 8,
        "log_std": log_std[::2],
        "policy": jax.vmap(jax.vmap(pol.flatten))(policies),
        "observation_mean": mean,
        "observation_std": std,
        "reward_scale": np.array([0.5, 4.0]),
    }
    store = HistoryStore.create_or_resume(path, meta)
    for block in range(RUNS):
        rows = {}
        for name, (shape, dtype) in array_shapes(meta).items():
            value = np.asarray(arrays.get(name, np.zeros(shape)), dtype)
            per_run = 2 if name in STREAM_ARRAYS else 1
            rows[name] = value[block * per_run : (block + 1) * per_run]
        store.write_block(block, rows)
    return store, arrays


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    store, arrays = write_store(tmp_path_factory.mktemp("sampling") / "s")
    return sampling.from_store(store), arrays


def test_a_store_is_read_normalised_by_each_tasks_window(stored):
    read, arrays = stored
    np.testing.assert_allclose(read.observation, grid(), atol=1e-5)
    scale = np.array([0.5, 0.5, 4.0, 4.0])[:, None, None]
    np.testing.assert_allclose(read.reward, np.clip(arrays["reward"] / scale, -10, 10), rtol=1e-5)
    assert np.abs(read.reward).max() == 10.0, "the clip is reached"
    assert read.run.tolist() == [0, 0, 1, 1]


def test_stored_policies_take_normalised_observations(stored):
    read, arrays = stored
    chosen = jax.tree.map(lambda x: x[read.run], read.policy)
    mean, log_std = jax.jit(jax.vmap(jax.vmap(pol.gaussian)))(chosen, read.observation)
    np.testing.assert_allclose(mean, arrays["distribution"], atol=1e-4)
    np.testing.assert_allclose(log_std[::2], arrays["log_std"], atol=1e-6)


def test_with_no_lead_the_target_is_the_recorded_distribution(stored):
    read, arrays = stored
    config = dataclasses.replace(CONFIG, lead=(0, 0))
    drawn = sampler(config, IDENTITY)(jax.random.split(jax.random.key(0), 5), read)
    places = np.rint(np.asarray(drawn.tokens[..., :3]) * 10).astype(int)
    recorded = pick(arrays["distribution"], places)
    np.testing.assert_allclose(drawn.target.mean, recorded, atol=1e-4)


def test_large_numbers_may_be_shown_by_their_logarithm(tmp_path):
    store, arrays = write_store(tmp_path / "s")
    shown = sampling.from_store(store, logarithmic=True)
    scale = np.array([0.5, 0.5, 4.0, 4.0])[:, None, None]
    wanted = np.sign(arrays["reward"]) * np.log1p(np.abs(arrays["reward"] / scale))
    np.testing.assert_allclose(shown.reward, wanted, rtol=1e-5)
    np.testing.assert_allclose(
        shown.observation, np.sign(grid()) * np.log1p(np.abs(grid())), atol=1e-5
    )
    # The policies' distributions are those of the states themselves.
    config = dataclasses.replace(CONFIG, lead=(0, 0))
    identity = dataclasses.replace(IDENTITY, bound="log")
    drawn = sampler(config, identity)(jax.random.split(jax.random.key(0), 5), shown)
    places = np.rint(np.expm1(np.asarray(drawn.tokens[..., :3])) * 10).astype(int)
    np.testing.assert_allclose(drawn.target.mean, pick(arrays["distribution"], places), atol=1e-4)


# Histories without policies

# One config serves them all, so that they compile once per kind of action.
PLAIN = dataclasses.replace(CONFIG, lead=(0, 7))
WIDE = ProjectionConfig(observation_dim=3, action_dim=K + 3, kind="identity")


def bare_store(path, arrays=(), discrete=False):
    """A store whose maker kept no policies; observations say where they come from."""
    meta = HistoryMeta(
        environment="gla/Made-v0", observation_size=3, action_size=K, discrete=discrete,
        horizon=STEPS, runs=RUNS, streams_per_run=2, updates=UPDATES, steps=STEPS, parallel_envs=2,
        hidden=0, split="train", seed=0, block=RUNS, settings={}, packages={}, method="expert",
        arrays=arrays,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    made = {}
    for name, (shape, dtype) in array_shapes(meta).items():
        made[name] = rng.normal(size=shape).astype(dtype)
    made["observation"] = grid()
    made["observation_mean"], made["observation_std"] = np.zeros((RUNS, 3)), np.ones((RUNS, 3))
    made["reward_scale"] = np.ones(RUNS)
    if discrete:
        made["action"] = rng.integers(0, K, (STREAMS, UPDATES, STEPS))
    store = HistoryStore.create_or_resume(path, meta)
    store.write_block(0, made)
    return store, made


@functools.cache
def _program(discrete):
    return sampler(PLAIN, WIDE, discrete)


def draw_bare(store, discrete=False):
    keys = jax.random.split(jax.random.key(0), COUNT)
    many = jax.tree.map(np.asarray, _program(discrete)(keys, sampling.from_store(store)))
    return np.rint(many.tokens[..., :3] * 10).astype(int), many.tokens, many.target


def pick(array, places):
    return np.asarray(array)[tuple(np.moveaxis(places, -1, 0))]


@pytest.mark.parametrize(
    ("arrays", "mean", "log_std"),
    [
        (("target",), "target", "target_log_std"),
        (("target", "distribution"), "target", "target_log_std"),
        (("distribution", "value"), "distribution", "log_std"),
        ((), "action", None),
    ],
)
def test_the_target_without_policies_is_the_best_there_is(tmp_path, arrays, mean, log_std):
    store, made = bare_store(tmp_path / "s", arrays)
    places, tokens, target = draw_bare(store)
    np.testing.assert_allclose(target.mean[..., :K], pick(made[mean], places), atol=1e-6)
    np.testing.assert_array_equal(target.mean[..., K:], 0.0)
    run, update = places[..., 0] // 2, places[..., 1]
    low, high = pol.LOG_STD_RANGE

    def expected(name):
        if name is None:
            return np.full((*run.shape, K), low)
        value = made[name][run] if name == "target_log_std" else made[name][run, update]
        return np.clip(value, low, high)

    np.testing.assert_allclose(target.log_std, expected(log_std), atol=1e-6)
    # The null space is filled as widely as what acted was spread, where that is known.
    acted = expected("log_std" if "distribution" in arrays else log_std)
    noise = tokens[:, 1:, 3 + K : 6 + K] / np.exp(acted.mean(-1))[:, :-1, None]
    assert np.std(noise) == pytest.approx(1.0, abs=0.05)
    shown = previous(pick(made["action"], places))
    np.testing.assert_allclose(tokens[..., 3 : 3 + K], shown, atol=1e-6)


@pytest.mark.parametrize("arrays", [("target",), ("distribution",), ()])
def test_discrete_targets_without_policies(tmp_path, arrays):
    store, made = bare_store(tmp_path / "s", arrays, discrete=True)
    places, _, target = draw_bare(store, discrete=True)
    p = np.exp(target)  # slots 0 1 0 1 0
    p = np.stack([p[..., ::2].sum(-1), p[..., 1::2].sum(-1)], -1)
    if arrays:
        expected = scipy.special.softmax(pick(made[arrays[0]], places), -1)
    else:
        expected = np.where(np.eye(K)[pick(made["action"], places)] > 0, 0.99, 0.01)
    np.testing.assert_allclose(p, expected, atol=1e-5)


def test_a_lead_is_without_meaning_where_there_are_no_policies(tmp_path):
    store, _ = bare_store(tmp_path / "s", ("distribution",))
    read, key = sampling.from_store(store), jax.random.key(1)
    one, other = (
        sampler(dataclasses.replace(PLAIN, lead=lead), WIDE)(key[None], read)
        for lead in ((0, 0), (50, 50))
    )
    np.testing.assert_array_equal(one.target.mean, other.target.mean)


# Drawing the better streams


def scored(score):
    score = np.asarray(score, np.float32)
    best = np.argsort(-score, kind="stable").astype(np.int32)
    data = histories()
    if len(score) != STREAMS:
        data = data._replace(reward=jnp.zeros((len(score), UPDATES, STEPS)))
    return data._replace(score=jnp.asarray(score), best=jnp.asarray(best))


def frequencies(data, config, count=20_000):
    draw = jax.jit(jax.vmap(lambda key: sampling._draw_stream(key, data, config)))
    streams = np.asarray(draw(jax.random.split(jax.random.key(5), count)))
    return np.bincount(streams, minlength=len(data.score)) / count


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"score_power": 1.0}, [0.2, 0.0, 0.5, 0.3]),
        ({"score_power": 2.0}, np.array([4, 0, 25, 9]) / 38),
        ({"keep": 0.5}, [0.0, 0.0, 0.5, 0.5]),
        ({"keep": 0.01}, [0.0, 0.0, 1.0, 0.0]),
        ({"score_power": 1.0, "keep": 0.5}, [0.0, 0.0, 5 / 8, 3 / 8]),
        ({"score_power": 0.0, "keep": 1.0}, [0.25] * 4),
    ],
)
def test_streams_are_drawn_by_their_scores(settings, expected):
    found = frequencies(scored([0.2, 0.0, 0.5, 0.3]), dataclasses.replace(CONFIG, **settings))
    # Over 20,000 draws the standard deviation of a share is at most 0.0036.
    np.testing.assert_allclose(found, expected, atol=0.015)
    assert (found[np.asarray(expected) == 0] == 0).all(), "never, not seldom"


def test_a_pool_in_which_nothing_improved_is_drawn_from_all_alike():
    found = frequencies(scored([0.0, 0, 0, 0]), dataclasses.replace(CONFIG, score_power=1.0))
    np.testing.assert_allclose(found, 0.25, atol=0.015)


def test_many_streams_of_score_zero_are_never_drawn():
    score = np.random.default_rng(0).random(3000)
    score[::3] = 0
    found = frequencies(scored(score), dataclasses.replace(CONFIG, score_power=0.3))
    assert (found[::3] == 0).all() and (found > 0).sum() > 1900


def test_sequences_come_from_the_better_streams():
    config = dataclasses.replace(CONFIG, score_power=1.0, keep=0.5)
    data = scored([0.0, 0.4, 0.0, 0.1])
    keys = jax.random.split(jax.random.key(0), COUNT)
    tokens = np.asarray(sampler(config, IDENTITY)(keys, data).tokens)
    assert set(np.rint(tokens[:, 0, 0] * 10)) == {1, 3}


def test_without_weights_scores_change_nothing(near):
    keys = jax.random.split(jax.random.key(0), COUNT)
    drawn = sampler(CONFIG, IDENTITY)(keys, scored([0.2, 0.0, 0.5, 0.3]))
    np.testing.assert_array_equal(drawn.tokens, near[1])


def test_a_stores_scores_are_read(stored, tmp_path):
    store, _ = bare_store(tmp_path / "s")
    read = sampling.from_store(store)
    np.testing.assert_array_equal(read.score, store.scores().score)
    assert sorted(read.best.tolist()) == list(range(STREAMS))
    assert (np.diff(np.asarray(read.score)[read.best]) <= 0).all()
    assert stored[0].score.shape == (STREAMS,), "with policies too"


def test_settings_from_before_there_were_scores_can_be_read():
    old = json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    first = ("segments", "segment_length", "first_update", "gap", "lead", "jitter")
    again = SamplingConfig(**{name: old[name] for name in first})
    assert again == CONFIG and hash(again) == hash(CONFIG), "lists have become ranges"
    moving = dataclasses.replace(CONFIG, gap_final=(4, 5), conditions=("gap",))
    assert SamplingConfig(**json.loads(json.dumps(dataclasses.asdict(moving)))) == moving


def test_scores_that_choose_nothing_are_refused():
    weighted = dataclasses.replace(CONFIG, score_power=1.0)
    sampling.check(weighted, scored([0, 0, 0.1, 0]), "made")
    sampling.check(CONFIG, scored([0, 0, 0, 0]), "made")
    for config in (weighted, dataclasses.replace(CONFIG, keep=0.5)):
        with pytest.raises(GlaError, match="histories of made improved: all their scores are 0"):
            sampling.check(config, scored([0, 0, 0, 0]), "made")
    sampling.check(weighted, scored([0, 0, 0, 0]), "made", np.array([0, 0.1]))
    with pytest.raises(GlaError, match="made have no scores"):
        sampling.check(weighted, histories(), "made")


# Sharing out a batch


@pytest.mark.parametrize(
    ("batch", "weights", "expected"),
    [
        (16, (1, 1), (8, 8)),
        (10, (1, 2), (3, 7)),
        (10, (0.5, 1.0), (3, 7)),
        (4, (1, 100, 1), (1, 2, 1)),
        (3, (1, 1, 1000), (1, 1, 1)),
        (5, (7,), (5,)),
    ],
)
def test_a_batch_is_shared_out(batch, weights, expected):
    assert sampling.allocate(batch, weights) == expected


@given(st.integers(1, 64), st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_every_source_gets_at_least_one_and_nothing_is_lost(batch, weights):
    if batch < len(weights):
        with pytest.raises(GlaError, match="raise batch_size"):
            sampling.allocate(batch, weights)
        return
    counts = sampling.allocate(batch, weights)
    assert sum(counts) == batch and min(counts) >= 1
    for a, wa in zip(counts, weights, strict=True):
        for b, wb in zip(counts, weights, strict=True):
            assert a >= b - 1 or wa <= wb, "more weight never gives much less"


@pytest.mark.parametrize("weights", [(0.0, 1.0), (-1.0, 2.0), (float("nan"), 1.0)])
def test_weights_must_be_above_zero(weights):
    with pytest.raises(GlaError, match="numbers above 0"):
        sampling.allocate(8, weights)


# What each position holds beside the token


def test_actions_rewards_and_observations_are_those_of_the_step(near):
    places, tokens, _ = near
    many = draw_all(CONFIG, IDENTITY)
    number = places @ [1000, 10, 1]
    np.testing.assert_allclose(many.action, np.stack([number, -number], -1), atol=1e-3)
    np.testing.assert_array_equal(many.reward, number + 0.5)
    last = np.arange(12) % 4 == 3
    known = ~((number % 3 == 0) | (number % 7 == 0) | last)
    np.testing.assert_array_equal(many.known, known)
    assert known.any() and (~known & ~last).any()
    following = np.where(known[..., None], np.roll(tokens[..., :3], -1, 1), 0.0)
    np.testing.assert_array_equal(many.next_observation, following)
    after = places_of(many.next_observation)[known]
    np.testing.assert_array_equal(after, places[known] + [0, 0, 1])
    assert (many.weight == 1).all()


def test_discrete_actions_are_the_slots_that_are_shown(jittered):
    many = draw_all(JITTERED, SLOTS, discrete=True)
    assert np.issubdtype(many.action.dtype, np.integer)
    np.testing.assert_array_equal(many.action[:, :-1], many.tokens[:, 1:, 3:8].argmax(-1))
    number = jittered[0] @ [1000, 10, 1]
    np.testing.assert_array_equal(many.action % 2, number % K)


# Stages

STAGED = SamplingConfig(
    segments=6, segment_length=4, first_update=(0, LAST), gap=(3, 4), lead=(1, 1), stages=2,
    loss_on="last", conditions=("gap", "return", "position"), condition_dropout=0.4,
)  # fmt: skip
CONDITIONS = ("position", "gap", "return")
MANY = 400


@pytest.fixture(scope="module")
def staged():
    """Sequences of two stages, with conditions, of rewards that say only stream and update."""
    where = np.indices((STREAMS, UPDATES, STEPS))
    data = histories()._replace(reward=jnp.asarray(where[0] - where[1] / 10, jnp.float32))
    draw = sampler(STAGED, IDENTITY, conditions=CONDITIONS)
    many = jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(3), MANY), data))
    return many, places_of(many.tokens).reshape(MANY, 6, 4, 3)[:, :, 0, 1]


def test_a_stage_shows_consecutive_updates_and_the_next_begins_a_gap_later(staged):
    _, updates = staged
    first, second = updates[:, :3], updates[:, 3:]
    np.testing.assert_array_equal(first, first[:, :1] + np.arange(3))
    np.testing.assert_array_equal(second, second[:, :1] + np.arange(3))
    # A first update past the end means anywhere that a stage fits, all alike.
    counts = np.bincount(first[:, 0], minlength=UPDATES)
    assert counts[7:].sum() == 0 and counts[:7].min() > MANY / 7 / 2
    # A stage past the end is the last one: updates 6, 7 and 8.
    moved = second[:, 0] - first[:, 0]
    inside = first[:, 0] <= 2
    assert set(moved[inside]) == {3, 4}
    assert (second[~inside, 0] == np.minimum(first[~inside, 0] + moved[~inside], 6)).all()
    assert (second[first[:, 0] >= 3, 0] == 6).all()


def test_only_the_last_stage_counts_where_it_alone_is_asked_for(staged):
    np.testing.assert_array_equal(staged[0].weight, np.tile(np.repeat([0.0, 1.0], 12), (MANY, 1)))


def test_the_maximal_gap_ends_in_the_last_updates():
    config = dataclasses.replace(STAGED, gap=(LAST, LAST), conditions=(), first_update=(0, 2))
    many = draw_all(config, IDENTITY)
    updates = places_of(many.tokens).reshape(COUNT, 6, 4, 3)[:, :, 0, 1]
    assert (updates[:, 3:] == [6, 7, 8]).all() and set(updates[:, 0]) == {0, 1, 2}


def moving(progress):
    config = dataclasses.replace(CONFIG, gap=(1, 2), gap_final=(3, 4), first_update=(0, 0))
    low, high = sampling.gap_range(config, progress)
    return int(low), int(high)


def test_the_gap_moves_with_progress():
    assert [moving(p) for p in (0.0, 0.2, 0.5, 0.8, 1.0)] == [
        (1, 2), (1, 2), (2, 3), (3, 4), (3, 4),
    ]  # fmt: skip
    assert moving(-1.0) == (1, 2) and moving(2.0) == (3, 4)
    config = dataclasses.replace(CONFIG, gap=(1, 2), gap_final=(3, 4), first_update=(0, 0))
    draw = jax.jit(
        jax.vmap(
            lambda key, h, progress: sampling.sample_sequence(
                key, h, config, IDENTITY, interface_of(IDENTITY), progress
            ),
            (0, None, None),
        )
    )
    for progress, gaps in ((0.0, {1, 2}), (1.0, {3, 4})):
        many = draw(jax.random.split(jax.random.key(0), COUNT), histories(), progress)
        updates = first_updates(places_of(np.asarray(many.tokens)))
        assert set(updates[:, 1] - updates[:, 0]) == gaps
        np.testing.assert_array_equal(updates[:, 2], 2 * updates[:, 1])


# Conditions


def test_conditions_say_what_was_sampled(staged):
    many, updates = staged
    features = many.tokens[..., -6:].reshape(MANY, 24, 3, 2)
    known = features[..., 1]
    assert (known == known[:, :1]).all(), "for a whole sequence"
    assert (features[..., 0] == np.where(known > 0, features[..., 0], 0)).all(), "hidden: (0, 0)"
    ahead = np.minimum(updates + 1, UPDATES - 1)
    stream = places_of(many.tokens)[:, 0, 0]
    returns = np.repeat(stream[:, None] - ahead / 10, 4, 1)
    position = np.tile(np.log1p(np.arange(24)) / np.log(4097), (MANY, 1))
    for name, expected in (("return", returns), ("position", position)):
        place = CONDITIONS.index(name)
        shown = known[:, 0, place] > 0
        np.testing.assert_allclose(features[shown, :, place, 0], expected[shown], rtol=1e-5)

    place = CONDITIONS.index("gap")
    shown = known[:, 0, place] > 0
    drawn = updates[:, 3:4] - updates[:, :1]  # what was drawn, where the history is long enough
    first = ahead[:, :3] - updates[:, :3] + drawn
    second = ahead[:, 3:] - updates[:, :3]
    for gap, stage, which in (
        (first, slice(12), shown & (updates[:, 0] <= 2)),
        (second, slice(12, 24), shown),
    ):
        found = np.expm1(features[which, stage, place, 0] * np.log(101))
        np.testing.assert_allclose(found, np.repeat(gap[which], 4, 1), rtol=1e-4, atol=1e-5)
        assert which.sum() > 50 and len(np.unique(gap[which])) > 1


def test_each_condition_is_hidden_on_its_own_as_often_as_asked(staged):
    known = staged[0].tokens[:, 0, -6:].reshape(MANY, 3, 2)[..., 1]
    # 400 draws of probability 0.6: the standard deviation of the mean is 0.024.
    np.testing.assert_allclose(known.mean(0), 0.6, atol=0.1)
    assert len(np.unique(known, axis=0)) == 8, "all combinations"


def test_conditions_that_are_always_hidden_change_nothing(near):
    config = dataclasses.replace(CONFIG, conditions=("gap",), condition_dropout=1.0)
    many = sampler(config, IDENTITY, conditions=("gap",))(
        jax.random.split(jax.random.key(0), COUNT), histories()
    )
    np.testing.assert_array_equal(many.tokens[..., :-2], near[1])
    np.testing.assert_array_equal(many.tokens[..., -2:], 0.0)


def test_a_chain_with_a_lead_is_conditioned_on_their_sum():
    config = SamplingConfig(
        segments=3, segment_length=STEPS, first_update=(0, 0), gap=(3, 3), lead=(2, 2),
        conditions=("gap",), condition_dropout=0.0,
    )  # fmt: skip
    one = sampler(config, IDENTITY, conditions=("gap",))(jax.random.key(0)[None], histories())
    gap = np.expm1(np.asarray(one.tokens[0, ::STEPS, -2]) * np.log(101))
    # Updates 0, 3, 6 show the policies of 2, 5, 8; 2 - (-3), 5 - 0, 8 - 3.
    np.testing.assert_allclose(gap, [5, 5, 5], rtol=1e-5)
    long = dataclasses.replace(config, lead=(4, 4))
    one = sampler(long, IDENTITY, conditions=("gap",))(jax.random.key(0)[None], histories())
    gap = np.expm1(np.asarray(one.tokens[0, ::STEPS, -2]) * np.log(101))
    np.testing.assert_allclose(gap, [7, 7, 5], rtol=1e-5, err_msg="cut at the end")


@pytest.mark.parametrize(
    ("arrays", "gaps"), [(("target",), [8, 8, 6]), (("distribution",), [2, 2, 2])]
)
def test_the_gap_without_policies_is_that_of_the_targets_there_are(tmp_path, arrays, gaps):
    store, _ = bare_store(tmp_path / "s", arrays)
    config = SamplingConfig(
        segments=3, segment_length=STEPS, first_update=(0, 0), gap=(2, 2), lead=(1, 1),
        conditions=("gap",), condition_dropout=0.0,
    )  # fmt: skip
    draw = sampler(config, IDENTITY, conditions=("gap",))
    one = draw(jax.random.key(0)[None], sampling.from_store(store))
    gap = np.expm1(np.asarray(one.tokens[0, ::STEPS, -2]) * np.log(101))
    # The best policy is the last one's, as far ahead as the history is long.
    np.testing.assert_allclose(gap, gaps, rtol=1e-5)


def test_an_agent_asks_in_the_same_units(staged):
    many, _ = staged
    interface = interface_of(IDENTITY, conditions=CONDITIONS)
    row = np.flatnonzero(many.tokens[:, 0, -6:].reshape(MANY, 3, 2)[..., 1].all(-1))[0]
    seen = many.tokens[row]
    raw = {
        "position": jnp.arange(24),
        "gap": jnp.expm1(seen[:, -4] * np.log(101)),
        "return": jnp.asarray(seen[:, -2]),
    }
    np.testing.assert_allclose(condition_features(interface, raw), seen[:, -6:], rtol=1e-5)


# Batches from several sources


def bigger(k=4):
    """Histories of k action dimensions in the same agent space."""
    rng = np.random.default_rng(5)
    shape = pol.PolicyShape(3, k, 5)
    flat = rng.normal(size=(RUNS, UPDATES, shape.size)).astype(np.float32)
    policy = jax.tree.map(np.asarray, pol.unflatten(shape, flat))
    policy = policy._replace(std=1 + np.abs(policy.std))
    action = rng.normal(size=(STREAMS, UPDATES, STEPS, k)).astype(np.float32)
    return histories()._replace(action=jnp.asarray(action), policy=policy)


def batch_of(sources, shares, space, discrete=False):
    """A function of a key that samples a batch and joins it, as training does."""
    interface = interface_of(space, discrete)

    def draw(key):
        parts = []
        for i, (source, share) in enumerate(zip(sources, shares, strict=True)):
            keys = jax.random.split(jax.random.fold_in(key, i), share)
            one = lambda k, s=source: sampling.sample_sequence(k, s, CONFIG, space, interface)  # noqa: E731
            parts.append(jax.vmap(one)(keys))
        return jax.tree.map(lambda *x: jnp.concatenate(x), *sampling.align_targets(parts))

    return draw


def test_a_batch_holds_its_sources_in_order():
    sources, shares = (histories(), bigger()), (2, 2)
    sources = jax.tree.map(jnp.asarray, sources)
    batch = jax.tree.map(np.asarray, jax.jit(batch_of(sources, shares, WIDE))(jax.random.key(2)))
    places = np.rint(batch.tokens[..., :3] * 10).astype(int)
    for rows, source, k in ((slice(2), sources[0], 2), (slice(2, 4), sources[1], 4)):
        expected = pick(source.action, places[rows])
        np.testing.assert_allclose(batch.action[rows, :, :k], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(batch.target.action_map[rows, :, :k], [np.eye(K + 3, k)] * 2)
        assert (batch.target.action_map[rows, :, k:] == 0).all()
        log_std = np.clip(source.policy.log_std, *pol.LOG_STD_RANGE)
        assert np.isin(batch.target.log_std[rows, :, :k], log_std).all()
        # Each sequence has random numbers of its own.
        assert not np.array_equal(batch.tokens[rows][0], batch.tokens[rows][1])
    assert batch.target.log_std.shape == (4, 12, 4)


def test_discrete_batches_are_joined_too():
    sources = (jax.tree.map(jnp.asarray, histories(True)),) * 2
    batch = jax.eval_shape(batch_of(sources, (1, 2), SLOTS, discrete=True), jax.random.key(2))
    assert batch.target.shape == (3, 12, 5) and batch.action.shape == (3, 12)
    assert batch.tokens.shape == (3, 12, 3 + 5 + 3) and batch.known.shape == (3, 12)


# Some of a store's runs


@pytest.mark.parametrize(
    "settings", [{"hidden": 0, "arrays": ("target",)}, {"arrays": ("policy", "distribution")}]
)
def test_some_runs_of_a_store_are_read_alone(random_store, tmp_path, settings):
    store = random_store(tmp_path / "s", **settings)
    whole, part = (sampling.from_store(store, runs) for runs in (None, [3, 1, 2]))
    whole, part = (jax.tree.map(np.asarray, x) for x in (whole, part))
    runs, streams = [3, 1, 2], [6, 7, 2, 3, 4, 5]  # two of each run
    over_streams = {
        "observation", "action", "reward", "terminated", "truncated", "target", "score",
    }  # fmt: skip
    for name, value in part._asdict().items():
        if name in ("run", "best", "target_update"):
            continue
        rows = streams if name in over_streams else runs
        expected = jax.tree.map(lambda x, rows=rows: x[rows], getattr(whole, name))
        jax.tree.map(np.testing.assert_array_equal, value, expected)
    assert part.run.tolist() == [0, 0, 1, 1, 2, 2]
    assert sorted(part.best.tolist()) == list(range(6))
    assert (np.diff(part.score[part.best]) <= 0).all()


def test_runs_of_incomplete_blocks_are_refused_and_skipped(random_store, tmp_path):
    store = random_store(tmp_path / "s", blocks=[0, 2], hidden=0, arrays=("target",))
    assert sampling.complete_runs(store) == [0, 1, 4]
    whole = sampling.from_store(store)
    part = sampling.from_store(store, [4])
    np.testing.assert_array_equal(part.observation, whole.observation[4:])
    np.testing.assert_array_equal(part.score, whole.score[4:])
    with pytest.raises(GlaError, match="run 2 of the histories in .* is not complete"):
        sampling.from_store(store, [1, 2], whole.score)


# Bad input


@pytest.mark.parametrize(
    "settings",
    [
        {"segments": 0},
        {"segment_length": 0},
        {"first_update": (3, 1)},
        {"gap": (-1, 2)},
        {"gap": (0, 2 * LAST)},
        {"lead": (5, 4)},
        {"jitter": -1},
        {"score_power": -0.5},
        {"score_power": float("inf")},
        {"score_power": float("nan")},
        {"keep": 0.0},
        {"keep": 1.5},
        {"keep": float("nan")},
        {"stages": -1},
        {"stages": 3},  # of 8 segments
        {"loss_on": "first"},
        {"gap_final": (4, 2)},
        {"condition_dropout": 1.5},
        {"condition_dropout": float("nan")},
    ],
)
def test_a_config_out_of_range_is_refused(settings):
    with pytest.raises(GlaError, match=f"sampling {next(iter(settings))} is .*expected"):
        SamplingConfig(**settings)


def test_sequences_that_do_not_fit_are_refused():
    data = histories()
    sampling.check(CONFIG, data, "made")
    sampling.check(SamplingConfig(segment_length=STEPS, first_update=(8, 8)), data, "made")
    with pytest.raises(GlaError, match="made.*lower segment_length to at most 6"):
        sampling.check(SamplingConfig(segment_length=7), data, "made")
    with pytest.raises(GlaError, match="made have 9 updates"):
        sampling.check(SamplingConfig(segment_length=4, first_update=(9, 12)), data, "made")
    with pytest.raises(GlaError, match="stages of 10 segments do not fit into the 9 updates"):
        sampling.check(SamplingConfig(segments=20, segment_length=4, stages=2), data, "made")
    with pytest.raises(GlaError, match=r"condition 'gaps' is unknown \(did you mean gap\?\)"):
        SamplingConfig(conditions=("gaps",))
    with pytest.raises(GlaError, match="each at most once"):
        SamplingConfig(conditions=("gap", "gap"))
