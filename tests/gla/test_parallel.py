"""Several devices and several processes learn what one device learns, up to rounding."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import checkpoints, parallel
from gla.errors import GlaError
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig
from gla.parallel import DistributedConfig, MeshConfig
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.training import MetaTrainConfig, ValidationConfig, load_trained, meta_train

# Trains, stops after some steps where asked to, and says how the arrays of the state lie.
PROGRAM = """
import json, sys
import numpy as np
import jax
from gla import parallel, loop, training

folder, stop, own = sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
parallel.start(parallel.DistributedConfig(**own))
config = training.config_from_json(json.loads(sys.argv[1]))
found, advance, readable = {}, loop.Progress.advance, loop._readable

def stopped(self, amount, note=""):
    advance(self, amount, note)
    if self._done == stop:
        raise KeyboardInterrupt

def looked_at(metrics, state):
    for name in ("params", "ema", "optimizer"):
        leaves = jax.tree.leaves(getattr(state, name))
        found[name] = [[list(x.shape), list(x.addressable_shards[0].data.shape)] for x in leaves]
    return readable(metrics, state)

def validate(params):
    first = jax.tree.leaves(params)[0]
    return {"score": -float(np.abs(np.asarray(first)).sum())}

loop.Progress.advance, loop._readable = stopped, looked_at
try:
    training.meta_train(config, folder, progress=False, validate=validate)
except KeyboardInterrupt:
    pass
print(json.dumps({"devices": jax.device_count(), "processes": jax.process_count(), **found}))
"""


@pytest.fixture(scope="module")
def config(policy_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("histories")
    stores = policy_store(folder / "s"), policy_store(folder / "t", action_size=3, seed=3)
    return MetaTrainConfig(
        histories=stores,
        projection=ProjectionConfig(4, 3),
        sampling=SamplingConfig(segments=2, segment_length=4, first_update=(0, 1), gap=(1, 2)),
        model=ModelConfig(width=32, layers=1, heads=2, mlp=2, window=8),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup=2, ema=0.8),
        validation=ValidationConfig(every=6, histories=stores[:1], batches=1),
        batch_size=32,
        accumulate=2,
        steps=12,
        steps_per_dispatch=2,
        checkpoint_every=4,
    )


def validate(params):
    return {"score": -float(np.abs(np.asarray(jax.tree.leaves(params)[0])).sum())}


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    return meta_train(
        config, tmp_path_factory.mktemp("alone") / "c", progress=False, validate=validate
    )


def begin(config, folder, devices=1, stop=-1, **own):
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    return subprocess.Popen(
        [
            sys.executable, "-c", PROGRAM, json.dumps(dataclasses.asdict(config)), str(folder),
            str(stop), json.dumps(own),
        ],
        env={**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(process):
    try:
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, theirs)


def assert_same_training(folder, alone):
    for which in ("latest", "best"):
        assert_close(load_trained(folder, which).params, load_trained(alone, which).params)
    ours, theirs = lines(folder), lines(alone)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)


def test_eight_devices_divide_the_batch_and_one_goes_on(config, alone, tmp_path):
    found = end(begin(config, tmp_path / "c", devices=8, stop=6))
    assert found["devices"] == 8
    assert all(whole == shard for whole, shard in found["params"])  # data parallel: copies
    assert checkpoints.latest_step(tmp_path / "c") == 6
    # This process has one device.
    meta_train(config, tmp_path / "c", progress=False, validate=validate)
    assert_same_training(tmp_path / "c", alone)


def test_parameters_average_and_optimizer_are_divided(config, alone, tmp_path):
    divided = dataclasses.replace(config, mesh=MeshConfig(data=2, fsdp=4))
    # Begun on one device, gone on with on eight.
    for devices, mesh, stop in ((1, MeshConfig(), 4), (8, divided.mesh, -1)):
        own = dataclasses.replace(config, mesh=mesh)
        found = end(begin(own, tmp_path / "c", devices=devices, stop=stop))
    for name in ("params", "ema", "optimizer"):
        sizes = [(int(np.prod(whole)), int(np.prod(shard))) for whole, shard in found[name]]
        large = [(whole, shard) for whole, shard in sizes if whole >= parallel.SMALLEST_DIVIDED]
        assert large and all(whole == 4 * shard for whole, shard in large), name
        assert all(w == s for w, s in sizes if w < parallel.SMALLEST_DIVIDED), name
        assert sum(shard for _, shard in sizes) < 0.5 * sum(whole for whole, _ in sizes)
    assert_same_training(tmp_path / "c", alone)


def test_two_processes_train_as_one(config, alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    both = [
        begin(config, tmp_path / "c", coordinator=place, processes=2, process=number)
        for number in range(2)
    ]
    for found in [end(process) for process in both]:
        assert (found["devices"], found["processes"]) == (2, 2)
    assert_same_training(tmp_path / "c", alone)


def test_random_numbers_do_not_depend_on_the_number_of_devices():
    """What makes the above true; JAX could be configured otherwise."""
    assert jax.config.jax_threefry_partitionable


def test_one_device_needs_no_mesh():
    assert parallel.make_mesh(MeshConfig()) is None
    parallel.check_batch(3, None)
    tree = {"x": jnp.ones((4, 4))}
    assert parallel.put(tree, None) is tree and parallel.gathered(tree, None) is tree


def test_the_largest_axis_that_divides_is_divided():
    mesh = jax.sharding.AbstractMesh((2, 4), parallel.AXES)
    shape = jax.ShapeDtypeStruct
    tree = {
        "wide": shape((64, 128), jnp.float32),
        "square": shape((64, 64), jnp.float32),
        "odd": shape((63, 64), jnp.float32),
        "none": shape((63, 65), jnp.float32),
        "small": shape((4, 4), jnp.float32),
        "one": shape((), jnp.int32),
    }
    specs = {name: tuple(one.spec) for name, one in parallel.divided(tree, mesh).items()}
    assert specs == {
        "wide": (None, "fsdp"), "square": (None, "fsdp"), "odd": (None, "fsdp"),
        "none": (), "small": (), "one": (),
    }  # fmt: skip


def test_a_mesh_that_does_not_fit_is_refused(config, tmp_path):
    wrong = dataclasses.replace(config, mesh=MeshConfig(data=2, fsdp=2))
    with pytest.raises(GlaError, match="data=2 x fsdp=2 does not make up the 1 devices"):
        meta_train(wrong, tmp_path / "c", progress=False)
    with pytest.raises(GlaError, match="data=0 x fsdp=0"):
        MeshConfig(fsdp=0)
    mesh = jax.sharding.AbstractMesh((2, 4), parallel.AXES)
    parallel.check_batch(16, mesh)
    with pytest.raises(GlaError, match="12 sequences at a time cannot be divided among 8"):
        parallel.check_batch(12, mesh)


@pytest.mark.parametrize(
    "settings",
    [
        {"processes": 0},
        {"processes": 2, "process": 2, "coordinator": "a:1"},
        {"processes": 2, "process": -1, "coordinator": "a:1"},
        {"processes": 2},
        {"processes": 2, "coordinator": "nowhere"},
    ],
)
def test_processes_that_make_no_sense_are_refused(settings):
    with pytest.raises(GlaError):
        DistributedConfig(**settings)


def test_joining_others_after_the_devices_were_used_is_refused():
    jnp.ones(1).block_until_ready()
    with pytest.raises(GlaError, match="process 1 of 2 cannot join the one at 127.0.0.1:1"):
        parallel.start(DistributedConfig("127.0.0.1:1", 2, 1))
