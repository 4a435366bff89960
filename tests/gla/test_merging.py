"""Several stores become one, or nothing happens and the first difference is named."""

import numpy as np
import pytest

from gla import cli
from gla.errors import GlaError
from gla.histories import HistoryStore, array_shapes, identity, record
from gla.histories.merging import MergeMaker, merge


@pytest.mark.parametrize("changes", [{}, {"discrete": True}, {"storage": "bfloat16"}])
def test_runs_follow_each_other(random_store, tmp_path, changes):
    sources = [
        random_store(tmp_path / "a", **changes),
        random_store(
            tmp_path / "b", seed=8, runs=3, block=3, chunk=0, packages={"jax": "1"}, **changes
        ),
        random_store(tmp_path / "c", seed=9, runs=1, method="other", **changes),
    ]
    merged = merge([one.path for one in sources], tmp_path / "m", progress=False)
    meta = merged.meta
    assert (meta.runs, meta.block, meta.chunk, meta.blocks) == (9, 2, 3, 5)
    assert (meta.method, meta.packages) == ("ppo+other", {"jax": "0, 1", "numpy": "2"})
    assert meta.settings["merged"] == [identity(one.meta) for one in sources]
    assert merged.missing_blocks() == [] and merged.verify() == []
    for name in array_shapes(meta):
        expected = np.concatenate([one.read(name) for one in sources])
        np.testing.assert_array_equal(merged.read(name), expected, name)
    scores = np.concatenate([one.scores().score for one in sources])
    np.testing.assert_array_equal(merged.scores().score, scores)


def test_a_merged_store_is_merged_again(random_store, tmp_path):
    one, two, three = (random_store(tmp_path / n, seed=i).path for i, n in enumerate("abc"))
    first = merge([one, two], tmp_path / "m", progress=False)
    second = merge([first.path, three], tmp_path / "n", progress=False)
    assert second.meta.runs == 15 and second.meta.method == "ppo"
    np.testing.assert_array_equal(second.read("reward")[:20], first.read("reward"))


def test_a_killed_merge_goes_on(random_store, tmp_path):
    sources = [random_store(tmp_path / "a"), random_store(tmp_path / "b", seed=8)]
    maker, made = MergeMaker(sources), []

    class Killed(Exception):
        pass

    def parts(runs, first=0, state=None):
        for number, part in enumerate(MergeMaker.parts(maker, runs, first, state), first):
            made.append((runs.start, number))
            if made[-1] == (4, 2) and made.count((4, 2)) == 1:
                raise Killed
            yield part

    maker.parts = parts
    with pytest.raises(Killed):
        record(maker, tmp_path / "m", progress=False)
    done = len(made)
    merged = record(maker, tmp_path / "m", progress=False)
    assert made[done] == (4, 1), "neither complete blocks nor kept parts are made again"
    expected = np.concatenate([one.read("observation") for one in sources])
    np.testing.assert_array_equal(merged.read("observation"), expected)
    # Again, and there is nothing to do.
    del maker.parts
    merge([one.path for one in sources], tmp_path / "m", progress=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"environment": "gla/Other-v0"}, "environment 'gla/Other-v0' instead of 'gla/Made-v0'"),
        ({"observation_size": 4}, "observation_size 4 instead of 3"),
        ({"steps": 5}, "steps 5 instead of 4"),
        ({"updates": 6}, "updates 6 instead of 7"),
        ({"streams_per_run": 1}, "streams_per_run 1 instead of 2"),
        ({"storage": "float16"}, "storage 'float16' instead of 'float32'"),
        ({"arrays": ("value",)}, r"arrays \['value'\] instead of"),
        ({"hidden": 5}, "hidden 5 instead of 4"),
        ({"split": "test"}, "split 'test' instead of 'train'"),
        ({"updates": 6, "steps": 5}, "updates 6 instead of 7"),
    ],
)
def test_the_first_difference_is_named(random_store, tmp_path, changes, words):
    random_store(tmp_path / "a")
    random_store(tmp_path / "b", seed=8, **changes)
    with pytest.raises(GlaError, match=f"b do not go with those in .*a: {words}"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m", progress=False)
    assert not (tmp_path / "m").exists()


def test_policies_of_other_sizes_matter_only_where_there_are_any(random_store, tmp_path):
    for name, hidden in (("a", 4), ("b", 5)):
        random_store(tmp_path / name, hidden=hidden, seed=hidden, arrays=())
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m", progress=False)


def test_the_same_histories_twice_are_refused(random_store, tmp_path):
    random_store(tmp_path / "a")
    random_store(tmp_path / "copy", packages={})
    with pytest.raises(GlaError, match="copy are those in .*a once more"):
        merge([tmp_path / "a", tmp_path / "copy"], tmp_path / "m")


def test_an_incomplete_store_is_refused(random_store, tmp_path):
    random_store(tmp_path / "a")
    random_store(tmp_path / "b", seed=8, blocks=[0, 2])
    with pytest.raises(GlaError, match="b are incomplete: 1 of 3 blocks are missing"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m")


def test_a_damaged_source_is_said_plainly(random_store, tmp_path):
    random_store(tmp_path / "a")
    store = random_store(tmp_path / "b", seed=8)
    for file in (tmp_path / "b" / "reward" / "c").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(GlaError, match=f"array 'reward' of the histories in {store.path} is damag"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m", progress=False)


def test_a_source_is_never_written_to(random_store, tmp_path):
    random_store(tmp_path / "a")
    random_store(tmp_path / "b", seed=8)
    with pytest.raises(GlaError, match="written to at once"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "x" / ".." / "b", fresh=True)
    assert HistoryStore.open(tmp_path / "b").missing_blocks() == []


def test_the_command(random_store, tmp_path, capsys):
    folders = [str(random_store(tmp_path / n, seed=i).path) for i, n in enumerate("ab")]
    out = str(tmp_path / "m")
    assert cli.main(["histories", "merge", *folders, out]) == 0
    assert "10 of 10 runs complete" in capsys.readouterr().out
    assert cli.main(["histories", "merge", folders[0], out]) == 2
    assert "FOLDER FOLDER... OUT" in capsys.readouterr().err
    assert cli.main(["histories", "merge", *reversed(folders), out]) == 2
    assert "other settings" in capsys.readouterr().err
    assert cli.main(["histories", "merge", *reversed(folders), out, "--fresh"]) == 0
