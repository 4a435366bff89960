"""The command line as a person meets it: one plain line for what is wrong, status 2."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gla import cli
from gla.benchmarks.suites import SUITES, Suite, Task


def run(*words):
    return cli.main([str(word) for word in words])


def complaint(capsys, *words) -> str:
    """Run a command that must fail; return its one line on standard error."""
    assert run(*words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("gla: ")
    return lines[0]


def test_usage_names_every_command(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    for name in cli._COMMANDS:
        assert name in text
    assert run() == 2


@pytest.mark.parametrize("name", sorted(cli._COMMANDS))
def test_every_command_has_help(name, capsys):
    try:
        status = run(name, "--help")
    except SystemExit as stop:  # tyro prints its help and leaves
        status = stop.code
    assert status in (0, None)
    assert name in capsys.readouterr().out


def test_envs_list_shows_ids_and_references(capsys):
    assert run("envs", "list") == 0
    text = capsys.readouterr().out
    assert "gla/RandomLinear-v0" in text and "gla/CartpoleSwingup-v0" in text
    assert max(map(len, text.splitlines())) <= 80
    assert run("envs", "list", "swing", "--kind", "host", "--domain", "dmc") == 0
    text = capsys.readouterr().out
    assert "gla/CartpoleSwingup-v0" in text and "gla/Pendulum-v0" not in text
    assert "did you mean discrete" in complaint(capsys, "envs", "list", "--actions", "discret")


def test_envs_show_says_everything_and_saves_a_picture(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run("envs", "show", "gla/Darkroom-v0") == 0
    text = capsys.readouterr().out
    assert "tasks" in text and "task_seed=0" in text and 'make("gla:gla/Darkroom-v0")' in text
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 80
    file = tmp_path / "darkroom.png"
    assert run("envs", "show", "Darkroom-v0", "--frame", file) == 0
    assert f"picture: {file}" in capsys.readouterr().out and file.read_bytes()[:4] == b"\x89PNG"
    assert "did you mean Darkroom-v0" in complaint(capsys, "envs", "show", "gla/Darkrom-v0")
    wrong = ("envs", "show", "gla/Darkroom-v0", "--frame", tmp_path / "darkroom.gif")
    assert run(*wrong) == 2 and "ends in .png" in capsys.readouterr().err


def test_envs_show_draws_in_terminals_and_says_where_it_cannot(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_shows_pictures", lambda: True)
    assert run("envs", "show", "gla/Darkroom-v0") == 0
    assert "\x1b[48;" in capsys.readouterr().out
    assert run("envs", "show", "gla/Darkroom-v0", "--no-frame") == 0
    assert "\x1b" not in capsys.readouterr().out
    assert run("envs", "show", "gla/MemoryChain-v0") == 0
    text = capsys.readouterr().out
    assert "no picture: " in text and 'make("gla:gla/MemoryChain-v0")' in text


@pytest.mark.parametrize(
    ("terminal", "variables", "encoding", "expected"),
    [
        (True, {"TERM": "xterm-256color"}, "utf-8", True),
        (False, {"TERM": "xterm-256color"}, "utf-8", False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, "utf-8", False),
        (True, {"TERM": "dumb"}, "utf-8", False),
        (True, {"TERM": "xterm"}, "ascii", False),
    ],
)
def test_pictures_are_for_terminals_with_colours(
    terminal, variables, encoding, expected, monkeypatch
):
    class Stream:
        def isatty(self):
            return terminal

    stream = Stream()
    stream.encoding = encoding
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli._shows_pictures() is expected


OWN = """
from gla.envs import RandomLinear

class Lazy(RandomLinear):
    name = "Lazy"
    def sample_params(self, key):
        return super().sample_params(__import__("jax").random.key(0))
    def reset(self, key, params):
        state, observation = super().reset(key, params)
        return state, observation * float("nan")

def needy(size):
    return RandomLinear()
"""


def test_envs_check_tells_a_broken_environment(capsys, tmp_path, monkeypatch):
    (tmp_path / "own_for_check.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert run("envs", "check", "own_for_check:Lazy") == 1
    text = capsys.readouterr().out
    assert "failed   tasks" in text and "failed   numbers" in text and "2 failed" in text
    assert "needs no arguments" in complaint(capsys, "envs", "check", "own_for_check:needy")
    assert "cannot be loaded" in complaint(capsys, "envs", "check", "own_for_check:absent")
    assert "did you mean Ant-v0" in complaint(capsys, "envs", "check", "gla/Amt-v0")


def test_envs_docs_writes_the_pages(capsys, tmp_path, monkeypatch):
    from gla.envs import catalog_pages

    monkeypatch.setattr(catalog_pages, "write_pages", lambda *a, **k: ["gla/X-v0: no renderer."])
    assert run("envs", "docs", tmp_path) == 0
    text = capsys.readouterr().out
    assert "no picture of gla/X-v0: no renderer." in text and str(tmp_path) in text


SMALL = ("--runs", 2, "--block", 1, "--ppo.num-updates", 3, "--ppo.num-envs", 2)


def test_bad_words_are_answered_in_one_line(capsys, tmp_path):
    out = tmp_path / "h"
    assert "did you mean collect" in complaint(capsys, "colect")
    text = complaint(capsys, "collect", out, "--environment", "gla/RandomLiner-v0")
    assert "did you mean RandomLinear-v0" in text
    assert "expected a whole number" in complaint(capsys, "collect", out, "--runs", "0")
    assert "gamma" in complaint(capsys, "collect", out, "--ppo.gamma", "3")
    assert "is projected" in complaint(
        capsys, "collect", out, "--environment", "gla/Ant-Projected-v0"
    )
    assert "no learning histories" in complaint(
        capsys, "meta-train", tmp_path / "a", "--histories", tmp_path / "none"
    )
    assert "given no histories" in complaint(capsys, "meta-train", tmp_path / "a")
    assert "no preset 'gal' (did you mean gla?)" in complaint(
        capsys, "meta-train", "gal", tmp_path / "a"
    )
    assert "not a checkpoint folder" in complaint(
        capsys, "meta-test", tmp_path / "r.json", "--agent", tmp_path / "none"
    )
    assert "cannot be loaded" in complaint(
        capsys, "meta-test", tmp_path / "r.json", "--agent", "no_such_module:make"
    )
    suite = ("--suite", "gridworld")
    assert "not a checkpoint folder" in complaint(
        capsys, "meta-test", tmp_path / "s", "--agent", tmp_path / "none", *suite
    )
    assert "there is no suite 'gridwold' (did you mean gridworld-v1?)" in complaint(
        capsys, "meta-test", tmp_path / "s", "--agent", "nulls", "--suite", "gridwold"
    )
    assert "see `gla meta-test --help`" in complaint(
        capsys, "meta-test", tmp_path / "s", "--agent", "nulls", *suite, "--steps", 100
    )
    assert not (tmp_path / "s").exists()
    assert not out.exists()


def test_words_that_are_no_numbers_fail_plainly(capsys, tmp_path):
    text = complaint(capsys, "collect", tmp_path / "h", "--runs", "many")
    assert "--runs" in text and "many" in text
    assert "gla collect --help" in text


def test_the_four_verbs_small(capsys, tmp_path, monkeypatch):
    histories, agent = tmp_path / "histories", tmp_path / "agent"
    results, site = tmp_path / "results.json", tmp_path / "site"
    assert run("collect", histories, *SMALL) == 0
    assert "2 of 2 runs complete" in capsys.readouterr().out
    train = [
        *("meta-train", agent, "--histories", histories, "--steps", 4, "--batch-size", 2),
        *("--steps-per-dispatch", 2, "--checkpoint-every", 2, "--sampling.segments", 2),
        *("--model.width", 16, "--model.layers", 1, "--model.heads", 2, "--model.window", 100),
        *("--projection.observation-dim", 8, "--projection.action-dim", 4),
        *("--sampling.conditions", "gap", "--validation.every", 2, "--validation.steps", 40),
        *("--validation.environments", "gla/RandomLinear-v0", "--validation.lifetimes", 2),
    ]
    assert run(*train) == 0
    lines = (agent / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line)["validation"] for line in lines if "validation" in line]
    assert len(found) == 2 and all("score" in one for one in found)
    test = [
        *("meta-test", results, "--agent", agent, "--lifetimes", 3, "--steps", 100),
        *("--which", "best", "--ask", "gap=5", "--environment", "gla/RandomLinear-v0"),
    ]
    assert run(*test) == 0
    said = capsys.readouterr().out
    assert "gla/RandomLinear-v0" in said and "learn" in said
    content = json.loads(results.read_text())
    assert content["schema"] == "gla-results"
    assert content["training_sources"] == ["gla/RandomLinear-v0"]
    kinds = [one["kind"] for one in content["agents"]]
    assert kinds.count("agent") == 1 and kinds.count("masked") == 1 and kinds.count("null") >= 5

    before = results.read_bytes()
    assert run(*test) == 0  # the same test again is the file that is there
    assert results.read_bytes() == before
    assert "another test" in complaint(capsys, *test, "--seed", 7)
    assert results.read_bytes() == before
    assert run("leaderboard", "build", results, "--out", site) == 0
    assert "gla/RandomLinear-v0" in (site / "index.html").read_text()

    # The same agent on a suite.
    small = Suite("small-v1", "For tests.", (Task("gla/RandomLinear-v0", 100),), lifetimes=2)
    monkeypatch.setitem(SUITES, "small-v1", small)
    submission = tmp_path / "submission"
    words = ("meta-test", submission, "--agent", agent, "--suite", "small", "--name", "mine")
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "gla/RandomLinear-v0" in said and "(1 of 1)" in said
    manifest = json.loads((submission / "submission.json").read_text())
    assert manifest["agent"] == "mine"
    assert manifest["training_sources"] == ["gla/RandomLinear-v0"]
    assert manifest["details"]["training"]["histories"] == ["histories"]
    assert run(*words) == 0, "finished, so nothing is to be done"
    capsys.readouterr()
    check = ("leaderboard", "check", submission, "--rerun", 1)
    assert "--agent with where it lies" in complaint(capsys, *check), "no folder of that name here"
    assert run(*check, "--agent", agent) == 0
    said = capsys.readouterr().out
    assert "mine on small-v1" in said and "what was run again is what was submitted" in said
    assert run("leaderboard", "build", submission, "--out", tmp_path / "board") == 0
    assert "mine" in (tmp_path / "board" / "index.html").read_text()
    assert "holds 'mine' on small-v1" in complaint(
        capsys, "meta-test", submission, "--agent", "nulls", "--suite", "small"
    )

    # Other settings never overwrite what is there.
    capsys.readouterr()
    assert "other settings" in complaint(capsys, "collect", histories, *SMALL, "--seed", 5)
    assert "other settings" in complaint(capsys, *train, "--seed", 5)
    assert "more than the projection's 8" in complaint(
        capsys, *test[:1], tmp_path / "r2.json", *test[2:-1], "gla/HalfCheetah-v0"
    )
    assert run("histories", "verify", histories) == 0
    chunk = next(p for p in (histories / "reward" / "c" / "0").rglob("*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-3])
    capsys.readouterr()
    assert run("histories", "verify", histories) == 1
    assert "array 'reward'" in capsys.readouterr().err
    assert "is damaged" in complaint(capsys, *train[:1], tmp_path / "b", *train[2:])


def test_interrupting_a_collection_and_going_on(tmp_path):
    out = tmp_path / "h"
    words = ["collect", str(out), "--runs", "6", "--block", "1", "--ppo.num-updates", "30"]
    command = [sys.executable, "-P", "-m", "gla.cli", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 120
    while not list(out.glob("blocks/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    if process.returncode == 130:
        assert "interrupted; run the same command again to go on" in said
        assert "Traceback" not in said
    assert cli.main(words) == 0
    assert len(list(out.glob("blocks/*.json"))) == 6
