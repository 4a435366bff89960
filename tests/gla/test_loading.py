"""Pools of runs: their order, what is read and when, errors, and how much is kept."""

import gc
import threading
import time
import weakref
from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gla import loading, sampling
from gla.errors import GlaError
from gla.loading import Loader, LoadingConfig

RUNS = 5


@pytest.fixture(scope="module")
def module_path(tmp_path_factory):
    return tmp_path_factory.mktemp("loading")


@pytest.fixture
def store(random_store, module_path):
    """A store of five runs of two streams; made once, opened by every test."""
    return random_store(module_path / "s", hidden=0, arrays=("distribution",))


class Watched:
    """A store that writes down which runs are read, and may refuse to read."""

    def __init__(self, store):
        self.store, self.meta, self.place = store, store.meta, store.place
        self.read_runs, self.threads, self.broken = [], [], None

    def read(self, name, runs=None):
        if self.broken is not None:
            raise self.broken
        self.threads.append(threading.current_thread() is threading.main_thread())
        if name == "reward":
            self.read_runs.append(None if runs is None else list(runs))
        return self.store.read(name, runs)

    def __getattr__(self, name):
        return getattr(self.store, name)


def drawn(loader, pools):
    return [run for index in range(pools) for run in loader.runs(index)]


@given(st.integers(1, 12), st.integers(1, 11), st.integers(0, 2**31))
def test_every_pass_meets_every_run_once(count, resident, seed):
    loader = Loader.__new__(Loader)  # the order needs no store
    loader.whole, loader._resident, loader._seed = False, resident, [seed]
    loader._complete = list(range(10, 10 + count))
    met = Counter(drawn(loader, count))  # so many pools are `resident` passes
    assert met == dict.fromkeys(loader._complete, resident)
    assert all(len(loader.runs(i)) == resident for i in range(3))


def test_passes_are_shuffled_anew_and_follow_from_the_seed(store):
    orders = {}
    for seed in (0, 1, (0, 1), (0, 2)):
        with Loader(store, LoadingConfig(1), seed) as loader:
            orders[seed] = drawn(loader, 4 * RUNS)
            assert drawn(loader, 4 * RUNS) == orders[seed]
    passes = [tuple(orders[0][i : i + RUNS]) for i in range(0, 4 * RUNS, RUNS)]
    assert len(set(passes)) == 4 and all(sorted(p) == list(range(RUNS)) for p in passes)
    assert len(set(map(tuple, orders.values()))) == 4


def test_a_pool_is_its_runs_whatever_was_asked_before(store):
    with Loader(store, LoadingConfig(2), 3) as loader:
        through = [jax.tree.map(np.asarray, loader.pool(i)) for i in range(4)]
        back = jax.tree.map(np.asarray, loader.pool(1))
    with Loader(store, LoadingConfig(2), 3) as again:  # as after a restart at pool 2
        later = [jax.tree.map(np.asarray, again.pool(i)) for i in (2, 3)]
    for one, other in zip([through[1], *through[2:]], [back, *later], strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    whole = sampling.from_store(store)
    for index, pool in enumerate(through):
        runs = loader.runs(index)
        streams = np.array([[2 * run, 2 * run + 1] for run in runs]).ravel()
        np.testing.assert_array_equal(pool.observation, whole.observation[streams])
        np.testing.assert_array_equal(pool.score, whole.score[streams])
        shapes = [x.shape for x in jax.tree.leaves(pool)]
        assert shapes == [x.shape for x in jax.tree.leaves(through[0])]


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_the_next_pool_and_no_other_is_read_ahead_in_a_thread(store):
    watched = Watched(store)
    with Loader(watched, LoadingConfig(2), 3) as loader:
        assert watched.read_runs == []
        loader.pool(0)
        until(lambda: loader._next[1].done())
        in_main, read = list(watched.threads), sorted(sum(watched.read_runs, []))
        assert read == sorted(loader.runs(0) + loader.runs(1)), "these runs and nothing else"
        assert any(in_main) and not all(in_main)
        watched.threads.clear()
        loader.pool(1)
        until(lambda: loader._next[1].done())
        assert not any(watched.threads), "what was read ahead is not read again"
        assert len(sum(watched.read_runs, [])) == 6


def test_memory_holds_two_pools(store):
    alive, at_jump = [], []

    def place(pool):
        # An array of the pool's own that tells when it is freed.
        reward = jax.numpy.array(pool.reward)
        alive.append(weakref.ref(reward))
        if len(alive) > 2 and threading.current_thread() is threading.main_thread():
            at_jump.append(count())
        return pool._replace(reward=reward)

    def count():
        gc.collect()
        return sum(ref() is not None for ref in alive)

    with Loader(store, LoadingConfig(2), 3, place) as loader:
        pool = None
        for index in range(5):
            pool = loader.pool(index)
            until(lambda: loader._next[1].done())
            assert count() == 2
        assert len(alive) == 6
        # Asked for another than the next one: that one goes first.
        pool = loader.pool(9)
        until(lambda: loader._next[1].done())
        assert count() == 2 and at_jump == [2]
    assert pool is not None and count() == 1, "closing forgets what was read ahead"


@pytest.mark.parametrize("resident", [0, RUNS, 100])
def test_a_store_that_fits_is_read_once(store, resident):
    watched = Watched(store)
    with Loader(watched, LoadingConfig(resident), 0) as loader:
        assert loader.whole and loader.runs(7) == list(range(RUNS))
        assert loader.pool(0) is loader.pool(5)
        assert watched.read_runs == [None]
        jax.tree.map(
            np.testing.assert_array_equal, loader.pool(0), sampling.from_store(watched.store)
        )


def test_an_error_in_the_thread_comes_out_as_it_is(store):
    watched = Watched(store)
    with Loader(watched, LoadingConfig(2), 0) as loader:
        loader.pool(0)
        until(lambda: loader._next[1].done())
        watched.broken = GlaError("array 'reward' is damaged", "every chunk complete")
        loader.pool(1)  # was read before it broke
        with pytest.raises(GlaError) as caught:
            loader.pool(2)
        assert caught.value is watched.broken
        with pytest.raises(GlaError):  # and again, from this thread
            loader.pool(2)
        watched.broken = None
        assert loader.pool(2).reward.shape[0] == 4, "mended, it goes on"


def test_a_closed_loader_gives_nothing_and_leaves_no_thread(store):
    loader = Loader(store, LoadingConfig(2), 0)
    loader.pool(0)
    loader.close()
    loader.close()
    assert not any(t.name.startswith("gla-loading") for t in threading.enumerate())
    with pytest.raises(GlaError, match="closed"):
        loader.pool(1)


def test_incomplete_blocks_are_left_out(random_store, tmp_path):
    store = random_store(tmp_path / "s", blocks=[0, 2], hidden=0, arrays=("distribution",))
    with Loader(store, LoadingConfig(1), 0) as loader:
        assert sorted(drawn(loader, 3)) == [0, 1, 4]


def test_bad_settings_are_refused():
    with pytest.raises(GlaError, match="loading resident is -1"):
        LoadingConfig(resident=-1)
    with pytest.raises(GlaError, match="loading refresh is 0"):
        LoadingConfig(refresh=0)
    assert loading.LoadingConfig() == LoadingConfig(0, 100)
