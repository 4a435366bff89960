"""Runs our PPO, recording everything on disk, or our models when asked to; see `peer_worker`.

Started as `PYTHON -m gla.benchmarks.own_worker`, a process like any peer's. PPO has one more
setting: `folder`, in which each training leaves a history store, removed when the clocks have
stopped. Those of the models are in `gla.benchmarks.own_models`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from gla.benchmarks.peer_worker import Settings, Training, serve

IDS = {
    "cartpole": "gla/CartPole-v0",
    "pendulum": "gla/Pendulum-v0",
    "reacher": "gla/BraxReacher-v0",
    "ant": "gla/BraxAnt-v0",
}
PACKAGES = ("gla", "gymnax", "brax", "jax")


def gla(settings: Settings) -> Training:
    """Make a collection of one run of which every parallel environment is recorded.

    It is the same run each time: its seed is part of the collection's settings.
    """
    from gla.agents.collect import CollectConfig, PPOMaker
    from gla.agents.ppo import PPOConfig
    from gla.histories import record

    names = (
        *("num_envs", "num_steps", "epochs", "minibatches", "hidden", "learning_rate", "gamma"),
        *("gae_lambda", "clip", "entropy_coefficient", "value_coefficient", "max_grad_norm"),
    )
    ppo = PPOConfig(num_updates=settings["updates"], **{name: settings[name] for name in names})
    config = CollectConfig(
        IDS[settings["task"]], runs=1, streams_per_run=ppo.num_envs, block=1, ppo=ppo
    )
    maker = PPOMaker(config)
    folder = Path(settings["folder"]) / "histories"

    def train(seed: int) -> int:
        del seed
        store = record(maker, folder, fresh=True, progress=False)
        meta = store.meta
        return len(store.complete_blocks()) * meta.updates * meta.steps * meta.streams_per_run

    return Training(train, lambda: shutil.rmtree(folder, ignore_errors=True))


def model(settings: Settings) -> Training:
    """Make a program of `own_models`."""
    from gla.benchmarks import own_models

    return own_models.JOBS[settings["job"]](settings)


if __name__ == "__main__":
    serve({"gla": gla, "model": model}, {"gla": PACKAGES, "model": ("gla", "flax", "jax")})
