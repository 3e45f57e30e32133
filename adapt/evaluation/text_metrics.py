"""Metrics of generated text against a reference, and of generated text by itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from adapt.evaluation.local_metric import LocalMetric, check_pairs
from adapt.evaluation.text_checks import LOOPS, grams, loops, words

_LIN = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, W04-1013."
_LI = "Li et al. 2016, A Diversity-Promoting Objective Function for Conversation, N16-1014."


class _Mean(LocalMetric):
    """The mean of a score that every example has by itself."""

    key: ClassVar[str]

    def each(self, predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        raise NotImplementedError

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {self.key: float(self.each(predictions, references).mean())}


class Rouge1(_Mean):
    """`rouge_1`: words in common, F1, mean over examples, 0 to 1."""

    key = "rouge_1"
    summary = "Mean F1 of words in common (a-z, 0-9; no stemming), 0 to 1."
    source = _LIN

    def each(self, predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        """Of each example."""
        return rouge_each(predictions, references, "rouge1")


class Rouge2(_Mean):
    """`rouge_2`: pairs of words in common, F1, mean over examples, 0 to 1."""

    key = "rouge_2"
    summary = "Mean F1 of pairs of words in common (a-z, 0-9; no stemming), 0 to 1."
    source = _LIN

    def each(self, predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        """Of each example."""
        return rouge_each(predictions, references, "rouge2")


class RougeL(_Mean):
    """`rouge_l`: longest common subsequence of words, F1, mean over examples, 0 to 1.

    `rouge_score` lower-cases and keeps the letters a-z and digits only, so text in other scripts
    scores 0; read chrF there.
    """

    key = "rouge_l"
    summary = "Mean F1 of the longest common subsequence of words (a-z, 0-9; no stemming), 0 to 1."
    source = _LIN

    def each(self, predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        """Of each example."""
        return rouge_l_each(predictions, references)


class ExactMatch(_Mean):
    """`exact_match`: share of answers that are the reference, spaces at the ends aside, 0 to 1."""

    key = "exact_match"
    summary = "Share of answers equal to the reference, spaces at the ends aside, 0 to 1."
    source = "Rajpurkar et al. 2016, SQuAD, D16-1264, without its normalisation."

    def each(self, predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        """Of each example."""
        pairs = zip(predictions, references, strict=True)
        return np.array([p.strip() == r.strip() for p, r in pairs], dtype=np.float64)


class Looping(_Mean):
    """`looping`: share of answers that end in a loop (`loops`), 0 to 1."""

    key = "looping"
    summary = f"Share of answers whose end repeats some words {LOOPS} times or more, 0 to 1."
    source = "Holtzman et al. 2020, The Curious Case of Neural Text Degeneration (repetition)."

    def each(self, predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        """Of each example."""
        return np.array([loops(text) for text in predictions], dtype=np.float64)


class ChrF(LocalMetric):
    """`chrf`: chrF2 of the whole set, 0 to 100 (not 0 to 1).

    Character 1- to 6-grams, beta 2, no word n-grams: sacrebleu's defaults. N-gram counts are summed
    over the set before precision and recall are taken, so this is not the mean of `chrf_each`.
    """

    summary = "chrF2 over character 1- to 6-grams, counted over the whole set, 0 to 100."
    source = "Popovic 2015, chrF: character n-gram F-score for automatic MT evaluation, W15-3049."

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"chrf": float(CHRF().corpus_score(predictions, [references]).score)}


class Bleu(LocalMetric):
    """`bleu`: BLEU-4 of the whole set, 0 to 100 (not 0 to 1), with sacrebleu's 13a tokens."""

    summary = "BLEU-4 with 13a tokens and exponential smoothing, over the whole set, 0 to 100."
    source = "Post 2018, A Call for Clarity in Reporting BLEU Scores, W18-6319."

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"bleu": float(BLEU().corpus_score(predictions, [references]).score)}


class LengthRatio(LocalMetric):
    """`length_ratio`: characters of all answers over those of all references; 1 is as long."""

    summary = "Characters of all answers over those of all references: 0 to any length, 1 is equal."
    source = "Papineni et al. 2002, BLEU, P02-1040 (the ratio in its brevity penalty)."

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"length_ratio": sum(map(len, predictions)) / max(sum(map(len, references)), 1)}


class _Distinct(LocalMetric):
    """Different n-grams of words over all n-grams, in all answers together."""

    size: ClassVar[int]

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        share = distinct_share(predictions, self.size)
        return {f"distinct_{self.size}": share(np.arange(len(predictions)))}


class Distinct1(_Distinct):
    """`distinct_1`: different words over all words of all answers, 0 to 1."""

    size = 1
    summary = "Different words over all words of all answers, 0 to 1; falls as the set grows."
    source = _LI


class Distinct2(_Distinct):
    """`distinct_2`: different pairs of words over all pairs of all answers, 0 to 1."""

    size = 2
    summary = "Different pairs of words over all pairs of all answers, 0 to 1."
    source = _LI


class Distinct3(_Distinct):
    """`distinct_3`: different triples of words over all triples of all answers, 0 to 1."""

    size = 3
    summary = "Different triples of words over all triples of all answers, 0 to 1."
    source = _LI


# -- each example -----------------------------------------------------------------------------


def rouge_each(
    predictions: Sequence[str], references: Sequence[str], kind: str
) -> NDArray[np.float64]:
    """ROUGE F1 of each example, 0 to 1; shape (examples,).

    Args:
        predictions: Answers.
        references: One an answer.
        kind: `rouge1`, `rouge2` or `rougeL`.

    Raises:
        ValueError: No examples, not one prediction a reference, or one that is not a string.
    """
    check_pairs(predictions, references)
    scorer = RougeScorer([kind], use_stemmer=False)
    pairs = zip(predictions, references, strict=True)
    return np.array(
        [scorer.score(reference, prediction)[kind].fmeasure for prediction, reference in pairs],
        dtype=np.float64,
    )


def rouge_reads(texts: Iterable[str]) -> bool:
    """Whether any text holds what ROUGE reads: a letter a-z, of either case, or a digit 0-9."""
    return any(re.search("[a-z0-9]", text.lower()) for text in texts)


def rouge_l_each(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """ROUGE-L F1 of each example, 0 to 1; shape (examples,). Their mean is `RougeL`.

    Raises:
        ValueError: No examples, not one prediction a reference, or one that is not a string.
    """
    return rouge_each(predictions, references, "rougeL")


def chrf_each(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """ChrF2 of each example by itself, 0 to 100; shape (examples,).

    Raises:
        ValueError: No examples, not one prediction a reference, or one that is not a string.
    """
    check_pairs(predictions, references)
    scorer = CHRF()
    pairs = zip(predictions, references, strict=True)
    return np.array(
        [scorer.sentence_score(prediction, [reference]).score for prediction, reference in pairs],
        dtype=np.float64,
    )


# -- statistics of chosen rows ------------------------------------------------------------------


def text_statistics(
    predictions: Sequence[str], references: Sequence[str]
) -> dict[str, Callable[[NDArray[np.int64]], float]]:
    """Corpus chrF and BLEU of chosen rows; of all rows they are what `ChrF` and `Bleu` say.

    The n-grams of a row are counted once, and their sums make the score of any set of rows.
    """
    found: dict[str, Callable[[NDArray[np.int64]], float]] = {}
    for name, scorer in (("chrf", CHRF()), ("bleu", BLEU())):
        counts = np.array(scorer._extract_corpus_statistics(list(predictions), [list(references)]))
        found[name] = partial(_summed, scorer, counts)
    return found


def distinct_share(predictions: Sequence[str], size: int) -> Callable[[NDArray[np.int64]], float]:
    """Different n-grams of words over all n-grams, in chosen answers together; 0 of none.

    Args:
        predictions: Answers.
        size: Words of an n-gram.
    """
    ids: dict[tuple[str, ...], int] = {}
    found = [
        np.array([ids.setdefault(gram, len(ids)) for gram in grams(words(text), size)], dtype=int)
        for text in predictions
    ]

    def share(rows: NDArray[np.int64]) -> float:
        counts = np.bincount(np.concatenate([found[row] for row in rows]), minlength=1)
        return float((counts > 0).sum() / max(counts.sum(), 1))

    return share


def _summed(scorer: Any, counts: NDArray[np.int64], rows: NDArray[np.int64]) -> float:  # noqa: ANN401
    return float(scorer._compute_score_from_stats(counts[rows].sum(axis=0).tolist()).score)
