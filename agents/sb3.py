"""Stable-Baselines3 as agents: its algorithms, learning online in every lifetime, and its models.

    sb3:PPO                              learns from scratch in every lifetime
    sb3:PPO?n_steps=256&batch_size=64    with settings of its own
    sb3:models/walker.zip                a saved model that acts and learns no more

Stable-Baselines3 and PyTorch are optional (`pip install 'gla[torch]'`) and imported only here.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from gla.agents.base import View
from gla.agents.loops import LoopAgent, LoopState
from gla.envs.base import is_discrete
from gla.errors import GlaError, near_matches

# The actions that each algorithm learns: (continuous, discrete).
ALGORITHMS = {
    "PPO": (True, True),
    "A2C": (True, True),
    "SAC": (True, False),
    "TD3": (True, False),
    "DQN": (False, True),
}

# Over how many steps of a lifetime the schedules of an algorithm run (DQN's exploration).
TOTAL_TIMESTEPS = 10_000

# Set here, so that lifetimes are alike on every machine.
_RESERVED = ("policy", "env", "seed", "device", "_init_setup_model")

_KINDS = ("continuous", "discrete")


def load(text: str) -> SB3Agent | SB3Model:
    """Return the agent of a spec, without its `sb3:`.

    Args:
        text: one of `ALGORITHMS`, with settings as `?name=value&name=value` (values in JSON, or
            words), or the path of a saved model.

    Raises:
        GlaError: if there is no such algorithm, setting or file, or Stable-Baselines3 is not
            installed.
    """
    if Path(text).is_file():
        return SB3Model(text)
    name, _, settings = text.partition("?")
    if name in ALGORITHMS:
        return SB3Agent(name, **_parse(settings))
    if name.endswith(".zip") or "/" in name:
        raise GlaError(f"there is no file {name!r}", "a model saved by Stable-Baselines3")
    raise GlaError(
        f"sb3 has no algorithm {name!r}{near_matches(name.upper(), ALGORITHMS)}",
        f"{', '.join(ALGORITHMS)} or the path of a saved model",
    )


class SB3Agent(LoopAgent):
    """An algorithm of Stable-Baselines3 that learns online, from scratch in every lifetime.

    It runs with Stable-Baselines3's `MlpPolicy` and defaults, on the CPU, in one thread. Defaults
    are made for millions of steps: PPO, for one, learns first after `n_steps` = 2,048 steps. Raw
    observations and rewards are not normalised.

    Args:
        algorithm: one of `ALGORITHMS`.
        total_timesteps: over how many steps of a lifetime schedules run (the share of random
            actions of DQN); what they arrive at stays. Lifetimes may be shorter or longer.
        **settings: arguments of the algorithm, such as `learning_rate`; lists become tuples.

    Raises:
        GlaError: if there is no such setting, or Stable-Baselines3 is not installed.
    """

    def __init__(self, algorithm: str, total_timesteps: int = TOTAL_TIMESTEPS, **settings: Any):
        make = getattr(_stable_baselines3(), algorithm)
        known = [name for name in inspect.signature(make).parameters if name not in _RESERVED]
        for name in settings:
            if name not in known:
                raise GlaError(
                    f"{algorithm} of Stable-Baselines3 has no setting {name!r} to choose"
                    + near_matches(name, known),
                    f"one of total_timesteps, {', '.join(known)}",
                )
        if isinstance(total_timesteps, bool) or not (
            isinstance(total_timesteps, int) and total_timesteps >= 1
        ):
            raise GlaError(f"total_timesteps is {total_timesteps!r}", "a whole number >= 1")
        self.algorithm = algorithm
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}

        def learn(env: gymnasium.Env, seed: int) -> None:
            import torch

            torch.set_num_threads(1)  # of this thread; sums of several have no fixed order
            model = make("MlpPolicy", env, seed=seed, device="cpu", **settings)
            model.learn(total_timesteps)
            while True:  # the lifetime goes on until env.step ends it
                model.learn(total_timesteps, reset_num_timesteps=False)

        shown = dict(settings)
        if total_timesteps != TOTAL_TIMESTEPS:
            shown["total_timesteps"] = total_timesteps
        words = ", ".join(f"{name}={value}" for name, value in shown.items())
        super().__init__(learn, f"SB3 {algorithm}" + (f" ({words})" if words else ""))

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> LoopState:
        """Return learners that have seen nothing.

        Raises:
            GlaError: if the algorithm does not learn such actions.
        """
        discrete = is_discrete(action_space)
        if not ALGORITHMS[self.algorithm][discrete]:
            fit = [name for name, kinds in ALGORITHMS.items() if kinds[discrete]]
            raise GlaError(
                f"{self.algorithm} of Stable-Baselines3 learns no {_KINDS[discrete]} actions",
                f"one of {', '.join(fit)} for this environment",
            )
        return super().init(keys, num_envs, observation_space, action_space)


class SB3Model:
    """A saved model of Stable-Baselines3 that acts deterministically and learns no more.

    Actions are rescaled from the bounds that the model was trained with to [-1, 1]. Observations
    are shown raw: statistics of `VecNormalize` are kept in another file, which is not read.

    Loading such a file runs code that it holds: load only files that you trust.

    Args:
        path: the file that `model.save` wrote.

    Raises:
        GlaError: if the file is no such model, or Stable-Baselines3 is not installed.
    """

    jittable = False
    view: View | None = None

    def __init__(self, path: str):
        package = _stable_baselines3()
        try:
            algorithm = _algorithm_of(path)
            self.model = getattr(package, algorithm).load(path, device="cpu")
        except GlaError:
            raise
        except Exception as error:  # a broken file can raise anything
            said = " ".join(str(error).split())[:200]
            raise GlaError(
                f"{path} cannot be loaded ({type(error).__name__}: {said})",
                "a model saved by Stable-Baselines3",
            ) from error
        self.name = f"SB3 {algorithm} ({Path(path).stem})"
        space = self.model.action_space
        if not isinstance(space, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
            raise GlaError(f"the model of {path} acts in {space}", "a Box or Discrete space")

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> None:
        """Return nothing: all lifetimes are alike to it.

        Raises:
            GlaError: if the model was trained for other observations or actions.
        """
        del keys, num_envs
        wanted = _sizes(observation_space, action_space)
        given = _sizes(self.model.observation_space, self.model.action_space)
        if wanted != given:
            words = "observations of shape {} and {} actions {}"
            raise GlaError(
                f"the model of {self.name!r} was trained for {words.format(*given)}",
                words.format(*wanted),
            )

    def act(
        self,
        state: None,
        observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        keys: jax.Array,
    ) -> tuple[None, Any]:
        """Return the likeliest actions: f32[num_envs, k] in [-1, 1], or integers [num_envs]."""
        del reward, terminated, truncated, keys
        seen = np.asarray(observation, np.float32)
        action, _ = self.model.predict(seen, deterministic=True)
        space = self.model.action_space
        if is_discrete(space):
            return state, action
        span = space.high - space.low
        return state, (2.0 * (action - space.low) / span - 1.0).astype(np.float32)


def _stable_baselines3() -> Any:
    try:
        import stable_baselines3
    except ImportError as error:
        raise GlaError(
            f"agents that begin with sb3: need Stable-Baselines3 and PyTorch ({error})",
            mend="pip install 'gla[torch]'",
        ) from None
    return stable_baselines3


def _parse(text: str) -> Mapping[str, Any]:
    """Read `name=value&name=value`, values in JSON or words."""
    found: dict[str, Any] = {}
    for word in text.split("&") if text else ():
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()):
            raise GlaError(
                f"the setting of sb3 is {word!r}", "name=value, such as n_steps=256&batch_size=64"
            )
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _algorithm_of(path: str) -> str:
    """Return which algorithm wrote a file; it is not named in it, its policy is."""
    from stable_baselines3.common.save_util import load_from_zip_file

    data, _, _ = load_from_zip_file(path, device="cpu")
    module = getattr((data or {}).get("policy_class"), "__module__", "")
    for name in ("SAC", "TD3", "DQN"):
        if module.startswith(f"stable_baselines3.{name.lower()}."):
            return name
    if module == "stable_baselines3.common.policies":
        return "PPO" if "n_epochs" in (data or {}) else "A2C"
    raise GlaError(
        f"{path} holds a policy of {module or 'no known kind'}",
        f"a model of {', '.join(ALGORITHMS)}",
        "wrap others as an agent of your own",
    )


def _sizes(observation: gymnasium.Space, action: gymnasium.Space) -> tuple[Any, str, Any]:
    discrete = is_discrete(action)
    return observation.shape, _KINDS[discrete], action.n if discrete else action.shape  # type: ignore[attr-defined]
