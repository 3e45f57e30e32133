"""Nothing secret and no place of this machine gets past the scan, and no refusal shows it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.errors import WorkspaceError
from adapt.publish.scan import refuse, scan
from tests.publish.conftest import safetensors

HOME = Path.home()
LETTERS = "abcdefghijABCDEFGHIJ0123456789"


def found(name, text, folders=(), secrets=()):
    findings = scan({name: text.encode()}, folders=folders, secrets=secrets)
    return [(finding.line, finding.what) for finding in findings]


def random(size, alphabet=LETTERS):
    return st.text(alphabet, min_size=size, max_size=size)


SECRETS = {
    "a Hugging Face token": random(34).map("hf_{}".format),
    "a wandb key": random(40, "0123456789abcdef").map("WANDB_API_KEY={}".format),
    "an AWS key": random(16, "ABCDEFGH234567").map("AKIA{}".format),
    "a bearer token": random(30).map("Authorization: Bearer {}".format),
    "a private key": st.sampled_from(["", "RSA "]).map("-----BEGIN {}PRIVATE KEY-----".format),
    "a GitHub token": random(36).map("ghp_{}".format),
    "an API key": random(40).map("sk-proj-{}".format),
    "a password in an address": random(12).map("https://anna:{}@example.org".format),
}


@pytest.mark.parametrize("name", ["README.md", "tokenizer.json", "a.jinja", "a.yaml", "a.model"])
@pytest.mark.parametrize("kind", SECRETS)
@given(data=st.data())
def test_secrets_are_found_in_every_file_and_never_shown(kind, name, data):
    secret = data.draw(SECRETS[kind])
    above = data.draw(st.integers(0, 5))
    text = "some text\n" * above + f'"note": "{secret}"\n'
    assert (above + 1, kind) in found(name, text)
    findings = scan({name: text.encode()}, secrets=[])
    with pytest.raises(WorkspaceError) as caught:
        refuse(findings)
    line = str(caught.value)
    assert line.startswith(f"{name}:{above + 1}: holds {findings[0].what}")
    assert max(secret.split(), key=len) not in line
    assert "\n" not in line


@given(known=random(12), name=st.sampled_from(["README.md", "vocab.json", "tokenizer.model"]))
def test_secrets_of_the_environment_are_found_whatever_they_look_like(known, name):
    assert (2, "a secret of this environment") in found(name, f"x\ny{known}z", secrets=[known])


def test_environment_is_read(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "unlike-any-pattern")
    (finding,) = scan({"a.md": b"key: unlike-any-pattern"})
    assert finding.what == "a secret of this environment"


PATHS = [
    "/home/anna/data.jsonl",
    "/opt/x/y",
    "~/lists/terms.txt",
    "~anna/x",
    "C:\\\\Users\\\\anna",
    "C:/Users/anna",
    "file:///data",
    "\\/home\\/anna\\/x",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("frame", ['"a": "{}"', "see {} there", "({})", "a: {}", "={}"])
def test_absolute_paths_are_found(path, frame):
    assert (1, "an absolute path") in found("config.json", frame.format(path))


@pytest.mark.parametrize("key", ["base_model_name_or_path", "cache_dir", "vocab_file"])
def test_short_path_is_found_by_its_key(key):
    assert found("config.json", json.dumps({key: "/model"})) == [(1, "an absolute path")]


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a/licence and http://x.y/a/b",
        "data/medical/corpus.jsonl",
        "hp/releases/2025-01-16",
        "and/or, bytes/s, 1/2/3, n/a/b",
        "{{ '</think>' }}{% if x %}[/INST]</s>",
        '"eos_token": "<|im_end|>", "pad": "/"',
        "org/name, a rate of ~5, C: x",
        "the revision 3f786850e387550fdab836ed7e6dc881de23001b",
        "task-specific-settings-of-a-long-name",
    ],
)
def test_what_only_looks_like_one_is_not_found(text):
    assert found("README.md", text) == []


def test_vocabularies_may_hold_paths_as_tokens_but_none_of_this_machine(tmp_path):
    tokens = json.dumps({"vocab": {"/usr/local/bin": 1, "/root": 2, str(HOME): 3, "~/x": 4}})
    assert found("tokenizer.json", tokens, [tmp_path]) == []
    assert found("config.json", tokens, [tmp_path]) != []
    for place in (tmp_path, tmp_path / "x.json", HOME / "projects" / "notes.txt"):
        assert found("tokenizer.json", f"\n{place}", [tmp_path]) == [
            (2, "a folder of this machine")
        ]


def test_folder_beside_the_run_is_another(tmp_path):
    assert found("tokenizer.json", f"{tmp_path}-other", [tmp_path]) == []


def test_metadata_of_safetensors_is_read_and_weights_are_not(tmp_path):
    secret = b"hf_" + b"q" * 34
    weights = safetensors([1.0]) + secret
    assert scan({"model.safetensors": weights}, secrets=[]) == []
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors([1.0], {"format": "pt", "from": "/home/anna/x"}))
    (finding,) = scan({"model.safetensors": path}, secrets=[])
    assert (finding.what, finding.line) == ("an absolute path", 3)


@pytest.mark.parametrize("broken", [b"", b"\xff" * 20, (4).to_bytes(8, "little") + b"[1]\n"])
def test_broken_safetensors_are_somebody_else_s_error(broken):
    assert scan({"model.safetensors": broken}, secrets=[]) == []


def test_refusal_names_the_others():
    text = "/home/a/b\n" * 7
    with pytest.raises(WorkspaceError, match=r"a.md:1: .* \(and 6 more: a.md:2 an absolute path"):
        refuse(scan({"a.md": text.encode()}, secrets=[]))
    refuse([])
