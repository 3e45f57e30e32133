"""The run folder: nothing that looks finished unless it is, and never somebody else's."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adapt.errors import WorkspaceError
from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from adapt.workspace import (
    Workspace,
    digest,
    fingerprint,
    new_folder,
    sampled_digest,
    write_json,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def names(folder):
    """All there is in a folder, hidden files too."""
    return sorted(os.listdir(folder))


# -- whole or not at all -----------------------------------------------------------------------


def test_write_text_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "old")
    write_text(path, "süß\n")
    assert path.read_bytes() == "süß\n".encode()
    assert names(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_write_text_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_write_text_that_cannot_be_put_in_place_leaves_no_temporary_file(tmp_path):
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_text(tmp_path / "file.txt", "new")
    assert names(tmp_path) == ["file.txt"]


def test_write_json_that_cannot_be_said_writes_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"a": object()})
    assert names(tmp_path) == []


@given(JSON)
def test_write_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "file.json"
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value


def test_new_folder_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "runs" / "folder"
    with new_folder(path) as unfinished:
        (unfinished / "a").write_text("1")
        assert not path.exists()
    assert names(path) == ["a"]
    assert names(path.parent) == ["folder"]
    assert path.stat().st_mode & 0o777 == 0o755


def test_new_folder_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("1")
    with new_folder(path) as unfinished:
        (unfinished / "new").write_text("2")
        assert names(path) == ["old"]
    assert names(path) == ["new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_new_folder_that_fails_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("1")

    def fill():
        with new_folder(path) as unfinished:
            (unfinished / "new").write_text("2")
            raise error

    with pytest.raises(error):
        fill()
    assert names(tmp_path) == ["folder"]
    assert names(path) == ["old"]


# -- manifests ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "days", "held", "stays"),
    [
        (".target.abcd_123", 2, False, False),
        (".target.abcd_123", 2, True, True),
        (".target.abcd_123", 0, False, True),
        (".target.distilling", 2, False, True),
        (".other.abcd_123", 2, False, True),
        ("target.abcd_123", 2, False, True),
    ],
)
def test_what_a_killed_process_left_is_swept(name, days, held, stays, tmp_path):
    left = tmp_path / name
    left.mkdir()
    (left / "file").write_text("half")
    past = time.time() - days * 86_400
    os.utime(left, (past, past))
    holder = None
    if held:  # by a process that is alive
        code = (
            "import fcntl, os, sys; h = os.open(sys.argv[1], os.O_RDONLY);"
            "fcntl.flock(h, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(left)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        holder.stdout.readline()
    with new_folder(tmp_path / "target") as folder:
        (folder / "new").write_text("whole")
    if holder:
        holder.communicate()
    assert left.exists() is stays
    assert names(tmp_path / "target") == ["new"]


def test_a_folder_under_way_is_not_swept_however_long_it_takes(tmp_path):
    with new_folder(tmp_path / "target") as first:
        os.utime(first, (0, 0))
        with new_folder(tmp_path / "target") as second:
            (second / "second").touch()
        assert first.is_dir()
    assert names(tmp_path) == ["target"]


def test_finished_only_with_the_same_fingerprint(tmp_path):
    workspace = Workspace(tmp_path)
    assert workspace.finished("vocab", "abc") is None
    workspace.finish("vocab", "abc", {"new_tokens": 5}, {"added": 5}, 1.23456)
    record = workspace.finished("vocab", "abc")
    assert record["inputs"] == {"new_tokens": 5}
    assert record["result"] == {"added": 5}
    assert record["seconds"] == 1.235
    assert {"torch", "transformers", "tokenizers", "peft"} <= set(record["versions"])
    assert workspace.finished("vocab", "abd") is None
    assert workspace.finished("corpus", "abc") is None


def test_start_takes_the_manifest_away(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.finish("vocab", "abc", None, None, 0.0)
    workspace.start("vocab")
    assert workspace.finished("vocab", "abc") is None
    workspace.start("vocab")  # as often as one likes


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", "{}", '"abc"', "\udce9"])
def test_spoilt_manifest_is_no_manifest(tmp_path, content):
    workspace = Workspace(tmp_path)
    path = workspace.manifest("vocab")
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert workspace.finished("vocab", "abc") is None


def test_paths_lie_in_the_run_folder_under_different_names(tmp_path):
    workspace = Workspace(tmp_path)
    properties = [n for n, v in vars(Workspace).items() if isinstance(v, property)]
    paths = [getattr(workspace, name) for name in properties]
    assert len(set(paths)) == len(paths) >= 9
    assert all(path.parent == tmp_path for path in paths)


# -- whose folder it is ------------------------------------------------------------------------


def claim(root, name="medical", base="org/model"):
    Workspace(root).claim(name, base)


def owned(root, content="name: medical\nmodel: {base: org/model}\n"):
    root.mkdir()
    (root / "recipe.yaml").write_text(content, encoding="latin-1")
    return root


def test_claim_accepts_new_empty_and_own(tmp_path):
    claim(tmp_path / "new" / "deep")
    assert names(tmp_path) == []  # and makes nothing
    claim(tmp_path)
    claim(owned(tmp_path / "own"))


def test_claim_accepts_what_a_crash_in_the_first_write_leaves(tmp_path):
    (tmp_path / ".recipe.yaml.x1y2").write_text("name: medi")
    with Workspace(tmp_path).held():
        claim(tmp_path)
    claim(tmp_path)


HOLD = """
import sys
from pathlib import Path
from adapt.workspace import Workspace
with Workspace(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the folder `run`."""
    pipe = subprocess.PIPE
    code = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(code, stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_one_process_at_a_time_works_in_a_folder(other, tmp_path):
    with (
        pytest.raises(WorkspaceError, match="another process is at work"),
        Workspace(tmp_path / "run").held(),
    ):
        pass
    other.kill()
    other.wait()
    with Workspace(tmp_path / "run").held():
        pass


def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(other, tmp_path, tiny_recipe):
    recipe = load_recipe(tiny_recipe())
    with pytest.raises(WorkspaceError, match="another process is at work"):
        Pipeline(recipe).run()
    assert names(Path(recipe.output_dir)) == ["run.lock"]


def test_a_second_evaluate_in_a_folder_waits_for_nobody(
    other, adapt, tiny_recipe, tiny_base, tmp_path
):
    given = ("evaluate", tiny_base, "--recipe", tiny_recipe(), "--output", tmp_path / "run")
    code, _, err = adapt(*given)
    assert code == 2
    assert "another process is at work in it" in err
    assert names(tmp_path / "run") == ["run.lock"]
    other.kill()
    other.wait()
    assert adapt(*given)[0] == 0  # the lock alone is not somebody's files


@pytest.mark.parametrize(("name", "base"), [("legal", "org/model"), ("medical", "org/other")])
def test_claim_refuses_the_run_of_another_recipe(tmp_path, name, base):
    root = owned(tmp_path / "own")
    with pytest.raises(WorkspaceError, match="another recipe .name medical, base org/model"):
        claim(root, name, base)


@pytest.mark.parametrize(
    "content",
    ["", "a: [", "[]", "name: medical", "name: medical\nmodel: x", "name: caf\xe9", "model: {}"],
)
def test_claim_refuses_a_recipe_that_is_none(tmp_path, content):
    root = owned(tmp_path / "own", content)
    with pytest.raises(WorkspaceError, match="files that are not a run of adapt"):
        claim(root)


@pytest.mark.parametrize("name", ["thesis.docx", ".git", "corpus"])
def test_claim_refuses_a_folder_of_strangers(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(WorkspaceError, match="files that are not a run of adapt"):
        claim(tmp_path)
    assert names(tmp_path) == [name]


def test_claim_refuses_a_file_and_a_place_below_one(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for root in (file, file / "runs" / "medical"):
        with pytest.raises(WorkspaceError, match=r"file: is a file; choose another output_dir"):
            claim(root)


def test_claim_refuses_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    # The permissions themselves would not stop a root user, as whom machines often run tests.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(WorkspaceError, match="cannot be written to"):
        claim(tmp_path / "runs")


def test_claim_knows_a_name_that_looks_like_a_number(tmp_path):
    from adapt.recipe import dump_recipe
    from adapt.recipe.schema import Recipe

    recipe = Recipe.model_validate(
        {
            "name": "1e5",
            "output_dir": "run",
            "model": {"base": "5e-4"},
            "corpus": {"sources": [{"path": "a.txt"}]},
            "training": {"phases": [{"name": "d", "objective": "clm", "max_steps": 1}]},
        }
    )
    claim(owned(tmp_path / "own", dump_recipe(recipe)), "1e5", "5e-4")
    assert yaml.safe_load(dump_recipe(recipe))["name"] == "1e5"


# -- fingerprints ------------------------------------------------------------------------------


@given(JSON, JSON)
def test_fingerprints_are_equal_exactly_when_the_inputs_are(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(one) == fingerprint(other)) == same
    assert fingerprint(one) == fingerprint(json.loads(json.dumps(one)))


def test_fingerprint_knows_no_order_of_keys():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_digest_of_files_and_folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "a").write_text("text")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    (tmp_path / "two" / "in" / "a").write_text("Text")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")
    (tmp_path / "two" / "in" / "a").write_text("text")
    (tmp_path / "two" / "in" / "a").rename(tmp_path / "two" / "in" / "b")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 5 * 2**20])
def test_a_sample_tells_files_apart_and_not_copies(size, tmp_path):
    path = tmp_path / "one"
    path.write_bytes(bytes(size))
    before = sampled_digest(path)
    assert sampled_digest(Path(shutil.copy(path, tmp_path / "copy"))) == before
    for at in {0, size // 2, max(size - 100_000, 0)} if size else ():
        changed = bytearray(size)
        changed[at : at + 100_000] = b"1" * min(100_000, size - at)
        path.write_bytes(changed)
        assert sampled_digest(path) != before
