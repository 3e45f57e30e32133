"""Only the adapter's own files go to the Hub, and a refusal is one line."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from adapt.errors import WorkspaceError
from adapt.publish import hub

BELONGS = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab_delta.json",
]
STAYS = [
    ".env",
    "adapter_model.bin",
    "checkpoint-5/adapter_model.safetensors",
    "checkpoint-5/trainer_state.json",
    "events.out.tfevents",
    "model.safetensors",
    "notes.txt",
    "optimizer.pt",
    "training_args.bin",
]


@pytest.fixture
def folder(tmp_path):
    """An adapter beside things that are nobody's business."""
    for name in BELONGS + STAYS:
        path = tmp_path / "adapter" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path / "adapter"


class Hub:
    """Stands in for `HfApi`; keeps what it is given."""

    def __init__(self):
        self.repositories = {}
        self.uploaded = {}
        self.failure = None

    def create_repo(self, repo_id, *, private, exist_ok):
        assert exist_ok
        if self.failure:
            raise self.failure
        self.repositories[repo_id] = private

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, ignore_patterns, **_):
        paths = [
            str(p.relative_to(folder_path)) for p in Path(folder_path).rglob("*") if p.is_file()
        ]
        kept = filter_repo_objects(
            paths, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        self.uploaded.setdefault(repo_id, []).append(sorted(kept))
        return f"https://hub/{repo_id}/commit/1"


@pytest.fixture
def stub(monkeypatch):
    stub = Hub()
    monkeypatch.setattr(hub, "HfApi", lambda: stub)
    return stub


@pytest.mark.parametrize("private", [True, False])
def test_only_the_adapter_s_files_go_in_one_commit(stub, folder, private):
    address = hub.push_adapter(folder, "org/adapter", private=private)
    assert address == "https://hub/org/adapter/commit/1"
    assert stub.repositories == {"org/adapter": private}
    assert stub.uploaded == {"org/adapter": [sorted(BELONGS)]}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (OSError("401 Client Error.\n\nInvalid token\n"), "OSError: 401 Client Error."),
        (ValueError(""), "ValueError: "),
        (ConnectionError("offline"), "ConnectionError: offline"),
    ],
)
def test_refusal_is_one_line(stub, folder, failure, reason):
    stub.failure = failure
    with pytest.raises(WorkspaceError) as caught:
        hub.push_adapter(folder, "org/adapter", private=False)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("publish.hub_model_id: the adapter could not be uploaded (")
    assert reason.strip() in line
    assert "the run is finished and kept" in line
    assert not stub.uploaded


def test_real_client_offline_is_one_line_too(folder):
    with pytest.raises(WorkspaceError, match=r"got 'org/adapter'; the run is finished"):
        hub.push_adapter(folder, "org/adapter", private=False)
    shutil.rmtree(folder)
