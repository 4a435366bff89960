import errno
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gla.benchmarks import results as files
from gla.benchmarks.results import AgentResult, Lifetime, Results
from gla.errors import GlaError


def make(agents=None, **changes):
    agents = agents or (
        AgentResult("learner", "agent", (Lifetime((1.0, 2.5), (50, 50)),) * 2, 3.0),
        AgentResult("zero action", "null", (Lifetime((-1.0,), (7,), True),), 0.5),
    )
    entries = {
        "environment": "gla/RandomLinear-v0",
        "split": "test",
        "seed": 3,
        "steps": 100,
        "lifetimes": 2,
        "agents": agents,
        "references": {"expert": {"return": 4.0, "provenance": "long PPO"}},
        "config": {"a": [1, None, {"b": "c"}]},
        "packages": files.package_versions(),
        "training_sources": ("gla/RandomNeural-v0",),
    }
    return Results(**entries | changes)


returns = st.floats(allow_nan=False, allow_infinity=False)
lifetimes = st.lists(st.tuples(returns, st.integers(1, 10**6)), min_size=1, max_size=5).map(
    lambda pairs: Lifetime(*zip(*pairs, strict=True))
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
all_results = st.builds(
    make,
    agents=st.lists(
        st.builds(
            AgentResult,
            st.text(),
            st.sampled_from(["agent", "masked", "null", "expert"]),
            st.lists(lifetimes, min_size=1, max_size=4).map(tuple),
            st.floats(0, 1e6),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda agent: agent.name,
    ).map(tuple),
    environment=st.text(),
    seed=st.integers(),
    config=st.dictionaries(st.text(), json_values, max_size=3),
    training_sources=st.lists(st.text(), max_size=3).map(tuple),
)


@settings(max_examples=40, deadline=None)
@given(results=all_results)
def test_what_is_written_is_read_back(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("round") / "results.json"
    files.write(path, results)
    assert files.read(path) == results


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    value=json_values,
)
def test_any_changed_value_is_read_or_refused_plainly(data, value, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "results.json"
    files.write(path, make())
    document = json.loads(path.read_text())
    place = document
    keys = []
    while isinstance(place, (dict, list)) and place and (not keys or data.draw(st.booleans())):
        names = list(place) if isinstance(place, dict) else range(len(place))
        keys.append(data.draw(st.sampled_from(names)))
        parent, place = place, place[keys[-1]]
    parent[keys[-1]] = value
    path.write_text(json.dumps(document))
    try:
        again = files.read(path)
    except GlaError as error:
        assert "\n" not in str(error)
        assert str(path) in str(error)
    else:
        files.write(path, again)


@settings(max_examples=40, deadline=None)
@given(value=json_values)
def test_other_json_is_refused(value, tmp_path_factory):
    path = tmp_path_factory.mktemp("other") / "x.json"
    path.write_text(json.dumps(value))
    with pytest.raises(GlaError, match="not a results file"):
        files.read(path)


def test_arrays_become_plain_numbers():
    life = Lifetime(np.float32([1, 2]), np.int64([3, 4]))
    assert life == Lifetime((1.0, 2.0), (3, 4))
    assert type(life.episode_lengths[0]) is int


def test_kinds_keep_their_order():
    assert [one.name for one in make().of_kind("null")] == ["zero action"]
    assert make().of_kind("masked") == ()


def test_versions_name_python_and_the_learning_stack():
    assert {"python", "jax", "flax", "numpy", "gymnasium"} <= set(files.package_versions())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_return_that_is_not_finite_is_named(tmp_path, bad):
    path = tmp_path / "r.json"
    files.write(path, make())
    path.write_text(path.read_text().replace("2.5", str(bad).replace("inf", "Infinity"), 1))
    if math.isnan(bad):
        path.write_text(path.read_text().replace("nan", "NaN"))
    with pytest.raises(GlaError, match="'learner', lifetime 1, episode 2"):
        files.read(path)
    agents = (AgentResult("a", "agent", (Lifetime((0.0, bad), (1, 1)),), 1.0),)
    with pytest.raises(GlaError, match="agent 'a', lifetime 1, episode 2"):
        files.write(tmp_path / "new.json", make(agents))
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_off_is_refused(tmp_path, share):
    path = tmp_path / "r.json"
    files.write(path, make())
    text = path.read_text()
    path.write_text(text[: int(len(text) * share)])
    with pytest.raises(GlaError, match="not whole JSON"):
        files.read(path)


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(GlaError, match="there is no results file"):
        files.read(tmp_path / "none.json")
    with pytest.raises(GlaError, match="cannot be read"):
        files.read(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GlaError, match="not whole JSON"):
        files.read(tmp_path / "bytes")
    (tmp_path / "half").write_text('{"schema": "\\ud800"}')
    with pytest.raises(GlaError, match="not whole JSON"):
        files.read(tmp_path / "half")
    (tmp_path / "deep").write_text("[" * 100_000)
    with pytest.raises(GlaError, match="not whole JSON"):
        files.read(tmp_path / "deep")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other"}, "not a results file"),
        ({"version": 1}, "has version 1; expected version 2"),
        ({"seed": "3"}, "seed is '3'; expected a whole number"),
        ({"seed": True}, "seed is True"),
        ({"steps": 0}, "steps is 0"),
        ({"agents": []}, "no agent"),
        ({"agents": [3]}, "agent 1 is a int"),
        ({"training_sources": [1]}, "training_sources"),
        ({"packages": {"jax": 1}}, "packages"),
        ({"references": {"expert": {"return": "high"}}}, "expert reference"),
        ({"references": {"null": 3}}, "null reference"),
        ({"references": {"expert": {"return": 10**400}}}, "expert reference"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, change, message):
    path = tmp_path / "r.json"
    files.write(path, make())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(GlaError, match=message):
        files.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "robot"}, "of kind 'robot'"),
        ({"name": "zero action"}, "2 agents are called 'zero action'"),
        ({"seconds": -1}, "took -1 seconds"),
        ({"seconds": 10**400}, "seconds"),
        ({"lifetimes": []}, "no lifetimes"),
    ],
)
def test_a_wrong_agent_is_named(tmp_path, change, message):
    path = tmp_path / "r.json"
    files.write(path, make())
    document = json.loads(path.read_text())
    document["agents"][0] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(GlaError, match=message):
        files.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episode_returns": [1.0]}, "1 returns and 2 lengths"),
        ({"episode_returns": [], "episode_lengths": []}, "at least one episode"),
        ({"episode_returns": [1.0, None]}, "a list of numbers"),
        ({"episode_returns": [1.0, 10**400]}, "too large"),
        ({"episode_lengths": [1, 0]}, "episode 2: the length is 0"),
        ({"episode_lengths": [1, 1.5]}, "whole numbers"),
        ({"unfinished": True}, "unfinished with 2 episodes"),
    ],
)
def test_a_wrong_lifetime_is_named(tmp_path, change, message):
    path = tmp_path / "r.json"
    files.write(path, make())
    document = json.loads(path.read_text())
    document["agents"][0]["lifetimes"][1] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(GlaError, match=message):
        files.read(path)


@pytest.mark.parametrize("key", ["environment", "agents", "packages", "created"])
def test_a_missing_key_is_named(tmp_path, key):
    path = tmp_path / "r.json"
    files.write(path, make())
    document = json.loads(path.read_text())
    del document[key]
    path.write_text(json.dumps(document))
    with pytest.raises(GlaError, match=f"lacks {key}"):
        files.read(path)


@pytest.mark.parametrize(
    "config", [{"x": math.nan}, {"x": object()}, {"x": {1, 2}}, {"x": "\ud800"}]
)
def test_a_config_that_json_does_not_know_is_refused(tmp_path, config):
    with pytest.raises(GlaError, match="cannot be written as JSON"):
        files.write(tmp_path / "r.json", make(config=config))


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "full"), (errno.EROFS, "read-only")]
)
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path, monkeypatch, number, message
):
    path = tmp_path / "r.json"
    files.write(path, make())
    before = path.read_text()

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(GlaError, match=message):
        files.write(path, make(seed=4))
    assert path.read_text() == before
    assert [one.name for one in tmp_path.iterdir()] == ["r.json"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GlaError):
        files.write(tmp_path / "file" / "r.json", make())


def test_a_changed_file_is_noticed(tmp_path):
    path = tmp_path / "r.json"
    files.write(path, make())
    whole = json.loads(path.read_text())
    for change in ({"created": "2001-01-01T00:00:00+00:00"}, {"digest": "0"}, {"digest": None}):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(GlaError, match="r.json: its contents do not match its digest"):
            files.read(path)
    # The order of keys, or white space, is no change.
    path.write_text(json.dumps(dict(reversed(whole.items())), indent=3))
    assert files.digest(files.read(path)) == whole["digest"]
