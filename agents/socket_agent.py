"""Serve an agent to the benchmark over a socket, from any process and any Python from 3.8 on.

This file needs nothing but the standard library: copy it next to your agent, or import it.

    from socket_agent import serve

    class Still:
        def __init__(self, num_envs, observation_space, action_space, seeds):
            self.action = [[0.0] * len(action_space["box"]["low"])] * num_envs

        def act(self, observation, reward, terminated, truncated):
            return self.action

    serve(Still, port=5555)

Then `gla meta-test results.json --agent tcp://127.0.0.1:5555` on the benchmark's side. The
protocol is JSON, one message a line; it is written down in docs/agents.md, for other languages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import socketserver
import sys
import traceback
from collections.abc import Callable
from typing import Any

PROTOCOL = 1
MOST_BYTES = 2**26  # of one message


def serve(
    make_agent: Callable[..., Any],
    port: int,
    host: str = "127.0.0.1",
    name: str | None = None,
    view: dict[str, int] | None = None,
) -> None:
    """Serve an agent until the process is stopped.

    There is no password and no encryption: whoever reaches the port can use the agent. Stay on
    127.0.0.1, and tunnel (`ssh -R`) to a benchmark on another machine.

    Args:
        make_agent: called as `make_agent(num_envs, observation_space, action_space, seeds)` for
            every batch of lifetimes, several of which may be under way at once, each in a thread
            of its own. The spaces are dictionaries as in the protocol, {"box": {"low": [...],
            "high": [...]}} (None: unbounded) or {"discrete": n}; `seeds` has a whole number per
            lifetime. It returns an object with

                act(observation, reward, terminated, truncated) -> actions

            whose arguments have a row per lifetime, as lists: observations (lists of floats),
            rewards (floats) and ends (bools) of the step before, after which `observation` is the
            first one of the new episode. The actions are a list of lists of floats, or of whole
            numbers; arrays with a method `tolist` will do. A method `close()` is called at the end
            if there is one.
        port: TCP port; 0 takes a free one.
        host: address to listen at.
        name: for tables; default: the name of `make_agent`.
        view: None for raw tasks, or a fixed agent space, {"observation_dim": 24, "action_dim": 6},
            into which every task is normalised and projected.
    """
    with AgentServer(make_agent, port, host, name, view) as server:
        print(f"{server.name} listens at {server.address}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


class AgentServer(socketserver.ThreadingTCPServer):
    """What `serve` runs; arguments as there.

    Attributes:
        name: of the agent.
        address: for the benchmark, such as tcp://127.0.0.1:5555.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self,
        make_agent: Callable[..., Any],
        port: int,
        host: str = "127.0.0.1",
        name: str | None = None,
        view: dict[str, int] | None = None,
    ):
        self.make_agent, self.view = make_agent, view
        self.name = name or getattr(make_agent, "__name__", type(make_agent).__name__)
        shown = f"[{host}]" if ":" in host else host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Connection)
        self.address = f"tcp://{shown}:{self.server_address[1]}"


class _Refused(Exception):
    """A message that the protocol does not know."""


class _Connection(socketserver.StreamRequestHandler):
    """One connection: one batch of lifetimes."""

    disable_nagle_algorithm = True
    server: AgentServer
    agent: Any = None

    def handle(self) -> None:
        """Answer until the other side closes."""
        try:
            while True:
                line = self.rfile.readline(MOST_BYTES)
                if len(line) == MOST_BYTES:
                    self.send({"error": f"a message is longer than {MOST_BYTES} bytes"})
                    return
                if not line.endswith(b"\n"):
                    return  # the other side closed, perhaps in the middle of a line
                try:
                    answer = self.answer(json.loads(line.decode("utf-8")))
                except _Refused as error:
                    self.send({"error": str(error)})
                    return
                except Exception as error:  # the agent's own, which the benchmark's user has to see
                    traceback.print_exc()
                    self.send({"error": f"{type(error).__name__}: {error}"})
                    return
                if answer is None:
                    return
                self.send(answer)
        except OSError:
            return  # the other side is gone
        finally:
            if hasattr(self.agent, "close"):
                self.agent.close()

    def answer(self, message: Any) -> dict[str, Any] | None:
        """Return the answer to one message, None if the conversation is over."""
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "hello":
            if message.get("protocol") != PROTOCOL:
                raise _Refused(
                    f"this agent speaks version {PROTOCOL} of the protocol, "
                    f"not {message.get('protocol')}"
                )
            name, view = self.server.name, self.server.view
            return {"type": "ready", "protocol": PROTOCOL, "name": name, "view": view}
        if kind == "init":
            self.agent = self.server.make_agent(
                message["num_envs"],
                message["observation_space"],
                message["action_space"],
                message["seeds"],
            )
            return {"type": "started"}
        if kind == "act":
            if self.agent is None:
                raise _Refused("act came before init")
            action = self.agent.act(
                message["observation"],
                message["reward"],
                message["terminated"],
                message["truncated"],
            )
            return {"type": "action", "action": action}
        if kind == "close":
            return None
        raise _Refused(f"the protocol knows no message {kind!r}")

    def send(self, message: dict[str, Any]) -> None:
        """Send one message; one that is not JSON is an error of the agent."""
        try:
            text = json.dumps(message, default=_plain, allow_nan=False)
        except (TypeError, ValueError) as error:
            text = json.dumps({"error": f"the agent's action cannot be sent: {error}"})
        self.wfile.write(text.encode("utf-8") + b"\n")


def _plain(value: Any) -> Any:
    """Return arrays and their numbers as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no list of numbers")


class HillClimber:
    """An example: keeps the constant action of the best episode so far, and tries near it."""

    def __init__(self, num_envs, observation_space, action_space, seeds):
        self.climbers = [_Climber(action_space, seed) for seed in seeds]

    def act(self, observation, reward, terminated, truncated):
        """Return an action for every lifetime."""
        rows = zip(self.climbers, reward, terminated, truncated)  # noqa: B905 (needs Python 3.10)
        return [climber.act(gain, ended or cut) for climber, gain, ended, cut in rows]


class _Climber:
    """One lifetime."""

    def __init__(self, action_space, seed):
        self.random = random.Random(seed)
        self.choices = action_space.get("discrete")
        size = len(action_space["box"]["low"]) if self.choices is None else 0
        self.best: Any = [0.0] * size
        self.best_return, self.total = float("-inf"), 0.0
        self.trial = self.best if self.choices is None else self.random.randrange(self.choices)

    def act(self, reward, ended):
        self.total += reward
        if ended:
            if self.total > self.best_return:
                self.best, self.best_return = self.trial, self.total
            self.trial, self.total = self.near(self.best), 0.0
        return self.trial

    def near(self, action):
        if self.choices is None:
            moved = [x + self.random.gauss(0.0, 0.3) for x in action]
            return [min(1.0, max(-1.0, x)) for x in moved]
        explore = self.random.random() < 0.2
        return self.random.randrange(self.choices) if explore else action


def main(arguments: list[str] | None = None) -> None:
    """Serve the example."""
    parser = argparse.ArgumentParser(description="Serve an example agent, a hill climber.")
    parser.add_argument("--port", type=int, default=5555, help="TCP port; 0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    options = parser.parse_args(arguments)
    try:
        serve(HillClimber, options.port, options.host, name="hill climber")
    except (OSError, OverflowError) as error:
        sys.exit(f"cannot listen at {options.host}:{options.port}: {error}")


if __name__ == "__main__":
    main()
