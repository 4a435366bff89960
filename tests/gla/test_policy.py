"""The recorded policy: storing it, bounding it, normalising with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import policy as pol
from gla.policy import PolicyShape

init = jax.jit(pol.init, static_argnums=1)
output = jax.jit(pol.output)
SHAPE = PolicyShape(observations=3, actions=2, hidden=4)


def test_the_size_counts_every_number():
    # 3*4 + 4 + 4*4 + 4 + 4*2 + 2 weights, 2 log_std, 3 means and 3 standard deviations.
    assert SHAPE.size == 12 + 4 + 16 + 4 + 8 + 2 + 2 + 3 + 3
    assert pol.flatten(init(jax.random.key(0), SHAPE)).shape == (SHAPE.size,)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_flat_and_back_with_leading_axes(leading):
    count = int(np.prod(leading, dtype=int))
    numbers = np.arange(count * SHAPE.size, dtype=np.float32).reshape(*leading, SHAPE.size)
    params = pol.unflatten(SHAPE, jnp.asarray(numbers))
    assert params.w1.shape == (*leading, 3, 4) and params.std.shape == (*leading, 3)
    flatten = pol.flatten
    for _ in leading:
        flatten = jax.vmap(flatten)
    np.testing.assert_array_equal(flatten(params), numbers)


def test_no_two_numbers_share_a_place():
    params = pol.unflatten(SHAPE, jnp.arange(SHAPE.size, dtype=jnp.float32))
    seen = np.concatenate([np.ravel(leaf) for leaf in params])
    assert sorted(seen.tolist()) == list(range(SHAPE.size))
    assert params.w1[1, 2] == 6 and params.b1[0] == 12 and params.std[2] == SHAPE.size - 1


def test_a_stored_version_acts_as_it_did():
    params = init(jax.random.key(1), SHAPE)._replace(mean=jnp.asarray([1.0, 2.0, 3.0]))
    back = pol.unflatten(SHAPE, pol.flatten(params))
    observation = jax.random.normal(jax.random.key(2), (7, 3))
    np.testing.assert_array_equal(output(params, observation), output(back, observation))


def test_the_network_by_hand():
    params = pol.unflatten(PolicyShape(1, 1, 1), jnp.zeros(9))
    params = params._replace(
        w1=jnp.asarray([[2.0]]), b1=jnp.asarray([0.5]), w2=jnp.asarray([[-1.0]]),
        b2=jnp.asarray([0.25]), w3=jnp.asarray([[3.0]]), b3=jnp.asarray([1.0]),
        mean=jnp.asarray([4.0]), std=jnp.asarray([2.0]),
    )  # fmt: skip
    hidden = np.tanh(2.0 * (5.0 - 4.0) / 2.0 + 0.5)
    expected = 3.0 * np.tanh(-hidden + 0.25) + 1.0
    assert float(output(params, jnp.asarray([5.0]))[0]) == pytest.approx(expected, rel=1e-5)


def test_the_mean_is_bounded_and_the_noise_clipped():
    params = init(jax.random.key(0), SHAPE)
    params = params._replace(b3=jnp.asarray([50.0, -50.0]), log_std=jnp.asarray([9.0, -9.0]))
    mean, log_std = pol.gaussian(params, jnp.zeros((4, 3)))
    np.testing.assert_allclose(mean, np.tile([1.0, -1.0], (4, 1)), atol=1e-6)
    np.testing.assert_allclose(log_std, [0.5, -2.3])


def test_a_fresh_policy_is_nearly_zero_mean_or_uniform():
    observation = jax.random.normal(jax.random.key(1), (50, 3))
    mean, log_std = pol.gaussian(init(jax.random.key(0), SHAPE, -0.7), observation)
    assert float(jnp.max(jnp.abs(mean))) < 0.05
    np.testing.assert_allclose(log_std, -0.7)
    logits = output(init(jax.random.key(0), PolicyShape(3, 5, 4, True)), observation)
    np.testing.assert_allclose(jax.nn.softmax(logits), 0.2, atol=0.02)


def test_the_output_uses_the_normaliser():
    params = init(jax.random.key(0), SHAPE)
    moved = params._replace(mean=jnp.full(3, 100.0), std=jnp.full(3, 20.0))
    observation = jax.random.normal(jax.random.key(1), (6, 3))
    np.testing.assert_allclose(
        output(moved, 100.0 + 20.0 * observation), output(params, observation), atol=1e-5
    )
    assert not np.allclose(output(moved, observation), output(params, observation))
    # Ten standard deviations and a thousand look alike.
    far = jnp.asarray([10.0, -10.0, 10.0])
    np.testing.assert_array_equal(output(params, far), output(params, 100.0 * far))
