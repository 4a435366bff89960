import jax
import jax.numpy as jnp
import numpy as np
import optax

from gla.gradient_statistics import begin, by_tensor, end, observe


def test_means_over_the_steps_of_a_dispatch():
    params = {"a": {"kernel": jnp.zeros(2)}, "b": jnp.zeros(1)}
    gradients = [jnp.array(x) for x in ([3.0, 4.0], [4.0, -3.0], [-8.0, 6.0])]
    seen = begin(params)
    for gradient in gradients:
        tree = {"a": {"kernel": gradient}, "b": jnp.array([2.0])}
        seen = observe(seen, tree, jax.tree.map(lambda x: -0.1 * x, tree))
    optimizer = optax.adam(1e-3)
    state = optimizer.init(params)
    _, state = optimizer.update({"a": {"kernel": gradients[0]}, "b": jnp.array([2.0])}, state)
    found = by_tensor(end(seen, state))
    assert set(found) == {"a/kernel", "b"}
    kernel = {what: float(x) for what, x in found["a/kernel"].items()}
    np.testing.assert_allclose(kernel["gradient_norm"], (5 + 5 + 10) / 3, rtol=1e-6)
    np.testing.assert_allclose(kernel["gradient_cosine"], (0 - 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(kernel["update_norm"], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(kernel["update_cosine"], -0.5, rtol=1e-6)
    np.testing.assert_allclose(kernel["first_moment_norm"], 0.1 * 5, rtol=1e-6)
    np.testing.assert_allclose(kernel["second_moment_norm"], 0.001 * np.hypot(9, 16), rtol=1e-5)
    np.testing.assert_allclose(found["b"]["gradient_cosine"], 1.0, rtol=1e-6)


def test_optimisers_without_averages_have_no_moments():
    params = {"a": jnp.zeros(2)}
    seen = observe(begin(params), {"a": jnp.zeros(2)}, {"a": jnp.zeros(2)})
    found = by_tensor(end(seen, optax.sgd(0.1).init(params)))["a"]
    assert set(found) == {"gradient_norm", "gradient_cosine", "update_norm", "update_cosine"}
    assert all(float(x) == 0.0 for x in found.values())
