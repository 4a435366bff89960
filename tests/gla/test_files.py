"""Files appear whole or not at all, and a disk that says no is quoted in plain words."""

import errno
import json
import os
import pickle
import tempfile

import pytest

from gla.errors import GlaError, near_matches
from gla.files import os_errors, write_json, write_text


def test_text_is_written_and_folders_are_made(tmp_path):
    file = tmp_path / "a" / "b" / "notes.txt"
    write_text(file, "grüße\n")
    assert file.read_text(encoding="utf-8") == "grüße\n"
    assert file.stat().st_mode & 0o777 == 0o644
    write_text(file, "new")
    assert file.read_text() == "new"
    assert [p.name for p in file.parent.iterdir()] == ["notes.txt"], "no temporary file is left"


def test_json_keeps_its_order(tmp_path):
    write_json(tmp_path / "x.json", {"b": 1, "a": [1.5, None]})
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"b": 1, "a": [1.5, None]}
    assert text.index('"b"') < text.index('"a"') and text.endswith("\n")


@pytest.mark.parametrize("failing", ["replace", "fsync"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"]
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing, error):
    file = tmp_path / "x.json"
    write_json(file, {"old": True})

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises((GlaError, KeyboardInterrupt)) as caught:
        write_json(file, {"new": True})
    monkeypatch.undo()
    assert isinstance(caught.value, GlaError) == isinstance(error, OSError)
    assert json.loads(file.read_text()) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("number", "reason", "mend"),
    [
        (errno.ENOSPC, "the disk is full", "free some space"),
        (errno.EDQUOT, "quota is used up", "free some space"),
        (errno.EROFS, "read-only", "choose another output folder"),
        (errno.EACCES, "permission is denied", "may write to"),
        (errno.EPERM, "permission is denied", "may write to"),
        (errno.ENOTDIR, "a part of the path is a file", "another output folder"),
    ],
)
def test_reasons_are_plain(tmp_path, monkeypatch, number, reason, mend):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkstemp", fail)
    with pytest.raises(GlaError) as caught:
        write_text(tmp_path / "x", "text")
    message = str(caught.value)
    assert message.startswith(f"cannot write {tmp_path / 'x'}: ")
    assert reason in message and mend in message and "\n" not in message
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_an_error_without_a_number_is_known_by_its_words(tmp_path):
    # TensorStore passes on the system's words inside its own.
    text = f"RESOURCE_EXHAUSTED: Failed to write 83 bytes: {os.strerror(errno.ENOSPC)} [os=28]"
    full = pytest.raises(GlaError, match="cannot save x: the disk is full; free")
    with full, os_errors("x", "save"):
        raise OSError(text)


def test_an_unknown_error_is_quoted():
    quoted = pytest.raises(GlaError, match="cannot save x: the moon is wrong; check the path")
    with quoted, os_errors("x", "save"):
        raise OSError("the moon is wrong")


def test_other_errors_pass():
    with pytest.raises(ValueError, match="mine"), os_errors("x", "save"):
        raise ValueError("mine")
    with pytest.raises(GlaError, match="^already plain.$"), os_errors("x", "save"):
        raise GlaError("already plain")


def test_a_file_in_the_way_is_said_plainly(tmp_path):
    (tmp_path / "file").write_text("here first")
    with pytest.raises(GlaError, match="cannot write"):
        write_text(tmp_path / "file" / "x.txt", "text")
    assert (tmp_path / "file").read_text() == "here first"


def test_the_error_is_one_line_and_survives_pickling():
    error = GlaError("width is 3.", "a whole number above 4.", "raise it")
    assert str(error) == "width is 3; expected a whole number above 4; raise it."
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.mend == "raise it"


def test_near_matches_are_suggested():
    known = ["Pendulum-v0", "CartPole-v0", "Ant-v0"]
    assert near_matches("pendulm-v0", known).startswith(" (did you mean Pendulum-v0")
    assert near_matches("zzzzzz", known) == ""
