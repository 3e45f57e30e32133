"""`adapt.json`, beside an adapter: what it takes to make the model anew from the original base."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from adapt.bases import Base
from adapt.errors import WorkspaceError
from adapt.recipe import Recipe
from adapt.workspace import versions, write_json

SETTINGS = "adapt.json"

# Instead of a folder, which names a place on one machine and maybe a person.
LOCAL = "local"


@dataclass(frozen=True)
class AdapterSettings:
    """How the adapted base came from the original one; the vocabulary is in `vocab_delta.json`.

    Attributes:
        adapt: Version that wrote it.
        base: Hub id or `package:<name>`; `LOCAL` for a folder.
        revision: Commit, branch or tag of a Hub id.
        dtype: `model.dtype` of the recipe.
        tokenizer_mode: `tokenizer.mode` of the recipe; keep for a control.
        units_read_only: Whether new units are only ever read.
        init: Strategy that the rows of new tokens began with.
        init_output: The same of an output layer of its own; None for the same.
        seed: Of strategies that draw.
        pad_to_multiple_of: Rows are padded to a multiple of this; rows.
        untie: Whether a tied base got an output matrix of its own.
    """

    adapt: str = ""
    base: str = LOCAL
    revision: str | None = None
    dtype: str = "auto"
    tokenizer_mode: str = "keep"
    units_read_only: bool = False
    init: str = "mean"
    init_output: str | None = None
    seed: int = 0
    pad_to_multiple_of: int | None = None
    untie: bool = False

    @classmethod
    def of_run(
        cls, recipe: Recipe, base: Base, *, read_only: bool, untied: bool
    ) -> AdapterSettings:
        """The settings of a recipe's adapter.

        Args:
            recipe: Of the run.
            base: The original one.
            read_only: Whether new units are only ever read.
            untied: Whether the embeddings stage untied the base, which a recipe may leave to it.
        """
        rows = recipe.embeddings
        return cls(
            versions().get("adapt-lm", ""),
            _public(base),
            base.revision,
            recipe.model.dtype,
            recipe.tokenizer.mode,
            read_only,
            rows.begins_with,
            rows.init_output,
            recipe.seed,
            rows.pad_to_multiple_of,
            untied,
        )

    @classmethod
    def of_control(cls, recipe: Recipe, base: Base) -> AdapterSettings:
        """The settings of a control, whose base is the original one as it is."""
        version = versions().get("adapt-lm", "")
        return cls(version, _public(base), base.revision, recipe.model.dtype)

    def save(self, folder: Path) -> None:
        """Writes `adapt.json` into `folder`."""
        write_json(folder / SETTINGS, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> AdapterSettings:
        """Reads `adapt.json` from `folder`; the defaults where there is none.

        Raises:
            WorkspaceError: It cannot be read, or a later version wrote it.
        """
        path = folder / SETTINGS
        if not path.is_file():
            return cls()
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise WorkspaceError(
                f"cannot be read ({type(error).__name__})",
                where=str(path),
                fix="it may come from a later version of adapt",
            ) from None


def _public(base: Base) -> str:
    if base.given.startswith("package:"):
        return base.given
    return LOCAL if Path(base.given).expanduser().is_dir() else base.given
