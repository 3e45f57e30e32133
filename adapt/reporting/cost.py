"""What training took and what it added, by model."""

from __future__ import annotations

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


def _training(trained: Trained) -> list[tuple[str, str]]:
    energy = trained.energy_kwh
    return [
        ("training time", duration(sum(phase.seconds for phase in trained.phases))),
        ("energy", "" if energy is None else f"{energy:.3g} kWh"),
        ("text trained on", size(sum(phase.bytes_ for phase in trained.phases))),
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
