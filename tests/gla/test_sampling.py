"""Training sequences cut out of histories in which every number says where it comes from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from gla import policy as pol
from gla import sampling, training
from gla.errors import GlaError
from gla.histories import STREAM_ARRAYS, HistoryMeta, HistoryStore, array_shapes
from gla.projection import ProjectionConfig
from gla.sampling import Histories, SamplingConfig

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


@functools.cache
def draw_many(config, projection, discrete=False):
    """(places i[count, L, 3], tokens, target) of sampled sequences, as numpy arrays."""
    keys = jax.random.split(jax.random.key(0), COUNT)
    many = jax.jit(
        jax.vmap(lambda key, h: sampling.sample_sequence(key, h, config, projection), (0, None))
    )(keys, histories(discrete))
    tokens, target = jax.tree.map(np.asarray, many)
    places = np.rint(tokens[..., :3] * 10).astype(int)
    np.testing.assert_allclose(places / 10, tokens[..., :3], atol=1e-6)
    return places, tokens, target


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
    draw = jax.jit(
        lambda seed, h: sampling.sample_sequence(jax.random.key(seed), h, CONFIG, config)
    )
    first, again, other = (jax.tree.map(np.asarray, draw(s, histories())) for s in (0, 0, 1))
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
    draw = jax.jit(
        lambda seed, h: sampling.sample_sequence(jax.random.key(seed), h, config, IDENTITY)
    )
    for seed in range(5):
        one = draw(seed, read)
        place = np.rint(np.asarray(one.tokens[:, :3]) * 10).astype(int)
        recorded = np.asarray(arrays["distribution"])[tuple(place.T)]
        np.testing.assert_allclose(one.target.mean, recorded, atol=1e-4)


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
    del discrete  # one program for each
    return jax.jit(jax.vmap(lambda k, h: sampling.sample_sequence(k, h, PLAIN, WIDE), (0, None)))


def draw_bare(store, discrete=False):
    keys = jax.random.split(jax.random.key(0), COUNT)
    tokens, target = jax.tree.map(np.asarray, _program(discrete)(keys, sampling.from_store(store)))
    return np.rint(tokens[..., :3] * 10).astype(int), tokens, target


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
        sampling.sample_sequence(key, read, dataclasses.replace(PLAIN, lead=lead), WIDE)
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


def test_many_streams_of_score_zero_are_never_drawn():
    score = np.random.default_rng(0).random(3000)
    score[::3] = 0
    found = frequencies(scored(score), dataclasses.replace(CONFIG, score_power=0.3))
    assert (found[::3] == 0).all() and (found > 0).sum() > 1900


def test_sequences_come_from_the_better_streams():
    config = dataclasses.replace(CONFIG, score_power=1.0, keep=0.5)
    data = scored([0.0, 0.4, 0.0, 0.1])
    keys = jax.random.split(jax.random.key(0), COUNT)
    tokens, _ = jax.jit(
        jax.vmap(lambda key, h: sampling.sample_sequence(key, h, config, IDENTITY), (0, None))
    )(keys, data)
    assert set(np.rint(np.asarray(tokens)[:, 0, 0] * 10)) == {1, 3}


def test_without_weights_scores_change_nothing(near):
    keys = jax.random.split(jax.random.key(0), COUNT)
    tokens, _ = jax.jit(
        jax.vmap(lambda key, h: sampling.sample_sequence(key, h, CONFIG, IDENTITY), (0, None))
    )(keys, scored([0.2, 0.0, 0.5, 0.3]))
    np.testing.assert_array_equal(tokens, near[1])


def test_a_stores_scores_are_read(stored, tmp_path):
    store, _ = bare_store(tmp_path / "s")
    read = sampling.from_store(store)
    np.testing.assert_array_equal(read.score, store.scores().score)
    assert sorted(read.best.tolist()) == list(range(STREAMS))
    assert (np.diff(np.asarray(read.score)[read.best]) <= 0).all()
    assert stored[0].score.shape == (STREAMS,), "with policies too"


def test_settings_from_before_there_were_scores_can_be_read():
    old = dataclasses.asdict(training.MetaTrainConfig(sampling=CONFIG))
    del old["sampling"]["score_power"], old["sampling"]["keep"]
    assert training.config_from_json(old).sampling == CONFIG


def test_scores_that_choose_nothing_are_refused():
    weighted = dataclasses.replace(CONFIG, score_power=1.0)
    sampling.check(weighted, scored([0, 0, 0.1, 0]), "made")
    sampling.check(CONFIG, scored([0, 0, 0, 0]), "made")
    for config in (weighted, dataclasses.replace(CONFIG, keep=0.5)):
        with pytest.raises(GlaError, match="histories of made improved: all their scores are 0"):
            sampling.check(config, scored([0, 0, 0, 0]), "made")
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


# Bad input


@pytest.mark.parametrize(
    "settings",
    [
        {"segments": 0},
        {"segment_length": 0},
        {"first_update": (3, 1)},
        {"gap": (-1, 2)},
        {"lead": (5, 4)},
        {"jitter": -1},
        {"score_power": -0.5},
        {"score_power": float("inf")},
        {"score_power": float("nan")},
        {"keep": 0.0},
        {"keep": 1.5},
        {"keep": float("nan")},
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
