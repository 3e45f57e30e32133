"""Uploads what a run made to the Hub: only what belongs, scanned, one commit a repository."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from adapt.errors import AdaptError, WorkspaceError, nearest
from adapt.publish.card import render
from adapt.publish.results import Results, read_results
from adapt.publish.scan import Finding, refuse, scan
from adapt.publish.transfer import retried
from adapt.vocab import TOKENIZER_FILES

_TOKENIZER = (
    *TOKENIZER_FILES,
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "tokenizer.model",
)
_CHECKPOINT = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "adapt.json",
    *_TOKENIZER,
)
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# Folders within: the tokenizer that writes, where units are only read (`adapt.vocab.files`), and
# what goes onto the rows, where one adapter cannot hold both (`adapt.training.model`).
WITHIN = {"tokenizer-output": _TOKENIZER, "on_rows": _ADAPTER}
CONTEXT = "context.json"


@dataclass(frozen=True)
class _Kind:
    """One thing that can be published.

    Attributes:
        folder: Where it lies in the run.
        main: The file without which there is nothing to publish.
        belongs: Patterns of file names; whatever else lies in the folder stays here.
        fix: How it is made.
    """

    folder: str
    main: str
    belongs: tuple[str, ...]
    fix: str


_RUN = "finish the run with `adapt run` and its recipe"
# In the order of uploading: a base before the adapter that names it.
KINDS = {
    "base": _Kind("adapted-base", "config.json", _CHECKPOINT, _RUN),
    "tokenizer": _Kind("tokenizer", "tokenizer.json", _TOKENIZER, _RUN),
    "merged": _Kind("merged", "config.json", _CHECKPOINT, "make it with `adapt merge` and the run"),
    "adapter": _Kind(
        "adapter",
        "adapter_config.json",
        (*_ADAPTER, "adapt.json", CONTEXT, *_TOKENIZER),
        _RUN,
    ),
}
# What a method that trains the model's own weights leaves instead of an adapter.
_WHOLE = _Kind("adapter", "config.json", _CHECKPOINT, _RUN)
# Of several, which one gets the name that was asked for; the others get it with their kind.
_NAMED = ("adapter", "merged", "tokenizer", "base")


@dataclass(frozen=True)
class Upload:
    """What one repository is to hold.

    Attributes:
        what: A key of `KINDS`.
        repo_id: org/name.
        files: By name in the repository: a file, or its content where that is not the file's.
    """

    what: str
    repo_id: str
    files: Mapping[str, Path | bytes]

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(file) if isinstance(file, bytes) else file.stat().st_size
            for name, file in self.files.items()
        }


@dataclass(frozen=True)
class Pushed:
    """A finished upload.

    Attributes:
        what: A key of `KINDS`.
        repo_id: org/name.
        address: Of the pull request where one was asked for, else of the commit.
    """

    what: str
    repo_id: str
    address: str


def prepare(run: Path, repo_id: str, what: Sequence[str] = ("adapter",)) -> list[Upload]:
    """Chooses repositories and files, in the order of uploading; no request is made.

    An adapter whose tokens have other ids than the base's brings its base along. Of several
    things the adapter, or else the first of merged, tokenizer, base, goes to `repo_id` itself, the
    others to `repo_id-base` and so on.

    Args:
        run: A finished run.
        repo_id: org/name.
        what: Keys of `KINDS`.

    Raises:
        AdaptError: A name that is none, a run that is not finished, or an adapter whose base
            nobody else has.
    """
    for name in what:
        if name not in KINDS:
            raise AdaptError(
                "nothing of that name to publish", where="what", got=name, fix=nearest(name, KINDS)
            )
    _refuse_name(repo_id)
    results = read_results(run)
    wanted = set(what)
    if "adapter" in what and results.moves_ids and not results.whole:
        wanted.add("base")
    named = next(kind for kind in _NAMED if kind in wanted)
    repos = {
        kind: repo_id if kind == named else f"{repo_id}-{kind}" for kind in KINDS if kind in wanted
    }
    return [Upload(kind, repo, _files(results, kind, repos)) for kind, repo in repos.items()]


def scanned(run: Path, uploads: Sequence[Upload]) -> list[Finding]:
    """What in the uploads must not be published; of several repositories, with their kind."""
    found = []
    for upload in uploads:
        prefix = f"{upload.what}/" if len(uploads) > 1 else ""
        for finding in scan(upload.files, folders=[run]):
            found.append(Finding(prefix + finding.file, finding.line, finding.what))
    return found


def push(
    run: Path,
    repo_id: str,
    what: Sequence[str] = ("adapter",),
    *,
    private: bool = False,
    create_pr: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> list[Pushed]:
    """Uploads parts of a run, one commit a repository, which is made where there is none.

    Everything is scanned before the first request. A repository is changed by its one commit or
    not at all; large files that went up before a failure are not sent again.

    Args:
        run: A finished run.
        repo_id: org/name.
        what: Keys of `KINDS`; see `prepare`.
        private: Makes new repositories private; else the namespace's default holds.
        create_pr: Opens pull requests instead of changing `main`.
        endpoint: The Hub's address; None for `HF_ENDPOINT` or the public one.
        token: None for `HF_TOKEN` or the stored login.

    Raises:
        AdaptError: As `prepare`; a secret or local path was found; or the Hub refuses or cannot
            be reached.
    """
    from huggingface_hub import HfApi

    uploads = prepare(run, repo_id, what)
    refuse(scanned(run, uploads))
    api = HfApi(endpoint=endpoint, token=token)
    return [_uploaded(api, upload, private, create_pr) for upload in uploads]


def _uploaded(api: Any, upload: Upload, private: bool, create_pr: bool) -> Pushed:  # noqa: ANN401
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo = upload.repo_id
    retried(lambda: api.create_repo(repo, private=private or None, exist_ok=True), repo)
    there = retried(lambda: api.list_repo_files(repo), repo)
    # Weights of an earlier push would be loaded instead of, or beside, these.
    weights = ("*.safetensors", "*.safetensors.index.json")
    stale = [
        name
        for name in there
        if name not in upload.files
        and _matches(name, weights)
        and _matches(name, KINDS[upload.what].belongs)
    ]

    def commit() -> Any:  # noqa: ANN401
        # Made anew for every try: a commit that went through, unheard, is then found unchanged.
        operations = [CommitOperationAdd(name, file) for name, file in upload.files.items()]
        deleted = [CommitOperationDelete(name) for name in stale]
        return api.create_commit(
            repo,
            [*operations, *deleted],
            commit_message=f"Upload {upload.what} made by adapt",
            create_pr=create_pr,
        )

    made = retried(commit, repo, drops=not create_pr)
    return Pushed(upload.what, repo, str(made.pr_url or made.commit_url))


# -- files ----------------------------------------------------------------------------------


def _files(results: Results, what: str, repos: Mapping[str, str]) -> dict[str, Path | bytes]:
    """What belongs in a repository, its card included, with no name of a place on this machine."""
    whole = what == "adapter" and results.whole
    kind = _WHOLE if whole else KINDS[what]
    folder = results.root / kind.folder
    if not (folder / kind.main).is_file():
        raise WorkspaceError(
            f"holds no {what} to publish", where=str(folder), got=f"no {kind.main}", fix=kind.fix
        )
    if what == "merged" and _older(folder / kind.main, results.root / KINDS["adapter"].folder):
        raise WorkspaceError(
            "was merged before the adapter was trained anew",
            where=str(folder),
            fix="merge again with `adapt merge --force` and the run",
        )
    base_repo = repos.get("base") if what == "adapter" and not whole else None
    base_model = base_repo or results.base_id
    if what == "adapter" and not whole and base_model is None:
        raise WorkspaceError(
            "the adapter's base is only on this machine, so nobody else could load it",
            where="model.base",
            got=results.base,
            fix="push base along with it (--what base --what adapter), or --what merged",
        )
    files: dict[str, Path | bytes] = {}
    for prefix, belongs in {"": kind.belongs, **WITHIN}.items():
        for path in sorted((folder / prefix).glob("*")):
            if path.is_file() and _matches(path.name, belongs):
                name = f"{prefix}/{path.name}" if prefix else path.name
                files[name] = _published(path, results, base_model, base_repo)
    card = render(
        results, what, repo_id=repos[what], base_model=base_model, adapted=base_repo is not None
    )
    return {**files, "README.md": card.encode()}


def _older(path: Path, adapter: Path) -> bool:
    weights = adapter / "adapter_model.safetensors"
    return weights.is_file() and path.stat().st_mtime_ns < weights.stat().st_mtime_ns


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in patterns)


def _published(
    path: Path, results: Results, base_model: str | None, base_repo: str | None
) -> Path | bytes:
    """A file as others get it: configurations name no folder of this machine."""
    if path.suffix != ".json" or not path.name.endswith(("config.json", "adapt.json")):
        return path
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return path
    changed = dict(record)
    if path.name == "adapter_config.json":
        changed["base_model_name_or_path"] = base_model
        if base_model != results.base:
            changed["revision"] = None
    elif path.name == "adapt.json" and base_repo:
        changed |= {"base": base_repo, "revision": None}
    else:
        for key in ("_name_or_path", "name_or_path"):
            if Path(str(changed.get(key, ""))).expanduser().is_absolute():
                del changed[key]
    if changed == record:
        return path
    return (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode()


def _refuse_name(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo_id)
        whole = repo_id.count("/") == 1
    except HFValidationError:
        whole = False
    if not whole:
        raise AdaptError(
            "not a repository's name",
            where="repo",
            got=repo_id,
            fix="give org/name, of letters, digits, - _ .",
        )
