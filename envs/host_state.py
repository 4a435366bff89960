"""Saving host environments in the middle of an episode, and going on from there to the bit.

What a sub-environment keeps is read as plain arrays: MuJoCo's state, everything that it derived
from it (rewards may read positions of before the last substep), the model's numbers (tasks move
targets in it), random generators, and the numbers that the Python objects around it keep, such as
elapsed steps. The arrays of a class of environment always have the same shapes, and nothing is
pickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from gla.envs.host import HostEnv
from gla.errors import GlaError

# Tables of a model that tasks may change; meshes and textures, which are large, are not among them.
_MODEL_TABLES = tuple(
    f"{kind}_"
    for kind in ("body", "jnt", "dof", "geom", "site", "light", "wrap", "tendon", "actuator", "mat")
)
_LOW = (1 << 64) - 1


def check_fits(
    name: str, state: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> None:
    """Raise if a saved state has other parts or shapes than an environment's own.

    Raises:
        GlaError: naming the first part that does not fit.
    """
    for part in sorted({*state, *expected}):
        given, own = (np.shape(d[part]) if part in d else None for d in (state, expected))
        if given != own:
            raise GlaError(
                f"{name} was given a saved state whose {part!r} has shape {given}",
                f"{own}, as its own state has",
                "restore into an environment made with the same settings",
            )


class Snapshot:
    """Reads and writes all that one host environment keeps.

    Args:
        env: a `HostEnv` of Gymnasium's MuJoCo or of DeepMind Control.

    Raises:
        NotImplementedError: if it is another environment, or keeps what no array can hold.
    """

    def __init__(self, env: gymnasium.Env):
        if not isinstance(env, HostEnv):
            raise NotImplementedError(f"the state of a {type(env).__name__} cannot be saved")
        self._env = env
        base: Any = env.simulator.unwrapped
        self._base, self._control = base, None
        if hasattr(base, "do_simulation"):
            self._model, self._data = base.model, base.data
        elif hasattr(getattr(base, "_env", None), "physics"):
            self._control = base._env
            physics = self._control.physics
            self._model, self._data = physics.model.ptr, physics.data.ptr
        else:
            raise NotImplementedError(f"the state of {env.name} cannot be saved")
        self._generator()
        self._tables = _tables(self._model)
        self._derived = _derived(self._data)

    def read(self) -> dict[str, np.ndarray]:
        """Return the state of an environment that was reset.

        Returns:
            `physics` f64[a], `derived` u8[b], `model` u8[c], `random` u64[d] and `numbers` f64[e].
        """
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(self._model, kind))
        mujoco.mj_getState(self._model, self._data, physics, kind)
        return {
            "physics": physics,
            "derived": _to_bytes(self._derived),
            "model": _to_bytes(self._tables),
            "random": random_words(self._generator()),
            "numbers": np.concatenate([np.ravel(v).astype(float) for *_, v in self._numbers()]),
        }

    def write(self, state: dict[str, np.ndarray]) -> None:
        """Go to a state that `read` returned; the environment must have been reset before."""
        import mujoco

        at = 0
        for owner, name, value in self._numbers():
            size = np.size(value)
            part, at = state["numbers"][at : at + size], at + size
            if isinstance(value, np.ndarray):
                value[...] = part.reshape(value.shape)
            else:
                setattr(owner, name, type(value)(part[0]))
        set_random_words(self._generator(), state["random"])
        _from_bytes(state["model"], self._tables)
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(self._model, self._data, state["physics"], kind)
        # Contacts and constraints, which DeepMind Control's next step takes as they are, follow
        # from positions and velocities.
        mujoco.mj_step1(self._model, self._data)
        _from_bytes(state["derived"], self._derived)

    def _generator(self) -> Any:
        """Return the generator that draws starts and targets."""
        generator = self._base.np_random
        if _mersenne(generator) or type(generator.bit_generator) is np.random.PCG64:
            return generator
        raise NotImplementedError(
            f"the state of {self._env.name} cannot be saved: its random generator is "
            f"{type(generator).__name__}"
        )

    def _numbers(self) -> Iterator[tuple[Any, str, Any]]:
        """Yield (object, name, value) of the numbers that the objects around MuJoCo keep."""
        owners: list[Any] = [self._env]
        wrapper = self._env.simulator
        while isinstance(wrapper, gymnasium.Wrapper):
            owners.append(wrapper)
            wrapper = wrapper.env
        owners.append(self._base)
        if self._control is not None:
            owners += [self._control, self._control.task]
        for owner in owners:
            for name, value in sorted(vars(owner).items()):
                # The seed, which may be a number of 128 bits, is told and not used again.
                if name != "_np_random_seed" and _is_number(value):
                    yield owner, name, value


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf" and value.flags.writeable
    return isinstance(value, (bool, int, float, np.number, np.bool_))


def _tables(model: Any) -> list[np.ndarray]:
    """Return the floating-point tables of a model that tasks may change."""
    names = [name for name in dir(model) if name.startswith(_MODEL_TABLES)]
    found = [getattr(model, name) for name in names]
    return [each for each in found if isinstance(each, np.ndarray) and each.dtype.kind == "f"]


def _derived(data: Any) -> list[np.ndarray]:
    """Return all arrays in the buffer of MuJoCo's data, which have their places for good.

    The others are in its arena, where each is made anew in every step, in another place.
    """
    first = data.qpos.ctypes.data
    found = []
    for name in dir(data):
        value = None if name.startswith("_") else getattr(data, name)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "biuf":
            begin = value.ctypes.data
            if first <= begin and begin + value.nbytes <= first + data.nbuffer:
                found.append(value)
    return found


def _to_bytes(arrays: list[np.ndarray]) -> np.ndarray:
    return np.frombuffer(b"".join(each.tobytes() for each in arrays), np.uint8)


def _from_bytes(stored: np.ndarray, arrays: list[np.ndarray]) -> None:
    at = 0
    for each in arrays:
        part = stored[at : at + each.nbytes].tobytes()
        each[...] = np.frombuffer(part, each.dtype).reshape(each.shape)
        at += each.nbytes


def _mersenne(generator: Any) -> bool:
    return isinstance(generator, np.random.RandomState) and (
        generator.get_state(legacy=False)["bit_generator"] == "MT19937"
    )


def random_words(generator: Any) -> np.ndarray:
    """Return the state of a generator as u64: 6 words of a PCG64, 627 of a Mersenne twister."""
    if isinstance(generator, np.random.RandomState):
        state: Any = generator.get_state(legacy=False)
        gauss = int(np.float64(state["gauss"]).view(np.uint64))
        words = [*state["state"]["key"].tolist(), state["state"]["pos"], state["has_gauss"], gauss]
        return np.array(words, np.uint64)
    state = generator.bit_generator.state
    inner = state["state"]["state"], state["state"]["inc"]
    halves = [half for number in inner for half in (number >> 64, number & _LOW)]
    return np.array([*halves, state["has_uint32"], state["uinteger"]], np.uint64)


def set_random_words(generator: Any, words: np.ndarray) -> None:
    """Put a generator into a state that `random_words` returned."""
    numbers = [int(word) for word in words]
    if isinstance(generator, np.random.RandomState):
        *key, pos, has_gauss, gauss = numbers
        generator.set_state(
            {
                "bit_generator": "MT19937",
                "state": {"key": np.array(key, np.uint32), "pos": pos},
                "has_gauss": has_gauss,
                "gauss": float(np.uint64(gauss).view(np.float64)),
            }
        )
        return
    first, second, third, fourth, has_uint32, uinteger = numbers
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": first << 64 | second, "inc": third << 64 | fourth},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
