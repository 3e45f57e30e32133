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

    @property
    def sentence(self) -> str:
        """For the report."""
        if not self.steps:
            return (
                "no new row was distilled: too little text that holds new tokens was read; all "
                "kept the rows they began with"
            )
        before, after = self.calibration
        return (
            f"new rows were distilled in {self.steps} steps ({self.seconds:.0f} s) from "
            f"{self.tokens:,} tokens; a new token's log-probability less its pieces' went from "
            f"{before:+.2f} to {after:+.2f} nats; {len(self.untouched):,} that no snippet holds "
            "kept the rows they began with"
        )

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
class Transplanted:
    """How rows were made after another model's (`embeddings.init: omp`).

    Attributes:
        donor: As the recipe names it.
        atoms: Tokens that make up a new one, at most.
        shared: Tokens that base and donor have in common.
        rebuilt: New tokens that the donor has.
        left: Median length of what the combinations leave of the donor's input rows, by the rows'
            own length; 0 where they rebuild them.
        missing: Ids of new tokens that the donor does not have; their rows are means.
    """

    donor: str
    atoms: int
    shared: int
    rebuilt: int
    left: float
    missing: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """For the report."""
        return (
            f"{self.rebuilt:,} new rows follow those of {self.donor}, by up to {self.atoms} of "
            f"{self.shared:,} shared tokens each; {len(self.missing):,} that it does not have are "
            "means"
        )

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Transplanted:
        """From a manifest, whose lists were tuples."""
        return cls(**{**record, "missing": tuple(record["missing"])})


@dataclass(frozen=True)
class Untying:
    """What `embeddings.untie: auto` went by; bits per byte are of validation text after a probe.

    Attributes:
        steps: Optimizer steps of each probe.
        parameters: Of the adapted base with one matrix for input and output.
        parameters_added: By an output matrix of its own.
        tied: Bits per byte with one matrix.
        untied: Bits per byte with two.
        net: Net benefit of two: how much lower they are, less the share of parameters added.
        least: Net benefit from which on two are taken.
    """

    steps: int
    parameters: int
    parameters_added: int
    tied: float
    untied: float
    net: float
    least: float

    @property
    def share(self) -> float:
        """Parameters added, of those before."""
        return self.parameters_added / self.parameters

    @property
    def sentence(self) -> str:
        """For the report."""
        chosen = "an output matrix of its own" if self.net >= self.least else "one matrix"
        return (
            f"embeddings.untie auto took {chosen}: after {self.steps} steps {self.untied:.3f} bits "
            f"per byte untied, {self.tied:.3f} tied; untying adds {self.share:.1%} to the "
            f"parameters, so its net benefit is {self.net:+.1%} ({self.least:.0%} is needed)"
        )


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
        transplanted: How rows were made after a donor's; None where there is none.
        untied: Whether a tied base got an output matrix of its own.
        untying: What `embeddings.untie: auto` went by; None where there was nothing to decide.
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
    transplanted: Transplanted | None = None
    untied: bool = False
    untying: Untying | None = None

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each edited tensor after the edit, by name."""
        return {tensor.name: tensor.rows_after for tensor in self.tensors}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a report says of the rows."""
        made = (self.distilled, self.transplanted, self.untying)
        return (*self.notes, *(one.sentence for one in made if one is not None))

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
        if record.get("untying"):
            values["untying"] = Untying(**record["untying"])
        if record.get("transplanted"):
            values["transplanted"] = Transplanted.from_json(record["transplanted"])
        return cls(folder, **values)
