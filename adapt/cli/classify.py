"""`adapt classify`: texts under the labels of a run's task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from adapt.cli.models import (
    BaseOption,
    BatchSize,
    Dtype,
    InputFile,
    Model,
    OutputFile,
    Trust,
    load,
    put,
    rows_of,
    write_lines,
)
from adapt.errors import AdaptError, DataError, ModelError, RecipeError, nearest
from adapt.recipe.evaluation import ClassificationTask

# What is said of a text, and the probability of every label.
Labelled = tuple[dict[str, Any], dict[str, float]]


def classify(
    model: Model,
    text: Annotated[list[str] | None, typer.Option(help="Text to classify; repeatable.")] = None,
    input_: InputFile = None,
    column: Annotated[
        str | None, typer.Option(help="Column that holds the text; without it, the task's.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task of the run's recipe.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels instead of the task's, between commas.")
    ] = None,
    output: OutputFile = None,
    max_length: Annotated[int, typer.Option(min=1, help="Longest prompt; tokens.")] = 1024,
    batch_size: BatchSize = 8,
    dtype: Dtype = "auto",
    base: BaseOption = None,
    trust_remote_code: Trust = False,
) -> None:
    """Put texts under the labels of a run's task, or under those given.

    A label's probability is that of its text as the whole answer, among all labels; or what the
    model's own head of classes gives it, which needs no --labels.

    Examples:
      adapt classify runs/medical --text "Cysts of the kidney." --text "An irregular heartbeat."

      adapt classify runs/medical --input notes.jsonl --column note --output labelled.jsonl

      adapt classify org/model --text "Cysts of the kidney." --labels kidney,heart
    """
    if bool(text) == bool(input_):
        raise AdaptError(
            "a --text or an --input, and not both", where="adapt classify", got=len(text or [])
        )
    asked, names = _task_of(Path(model), task, labels)
    column = column or asked.text
    rows = [{column: one} for one in text or []] or rows_of(input_, column, "label")
    from adapt.evaluation.heads import has_head
    from adapt.evaluation.masked import fills_masks

    texts = [str(row[column]) for row in rows]
    prompts = [_filled(asked, row, column) for row in rows]
    loaded, tokenizer = load(model, dtype, base, trust_remote_code)
    if fills_masks(loaded):
        fix = "train a head: a last phase with objective classification"
        raise ModelError("fills in hidden words, and has no labels", where=model, fix=fix)
    if has_head(loaded):
        if given := _labels_given(labels):
            raise AdaptError(
                "its head has labels of its own", where="--labels", got=",".join(given)
            )
        found = _by_head(loaded, tokenizer, texts, max_length, batch_size)
    else:
        if not names:
            fix = "give --labels a,b,c, or the folder of a run"
            raise RecipeError("is no run, so it has no task", where=model, fix=fix)
        shares = _probabilities(loaded, tokenizer, prompts, names, max_length, batch_size)
        found = [_likeliest(dict(zip(names, each, strict=True))) for each in shares]
    lines = []
    for row, (chosen, every) in zip(rows, found, strict=True):
        if output:
            shown = {name: round(p, 6) for name, p in every.items()}
            answer = {**chosen, "probabilities": shown}
            lines.append(json.dumps({**row, **answer}, ensure_ascii=False))
        elif "label" in chosen:
            put(f"{chosen['label']}\t{chosen['probability']:.4f}\n")
        else:
            put("\t".join(f"{name} {every[name]:.4f}" for name in chosen["labels"]) + "\n")
    if output:
        write_lines(output, lines)


def _likeliest(every: dict[str, float]) -> Labelled:
    best = max(every, key=every.__getitem__)
    return {"label": best, "probability": round(every[best], 6)}, every


def _by_head(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    texts: Sequence[str],
    max_length: int,
    batch_size: int,
) -> list[Labelled]:
    """By a head of classes: the likeliest label, or all labels where a text may have several."""
    from adapt.evaluation.heads import class_names, logits_of, several, single

    names = class_names(model)
    logits = logits_of(
        model, tokenizer, texts, max_length=max_length, batch_size=batch_size, label="classify"
    )
    if model.config.problem_type != "multi_label_classification":
        shares = single(logits).tolist()
        return [_likeliest(dict(zip(names, each, strict=True))) for each in shares]
    sets, probabilities = several(logits, names)
    return [
        ({"labels": found}, dict(zip(names, each, strict=True)))
        for found, each in zip(sets, probabilities.tolist(), strict=True)
    ]


def _labels_given(labels: str | None) -> list[str]:
    return [label.strip() for label in (labels or "").split(",") if label.strip()]


def _task_of(
    run: Path, name: str | None, labels: str | None
) -> tuple[ClassificationTask, list[str]]:
    """The task of a run and its labels; of what is no run, a task with the labels given, if any.

    Raises:
        RecipeError: There is no such task.
    """
    given = _labels_given(labels)
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        made = ClassificationTask.model_construct(kind="classification", name="labels", path="")
        return made, given
    from adapt.corpus import open_corpus
    from adapt.recipe import load_recipe

    tasks = load_recipe(recipe).evaluation.tasks
    known = {t.name: t for t in tasks if isinstance(t, ClassificationTask)}
    if (name is None and len(known) != 1) or (name is not None and name not in known):
        fix = f"--task {nearest(name or '', known)}" if known else "it has none; train one"
        raise RecipeError("which classification task", where=str(recipe), got=name, fix=fix)
    found = known[name] if name else next(iter(known.values()))
    if not given:
        rows = open_corpus(run / "corpus").rows(found.name, "train")
        given = sorted({str(row[found.label]) for row in rows})
    return found, given


def _filled(task: ClassificationTask, row: dict[str, Any], column: str) -> str:
    """The prompt of a row, as in training.

    Raises:
        DataError: The prompt shows a column that the row has not.
    """
    try:
        return task.prompt.format_map({**row, "text": row[column]})
    except KeyError as error:
        raise DataError(
            f"the prompt of {task.name} shows a column that the text has not",
            got=str(error.args[0]),
            fix="give rows with it by --input",
        ) from None


def _probabilities(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    labels: Sequence[str],
    max_length: int,
    batch_size: int,
) -> list[list[float]]:
    """Of each label after each prompt; those of a prompt sum to 1."""
    import numpy as np

    from adapt.evaluation.labels import answer_log_probabilities
    from adapt.training.batches import completion_ids, prompt_ids

    asked = [prompt_ids(tokenizer, prompt)[-max_length:] for prompt in prompts]
    answers = [completion_ids(tokenizer, label) for label in labels]
    logs = answer_log_probabilities(model, asked, answers, batch_size=batch_size, label="classify")
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    rows: list[list[float]] = (shares / shares.sum(axis=1, keepdims=True)).tolist()
    return rows
