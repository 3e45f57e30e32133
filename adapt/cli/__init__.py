"""The command line: its verbs, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import logging
import sys
import warnings

import typer
from rich.console import Console
from rich.logging import RichHandler

from adapt.cli import classify, compare, data, export, generate, hub, init, report, runs, tokens
from adapt.errors import AdaptError
from adapt.processes import is_main

app = typer.Typer(
    help="Domain adaptation of language models, from the vocabulary up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    epilog="Add --debug to any command for the traceback behind an error.",
)
tokenizer_app = typer.Typer(
    help="Make a recipe's tokenizer alone, or compare two.", no_args_is_help=True
)
app.add_typer(tokenizer_app, name="tokenizer")

app.command()(init.init)
app.command()(runs.run)
app.command()(runs.check)
app.command()(report.report)
app.command()(compare.compare)
app.command()(compare.evaluate)
app.command()(generate.generate)
app.command()(classify.classify)
app.command()(export.merge)
app.command()(export.export)
app.command()(data.data)
app.command()(data.schema)
app.command()(hub.push)
tokenizer_app.command()(tokens.diff)
tokenizer_app.command()(tokens.build)


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
    # says at every start on a CPU that a kernel for GPUs is not there
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # transformers warns itself of names that it uses itself
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        app([argument for argument in given if argument != "--debug"], prog_name="adapt")
    except AdaptError as error:
        if debug:
            raise
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
