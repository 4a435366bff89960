"""The comparisons of models, tiny and never timed: the same model on both sides, the same work."""

import contextlib
import importlib.util
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.benchmarks import own_models, throughput, throughput_metatest, throughput_models, workers
from gla.benchmarks.throughput_models import (
    GROWING,
    ONE_BY_ONE,
    OURS,
    PYTORCH,
    RECOMPUTING,
    RING,
    STEP_BY_STEP,
)
from gla.benchmarks.timing import Bench, ThroughputConfig
from gla.benchmarks.workers import Worker
from gla.models import ModelConfig

SIZES = {
    **throughput_models.SIZES,
    **{"width": 16, "layers": 2, "heads": 2, "mlp": 2, "inputs": 5, "outputs": 3},
}
WINDOW = 8


@pytest.fixture
def peer():
    """Return the module of the PyTorch model."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from gla.benchmarks import peer_models

    return peer_models


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ours_and_theirs(peer):
    """Return our model, its parameters away from their initial zeros, and the peer with these."""
    import torch

    model = own_models.model_of({**SIZES, "window": WINDOW})
    params = model.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * draw(x.size, *x.shape), params)
    theirs = peer.Transformer(SIZES)
    tree, state = params["params"], {}

    def put(name, layer, rows):
        kernel = np.asarray(layer["kernel"]).reshape(rows, -1)
        state[f"{name}.weight"] = torch.tensor(kernel.T.copy())
        if "bias" in layer:
            state[f"{name}.bias"] = torch.tensor(np.asarray(layer["bias"]))

    def put_norm(name, layer):
        state[f"{name}.weight"] = torch.tensor(np.asarray(layer["scale"]))
        state[f"{name}.bias"] = torch.tensor(np.asarray(layer["bias"]))

    put("embed", tree["embed"], SIZES["inputs"])
    put("head", tree["head"], SIZES["width"])
    put_norm("norm", tree["norm"])
    for i in range(SIZES["layers"]):
        block = tree[f"blocks_{i}"]
        for norm in ("norm1", "norm2"):
            put_norm(f"blocks.{i}.{norm}", block[norm])
        put(f"blocks.{i}.qkv", block["mixer"]["qkv"], SIZES["width"])
        put(f"blocks.{i}.out", block["mixer"]["out"], SIZES["width"])
        put(f"blocks.{i}.up", block["up"], SIZES["width"])
        put(f"blocks.{i}.down", block["down"], SIZES["mlp"] * SIZES["width"])
    theirs.load_state_dict(state)  # refuses names or shapes that are missing or too many
    assert sum(p.numel() for p in theirs.parameters()) == model.parameter_count
    return model, params, theirs


def test_the_peer_is_the_same_model(peer):
    import torch

    model, params, theirs = ours_and_theirs(peer)
    tokens = draw(1, 3, WINDOW, SIZES["inputs"])
    outputs = np.asarray(model.apply(params, jnp.asarray(tokens))[0])
    found = theirs(torch.tensor(tokens)).detach().numpy()
    assert np.abs(outputs).mean() > 0.1
    np.testing.assert_allclose(found, outputs, atol=1e-4)


@pytest.mark.parametrize("cache", ["ring", "growing"])
def test_the_peer_acts_like_our_model_past_the_window(peer, cache):
    import torch

    model, params, theirs = ours_and_theirs(peer)
    length = 3 * WINDOW
    tokens = draw(2, 3, length, SIZES["inputs"])
    expected = np.asarray(model.apply(params, jnp.asarray(tokens))[0])
    shape = (3, SIZES["heads"], WINDOW, SIZES["width"] // SIZES["heads"])
    memory = peer.CACHES[cache](SIZES["layers"], shape)
    begun = theirs(torch.tensor(tokens[:, :WINDOW]), memory)  # as its worker fills the window
    steps = [theirs(torch.tensor(tokens[:, i : i + 1]), memory) for i in range(WINDOW, length)]
    found = torch.cat([begun, *steps], 1).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # What left the window is gone.
    assert (
        np.abs(expected[:, -1] - theirs(torch.tensor(tokens))[:, -1].detach().numpy()).max() > 1e-3
    )


def test_both_sides_take_the_same_steps_of_training(peer):
    import torch

    model, params, theirs = ours_and_theirs(peer)
    tokens, targets = draw(3, 2, WINDOW, SIZES["inputs"]), 10 * draw(4, 2, WINDOW, SIZES["outputs"])
    update = peer.make_update(theirs, torch.tensor(tokens), torch.tensor(targets))
    losses = [update().item() for _ in range(5)]
    start, ours = own_models.make_update(model, jnp.asarray(tokens), jnp.asarray(targets))
    state, found = start(params), []
    for _ in range(5):
        state, loss = ours(state)
        found.append(float(loss))
    assert losses[0] - losses[-1] > 0.01
    # AdamW hardly notices how gradients are scaled, so the losses do not tell.
    optimizer = own_models.OPTIMIZER
    assert (
        optimizer.learning_rate,
        optimizer.weight_decay,
        optimizer.max_grad_norm,
    ) == (peer.RATE, peer.DECAY, peer.MAX_NORM)
    np.testing.assert_allclose(found, losses, rtol=1e-4)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("how", own_models.STEPPERS)
def test_acting_goes_on_or_begins_anew(how, restart, monkeypatch):
    monkeypatch.setattr(own_models, "SCAN", 2)
    seen = []
    stepper = own_models.STEPPERS[how]

    def spied(model, tokens):
        act = stepper(model, tokens)

        def call(params, state):
            before = np.asarray(state.length).tolist()
            outputs, after = act(params, state)
            seen.append((before, np.asarray(after.length).tolist(), outputs.shape))
            return outputs, after

        return call

    monkeypatch.setitem(own_models.STEPPERS, how, spied)
    settings = {**SIZES, "rows": 2, "window": WINDOW, "steps": 3, "after": 11, "how": how}
    settings["restart"] = restart
    program = own_models.act(settings)
    for _ in range(2):
        assert program.train(0) == 6
        program.tidy()
    moved = 0 if how == "recomputing" else 3
    starts = (11, 11 if restart else 11 + moved)
    assert seen == [([start] * 2, [start + moved] * 2, (2, 3)) for start in starts]


def test_all_ways_of_acting_agree():
    model = own_models.model_of({**SIZES, "window": WINDOW})
    params, tokens = model.init(jax.random.key(0)), jnp.asarray(draw(5, 6, 2, SIZES["inputs"]))
    found = [
        own_models.STEPPERS[how](model, tokens)(params, model.initial_state(2))[0]
        for how in ("one by one", "in scans")
    ]
    expected = model.apply(params, jnp.swapaxes(tokens, 0, 1))[0][:, -1]
    for outputs in found:
        np.testing.assert_allclose(outputs, expected, atol=1e-4)


def test_the_state_of_a_place_is_that_of_a_lifetime_which_got_there():
    model = own_models.model_of({**SIZES, "window": WINDOW})
    params, key = model.init(jax.random.key(0)), jax.random.key(1)
    state = own_models.state_after(model, params, key, 2, 11, segment=4)
    parts = [
        jax.random.normal(jax.random.fold_in(key, first), (2, length, model.inputs))
        for first, length in ((0, 4), (4, 4), (8, 3))
    ]
    expected = model.initial_state(2)
    for token in jnp.swapaxes(jnp.concatenate(parts, 1), 0, 1):
        _, expected = model.step(params, token, expected)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


# A worker of the right protocol that says what it was asked for.
FAKE = """
    import json, sys
    settings = json.loads(input())
    print(json.dumps({"ready": True, "packages": {settings["program"]: "1.0"}}), flush=True)
    for line in sys.stdin:
        work = settings["rows"] * settings.get("steps", settings["window"])
        work *= settings.get("dispatch", 1)
        print(json.dumps({"wall": 0.1, "cpu": 0.2, "steps": work}), flush=True)
"""
LACKS = """
    print('{"missing": "No module named torch"}', flush=True)
"""


@pytest.fixture
def fakes(monkeypatch):
    """Workers that are small scripts, `scripts[program]` or `FAKE`; a list of those started."""
    scripts, started = {}, []

    def start(name, words, settings, **others):
        text = textwrap.dedent(scripts.get(settings["program"], FAKE))
        started.append(Worker(name, [sys.executable, "-I", "-c", text], settings, 60.0, **others))
        return started[-1]

    monkeypatch.setattr(throughput_models, "Worker", start)
    return scripts, started


QUICK = ThroughputConfig(rounds=5, seconds=1e-9)


def test_training_is_compared_in_tokens(fakes):
    report = throughput.run(["train-1024", "train-256"], QUICK)
    for outcome in report.outcomes:
        assert [timing.name for timing in outcome.timings] == [PYTORCH, STEP_BY_STEP, OURS]
        # 4,096 tokens in 0.1 seconds, and ten times as many in a call of ten steps.
        rates = [timing.rate for timing in outcome.timings]
        assert rates == pytest.approx([40_960, 40_960, 409_600])
        assert [(goal.program, goal.clock) for goal, *_ in outcome.goals()] == [(OURS, "wall")]
    bounds = [outcome.comparison.goals[0].bound for outcome in report.outcomes]
    assert bounds == [1.0, 1.3]
    text = throughput.to_markdown(report)
    assert "threads for each; pytorch 1.0, model 1.0" in text and "| program | tokens / s |" in text
    assert all(worker.process.poll() is not None for worker in fakes[1])


def test_without_pytorch_training_is_compared_with_itself_and_meets_no_goal(fakes):
    scripts, started = fakes
    scripts["pytorch"] = LACKS
    (outcome,) = throughput.run(["train-256"], QUICK).outcomes
    assert [timing.name for timing in outcome.timings] == [STEP_BY_STEP, OURS]
    assert outcome.goals() == [] and "No module named torch" in outcome.notes[-1]
    assert all(worker.process.poll() is not None for worker in started)


def test_where_nothing_can_be_compared_it_says_what_is_missing(fakes):
    fakes[0]["model"] = fakes[0]["pytorch"] = LACKS
    (outcome,) = throughput.run(["train-256"], QUICK).outcomes
    assert outcome.skipped.startswith("there is nothing to compare with; ")
    assert "No module named torch" in outcome.skipped and "give --torch PYTHON" in outcome.skipped


@pytest.mark.parametrize(("name", "rows"), [("act-4096", 1), ("act-4096-batch", 8)])
def test_acting_is_compared_with_two_caches_and_with_none(fakes, name, rows):
    report = throughput.run([name], QUICK)
    (outcome,) = report.outcomes
    names = [RING, GROWING, ONE_BY_ONE, OURS, RECOMPUTING]
    assert [timing.name for timing in outcome.timings] == names
    rates = [timing.rate / rows for timing in outcome.timings]
    assert rates == pytest.approx([640, 640, 640, 640, 10])
    goals = {goal.than: (goal.program, goal.bound) for goal, *_ in outcome.goals()}
    assert goals == {RING: (OURS, 2.0), GROWING: (OURS, 2.0), RECOMPUTING: (OURS, 100.0)}


def test_without_pytorch_acting_is_compared_with_recomputing(fakes):
    fakes[0]["pytorch"] = LACKS
    report = throughput.run(["act-4096"], QUICK)
    (outcome,) = report.outcomes
    assert [timing.name for timing in outcome.timings] == [ONE_BY_ONE, OURS, RECOMPUTING]
    assert [goal.than for goal, *_ in outcome.goals()] == [RECOMPUTING]
    text = throughput.to_markdown(report)
    assert f"- {RING} is left out: " in text and f"- {GROWING} is left out: " in text


@pytest.mark.parametrize("name", ["act-flat", "act-flat-linear"])
def test_later_places_are_compared_with_the_first(fakes, name):
    (outcome,) = throughput.run([name], QUICK).outcomes
    names = ["after 1,024", "after 4,096", "after 16,384", "after 65,536"]
    assert [timing.name for timing in outcome.timings] == names
    assert [goal.program for goal, timing, peer in outcome.goals()] == names[1:]
    assert all(peer.name == names[0] for _, _, peer in outcome.goals())
    kinds = {(goal.kind, goal.bound, goal.clock) for goal, *_ in outcome.goals()}
    assert kinds == {("overhead", 0.1, "cpu")}


def test_ours_must_run(fakes):
    fakes[0]["model"] = LACKS
    (outcome,) = throughput.run(["act-4096"], QUICK).outcomes
    assert f"{OURS}: " in outcome.skipped and not outcome.timings


def test_every_entrant_is_started_by_its_own_interpreter_with_all_cores(monkeypatch):
    commands = [throughput_models.command("pytorch", path) for path in (Path("t/python"), None)]
    assert [words[0] for words in commands] == ["t/python", sys.executable]
    assert all(words[1] == "-I" and Path(words[2]).exists() for words in commands)
    ours = throughput_models.command("model", Path("t/python"))
    assert ours[0] == sys.executable and ours[-1] == "gla.benchmarks.own_worker"
    for name in ("OMP_NUM_THREADS", "PJRT_NPROC"):
        monkeypatch.delenv(name, raising=False)
    variables = workers.conditions(3)
    assert variables["OMP_NUM_THREADS"] == variables["PJRT_NPROC"] == "3"
    assert workers.conditions()["PJRT_NPROC"] == "1"


@pytest.mark.parametrize("kind", ["train", "act", "place"])
def test_real_workers_do_the_work_that_is_counted(kind):
    entrants = {
        "train": throughput_models.train_entrants(SIZES, 2, WINDOW),
        "act": throughput_models.act_entrants(SIZES, 2, WINDOW, 3),
        "place": throughput_models.place_entrants({**SIZES, "backbone": "linear"}, (4, 8), 8, 3),
    }[kind]
    with_torch = importlib.util.find_spec("torch") is not None
    with contextlib.ExitStack() as stack:
        bench = Bench(QUICK, stack)
        programs = throughput_models.model_programs(bench, entrants)
        expected = [entrant.name for entrant in entrants]
        assert [program.name for program in programs] == [
            name for name in expected if with_torch or "PyTorch" not in name
        ]
        for program in programs:
            measured = program.call()  # refuses another number of tokens
            assert measured.wall > 0 and measured.cpu > 0


def test_meta_tests_of_few_and_many_lifetimes_do_the_work_that_is_counted():
    model = ModelConfig(width=16, layers=1, heads=2, window=20)
    with contextlib.ExitStack() as stack:
        bench = Bench(QUICK, stack)
        programs = throughput_metatest.lifetimes_programs(bench, 2, 5, model)
        traces = [program.call() for program in programs]
    assert [program.name for program in programs] == [
        "2 lifetimes, a call per step", "2 lifetimes", "5 lifetimes"
    ]  # fmt: skip
    for program, trace in zip(programs, traces, strict=True):
        assert trace.reward.size == program.work
    np.testing.assert_allclose(traces[0].reward, traces[1].reward, atol=1e-3)
    assert "numbers of state a lifetime" in bench.notes[0]


@pytest.mark.parametrize("host", [False, True])
def test_the_runner_is_measured_against_agent_and_environment_alone(host):
    model = ModelConfig(width=16, layers=1, heads=2, window=20)
    with contextlib.ExitStack() as stack:
        bench = Bench(QUICK, stack)
        if host:
            programs = throughput_metatest.host_runner_programs(
                bench, 2, model, "gla/Reacher-v0", steps=5
            )
        else:
            programs = throughput_metatest.runner_programs(bench, 2, model)
        bare, tested = (program.call() for program in programs)
    assert [program.name for program in programs] == ["agent and environment", "meta-test"]
    # Both kept every reward of every step that is counted, and neither kept still.
    assert bare.size == tested.reward.size == programs[0].work == programs[1].work
    assert np.isfinite(bare).all() and np.std(bare) > 0 < np.std(tested.reward)
