"""How the rows of new tokens train: one table for every method, engine and model.

PEFT's `trainable_token_indices` keeps the new rows alone, in float32: little to train and to store.
Where that cannot work, the whole matrices train (`modules_to_save`), or nothing does and the
reason is said before any work starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adapt.errors import TrainingError
from adapt.recipe.training import TrainingSection
from adapt.training.engines import Engine, engine_of, launched

How = Literal["none", "token_indices", "modules_to_save", "all"]

# Methods whose checkpoint is a whole model, and those whose adapter PEFT keeps apart from rows.
WHOLE = ("full", "edges")
BESIDE = ("ia3", "prefix", "p_tuning", "prompt")


@dataclass(frozen=True)
class Setting:
    """What the decision depends on.

    Attributes:
        method: `training.method`.
        tied: Whether the output layer is the input embedding.
        quantised: Whether the base is held in 4 or 8 bits; embeddings never are.
        zero_stage: Of DeepSpeed; 0 without it.
        fsdp: Whether parameters are sharded by FSDP.
        share: New rows over all rows of the input embedding.
    """

    method: str
    tied: bool
    quantised: bool
    zero_stage: int
    fsdp: bool
    share: float


@dataclass(frozen=True)
class Decision:
    """How new rows train.

    Attributes:
        how: `none` where there are none; `token_indices`: the rows alone; `modules_to_save`: the
            embedding matrices beside the adapter; `all`: the method trains the matrices anyway.
        reason: Why, for people.
    """

    how: How
    reason: str

    def __str__(self) -> str:
        """One line, for `adapt check`."""
        return f"{self.how} ({self.reason})"


@dataclass(frozen=True)
class RowPlan:
    """The new rows of one training.

    Attributes:
        ids: Their ids.
        how: As in `Decision`.
    """

    ids: tuple[int, ...]
    how: How


@dataclass(frozen=True)
class _Rule:
    """One line of the table.

    Attributes:
        holds: For which settings.
        how: What is done then; None refuses.
        reason: Why.
        fix: What to do instead, where refused.
    """

    holds: Callable[[Setting], bool]
    how: How | None
    reason: str
    fix: str = ""


# The first rule that holds decides.
TABLE: tuple[_Rule, ...] = (
    _Rule(
        lambda s: s.quantised and (s.zero_stage == 3 or s.fsdp),
        None,
        "a quantised base cannot be cut into shards",
        "take ZeRO stage 2 or less, or method lora",
    ),
    _Rule(lambda s: s.method in WHOLE, "all", "the method trains the embedding matrices"),
    _Rule(lambda s: s.share == 0.0, "none", "the vocabulary has no new rows"),
    _Rule(
        lambda s: s.zero_stage == 3 and s.method != "lora",
        None,
        "ZeRO-3 cuts the matrix that new rows go into, and the method has no place for all of it",
        "take ZeRO stage 2 or less, or method lora",
    ),
    _Rule(
        lambda s: s.zero_stage == 3 and s.tied,
        None,
        "ZeRO-3 cuts the matrix that new rows go into, and the output layer is tied to it",
        "take ZeRO stage 2 or less, method full, or embeddings.untie=true",
    ),
    _Rule(
        lambda s: s.zero_stage == 3,
        "modules_to_save",
        "ZeRO-3 cuts the matrix that new rows go into",
    ),
    _Rule(
        # accelerate 1.15 no longer sees that the two are one, and cuts the matrix twice
        lambda s: s.fsdp and s.tied,
        None,
        "FSDP would cut the matrix that new rows go into twice, for the output layer is tied to it",
        "take ZeRO stage 2 or less, method full, or embeddings.untie=true",
    ),
    _Rule(
        lambda s: s.share == 1.0 and s.method in ("lora", "qlora"),
        "modules_to_save",
        "every row is new",
    ),
    _Rule(lambda s: True, "token_indices", "the new rows alone, in float32"),
)


def decide(setting: Setting) -> Decision:
    """How new rows train.

    Args:
        setting: What the decision depends on.

    Raises:
        TrainingError: They cannot, with the reason.
    """
    rule = next(rule for rule in TABLE if rule.holds(setting))
    if rule.how is None:
        raise TrainingError(rule.reason, where="training.method", got=setting.method, fix=rule.fix)
    return Decision(rule.how, rule.reason)


def is_tied(model: Any) -> bool:  # noqa: ANN401
    """Whether a model's output layer is its input embedding."""
    outputs = model.get_output_embeddings()
    return outputs is not None and outputs.weight is model.get_input_embeddings().weight


def plan(
    model: Any,  # noqa: ANN401
    method: str,
    new_ids: Sequence[int],
    *,
    quantised: bool = False,
    engine: Engine | None = None,
) -> RowPlan:
    """The decision for a loaded model in this process.

    Args:
        model: The adapted base.
        method: `training.method`.
        new_ids: Ids whose rows are to train.
        quantised: Whether the base is held in 4 or 8 bits.
        engine: Of the training; None: what the launcher says.

    Raises:
        TrainingError: The rows cannot train.
    """
    rows = model.config.get_text_config().vocab_size
    found = engine or launched()
    share = len(new_ids) / rows
    setting = Setting(method, is_tied(model), quantised, found.zero_stage, found.fsdp, share)
    decision = decide(setting)
    return RowPlan(tuple(new_ids), decision.how)


def engine(section: TrainingSection | None = None) -> tuple[int, bool]:
    """ZeRO stage and whether FSDP shards, as the recipe or else the launcher says.

    Args:
        section: `training` of the recipe; None: the launcher alone.
    """
    found = engine_of(section) if section else launched()
    return found.zero_stage, found.fsdp
