"""Recording with two Ray workers on this machine."""

import os
import sys

import pytest

from gla.agents.collect import CollectConfig, collect
from gla.agents.fan_out import RayConfig, record_over_ray
from gla.agents.ppo import PPOConfig
from gla.errors import GlaError
from gla.histories import HistoryStore

pytest.importorskip("ray", reason="needs the extra gla[ray]")

CONFIG = CollectConfig(
    runs=5, streams_per_run=2, seed=3, block=1, window=40, chunk=2,
    ppo=PPOConfig(num_envs=3, num_steps=20, num_updates=4, epochs=1, minibatches=2, hidden=8),
)  # fmt: skip


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_two_workers_record_what_one_process_does(tmp_path):
    whole = collect(CONFIG, tmp_path / "whole", progress=False)
    store = record_over_ray("ppo", CONFIG, tmp_path / "s", RayConfig(workers=2), progress=False)
    assert store.missing_blocks() == [] and store.verify() == []
    assert files_of(tmp_path / "s") == files_of(whole.path)
    # Done is done: Ray is not even started.
    record_over_ray("ppo", CONFIG, tmp_path / "s", RayConfig(workers=2), progress=False)


DYING = '''
"""A maker whose first process dies in its second block."""
import os, pathlib, signal
from gla.agents.collect import PPOMaker
from test_fan_out import CONFIG

class Dying(PPOMaker):
    def __init__(self):
        super().__init__(CONFIG)

    def parts(self, runs, first=0, state=None):
        for part in super().parts(runs, first, state):
            yield part
            mark = pathlib.Path(os.environ["GLA_TEST_MARK"])
            if runs.start == 3 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.mark.long
def test_a_worker_that_dies_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "dying_maker.py").write_text(DYING)
    for folder in (str(tmp_path), os.path.dirname(__file__)):
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("GLA_TEST_MARK", str(tmp_path / "died"))
    store = record_over_ray(
        "dying_maker:Dying", None, tmp_path / "s", RayConfig(workers=2), progress=False
    )
    assert (tmp_path / "died").exists()
    assert store.missing_blocks() == [] and store.verify() == []
    whole = collect(CONFIG, tmp_path / "whole", progress=False)
    assert files_of(tmp_path / "s") == files_of(whole.path)


def test_what_a_worker_finds_wrong_is_said_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "wrong_maker.py").write_text(
        "from gla.agents.collect import PPOMaker\n"
        "from gla.errors import GlaError\n"
        "from test_fan_out import CONFIG\n"
        "class Wrong(PPOMaker):\n"
        "    def __init__(self):\n"
        "        super().__init__(CONFIG)\n"
        "    def parts(self, runs, first=0, state=None):\n"
        "        raise GlaError('the task is impossible', 'another one')\n"
    )
    for folder in (str(tmp_path), os.path.dirname(__file__)):
        monkeypatch.syspath_prepend(folder)
    with pytest.raises(GlaError, match="^the task is impossible; expected another one.$"):
        record_over_ray(
            "wrong_maker:Wrong", None, tmp_path / "s", RayConfig(workers=2), progress=False
        )
    assert HistoryStore.open(tmp_path / "s").complete_blocks() == []
    assert not (tmp_path / "s" / "writer.lock").exists()


def test_settings_and_a_missing_ray_are_named(tmp_path, monkeypatch):
    with pytest.raises(GlaError, match="workers >= 0"):
        RayConfig(workers=-1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(GlaError, match=r"pip install 'gla\[ray\]'"):
        record_over_ray("ppo", CONFIG, tmp_path / "s", RayConfig(workers=2), progress=False)
    assert not (tmp_path / "s").exists()
