"""Training on several devices and several processes.

Devices form a mesh with two axes, `data` and `fsdp`. A batch is divided over both. Parameters,
their average and the optimiser's state are divided over `fsdp` and copied over `data`, so that
fsdp = 1 is plain data parallelism and fsdp = all devices divides everything (ZeRO-3, Rajbhandari
et al. 2020). The compiler adds the communication. Random numbers depend on keys alone, not on the
number of devices, so a training on eight devices follows that on one up to rounding.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from gla.errors import GlaError

AXES = ("data", "fsdp")
# Dividing fewer numbers than this costs more in messages than it saves in memory.
SMALLEST_DIVIDED = 2**10


@dataclass(frozen=True)
class MeshConfig:
    """How devices are used.

    Attributes:
        data: groups of devices, each with a whole copy of the parameters; 0 means as many as the
            devices make up.
        fsdp: devices of a group, over which one copy of the parameters is divided.
    """

    data: int = 0
    fsdp: int = 1

    def __post_init__(self):
        if self.data < 0 or self.fsdp < 1:
            raise GlaError(
                f"the mesh is data={self.data} x fsdp={self.fsdp}", "data >= 0 and fsdp >= 1"
            )


@dataclass(frozen=True)
class DistributedConfig:
    """This process's place among those that train together.

    Attributes:
        coordinator: address and port of process 0, as `10.0.0.1:1234`, the same for all.
        processes: how many there are; 1 trains alone.
        process: number of this one, from 0.
    """

    coordinator: str = ""
    processes: int = 1
    process: int = 0

    def __post_init__(self):
        if self.processes < 1 or not 0 <= self.process < self.processes:
            raise GlaError(
                f"this is process {self.process} of {self.processes}",
                "processes >= 1 and process from 0 to processes - 1",
            )
        if self.processes > 1 and ":" not in self.coordinator:
            raise GlaError(
                f"the coordinator of {self.processes} processes is {self.coordinator!r}",
                "the address and port of process 0, such as 10.0.0.1:1234",
            )


def start(config: DistributedConfig):
    """Join the other processes; to be called before anything touches a device.

    Raises:
        GlaError: if JAX has used its devices already, or the others cannot be reached.
    """
    if config.processes == 1:
        return
    # Read only by CPU backends, whose processes cannot talk without it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(config.coordinator, config.processes, config.process)
    except (RuntimeError, ValueError) as error:
        raise GlaError(
            f"process {config.process} of {config.processes} cannot join the one at "
            f"{config.coordinator} ({str(error).splitlines()[0][:200]})",
            mend="start all processes with the same coordinator, before JAX is used",
        ) from None


def is_first() -> bool:
    """Return whether this is the process that writes logs and descriptions."""
    return jax.process_index() == 0


def wait_for_all(what: str):
    """Return once every process has come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def from_first(value: Any) -> Any:
    """Return process 0's values, a pytree of numbers, in every process as NumPy arrays."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(value)


def make_mesh(config: MeshConfig) -> Mesh | None:
    """Return the mesh of all devices of all processes; none for a single device.

    Raises:
        GlaError: if the config does not make up the devices that there are.
    """
    count = jax.device_count()
    data = config.data or max(count // config.fsdp, 1)
    if data * config.fsdp != count:
        raise GlaError(
            f"a mesh of data={config.data or 'all'} x fsdp={config.fsdp} does not make up the "
            f"{count} devices that there are",
            f"data x fsdp = {count}",
            "set mesh.data=0 and mesh.fsdp=1 to use all of them alike",
        )
    if count == 1:
        return None
    return jax.make_mesh((data, config.fsdp), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2)


def check_batch(batch_size: int, mesh: Mesh | None):
    """Raise `GlaError` if a (micro-)batch cannot be divided among the devices."""
    if mesh is not None and batch_size % mesh.size:
        raise GlaError(
            f"{batch_size} sequences at a time cannot be divided among {mesh.size} devices",
            f"batch_size / accumulate to be a multiple of {mesh.size}",
        )


def divided(tree: Any, mesh: Mesh | None) -> Any:
    """Return the sharding of every array of a training state.

    Args:
        tree: arrays, or anything else that has shapes.
        mesh: from `make_mesh`.

    Returns:
        The same tree of shardings: over `fsdp` along the largest axis that it divides (the last
        of equals); a copy for each device of arrays that are small or do not divide.
    """

    def one(leaf: Any) -> jax.sharding.Sharding:
        if mesh is None:
            return SingleDeviceSharding(jax.local_devices()[0])
        shape, ways = leaf.shape, mesh.shape["fsdp"]
        axes = [axis for axis, size in enumerate(shape) if size % ways == 0]
        if ways == 1 or not axes or np.prod(shape) < SMALLEST_DIVIDED:
            return NamedSharding(mesh, PartitionSpec())
        axis = max(axes, key=lambda axis: (shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "fsdp"))

    return jax.tree.map(one, tree)


def copied(mesh: Mesh | None) -> jax.sharding.Sharding | None:
    """Return the sharding of what every device holds whole; none without a mesh."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def split_batch(tree: Any, mesh: Mesh | None) -> Any:
    """Divide the leading axis of every array among all devices, inside a jitted function."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec(AXES)))


def put(tree: Any, mesh: Mesh | None) -> Any:
    """Copy arrays that every process holds alike to all devices."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())

    def one(leaf: Any) -> jax.Array:
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(one, tree)


def gathered(tree: Any, mesh: Mesh | None) -> Any:
    """Return arrays of this process alone, whole, from ones that are divided over a mesh."""
    if mesh is None:
        return tree
    whole = _gather(mesh)(tree)
    return jax.tree.map(lambda x: jax.numpy.asarray(x.addressable_data(0)), whole)


@functools.cache  # compiled once per training, not at every validation
def _gather(mesh: Mesh):
    return jax.jit(lambda tree: tree, out_shardings=copied(mesh))
