"""Sections of a model card that say what was measured, from a run's result files alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from adapt.evaluation.result import BITS, SAME_TIME
from adapt.publish.results import Results, without_paths
from adapt.reporting.formats import shown

# Lines of the fertility table: field, and how it is printed.
_FERTILITY = {
    "tokens": ("tokens", ",d"),
    "length, the base's being one": ("normalized_sequence_length", ".3f"),
    "tokens a word": ("tokens_per_word", ".3f"),
    "bytes a token": ("bytes_per_token", ".3f"),
    "words of more than one token": ("continued_word_share", ".1%"),
    "terms that are one token": ("single_token_term_share", ".1%"),
}


def fertility(fertility: Mapping[str, Any]) -> str:
    """How the tokenizers cut held-out domain and general text."""
    blocks = ["## Tokens"]
    for kind in ("domain", "general"):
        measured = fertility.get(kind) or []
        if not measured:
            continue
        first = measured[0]
        blocks.append(
            f"Held-out {kind} text: {first['documents']:,} documents, {first['bytes_']:,} bytes."
        )
        rows = [
            [label, *(_formatted(one.get(field), form) for one in measured)]
            for label, (field, form) in _FERTILITY.items()
            if any(one.get(field) is not None for one in measured)
        ]
        blocks.append(_table(["", *(plain(one["name"]) for one in measured)], rows))
    return "\n\n".join(blocks)


def scores(evaluation: Mapping[str, Any]) -> str:
    """The table of the run, with its intervals, and the differences."""
    table = evaluation["table"]
    models = list(table[0]["values"])
    rows = []
    for row in table:
        form = f",.{row['digits']}f"
        cells = []
        for model in models:
            cell = _formatted(row["values"][model], form)
            if interval := row["intervals"].get(model):
                cell += f" [{interval[0]:{form}}, {interval[1]:{form}}]"
            cells.append(cell)
        better = f" ({row['better']} is better)" if row["better"] else ""
        rows.append([f"{plain(row['measure'])}{better}", *cells])
    lines = ["## Scores", _table(["", *map(shown, models)], rows)]
    timed = (
        " The control of the same time was fine-tuned for as long as the adapted model, on as much "
        "of the same text as fits in that time."
        if SAME_TIME in models
        else ""
    )
    lines.append(
        "In brackets: bootstrap intervals over the held-out documents or rows. The control was "
        f"fine-tuned on the same documents with the base's own tokenizer.{timed}"
        if "control" in models
        else "In brackets: bootstrap intervals. There is no control: what fine-tuning alone "
        "would have gained is not known."
    )
    measure = _measure(evaluation)
    if measure != BITS:
        lines.append(
            f"{measure.capitalize()} are of hidden words, each predicted from all the rest of the "
            "text: they compare with their own kind alone."
        )
    for name, compared in evaluation["comparisons"].items():
        if compared["domain"]:
            against, difference = shown(name), _difference(compared["domain"], measure)
            lines.append(f"Domain text, adapted minus {against}: {difference}.")
    return "\n\n".join(lines)


def forgetting(evaluation: Mapping[str, Any]) -> str:
    """What became of general text, and of tasks that nothing was trained on."""
    known = {k: c["general"] for k, c in evaluation["comparisons"].items() if c.get("general")}
    tasks = [f"- {sentence}" for sentence in evaluation.get("forgotten", ())]
    if not known and not tasks:
        return "## General text\n\nNot measured: the recipe names no general text."
    lines = ["## General text", "What was forgotten; below zero, nothing was:"]
    measure = _measure(evaluation)
    each = (f"- adapted minus {shown(k)}: {_difference(d, measure)}" for k, d in known.items())
    lines.append("\n".join([*each, *tasks]))
    return "\n\n".join(lines)


def _measure(evaluation: Mapping[str, Any]) -> str:
    """What is measured of text."""
    return str((evaluation["scores"]["adapted"]["domain"] or {}).get("measure", BITS))


def _difference(interval: Mapping[str, float], measure: str) -> str:
    value, low, high = (interval[k] for k in ("value", "low", "high"))
    return f"{value:+.3f} {measure}, interval {low:+.3f} to {high:+.3f}"


def data(results: Results) -> str:
    """Sources with their licences; what was kept, held out and dropped."""
    corpus, recipe = results.evaluation["corpus"], results.recipe["corpus"]
    lines = ["## Data"]
    for entry in corpus["provenance"]:
        said = [f"{key} {plain(entry[key])}" for key in ("version", "package") if entry.get(key)]
        said.append(f"licence: {plain(entry.get('licence') or 'not stated')}")
        said += [plain(entry[key]) for key in ("rights", "url") if entry.get(key)]
        lines.append(f"- **{plain(entry.get('name', 'a source'))}**: {'; '.join(said)}")
    lines += [
        f"- **{plain(source['dataset'])}**: a data set of the Hub; see its card for its licence"
        for source in [*recipe["sources"], *recipe.get("general", [])]
        if source.get("dataset")
    ]
    if len(lines) == 1:
        lines.append("Local files whose source and licence the run does not state.")
    rows = [
        [split, *(f"{text[field]:,}" for field in ("documents", "bytes_", "words"))]
        for split, text in corpus["splits"].items()
    ]
    table = _table(["text kept", "documents", "bytes", "words"], rows)
    dropped = "; ".join(f"{plain(k)}: {v:,}" for k, v in corpus["dropped"].items())
    rest = f"\n\nDropped: {dropped}." if dropped else ""
    heading, *entries = lines
    return f"{heading}\n\n" + "\n".join(entries) + f"\n\n{table}{rest}"


def cost(evaluation: Mapping[str, Any]) -> str:
    """Seconds of every stage, parameters and energy."""
    rows = [[stage, f"{seconds:,.1f}"] for stage, seconds in evaluation["seconds"].items()]
    lines = ["## Cost", _table(["stage", "seconds"], rows)]
    for name, trained in evaluation["training"].items():
        metered = any(phase.get("energy_kwh") is not None for phase in trained["phases"])
        phases = [
            [
                plain(phase["name"]),
                *(f"{phase[k]:,}" for k in ("steps", "documents", "bytes_", "tokens")),
                f"{phase['seconds']:,.1f}",
                *([_formatted(phase.get("energy_kwh"), ".3g")] if metered else []),
            ]
            for phase in trained["phases"]
        ]
        head = [f"{shown(name)}: phase", "steps", "documents", "bytes", "tokens", "seconds"]
        head += ["kWh, estimated by codecarbon"] if metered else []
        lines.append(_table(head, phases))
        lines.append(
            f"{trained['trainable']:,} parameters trained; "
            f"{trained['adapter_bytes']:,} bytes of adapter."
        )
    where = "; ".join(f"{plain(k)}: {plain(v)}" for k, v in evaluation["environment"].items())
    return "\n\n".join([*lines, f"Made on: {where}."])


def limits(results: Results) -> str:
    """What a reader has to know before using the model."""
    evaluation = results.evaluation
    bullets = []
    if evaluation["verdict"]["choice"] == "do not extend":
        bullets.append("By its own evaluation the base, fine-tuned as it is, is the better choice.")
    bullets += [
        "The figures are of one training run; their intervals cover the choice of held-out text, "
        "not that of the seed.",
        "Held-out text is of the sources above. On other text of the domain they may differ.",
        "The base's knowledge, errors and biases remain, and fine-tuning may have added some. "
        "Truth and harm of what it writes were not examined: have a person with knowledge of "
        "the domain check it before anything depends on it.",
    ]
    if evaluation["vocabulary"].get("removed") or results.moves_ids:
        bullets.append("Tokens were taken away: other languages and subjects may read worse.")
    if results.read_only:
        bullets.append("The new tokens are read, never written: answers are as long as the base's.")
    bullets += [plain(note) for note in evaluation["vocabulary"]["notes"]]
    return "## Limits and risks\n\n" + "\n".join(f"- {bullet}" for bullet in bullets)


def recipe(recipe: Mapping[str, Any]) -> str:
    """The resolved recipe, without paths of this machine."""
    text = yaml.safe_dump(without_paths(recipe), sort_keys=False, allow_unicode=True).strip()
    fence = "```"
    while fence in text:
        fence += "`"
    return f"## Recipe\n\nLocal paths are reduced to names.\n\n{fence}yaml\n{text}\n{fence}"


def plain(text: object) -> str:
    """Text from elsewhere as text: no markup of its own, on one line."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([|`*\[\]])", r"\\\1", line)


def _formatted(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
