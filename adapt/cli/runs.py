"""`adapt run` and `adapt check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapt.cli.shared import DryRun, Overrides, RecipePath, console, say
from adapt.processes import is_main
from adapt.recipe import dump_recipe, load_recipe

if TYPE_CHECKING:
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


def check(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Check a recipe without starting work, and print it with every default.

    Looks at keys, files, columns, the base model, installed packages and disk, and estimates
    memory and time.

    Example:
      adapt check recipes/medical.yaml training.lora.r=8
    """
    print_check(load_recipe(recipe, overrides or []))


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
