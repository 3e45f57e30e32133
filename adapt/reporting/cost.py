"""What training took and what it added, by model."""

from __future__ import annotations

from adapt.evaluation.result import SAME_TIME
from adapt.reporting.formats import duration, number, share, size
from adapt.reporting.summary import Summary
from adapt.training.result import Trained
from adapt.vocab import Vocabulary


def costs(summary: Summary) -> dict[str, dict[str, str]]:
    """Lines of a table: what each model cost, under what is measured.

    A value that is not known is left out, and so is a line without any.
    """
    lines: dict[str, dict[str, str]] = {}
    for model, trained in summary.trained.items():
        for measure, value in (*_training(trained), *_added(summary.vocabulary, model)):
            if value:
                lines.setdefault(measure, {})[model] = value
    return lines


def same_time(summary: Summary) -> str:
    """What the control of the same time took and read; empty where there is none."""
    timed, control = summary.trained.get(SAME_TIME), summary.trained.get("control")
    if timed is None or control is None:
        return ""
    wanted = duration(summary.trained["adapted"].seconds)
    if timed.phases == control.phases:
        return (
            f"Adapted model and control trained for the same time within 1 % ({wanted} and "
            f"{duration(control.seconds)}), so the control is the one of the same time as well."
        )
    part = share(timed.bytes_ / control.bytes_)
    return (
        f"The adapted model trained for {wanted}, the control of the same time for "
        f"{duration(timed.seconds)}, on {size(timed.bytes_)}: {part} of what the control read."
    )


def _training(trained: Trained) -> list[tuple[str, str]]:
    energy = trained.energy_kwh
    return [
        ("training time", duration(trained.seconds)),
        ("energy", "" if energy is None else f"{energy:.3g} kWh"),
        ("text trained on", size(trained.bytes_)),
        ("tokens trained on", number(sum(phase.tokens for phase in trained.phases))),
        ("parameters trained", number(trained.trainable)),
        ("adapter", size(trained.adapter_bytes)),
    ]


def _added(vocabulary: Vocabulary, model: str) -> list[tuple[str, str]]:
    """Rows that the adapted vocabulary has more than the base, and their share of its parameters.

    A curve's costs are (share of tokens) x (1 + units x share of parameters a unit adds).
    """
    delta = vocabulary.delta
    rows = max(delta.size - delta.base_size, 0) if model == "adapted" else 0
    point = next((p for p in vocabulary.curve if p.new_tokens and p.saved < 1), None)
    each = (point.cost / (1 - point.saved) - 1) / point.new_tokens if point else None
    return [
        ("rows added to the vocabulary", number(rows)),
        ("parameters added, of the base's", "" if each is None else share(rows * each)),
    ]
