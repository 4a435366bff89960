"""Action distributions as plain functions of arrays.

Continuous actions: Gaussians with diagonal covariance, not squashed. Environments clip actions to
their range instead. The reason: only an unsquashed Gaussian stays Gaussian under a linear map, so
that the distribution of a projected policy, and the KL divergences of GLA's objective (Eq. 1), are
exact and closed-form. Discrete actions: categoricals given by logits. A squashed (tanh-) Gaussian
is here for likelihoods alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gla.projection import LiftedGaussian

_HALF_LOG_2PI = 0.9189385332046727
_LOG_2 = 0.6931471805599453
# Actions of a tanh-Gaussian are read as if they lay at least so far inside (-1, 1).
TANH_EDGE = 1e-4


def gaussian_log_prob(action: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Log-density f32[...] of actions f32[..., k] under N(mean, diag(exp(2 log_std)))."""
    z = (action - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * z**2 - log_std - _HALF_LOG_2PI, -1)


def gaussian_entropy(log_std: jax.Array) -> jax.Array:
    """Entropy f32[...], in nats, of a diagonal Gaussian with log_std f32[..., k]."""
    return jnp.sum(log_std + 0.5 + _HALF_LOG_2PI, -1)


def tanh_gaussian_log_prob(action: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Log-density f32[...] of actions f32[..., k] = tanh(x), x from a diagonal Gaussian.

    Actions are clipped to +-(1 - `TANH_EDGE`), so that recorded ones that lie on the border or
    beyond have a finite density and gradient; within, the density is exact.

    Args:
        action: f32[..., k].
        mean: f32[..., k], of x.
        log_std: f32[..., k], of x.
    """
    x = jnp.arctanh(jnp.clip(action, TANH_EDGE - 1.0, 1.0 - TANH_EDGE))
    # log(1 - tanh(x)^2), written so that nothing cancels where x is large.
    log_slope = 2.0 * (_LOG_2 - x - jax.nn.softplus(-2.0 * x))
    return gaussian_log_prob(x, mean, log_std) - jnp.sum(log_slope, -1)


def tanh_gaussian_sample(key: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Draw actions f32[..., k] in [-1, 1] of a tanh-Gaussian; its median is tanh(mean)."""
    return jnp.tanh(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape))


def categorical_log_prob(action: jax.Array, logits: jax.Array) -> jax.Array:
    """Log-probability f32[...] of actions i32[...] under logits f32[..., n]."""
    log_p = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(log_p, action[..., None], -1)[..., 0]


def categorical_entropy(logits: jax.Array) -> jax.Array:
    """Entropy f32[...], in nats, of logits f32[..., n]."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, -1)


def gaussian_kl(
    mean_p: jax.Array, log_std_p: jax.Array, mean_q: jax.Array, log_std_q: jax.Array
) -> jax.Array:
    """KL(p || q) f32[...], in nats, of two diagonal Gaussians f32[..., k]."""
    variance_ratio = jnp.exp(2.0 * (log_std_p - log_std_q))
    distance = ((mean_p - mean_q) * jnp.exp(-log_std_q)) ** 2
    return 0.5 * jnp.sum(variance_ratio + distance - 1.0 - 2.0 * (log_std_p - log_std_q), -1)


def categorical_kl(logits_p: jax.Array, logits_q: jax.Array) -> jax.Array:
    """KL(p || q) f32[...], in nats, of two categoricals f32[..., n]."""
    log_p, log_q = jax.nn.log_softmax(logits_p), jax.nn.log_softmax(logits_q)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def lifted_kls(
    target: LiftedGaussian, mean: jax.Array, log_std: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Forward and reverse KL between a lifted policy p and a diagonal Gaussian model q.

    p has covariance S = B diag(s^2) B^T + s0^2 (I - B B^T), which is not diagonal; both
    divergences are exact nevertheless, because B has orthonormal columns.

    Args:
        target: the lifted policy, its mean f32[..., m].
        mean: f32[..., m], the model's mean.
        log_std: f32[..., m], the model's log standard deviation.

    Returns:
        (KL(p || q), KL(q || p)), each f32[...], in nats.
    """
    b = target.action_map
    m, k = b.shape
    null_variance = jnp.exp(2.0 * target.null_log_std)[..., None]
    variance = jnp.exp(2.0 * target.log_std)  # [..., k]
    model_variance = jnp.exp(2.0 * log_std)  # [..., m]
    # Written as a rank-k correction of s0^2 I.
    diagonal = null_variance + (variance - null_variance) @ (b**2).T
    precision_excess = 1.0 / variance - 1.0 / null_variance
    inverse_diagonal = 1.0 / null_variance + precision_excess @ (b**2).T
    log_det = 2.0 * (jnp.sum(target.log_std, -1) + (m - k) * target.null_log_std)
    model_log_det = 2.0 * jnp.sum(log_std, -1)
    delta = mean - target.mean
    along = delta @ b
    forward = 0.5 * (
        jnp.sum(diagonal / model_variance + delta**2 / model_variance, -1)
        - m
        + model_log_det
        - log_det
    )
    mahalanobis = jnp.sum(delta**2, -1) / null_variance[..., 0] + jnp.sum(
        along**2 * precision_excess, -1
    )
    reverse = 0.5 * (
        jnp.sum(inverse_diagonal * model_variance, -1) + mahalanobis - m + log_det - model_log_det
    )
    return forward, reverse
