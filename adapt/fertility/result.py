"""What measuring tokenizers gives: figures of one tokenizer, and several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any


@dataclass(frozen=True)
class SplitWord:
    """A word, or a term, that takes several tokens, and how.

    Attributes:
        word: As it stands in the text, without surrounding punctuation; or a whole term.
        count: Occurrences split in this way; a word that its context splits in two ways is two
            entries. Of a term: times that it stands in the list.
        pieces: The word's characters by token, one entry a token; joined they are the word. A token
            that only carries on with a character begun by the one before (bytes of one character)
            adds an empty string, and so does one that is only the space before a term.
    """

    word: str
    count: int
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Fertility:
    """What one tokenizer makes of one text. Ratios of an empty text are 0.

    What has a default is None, or empty, in reports that older versions wrote.

    Attributes:
        name: Of the tokenizer, for tables.
        documents: Texts measured.
        bytes_: Of the texts in UTF-8.
        characters: Unicode code points.
        words: Maximal runs of non-whitespace.
        tokens: Without special tokens, padding or truncation.
        tokens_per_word: All tokens over all words; "fertility" in Rust et al. 2021, though here
            tokens of punctuation and whitespace count as well.
        bytes_per_token: Higher is shorter; comparable between tokenizers.
        tokens_per_character: For scripts without spaces.
        continued_word_share: Share of words whose span two or more tokens overlap (proportion of
            continued words, Rust et al. 2021).
        single_token_term_share: Share of the given terms that are one known token after a space, as
            in running text; None when no terms were given.
        unknown_rate: Share of tokens that are the unknown token; 0 where the model has none.
        most_split_words: The 50 that cost most tokens above one each, count x (pieces - 1), among
            words of at most 64 characters.
        most_split_terms: The 50 given terms that need most tokens after a space, two at least.
        normalized_sequence_length: Tokens over those of the first tokenizer of a report (Dagan et
            al. 2024); 1 for the first, lower is shorter. None outside a report, and where the first
            makes no token of a text and this one does.
        renyi_efficiency: See `renyi_efficiency`; of the text's unigram distribution of ids.
        vocabulary: Tokens that the tokenizer has, special and other added ones included.
        vocabulary_used: Different ids among the tokens. Not a sum over texts, but a union.
        vocabulary_used_share: `vocabulary_used` over `vocabulary`.
        context: Tokens of the context that `words_in_context` is about.
        words_in_context: Words that a context of that many tokens holds on average: `context` over
            `tokens_per_word`. Special tokens and prompts take their part of it.
        word_tokens: Words whose span 1, 2, 3 ... tokens overlap, ten entries, the last for 10 and
            more; a word that no token overlaps counts in none of them.
        document_quantiles: Tokens per word of the documents that have a word, at 0, 5 ... 100 % of
            them, between two by linear interpolation; empty where there are none.
    """

    name: str
    documents: int
    bytes_: int
    characters: int
    words: int
    tokens: int
    tokens_per_word: float
    bytes_per_token: float
    tokens_per_character: float
    continued_word_share: float
    single_token_term_share: float | None
    unknown_rate: float
    most_split_words: tuple[SplitWord, ...]
    most_split_terms: tuple[SplitWord, ...] = ()
    normalized_sequence_length: float | None = None
    renyi_efficiency: float | None = None
    vocabulary: int | None = None
    vocabulary_used: int | None = None
    vocabulary_used_share: float | None = None
    context: int | None = None
    words_in_context: float | None = None
    word_tokens: tuple[int, ...] = ()
    document_quantiles: tuple[float, ...] = ()


# Every field that is a number, in the order of a table.
METRICS = tuple(f.name for f in fields(Fertility) if f.name != "name" and "tuple" not in f.type)


@dataclass(frozen=True)
class FertilityReport:
    """Several tokenizers on the same texts; the first of each tuple is the reference.

    The normalised sequence lengths are set here, against that first.

    Attributes:
        domain: On domain text, one a tokenizer.
        general: On general text, the same tokenizers in the same order; empty without such text.
        groups: The same tokenizers on parts of the domain text, by a name such as a language; empty
            where none were asked for. Terms are not of a part, so a part has no figures of them.
    """

    domain: tuple[Fertility, ...]
    general: tuple[Fertility, ...]
    groups: Mapping[str, tuple[Fertility, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Frozen for all others; this way no report lacks the lengths.
        object.__setattr__(self, "domain", _against_first(self.domain))
        object.__setattr__(self, "general", _against_first(self.general))
        groups = {name: _against_first(group) for name, group in self.groups.items()}
        object.__setattr__(self, "groups", groups)

    def to_json(self) -> dict[str, Any]:
        """The report as plain dicts and lists of what JSON knows."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> FertilityReport:
        """What `to_json` and JSON made of a report, this version's or an older one's."""
        domain, general = (tuple(map(_fertility, record[kind])) for kind in ("domain", "general"))
        groups: dict[str, tuple[Fertility, ...]] = {
            name: tuple(map(_fertility, group)) for name, group in record.get("groups", {}).items()
        }
        return cls(domain, general, groups)


def _fertility(record: dict[str, Any]) -> Fertility:
    lists: dict[str, tuple[SplitWord, ...]] = {
        name: tuple(SplitWord(w["word"], w["count"], tuple(w["pieces"])) for w in record[name])
        for name in ("most_split_words", "most_split_terms")
        if name in record
    }
    figures: dict[str, tuple[float, ...]] = {
        name: tuple(record[name])
        for name in ("word_tokens", "document_quantiles")
        if name in record
    }
    return Fertility(**{**record, **lists, **figures})


def _against_first(measured: Sequence[Fertility]) -> tuple[Fertility, ...]:
    return tuple(
        replace(one, normalized_sequence_length=normalized_sequence_length(measured[0], one))
        for one in measured
    )


def saved(before: Fertility, after: Fertility) -> float:
    """Share of tokens saved on the same text; negative where `after` needs more.

    Raises:
        ValueError: The two were not measured on the same number of documents and bytes.
    """
    if (before.documents, before.bytes_) != (after.documents, after.bytes_):
        raise ValueError(
            f"{before.name} and {after.name} were measured on different texts: "
            f"{before.documents} documents of {before.bytes_} bytes, "
            f"{after.documents} of {after.bytes_}"
        )
    return share(before.tokens - after.tokens, before.tokens)


def normalized_sequence_length(reference: Fertility, other: Fertility) -> float | None:
    """How long `other` makes a text, the reference's length being 1.

    c = sum of len(T_other(d)) / sum of len(T_reference(d)), over the same documents d (Dagan et al.
    2024). 1 for two empty sequences; None where only the reference's is empty.

    Raises:
        ValueError: As `saved`.
    """
    if other.tokens == reference.tokens:
        return 1.0
    return 1 - saved(reference, other) if reference.tokens else None


def share(part: float, whole: float) -> float:
    """A ratio, 0 of nothing."""
    return part / whole if whole else 0.0
