"""`adapt run` and `adapt check`."""

from __future__ import annotations

import io
import sys
from contextlib import nullcontext, redirect_stderr
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from adapt.cli.shared import DryRun, Overrides, RecipePath, console, say
from adapt.errors import AdaptError
from adapt.processes import is_main
from adapt.recipe import dump_recipe, load_recipe

if TYPE_CHECKING:
    from adapt.probe.benefit import NetBenefit
    from adapt.recipe import Recipe


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Run a recipe: vocabulary, embeddings, training, evaluation, report.

    The same command after an interruption goes on where it stopped.

    Examples:
      adapt run recipes/medical.yaml

      adapt run recipes/medical.yaml tokenizer.new_tokens=500 output_dir=runs/small

      accelerate launch scripts/train.py recipes/medical.yaml
    """
    resolved = load_recipe(recipe, overrides or [])
    from adapt.check import check as check_recipe

    if dry_run:
        print_check(resolved)
        return
    if is_main():
        check_recipe(resolved)
    from adapt.pipeline import Pipeline

    summary = Pipeline(resolved).run()
    if summary is not None:
        from adapt.reporting.console import print_summary

        print_summary(summary, console)
        say(f"report: {resolved.output_dir}/report.html")


def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    audit: Annotated[
        bool,
        typer.Option(help="Look the data through: the first 20 MB of text, shared by the files."),
    ] = True,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Also run the stages before training, in the run folder, and train base and "
            "adapted base for 50 steps each: takes those stages' time and some 100 steps' more.",
        ),
    ] = False,
) -> None:
    """Check a recipe without starting work, and print it with every default.

    Looks at keys, files, columns, the base model, installed packages and disk, and estimates
    memory and time. The data audit counts duplicates, leaks, damage and what may be private, and
    names lines; it never prints the text.

    With --probe, work does start: corpus, vocabulary and rows are made in the run folder, where
    `adapt run` finds them done. Then the base trains for 50 steps and the adapted base on the same
    documents, with the recipe's method and batch, in a scratch folder. That measures time and
    memory, and whether the vocabulary pays: what it saves (tokens x parameters for each byte) less
    the rise in bits per byte on the validation side, which below 3 % is not worth it. Written to
    reports/probe.json.

    Examples:
      adapt check recipes/medical.yaml training.lora.r=8

      adapt check recipes/medical.yaml --probe

      adapt check recipes/medical.yaml --no-audit
    """
    resolved = load_recipe(recipe, overrides or [])
    print_check(resolved)
    if audit:
        print_audit(resolved)
    if probe:
        print_probe(resolved)


def print_probe(recipe: Recipe) -> None:
    """Runs the stages before training and short trainings, and prints what they tell."""
    say(
        "probe: makes corpus, vocabulary and rows in the run folder where they are not there yet, "
        f"then trains for some steps: {recipe.output_dir}"
    )
    from adapt.forecast import FILE, forecast

    found = forecast(recipe)
    drawn = _table("what a run will take", "part", "minutes")
    drawn.add_column("how known")
    for line in found.lines:
        drawn.add_row(escape(line.part), f"{line.seconds / 60:,.1f}", escape(line.how))
    drawn.add_row("all of it", f"{found.seconds / 60:,.1f}", "", style="bold")
    console.print(drawn)
    say(f"peak memory about {found.memory_bytes / 2**30:.1f} GiB")
    if found.benefit is None:
        say("net benefit: none to measure without new units, or where no text is written")
    else:
        console.print(_benefit_table(found.benefit))
        say(found.sentence)
    say(f"written to {recipe.output_dir}/reports/{FILE}")


def _benefit_table(benefit: NetBenefit) -> Table:
    drawn = _table("net benefit", "after the same documents", "base", "adapted", "change")
    before, added, share = benefit.parameters, benefit.parameters_added, 1 - benefit.saved
    for row in (
        ("tokens of the same text", "1.000", f"{share:.3f}", -benefit.saved),
        (
            "parameters, millions",
            f"{before / 1e6:,.1f}",
            f"{(before + added) / 1e6:,.1f}",
            added / before,
        ),
        ("cost of a byte", "1.000", f"{benefit.cost:.3f}", benefit.cost - 1),
        (
            "bits per byte, validation text",
            f"{benefit.before:.3f}",
            f"{benefit.after:.3f}",
            benefit.quality_loss,
        ),
        ("net benefit", "", "", benefit.net),
    ):
        drawn.add_row(*row[:3], f"{row[3]:+.1%}")
    return drawn


def _table(title: str, first: str, *others: str) -> Table:
    """Names on the left, figures on the right."""
    drawn = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    drawn.add_column(first)
    for name in others:
        drawn.add_column(name, justify="right")
    return drawn


def print_audit(recipe: Recipe) -> None:
    """Looks a recipe's data through, and its base's licence; prints counts and places alone."""
    from adapt import bases
    from adapt.corpus.audit import audit
    from adapt.corpus.findings import counter_of
    from adapt.corpus.licence import base_licence
    from adapt.reporting.audit import audit_lines, audit_table
    from adapt.vocab.offsets import counting
    from adapt.vocab.source import open_backend

    count = None
    if (folder := bases.on_disk(recipe.model.base)) is not None:
        try:
            backend = counting(open_backend(str(folder)))
        except AdaptError:
            backend = None  # older bases hold what only transformers reads
        count = None if backend is None else counter_of(backend)

    # In a log file the bars of a few seconds are noise.
    terminal = sys.stderr.isatty()
    with nullcontext() if terminal else redirect_stderr(io.StringIO()):
        found = audit(
            recipe.corpus,
            recipe.evaluation.tasks,
            recipe.training.phases,
            seed=recipe.seed,
            count_tokens=count,
        )
    console.print(audit_table(found))
    for line in audit_lines(found):
        say(line)
    for line in base_licence(recipe.model.base, recipe.model.revision).lines:
        say(line)


def print_check(recipe: Recipe) -> None:
    """Checks a recipe, prints it with every default, and what a run will take."""
    from adapt.check import check as check_recipe

    estimate = check_recipe(recipe)
    say(dump_recipe(recipe))
    if estimate is None:
        say("estimate: none, for the base is not on this machine yet")
        return
    say(
        f"estimate: {estimate.parameters / 1e6:,.0f} M parameters, peak memory about "
        f"{estimate.memory_bytes / 2**30:.1f} GiB, about {estimate.seconds / 60:.0f} min on this "
        f"machine, {estimate.disk_bytes / 2**30:.1f} GiB of disk"
    )
    if estimate.new_rows:
        say(f"new rows: {estimate.new_rows}")
