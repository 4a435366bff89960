"""The one place that decides how PPO runs share devices."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from gla.cores import usable_cores


def use_all_cores() -> None:
    """Make every core of this machine a JAX device with one thread, if JAX has not started yet.

    On a CPU runs are spread over devices. The networks and simulators here are so small that
    splitting one of their programs over cores costs more than it saves: CartPole collects 1.4
    times as much per CPU-second with one thread, and no less per second. What is done on one
    device afterwards in this process, such as meta-training, has one core too.

    Does nothing where the user has chosen a number of devices or threads.
    """
    flags, variables = os.environ.get("XLA_FLAGS", ""), os.environ
    if "xla_force_host_platform_device_count" in flags or "JAX_NUM_CPU_DEVICES" in variables:
        return
    # JAX refuses once it has started: then the devices that there are must do.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", usable_cores())
        if "NPROC" not in variables:
            variables.setdefault("PJRT_NPROC", "1")  # threads of JAX's CPU client


def padded(runs: int) -> int:
    """Return a number of runs, at least `runs`, that all devices can share evenly."""
    devices = min(jax.local_device_count(), runs)
    return -(-runs // devices) * devices


def map_runs(function: Callable[..., Any], *runs: Any) -> Any:
    """Map a function over the leading axis of its arguments, in the way that suits the backend.

    On an accelerator the runs are vmapped. On a CPU they go one after the other: with jax 0.10.2 a
    vmapped PPO of two runs deadlocks there, and where it does not, it is no faster. Either way they
    are spread over all local devices if their number divides by that of the devices.

    Args:
        function: of one run.
        *runs: trees of arrays whose leaves are [runs, ...].
    """

    def several(*runs: Any) -> Any:
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda one: function(*one), runs)
        return jax.vmap(function)(*runs)

    count = jax.tree.leaves(runs)[0].shape[0]
    devices = min(jax.local_device_count(), count)
    if devices == 1 or count % devices:
        return several(*runs)
    mesh = Mesh(np.array(jax.local_devices()[:devices]), ("runs",))
    spread = PartitionSpec("runs")
    return jax.shard_map(several, mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False)(
        *runs
    )
