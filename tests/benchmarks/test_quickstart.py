"""The four verbs in a row, tiny: stages are reused, resumed, and redone only when asked."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from gla.agents.collect import CollectConfig
from gla.agents.ppo import PPOConfig
from gla.benchmarks import quickstart
from gla.benchmarks.runner import MetaTestConfig
from gla.checkpoints import finish
from gla.errors import GlaError
from gla.models import ModelConfig
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.training import MetaTrainConfig

PPO = PPOConfig(num_envs=2, num_steps=50, num_updates=3, epochs=1, minibatches=1, hidden=8)


def tiny(seed: int = 0) -> quickstart.Plan:
    return quickstart.Plan(
        collections=(CollectConfig("gla/RandomLinear-v0", runs=2, block=2, seed=seed, ppo=PPO),),
        weights=(1.0,),
        training=MetaTrainConfig(
            projection=ProjectionConfig(12, 4),
            sampling=SamplingConfig(segments=2, segment_length=50),
            model=ModelConfig(width=16, layers=1, heads=2, window=100),
            batch_size=2,
            steps=4,
            steps_per_dispatch=2,
            checkpoint_every=2,
            seed=seed,
        ),
        tests=(
            MetaTestConfig("gla/RandomLinear-v0", 3, 100, seed, null_steps=50),
            MetaTestConfig("gla/Reacher-v0", 2, 100, seed, null_steps=50),
            MetaTestConfig("gla/CartpoleSwingup-v0", 2, 10, seed),
        ),
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parts[len(folder.parts)] not in ("report", "leaderboard")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where the quickstart has run once, on a Python that has no DeepMind Control."""
    out = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "available", lambda source: "dm_control" not in source)
        quickstart.run(tiny(), out)
    return out


@pytest.fixture(autouse=True)
def without_dm_control(monkeypatch):
    monkeypatch.setattr(quickstart, "available", lambda source: "dm_control" not in source)


def test_everything_is_made(finished):
    assert sorted(p.name for p in (finished / "results").iterdir()) == [
        "RandomLinear-v0.json",
        "Reacher-v0.json",
    ]
    page = (finished / "report" / "report.html").read_text()
    assert "gla/RandomLinear-v0" in page and "gla/Reacher-v0" in page
    assert list((finished / "report").rglob("*.png"))
    assert (finished / "leaderboard" / "index.html").exists()
    training = json.loads((finished / "agent" / "finished.json").read_text())
    assert training == {"step": 4, "reason": "all steps done"}


def test_a_report_says_when_training_was_cut_short(tmp_path):
    finish(tmp_path, 730, "stopped after 7 minutes")
    (note,) = quickstart.cut_short(tmp_path, 1300)
    assert note.startswith("Meta-training ended at step 730 of 1,300 (stopped after 7 minutes).")
    assert not quickstart.cut_short(tmp_path, 730)


def test_a_second_run_reuses_every_stage(finished, capsys):
    before = snapshot(finished)
    quickstart.run(tiny(), finished)
    assert snapshot(finished) == before
    said = capsys.readouterr().out
    assert "gla/CartpoleSwingup-v0: left out" in said
    assert "Did not learn" in said or "Learned on" in said


def test_an_agent_that_comes_with_gla_is_tested_at_once(tmp_path, capsys):
    plan = tiny()
    plan = dataclasses.replace(plan, tests=plan.tests[:1])
    quickstart.run(plan, tmp_path, agent=quickstart.PRETRAINED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leaderboard", "report", "results"]
    told = json.loads((tmp_path / "results" / "RandomLinear-v0.json").read_text())
    assert told["config"]["agent"] == "systems"
    assert "gla/RandomMechanics-v0" in told["training_sources"]
    assert "left out, systems comes with gla" in capsys.readouterr().out


def test_a_lost_stage_is_made_again_the_same(finished):
    before = snapshot(finished)
    (finished / "results" / "RandomLinear-v0.json").unlink()
    quickstart.run(tiny(), finished)
    after = snapshot(finished)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed <= {"results/RandomLinear-v0.json"}
    old, new = (json.loads(s["results/RandomLinear-v0.json"]) for s in (before, after))
    for part in ("created", "digest"):
        old.pop(part), new.pop(part)
    for result in (*old["agents"], *new["agents"]):
        result.pop("seconds"), result.pop("step_seconds")
    assert old == new


def test_a_folder_that_was_moved_is_still_known(finished, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(finished, moved)
    before = snapshot(moved)
    quickstart.run(tiny(), moved)
    assert snapshot(moved) == before


def test_other_settings_need_fresh(finished):
    before = snapshot(finished)
    with pytest.raises(GlaError, match="other settings"):
        quickstart.run(tiny(seed=1), finished)
    assert snapshot(finished) == before
    quickstart.run(tiny(seed=1), finished, fresh=True)
    after = snapshot(finished)
    assert after["agent/config.json"] != before["agent/config.json"]
    assert after["results/Reacher-v0.json"] != before["results/Reacher-v0.json"]


def test_the_real_plan_is_the_one_that_is_promised():
    plan = quickstart.default_plan()
    trained = {one.environment for one in plan.collections}
    tested = {one.environment: one for one in plan.tests}
    assert trained == {f"gla/Random{x}-v0" for x in ("Linear", "Mechanics", "Neural")}
    assert tested["gla/RandomLinear-v0"].lifetimes == 64
    others = {"Pendulum", "ReacherMisc", "Reacher", "HalfCheetah", "CartpoleSwingup"}
    assert {f"gla/{name}-v0" for name in others} <= set(tested) - trained
    assert all(one.split == "train" for one in plan.collections)
    assert all(one.split == "test" and one.masked_twin and one.nulls for one in plan.tests)
