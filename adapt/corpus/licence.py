"""What a base's own card says of its licence, and what that forbids of an adapted model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adapt import bases
from adapt.errors import ModelError

_FRONT_MATTER = re.compile(r"\A\ufeff?\s*---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)

# Parts of licence ids. What they forbid is read off the id alone; the licence itself decides.
_FORBIDS = {
    "derivatives": re.compile(r"\bnd\b"),
    "commercial use": re.compile(r"\bnc\b|non-?commercial|research-only"),
}
# At the beginning of an id, of which a card may list several.
_CONDITIONS = re.compile(
    r"(?:^|, )(?:llama|gemma|openrail|bigscience|creativeml|other|deepfloyd|bigcode)"
)
_GATES = ("gated", "extra_gated_prompt", "extra_gated_fields", "extra_gated_heading")


@dataclass(frozen=True)
class BaseLicence:
    """Licence and gating of a base.

    Attributes:
        name: Licence id as the card has it, or several with commas; None where nothing says one.
        gated: Whether the Hub asks for consent first.
        forbids: `derivatives`, `commercial use`.
        conditions: Whether it is known for conditions of its own.
    """

    name: str | None
    gated: bool
    forbids: tuple[str, ...]
    conditions: bool

    @property
    def lines(self) -> list[str]:
        """What the user should know, a line each; the first is the licence."""
        name = self.name or "unknown, no card of the base is on this machine or it names none"
        lines = [f"licence of the base: {name}" + (", gated on the Hub" if self.gated else "")]
        lines += [
            f"warning: {self.name} forbids {what}; ask who published the base before you "
            f"{'adapt it' if what == 'derivatives' else 'use the adapted model'}"
            for what in self.forbids
        ]
        if self.conditions:
            lines.append(f"warning: {self.name} has conditions of its own; read them first")
        return lines


def base_licence(base: str, revision: str | None = None) -> BaseLicence:
    """Reads a base's card where it is on this machine; nothing is fetched.

    Args:
        base: `model.base` of a recipe.
        revision: `model.revision` of a recipe.
    """
    card = _card(base, revision)
    name = _id(base, card)
    if name == "other" and isinstance(card.get("license_name"), str):
        name = f"other: {card['license_name']}"
    known = (name or "").lower()
    return BaseLicence(
        name,
        any(card.get(key) for key in _GATES),
        tuple(what for what, pattern in _FORBIDS.items() if pattern.search(known)),
        bool(_CONDITIONS.search(known)),
    )


def licence_id(base: str, revision: str | None = None) -> str | None:
    """Licence id of a base as its card has it, or its package; None where nothing says one.

    Args:
        base: `model.base` of a recipe.
        revision: `model.revision` of a recipe.
    """
    return _id(base, _card(base, revision))


def _id(base: str, card: dict[str, Any]) -> str | None:
    given = card.get("license")
    names = given if isinstance(given, list) else [given]
    if found := ", ".join(name for name in names if isinstance(name, str)):
        return found
    packaged = bases.PACKAGES.get(base.removeprefix("package:"))
    return packaged.licence if packaged and base.startswith("package:") else None


def _card(base: str, revision: str | None) -> dict[str, Any]:
    """The front matter of the card; empty where there is none that can be read."""
    try:
        folder = bases.on_disk(base)
        path = folder / "README.md" if folder else _cached(base, revision)
        found = _FRONT_MATTER.match(path.read_text(encoding="utf-8")) if path else None
        record = yaml.safe_load(found.group(1)) if found else None
    except (OSError, ValueError, ModelError, yaml.YAMLError):
        return {}
    return record if isinstance(record, dict) else {}


def _cached(repo: str, revision: str | None) -> Path | None:
    """The card in the local Hub cache."""
    from huggingface_hub import try_to_load_from_cache

    if repo.startswith("package:"):
        return None
    found = try_to_load_from_cache(repo, "README.md", revision=revision)
    return Path(found) if isinstance(found, str) else None
