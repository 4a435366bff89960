"""Recording over several processes and machines with Ray (extra `gla[ray]`).

Blocks of runs are what is handed out. Every worker holds a maker, compiled once, and writes its
blocks into the one store; this process holds the right to write and hands out what is missing. A
worker that dies is started again and goes on with its block after the last complete part. As the
same block is the same to the bit whoever makes it, nothing depends on who did.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gla.agents.makers import load_maker
from gla.errors import GlaError
from gla.histories import HistoryStore, record_block
from gla.progress import Progress


@dataclass(frozen=True)
class RayConfig:
    """How recording is spread.

    Attributes:
        workers: processes that make histories; 0 makes them in this process, without Ray.
        address: of a Ray cluster (`auto`, or ray://host:port); "" starts Ray on this machine. The
            store must then lie where all machines see it: a shared folder, or an object store.
        cpus: cores of each worker.
        gpus: GPUs of each worker; a fraction shares one.
    """

    workers: int = 0
    address: str = ""
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self):
        if self.workers < 0 or not self.cpus > 0 or self.gpus < 0:
            raise GlaError(
                f"ray workers, cpus and gpus are {self.workers}, {self.cpus:g} and {self.gpus:g}",
                "workers >= 0, cpus > 0 and gpus >= 0",
            )


class _Worker:
    """Makes blocks in a process of its own."""

    def __init__(self, method: str, config: Any, location: str):
        self._maker = load_maker(method).make(config)
        self._store = HistoryStore.open(location)

    def make(self, block: int) -> int:
        record_block(self._store, self._maker, block)
        return block


def record_over_ray(
    method: str,
    config: Any,
    location: str | os.PathLike[str],
    ray_config: RayConfig,
    fresh: bool = False,
    progress: bool = True,
) -> HistoryStore:
    """Record histories with several workers; go on where it stopped.

    Args:
        method: a name that `gla.agents.makers.load_maker` takes.
        config: its configuration.
        location: folder of the store that all workers see, or a URL.
        ray_config: how many workers, and where.
        fresh: delete a store that is there first.
        progress: show a progress bar on standard error.

    Raises:
        GlaError: as `gla.histories.record`; if Ray is not installed or cannot be reached.
    """
    ray = import_ray()
    maker = load_maker(method).make(config)
    store = HistoryStore.create_or_resume(location, maker.meta, fresh)
    if store.settled():
        return store
    started = not ray.is_initialized()
    with store.writing():
        if not store.missing_blocks():
            return store
        try:
            if started:
                start_ray(ray, ray_config)
            _hand_out(ray, ray_config, (method, config, str(store.path)), store, progress)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, GlaError):
                raise error.cause from None
            raise
        finally:
            if started:
                ray.shutdown()
    return store


def import_ray() -> Any:
    """Return the package ray.

    Raises:
        GlaError: if it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise GlaError(
            f"several workers need Ray, which cannot be imported ({error})",
            mend="pip install 'gla[ray]', or leave out --ray.workers",
        ) from None
    return ray


def start_ray(ray: Any, config: RayConfig, variables: Mapping[str, str] | None = None) -> None:
    """Start Ray on this machine, or reach the cluster that the config names.

    Args:
        ray: the package, see `import_ray`.
        config: where, and how many workers.
        variables: of the workers' environment.

    Raises:
        GlaError: if Ray cannot be started or reached.
    """
    # Workers import what this process can: a maker of the user's own may lie in this folder.
    paths = os.pathsep.join(dict.fromkeys([*filter(None, sys.path), os.getcwd()]))
    variables = {**(variables or {}), "PYTHONPATH": paths}
    if config.gpus == 0:
        # Cores are shared out by Ray, so a worker takes one device.
        variables |= {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    local = {} if config.address else {"num_cpus": max(1, round(config.workers * config.cpus))}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keeps a warning away
    try:
        ray.init(
            address=config.address or "local",
            include_dashboard=False if not config.address else None,
            log_to_driver=False,
            logging_level="error",
            runtime_env={"env_vars": variables},
            **local,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise GlaError(
            f"Ray cannot be started at {config.address or 'this machine'} ({error})",
            "a cluster that runs, or no address",
        ) from None


def _hand_out(
    ray: Any, config: RayConfig, recipe: tuple[str, Any, str], store: HistoryStore, progress: bool
) -> None:
    """Keep every worker busy until no block is missing."""
    missing = store.missing_blocks()
    meta, waiting = store.meta, list(missing)
    kind = ray.remote(
        num_cpus=config.cpus, num_gpus=config.gpus, max_restarts=3, max_task_retries=3
    )(_Worker)
    workers = [kind.remote(*recipe) for _ in range(min(config.workers, len(waiting)))]
    busy = {worker.make.remote(waiting.pop(0)): worker for worker in workers}
    steps = meta.parallel_envs * meta.steps * meta.updates
    left = sum(len(meta.block_runs(block)) for block in missing)
    title = f"{meta.method} on {meta.environment}, {len(workers)} workers"
    done = (meta.runs - left) * steps
    with Progress(title, meta.runs * steps, "steps", done, enabled=progress) as bar:
        while busy:
            ready, _ = ray.wait(list(busy), num_returns=1)
            worker = busy.pop(ready[0])
            block = ray.get(ready[0])
            if waiting:
                busy[worker.make.remote(waiting.pop(0))] = worker
            bar.advance(steps * len(meta.block_runs(block)))
