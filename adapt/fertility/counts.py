"""Counting tokens and the words they break up, text by text."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from adapt.fertility.result import Fertility, SplitWord, share
from adapt.progress import watched
from adapt.vocab.audit import unknown_id
from adapt.vocab.offsets import batched, counting, token_spans, word_spans

MOST_SPLIT = 50  # words, and terms, listed
LONGEST_LISTED = 64  # characters; a longer run is a link, a sequence or text without spaces
CONTEXT = 2048  # tokens
MOST_TOKENS = 10  # of a word that are told apart
QUANTILES = np.linspace(0, 1, 21)  # of documents
RENYI_ALPHA = 2.5  # the order that agreed best with translation quality in Zouhar et al. 2023


@dataclass
class _Tally:
    """Counts that grow document by document; those of two texts add up."""

    documents: int = 0
    bytes_: int = 0
    characters: int = 0
    tokens: int = 0
    words: int = 0
    # Words by the tokens that overlap them; the last for all that have more.
    word_tokens: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(MOST_TOKENS + 1, dtype=np.int64)
    )
    ratios: array[float] = field(default_factory=lambda: array("d"))  # tokens per word
    splits: Counter[tuple[str, ...]] = field(default_factory=Counter)
    ids: Counter[int] = field(default_factory=Counter)

    def __iadd__(self, other: _Tally) -> _Tally:
        for one in fields(self):
            mine, its = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, Counter):
                mine.update(its)  # in place: adding Counters copies all that is there
            else:
                setattr(self, one.name, mine + its)
        return self


def measure(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    name: str,
    terms: Sequence[str] = (),
    context: int = CONTEXT,
    progress: bool = False,
) -> Fertility:
    """Measures one tokenizer on one text.

    Args:
        tokenizer: Left as it is; stored truncation and padding are off while counting.
        texts: Documents; streamed.
        name: Of the tokenizer, for tables.
        terms: Domain terms, for what is said of terms; blank ones are left out.
        context: Tokens, for `words_in_context`.
        progress: Show a progress bar on the error stream.

    Returns:
        The metrics; every count of texts `a + b` is the sum of those of `a` and of `b`.
    """
    tokenizer = counting(tokenizer)
    tally = _tallied(tokenizer, watched(texts, f"Measuring {name}") if progress else texts)
    return _figures(tally, tokenizer, name, terms, context)


def measure_groups(
    tokenizer: Tokenizer,
    groups: Mapping[str, Iterable[str]],
    *,
    name: str,
    terms: Sequence[str] = (),
    context: int = CONTEXT,
    progress: bool = False,
) -> tuple[Fertility, dict[str, Fertility]]:
    """Measures one tokenizer on a text in parts, such as languages, encoding each once.

    Args:
        tokenizer: As for `measure`.
        groups: Documents by the name of their part, which may be empty; streamed.
        name: As for `measure`.
        terms: As for `measure`; a part has no figures of terms.
        context: As for `measure`.
        progress: As for `measure`.

    Returns:
        What `measure` says of all documents, and of each part's.
    """
    tokenizer = counting(tokenizer)
    whole, parts = _Tally(), {}
    for group, texts in groups.items():
        label = f"Measuring {name}" + (f", {group}" if group else "")
        watching = watched(texts, label) if progress else texts
        tally = _tallied(tokenizer, watching)
        parts[group] = _figures(tally, tokenizer, name, (), context)
        whole += tally
    return _figures(whole, tokenizer, name, terms, context), parts


def renyi_efficiency(counts: Iterable[int], vocabulary: int, alpha: float = RENYI_ALPHA) -> float:
    """How evenly the tokens of a text use a vocabulary, as far as Rényi entropy sees it.

    H_alpha(p) / log |V| with H_alpha(p) = log(sum of p_i ** alpha) / (1 - alpha) and p the unigram
    distribution of ids (Zouhar et al. 2023). The higher the order, the more very frequent tokens
    weigh. It compares vocabularies by their use, and is no measure of length.

    Args:
        counts: Occurrences of each id that occurs.
        vocabulary: |V|, the number of tokens that could occur.
        alpha: Order; positive and not 1.

    Returns:
        From 0 to 1: 1 where every token is as frequent as any other, 0 where there is but one, and
        where nothing was counted.
    """
    seen = np.fromiter(counts, dtype=np.float64)
    if not seen.sum() or vocabulary < 2:
        return 0.0
    entropy = np.log(((seen / seen.sum()) ** alpha).sum()) / (1 - alpha)
    return float(np.clip(entropy / np.log(vocabulary), 0, 1))


def _figures(
    tally: _Tally, tokenizer: Tokenizer, name: str, terms: Sequence[str], context: int
) -> Fertility:
    unknown = unknown_id(tokenizer)
    vocabulary, tokens_per_word = tokenizer.get_vocab_size(), share(tally.tokens, tally.words)
    single_token_term_share, most_split_terms = _terms(tokenizer, terms, unknown)
    return Fertility(
        name=name,
        documents=tally.documents,
        bytes_=tally.bytes_,
        characters=tally.characters,
        words=tally.words,
        tokens=tally.tokens,
        tokens_per_word=tokens_per_word,
        bytes_per_token=share(tally.bytes_, tally.tokens),
        tokens_per_character=share(tally.tokens, tally.characters),
        continued_word_share=share(int(tally.word_tokens[2:].sum()), tally.words),
        single_token_term_share=single_token_term_share,
        unknown_rate=share(0 if unknown is None else tally.ids[unknown], tally.tokens),
        most_split_words=_most_split(tally.splits),
        most_split_terms=most_split_terms,
        renyi_efficiency=renyi_efficiency(tally.ids.values(), vocabulary),
        vocabulary=vocabulary,
        vocabulary_used=len(tally.ids),
        vocabulary_used_share=share(len(tally.ids), vocabulary),
        context=context,
        words_in_context=share(context, tokens_per_word),
        word_tokens=tuple(tally.word_tokens[1:].tolist()),
        document_quantiles=tuple(np.quantile(tally.ratios, QUANTILES).tolist())
        if tally.ratios
        else (),
    )


def _tallied(tokenizer: Tokenizer, texts: Iterable[str]) -> _Tally:
    tally = _Tally()
    for batch in batched(texts):
        encodings = tokenizer.encode_batch(batch, add_special_tokens=False)
        for text, encoding in zip(batch, encodings, strict=True):
            _add(tally, text, encoding, tokenizer)
    return tally


def _add(tally: _Tally, text: str, encoding: Encoding, tokenizer: Tokenizer) -> None:
    tally.documents += 1
    tally.bytes_ += len(text.encode())
    tally.characters += len(text)
    tally.tokens += len(encoding)
    tally.ids.update(encoding.ids)
    words = word_spans(text)
    tally.words += len(words)
    if len(words):
        tally.ratios.append(len(encoding) / len(words))
    if not len(words) or not len(encoding):
        return
    starts, ends = token_spans(text, encoding, tokenizer)
    # A token overlaps [first, last) when it starts before last and ends after first; those that end
    # by first also start before last, so two counts and a difference find the overlapping ones.
    lower = np.searchsorted(ends, words[:, 0], side="right")
    upper = np.searchsorted(starts, words[:, 1], side="left")
    overlapping = upper - lower
    tally.word_tokens += np.bincount(
        np.clip(overlapping, 0, MOST_TOKENS), minlength=MOST_TOKENS + 1
    )
    continued = np.flatnonzero(overlapping >= 2)
    bounds = ends.tolist()
    rows = np.column_stack((words, lower, upper))[continued].tolist()
    tally.splits.update(
        _pieces(text, start, end, bounds[low:high])
        for start, end, low, high in rows
        if end - start <= LONGEST_LISTED
    )


def _pieces(text: str, start: int, end: int, token_ends: Sequence[int]) -> tuple[str, ...]:
    """The word text[start:end] cut where its tokens end; the last piece takes what is left."""
    cuts = [start, *token_ends[:-1], end]
    return tuple(text[a:b] for a, b in zip(cuts, cuts[1:], strict=False))


def _terms(
    tokenizer: Tokenizer, terms: Sequence[str], unknown: int | None
) -> tuple[float | None, tuple[SplitWord, ...]]:
    """The share of terms that are one known token after a space; and those that need most."""
    counts = Counter(term for given in terms if (term := given.strip()))
    if not counts:
        return None, ()
    single, split = 0, []
    spaced = [f" {term}" for term in counts]
    encodings = tokenizer.encode_batch(spaced, add_special_tokens=False)
    for text, count, encoding in zip(spaced, counts.values(), encodings, strict=True):
        if len(encoding) == 1 and encoding.ids[0] != unknown:
            single += count
        elif len(encoding) > 1:
            ends = sorted(max(end, 1) for _, end in encoding.offsets)  # the space is no part of it
            split.append(SplitWord(text[1:], count, _pieces(text, 1, len(text), ends)))
    split.sort(key=lambda term: (-len(term.pieces), term.word))
    return single / counts.total(), tuple(split[:MOST_SPLIT])


def _most_split(splits: Counter[tuple[str, ...]]) -> tuple[SplitWord, ...]:
    """The costliest splits first; equal costs in alphabetical order, so that runs agree."""
    costliest = sorted(splits.items(), key=lambda item: (-item[1] * (len(item[0]) - 1), item[0]))[
        :MOST_SPLIT
    ]
    return tuple(SplitWord("".join(pieces), count, pieces) for pieces, count in costliest)
