"""Has the domain moved on: new text against the figures that a tokenizer had on held-out text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from adapt.fertility.result import Fertility, SplitWord

THRESHOLD = 0.05


@dataclass(frozen=True)
class Drift:
    """One tokenizer on its run's held-out text, and on new text.

    Attributes:
        before: On the held-out text.
        now: On the new text.
        threshold: Share of tokens per word, and of all tokens being unknown, that may be lost.
        worse: What lost more than that: `tokens per word`, `unknown tokens`.
        new_words: Words that now cost most and did not before, as the two lists have them.
    """

    before: Fertility
    now: Fertility
    threshold: float
    worse: tuple[str, ...]
    new_words: tuple[SplitWord, ...]

    @property
    def longer(self) -> float:
        """Tokens per word over those before, less 1; 0 where there were none before."""
        before = self.before.tokens_per_word
        return self.now.tokens_per_word / before - 1 if before else 0.0

    @property
    def sentence(self) -> str:
        """What was found, and whether it is time to adapt again."""
        before, now = self.before, self.now
        figures = (
            f"tokens per word {before.tokens_per_word:.3f} → {now.tokens_per_word:.3f} "
            f"({self.longer:+.1%}), unknown tokens {before.unknown_rate:.2%} → "
            f"{now.unknown_rate:.2%}"
        )
        if self.worse:
            what = " and ".join(self.worse)
            return f"{figures}: {what} worse by more than {self.threshold:.1%}; adapt again"
        return f"{figures}: within {self.threshold:.1%} of the run's own held-out text"

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {**asdict(self), "longer": self.longer, "sentence": self.sentence}


def drift(before: Fertility, now: Fertility, threshold: float = THRESHOLD) -> Drift:
    """Compares two measures of one tokenizer.

    Tokens per word are worse by their relative growth. The share of unknown tokens is usually 0,
    of which nothing is a multiple, so it is worse by the difference of the two shares.

    Args:
        before: On held-out text of the run.
        now: On new text.
        threshold: Above it, worse is reported; a share, at least 0.

    Raises:
        ValueError: The threshold is below 0, or one of the texts has no word.
    """
    if threshold < 0:
        raise ValueError(f"threshold must not be below 0, got {threshold}")
    if not before.words or not now.words:
        raise ValueError("a text without a word has no fertility")
    losses = {
        "tokens per word": now.tokens_per_word / before.tokens_per_word - 1,
        "unknown tokens": now.unknown_rate - before.unknown_rate,
    }
    worse = tuple(name for name, loss in losses.items() if loss > threshold)
    known = {word.word for word in before.most_split_words}
    new = tuple(word for word in now.most_split_words if word.word not in known)
    return Drift(before, now, threshold, worse, new)
