"""What must not leave this machine: secrets and local paths, found before anything is sent."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt.errors import WorkspaceError

# A file is its path, or its content where what is published differs from what lies on disk.
Files = Mapping[str, Path | bytes]

# What the patterns find, by the name that a refusal gives it. The text itself is never shown.
_SECRETS = {
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "a wandb key": r"(?i:wandb)[\w.\"'-]{0,20}\s*[:=]\s*[\"']?[0-9a-f]{40}\b|\bwandb_v\d_\w{20,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|(?i:aws_secret_access_key)\W{1,5}[A-Za-z0-9/+=]{40}",
    "a bearer token": r"(?i:\bbearer)\s+[A-Za-z0-9._~+/-]{20,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "an API key": r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_]{20,}|\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "a password in an address": r"://[^/\s:@\"']+:[^/\s:@\"']+@",
}

# `/a/b` that is not part of an address, a relative path or a word; a home; a drive; file:.
_PATHS = {
    "an absolute path": r"(?<![\w:/.<\\~}\])%*+-])/(?:[\w.@+~-]+/)+[\w.@+~-]+"
    r"|(?<!\w)~[\w-]*/[\w.]|(?<!\w)[A-Za-z]:\\{1,2}\w|(?<!\w)[A-Z]:/\w|\bfile:///?\w"
    r"|\"\w*(?:path|dir|folder|file|cache)\w*\"\s*:\s*\"(?:/\w|~)",
}

# These list pieces of text, where "/usr/lib" is a token like any other.
_VOCABULARIES = {
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "vocab_delta.json",
}
# Of safetensors only the metadata is read, which is text.
_TEXT = {".json", ".md", ".jinja", ".yaml", ".yml", ".txt", ".safetensors"}
_VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "WANDB_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GITHUB_TOKEN",
)


@dataclass(frozen=True)
class Finding:
    """Something that must not be published.

    Attributes:
        file: Its name in the repository.
        line: Of the file, from 1; for safetensors, of the header's metadata.
        what: What kind of thing; never the thing itself.
    """

    file: str
    line: int
    what: str


def scan(
    files: Files, *, folders: Sequence[Path] = (), secrets: Iterable[str] | None = None
) -> list[Finding]:
    """Looks through everything that a repository would get.

    Text files are searched whole; of safetensors the metadata in the header, since the rest is
    numbers; of other files the bytes for the folders and the known secrets. In vocabularies a path
    is a token like any other, so there only what lies under the home or under `folders` counts.

    Args:
        files: By name in the repository.
        folders: Folders of this machine besides the home, such as the run's.
        secrets: Values that must not stand anywhere; None takes those of this environment.

    Returns:
        What was found, by file and line; each kind once a line.
    """
    known = [s for s in (_own_secrets() if secrets is None else secrets) if len(s) >= 8]
    places = {place for folder in folders for place in (folder.absolute(), folder.resolve())}
    local = [_below(Path.home(), 2), *(_below(place, 0) for place in sorted(places))]
    everywhere = {**_SECRETS, "a folder of this machine": "|".join(local)}
    if known:
        everywhere["a secret of this environment"] = "|".join(map(re.escape, known))
    found: list[Finding] = []
    for name, content in files.items():
        kinds = everywhere
        if Path(name).name not in _VOCABULARIES and Path(name).suffix in _TEXT:
            kinds = everywhere | _PATHS
        found += _search(name, _text(name, content), kinds)
    return sorted(found, key=lambda f: (f.file, f.line))


def secrets(files: Files) -> list[Finding]:
    """Secrets alone: for what goes to a place of the user's own, which may know this machine."""
    known = "|".join(re.escape(secret) for secret in _own_secrets() if len(secret) >= 8)
    kinds = {**_SECRETS, "a secret of this environment": known} if known else _SECRETS
    return [
        f for name, content in files.items() for f in _search(name, _text(name, content), kinds)
    ]


def refuse(findings: Sequence[Finding]) -> None:
    """Raises when there is anything that must not be published.

    Raises:
        WorkspaceError: Names the first finding by file and line, and where the others are.
    """
    if not findings:
        return
    first, *others = findings
    rest = ", ".join(dict.fromkeys(f"{f.file}:{f.line} {f.what}" for f in others[:4]))
    more = f" (and {len(others)} more: {rest}{' ...' if len(others) > 4 else ''})" if others else ""
    raise WorkspaceError(
        f"holds {first.what}{more}",
        where=f"{first.file}:{first.line}",
        fix="take it out of the run; nothing was uploaded",
    )


def _search(name: str, text: str, kinds: Mapping[str, str]) -> list[Finding]:
    found: dict[Finding, None] = {}
    for what, pattern in kinds.items():
        for match in re.finditer(pattern, text):
            found[Finding(name, text.count("\n", 0, match.start()) + 1, what)] = None
    return list(found)


def _text(name: str, content: Path | bytes) -> str:
    """What there is to read in a file; JSON's way of writing a slash is undone."""
    if name.endswith(".safetensors"):
        return _metadata(content)
    raw = content if isinstance(content, bytes) else content.read_bytes()
    return raw.decode("utf-8", "replace").replace("\\/", "/")


def _metadata(content: Path | bytes) -> str:
    """The free-form part of a safetensors header; its layout: 8 bytes of length, then JSON."""
    if isinstance(content, bytes):
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    else:
        with content.open("rb") as file:
            header = file.read(int.from_bytes(file.read(8), "little"))
    try:
        record = json.loads(header)
        return json.dumps(record.get("__metadata__", {}), indent=1, ensure_ascii=False)
    except (ValueError, AttributeError):
        return ""


def _below(folder: Path, deeper: int) -> str:
    """A pattern for paths in a folder, so many components below it at least.

    The home itself may be a token of a vocabulary; a place two levels below it is not.
    """
    return re.escape(str(folder)) + r"(?:/[\w.@+~-]+)" * deeper + r"(?![\w.-])"


def _own_secrets() -> set[str]:
    """Credentials of this environment, and the Hub login kept on this machine."""
    from huggingface_hub import get_token

    values = {os.environ.get(name) for name in _VARIABLES} | {get_token()}
    return {value for value in values if value}
