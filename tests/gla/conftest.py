"""What several tests of histories share."""

import dataclasses

import numpy as np
import pytest

# Where a test needs no history of its own: small, but with several blocks, parts and streams.
SIZES = {
    "environment": "gla/Made-v0", "observation_size": 3, "action_size": 2, "discrete": False,
    "horizon": 4, "runs": 5, "streams_per_run": 2, "updates": 7, "steps": 4, "parallel_envs": 6,
    "hidden": 4, "split": "train", "seed": 7, "block": 2, "chunk": 3, "settings": {"window": 20},
    "packages": {"jax": "0", "numpy": "2"},
}  # fmt: skip


@pytest.fixture
def random_store():
    """A function that fills a store with random numbers, or some of its blocks."""
    from gla.histories import STREAM_ARRAYS, HistoryMeta, HistoryStore, array_shapes

    meta = HistoryMeta(**SIZES)

    def fill(path, blocks=None, **changes):
        store = HistoryStore.create_or_resume(path, dataclasses.replace(meta, **changes))
        for block in range(store.meta.blocks) if blocks is None else blocks:
            rng, arrays = np.random.default_rng([store.meta.seed, block]), {}
            for name, (shape, dtype) in array_shapes(store.meta).items():
                rows = len(store.meta.block_runs(block))
                rows *= store.meta.streams_per_run if name in STREAM_ARRAYS else 1
                value = rng.normal(size=(rows, *shape[1:]))
                if dtype == "int32":
                    value = rng.integers(0, store.meta.action_size, value.shape)
                real = "float32" if dtype in ("float16", "bfloat16") else dtype
                arrays[name] = value > 0.5 if dtype == "bool" else value.astype(real)
            store.write_block(block, arrays)
        return store

    return fill


@pytest.fixture(scope="session")
def policy_store():
    """A function that fills a store with the histories of policies that play about (0.6, -0.6)."""
    import jax

    from gla import policy as pol
    from gla.histories import STREAM_ARRAYS, HistoryMeta, HistoryStore, array_shapes

    meta = HistoryMeta(
        environment="gla/Made-v0", observation_size=3, action_size=2, discrete=False, horizon=6,
        runs=4, streams_per_run=1, updates=4, steps=6, parallel_envs=1, hidden=4, split="train",
        seed=0, block=2, settings={}, packages={},
    )  # fmt: skip

    def fill(path, blocks=None, **changes):
        own = dataclasses.replace(meta, **changes)
        rng = np.random.default_rng(own.seed)
        shape = pol.PolicyShape(own.observation_size, own.action_size, own.hidden, own.discrete)
        policies = pol.unflatten(shape, 0.1 * rng.normal(size=(own.runs, own.updates, shape.size)))
        policies.b3[...] = np.resize([0.7, -0.7], own.action_size)
        policies.log_std[...] = -2.0
        policies.std[...] = 1.0
        arrays = {"policy": jax.vmap(jax.vmap(pol.flatten))(policies), "reward_scale": 1.0}
        arrays["observation_std"] = 1.0
        store = HistoryStore.create_or_resume(path, own)
        for block in range(own.blocks) if blocks is None else blocks:
            rows = {}
            for name, (sizes, dtype) in array_shapes(own).items():
                default = rng.normal(size=sizes) if name in STREAM_ARRAYS else 0.0
                value = np.broadcast_to(np.asarray(arrays.get(name, default), dtype), sizes)
                rows[name] = value[[*own.block_runs(block)]]
            store.write_block(block, rows)
        return str(path)

    return fill
