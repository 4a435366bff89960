"""The Transformer: acting step by step is the same function as training on whole sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.errors import GlaError
from gla.models import Transformer, TransformerConfig
from gla.models.attention import causal_attention, rotate

CONFIG = TransformerConfig(width=16, layers=2, heads=2, mlp=2, window=8)
FEATURES, OUTPUTS, LENGTH = 5, 3, 21  # more than two windows
MODEL = Transformer(CONFIG, OUTPUTS)


@pytest.fixture(scope="module")
def params():
    drawn = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 2, FEATURES)))
    # The initial head and residual weights are tiny: scaled up, every layer counts.
    return jax.tree.map(
        lambda x: x + 0.3 * np.random.default_rng(x.size).normal(size=x.shape), drawn
    )


@pytest.fixture(scope="module")
def tokens():
    return jax.random.normal(jax.random.key(1), (2, LENGTH, FEATURES))


apply = jax.jit(MODEL.apply)
step = jax.jit(lambda params, token, cache: MODEL.apply(params, token, cache, method="step"))


@pytest.fixture(scope="module")
def folded(params, tokens):
    """Outputs of `step` folded over the tokens, and the cache before every step."""
    cache, outputs, caches = Transformer.empty_cache(CONFIG, 2), [], []
    for t in range(LENGTH):
        caches.append(cache)
        output, cache = step(params, tokens[:, t], cache)
        outputs.append(output)
    assert cache.length.tolist() == [LENGTH, LENGTH]
    return np.stack(outputs, 1), caches


def test_step_folded_over_a_sequence_is_apply_also_past_the_window(params, tokens, folded):
    whole = apply(params, tokens)
    assert whole.shape == (2, LENGTH, OUTPUTS) and np.std(whole) > 0.1
    np.testing.assert_allclose(folded[0], whole, atol=1e-5)


def test_rows_may_be_at_different_places(params, tokens, folded):
    outputs, caches = folded
    starts = (3, 11)  # the second row is past its window when the first is not
    mixed = jax.tree.map(lambda a, b: jnp.stack([a[0], b[1]]), caches[3], caches[11])
    assert mixed.length.tolist() == [3, 11]
    for t in range(10):
        token = jnp.stack([tokens[row, start + t] for row, start in enumerate(starts)])
        output, mixed = step(params, token, mixed)
        for row, start in enumerate(starts):
            np.testing.assert_allclose(output[row], outputs[row, start + t], atol=1e-5)


def test_the_cache_of_one_row_does_not_touch_another(params, tokens, folded):
    _, caches = folded
    token = tokens[:, 5]
    before, _ = step(params, token, caches[5])
    other = jax.tree.map(lambda x: x.at[1].set(7), caches[5])
    after, _ = step(params, token, other)
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.allclose(before[1], after[1])


def test_no_output_depends_on_the_future(params, tokens):
    changed = tokens.at[:, 13:].add(5.0)
    before, after = apply(params, tokens), apply(params, changed)
    np.testing.assert_array_equal(before[:, :13], after[:, :13])
    assert (np.abs(before - after).max(-1)[:, 13:] > 1e-3).all()


def test_the_reach_is_layers_times_the_window(params, tokens):
    # A position sees 7 before it in each of two layers: token 0 reaches to position 14.
    changed = tokens.at[:, 0].add(5.0)
    difference = np.abs(apply(params, tokens) - apply(params, changed)).max((0, 2))
    np.testing.assert_array_equal(difference[15:], 0.0)
    assert (difference[:15] > 0).all()


def reference_attention(q, k, v, window):
    """Attention to the last `window` positions, the plain way, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    t, s = np.indices(scores.shape[2:])
    scores[..., (s > t) | (s <= t - window)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bshd->bthd", weights, v)


@pytest.mark.parametrize(("window", "block"), [(100, 128), (5, 128), (5, 4), (6, 5), (1, 4)])
def test_attention_in_blocks_is_attention(window, block):
    q, k, v = 2.0 * np.random.default_rng(0).normal(size=(3, 2, 14, 2, 4)).astype(np.float32)
    found = jax.jit(causal_attention, static_argnums=(3, 4))(q, k, v, window, block)
    np.testing.assert_allclose(found, reference_attention(q, k, v, window), atol=1e-5)


def test_rotation_knows_only_relative_positions():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 1, 8)).astype(np.float32)
    turn = jax.jit(rotate)

    def score(query_at, key_at):
        at = [jnp.asarray([place]) for place in (query_at, key_at)]
        return float(np.sum(turn(q, at[0]) * turn(k, at[1])))

    for apart in (0, 3, 40):
        assert score(apart, 0) == pytest.approx(score(400 + apart, 400), abs=1e-3)
    assert score(3, 0) != pytest.approx(score(0, 3), abs=1e-2)
    assert score(0, 0) == pytest.approx(float(np.sum(q * k)), abs=1e-5)
    assert float(np.linalg.norm(turn(q, jnp.asarray([77])))) == pytest.approx(
        float(np.linalg.norm(q)), rel=1e-5
    )


def test_the_cache_is_as_large_as_the_window():
    cache = Transformer.empty_cache(CONFIG, 3)
    assert len(cache.keys) == len(cache.values) == 2
    assert {x.shape for x in (*cache.keys, *cache.values)} == {(3, 8, 2, 8)}
    assert cache.length.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": 0}, "model layers is 0"),
        ({"window": -1}, "model window is -1"),
        ({"width": 30, "heads": 4}, "width 30 does not split into 4 heads"),
        ({"width": 12, "heads": 4}, "heads of even size"),
    ],
)
def test_a_config_out_of_range_is_refused(settings, words):
    with pytest.raises(GlaError, match=words):
        TransformerConfig(**settings)
