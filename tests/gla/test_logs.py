"""Logs of training: what is in the files, also after a run was cut short and went on."""

import dataclasses
import json
import struct
import sys

import numpy as np
import pytest

from gla.errors import GlaError
from gla.logs import Logs, MetricsLog, TensorBoardLog, as_json
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig
from gla.progress import Progress
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.training import MetaTrainConfig, meta_train


def points(folder):
    """Curves {name: {step: value}} as TensorBoard shows them, read from the files' records."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    curves = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        data, place = file.read_bytes(), 0
        while place < len(data):  # length, its checksum, the record, its checksum
            (size,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + size])
            place += 12 + size + 4
            if event.session_log.status == SessionLog.START:
                for curve in curves.values():
                    for step in [step for step in curve if step >= event.step]:
                        del curve[step]
            for value in event.summary.value:
                curve = curves.setdefault(value.tag, {})
                assert event.step not in curve, "a doubled point"
                curve[event.step] = value.simple_value
    return curves


def test_values_become_json():
    values = {
        "a": np.float32(0.5),
        "b": np.array([1.0, np.nan]),
        "c": {"d": np.int64(3)},
        "e": None,
    }
    assert as_json(values) == {"a": 0.5, "b": [1.0, None], "c": {"d": 3}, "e": None}
    assert as_json(float("inf")) is None and as_json("text") == "text"


def test_lines_after_the_resumed_step_are_cut_off(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (2, 4, 6):
        log.write(step, loss=np.float32(step))
    file = tmp_path / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 8, "lo')
    MetricsLog(tmp_path, 4).write(6, loss=7.0)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert found == [
        {"step": 2, "loss": 2.0}, {"step": 4, "loss": 4.0}, {"step": 6, "loss": 7.0}
    ]  # fmt: skip


def test_tensorboard_shows_every_point_once_after_a_resume(tmp_path):
    with Logs(tmp_path, 0, tensorboard=True) as logs:
        for step in (2, 4, 6):
            logs.write(step, loss=1.0 * step, by_segment=np.array([1.0, 2.0]), validation={"x": 5})
    with Logs(tmp_path, 4, tensorboard=True) as logs:
        logs.write(6, loss=60.0, by_segment=[None, np.nan], validation={"x": 7})
    assert points(tmp_path) == {
        "loss": {2: 2.0, 4: 4.0, 6: 60.0},
        "by_segment/0": {2: 1.0, 4: 1.0},
        "by_segment/1": {2: 2.0, 4: 2.0},
        "validation/x": {2: 5.0, 4: 5.0, 6: 7.0},
    }


def test_a_run_that_goes_on_doubles_no_point(policy_store, tmp_path, monkeypatch):
    config = MetaTrainConfig(
        histories=(policy_store(tmp_path / "s"),),
        projection=ProjectionConfig(4, 3, "identity"),
        sampling=SamplingConfig(segments=2, segment_length=4, first_update=(0, 1), gap=(1, 2)),
        model=ModelConfig(backbone="memoryless", width=8, layers=1, heads=1, mlp=1),
        optimizer=OptimizerConfig(warmup=0),
        batch_size=2,
        steps=8,
        steps_per_dispatch=2,
        checkpoint_every=4,
    )
    advance = Progress.advance

    def stopped(self, amount, note=""):
        advance(self, amount, note)
        if self._done == 6:
            raise ValueError("no checkpoint of step 6")

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", stopped)
        with pytest.raises(ValueError, match="no checkpoint"):
            meta_train(
                dataclasses.replace(config, tensorboard=True), tmp_path / "c", progress=False
            )
    folder = meta_train(
        dataclasses.replace(config, tensorboard=True), tmp_path / "c", progress=False
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curves = points(folder)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for name in ("loss", "gradient_norm", "learning_rate"):
        expected = {line["step"]: pytest.approx(line[name], rel=1e-6) for line in lines}
        assert curves[name] == expected, name


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(GlaError, match=r'pip install "gla\[tensorboard\]"'):
        TensorBoardLog(tmp_path, 0)


def test_other_processes_write_nothing(tmp_path):
    with Logs(tmp_path, 0, tensorboard=True, writes=False) as logs:
        logs.write(2, loss=1.0)
        logs.flush()
    assert list(tmp_path.iterdir()) == []
