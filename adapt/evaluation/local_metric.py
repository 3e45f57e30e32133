"""What every metric of the project is: an `evaluate.Metric` without network and disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import datasets
import evaluate


class LocalMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """A metric over strings that touches neither the network nor the disk.

    `evaluate` by default writes every example to a file in the Hub's cache folder, under a name
    that processes share; in memory, two runs side by side cannot read each other's rows.

    Args:
        keep_in_memory: False only for `evaluate`'s own gathering over processes, which needs files.
        options: As `evaluate.Metric` takes them.
    """

    summary: ClassVar[str]
    source: ClassVar[str]

    def __init__(self, keep_in_memory: bool = True, **options: Any) -> None:  # noqa: ANN401
        super().__init__(keep_in_memory=keep_in_memory, **options)

    def _build_data_dir(self) -> str:
        if not self.keep_in_memory:
            return str(super()._build_data_dir())
        return str(Path(self._data_dir_root, self.name, self.config_name))  # named, never made

    def _features(self) -> dict[str, Any]:
        text = datasets.Value("string")
        return {"predictions": text, "references": text}

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.summary,
            citation=self.source,
            inputs_description="One of each an example.",
            features=datasets.Features(self._features()),
        )

    def _compute(self, **columns: Sequence[Any]) -> dict[str, float]:
        # A datasets column is read lazily, cell by cell; the libraries below want plain lists.
        plain = {name: list(column) for name, column in columns.items()}
        self._check(**plain)
        return self._score(**plain)

    def _check(self, predictions: list[Any], references: list[Any], **others: list[Any]) -> None:
        check_pairs(predictions, references)

    def _score(self, *args: Any, **columns: Any) -> dict[str, float]:  # noqa: ANN401
        raise NotImplementedError


def check_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    """Raises a ValueError unless there are examples, all of them pairs of strings."""
    check_lengths(predictions, references)
    for number, pair in enumerate(zip(predictions, references, strict=True)):
        if not all(isinstance(one, str) for one in pair):
            raise ValueError(f"example {number}: prediction and reference must be text, got {pair}")


def check_lengths(predictions: Sequence[object], references: Sequence[object]) -> None:
    """Raises a ValueError unless there are examples, one prediction a reference."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if not predictions:
        raise ValueError("no examples to score")
