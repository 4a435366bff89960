"""SupervisedBandit: tasks against the data set that they were made of, on a toy and on digits."""

import dataclasses
import math

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import datasets
from gla.envs import drawing, registry
from gla.envs.supervised_bandit import SupervisedBandit, SupervisedBanditConfig, SupervisedState
from gla.errors import GlaError

N, SIDE, CLASSES = 90, 4, 5
TASKS = 64


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A data set of 90 grey images in five classes, with a test part of 10."""
    path = tmp_path_factory.mktemp("data") / "toy.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N + 10, SIDE, SIDE), dtype=np.uint8)
    labels = np.arange(N + 10) % CLASSES
    np.savez(path, x_train=images[:N], y_train=labels[:N], x_test=images[N:], y_test=labels[N:])
    return SupervisedBanditConfig(str(path), observation_dim=8, pool=30, horizon=20)


def draw(env):
    sample = jax.jit(env.sample_params)  # vmapped, it would take three times as long to compile
    tasks = [sample(key) for key in jax.random.split(jax.random.key(1), TASKS)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *tasks)


@pytest.fixture(scope="module")
def drawn(toy):
    env = SupervisedBandit(toy)
    return env, draw(env)


def maps_of(env, params):
    """Recover the projection of every task by least squares, f32[TASKS, D, M], and the misfit."""
    maps, misfits = [], []
    for task in range(TASKS):
        x = env.data.inputs[params.examples[task]]
        solution = np.linalg.lstsq(x, params.inputs[task], rcond=None)[0]
        maps.append(solution)
        misfits.append(np.abs(x @ solution - params.inputs[task]).max())
    return np.stack(maps), max(misfits)


def test_inputs_are_the_gaussian_projections_of_the_paper(drawn):
    env, params = drawn
    assert params.inputs.shape == (TASKS, 30, 8) and params.inputs.dtype == np.float32
    maps, misfit = maps_of(env, params)
    assert misfit < 1e-4
    # 64 x 16 x 8 entries of N(0, 1/16).
    np.testing.assert_allclose(maps.mean(), 0.0, atol=0.01)
    np.testing.assert_allclose(maps.var(), 1 / 16, rtol=0.06)
    assert abs(np.corrcoef(maps[:-1].ravel(), maps[1:].ravel())[0, 1]) < 0.05
    # So standardised inputs stay of unit variance.
    np.testing.assert_allclose(params.inputs.std(), 1.0, rtol=0.1)


def test_labels_are_permuted_task_by_task(drawn):
    env, params = drawn
    assert params.labels.dtype == params.examples.dtype == np.int32
    permutations = set()
    for task in range(TASKS):
        pairs = set(zip(env.data.labels[params.examples[task]], params.labels[task], strict=True))
        assert len(pairs) == CLASSES == len({right for _, right in pairs})
        permutations.add(tuple(int(right) for _, right in sorted(pairs)))
    assert len(permutations) > 40  # of 120, in 64 draws


def test_a_pool_has_every_example_at_most_once_and_all_examples_alike(drawn):
    _, params = drawn
    assert all(len(set(examples)) == 30 for examples in params.examples)
    counts = np.bincount(params.examples.ravel(), minlength=N)
    assert len(counts) == N and counts.min() >= 6  # 21 expected, standard deviation 4


def test_an_episode_asks_pays_and_shows_the_next(drawn):
    env, params = drawn

    @jax.jit
    @jax.vmap
    def roll(key, params):
        solution = env.solve(params)
        reset_key, scan_key = jax.random.split(key)
        state, first = env.reset(reset_key, params)

        def body(state, key):
            action_key, key = jax.random.split(key)
            best = env.best_action(solution, state, params)
            wrong = (best + jax.random.randint(action_key, (), 1, CLASSES)) % CLASSES
            action = jnp.where(jax.random.bernoulli(action_key), best, wrong)
            before = state
            state, ts = env.step(key, state, action, params)
            return state, (before, best, action, ts)

        return first, jax.lax.scan(body, state, jax.random.split(scan_key, 100))[1]

    keys = jax.random.split(jax.random.key(2), TASKS)
    first, (states, best, actions, ts) = jax.tree.map(np.asarray, roll(keys, params))
    tasks = np.arange(TASKS)[:, None]
    np.testing.assert_array_equal(best, params.labels[tasks, states.position])
    np.testing.assert_array_equal(ts.reward, (actions == best).astype(np.float32))
    assert 0.4 < ts.reward.mean() < 0.6
    shown = params.inputs[tasks, states.position]
    np.testing.assert_array_equal(shown[:, 0], first)
    np.testing.assert_array_equal(shown[:, 1:], ts.observation[:, :-1])
    np.testing.assert_array_equal(states.answer[:, 1:], actions[:, :-1])
    np.testing.assert_array_equal(states.reward[:, 1:], ts.reward[:, :-1])
    assert (states.answer[:, 0] == -1).all()
    # 6,400 draws of 30 places.
    counts = np.bincount(states.position.ravel(), minlength=30)
    assert counts.min() > 140 and counts.max() < 290
    assert not ts.terminated.any() and not ts.truncated.any()


def test_the_data_set_is_neither_on_the_object_nor_in_programs_that_step(drawn):
    env, params = drawn
    assert not [v for v in vars(env).values() if isinstance(v, (np.ndarray, jax.Array))]
    task = jax.tree.map(lambda leaf: leaf[0], params)
    state, _ = env.reset(jax.random.key(0), task)
    lowered = jax.jit(env.step).lower(jax.random.key(0), state, jnp.int32(0), task)
    hexadecimal = env.data.values[0].tobytes().hex().upper()
    assert hexadecimal not in lowered.as_text()
    assert hexadecimal in jax.jit(env.sample_params).lower(jax.random.key(0)).as_text()
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(task)) == 4 * 30 * (8 + 2)


def test_the_identity_shows_the_data_as_they_are(toy):
    config = dataclasses.replace(
        toy, part="test", projection="identity", observation_dim=18, permute_labels=False, pool=None
    )
    env = SupervisedBandit(config)
    params = jax.jit(env.sample_params)(jax.random.key(0))
    assert params.examples.tolist() == list(range(10))
    data = datasets.load(toy.dataset, "test")
    np.testing.assert_allclose(params.inputs[:, :16], data.inputs, rtol=1e-6)
    np.testing.assert_array_equal(params.inputs[:, 16:], 0.0)
    np.testing.assert_array_equal(params.labels, data.labels)
    assert env.distinct_tasks == 1


def test_how_many_tasks_there_are(toy):
    def count(**settings):
        return SupervisedBandit(toy, **settings).distinct_tasks

    assert count() == math.inf
    whole = {"projection": "identity", "observation_dim": 16, "pool": N}
    assert count(**whole) == 120
    assert count(**whole, fewest_classes=4) == 240  # 5!/1! with four groups, 5! with five
    assert count(**whole, permute_labels=False, fewest_classes=2) == 4
    assert count(**{**whole, "pool": N - 1}) == math.inf


@pytest.mark.parametrize(("dim", "scale"), [(8, 1.0), (32, 2.0)])
def test_orthogonal_projections_keep_the_scale(toy, dim, scale):
    env = SupervisedBandit(toy, projection="orthogonal", observation_dim=dim, fewest_classes=2)
    params = draw(env)
    maps, misfit = maps_of(env, params)  # [TASKS, 16, dim]
    assert misfit < 1e-4
    gram = np.einsum("tdm,tdn->tmn", maps, maps) if dim < 16 else maps @ maps.transpose(0, 2, 1)
    np.testing.assert_allclose(
        gram, np.broadcast_to(scale * np.eye(len(gram[0])), gram.shape), atol=1e-3
    )
    assert abs(maps.mean()) < 0.02
    # Classes that are merged are merged by their number modulo c.
    sizes = []
    for task in range(TASKS):
        numbers, rights = env.data.labels[params.examples[task]], params.labels[task]
        c = len(set(rights))
        assert len(set(zip(numbers % c, rights, strict=True))) == c
        sizes.append(c)
    assert set(sizes) == {2, 3, 4, 5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "diggits"}, "did you mean digits"),
        ({"projection": "random"}, "projection is 'random'; expected gaussian"),
        ({"projection": "identity"}, "observation_dim is 8 for inputs of 16 numbers"),
        ({"fewest_classes": 1}, "fewest_classes is 1; expected a number from 2 to 5"),
        ({"fewest_classes": 6}, "fewest_classes is 6"),
        ({"pool": 0}, "pool is 0"),
        ({"observation_dim": 0}, "observation_dim is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"part": "validation"}, "part is 'validation'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(toy, settings, message):
    with pytest.raises(GlaError, match=message):
        SupervisedBandit(toy, **settings)


def test_digits_are_the_default_and_can_be_learned_from_their_projections():
    env = SupervisedBandit()
    assert env.observation_space.shape == (64,) and env.action_space.n == 10
    params = jax.tree.map(np.asarray, jax.jit(env.sample_params)(jax.random.key(3)))
    # Ridge regression on 900 projected examples names the class of the other 100.
    x, y = params.inputs, np.eye(10)[params.labels]
    order = np.random.default_rng(0).permutation(1000)
    fit, rest = order[:900], order[900:]
    weights = np.linalg.solve(x[fit].T @ x[fit] + np.eye(64), x[fit].T @ y[fit])
    assert ((x[rest] @ weights).argmax(-1) == params.labels[rest]).mean() > 0.85


def test_gymnasium_takes_the_settings_by_name(toy):
    env = gymnasium.make(
        "gla:gla/SupervisedBandit-v0", dataset=toy.dataset, observation_dim=8, pool=10
    )
    observation, _ = env.reset(seed=0)
    assert observation.shape == (8,) and env.action_space.n == CLASSES
    with pytest.raises(GlaError, match="no setting 'datset' .did you mean dataset"):
        registry.make_functional("gla/SupervisedBandit-v0", datset="digits")


def test_pictures_show_the_example_and_the_last_answer(drawn):
    env, params = drawn
    task = jax.tree.map(lambda leaf: leaf[0], params)
    state = SupervisedState(np.int32(7), np.int32(-1), np.float32(0.0))
    before = env.render(state, task)
    assert before.shape == (256, 256, 3) and before.dtype == np.uint8
    # The image fills a square of 4 x 4 equal cells at the top.
    side = 205
    cells = before[4 : 4 + side, 25 : 25 + side][side // 8 :: side // 4, side // 8 :: side // 4]
    expected = env.data.image(int(task.examples[7]))
    np.testing.assert_array_equal(cells[:4, :4], np.repeat(expected[:, :, None], 3, 2))
    hazard = np.array(drawing.HAZARD, np.uint8)
    assert not (before == hazard).all(-1).any()
    wrong = env.render(state._replace(answer=np.int32(1)), task)
    assert (wrong == hazard).all(-1).sum() > 20


def test_what_is_no_image_has_no_picture(toy, tmp_path):
    path = tmp_path / "table.npz"
    np.savez(path, inputs=np.random.default_rng(0).normal(size=(20, 6)), labels=np.arange(20) % 2)
    env = SupervisedBandit(dataset=str(path))
    assert not env.can_render
    with pytest.raises(GlaError, match="has no pictures"):
        env.render(None, None)
