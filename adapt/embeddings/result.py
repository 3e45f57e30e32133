"""What the embeddings stage leaves behind; needs no torch to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EditedTensor:
    """A tensor with a row for each token.

    Attributes:
        name: As the checkpoint calls it.
        role: input, output or bias; a tied matrix is an input.
        init: Strategy that made its new rows.
        rows_before: Its rows in the base.
        rows_after: Its rows now.
    """

    name: str
    role: str
    init: str
    rows_before: int
    rows_after: int


@dataclass(frozen=True)
class Distilled:
    """How rows were learned from the base; losses before and after are of held-out snippets.

    Attributes:
        steps: Optimizer steps.
        seconds: The teacher's pass and the steps; without loading.
        snippets: Pieces of training text that were learned from.
        tokens: Base tokens of those.
        hidden_loss: Squared distance of the middle states to the base's, by their variance.
        next_token_loss: Negative log-probability of the next token, from the base's last states;
            nats.
        calibration: Mean of the log-probability of a new token less that which the base gives its
            pieces, from the base's last states; nats.
        untouched: Ids of new tokens that no snippet holds; their rows are what `init_from` made.
    """

    steps: int
    seconds: float
    snippets: int
    tokens: int
    hidden_loss: tuple[float, float]
    next_token_loss: tuple[float, float]
    calibration: tuple[float, float]
    untouched: tuple[int, ...]

    @classmethod
    def nothing(cls, new_ids: Sequence[int]) -> Distilled:
        """What it is where no text holds a new token."""
        return cls(0, 0.0, 0, 0, (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), tuple(new_ids))

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Distilled:
        """From a manifest, whose lists were tuples."""
        values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        return cls(**values)


@dataclass(frozen=True)
class AdaptedBase:
    """Result of the stage.

    Attributes:
        folder: The checkpoint, with the adapted tokenizer.
        init: Strategy that made the new input rows, and tied ones.
        tensors: What was edited; empty when the vocabulary did not change.
        kept: Tokens of the base that the vocabulary still has; their rows are bit-identical.
        removed: Tokens of the base that it no longer has; their rows are gone.
        added: New tokens.
        filled: Rows beyond all of those that stand for no token and had none in the base; each
            is the mean of the base's rows.
        bytes_written: Of shards that were written anew.
        bytes_linked: Of shards that are the base's own files.
        bytes_copied: Of shards that could not be linked.
        notes: What the user should know: settings that named a removed token.
        parameters_added: Numbers that the checkpoint has more than the base's: rows of new
            tokens, and the whole output matrix where it was untied.
        distilled: How rows were learned; None where they were made in closed form.
    """

    folder: Path
    init: str
    tensors: tuple[EditedTensor, ...] = ()
    kept: int = 0
    removed: int = 0
    added: int = 0
    filled: int = 0
    bytes_written: int = 0
    bytes_linked: int = 0
    bytes_copied: int = 0
    notes: tuple[str, ...] = ()
    parameters_added: int = 0
    distilled: Distilled | None = None

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each edited tensor after the edit, by name."""
        return {tensor.name: tensor.rows_after for tensor in self.tensors}

    @property
    def tied(self) -> bool:
        """Whether input and output are one matrix."""
        return all(tensor.role != "output" for tensor in self.tensors)

    def to_json(self) -> dict[str, Any]:
        """For the stage's manifest."""
        record = asdict(self)
        del record["folder"]
        return record

    @classmethod
    def from_json(cls, folder: Path, record: dict[str, Any]) -> AdaptedBase:
        """The result of a finished stage."""
        values = {
            **record,
            "tensors": tuple(EditedTensor(**tensor) for tensor in record["tensors"]),
            "notes": tuple(record["notes"]),
        }
        if record.get("distilled"):
            values["distilled"] = Distilled.from_json(record["distilled"])
        return cls(folder, **values)
