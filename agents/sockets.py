"""Agents in other processes, in any language: the benchmark's side of the socket.

Messages are JSON, one a line, over TCP; docs/agents.md has the protocol. The agent listens, and
the benchmark opens one connection for every batch of lifetimes. `gla.agents.socket_agent` is the
other side for authors who write Python.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import gymnasium
import jax
import numpy as np

from gla.agents.base import View, seeds_of
from gla.envs.base import is_discrete
from gla.envs.checks import as_array
from gla.errors import GlaError
from gla.projection import ProjectionConfig

PROTOCOL = 1
PATIENCE = 60.0  # seconds for each answer
MOST_BYTES = 2**26  # of one message
MOST_NAME = 80  # letters

_START = "start it first, as in: python -m gla.agents.socket_agent --port 5555"


class Connection:
    """One conversation with an agent.

    Args:
        host: name or address.
        port: TCP port.
        patience: seconds for connecting and for each answer.

    Raises:
        GlaError: if nobody listens.
    """

    def __init__(self, host: str, port: int, patience: float):
        self.patience, self._rest = patience, bytearray()
        shown = f"[{host}]" if ":" in host else host
        self.who = f"the agent at tcp://{shown}:{port}"
        try:
            self._socket = socket.create_connection((host, port), timeout=patience)
        except (OSError, UnicodeError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise GlaError(
                f"no agent answers at tcp://{shown}:{port} ({said})", "one that listens", _START
            ) from None
        # An answer waits for every message, so none may wait for the next.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, message: dict[str, Any], expected: str) -> dict[str, Any]:
        """Send a message and return the answer.

        Args:
            message: with a `type`.
            expected: the `type` of the answer.

        Raises:
            GlaError: if no such answer comes, or the agent tells of an error.
        """
        try:
            line = self._exchange(message)
        except TimeoutError:
            raise GlaError(
                f"{self.who} gave no answer to {message['type']!r} within {self.patience:g} "
                "seconds",
                "an answer in time",
                "if it only needs longer, ask with more patience: tcp://HOST:PORT?patience=600",
            ) from None
        except OSError as error:
            said = error.strerror or str(error) or type(error).__name__
            raise GlaError(
                f"{self.who} broke off, asked for {message['type']!r} ({said})",
                "an agent that goes on until it is told to close",
                "see what it printed",
            ) from None
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise GlaError(
                f"{self.who} answered {_excerpt(line)} to {message['type']!r}",
                "one JSON object a line",
                "check that it is an agent that listens there",
            )
        if "error" in answer:
            raise GlaError(f"{self.who} failed: {_one_line(answer['error'])}")
        if answer.get("type") != expected:
            raise GlaError(
                f"{self.who} answered {_excerpt(line)} to {message['type']!r}",
                f"a message of type {expected!r}",
            )
        return answer

    def close(self) -> None:
        """Say goodbye, if that is still possible."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(1.0)
            self._socket.sendall(b'{"type": "close"}\n')
        self._socket.close()

    def _exchange(self, message: dict[str, Any]) -> bytes:
        until = time.monotonic() + self.patience
        self._socket.settimeout(self.patience)
        self._socket.sendall(json.dumps(message, allow_nan=False).encode() + b"\n")
        while True:
            end = self._rest.find(b"\n")
            if end >= 0:
                line = bytes(self._rest[:end])
                del self._rest[: end + 1]
                return line
            if len(self._rest) > MOST_BYTES:
                return bytes(self._rest[:100])
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            part = self._socket.recv(2**16)
            if not part:
                raise ConnectionResetError("it closed the connection")
            self._rest += part


class SocketState(NamedTuple):
    """One batch of lifetimes.

    Attributes:
        connection: to the agent that lives them.
        num_envs: lifetimes.
        action_space: of one of them.
    """

    connection: Connection
    num_envs: int
    action_space: gymnasium.Space


class SocketAgent:
    """An agent behind a socket; it says its name and its view when first connected to.

    Args:
        address: `tcp://HOST:PORT`, with `?patience=SECONDS` if an answer may take longer than
            `PATIENCE`.

    Raises:
        GlaError: if the address is none, or nobody there speaks the protocol.
    """

    jittable = False

    def __init__(self, address: str):
        self._host, self._port, self._patience = parse_address(address)
        connection, self.name, self.view = self._connect()
        connection.close()

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> SocketState:
        """Open a connection and begin `num_envs` lifetimes on it.

        Raises:
            GlaError: if the agent is gone or does not want to.
        """
        connection, name, view = self._connect()
        try:
            if (name, view) != (self.name, self.view):
                raise GlaError(
                    f"{connection.who} was {self.name!r} with the view {self.view} and is now "
                    f"{name!r} with the view {view}",
                    "the same agent for all lifetimes",
                )
            message = {
                "type": "init",
                "num_envs": num_envs,
                "observation_space": describe_space(observation_space),
                "action_space": describe_space(action_space),
                "seeds": seeds_of(keys),
            }
            connection.ask(message, "started")
        except BaseException:
            connection.close()
            raise
        return SocketState(connection, num_envs, action_space)

    def act(
        self,
        state: SocketState,
        observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        keys: jax.Array,
    ) -> tuple[SocketState, Any]:
        """Ask for actions: f32[num_envs, k] or integers [num_envs].

        Raises:
            GlaError: if the agent gives none that fit, in time. The connection is closed then.
        """
        del keys
        message = {
            "type": "act",
            "observation": np.asarray(observation).tolist(),
            "reward": np.asarray(reward).tolist(),
            "terminated": np.asarray(terminated).tolist(),
            "truncated": np.asarray(truncated).tolist(),
        }
        try:
            given = state.connection.ask(message, "action").get("action")
            who = f"{state.connection.who} answered with"
            return state, read_action(who, given, state.num_envs, state.action_space)
        except BaseException:
            self.close(state)
            raise

    def close(self, state: SocketState) -> None:
        """Tell the agent that the lifetimes are over; harmless if that is done."""
        state.connection.close()

    def _connect(self) -> tuple[Connection, str, View | None]:
        connection = Connection(self._host, self._port, self._patience)
        try:
            answer = connection.ask({"type": "hello", "protocol": PROTOCOL}, "ready")
            if answer.get("protocol") != PROTOCOL:
                raise GlaError(
                    f"{connection.who} speaks version {answer.get('protocol')} of the protocol",
                    f"version {PROTOCOL}",
                    "see docs/agents.md",
                )
            name = answer.get("name")
            if not (isinstance(name, str) and name.isprintable() and 1 <= len(name) <= MOST_NAME):
                raise GlaError(
                    f"{connection.who} is named {_excerpt(repr(name))}",
                    f"1 to {MOST_NAME} letters in 'name'",
                )
            return connection, name, read_view(connection.who, answer.get("view"))
        except BaseException:
            connection.close()
            raise


def parse_address(address: str) -> tuple[str, int, float]:
    """Return the host, the port and the patience in seconds of `tcp://HOST:PORT?patience=60`.

    Raises:
        GlaError: if it is no such address.
    """
    try:
        parts = urlsplit(address)
        settings = dict(parse_qsl(parts.query, keep_blank_values=True))
        patience = float(settings.pop("patience", PATIENCE))
        right = parts.scheme == "tcp" and parts.hostname and parts.port and not settings
        if not right or parts.path.strip("/") or parts.fragment or not 0 < patience < 1e6:
            raise ValueError
    except ValueError:
        raise GlaError(
            f"the agent's address is {address!r}",
            "tcp://HOST:PORT or tcp://HOST:PORT?patience=SECONDS",
        ) from None
    return str(parts.hostname), int(parts.port or 0), patience


def describe_space(space: gymnasium.Space) -> dict[str, Any]:
    """Return a space as the protocol writes it, `None` for what has no bound.

    Args:
        space: a Box of shape [n], or Discrete.
    """
    if is_discrete(space):
        return {"discrete": int(space.n)}  # type: ignore[attr-defined]

    def bounds(values: np.ndarray) -> list[float | None]:
        return [x if np.isfinite(x) else None for x in values.tolist()]

    return {"box": {"low": bounds(space.low), "high": bounds(space.high)}}  # type: ignore[attr-defined]


def read_view(who: str, wish: Any) -> View | None:
    """Return the view that an agent asks for.

    Args:
        who: the agent, for messages.
        wish: None for raw tasks, or {"observation_dim": n, "action_dim": m}.

    Raises:
        GlaError: if it is neither.
    """
    if wish is None:
        return None
    names = ("observation_dim", "action_dim")
    sizes = [wish.get(name) for name in names] if isinstance(wish, dict) else [None]
    if not all(type(size) is int and size >= 1 for size in sizes) or set(wish) != set(names):
        raise GlaError(
            f"{who} asks for the view {_excerpt(repr(wish))}",
            'null, or {"observation_dim": 24, "action_dim": 6}',
        )
    return View(ProjectionConfig(*sizes))


def read_action(who: str, given: Any, num_envs: int, space: gymnasium.Space) -> np.ndarray:
    """Return actions as an array: f32[num_envs, k], or i32[num_envs] for a Discrete space.

    Args:
        who: the beginning of messages.
        given: what it answered.
        num_envs: lifetimes.
        space: of one action.

    Raises:
        GlaError: if shape, type or a number is wrong.
    """
    array, discrete = as_array(given), is_discrete(space)
    wanted = (num_envs, *(space.shape or ()))
    numbers = "whole numbers" if discrete else "numbers"
    if array is None:
        raise GlaError(f"{who} {_excerpt(json.dumps(given))}", f"{numbers} of shape {wanted}")
    if array.shape != wanted:
        raise GlaError(f"{who} actions of shape {array.shape}", f"{numbers} of shape {wanted}")
    if discrete:
        choices = int(space.n)  # type: ignore[attr-defined]
        whole = np.issubdtype(array.dtype, np.integer)
        if not whole or array.min() < 0 or array.max() >= choices:
            raise GlaError(
                f"{who} the actions {_excerpt(json.dumps(given))}",
                f"whole numbers from 0 to {choices - 1}",
            )
        return array.astype(np.int32)
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    broken = np.argwhere(~np.isfinite(array))
    if len(broken):
        row = int(broken[0, 0])
        raise GlaError(
            f"{who} an action that is {array[tuple(broken[0])]} in lifetime {row}", "finite numbers"
        )
    return array


def _one_line(said: Any) -> str:
    return " ".join(str(said).split())[:300]


def _excerpt(said: bytes | str) -> str:
    """Return the beginning of something as it can be printed."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    short = text if len(text) <= 80 else text[:80] + "..."
    return repr(short) if isinstance(said, bytes) else short
