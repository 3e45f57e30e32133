"""What can be known of sources and tasks before any work: the first row of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from adapt.corpus.read import read_documents, read_hub_documents, read_rows, string_of
from adapt.errors import AdaptError, DataError
from adapt.recipe.evaluation import AnyTask, ClassificationTask, fields_of
from adapt.recipe.sources import CorpusSection, Source


def check_corpus(section: CorpusSection, tasks: Sequence[AnyTask]) -> list[AdaptError]:
    """All that is wrong with the first row of every source and task; empty when all is well.

    A Hub data set is asked for its first row, which needs the network; nothing else does.
    """
    problems: list[AdaptError] = []
    for source in (*section.sources, *section.general):
        try:
            _check_source(source)
        except AdaptError as problem:
            problems.append(problem)
    for task in tasks:
        problems += _check_task(task)
    return problems


def columns_of(task: AnyTask) -> list[str]:
    """The columns that a task's file must have, each once.

    Raises:
        DataError: The prompt is not a template of column names.
    """
    try:
        fields = fields_of(task.prompt)
    except ValueError as error:
        where = f"task {task.name}: prompt"
        raise DataError(str(error), where=where, got=task.prompt) from None
    if isinstance(task, ClassificationTask):
        # In a classification prompt {text} is the text, whatever its column is called.
        fields = [task.text, task.label, *(field for field in fields if field != "text")]
    else:
        fields = [task.target, *fields]
    return list(dict.fromkeys(fields))


def _check_source(source: Source) -> None:
    if source.path is not None:
        _first(read_documents(Path(source.path), source.text))
    else:
        _first(
            read_hub_documents(
                source.dataset or "", source.text, config=source.config, split=source.split
            )
        )


def _first(documents: Iterable[object]) -> None:
    next(iter(documents))  # an empty source raises a DataError before this can stop


def _check_task(task: AnyTask) -> list[AdaptError]:
    problems: list[AdaptError] = []
    try:
        columns = columns_of(task)
        number, row = next(read_rows(Path(task.path)), (0, {}))
    except AdaptError as problem:
        return [problem]
    if not number:
        return [DataError("holds no rows", where=task.path, fix=f"give task {task.name} some")]
    texts = [task.text, task.label] if isinstance(task, ClassificationTask) else [task.target]
    for column in columns:
        if column in texts or column not in row:
            try:
                string_of(row, column, f"{task.path}:{number}")
            except DataError as problem:
                problems.append(problem)
    return problems
