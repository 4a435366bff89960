"""Every backbone: acting step by step is the same function as training on whole sequences."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.errors import GlaError
from gla.models import ModelConfig, make_model
from gla.models import cache as ring
from gla.models.attention import alibi_slopes, causal_attention, fused_attention, rotate
from gla.models.delta import delta_rule
from gla.models.layers import scan_recomputing
from gla.models.linear import LinearState, linear_attention
from gla.models.lstm import LSTM, LSTMState
from gla.models.outer_lstm import OuterLSTM, OuterLSTMState
from gla.models.ssm import state_space_scan

SMALL = ModelConfig(width=16, layers=2, heads=2, mlp=2, window=8, state=4)
KINDS = {
    "rotary": SMALL,
    "alibi": dataclasses.replace(SMALL, positions="alibi"),
    "learned": dataclasses.replace(SMALL, positions="learned"),
} | {
    name: dataclasses.replace(SMALL, backbone=name)
    for name in ("linear", "delta", "ssm", "lstm", "outer-lstm", "memoryless")
}
BACKBONES = [kind for kind in KINDS if kind not in ("alibi", "learned")]
FEATURES, OUTPUTS, LENGTH, SEGMENT = 5, 3, 24, 12  # three windows; a segment is longer than one

apply = jax.jit(
    lambda model, params, tokens, state=None: model.apply(params, tokens, state), static_argnums=0
)
step = jax.jit(
    lambda model, params, token, state: model.step(params, token, state), static_argnums=0
)


@partial(jax.jit, static_argnums=0)
def gradient(model, params, tokens):
    def loss(params):
        outputs, _ = model.apply(params, tokens)
        return jnp.mean((outputs - jnp.sin(3.0 * tokens[..., :OUTPUTS])) ** 2), outputs

    return jax.grad(loss, has_aux=True)(params)


def fold(model, params, tokens, state):
    """Outputs of `step` folded over the tokens, and the state before and after every step."""
    outputs, states = [], [state]
    for t in range(tokens.shape[1]):
        output, state = jax.device_get(step(model, params, tokens[:, t], state))
        outputs.append(output)
        states.append(state)
    return np.stack(outputs, 1), states


class Case:
    def __init__(self, kind):
        self.kind, self.config = kind, KINDS[kind]
        self.model = make_model(self.config, FEATURES, OUTPUTS)
        self.drawn = self.model.init(jax.random.key(0))
        # The initial head and residual weights are tiny: scaled up, every layer counts.
        # Arrays of NumPy, as single operations of JAX compile for each shape.
        self.params = jax.tree.map(
            lambda x: np.float32(x + 0.3 * np.random.default_rng(x.size).normal(size=x.shape)),
            jax.device_get(self.drawn),
        )
        self.tokens = draw(2, LENGTH, FEATURES) / 2
        self.whole, self.last = jax.device_get(apply(self.model, self.params, self.tokens))
        self.folded, self.states = fold(
            self.model, self.params, self.tokens, self.model.initial_state(2)
        )


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    return Case(request.param)


def close(found, wanted, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5), found, wanted)


def test_step_folded_over_a_sequence_is_apply_also_past_the_window(case):
    assert case.whole.shape == (2, LENGTH, OUTPUTS) and np.std(case.whole) > 0.1
    assert case.whole.dtype == jnp.float32
    close(case.folded, case.whole)
    close(case.states[-1], case.last)
    assert case.last.length.tolist() == [LENGTH, LENGTH]


def test_segments_with_the_state_carried_are_the_whole(case):
    first, state = apply(
        case.model, case.params, case.tokens[:, :SEGMENT], case.model.initial_state(2)
    )
    close(state, case.states[SEGMENT])
    second, state = apply(case.model, case.params, case.tokens[:, SEGMENT:], state)
    close(np.concatenate([first, second], 1), case.whole)
    close(state, case.last)


def test_rows_may_be_at_different_places(case):
    starts = (3, 11)  # the second row is past its window when the first is not
    mixed = jax.tree.map(
        lambda a, b: np.stack([a[0], b[1]]), *(case.states[start] for start in starts)
    )
    assert mixed.length.tolist() == [3, 11]
    tokens = np.stack([case.tokens[i, start : start + SEGMENT] for i, start in enumerate(starts)])
    wanted = np.stack([case.whole[i, start : start + SEGMENT] for i, start in enumerate(starts)])
    close(fold(case.model, case.params, tokens, mixed)[0], wanted)
    close(apply(case.model, case.params, tokens, mixed)[0], wanted)


def test_one_row_does_not_touch_another(case):
    state, token = case.states[5], case.tokens[:, 5]
    before, kept = jax.device_get(step(case.model, case.params, token, state))
    other = jax.tree.map(lambda x: np.stack([x[0], np.full_like(x[1], 7)]), state)
    shift = np.asarray([0.0, 1.0], np.float32)[:, None]
    after, changed = jax.device_get(step(case.model, case.params, token + shift, other))
    np.testing.assert_array_equal(before[0], after[0])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), kept, changed)
    assert not np.allclose(before[1], after[1])
    whole, _ = jax.device_get(apply(case.model, case.params, case.tokens + shift[:, None]))
    np.testing.assert_allclose(whole[0], case.whole[0], atol=1e-6)
    assert not np.allclose(whole[1], case.whole[1])


def test_no_output_depends_on_the_future_and_all_but_the_control_depend_on_the_past(case):
    tokens = case.tokens.copy()
    tokens[:, 13] += 5
    changed, _ = jax.device_get(apply(case.model, case.params, tokens))
    difference = np.abs(changed - case.whole).max((0, 2))
    np.testing.assert_array_equal(difference[:13], 0.0)
    assert difference[13] > 1e-3
    if case.kind == "memoryless":
        np.testing.assert_array_equal(difference[14:], 0.0)
    else:
        assert (difference[14:21] > 1e-6).all()


def test_every_parameter_has_a_gradient(case):
    for params in (case.drawn, case.params):
        found, _ = jax.device_get(gradient(case.model, params, case.tokens))
        for path, leaf in jax.tree.leaves_with_path(found):
            assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


@pytest.mark.parametrize("case", BACKBONES, indirect=True)
def test_recomputing_blocks_changes_nothing(case):
    model = make_model(dataclasses.replace(case.config, remat=True), FEATURES, OUTPUTS)
    close(gradient(model, case.params, case.tokens), gradient(case.model, case.params, case.tokens))


@pytest.mark.parametrize("case", BACKBONES, indirect=True)
def test_in_bfloat16_outputs_are_near_and_steps_are_still_the_whole(case):
    model = make_model(dataclasses.replace(case.config, dtype="bfloat16"), FEATURES, OUTPUTS)
    drawn = jax.eval_shape(model.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {jnp.dtype("float32")}
    whole, _ = jax.device_get(apply(model, case.params, case.tokens))
    assert whole.dtype == jnp.float32
    spread = np.std(case.whole)
    assert (
        1e-4
        < np.sqrt(np.mean((whole - case.whole) ** 2)) / spread
        < (0.06 if case.kind == "ssm" else 0.02)
    )
    folded, states = fold(model, case.params, case.tokens, model.initial_state(2))
    assert np.sqrt(np.mean((folded - whole) ** 2)) / spread < 0.02
    kept = {leaf.dtype.name for leaf in jax.tree.leaves(states[-1].layers)}
    assert kept <= {"bfloat16" if case.config.backbone == "transformer" else "float32"}


@pytest.mark.parametrize(
    ("kind", "per_layer"),
    [
        ("rotary", 2 * 8 * 16), ("alibi", 2 * 8 * 16), ("learned", 2 * 8 * 16),
        ("linear", 16 * 9), ("delta", 16 * 8), ("ssm", 16 * 4), ("lstm", 32),
        ("outer-lstm", 16 * 9), ("memoryless", 0),
    ],
)  # fmt: skip
def test_the_state_is_as_large_as_said(kind, per_layer):
    model = make_model(KINDS[kind], FEATURES, OUTPUTS)
    state = model.initial_state(3)
    assert state.length.tolist() == [0, 0, 0] and len(state.layers) == 2
    leaves = jax.tree.leaves(state.layers)
    assert all(leaf.shape[0] == 3 and not np.any(leaf) for leaf in leaves)
    assert model.state_size == sum(leaf.size for leaf in leaves) // 3 == 2 * per_layer


def test_parameters_are_counted():
    model = make_model(KINDS["memoryless"], FEATURES, OUTPUTS)
    block = 2 * 16 + (16 * 32 + 32) + (32 * 16 + 16)
    assert model.parameter_count == (5 * 16 + 16) + 2 * block + 2 * 16 + (16 * 3 + 3)
    drawn = model.init(jax.random.key(0))
    assert model.parameter_count == sum(leaf.size for leaf in jax.tree.leaves(drawn))
    assert hash(model) == hash(make_model(KINDS["memoryless"], FEATURES, OUTPUTS))


def test_the_reach_is_layers_times_the_window():
    # A position sees 7 before it in each of two layers: token 0 reaches to position 14.
    case = Case("rotary")
    tokens = case.tokens.copy()
    tokens[:, 0] += 5
    changed, _ = jax.device_get(apply(case.model, case.params, tokens))
    difference = np.abs(case.whole - changed).max((0, 2))
    np.testing.assert_array_equal(difference[15:], 0.0)
    assert (difference[:15] > 0).all()


def test_recomputing_is_asked_for_where_the_config_says_so():
    tokens = np.zeros((1, 3, FEATURES), np.float32)
    for remat in (False, True):
        model = make_model(dataclasses.replace(KINDS["memoryless"], remat=remat), FEATURES, OUTPUTS)
        params = jax.eval_shape(model.init, jax.random.key(0))
        assert ("remat" in str(jax.make_jaxpr(model.apply)(params, tokens))) is remat


@pytest.mark.parametrize("positions", ["rotary", "alibi", "learned"])
def test_attention_knows_the_order_of_what_it_sees(positions):
    config = dataclasses.replace(SMALL, layers=1, positions=positions, window=LENGTH)
    model = make_model(config, FEATURES, OUTPUTS)
    params = jax.tree.map(lambda x: 3 * np.asarray(x), model.init(jax.random.key(0)))
    tokens = draw(1, LENGTH, FEATURES)
    before, _ = jax.device_get(apply(model, params, tokens))
    tokens[:, :10] = tokens[:, [7, 0, 9, 1, 5, 3, 4, 2, 8, 6]]
    after, _ = jax.device_get(apply(model, params, tokens))
    assert np.abs(before - after)[:, 10:].max() > 1e-4
    # Only learned places tell equal tokens apart.
    same, _ = jax.device_get(apply(model, params, np.repeat(tokens[:, :1], LENGTH, 1)))
    moved = np.abs(same - same[:, :1]).max((0, 2))[1:]
    assert (moved > 1e-4).all() if positions == "learned" else moved.max() < 1e-5


def test_learned_places_begin_again_after_the_window():
    case = Case("learned")
    tokens = np.tile(draw(1, 1, FEATURES), (2, LENGTH, 1))
    outputs, _ = jax.device_get(apply(case.model, case.params, tokens))
    # All that position 15 reaches in two layers is repeated a window later.
    np.testing.assert_allclose(outputs[:, 23], outputs[:, 15], atol=1e-5)
    assert (np.abs(outputs[:, 23:] - outputs[:, 16:23]).max(-1) > 1e-4).all()


def reference_attention(q, k, v, window, slopes=(0.0, 0.0)):
    """Attention to the last `window` positions, the plain way, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    t, s = np.indices(scores.shape[2:])
    scores -= np.asarray(slopes)[:, None, None] * (t - s)
    scores[..., (s > t) | (s <= t - window)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bshd->bthd", weights, v)


def draw(*shape):
    return 2.0 * np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("slopes", [None, (0.5, 0.125)])
@pytest.mark.parametrize(("length", "window"), [(14, 100), (14, 5), (14, 1), (300, 130), (300, 7)])
def test_attention_is_attention(length, window, slopes):
    q, k, v = draw(3, 2, length, 2, 4)
    found = jax.jit(causal_attention, static_argnums=3)(
        q, k, v, window, slopes=None if slopes is None else jnp.asarray(slopes)
    )
    wanted = reference_attention(q, k, v, window, slopes or (0.0, 0.0))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("slopes", [None, (0.5, 0.125)])
@pytest.mark.parametrize("window", [1, 9, 40])
def test_attention_over_the_ring_is_attention(window, slopes, monkeypatch):
    monkeypatch.setattr(ring, "_BLOCK", 4)
    q, k, v = draw(3, 2, 30, 2, 4)
    wanted = reference_attention(q, k, v, window, slopes or (0.0, 0.0))
    slopes = None if slopes is None else jnp.asarray(slopes)
    # The rows are at different places: 3 and 11 positions in.
    starts = np.asarray([3, 11], np.int32)
    cache, add = ring.empty_ring(2, window, 2, 4, jnp.float32), jax.jit(ring.append)
    for t in range(11):  # the first row writes its position 0 until it goes on
        count = np.asarray([max(0, t - 8), t], np.int32)
        at = (np.arange(2), count)
        cache = add(cache, k[at][:, None], v[at][:, None], count)
    parts = [np.stack([x[0, 3:20], x[1, 11:28]]) for x in (q, k, v)]
    segment = jax.jit(ring.attend_segment)(*parts, cache, starts, slopes)
    np.testing.assert_allclose(segment[0], wanted[0, 3:20], atol=1e-5)
    np.testing.assert_allclose(segment[1], wanted[1, 11:28], atol=1e-5)
    cache = add(cache, parts[1][:, :1], parts[2][:, :1], starts)
    one = jax.jit(ring.attend)(parts[0][:, 0], cache, starts, slopes)
    np.testing.assert_allclose(one, segment[:, 0], atol=1e-5)


def test_a_slot_holds_the_last_position_that_is_its_own():
    found = ring.slot_positions(jnp.asarray([0, 2, 4, 6]), 4)
    assert (found[0] < 0).all() and (found[1, 2:] < 0).all()
    assert found[1, :2].tolist() == [0, 1]
    assert found[2:].tolist() == [[0, 1, 2, 3], [4, 5, 2, 3]]


def test_alibi_slopes_are_those_of_the_paper():
    np.testing.assert_allclose(alibi_slopes(8), 0.5 ** np.arange(1, 9), rtol=1e-6)


@pytest.mark.parametrize("sloped", [False, True])
@pytest.mark.parametrize(("length", "window"), [(14, 100), (300, 300), (517, 64), (130, 1)])
def test_attention_and_its_gradient_are_the_same_in_blocks_and_fused(length, window, sloped):
    # Several blocks of 128 and several groups of heads; the fused form is what accelerators run.
    slopes = jnp.asarray(alibi_slopes(4)) if sloped else None
    q, k, v, weight = jax.random.normal(jax.random.key(0), (4, 2, length, 4, 8))

    def both(attention):
        out, pull = jax.vjp(lambda q, k, v: attention(q, k, v, window, slopes), q, k, v)
        return out, *pull(weight)

    found, expected = jax.jit(both, static_argnums=0)(causal_attention), both(fused_attention)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_attention_in_bfloat16_keeps_its_type():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 20, 2, 8)).astype(jnp.bfloat16)
    found = causal_attention(q, k, v, 8)
    assert found.dtype == jnp.bfloat16
    wide = (x.astype(jnp.float32) for x in (q, k, v))
    np.testing.assert_allclose(found.astype("f4"), causal_attention(*wide, 8), atol=0.02)


def test_rotation_knows_only_relative_positions():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 1, 8)).astype(np.float32)
    turn = jax.jit(rotate)

    def score(query_at, key_at):
        at = [jnp.asarray([place]) for place in (query_at, key_at)]
        return float(np.sum(turn(q, at[0]) * turn(k, at[1])))

    for apart in (0, 3, 40):
        for start in (400, 64_000):
            assert score(start + apart, start) == pytest.approx(score(apart, 0), abs=3e-4)
    assert score(3, 0) != pytest.approx(score(0, 3), abs=1e-2)
    assert score(0, 0) == pytest.approx(float(np.sum(q * k)), abs=1e-5)
    assert float(np.linalg.norm(turn(q, jnp.asarray([77])))) == pytest.approx(
        float(np.linalg.norm(q)), rel=1e-5
    )


@pytest.mark.parametrize("size", [64, 5, 4])
def test_linear_attention_in_chunks_is_the_sum_over_the_past(size):
    q, k = np.exp(draw(2, 2, 13, 2, 3) / 2)
    v, before = draw(2, 13, 2, 3), (draw(2, 2, 3, 3), np.exp(draw(2, 2, 3)))
    found, after = jax.jit(linear_attention, static_argnums=4)(q, k, v, LinearState(*before), size)
    memory, total = (x.astype(np.float64) for x in before)
    for t in range(13):
        memory = memory + k[:, t, :, :, None] * v[:, t, :, None]
        total = total + k[:, t]
        wanted = np.einsum("bhd,bhde->bhe", q[:, t], memory)
        wanted /= np.einsum("bhd,bhd->bh", q[:, t], total)[..., None]
        np.testing.assert_allclose(found[:, t], wanted, rtol=1e-4, atol=1e-5)
    close(after, LinearState(memory, total), atol=1e-4)


@pytest.mark.parametrize("size", [64, 16, 5])
def test_the_delta_rule_in_chunks_is_the_recurrence(size):
    q, k, v = draw(3, 2, 37, 2, 6)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    k[:, 9] = k[:, 7]  # a key that comes again replaces its value
    rate, memory = 1 / (1 + np.exp(-2 * draw(2, 37, 2))), draw(2, 2, 6, 6)
    found, after = jax.jit(delta_rule, static_argnums=5)(q, k, v, rate, memory, size)
    memory = memory.astype(np.float64)
    for t in range(37):
        error = v[:, t] - np.einsum("bhd,bhde->bhe", k[:, t], memory)
        memory = memory + rate[:, t, :, None, None] * k[:, t, :, :, None] * error[:, :, None]
        wanted = np.einsum("bhd,bhde->bhe", q[:, t], memory)
        np.testing.assert_allclose(found[:, t], wanted, atol=3e-5)
    np.testing.assert_allclose(after, memory, atol=3e-5)


def test_the_delta_rule_forgets_what_it_replaces():
    k = np.broadcast_to(np.float32([0, 1, 0, 0]), (1, 2, 1, 4))
    v = np.float32([[[[1.0, 2, 3, 4]], [[5.0, 6, 7, 8]]]])
    found, _ = jax.jit(delta_rule)(k, k, v, np.ones((1, 2, 1)), np.zeros((1, 1, 4, 4)))
    np.testing.assert_allclose(found, v, atol=1e-6)


@pytest.mark.parametrize("size", [64, 5])
def test_the_state_space_scan_is_the_recurrence(size):
    x, write, read = draw(2, 13, 4), draw(2, 13, 3) + 1, draw(2, 13, 3) - 1
    step_size, rates = np.exp(draw(2, 13, 4) / 2) / 4, np.exp(draw(4, 3) / 4)
    state = draw(2, 4, 3)
    found, after = jax.jit(state_space_scan, static_argnums=6)(
        x, step_size, write, read, rates, state, size
    )
    state = state.astype(np.float64)
    for t in range(13):
        state = np.exp(-step_size[:, t, :, None] * rates) * state
        state += (step_size[:, t] * x[:, t])[..., None] * write[:, t, None]
        wanted = np.einsum("bwn,bn->bw", state, read[:, t])
        np.testing.assert_allclose(found[:, t], wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after, state, rtol=1e-4, atol=1e-4)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mixer_step(mixer, state, x):
    """One step of a mixer from a given state: its parameters, output and new state."""
    init, run = (jax.jit(partial(f, method="step")) for f in (mixer.init, mixer.apply))
    params = init(jax.random.key(0), x, state, None)
    return jax.device_get((params["params"], *run(params, x, state, None)))


def test_a_step_of_the_lstm_is_its_equations():
    state, x = LSTMState(draw(2, 16), draw(2, 16) / 2), draw(2, 16)
    params, output, found = mixer_step(LSTM(KINDS["lstm"]), state, x)
    gates = x @ params["input"]["kernel"] + state.hidden @ params["recurrent"]
    enter, forget, new, leave = np.split(np.asarray(gates), 4, -1)
    cell = sigmoid(forget + 1) * state.cell + sigmoid(enter) * np.tanh(new)
    hidden = sigmoid(leave) * np.tanh(cell)
    close(found, LSTMState(hidden, cell))
    close(output, hidden @ params["out"]["kernel"])


def test_a_step_of_the_outer_product_lstm_is_its_equations():
    state, x = OuterLSTMState(draw(2, 16), draw(2, 2, 8, 8) / 2), draw(2, 16)
    params, output, found = mixer_step(OuterLSTM(KINDS["outer-lstm"]), state, x)
    gates = np.asarray(x @ params["input"]["kernel"] + state.hidden @ params["recurrent"])
    hidden = np.zeros((2, 16))
    for row in range(2):
        for head in range(2):
            a = gates[row].reshape(2, 8, 8)[head]
            enter, new, forget = (
                np.outer(np.log(2) * np.tanh(a[i]), np.tanh(a[3 + i])) for i in range(3)
            )
            cell = sigmoid(forget + 1) * state.cell[row, head] + sigmoid(enter) * new
            close(found.cell[row, head], cell)
            hidden[row, 8 * head : 8 * head + 8] = sigmoid(a[7]) * np.tanh(cell.T @ a[6])
    close(found.hidden, hidden)
    close(output, hidden @ params["out"]["kernel"])


@pytest.mark.parametrize("length", [3, 8, 13])
def test_a_scan_that_recomputes_is_a_scan(length):
    def body(carry, x):
        carry = jnp.sin(carry + x)
        return carry, carry**2

    def total(scan, xs):
        carry, ys = scan(body, jnp.float32(0.3), xs)
        return carry + jnp.sum(ys * jnp.arange(length)), ys

    xs = draw(length)
    found = jax.grad(partial(total, lambda *a: scan_recomputing(*a, 4)), has_aux=True)(xs)
    close(found, jax.grad(partial(total, jax.lax.scan), has_aux=True)(xs), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": 0}, "model layers is 0"),
        ({"window": -1}, "model window is -1"),
        ({"state": 0}, "model state is 0"),
        ({"width": 16.0}, "model width is 16.0"),
        ({"width": 30, "heads": 4}, "width 30 does not split into 4 heads"),
        ({"width": 12, "heads": 4}, "heads of even size"),
        ({"width": 30, "heads": 4, "backbone": "delta"}, "heads of equal size"),
        ({"backbone": "transfomer"}, r"'transfomer' is unknown \(did you mean transformer"),
        ({"backbone": "outer_lstm"}, "did you mean outer-lstm"),
        ({"positions": "rotory"}, "did you mean rotary"),
        ({"dtype": "bfloat"}, "did you mean bfloat16"),
        ({"remat": 1}, "model remat is 1"),
    ],
)
def test_a_config_out_of_range_is_refused(settings, words):
    with pytest.raises(GlaError, match=words):
        ModelConfig(**settings)


def test_heads_are_asked_to_fit_only_where_they_are_read():
    assert ModelConfig(width=12, heads=4, positions="alibi").head_size == 3
    assert ModelConfig(width=30, heads=4, backbone="ssm").width == 30


def test_tokens_of_another_size_are_refused():
    model = make_model(SMALL, FEATURES, OUTPUTS)
    params = model.init(jax.random.key(0))
    with pytest.raises(GlaError, match=r"shape \(2, 4, 6\); expected \[B, T, F\] with F = 5"):
        model.apply(params, jnp.zeros((2, 4, 6)))
    with pytest.raises(GlaError, match=r"expected \[B, F\]"):
        model.step(params, jnp.zeros((2, 1, 5)), model.initial_state(2))
    with pytest.raises(GlaError, match="model outputs is 0"):
        make_model(SMALL, FEATURES, 0)
