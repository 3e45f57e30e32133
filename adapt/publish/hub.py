"""Uploads the adapter to the Hub, in one commit."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from adapt.errors import WorkspaceError

# What an adapter repository holds; anything else in the folder stays here.
_BELONGS = ["adapter_config.json", "adapter_model.safetensors", "*.json", "*.jinja", "README.md"]


def push_adapter(folder: Path, repo_id: str, *, private: bool) -> str:
    """Creates the repository where there is none and uploads the adapter.

    Args:
        folder: The adapter.
        repo_id: org/name.
        private: Whether a new repository is private.

    Returns:
        The commit's address.

    Raises:
        WorkspaceError: The Hub refuses or cannot be reached; the run itself is finished.
    """
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=_BELONGS,
            ignore_patterns=["*/*"],  # a pattern's * crosses folders
            commit_message="Upload adapter",
        )
    except Exception as error:  # the HTTP client's own tree, which changes with hub versions
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise WorkspaceError(
            f"the adapter could not be uploaded ({type(error).__name__}: {reason})",
            where="publish.hub_model_id",
            got=repo_id,
            fix="the run is finished and kept; log in with `hf auth login` and run it again",
        ) from None
    return str(commit)
