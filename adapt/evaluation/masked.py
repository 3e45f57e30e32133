"""Pseudo bits per byte: how well a model that fills in hidden words predicts each word of a text.

For each piece of a word, that piece and all later pieces of the same word are hidden, and all the
rest of the text is seen (Kauf and Ivanova 2023, "A Better Way to Do Masked Language Model Scoring",
PLL-word-l2r). By the chain rule the sum over a word's pieces is the log probability of the word
given the text around it, whatever the pieces. It is no likelihood of the text, for every word is
predicted from all others, so it compares with its own kind alone.

A word must be the same characters for all models that are compared. It is a run between white
space, with the white space before it; where any of their tokenizers has a piece across a word's
end, both words are hidden together by all of them. Words that one of them cannot spell (an unknown
or a special token), gives no piece, or more pieces than a window holds, are scored by none.

What remains between tokenizers: the number of masks says how many pieces a word has, which narrows
down what it may be. `told_bits` bounds what that is worth.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adapt.evaluation.likelihood import Reading
from adapt.progress import watched
from adapt.training.batches import frame_ids, plain_encoding
from adapt.training.records import special_ids

MEASURE = "pseudo bits per byte"

_WORD = re.compile(r"\S+")


def fills_masks(model: Any) -> bool:  # noqa: ANN401
    """Whether a model predicts hidden tokens from both sides, and writes no text."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(plain).__name__.endswith("ForMaskedLM")


# -- words ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """A text cut into words for every model that is compared.

    Attributes:
        ends: Of each word, in characters; the first begins at 0, each other where one ends.
        scored: Which words are.
    """

    ends: tuple[int, ...]
    scored: tuple[bool, ...]

    def scored_bytes(self, text: str) -> int:
        """UTF-8 bytes of the words that are scored, the white space before them included."""
        spans = zip((0, *self.ends), self.ends, self.scored, strict=False)  # one start too many
        return sum(len(text[start:end].encode()) for start, end, scored in spans if scored)


def shared_words(
    texts: Sequence[str], tokenizers: Sequence[Any], *, max_length: int
) -> list[Words]:
    """Words that each of the tokenizers cuts at their ends; see the module.

    Args:
        texts: Documents.
        tokenizers: Of all models that are compared.
        max_length: Longest window, with what frames a text; tokens.
    """
    rooms = [_room(tokenizer, max_length) for tokenizer in tokenizers]
    barred = [np.array(sorted(special_ids(tokenizer))) for tokenizer in tokenizers]
    found = []
    for text in texts:
        encodings = [plain_encoding(tokenizer, text) for tokenizer in tokenizers]
        ends = np.array([match.end() for match in _WORD.finditer(text)], dtype=np.int64)
        if not len(ends):
            found.append(Words((), ()))
            continue
        ends[-1] = len(text)
        for encoding in encodings:
            ends = ends[_uncrossed(encoding.offsets, ends)]
        scored = np.ones(len(ends), dtype=bool)
        for encoding, room, special in zip(encodings, rooms, barred, strict=True):
            upto = _pieces_upto(encoding.offsets, ends)
            pieces = np.diff(upto)
            unspelled = np.cumsum([0, *np.isin(encoding.ids, special)])[upto]
            scored &= (pieces > 0) & (pieces <= room) & (np.diff(unspelled) == 0)
        found.append(Words(tuple(ends.tolist()), tuple(scored.tolist())))
    return found


def _room(tokenizer: Any, max_length: int) -> int:  # noqa: ANN401
    """Tokens of text in a window."""
    return max(1, max_length - sum(map(len, frame_ids(tokenizer))))


def _uncrossed(offsets: Sequence[tuple[int, int]], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which ends no token lies across; the last is the text's own."""
    upto = _pieces_upto(offsets, ends)[1:]
    starts = np.array([start for start, _ in offsets], dtype=np.int64)
    ahead = np.append(np.minimum.accumulate(starts[::-1])[::-1], ends[-1])  # of the tokens to come
    free: NDArray[np.bool_] = ahead[upto] >= ends
    free[-1] = True
    return free


def _pieces_upto(offsets: Sequence[tuple[int, int]], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens before each word and after the last; shape (words + 1,), from 0 to all of them."""
    reached = np.maximum.accumulate(np.array([end for _, end in offsets], dtype=np.int64))
    upto = np.append(0, np.searchsorted(reached, ends, side="right"))
    upto[-1] = len(offsets)
    return upto


def told_bits(tokenizer: Any, texts: Sequence[str], words: Sequence[Words]) -> float:  # noqa: ANN401
    """Most that the number of masks can tell of the scored words, in bits.

    To name each word's number of pieces takes so many, with the best code that knows nothing of
    the text around it. A word's own bits are those given its number of pieces, so what they
    really are lies between them and them with this.

    Args:
        tokenizer: Of the model that reads.
        texts: Documents.
        words: Of each, from `shared_words`.
    """
    counts: Counter[int] = Counter()
    for text, cut in zip(texts, words, strict=True):
        if cut.ends:
            encoding = plain_encoding(tokenizer, text)
            pieces = np.diff(_pieces_upto(encoding.offsets, np.array(cut.ends)))
            counts.update(pieces[list(cut.scored)].tolist())
    total = counts.total()
    return sum(-n * math.log2(n / total) for n in counts.values())


# -- reading ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """One forward pass's row: a window with the later pieces of a word hidden.

    Attributes:
        document: Number of the text.
        ids: The window, framed, nothing hidden.
        first: Place of the piece that is predicted, the first that is hidden.
        last: Behind the last that is hidden.
    """

    document: int
    ids: list[int]
    first: int
    last: int


def read_masked(
    model: Any,  # noqa: ANN401 - transformers' models share no typed base
    tokenizer: Any,  # noqa: ANN401
    texts: Sequence[str],
    words: Sequence[Words],
    *,
    max_length: int,
    batch_size: int,
    label: str,
    new_ids: Sequence[int] = (),
) -> Reading:
    """Negative log2 probability of each document's scored words, each given all others.

    A document longer than a window is read in windows of whole words. The words scored in a window
    take half of it, or are a single one; a quarter of it, less a word, stands on either side of
    them as far as the document goes. A row is computed for every piece.

    Args:
        model: A masked language model in evaluation mode.
        tokenizer: Its tokenizer, one of those that `words` were made with.
        texts: Documents.
        words: Of each, from `shared_words` with the same `max_length`.
        max_length: Longest window, with what frames a text; tokens.
        batch_size: Rows at once.
        label: For the progress bar.
        new_ids: Ids of the new tokens; without any, `new` is all 0.
    """
    rows: list[_Row] = []
    for i, (text, cut) in enumerate(zip(texts, words, strict=True)):
        rows += _rows(i, tokenizer, text, cut, max_length)
    rows.sort(key=lambda row: len(row.ids), reverse=True)
    nats, new = np.zeros(len(texts)), np.zeros(len(texts))
    positions = np.zeros(len(texts), dtype=np.int64)
    hidden, pad = tokenizer.mask_token_id, tokenizer.pad_token_id or 0
    for at in watched(range(0, len(rows), batch_size), label):
        batch = rows[at : at + batch_size]
        lost, mass = _nats(model, batch, hidden, pad, new_ids)
        of = [row.document for row in batch]
        np.add.at(nats, of, lost)
        np.add.at(new, of, mass)
        np.add.at(positions, of, 1)
    return Reading(nats / math.log(2), positions, new)


def _rows(
    document: int,
    tokenizer: Any,  # noqa: ANN401
    text: str,
    words: Words,
    max_length: int,
) -> Iterator[_Row]:
    """A row for each piece of each scored word of a document."""
    if not words.ends:
        return
    encoding, (before, after) = plain_encoding(tokenizer, text), frame_ids(tokenizer)
    upto = _pieces_upto(encoding.offsets, np.array(words.ends)).tolist()
    for first, last, begin, end in _windows(upto, _room(tokenizer, max_length)):
        ids = [*before, *encoding.ids[upto[begin] : upto[end]], *after]
        shift = len(before) - upto[begin]
        for word in range(first, last):
            if words.scored[word]:
                stop = upto[word + 1] + shift
                yield from (
                    _Row(document, ids, piece, stop) for piece in range(upto[word] + shift, stop)
                )


def _windows(upto: Sequence[int], room: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows of whole words over a document.

    Args:
        upto: Tokens before each word, and all.
        room: Most tokens of a window; a single word may have more.

    Yields:
        The first word that is scored and the one behind the last; the first that is seen and the
        one behind the last. Each word is scored once.
    """
    words, first = len(upto) - 1, 0
    if upto[-1] <= room:
        yield 0, words, 0, words
        return
    while first < words:
        last = first + 1
        while last < words and upto[last + 1] - upto[first] <= room // 2:
            last += 1
        begin, end = first, last
        side = (room - upto[last] + upto[first]) // 2
        while begin > 0 and upto[first] - upto[begin - 1] <= side:
            begin -= 1
        while end < words and upto[end + 1] - upto[begin] <= room:
            end += 1
        while begin > 0 and upto[end] - upto[begin - 1] <= room:  # near the document's end
            begin -= 1
        yield first, last, begin, end
        first = last


@torch.inference_mode()
def _nats(
    model: Any,  # noqa: ANN401
    batch: Sequence[_Row],
    hidden: int,
    pad: int,
    new_ids: Sequence[int],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Negative log probability of each row's piece, and probability of new ids; both (rows,)."""
    longest = max(len(row.ids) for row in batch)
    ids = torch.full((len(batch), longest), pad)
    mask = torch.zeros((len(batch), longest), dtype=torch.long)
    for i, row in enumerate(batch):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        ids[i, row.first : row.last] = hidden
        mask[i, : len(row.ids)] = 1
    places = torch.tensor([row.first for row in batch], device=model.device)
    with _only_at(model, places) as at:
        output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
    logits = at(output.logits)[:, 0].float()  # (rows, vocabulary)
    targets = torch.tensor([row.ids[row.first] for row in batch], device=logits.device)
    lost = cross_entropy(logits, targets, reduction="none")
    mass = torch.zeros(len(batch))
    if new_ids:
        mass = (logits[:, list(new_ids)].logsumexp(-1) - logits.logsumexp(-1)).exp()
    return lost.double().cpu().numpy(), mass.double().cpu().numpy()


@contextmanager
def _only_at(model: Any, places: Tensor) -> Iterator[Any]:  # noqa: ANN401
    """Lets the output layer see one place of each row: it costs as much as a small model's body.

    Gives a function that takes (rows, tokens, any) to (rows, 1, any), which leaves alone what is
    narrowed already, for models whose output layer is called otherwise.
    """
    rows = torch.arange(len(places), device=places.device)

    def narrowed(states: Tensor) -> Tensor:
        if states.dim() != 3 or len(states) != len(places) or states.shape[1] == 1:
            return states
        return states[rows, places].unsqueeze(1)

    def before(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (narrowed(given[0]), *given[1:]) if given else given

    outputs = model.get_output_embeddings()
    handle = outputs.register_forward_pre_hook(before) if outputs is not None else None
    try:
        yield narrowed
    finally:
        if handle is not None:
            handle.remove()
