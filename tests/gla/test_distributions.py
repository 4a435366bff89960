"""Action distributions against scipy, Monte Carlo and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gla import distributions as dist
from gla import projection as proj
from gla.projection import LiftedGaussian, ProjectionConfig

RNG = np.random.default_rng(0)
MEANS = RNG.normal(size=(5, 3)).astype(np.float32)
LOG_STDS = RNG.uniform(-2, 0.5, (5, 3)).astype(np.float32)
OTHER_MEANS = RNG.normal(size=(5, 3)).astype(np.float32)
OTHER_LOG_STDS = RNG.uniform(-2, 0.5, (5, 3)).astype(np.float32)
LOGITS = RNG.normal(scale=2, size=(5, 4)).astype(np.float32)
OTHER_LOGITS = RNG.normal(scale=2, size=(5, 4)).astype(np.float32)

_sample = jax.jit(proj.sample, static_argnums=(1, 2, 3))
lifted_kls = jax.jit(dist.lifted_kls)  # one program compiles faster than its single operations


def probabilities(logits):
    return np.asarray(jax.nn.softmax(logits), np.float64)


def test_gaussian_log_prob_and_entropy():
    actions = RNG.normal(size=(5, 3)).astype(np.float32)
    expected = scipy.stats.norm(MEANS, np.exp(LOG_STDS))
    np.testing.assert_allclose(
        dist.gaussian_log_prob(actions, MEANS, LOG_STDS), expected.logpdf(actions).sum(-1), 1e-5
    )
    np.testing.assert_allclose(dist.gaussian_entropy(LOG_STDS), expected.entropy().sum(-1), 1e-5)
    # By hand: the density of a standard Gaussian at its mean is 1 / sqrt(2 pi).
    at_mean = dist.gaussian_log_prob(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1))
    assert float(at_mean) == pytest.approx(-0.5 * np.log(2 * np.pi), rel=1e-6)


def test_tanh_gaussian_density_integrates_to_one_and_to_its_quantiles():
    mean, std = 0.4, 0.6
    # Between the points at which densities are read as if they lay at the edge.
    x = np.linspace(-1 + 2e-4, 1 - 2e-4, 200_001)
    log_std = np.full((len(x), 1), np.log(std))
    density = np.exp(
        np.asarray(
            jax.jit(dist.tanh_gaussian_log_prob)(x[:, None], np.full((len(x), 1), mean), log_std),
            np.float64,
        )
    )
    assert np.trapezoid(density, x) == pytest.approx(1.0, abs=1e-3)
    for edge in (-0.5, 0.0, 0.7):
        below = x <= edge
        expected = scipy.stats.norm(mean, std).cdf(np.arctanh(edge))
        assert np.trapezoid(density[below], x[below]) == pytest.approx(expected, abs=1e-3)


def test_tanh_gaussian_log_prob_is_the_change_of_variables():
    actions = np.tanh(RNG.normal(size=(5, 3)) * 1.5)
    expected = scipy.stats.norm(MEANS, np.exp(LOG_STDS)).logpdf(np.arctanh(actions))
    expected = (expected - np.log(1 - actions**2)).sum(-1)
    found = dist.tanh_gaussian_log_prob(actions.astype(np.float32), MEANS, LOG_STDS)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    # By hand: at 0 the slope of tanh is 1.
    at_zero = dist.tanh_gaussian_log_prob(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1))
    assert float(at_zero) == pytest.approx(-0.5 * np.log(2 * np.pi), rel=1e-6)


@pytest.mark.parametrize("action", [1.0, -1.0, 3.0, -1e30, 0.99999])
def test_actions_at_the_edge_and_beyond_have_a_finite_density_and_gradient(action):
    def log_prob(a, mean, log_std):
        return dist.tanh_gaussian_log_prob(a, mean, log_std)

    edge = np.sign(action) * (1 - dist.TANH_EDGE)
    parts = jnp.full(1, action), jnp.zeros(1), jnp.full(1, -3.0)
    value, slopes = jax.value_and_grad(log_prob, (0, 1, 2))(*parts)
    assert np.isfinite(value) and all(np.isfinite(s).all() for s in slopes)
    assert float(value) == float(log_prob(jnp.full(1, edge), *parts[1:]))


def test_tanh_gaussian_samples_have_its_quantiles():
    mean, log_std = jnp.full(20_000, 0.4), jnp.full(20_000, -0.3)
    drawn = np.asarray(dist.tanh_gaussian_sample(jax.random.key(0), mean, log_std))
    test = scipy.stats.kstest(np.arctanh(drawn), scipy.stats.norm(0.4, np.exp(-0.3)).cdf)
    assert test.pvalue > 0.01 and np.abs(drawn).max() <= 1


def test_categorical_log_prob_and_entropy():
    p = probabilities(LOGITS)
    actions = np.array([0, 3, 1, 2, 3])
    np.testing.assert_allclose(
        dist.categorical_log_prob(actions, LOGITS), np.log(p[np.arange(5), actions]), 1e-5
    )
    np.testing.assert_allclose(
        dist.categorical_entropy(LOGITS), scipy.stats.entropy(p, axis=-1), 1e-4
    )
    uniform = dist.categorical_entropy(jnp.full(8, 3.0))
    assert float(uniform) == pytest.approx(np.log(8), rel=1e-6)
    # A common shift of all logits changes nothing.
    np.testing.assert_allclose(dist.categorical_log_prob(actions, LOGITS + 50), np.log(
        p[np.arange(5), actions]), 1e-4)  # fmt: skip


def test_gaussian_kl_is_the_integral_that_defines_it():
    expected = []
    for row in range(5):
        total = 0.0
        for axis in range(3):  # axes are independent, so their divergences add up
            p = scipy.stats.norm(MEANS[row, axis], np.exp(LOG_STDS[row, axis]))
            q = scipy.stats.norm(OTHER_MEANS[row, axis], np.exp(OTHER_LOG_STDS[row, axis]))
            x = np.linspace(p.mean() - 12 * p.std(), p.mean() + 12 * p.std(), 20_001)
            total += np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x)
        expected.append(total)
    found = dist.gaussian_kl(MEANS, LOG_STDS, OTHER_MEANS, OTHER_LOG_STDS)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # By hand: equal unit variances, means apart by 2, give 2^2 / 2.
    by_hand = dist.gaussian_kl(jnp.zeros(1), jnp.zeros(1), jnp.full(1, 2.0), jnp.zeros(1))
    assert float(by_hand) == pytest.approx(2.0)


def test_categorical_kl_is_the_sum_that_defines_it():
    p, q = probabilities(LOGITS), probabilities(OTHER_LOGITS)
    np.testing.assert_allclose(
        dist.categorical_kl(LOGITS, OTHER_LOGITS), scipy.stats.entropy(p, q, axis=-1), 1e-4
    )


def lifted(m=6, k=2, rows=4, seed=0):
    """A lifted policy, a model's Gaussian, and the policy's full covariances."""
    rng = np.random.default_rng(seed)
    projection = _sample(jax.random.key(seed), ProjectionConfig(8, m), 3, k)
    mean = rng.normal(size=(rows, k)).astype(np.float32)
    log_std = rng.uniform(-1.5, 0.3, (rows, k)).astype(np.float32)
    target = proj.lift_distribution(projection, jnp.asarray(mean), jnp.asarray(log_std))
    model_mean = rng.normal(size=(rows, m)).astype(np.float32)
    model_log_std = rng.uniform(-1.5, 0.5, (rows, m)).astype(np.float32)
    b = np.asarray(projection.action_map, np.float64)
    null = np.exp(2 * np.asarray(target.null_log_std, np.float64))
    covariance = np.stack(
        [
            b @ np.diag(np.exp(2.0 * log_std[i])) @ b.T + null[i] * (np.eye(m) - b @ b.T)
            for i in range(rows)
        ]
    )
    return target, model_mean, model_log_std, covariance


def full_kl(mean_p, cov_p, mean_q, cov_q):
    inverse, delta = np.linalg.inv(cov_q), mean_q - mean_p
    log_dets = np.linalg.slogdet(cov_q)[1] - np.linalg.slogdet(cov_p)[1]
    return 0.5 * (np.trace(inverse @ cov_p) + delta @ inverse @ delta - len(delta) + log_dets)


# The action space is full (no null space), has room, and has much room.
@pytest.mark.parametrize(("m", "k"), [(3, 3), (6, 2), (16, 1)])
def test_lifted_kls_are_those_of_the_full_covariances(m, k):
    target, mean, log_std, covariance = lifted(m, k)
    forward, reverse = lifted_kls(target, mean, log_std)
    assert forward.shape == reverse.shape == (4,)
    for i in range(4):
        model = np.diag(np.exp(2.0 * log_std[i].astype(np.float64)))
        target_mean = np.asarray(target.mean[i], np.float64)
        there = full_kl(target_mean, covariance[i], mean[i], model)
        back = full_kl(mean[i], model, target_mean, covariance[i])
        assert float(forward[i]) == pytest.approx(there, rel=1e-4)
        assert float(reverse[i]) == pytest.approx(back, rel=1e-4)


def test_lifted_kls_are_the_mean_log_ratios_of_samples():
    target, mean, log_std, covariance = lifted()
    forward, reverse = lifted_kls(target, mean, log_std)
    rng = np.random.default_rng(1)
    p = scipy.stats.multivariate_normal(np.asarray(target.mean[0]), covariance[0])
    q = scipy.stats.multivariate_normal(mean[0], np.diag(np.exp(2 * log_std[0])))
    for one, other, found in ((p, q, forward[0]), (q, p, reverse[0])):
        x = one.rvs(200_000, random_state=rng)
        ratios = one.logpdf(x) - other.logpdf(x)
        assert float(found) == pytest.approx(ratios.mean(), abs=5 * ratios.std() / 200_000**0.5)


def test_lifted_kls_are_zero_exactly_where_the_distributions_agree():
    # With one standard deviation along all axes the lifted policy is itself diagonal.
    target, *_ = lifted()
    same = jnp.full((4, 2), -0.4)
    target = target._replace(log_std=same, null_log_std=same[:, 0])
    agree = jnp.full((4, 6), -0.4)
    for kl in lifted_kls(target, target.mean, agree):
        np.testing.assert_allclose(kl, 0.0, atol=1e-5)
    for mean, log_std in ((target.mean + 0.1, agree), (target.mean, agree + 0.1)):
        for kl in lifted_kls(target, mean, log_std):
            assert float(jnp.min(kl)) > 0.01


def test_diagonal_kls_are_zero_exactly_where_the_distributions_agree():
    np.testing.assert_allclose(dist.gaussian_kl(MEANS, LOG_STDS, MEANS, LOG_STDS), 0, atol=1e-6)
    np.testing.assert_allclose(dist.categorical_kl(LOGITS, LOGITS + 3.0), 0, atol=1e-6)
    assert np.min(dist.gaussian_kl(MEANS, LOG_STDS, MEANS + 0.1, LOG_STDS)) > 1e-3
    assert np.min(dist.gaussian_kl(MEANS, LOG_STDS, MEANS, LOG_STDS - 0.1)) > 1e-3
    assert np.min(dist.categorical_kl(LOGITS, LOGITS * 1.2)) > 1e-5


@pytest.mark.parametrize("which", ["forward", "reverse", "gaussian", "categorical"])
def test_gradients_are_the_finite_differences(which):
    target, mean, log_std, _ = lifted()

    @jax.jit
    def value(x):
        if which == "gaussian":
            return jnp.sum(dist.gaussian_kl(MEANS, LOG_STDS, x[0][:, :3], x[1][:, :3]))
        if which == "categorical":
            return jnp.sum(dist.categorical_kl(LOGITS[:4], x[0][:, :4]))
        return jnp.sum(dist.lifted_kls(target, x[0], x[1])[which == "reverse"])

    at = (OTHER_MEANS, OTHER_LOG_STDS) if which == "gaussian" else (mean, log_std)
    gradient = jax.tree.map(np.asarray, jax.jit(jax.grad(value))(at))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        way = tuple(rng.normal(size=x.shape).astype(np.float32) for x in at)
        step = 1e-2  # central differences: their error falls as its square, float32's grows
        ahead, behind = (
            value(tuple(x + s * w for x, w in zip(at, way, strict=True))) for s in (step, -step)
        )
        slope = sum(float(np.sum(g * w)) for g, w in zip(gradient, way, strict=True))
        assert slope == pytest.approx(float(ahead - behind) / (2 * step), rel=0.02, abs=0.02)


def test_lifted_kls_take_any_leading_axes():
    target, mean, log_std, _ = lifted()
    flat = lifted_kls(target, mean, log_std)
    shaped = LiftedGaussian(
        target.mean.reshape(2, 2, 6),
        target.log_std.reshape(2, 2, 2),
        target.null_log_std.reshape(2, 2),
        target.action_map,
    )
    again = lifted_kls(shaped, mean.reshape(2, 2, 6), log_std.reshape(2, 2, 6))
    for a, b in zip(flat, again, strict=True):
        np.testing.assert_allclose(a.reshape(2, 2), b, rtol=1e-5)
