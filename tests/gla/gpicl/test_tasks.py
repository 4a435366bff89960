"""Tasks: the exact draw of projections, what tasks share and what not, biases, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gla import datasets
from gla.errors import GlaError
from gla.gpicl import tasks
from gla.gpicl.tasks import Examples, TaskConfig

LEAST = 1e-3  # p-value of a test that a right draw passes, with these seeds
WRONG = 1e-9  # and of one that a wrong draw fails


def legible(classes=10) -> Examples:
    """Sixty examples: their first number is the class, the second one their own number."""
    labels = np.arange(60) % classes
    return on_device(np.stack([labels, np.arange(60)], 1).astype(np.float32), labels)


def on_device(values, labels) -> Examples:
    offset, scale = jnp.zeros(()), jnp.ones(())
    classes = jnp.asarray(labels.max() + 1)
    return Examples(jnp.asarray(values), jnp.asarray(labels), offset, scale, classes)


def rays(first=1, count=4, size=24) -> Examples:
    """Examples v, 2 v, 3 v ..., one for each class: a projection shows its direction A v."""
    direction = np.random.default_rng(7).normal(size=size)
    values = np.arange(first, first + count)[:, None] * direction
    return on_device(values.astype(np.float32), np.arange(count))


def plain(**settings) -> TaskConfig:
    """Sequences of which the inputs can be read."""
    return TaskConfig(**{"length": 80, "input_dim": 2, "projection": "identity", **settings})


def draw(examples, config, count=1000, seed=0, progress=1.0, per_task=1):
    sampled = _draw(jax.random.key(seed), examples, config, count, progress, per_task)
    return jax.tree.map(np.asarray, sampled)


_draw = jax.jit(tasks.sample, static_argnames=("config", "count", "per_task"))


def directions(found) -> np.ndarray:
    """What tasks make of the direction of `rays`, f[B, M], rounded so that equals are equal."""
    mean = found.inputs.mean(1)
    return np.round(mean / np.linalg.norm(mean, axis=1, keepdims=True), 4)


def in_order(found) -> np.ndarray:
    """Which sequences of `legible` examples keep the order of the classes, bool[B]."""
    return (found.labels == found.inputs[:, :, 0]).all(1)


# --- projections

X = np.random.default_rng(0).normal(size=(12, 40)) @ np.diag(np.linspace(0.3, 2.0, 40))
X = (X + 0.5).astype(np.float32)
DRAWS, DIM = 4000, 3


def drawn(seed: int, **settings) -> np.ndarray:
    """Projections of X, f[DRAWS, T, DIM]."""
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    one = functools.partial(
        tasks.project, inputs=jnp.asarray(X), config=TaskConfig(input_dim=DIM), **settings
    )
    return np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)


@functools.cache
def explicit() -> np.ndarray:
    return drawn(1, alone=False)


def doubt(draws: np.ndarray) -> float:
    """Smallest p-value, times the number of tests, of X A^T with independent A_ij ~ N(0, 1/N)."""
    gram = X.astype(np.float64) @ X.T / X.shape[1]
    white = np.linalg.solve(np.linalg.cholesky(gram), draws).reshape(DRAWS, -1)
    values = [
        scipy.stats.kstest(white.ravel(), "norm").pvalue,
        # Every number is independent of every other one: rows, columns and draws.
        _independent(white),
        _independent(white.reshape(DRAWS // 2, -1)[:, ::5]),
        # The joint law of a column: squared distances are chi-square distributed.
        scipy.stats.kstest(
            np.square(white).reshape(DRAWS, 12, DIM).sum(1).ravel(), "chi2", (12,)
        ).pvalue,
    ]
    # Against explicit matrices, without a theory of what they do.
    rng = np.random.default_rng(3)
    for weights in rng.normal(size=(8, draws[0].size)):
        ours, theirs = (d.reshape(DRAWS, -1) @ weights for d in (draws, explicit()))
        values.append(scipy.stats.ks_2samp(ours, theirs).pvalue)
    return min(values) * len(values)


def _independent(white: np.ndarray) -> float:
    """p-value of columns that are independent and N(0, 1), by all their products, chi-square."""
    count, columns = white.shape
    products = white.T @ white / count**0.5
    off = products[np.triu_indices(columns, 1)]
    return scipy.stats.chi2.sf(np.square(off).sum(), len(off))


def test_the_exact_draw_is_that_of_explicit_matrices():
    exact = drawn(0, alone=True)
    # It is another draw, so the path without a matrix was taken.
    assert np.abs(exact - drawn(0, alone=False)).max() > 1
    assert doubt(exact) > LEAST
    gram = X.astype(np.float64) @ X.T / X.shape[1]
    columns = exact.swapaxes(1, 2).reshape(-1, 12)
    variance = np.diag(gram)
    # Both within five standard errors.
    error = 5 * np.sqrt(variance / len(columns))
    assert (np.abs(columns.mean(0)) < error).all()
    error = 5 * np.sqrt((np.outer(variance, variance) + gram**2) / len(columns))
    assert (np.abs(columns.T @ columns / len(columns) - gram) < error).all()


def test_explicit_matrices_pass_the_same_tests():
    assert doubt(drawn(2, alone=False)) > LEAST


@pytest.mark.parametrize(
    "wrong", ["no root", "transposed", "diagonal", "one column", "scale", "uniform", "no draw"]
)
def test_a_wrong_draw_would_be_noticed(wrong):
    normal = np.random.default_rng(5).normal(size=(DRAWS, 12, DIM))
    gram = X.astype(np.float64) @ X.T / X.shape[1]
    root = np.linalg.cholesky(gram)
    draws = {
        "no root": gram @ normal,
        "transposed": root.T @ normal,
        "diagonal": np.sqrt(np.diag(gram))[:, None] * normal,
        "one column": root @ np.repeat(normal[:, :, :1], DIM, 2),
        "scale": 1.05 * root @ normal,
        "uniform": root @ (scipy.stats.norm.cdf(normal) - 0.5) * 12**0.5,
        "no draw": root @ np.repeat(normal[: DRAWS // 2], 2, 0),
    }[wrong]
    assert doubt(draws) < WRONG


@pytest.mark.parametrize("dim", [8, 48])
@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
def test_projections_keep_the_scale(kind, dim):
    config = TaskConfig(input_dim=dim, projection=kind)
    keys = jax.random.split(jax.random.key(0), 400)
    for alone in (True, False):
        project = functools.partial(tasks.project, inputs=jnp.asarray(X), config=config)
        found = np.asarray(jax.jit(jax.vmap(functools.partial(project, alone=alone)))(keys))
        squares = np.square(found).mean((0, 2))
        # The sampling error is that of 400 dim numbers at most.
        error = 5 * np.sqrt(2 / (400 * dim))
        np.testing.assert_allclose(squares, np.square(X).mean(1), rtol=error)


def test_orthogonal_maps_to_more_numbers_keep_every_angle():
    found = draw(rays(), TaskConfig(length=8, input_dim=48, projection="orthogonal"), 3).inputs
    lengths = np.linalg.norm(found, axis=2)
    base = np.linalg.norm(np.asarray(rays().values[0])) * (48 / 24) ** 0.5
    np.testing.assert_allclose(lengths / base, np.round(lengths / base), atol=1e-4)


def test_no_projection_adds_zeros():
    found = draw(legible(), plain(input_dim=5), 3)
    assert found.inputs.shape == (3, 80, 5) and not found.inputs[:, :, 2:].any()
    # The class of an example is its number modulo ten.
    np.testing.assert_array_equal(found.inputs[:, :, 1] % 10, found.inputs[:, :, 0])


def test_inputs_are_scaled_before_they_are_projected():
    data = datasets.load("digits")
    config = TaskConfig(length=20, input_dim=64, projection="identity")
    found = draw(tasks.to_device(data, config), config, 2).inputs
    scaled = {row.tobytes() for row in np.round(data.inputs, 3)}
    assert {row.tobytes() for row in np.round(found.reshape(-1, 64), 3)} <= scaled
    assert found.min() < -0.5


# --- what tasks share


def by_direction(found) -> dict[bytes, dict[int, set[int]]]:
    """Return the labels of each of the `rays`, for each task that is met."""
    seen: dict[bytes, dict[int, set[int]]] = {}
    lengths = np.linalg.norm(found.inputs, axis=2)
    for way, length, labels in zip(directions(found), lengths, found.labels, strict=True):
        task = seen.setdefault(way.tobytes(), {})
        for one, label in zip(length, labels, strict=True):
            task.setdefault(round(float(one), 2), set()).add(int(label))
    return {
        way: {round(length / min(task)): labels for length, labels in task.items()}
        for way, task in seen.items()
    }


def test_a_finite_number_of_tasks():
    config = TaskConfig(length=16, input_dim=6, tasks=5)
    seen = by_direction(draw(rays(), config, 200))
    assert len(seen) == 5
    for task in seen.values():
        # Four examples, each always with the same label, and no two with one.
        assert sorted(task) == [1, 2, 3, 4]
        assert sorted(map(len, task.values())) == [1] * 4
        assert len(set.union(*task.values())) == 4
    assert len({str(task) for task in seen.values()}) > 1
    # Other examples of the same tasks, as a test part has them.
    again = draw(rays(first=5), config, 200, seed=1)
    assert {way.tobytes() for way in directions(again)} == set(seen)
    other = TaskConfig(length=16, input_dim=6, tasks=5, seed=1)
    assert not set(by_direction(draw(rays(), other, 50))) & set(seen)


def test_endless_tasks_never_come_again():
    # More numbers than examples in a sequence or fewer: with and without an explicit matrix.
    for length in (16, 40):
        ways = directions(draw(rays(), TaskConfig(length=length, input_dim=6), 200))
        assert len(np.unique(ways, axis=0)) == 200


@pytest.mark.parametrize("number", [0, 2])
def test_sequences_of_a_task_share_all_but_the_examples(number):
    config = TaskConfig(length=16, input_dim=6, tasks=number)
    found = draw(rays(), config, 12, per_task=4)
    ways = directions(found).reshape(3, 4, 6)
    np.testing.assert_array_equal(ways, ways[:, :1].repeat(4, 1))
    if not number:
        assert len(np.unique(ways[:, 0], axis=0)) == 3
    for group in range(3):
        part = jax.tree.map(lambda x, g=group: x[4 * g : 4 * g + 4], found)
        (task,) = by_direction(part).values()
        assert all(len(labels) == 1 for labels in task.values())
    lengths = np.round(np.linalg.norm(found.inputs, axis=2), 2)
    assert len(np.unique(lengths, axis=0)) == 12


def test_a_key_says_all():
    config = TaskConfig(length=16, input_dim=6, hidden_share=0.5)
    first, again, other = (draw(rays(), config, 4, seed=seed) for seed in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


# --- labels


def test_permutations_are_uniform():
    found = draw(legible(4), plain(classes=4))
    orders = np.zeros((1000, 4), int)
    for number in range(4):
        shown = found.inputs[:, :, 0] == number
        orders[:, number] = found.labels[np.arange(1000), shown.argmax(1)]
        assert (found.labels == orders[:, number, None])[shown].all()
    assert np.sort(orders, 1).tolist() == [[0, 1, 2, 3]] * 1000
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and scipy.stats.chisquare(counts).pvalue > LEAST


def test_few_classes_get_any_of_the_labels():
    found = draw(legible(3), plain())
    assert set(found.labels.ravel()) == set(range(10))
    assert max(len(set(labels)) for labels in found.labels) == 3


def test_told_is_the_label():
    found = draw(legible(), plain())
    np.testing.assert_array_equal(found.told, found.labels)
    assert found.labels.dtype == found.told.dtype == np.int32
    assert found.inputs.dtype == np.float32


def test_a_share_of_the_labels_is_not_told():
    found = draw(legible(), plain(hidden_share=0.3))
    hidden = found.told == -1
    np.testing.assert_array_equal(found.told[~hidden], found.labels[~hidden])
    assert abs(hidden.mean() - 0.3) < 5 * (0.3 * 0.7 / hidden.size) ** 0.5
    assert found.labels.min() == 0  # those to be guessed are all there
    # Each on its own: sequences vary as independent labels do.
    assert abs(hidden.sum(1).var() / (80 * 0.3 * 0.7) - 1) < 0.3


def share_error(share: float, count: int) -> float:
    return 5 * (share * (1 - share) / count) ** 0.5


def test_a_share_of_the_sequences_keeps_the_order():
    config = plain(fixed_share=0.9)
    kept = in_order(draw(legible(), config))
    assert abs(kept.mean() - 0.9) < share_error(0.9, 1000)
    assert not in_order(draw(legible(), config.uniform)).any()


def test_the_share_moves_in_a_straight_line():
    config = plain(fixed_share=0.8, fixed_share_final=0.0)
    for progress, share in ((0.0, 0.8), (0.5, 0.4), (1.0, 0.0)):
        kept = in_order(draw(legible(), config, progress=progress)).mean()
        assert abs(kept - share) <= share_error(share, 1000)


@pytest.mark.parametrize(
    "shares",
    [
        {"fixed_share": 0.5},
        {"fixed_share": 0.0, "fixed_share_final": 0.5},
        {"fixed_share": 1.0, "fixed_share_final": 0.5},
    ],
)
@pytest.mark.parametrize("fixed", ["permutation", "task"])
def test_fixed_tasks_share_a_projection_and_fixed_permutations_do_not(fixed, shares):
    config = TaskConfig(length=16, input_dim=6, fixed=fixed, **shares)
    found = draw(rays(), config, 400)
    lengths = np.linalg.norm(found.inputs, axis=2)
    # All four examples are there: the shortest one is the first.
    complete = np.array([len(np.unique(np.round(row, 1))) == 4 for row in lengths])
    classes = np.round(lengths / lengths.min(1, keepdims=True)) - 1
    kept = (classes == found.labels).all(1)[complete]
    assert abs(kept.mean() - 0.5) < share_error(0.5, complete.sum())
    _, times = np.unique(directions(found), axis=0, return_counts=True)
    if fixed == "task":
        assert abs(times.max() / 400 - 0.5) < share_error(0.5, 400)
        assert sorted(times)[:-1] == [1] * (len(times) - 1)
    else:
        assert times.max() == 1


def merged(found) -> np.ndarray:
    """Return the number of groups of classes of each sequence, having checked how they merge."""
    groups = []
    for inputs, labels in zip(found.inputs, found.labels, strict=True):
        number, base = len(np.unique(labels)), inputs[:, 0].astype(int)
        name = {}
        for group, label in zip(base % number, labels, strict=True):
            assert name.setdefault(group, label) == label
        assert len(set(name.values())) == number
        groups.append(number)
    return np.array(groups)


def test_classes_are_merged_into_few_groups():
    # So long that every class comes: all groups are seen.
    config = plain(length=150, fewest_classes=3)
    groups = merged(draw(legible(), config, 800))
    assert set(groups) == set(range(3, 11))
    assert scipy.stats.chisquare(np.bincount(groups)[3:]).pvalue > LEAST


def test_the_fewest_groups_become_more():
    config = plain(length=150, fewest_classes=2, fewest_classes_final=10)
    for progress, least in ((0.0, 2), (0.5, 6), (1.0, 10)):
        groups = merged(draw(legible(), config, 200, progress=progress))
        assert groups.min() == least and groups.max() == 10
    # A data set of fewer classes keeps them all.
    few = merged(draw(legible(4), config, 200))
    assert set(few) == {4}


# --- numbers that are hard


def test_points_that_come_again_are_finite_and_look_alike():
    config = TaskConfig(length=100, input_dim=16)
    examples = tasks.to_device(datasets.load("random"), config)
    five = jax.tree.map(lambda x: x[:5] if x.ndim else x, examples)
    # Where rounding errors would be too large to go without a matrix, one is built.
    far = five._replace(offset=five.offset - 3)
    assert np.isfinite(draw(far, TaskConfig(length=700, input_dim=16), 2).inputs).all()
    found = draw(five, config, 64)
    assert np.isfinite(found.inputs).all()
    squares = np.square(found.inputs[:, :, None] - found.inputs[:, None]).mean(-1)
    # A distance of two points is about 2, one of a point to itself is noise.
    assert not ((squares > 1e-3) & (squares < 0.2)).any()
    near = squares < 1e-3
    assert abs(near.mean() - 0.2) < 0.02
    assert (found.labels[:, :, None] == found.labels[:, None])[near].all()


@pytest.mark.parametrize("normalize", ["standard", "feature", "none"])
def test_constant_pixels_and_large_numbers_are_finite(normalize):
    images = np.random.default_rng(0).integers(0, 256, (60, 12, 12))
    images[:, :6] = 200
    images[30:] = 0
    data = datasets.from_arrays("toy", images, np.arange(60) % 3, normalize=normalize)
    config = TaskConfig(length=40, input_dim=8)
    found = draw(tasks.to_device(data, config), config, 64).inputs
    assert np.isfinite(found).all() and found.std() > 0.1


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_noise_of_the_exact_draw_is_relative(scale):
    inputs = jnp.asarray(scale * np.repeat(X[:1], 12, 0))
    keys = jax.random.split(jax.random.key(0), 200)
    project = functools.partial(tasks.project, inputs=inputs, config=TaskConfig(input_dim=8))
    found = np.asarray(jax.vmap(project)(keys)) / scale
    assert np.isfinite(found).all()
    signal, noise = found.mean(1).std(), (found - found.mean(1, keepdims=True)).std()
    assert noise < 0.01 * signal


def test_one_compilation_serves_all_of_a_training():
    traces = []

    @jax.jit
    def step(key, examples, progress):
        traces.append(1)
        return tasks.sample(key, examples, config, 4, progress)

    config = plain(fixed_share=0.9, fixed_share_final=0.0, fewest_classes=2, tasks=3)
    for i in range(3):
        step(jax.random.key(i), legible(), jnp.asarray(i / 2))
    assert len(traces) == 1


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 1}, "tasks length is 1; expected a whole number >= 2"),
        ({"length": 10.0}, "tasks length is 10.0"),
        ({"input_dim": 0}, "tasks input_dim is 0"),
        ({"classes": True}, "tasks classes is True"),
        ({"tasks": -1}, "tasks tasks is -1"),
        ({"seed": -1}, "tasks seed is -1"),
        ({"projection": "fourier"}, "projection is 'fourier'; expected one of gaussian, orth"),
        ({"fixed": "matrix"}, "fixed is 'matrix'; expected one of permutation, task"),
        ({"fixed_share": 1.5}, r"fixed_share is 1.5; expected a share in \[0, 1\]"),
        ({"fixed_share": float("nan")}, "fixed_share is nan"),
        ({"fixed_share_final": -0.1}, "fixed_share_final is -0.1"),
        ({"hidden_share": 1.0}, r"hidden_share is 1.0; expected a share in \[0, 1\)"),
        ({"fewest_classes": 1}, "fewest_classes is 1; expected a whole number from 2 to 10"),
        ({"fewest_classes": 11}, "fewest_classes is 11"),
        ({"fewest_classes": 2, "fewest_classes_final": 11}, "fewest_classes_final is 11"),
        ({"fewest_classes_final": 5}, "fewest_classes_final is given without fewest_classes"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(GlaError, match=message):
        TaskConfig(**settings)


def test_data_that_give_no_tasks_are_refused():
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(40, 6)), np.arange(40) % 4
    data = datasets.from_arrays("toy", inputs, labels, inputs[:8], labels[:8] % 3)
    config = TaskConfig(length=20, classes=4)
    tasks.check(data, config)
    cases = (
        ("train", {"classes": 3}, "toy has 4 classes; expected at most the 3"),
        (
            "train",
            {"length": 41},
            "the train part of toy has 40 examples; expected at least the 41",
        ),
        ("test", {"length": 9}, "the test part of toy has 8 examples"),
        ("test", {"length": 8}, "the test part of toy has no example of the class 3"),
        ("train", {"projection": "identity", "input_dim": 5}, "input_dim is 5 for inputs of 6"),
    )
    for part, settings, message in cases:
        data = datasets.from_arrays("toy", inputs, labels, inputs[:8], labels[:8] % 3, part=part)
        config = TaskConfig(**{"length": 20, "classes": 4, **settings})
        for refuse in (tasks.check, tasks.to_device):
            with pytest.raises(GlaError, match=message) as caught:
                refuse(data, config)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("per_task", [0, 3, -1])
def test_sequences_of_a_task_divide_a_batch(per_task):
    with pytest.raises(GlaError, match=f"4 sequences in tasks of {per_task}; expected a multiple"):
        tasks.sample(jax.random.key(0), legible(), plain(), 4, per_task=per_task)
