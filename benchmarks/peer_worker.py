"""Runs somebody else's PPO or model when asked to, in an interpreter of theirs, without gla.

Started by path (`PYTHON -I peer_worker.py`), so that the interpreter needs the peer's packages and
nothing of ours: this file imports the standard library and the peers, never gla. The parent side is
`gla.benchmarks.workers`. The protocol is one JSON object a line. The first line on standard input
holds the settings; the answer is `{"ready": true, "packages": {...}}`, or `{"missing": "..."}`
where something is not installed. Every further line `{"seed": n}` is one training, answered by
`{"wall": seconds, "cpu": seconds, "steps": n}`, CPU time over all threads of this process. The
worker ends when its standard input does, whatever it is doing.

Settings: `program` (a key of `PROGRAMS`), `task` (a key of `TASKS`), `updates`, `num_envs`,
`num_steps`, `epochs`, `minibatches`, `hidden`, `learning_rate`, `gamma`, `gae_lambda`, `clip`,
`entropy_coefficient`, `value_coefficient`, `max_grad_norm`, and `checkout` (purejaxrl's folder).
`pytorch` has others, which are in `peer_models.py`; its work is counted in tokens.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import json
import os
import queue
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Settings = dict[str, Any]

# Ids of gymnax and Gymnasium, or Brax names.
TASKS = {
    "cartpole": "CartPole-v1",
    "pendulum": "Pendulum-v1",
    "reacher": "brax/reacher",
    "ant": "brax/ant",
}
BACKEND = "spring"
"""Brax's physics, for everyone."""

PACKAGES = {
    "rejax": ("rejax", "gymnax", "brax", "flax", "jax"),
    "purejaxrl": ("gymnax", "brax", "flax", "jax"),
    "stable-baselines3": ("stable-baselines3", "gymnasium", "torch"),
    "bare physics": ("brax", "jax"),
    "pytorch": ("torch",),
}
"""Whose versions each program tells."""


class Training(NamedTuple):
    """One program of a worker.

    Attributes:
        train: trains once from a seed, or does whatever else is timed, waits until all is done, and
            returns the environment steps made, or other units of work; its first call compiles.
        tidy: called after each training, when the clocks have stopped.
    """

    train: Callable[[int], int]
    tidy: Callable[[], None] = lambda: None


def steps_of(settings: Settings) -> int:
    """Return the environment steps of one training with these settings."""
    return settings["updates"] * settings["num_steps"] * settings["num_envs"]


def rejax(settings: Settings) -> Training:
    """Make rejax's PPO: normalises observations and rewards, and is not evaluated on the way."""
    import jax
    from rejax import PPO

    task = TASKS[settings["task"]]
    algorithm = PPO.create(
        env=task,
        env_params={"backend": BACKEND} if task.startswith("brax/") else {},
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": [settings["hidden"]] * 2},
        num_envs=settings["num_envs"],
        num_steps=settings["num_steps"],
        num_epochs=settings["epochs"],
        num_minibatches=settings["minibatches"],
        learning_rate=settings["learning_rate"],
        gamma=settings["gamma"],
        gae_lambda=settings["gae_lambda"],
        clip_eps=settings["clip"],
        ent_coef=settings["entropy_coefficient"],
        vf_coef=settings["value_coefficient"],
        max_grad_norm=settings["max_grad_norm"],
        normalize_observations=True,
        normalize_rewards=True,
        total_timesteps=steps_of(settings),
        eval_freq=steps_of(settings),
        skip_initial_evaluation=True,
    )
    algorithm = algorithm.replace(eval_callback=lambda *_: ())
    run = jax.jit(lambda key: algorithm.train(key)[0])

    def train(seed: int) -> int:
        state = jax.block_until_ready(run(jax.random.PRNGKey(seed)))
        return int(state.global_step)

    return Training(train)


def purejaxrl(settings: Settings) -> Training:
    """Make purejaxrl's PPO from a checkout, as it stands but for three names of its own module.

    The continuous PPO is written for Brax on the positional backend with layers of 256; those names
    are bound to the same network with `hidden` units, to the spring backend, and for Pendulum to
    gymnax. It normalises observations and rewards; the discrete PPO offers neither.

    Raises:
        ModuleNotFoundError: if the checkout is not there, or lacks something that it imports.
    """
    folder = Path(settings["checkout"]) / "purejaxrl"
    if not (folder / "ppo.py").is_file():
        raise ModuleNotFoundError(f"no purejaxrl/ppo.py in {settings['checkout']}")
    import jax

    sys.path.insert(0, str(folder))
    # Its wrappers import navix for an environment that is not used here.
    sys.modules.setdefault("navix", types.ModuleType("navix"))
    task, continuous = TASKS[settings["task"]], settings["task"] != "cartpole"
    module = importlib.import_module("ppo_continuous_action" if continuous else "ppo")
    vars(module)["ActorCritic"] = _networks(settings["hidden"], continuous)
    if task.startswith("brax/"):
        made = functools.partial(vars(module)["BraxGymnaxWrapper"], backend=BACKEND)
        vars(module)["BraxGymnaxWrapper"] = made
    elif continuous:
        vars(module)["BraxGymnaxWrapper"] = _unit_torque
    run = jax.jit(
        module.make_train(
            {
                "ENV_NAME": task.removeprefix("brax/"),
                "TOTAL_TIMESTEPS": steps_of(settings),
                "NUM_ENVS": settings["num_envs"],
                "NUM_STEPS": settings["num_steps"],
                "UPDATE_EPOCHS": settings["epochs"],
                "NUM_MINIBATCHES": settings["minibatches"],
                "LR": settings["learning_rate"],
                "GAMMA": settings["gamma"],
                "GAE_LAMBDA": settings["gae_lambda"],
                "CLIP_EPS": settings["clip"],
                "ENT_COEF": settings["entropy_coefficient"],
                "VF_COEF": settings["value_coefficient"],
                "MAX_GRAD_NORM": settings["max_grad_norm"],
                "ACTIVATION": "tanh",
                "ANNEAL_LR": False,
                "NORMALIZE_ENV": True,
                "DEBUG": False,
            }
        )
    )

    def train(seed: int) -> int:
        metrics = jax.block_until_ready(run(jax.random.PRNGKey(seed)))["metrics"]
        return int(metrics["timestep"].size)

    return Training(train)


def _networks(hidden: int, continuous: bool) -> Any:
    """Return a class to stand in for purejaxrl's networks: two tanh layers each, separate."""
    import distrax
    import jax.numpy as jnp
    from flax import linen

    def mlp(x, outputs: int, scale: float):
        for _ in range(2):
            x = jnp.tanh(linen.Dense(hidden, kernel_init=linen.initializers.orthogonal(2**0.5))(x))
        return linen.Dense(outputs, kernel_init=linen.initializers.orthogonal(scale))(x)

    class Networks(linen.Module):
        action_dim: int
        activation: str = "tanh"

        @linen.compact
        def __call__(self, x):
            actor, value = mlp(x, self.action_dim, 0.01), mlp(x, 1, 1.0)[..., 0]
            if not continuous:
                return distrax.Categorical(logits=actor), value
            log_std = self.param("log_std", linen.initializers.zeros, (self.action_dim,))
            return distrax.MultivariateNormalDiag(actor, jnp.exp(log_std)), value

    return Networks


def _unit_torque(name: str) -> Any:
    """Return gymnax's Pendulum with actions in [-1, 1], where purejaxrl clips them."""
    import gymnax

    env, params = gymnax.make(name)

    def step(key, state, action, _=None):
        return env.step(key, state, action * params.max_torque, params)

    return types.SimpleNamespace(
        reset=lambda key, _=None: env.reset(key, params),
        step=step,
        observation_space=lambda _=None: env.observation_space(params),
        action_space=lambda _=None: env.action_space(params),
    )


def stable_baselines3(settings: Settings) -> Training:
    """Make Stable-Baselines3's PPO on the CPU; `VecNormalize` normalises as the others do."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    layers = [settings["hidden"]] * 2
    envs, steps = settings["num_envs"], settings["num_steps"]

    def train(seed: int) -> int:
        world = make_vec_env(TASKS[settings["task"]], n_envs=envs, seed=seed)
        model = PPO(
            "MlpPolicy",
            VecNormalize(world, gamma=settings["gamma"]),
            n_steps=steps,
            batch_size=envs * steps // settings["minibatches"],
            n_epochs=settings["epochs"],
            learning_rate=settings["learning_rate"],
            gamma=settings["gamma"],
            gae_lambda=settings["gae_lambda"],
            clip_range=settings["clip"],
            clip_range_vf=settings["clip"],
            ent_coef=settings["entropy_coefficient"],
            vf_coef=settings["value_coefficient"],
            max_grad_norm=settings["max_grad_norm"],
            policy_kwargs={
                "net_arch": {"pi": layers, "vf": layers},
                "activation_fn": torch.nn.Tanh,
            },
            device="cpu",
            seed=seed,
        )
        model.learn(steps_of(settings))
        world.close()
        return int(model.num_timesteps)

    return Training(train)


def physics(settings: Settings) -> Training:
    """Make Brax alone: random actions, Brax's own autoreset and time limit, no learning."""
    import jax
    from brax import envs

    m, n = settings["num_envs"], steps_of(settings) // settings["num_envs"]
    world = envs.create(
        TASKS[settings["task"]].removeprefix("brax/"), batch_size=m, backend=BACKEND
    )

    def body(carry, key):
        state, total = carry
        action = jax.random.uniform(key, (m, world.action_size), minval=-1.0, maxval=1.0)
        state = world.step(state, action)
        return (state, total + state.reward + state.obs.sum(-1)), None

    @jax.jit
    def run(key):
        start_key, scan_key = jax.random.split(key)
        state = world.reset(start_key)  # splits the key for its batch
        return jax.lax.scan(body, (state, 0.0 * state.reward), jax.random.split(scan_key, n))[0][1]

    def train(seed: int) -> int:
        return n * jax.block_until_ready(run(jax.random.PRNGKey(seed))).size

    return Training(train)


def pytorch(settings: Settings) -> Training:
    """Make a program of `peer_models.py`, which lies beside this file."""
    # An isolated interpreter does not look there by itself, and should not.
    path = Path(__file__).with_name("peer_models.py")
    spec = importlib.util.spec_from_file_location("peer_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Training(module.JOBS[settings["job"]](settings))


PROGRAMS: dict[str, Callable[[Settings], Training]] = {
    "rejax": rejax,
    "purejaxrl": purejaxrl,
    "stable-baselines3": stable_baselines3,
    "bare physics": physics,
    "pytorch": pytorch,
}


def versions(names: Sequence[str]) -> dict[str, str]:
    """Return {name: version} of the packages that are installed here."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def serve(
    programs: Mapping[str, Callable[[Settings], Training]],
    packages: Mapping[str, Sequence[str]],
):
    """Answer requests on standard input until it ends; anything else that is printed goes astray.

    Args:
        programs: how to make each program from the settings.
        packages: whose versions each of them tells.
    """
    # Whatever libraries print goes to standard error, so that only answers reach the parent.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen():
        for line in sys.stdin:
            requests.put(line)
        os._exit(0)  # the parent is gone or wants no more, even in the middle of a compilation

    threading.Thread(target=listen, daemon=True).start()
    settings = json.loads(requests.get())
    try:
        program = programs[settings["program"]](settings)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=answers)
        return
    found = versions(packages[settings["program"]])
    print(json.dumps({"ready": True, "packages": found}), file=answers)
    while True:
        seed = json.loads(requests.get())["seed"]
        wall, cpu = time.perf_counter(), time.process_time()
        steps = program.train(seed)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        program.tidy()
        print(json.dumps({"wall": wall, "cpu": cpu, "steps": steps}), file=answers)


if __name__ == "__main__":
    serve(PROGRAMS, PACKAGES)
