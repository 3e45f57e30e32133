"""Has the domain moved on: new text against the figures that a tokenizer had on held-out text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from adapt.fertility.result import Fertility, SplitWord

THRESHOLD = 0.05

# Characters a word, on average, above which "words" are clauses: the text puts no spaces between
# its words, and tokens are counted by the character. Written German has some 7.
_CLAUSE = 20
_METRICS = {"tokens per word": "tokens_per_word", "tokens per character": "tokens_per_character"}


@dataclass(frozen=True)
class Drift:
    """One tokenizer on its run's held-out text, and on new text.

    Attributes:
        before: On the held-out text.
        now: On the new text.
        threshold: Share of `unit`, and of all tokens being unknown, that may be lost.
        worse: What lost more than that: `unit`, `unknown tokens`.
        new_words: Words that now cost most and did not before, as the two lists have them.
    """

    before: Fertility
    now: Fertility
    threshold: float
    worse: tuple[str, ...]
    new_words: tuple[SplitWord, ...]

    @property
    def unit(self) -> str:
        """What decides: `tokens per word`, or `tokens per character` of text without spaces."""
        spaced = self.before.characters <= _CLAUSE * self.before.words
        return "tokens per word" if spaced else "tokens per character"

    @property
    def longer(self) -> float:
        """Tokens per `unit` over those before, less 1; 0 where there were none before."""
        before, now = (getattr(one, _METRICS[self.unit]) for one in (self.before, self.now))
        return float(now / before - 1) if before else 0.0

    @property
    def sentence(self) -> str:
        """What was found, and whether it is time to adapt again."""
        before, now = self.before, self.now
        values = [getattr(one, _METRICS[self.unit]) for one in (before, now)]
        why = "" if self.unit == "tokens per word" else " (words stand without spaces)"
        figures = (
            f"{self.unit}{why} {values[0]:.3f} → {values[1]:.3f} "
            f"({self.longer:+.1%}), unknown tokens {before.unknown_rate:.2%} → "
            f"{now.unknown_rate:.2%}"
        )
        if self.worse:
            what = " and ".join(self.worse)
            return f"{figures}: {what} worse by more than {self.threshold:.1%}; adapt again"
        return f"{figures}: within {self.threshold:.1%} of the run's own held-out text"

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        found = {"unit": self.unit, "longer": self.longer, "sentence": self.sentence}
        return {**asdict(self), **found}


def drift(before: Fertility, now: Fertility, threshold: float = THRESHOLD) -> Drift:
    """Compares two measures of one tokenizer.

    Tokens per word are worse by their relative growth; of text that puts no spaces between its
    words, as Chinese, tokens per character are. The share of unknown tokens is usually 0, of which
    nothing is a multiple, so it is worse by the difference of the two shares.

    Args:
        before: On held-out text of the run.
        now: On new text.
        threshold: Above it, worse is reported; a share, at least 0.

    Raises:
        ValueError: The threshold is below 0 or no number, or one of the texts has no word.
    """
    if not threshold >= 0:  # as of no number
        raise ValueError(f"threshold must be a share of at least 0, got {threshold}")
    if not before.words or not now.words:
        raise ValueError("a text without a word has no fertility")
    known = {word.word for word in before.most_split_words}
    new = tuple(word for word in now.most_split_words if word.word not in known)
    found = Drift(before, now, threshold, (), new)
    losses = {
        found.unit: found.longer,
        "unknown tokens": now.unknown_rate - before.unknown_rate,
    }
    return replace(found, worse=tuple(name for name, loss in losses.items() if loss > threshold))
