"""Recording: one writer, any maker, killed anywhere, in folders and object stores alike."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest

from gla.errors import GlaError
from gla.histories import (
    STREAM_ARRAYS,
    UPDATE_ARRAYS,
    HistoryMaker,
    HistoryMeta,
    HistoryStore,
    Part,
    array_shapes,
    locking,
    record,
)
from gla.histories.places import Place

META = HistoryMeta(
    environment="gla/Made-v0", observation_size=3, action_size=2, discrete=False, horizon=4,
    runs=5, streams_per_run=2, updates=7, steps=4, parallel_envs=6, hidden=4, split="train", seed=7,
    block=2, settings={}, packages={}, method="made", chunk=3,
)  # fmt: skip


class Counting:
    """Makes numbers that follow from their place, and carries a sum from part to part."""

    def __init__(self, meta=META, pause=0.0, resumable=True):
        self.meta, self.pause, self.resumable = meta, pause, resumable
        self.made = []

    def parts(self, runs, first=0, state=None):
        total = 0.0 if state is None else float(state["total"])
        for part in range(first, self.meta.parts):
            self.made.append((runs.start, part))
            time.sleep(self.pause)
            total += 1.0
            updates, arrays = self.meta.updates_of(part), {}
            for name, (shape, dtype) in array_shapes(self.meta).items():
                if name == "target" or name == "target_log_std":
                    continue
                rows = len(runs) * (self.meta.streams_per_run if name in STREAM_ARRAYS else 1)
                shape = (rows, *shape[1:])
                if name in STREAM_ARRAYS or name in UPDATE_ARRAYS:
                    shape = (rows, len(updates), *shape[2:])
                elif part:
                    continue
                rng = np.random.default_rng([runs.start, part, zlib.crc32(name.encode())])
                value = rng.normal(size=shape) + total
                arrays[name] = value > 0 if dtype == "bool" else value.astype(np.float32)
            yield Part(arrays, {"total": np.asarray(total)} if self.resumable else {})


class Labelling(Counting):
    def targets(self, runs, state, observation):
        target = observation[..., :2] + state["total"]
        return {"target": target, "target_log_std": np.full((len(runs), 2), -1.0)}


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_recording_is_what_its_maker_made(tmp_path):
    maker = Counting()
    assert isinstance(maker, HistoryMaker)
    store = record(maker, tmp_path / "s", progress=False)
    assert maker.made == [(run, part) for run in (0, 2, 4) for part in range(3)]
    found = store.read("observation")
    expected = np.concatenate(
        [
            np.concatenate([p.arrays["observation"] for p in Counting().parts(runs)], 1)
            for runs in (range(0, 2), range(2, 4), range(4, 5))
        ]
    )
    np.testing.assert_array_equal(found, expected)
    assert {p.name for p in (tmp_path / "s").iterdir()} == {
        "zarr.json", "blocks", *array_shapes(META)
    }  # fmt: skip


@pytest.mark.parametrize("resumable", [True, False])
def test_a_block_goes_on_after_its_last_complete_part(tmp_path, resumable):
    class Dying(Counting):
        def parts(self, runs, first=0, state=None):
            for number, part in enumerate(super().parts(runs, first, state), first):
                if (runs.start, number) == (2, 2):
                    raise KeyboardInterrupt
                yield part

    with pytest.raises(KeyboardInterrupt):
        record(Dying(resumable=resumable), tmp_path / "s", progress=False)
    store = HistoryStore.open(tmp_path / "s")
    assert store.missing_blocks() == [1, 2]
    assert ("block 1: 1 of 3 parts made" in store.describe()) is resumable
    again = Counting(resumable=resumable)
    record(again, tmp_path / "s", progress=False)
    # The part that was on its way when the maker died is made again.
    expected = [(2, 1), (2, 2)] if resumable else [(2, 0), (2, 1), (2, 2)]
    assert again.made == [*expected, (4, 0), (4, 1), (4, 2)]
    record(Counting(resumable=resumable), tmp_path / "whole", progress=False)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "whole")


def test_progress_that_is_damaged_is_as_good_as_none(tmp_path):
    store = HistoryStore.create_or_resume(tmp_path / "s", META)
    store.save_progress(1, 0, {"total": np.asarray(1.0)})
    assert store.load_progress(1)[0] == 0
    (file,) = (tmp_path / "s" / "progress").iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    assert store.load_progress(1) is None
    maker = Counting()
    record(maker, tmp_path / "s", progress=False)
    assert maker.made[3:6] == [(2, 0), (2, 1), (2, 2)]


def test_targets_are_asked_for_once_a_block_is_made(tmp_path):
    meta = dataclasses.replace(META, arrays=("distribution", "target"))
    store = record(Labelling(meta), tmp_path / "s", progress=False)
    observation, target = store.read("observation"), store.read("target")
    np.testing.assert_allclose(target, observation[..., :2] + 3.0, rtol=1e-6)
    assert set(np.unique(store.read("target_log_std"))) == {-1.0}
    with pytest.raises(GlaError, match="made gives no targets"):
        record(Counting(meta), tmp_path / "t", progress=False)


MAKING = """
import sys
sys.path.insert(0, sys.argv[1])
from test_recording import META, Counting
from gla.histories import record
record(Counting(pause=0.02), sys.argv[2], progress=False)
"""


def wait_for_writer(process, store):
    """Wait until a process has begun to write; the lock of one that was killed is still there."""
    lock = store / "writer.lock"
    while process.poll() is None:
        try:
            if lock.read_text().strip() == str(process.pid):
                return
        except OSError:
            pass
        time.sleep(0.001)


KILLS = int(os.environ.get("GLA_TEST_KILLS", "5"))  # every life costs seconds of importing


def test_kills_leave_no_trace(tmp_path):
    whole = record(Counting(), tmp_path / "whole", progress=False)
    command = [sys.executable, "-c", MAKING, os.path.dirname(__file__), str(tmp_path / "s")]
    rng, kills = np.random.default_rng(1), 0
    for attempt in range(200):
        process = subprocess.Popen(command)
        wait_for_writer(process, tmp_path / "s")
        # Short lives, so that many are needed; longer ones where the machine is busy.
        time.sleep(rng.uniform(0, 0.15) * (1 + attempt / 5))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            assert files_of(tmp_path / "s") == files_of(whole.path), f"after {attempt} attempts"
            if kills >= KILLS:
                return
            shutil.rmtree(tmp_path / "s")
        elif (tmp_path / "s" / "zarr.json").exists():
            # Whatever was complete before is complete and sound.
            store = HistoryStore.open(tmp_path / "s")
            assert store.verify() == []
    raise AssertionError(f"never finished, {kills} kills")


def test_what_a_writer_left_that_was_killed_at_the_very_end_goes(tmp_path):
    store = record(Counting(), tmp_path / "s", progress=False)
    before = files_of(tmp_path / "s")
    (tmp_path / "s" / "progress").mkdir(exist_ok=True)
    for name in ("writer.lock", "progress/00001.npz.__lock"):
        (tmp_path / "s" / name).write_bytes(b"1")
    store.save_progress(0, 0, {"state": np.zeros(1)})
    assert not store.settled()
    assert record(Counting(), tmp_path / "s", progress=False).settled()
    assert files_of(tmp_path / "s") == before


# One writer


HOLDING = """
import sys, time
from gla.histories import HistoryStore
with HistoryStore.open(sys.argv[1]).writing():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_a_dead_one_is_not(tmp_path):
    record(Counting(), tmp_path / "s", progress=False)
    store = HistoryStore.open(tmp_path / "s")
    store.verify(repair=True)
    (tmp_path / "s" / "blocks" / "00001.json").unlink()
    before = files_of(tmp_path / "s")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        for fresh in (False, True):
            with pytest.raises(GlaError) as caught:
                record(Counting(), tmp_path / "s", fresh=fresh, progress=False)
            message = str(caught.value)
            assert f"another process ({process.pid}) is writing" in message
            assert "one writer at a time" in message and "\n" not in message
        after = files_of(tmp_path / "s")
        assert {k: v for k, v in after.items() if k.name != "writer.lock"} == before
    finally:
        process.kill()
        process.wait()
    assert record(Counting(), tmp_path / "s", progress=False).missing_blocks() == []


# Places that fail


def test_a_number_that_half_precision_cannot_hold_is_refused(tmp_path):
    store = HistoryStore.create_or_resume(
        tmp_path / "s", dataclasses.replace(META, storage="float16", chunk=0)
    )
    arrays = {name: np.zeros(s, d) for name, (s, d) in array_shapes(META).items()}
    arrays = {name: value[: 4 if name in STREAM_ARRAYS else 2] for name, value in arrays.items()}
    arrays["observation"][1, 2, 3, 0] = 70000.0
    with pytest.raises(GlaError, match="'observation' holds 70000, which float16 cannot.*bfloat16"):
        store.write_block(0, arrays)
    assert store.complete_blocks() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_place_that_fails_midway_keeps_what_it_has(tmp_path, monkeypatch, number):
    record(Counting(dataclasses.replace(META, runs=5)), tmp_path / "s", progress=False)
    (tmp_path / "s" / "blocks" / "00002.json").unlink()
    wait = HistoryStore.wait

    class Failing:
        def result(self):
            raise ValueError(f"Error writing: {os.strerror(number)} [source=x.cc:1]")

    monkeypatch.setattr(
        HistoryStore, "wait", lambda store, writes: wait(store, [*writes, Failing()])
    )
    with pytest.raises(GlaError) as caught:
        record(Counting(), tmp_path / "s", progress=False)
    words = {errno.ENOSPC: "the disk is full", errno.EROFS: "the file system is read-only"}
    assert words[number] in str(caught.value) and "source=" not in str(caught.value)
    monkeypatch.undo()
    store = HistoryStore.open(tmp_path / "s")
    assert store.complete_blocks() == [0, 1] and store.verify() == []
    assert not (tmp_path / "s" / "writer.lock").exists()


# Object stores


class FakeS3(BaseHTTPRequestHandler):
    """As much of S3 as a store needs: objects, conditional writes, lists, one bucket."""

    objects: dict[str, bytes] = {}
    lock = threading.Lock()

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("x-amz-bucket-region", "us-east-1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def etag(self, value):
        return f'"{zlib.crc32(value):08x}-{len(value)}"'

    def key(self):
        return unquote(urlsplit(self.path).path).removeprefix("/bucket").removeprefix("/")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query)
        with self.lock:
            if "list-type" in query:
                prefix = query.get("prefix", [""])[0]
                after = query.get("start-after", [""])[0]
                keys = [k for k in sorted(self.objects) if k.startswith(prefix) and k > after]
                items = "".join(
                    f"<Contents><Key>{k}</Key><Size>{len(self.objects[k])}</Size></Contents>"
                    for k in keys
                )
                text = (
                    '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>'
                    f"<KeyCount>{len(keys)}</KeyCount>{items}</ListBucketResult>"
                )
                return self.answer(200, text.encode(), [("Content-Type", "application/xml")])
            if not self.key():
                return self.answer(200)
            value = self.objects.get(self.key())
        if value is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        headers = [("ETag", self.etag(value))]
        if self.headers.get("If-None-Match") == self.etag(value):
            return self.answer(304, b"", headers)
        wanted = self.headers.get("Range")
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            size = len(value)
            if not first:
                first, last = max(0, size - int(last)), size - 1
            first, last = int(first), min(int(last or size - 1), size - 1)
            headers.append(("Content-Range", f"bytes {first}-{last}/{size}"))
            return self.answer(206, value[first : last + 1], headers)
        return self.answer(200, value, headers)

    def do_PUT(self):
        value = self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            old = self.objects.get(self.key())
            if self.headers.get("If-None-Match") == "*" and old is not None:
                return self.answer(412)
            match = self.headers.get("If-Match")
            if match and (old is None or match != self.etag(old)):
                return self.answer(412)
            self.objects[self.key()] = value
        return self.answer(200, b"", [("ETag", self.etag(value))])

    def do_DELETE(self):
        with self.lock:
            self.objects.pop(self.key(), None)
        self.answer(204)


@pytest.fixture
def bucket(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeS3)
    FakeS3.objects = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def s3(bucket, prefix):
    return {
        "driver": "s3", "bucket": "bucket", "path": prefix, "endpoint": bucket,
        "aws_region": "us-east-1", "aws_credentials": {"type": "anonymous"},
    }  # fmt: skip


def test_an_object_store_holds_the_same_histories(bucket, tmp_path, monkeypatch):
    # A URL cannot name an endpoint of one's own, so the place is told of this one.
    import tensorstore as ts

    opened = ts.KvStore.open
    monkeypatch.setattr(
        ts.KvStore, "open",
        lambda spec, **more: opened(
            s3(bucket, spec.removeprefix("s3://bucket/")) if isinstance(spec, str) else spec, **more
        ),
    )  # fmt: skip
    here = record(Counting(), tmp_path / "s", progress=False)
    there = record(Counting(), "s3://bucket/some/histories", progress=False)
    assert there.path == "s3://bucket/some/histories/"
    again = HistoryStore.open("s3://bucket/some/histories")
    for name in array_shapes(META):
        np.testing.assert_array_equal(again.read(name), here.read(name), err_msg=name)
    assert again.verify() == [] and again.missing_blocks() == []
    prefix = "some/histories/"
    found = {key.removeprefix(prefix): value for key, value in FakeS3.objects.items()}
    assert found == {str(k): v for k, v in files_of(tmp_path / "s").items()}
    # Damage is found, and mended by another recording.
    key = next(k for k in FakeS3.objects if k.startswith(prefix + "reward/c/1/"))
    FakeS3.objects[key] = FakeS3.objects[key][:-3]
    assert len(again.verify(repair=True)) == 1
    again = record(Counting(), "s3://bucket/some/histories", progress=False)
    assert again.verify() == []
    # Fresh deletes this store and nothing else.
    FakeS3.objects["some/other"] = b"kept"
    record(Counting(), "s3://bucket/some/histories", fresh=True, progress=False)
    assert FakeS3.objects["some/other"] == b"kept"


def test_a_lease_is_refused_until_it_ends(monkeypatch):
    place = Place("memory://leases/a")
    with locking.writer_lock(place):
        with (
            pytest.raises(GlaError, match="process .* is writing .*one writer at a time"),
            locking.writer_lock(place),
        ):
            pass
        held = json.loads(place.read(locking.LOCK))
        assert held["pid"] == os.getpid() and held["expires"] > time.time() + 200
    assert place.read(locking.LOCK) is None, "it is given back"
    # Of a process of another machine that was killed: free once it was not renewed in time.
    other = {"token": "x", "host": "elsewhere", "pid": 1}
    place.write(locking.LOCK, json.dumps({**other, "expires": time.time() + 100}).encode())
    with (
        pytest.raises(GlaError, match=r"process 1 on elsewhere .*or \d+ s if it was killed"),
        locking.writer_lock(place),
    ):
        pass
    place.write(locking.LOCK, json.dumps({**other, "expires": time.time() - 1}).encode())
    with locking.writer_lock(place):
        pass
    # Of a process of this machine that is no more: free at once.
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ours = {"token": "x", "host": socket.gethostname(), "pid": gone.pid}
    place.write(locking.LOCK, json.dumps({**ours, "expires": time.time() + 100}).encode())
    with locking.writer_lock(place):
        pass


def test_a_lease_is_renewed_while_its_holder_lives(monkeypatch):
    monkeypatch.setattr(locking, "LEASE", 0.5)
    place = Place("memory://leases/b")
    with locking.writer_lock(place):
        first = json.loads(place.read(locking.LOCK))["expires"]
        time.sleep(0.4)
        assert json.loads(place.read(locking.LOCK))["expires"] > first


def test_an_unknown_kind_of_place_is_named():
    with pytest.raises(GlaError, match="nowhere://x/ cannot be opened .*s3://bucket"):
        HistoryStore.open("nowhere://x")
