"""Random projections: the properties that let the sampler and the wrapper agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from gla import projection as proj
from gla.errors import GlaError
from gla.projection import ProjectionConfig

# (n, k, observation_dim, action_dim): tight, loose and lopsided; few, because each one compiles.
SIZES = [(1, 1, 1, 1), (4, 2, 24, 6), (7, 5, 7, 5), (3, 1, 8, 4)]
sizes = st.sampled_from(SIZES)
# Of action maps: orthogonal's is gaussian's.
kinds = st.sampled_from(["gaussian", "slots", "identity"])
seeds = st.integers(0, 2**31 - 1)
_sample = jax.jit(proj.sample, static_argnums=(1, 2, 3))
_lift_action = jax.jit(proj.lift_action)
_lower_action = jax.jit(proj.lower_action)
_lift_slot = jax.jit(proj.lift_slot)
_lift_logits = jax.jit(proj.lift_logits)


def draw(seed, size, kind="gaussian"):
    n, k, dim, action_dim = size
    return _sample(jax.random.key(seed), ProjectionConfig(dim, action_dim, kind), n, k)


@given(seeds, sizes, kinds)
def test_lowering_a_lifted_action_gives_it_back(seed, size, kind):
    projection = draw(seed, size, kind)
    rng = np.random.default_rng(seed)
    action = 3.0 * rng.normal(size=(10, size[1])).astype(np.float32)
    noise = 5.0 * rng.normal(size=(10, size[3])).astype(np.float32)
    lifted = _lift_action(projection, action, noise)
    assert lifted.shape == (10, size[3])
    np.testing.assert_allclose(_lower_action(projection, lifted), action, atol=1e-5)


@given(seeds, sizes, kinds)
def test_the_action_map_has_orthonormal_columns(seed, size, kind):
    b = np.asarray(draw(seed, size, kind).action_map, np.float64)
    assert b.shape == (size[3], size[1])
    np.testing.assert_allclose(b.T @ b, np.eye(size[1]), atol=2e-6)


def test_null_noise_changes_only_what_the_task_never_sees():
    projection = draw(0, (4, 2, 24, 6))
    action = jnp.asarray([[0.3, -0.8]])
    noise = jax.random.normal(jax.random.key(1), (1, 6))
    with_noise, without = (proj.lift_action(projection, action, s * noise) for s in (1.0, 0.0))
    difference = np.asarray(with_noise - without)
    assert np.abs(difference).max() > 0.1
    np.testing.assert_allclose(difference @ projection.action_map, 0.0, atol=1e-6)
    # Noise inside the span of B, which a policy's own noise already covers, is taken out.
    inside = jnp.ones((1, 2)) @ projection.action_map.T
    np.testing.assert_allclose(proj.lift_action(projection, action, inside), without, atol=1e-6)


def test_unit_variance_observations_keep_their_scale():
    n, dim = 4, 64
    observations = np.random.default_rng(0).normal(size=(400, n))
    squares = np.sum(observations**2, -1)
    for kind, spread in (("gaussian", 0.05), ("orthogonal", 1e-4)):
        config = ProjectionConfig(dim, 4, kind)
        draw_map = jax.jit(lambda key, c=config: proj.sample(key, c, n, 2).observation_map)
        maps = jax.vmap(draw_map)(jax.random.split(jax.random.key(1), 200))
        entries = np.asarray(maps)
        assert entries.shape == (200, dim, n)
        assert abs(entries.mean()) < 0.01
        assert entries.var() == pytest.approx(1 / n, rel=0.03)
        # The mean square of W o over projections is that of o.
        seen = np.einsum("pdn,bn->pbd", entries, observations)
        ratio = np.mean(seen**2, -1).mean(0) / (squares / n)
        np.testing.assert_allclose(ratio, 1.0, atol=spread)


def test_the_orthogonal_observation_map_keeps_angles():
    w = np.asarray(draw(3, (4, 2, 24, 6), "orthogonal").observation_map)
    np.testing.assert_allclose(w.T @ w, np.eye(4) * 24 / 4, atol=1e-5)


def test_slots_show_every_number_in_a_place_of_its_own():
    size = (4, 2, 24, 6)
    maps = [draw(seed, size, "slots") for seed in range(40)]
    for one in maps:
        w, b = np.asarray(one.observation_map), np.asarray(one.action_map)
        for matrix in (w, b):
            assert set(np.unique(matrix)) <= {-1.0, 0.0, 1.0}
            assert (np.abs(matrix).sum(0) == 1).all() and np.abs(matrix).sum(1).max() == 1
    everywhere = np.abs(np.stack([one.observation_map for one in maps])).sum((0, 2))
    assert (everywhere > 0).all(), "every place is used"
    signs = np.stack([one.observation_map for one in maps]).sum((1, 2))
    assert signs.min() < 0 < signs.max()
    few = np.asarray(proj.sample_map(jax.random.key(0), "slots", 3, 7))
    assert few.shape == (3, 7) and (np.abs(few).sum(1) == 1).all() and np.abs(few).sum(0).max() == 1


def test_identity_pads_with_zeros():
    projection = draw(0, (2, 2, 4, 3), "identity")
    np.testing.assert_array_equal(
        proj.project_observation(projection, jnp.asarray([5.0, -7.0])), [5.0, -7.0, 0.0, 0.0]
    )
    np.testing.assert_array_equal(
        proj.lower_action(projection, jnp.asarray([0.1, 0.2, 9.0])), np.float32([0.1, 0.2])
    )
    lifted = proj.lift_action(projection, jnp.asarray([0.1, 0.2]), jnp.asarray([3.0, 4.0, 5.0]))
    np.testing.assert_allclose(lifted, [0.1, 0.2, 5.0], atol=1e-6)
    assert projection.slots.tolist() == [0, 1, 0]


@given(seeds, sizes, kinds)
def test_every_slot_stands_for_an_action_and_every_action_is_reachable(seed, size, kind):
    slots = np.asarray(draw(seed, size, kind).slots)
    counts = np.bincount(slots, minlength=size[1])
    assert slots.shape == (size[3],) and slots.dtype == np.int32
    assert len(counts) == size[1]
    # Shared out as evenly as the numbers allow.
    assert counts.min() >= 1 and counts.max() - counts.min() <= 1


def test_slots_are_permuted_differently_by_different_keys():
    drawn = {tuple(draw(seed, (4, 3, 8, 6)).slots.tolist()) for seed in range(20)}
    assert len(drawn) > 10


@given(seeds, sizes)
def test_a_lifted_slot_lowers_back(seed, size):
    projection = draw(seed, size)
    actions = np.random.default_rng(seed).integers(0, size[1], 50, np.int32)
    slots = _lift_slot(jax.random.key(seed + 1), projection, actions)
    assert slots.dtype == jnp.int32
    np.testing.assert_array_equal(_lower_action(projection, slots), actions)


def test_all_slots_of_an_action_are_used_equally():
    projection = draw(0, (4, 2, 8, 6))  # three slots for each of two actions
    slots = proj.lift_slot(jax.random.key(1), projection, jnp.zeros(3000, jnp.int32))
    frequency = np.bincount(slots, minlength=6) / 3000
    expected = np.where(np.asarray(projection.slots) == 0, 1 / 3, 0.0)
    np.testing.assert_allclose(frequency, expected, atol=0.03)


def test_lifted_logits_are_the_frequencies_of_lifted_actions():
    projection = draw(2, (4, 3, 8, 8))  # 8 slots for 3 actions: 3, 3 and 2
    logits = jnp.asarray([0.5, -1.0, 2.0])
    lifted = np.exp(proj.lift_logits(projection, logits))
    assert lifted.sum() == pytest.approx(1.0, abs=1e-6)
    keys = jax.random.split(jax.random.key(3))
    actions = jax.random.categorical(keys[0], logits, shape=(20_000,))
    slots = proj.lift_slot(keys[1], projection, actions)
    # Four standard errors of a frequency of 20,000 draws are below 0.015.
    np.testing.assert_allclose(np.bincount(slots, minlength=8) / 20_000, lifted, atol=0.015)


@given(seeds, sizes)
def test_lifted_logits_sum_to_one_and_add_up_to_the_actions(seed, size):
    projection = draw(seed, size)
    logits = 3.0 * np.random.default_rng(seed).normal(size=(5, size[1])).astype(np.float32)
    slots = np.exp(_lift_logits(projection, logits))
    back = np.stack([slots[:, np.asarray(projection.slots) == a].sum(-1) for a in range(size[1])])
    np.testing.assert_allclose(back.T, scipy.special.softmax(logits, -1), atol=1e-5)


def test_the_lifted_distribution_is_that_of_lifted_samples():
    projection = draw(5, (4, 2, 24, 6))
    mean, log_std = jnp.asarray([0.6, -0.9]), jnp.asarray([-1.0, 0.3])
    lifted = proj.lift_distribution(projection, mean, log_std)
    assert float(lifted.null_log_std) == pytest.approx(-0.35)
    keys = jax.random.split(jax.random.key(6))
    count = 40_000
    action = mean + jnp.exp(log_std) * jax.random.normal(keys[0], (count, 2))
    noise = jnp.exp(lifted.null_log_std) * jax.random.normal(keys[1], (count, 6))
    samples = np.asarray(proj.lift_action(projection, action, noise))
    b = np.asarray(lifted.action_map)
    covariance = b @ np.diag(np.exp(2 * np.asarray(log_std))) @ b.T
    covariance += np.exp(2 * float(lifted.null_log_std)) * (np.eye(6) - b @ b.T)
    np.testing.assert_allclose(samples.mean(0), lifted.mean, atol=0.03)
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=0.05)


@pytest.mark.parametrize(
    ("sizes", "config", "words"),
    [
        ((5, 2), (4, 4), "observations of 5 numbers, more than the projection's 4"),
        ((4, 5), (4, 4), "actions of 5 numbers, more than the projection's 4"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_in_plain_words(sizes, config, words):
    with pytest.raises(GlaError) as caught:
        proj.sample(jax.random.key(0), ProjectionConfig(*config), *sizes)
    assert words in str(caught.value)
    assert "raise " in str(caught.value) and "to at least 5" in str(caught.value)
    with pytest.raises(GlaError, match="gla/Ant-v0"):
        proj.check_sizes(ProjectionConfig(*config), *sizes, name="gla/Ant-v0")


@pytest.mark.parametrize(
    "settings", [{"observation_dim": 0}, {"action_dim": -1}, {"kind": "sparse"}, {"bound": "tanh"}]
)
def test_a_config_out_of_range_is_refused(settings):
    with pytest.raises(GlaError, match="expected"):
        ProjectionConfig(**settings)


def test_a_task_as_large_as_agent_space_fits():
    projection = draw(0, (7, 5, 7, 5))
    np.testing.assert_allclose(
        projection.action_map @ projection.action_map.T, np.eye(5), atol=1e-5
    )


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal", "slots"])
def test_the_key_alone_decides_also_under_jit_and_vmap(kind):
    config = ProjectionConfig(8, 4, kind)
    keys = jax.random.split(jax.random.key(0), 3)

    def one(key):
        return _sample(key, config, 3, 2)

    many = jax.jit(jax.vmap(lambda key: proj.sample(key, config, 3, 2)))(keys)
    for i in range(3):
        single, again = one(keys[i]), one(keys[i])
        for a, b, c in zip(single, again, many, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_allclose(a, c[i], atol=1e-5)
    assert not np.allclose(many.action_map[0], many.action_map[1])
    # A batch of observations and actions, each with a projection of its own.
    observations, actions = jnp.ones((3, 3)), jnp.ones((3, 4))
    seen = jax.vmap(proj.project_observation)(many, observations)
    lowered = jax.vmap(proj.lower_action)(many, actions)
    maps = jax.tree.map(np.asarray, many)
    np.testing.assert_allclose(seen[1], maps.observation_map[1].sum(-1), atol=1e-5)
    np.testing.assert_allclose(lowered[2], maps.action_map[2].sum(0), atol=1e-5)
