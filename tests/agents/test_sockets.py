"""Agents behind a socket: both sides, and everything that can go wrong between them."""

import ast
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import gymnasium
import jax
import numpy as np
import pytest

from gla import cli
from gla.agents import socket_agent, sockets
from gla.agents.base import View, seeds_of
from gla.agents.external import load_agent
from gla.agents.socket_agent import AgentServer, HillClimber
from gla.agents.sockets import parse_address
from gla.benchmarks import results
from gla.benchmarks.runner import MetaTestConfig, meta_test
from gla.errors import GlaError
from gla.projection import ProjectionConfig

BOX = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
FOUR = gymnasium.spaces.Discrete(4)
SEEN = gymnasium.spaces.Box(-np.inf, np.array([1.0, np.inf, 3.0], np.float32), (3,), np.float32)
READY = {"type": "ready", "protocol": 1, "name": "x", "view": None}
STARTED = {"type": "started"}


def keys_of(count):
    return jax.random.split(jax.random.key(0), count)


@contextlib.contextmanager
def serving(make_agent, **settings):
    """The agent's side, in this process."""
    with AgentServer(make_agent, 0, **settings) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.address
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def answering(*answers):
    """A server that answers the first messages of every connection with these, then hangs up.

    Bytes are sent as they are; a number is waited for, in seconds, instead of an answer.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def talk(connection):
            with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
                for answer in answers:
                    if not lines.readline():
                        return
                    if isinstance(answer, float):
                        time.sleep(answer)
                        continue
                    line = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                    connection.sendall(line + b"\n")

        def listen():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=talk, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def act(agent, state, rows=2, **given):
    nothing = np.zeros(rows, bool)
    shown = {"observation": np.zeros((rows, 3), np.float32), "reward": np.zeros(rows, np.float32)}
    shown |= {"terminated": nothing, "truncated": nothing, **given}
    return agent.act(state, *shown.values(), keys_of(rows))[1]


def once(address, space=BOX, rows=2):
    """One action of an agent."""
    agent = load_agent(address)
    state = agent.init(keys_of(rows), rows, SEEN, space)
    try:
        return act(agent, state, rows)
    finally:
        agent.close(state)


class Recorder:
    """Remembers what it is told, and acts by its seeds."""

    told, closed = [], 0

    def __init__(self, *given):
        self.seeds, self.space = given[3], given[2]
        self.told.append(given)

    def act(self, *given):
        self.told.append(given)
        if "discrete" in self.space:
            return [seed % self.space["discrete"] for seed in self.seeds]
        return np.array([[seed / 2**32, given[1][0]] for seed in self.seeds])

    def close(self):
        type(self).closed += 1


def test_the_agent_is_told_what_the_protocol_says(monkeypatch):
    monkeypatch.setattr(Recorder, "told", [])
    monkeypatch.setattr(Recorder, "closed", 0)
    with serving(Recorder) as address:
        agent = load_agent(address)
        assert (agent.name, agent.view, agent.jittable) == ("Recorder", None, False)
        state = agent.init(keys_of(2), 2, SEEN, BOX)
        third = np.float32(1) / 3
        shown = {"observation": np.full((2, 3), third), "reward": np.array([0.5, third])}
        shown |= {"terminated": np.array([True, False]), "truncated": np.array([False, True])}
        action = act(agent, state, **shown)
        agent.close(state)
        agent.close(state)
        other = once(address, FOUR, rows=1)
    seeds = seeds_of(keys_of(2))
    np.testing.assert_array_equal(action, np.float32([[s / 2**32, 0.5] for s in seeds]))
    assert action.dtype == np.float32
    np.testing.assert_array_equal(other, [seeds_of(keys_of(1))[0] % 4])
    begun, step, again, *_ = Recorder.told
    box = {"low": [None, None, None], "high": [1.0, None, 3.0]}
    assert begun == (2, {"box": box}, {"box": {"low": [-1, -1], "high": [1, 1]}}, seeds)
    # Float32 numbers arrive as they are.
    assert step == ([[float(third)] * 3] * 2, [0.5, float(third)], [True, False], [False, True])
    assert again[2] == {"discrete": 4}
    for _ in range(100):
        if Recorder.closed == 2:
            break
        time.sleep(0.02)
    assert Recorder.closed == 2


def test_a_view_is_asked_for_and_shown():
    class Sizes(Recorder):
        def act(self, observation, *rest):
            assert [len(row) for row in observation] == [24, 24]
            return [[0.1] * 6] * 2

    config = MetaTestConfig(lifetimes=2, steps=3, nulls=False, masked_twin=False)
    with serving(Sizes, name="sizes", view={"observation_dim": 24, "action_dim": 6}) as address:
        agent = load_agent(address)
        assert agent.view == View(ProjectionConfig(24, 6))
        tested = meta_test(agent, config, progress=False)
    assert tested.agents[0].name == "sizes"


def test_several_batches_at_a_time_are_kept_apart():
    with serving(Recorder) as address:
        agent = load_agent(address)
        keys = keys_of(4)
        states = [agent.init(keys[2 * i : 2 * i + 2], 2, SEEN, BOX) for i in range(2)]
        actions = [act(agent, states[i]) for i in (1, 0)]
        for state in states:
            agent.close(state)
    expected = np.float32([s / 2**32 for s in seeds_of(keys)])
    np.testing.assert_array_equal(np.concatenate(actions[::-1])[:, 0], expected)


def test_the_example_climbs():
    climbers = HillClimber(1, None, {"box": {"low": [-1.0] * 2, "high": [1.0] * 2}}, [3])
    action = None
    for t in range(1000):
        ends = t > 0 and t % 5 == 0
        reward = 0.0 if action is None else -abs(action[0] - 0.7) - abs(action[1] + 0.5)
        (action,) = climbers.act([[0.0]], [reward], [ends], [False])
    np.testing.assert_allclose(climbers.climbers[0].best, [0.7, -0.5], atol=0.15)
    pickers = HillClimber(1, None, {"discrete": 4}, [0])
    picks = []
    for t in range(400):
        reward = 0.0 if t == 0 else float(picks[-1] == 2)
        picks += pickers.act([[0.0]], [reward], [t > 0], [False])
    assert np.mean(np.array(picks[200:]) == 2) > 0.6


@pytest.fixture
def example():
    """The file alone, in a Python that sees no installed packages."""
    command = [sys.executable, "-I", "-S", socket_agent.__file__, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process, process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_example_serves_from_another_process(example, tmp_path):
    out = tmp_path / "climber.json"
    words = ["meta-test", str(out), "--agent", example[1], "--environment", "gla/RandomLinear-v0"]
    assert cli.main([*words, "--lifetimes", "2", "--steps", "100", "--no-nulls"]) == 0
    read = results.read(out)
    assert [agent.name for agent in read.agents] == [
        "hill climber",
        "hill climber (rewards masked)",
    ]


def test_an_agent_that_is_killed_in_mid_run(example):
    process, address = example
    agent = load_agent(address)
    state = agent.init(keys_of(2), 2, SEEN, BOX)
    act(agent, state)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(GlaError, match=r"agent at tcp://\S+ broke off, asked for 'act'"):
        act(agent, state)
    agent.close(state)
    with pytest.raises(GlaError, match="no agent answers at .*refused"):
        agent.init(keys_of(2), 2, SEEN, BOX)


def test_the_agents_file_stands_alone():
    with open(socket_agent.__file__) as file:
        tree = ast.parse(file.read(), feature_version=(3, 8))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert all(name.split(".")[0] in sys.stdlib_module_names for name in names)
    assert socket_agent.PROTOCOL == sockets.PROTOCOL
    assert socket_agent.MOST_BYTES == sockets.MOST_BYTES


def with_action(action):
    return READY, STARTED, {"type": "action", "action": action}


@pytest.mark.parametrize(
    "answers, message",
    [
        ((), r"broke off, asked for 'hello' \("),
        ((b"HTTP/1.1 400 Bad Request",), "answered 'HTTP/1.1 400 Bad Request' to 'hello'"),
        ((b"\xff\xfe",), "answered .* to 'hello'; expected one JSON object a line"),
        ((b"[" * 100_000,), "answered .*; expected one JSON object a line"),
        ((b"[1]",), r"answered '\[1\]' to 'hello'"),
        (({"type": "hi"},), "expected a message of type 'ready'"),
        (({**READY, "protocol": 2},), "speaks version 2 of the protocol; expected version 1"),
        (({**READY, "name": ""},), "is named ''; expected 1 to 80 letters"),
        (({**READY, "name": "a\nb"},), "is named 'a.nb'"),
        (({**READY, "view": {"observation_dim": 24}},), "asks for the view .*expected null"),
        (({**READY, "view": {"observation_dim": 0, "action_dim": 2}},), "asks for the view"),
        (({**READY, "view": 3},), "asks for the view 3"),
        ((READY,), "broke off, asked for 'init'"),
        ((READY, {"error": "no\nmemory"}), "failed: no memory"),
        ((READY, STARTED), "broke off, asked for 'act'"),
        (with_action([[0.0]]), r"answered with actions of shape \(1, 1\); expected .*\(2, 2\)"),
        (with_action([[0.0, 1.0], [2.0]]), r"with \[\[0.0, 1.0\], \[2.0\]\]; expected numbers"),
        (with_action("left"), 'with "left"; expected numbers of shape'),
        (with_action([[0, 1], [0, None]]), "null"),
        (with_action([[True, False], [True, True]]), "true"),
        (with_action([[0.0, 1.0], [float("nan"), 0]]), "an action that is nan in lifetime 1"),
        (with_action([[0.0, 1e300], [0.0, 0.0]]), "an action that is inf in lifetime 0"),
        ((READY, STARTED, {"type": "action"}), "with null; expected numbers"),
        ((READY, STARTED, {"error": "ValueError: x"}), "failed: ValueError: x"),
    ],
)
def test_answers_that_are_none(answers, message):
    with answering(*answers) as address, pytest.raises(GlaError, match=message) as caught:
        once(address)
    assert "\n" not in str(caught.value) and "tcp://127.0.0.1:" in str(caught.value)


@pytest.mark.parametrize("action", [[0, 4], [-1, 0], [0.0, 1.0], [[0], [1]]])
def test_whole_numbers_that_are_none(action):
    message = r"whole numbers (from 0 to 3|of shape \(2,\))"
    with answering(*with_action(action)) as address, pytest.raises(GlaError, match=message):
        once(address, FOUR)


def test_a_line_that_never_ends(monkeypatch):
    monkeypatch.setattr(sockets, "MOST_BYTES", 1000)
    with (
        answering(b"{" * 5000) as address,
        pytest.raises(GlaError, match="expected one JSON object a line"),
    ):
        once(address)


@pytest.mark.parametrize(
    "answers, what",
    [((1.5,), "'hello'"), ((READY, 1.5), "'init'"), ((READY, STARTED, 1.5), "'act'")],
)
def test_an_agent_that_hangs(answers, what):
    message = f"gave no answer to {what} within 0.2 seconds.*expected an answer in time"
    with answering(*answers) as address, pytest.raises(GlaError, match=message):
        once(f"{address}?patience=0.2")


def test_patience_is_for_whole_answers():
    """An agent that sends a letter now and then does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.05)

        thread = threading.Thread(target=drip)
        thread.start()
        port = listening.getsockname()[1]
        with pytest.raises(GlaError, match="within 0.3 seconds"):
            load_agent(f"tcp://127.0.0.1:{port}?patience=0.3")
        thread.join(5)
        assert not thread.is_alive()


def test_another_agent_in_the_same_place():
    with serving(Recorder) as address:
        agent = load_agent(address)
        agent.name = "one"
        with pytest.raises(GlaError, match="was 'one' with the view None and is now 'Recorder'"):
            agent.init(keys_of(2), 2, SEEN, BOX)


class Broken:
    """Fails in every way."""

    def __init__(self, num_envs, observation_space, action_space, seeds):
        if num_envs == 3:
            raise MemoryError("three are too many")
        self.answers = iter([[[float("nan")] * 2] * 2, {1, 2}])

    def act(self, observation, *rest):
        if observation[0][0] == 7.0:
            return self.missing
        return next(self.answers)


@pytest.mark.parametrize(
    "rows, first, message",
    [
        (3, 0.0, "failed: MemoryError: three are too many"),
        (2, 7.0, "failed: AttributeError: 'Broken' object has no attribute 'missing'"),
        (2, 0.0, "failed: the agent's action cannot be sent: Out of range float values"),
    ],
)
def test_errors_of_the_agent_reach_the_user(rows, first, message, capsys):
    with serving(Broken) as address:
        agent = load_agent(address)
        with pytest.raises(GlaError, match=message):
            state = agent.init(keys_of(rows), rows, SEEN, BOX)
            act(agent, state, rows, observation=np.full((rows, 3), first))
        # The others are still served.
        agent.close(agent.init(keys_of(2), 2, SEEN, BOX))


@pytest.mark.parametrize(
    "message, error",
    [
        ({"type": "hello", "protocol": 2}, "this agent speaks version 1 of the protocol, not 2"),
        ({"type": "act"}, "act came before init"),
        ({"type": "wave"}, "the protocol knows no message 'wave'"),
        ([1], "the protocol knows no message None"),
    ],
)
def test_the_agents_side_refuses_what_it_does_not_know(message, error):
    with serving(Recorder) as address:
        host, port, _ = parse_address(address)
        with socket.create_connection((host, port)) as connection:
            connection.sendall(json.dumps(message).encode() + b"\n")
            with connection.makefile("rb") as lines:
                assert json.loads(lines.readline()) == {"error": error}
                assert lines.readline() == b""


@pytest.mark.parametrize(
    "address, expected",
    [
        ("tcp://localhost:5555", ("localhost", 5555, 60.0)),
        ("tcp://[::1]:80?patience=0.5", ("::1", 80, 0.5)),
    ],
)
def test_addresses(address, expected):
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    "address",
    ["tcp://localhost", "tcp:localhost:1", "tcp://h:99999", "tcp://h:1/x", "tcp://h:1?wait=3",
     "tcp://h:1?patience=long", "tcp://h:1?patience=nan", "tcp://:5555"],
)  # fmt: skip
def test_addresses_that_are_none(address):
    with pytest.raises(GlaError, match="the agent's address is .*expected tcp://HOST:PORT"):
        load_agent(address)


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(GlaError, match=f"no agent answers at tcp://127.0.0.1:{port}.*start it"):
        load_agent(f"tcp://127.0.0.1:{port}")
