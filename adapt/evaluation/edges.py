"""The edge of a prompt: what it costs that a text was cut where a token may reach across.

A document is cut before a space, and the model is asked for what follows. Two ways of asking:

plain
    The text before the cut is encoded alone, and its tokens stay. What follows is encoded alone.
healed
    As `adapt.generation` does it: the tokens at the cut that a longer one could reach over are
    dropped, and the model writes their text anew, constrained to it, before it goes on. It may
    write the tokens of the text encoded in one, which may cross the cut, or those of the plain
    way: what counts is the sum of both. At a constrained position a token has p / Z, with Z the
    probability of all that is allowed there, for so the sampler renormalises.

Both give the bits of the same bytes, so models with different tokenizers can be compared. The
last token counts with all that begin like it: what is asked is whether the answer begins with the
text that follows, and a cut at its end must not cost what this module measures at its beginning.
The same bytes can be written in still other tokens, so both are upper bounds.

Every cut is where a word ends. The plain way is told so by its tokens: after " is" no "land" will
come. The healed way has to find out, which costs it bits on any tokenizer, the base's too, and
would be a gain where a prompt ends inside a word. So what an edge costs a new vocabulary is what
it costs there more than it costs the base.

A third way, the text encoded in one and no prompt kept, is no measure of prompts: where a token
crosses the cut, no tokens are those of the answer alone.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax

from adapt.evaluation.bootstrap import Interval, paired_ratio_difference, ratio_interval
from adapt.evaluation.result import EdgeScores
from adapt.generation import Pieces, heal, pieces_of
from adapt.progress import watched
from adapt.training.batches import start_ids
from adapt.training.parts import learned_positions

_BEFORE = 128  # bytes of text before a cut that are read: what an edge costs is a near thing
_BEYOND = 64  # bytes after the scored ones that are encoded with them, so that tokens end freely
_PLACE = re.compile(r"(?<=\S) (?=\S)")


@dataclass(frozen=True)
class Cut:
    """A text, cut before a space.

    Attributes:
        document: Which text it is of, from 0.
        before: What a prompt would be.
        after: What is scored, beginning with the space.
        beyond: What follows that; only encoded.
    """

    document: int
    before: str
    after: str
    beyond: str


@dataclass(frozen=True)
class _Question:
    """One way to be asked for what follows a cut.

    Attributes:
        ids: What is read: the prompt's tokens, then the answer's save the last.
        first: Of the answer among them.
        counted: Of each position of the answer, the tokens whose probability counts.
        allowed: Of the first positions of the answer, the tokens that may be written there.
    """

    ids: tuple[int, ...]
    first: int
    counted: list[list[int]]
    allowed: list[list[int]]


@dataclass(frozen=True)
class _Asked:
    """A cut under one tokenizer: both ways, and whether the text's own tokens cross the cut."""

    document: int
    plain: _Question
    healed: list[_Question]
    dropped: bool
    crossed: bool
    bytes_: int


def edge_scores(
    model: Any,  # noqa: ANN401 - transformers' models share no typed base
    tokenizer: Any,  # noqa: ANN401
    texts: Sequence[str],
    *,
    cuts: int,
    max_bytes: int,
    batch_size: int,
    seed: int,
    label: str,
    part: Sequence[int] = (),
) -> EdgeScores | None:
    """Bits per byte of what follows cuts in documents, plain and healed.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        texts: Documents.
        cuts: At most so many (`cut_points`).
        max_bytes: Longest text after a cut that is scored.
        batch_size: Rows at once.
        seed: Of the cuts and of the bootstrap.
        label: For the progress bar.
        part: Which texts are fragmented (`slices.fragmented`).

    Returns:
        None where no text can be cut, or the tokens do not spell what follows a cut, as those of
        WordPiece do not, or the model has no positions for a prompt.
    """
    points = cut_points(texts, cuts, max_bytes, seed)
    asked = [found for cut in points if (found := _ask(tokenizer, cut)) is not None]
    room = learned_positions(model) or math.inf
    asked = [one for one in asked if all(len(q.ids) <= room for q in [one.plain, *one.healed])]
    if not asked:
        return None
    ways = [way for one in asked for way in ([one.plain], one.healed)]
    bits = iter(_bits(model, [question for way in ways for question in way], batch_size, label))
    # Answers of one way exclude each other, so their probabilities add up.
    each = [-float(np.logaddexp2.reduce([-next(bits) for _ in way])) for way in ways]
    bits_and_bytes = np.column_stack([each[::2], each[1::2], [one.bytes_ for one in asked]])
    split = {*part}
    some = [place for place, one in enumerate(asked) if one.document in split]
    return EdgeScores(
        cuts=len(asked),
        bytes_=sum(one.bytes_ for one in asked),
        dropped_share=sum(one.dropped for one in asked) / len(asked),
        crossed_share=sum(one.crossed for one in asked) / len(asked),
        **_intervals(bits_and_bytes, seed),
        on_fragmented=_intervals(bits_and_bytes[some], seed) if some else {},
    )


def _intervals(cuts: NDArray[np.float64], seed: int) -> dict[str, Interval]:
    """Of both ways and their difference; bits plain, bits healed and bytes of each, (cuts, 3)."""
    plain, healed, bytes_ = cuts.T
    return {
        "plain": ratio_interval(plain, bytes_, seed),
        "healed": ratio_interval(healed, bytes_, seed),
        "difference": paired_ratio_difference(healed, plain, bytes_, seed),
    }


def cut_points(texts: Sequence[str], count: int, max_bytes: int, seed: int) -> list[Cut]:
    """Cuts texts before a space between two words, at random.

    A text is cut again only when every text has been cut that can be, so that many speak.

    Args:
        texts: Documents.
        count: Cuts; fewer where the texts have fewer places.
        max_bytes: Longest text after a cut that is scored; UTF-8 bytes, whole characters.
        seed: Of the draws; the same texts and seed give the same cuts.
    """
    draw = random.Random(seed)
    places = []
    for text in texts:
        found = [place.start() for place in _PLACE.finditer(text)]
        places.append(draw.sample(found, len(found)))
    turns = range(max(map(len, places), default=0))
    drawn = (
        (i, found[turn]) for turn in turns for i, found in enumerate(places) if turn < len(found)
    )
    return [_cut(i, texts[i], place, max_bytes) for i, place in islice(drawn, count)]


def _cut(document: int, text: str, place: int, max_bytes: int) -> Cut:
    before = text[:place].encode()[-_BEFORE:].decode(errors="ignore")
    after = text[place:].encode()[:max_bytes].decode(errors="ignore")
    beyond = text[place + len(after) :].encode()[:_BEYOND].decode(errors="ignore")
    return Cut(document, before, after, beyond)


# -- questions ------------------------------------------------------------------------------


def _ask(tokenizer: Any, cut: Cut) -> _Asked | None:  # noqa: ANN401
    """A cut as questions; None where the tokens do not spell the text after it, byte by byte."""
    pieces = pieces_of(tokenizer)
    start = start_ids(tokenizer)
    prompt = start + _encode(tokenizer, cut.before)
    following = (cut.after + cut.beyond).encode()
    answer = _encode_exactly(tokenizer, pieces, cut.after + cut.beyond)
    if answer is None:
        return None
    after = cut.after.encode()
    plain = _question(pieces, prompt, answer, b"", after)
    healed = [plain]
    left = heal(tokenizer, prompt)
    whole = start + _encode(tokenizer, cut.before + cut.after + cut.beyond)
    if left.prefix:
        kept = len(left.kept)
        paths = [prompt[kept:] + answer]
        if whole[:kept] == left.kept and pieces.text(whole[kept:]) == left.prefix + following:
            paths.append(whole[kept:])
        healed = [_question(pieces, left.kept, path, left.prefix, after) for path in paths]
        if healed[0] == healed[-1]:
            del healed[1:]
    return _Asked(
        document=cut.document,
        plain=plain,
        healed=healed,
        dropped=bool(left.prefix),
        crossed=_crosses(pieces, whole, len(following)),
        bytes_=len(after),
    )


def _encode(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401
    ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _encode_exactly(tokenizer: Any, pieces: Pieces, text: str) -> list[int] | None:  # noqa: ANN401
    """Tokens that spell `text`, which begins with a space, in the middle of a document."""
    # A tokenizer that puts a space before every text gives these for the text without its own.
    for given in (text, text[1:]):
        ids = _encode(tokenizer, given)
        if pieces.text(ids) == text.encode():
            return ids
    return None


def _question(
    pieces: Pieces, prompt: list[int], answer: list[int], prefix: bytes, after: bytes
) -> _Question:
    """Asks for `prefix + after` as the first tokens of `answer`, which spell it and more."""
    counted: list[list[int]] = []
    allowed: list[list[int]] = []
    rest = prefix + after
    for id_ in answer:
        if len(rest) > len(after):
            allowed.append(pieces.allowed(rest[: len(rest) - len(after)]))
        size = len(pieces.spelling[id_])
        if size >= len(rest):
            counted.append(pieces.beginning_with(rest))
            break
        counted.append([id_])
        rest = rest[size:]
    read = (*prompt, *answer[: len(counted) - 1])
    return _Question(read, len(prompt), counted, allowed)


def _crosses(pieces: Pieces, ids: list[int], following: int) -> bool:
    """Whether no token begins so many bytes before the end."""
    for id_ in reversed(ids):
        if following <= 0:
            break
        following -= len(pieces.text([id_]))
    return following < 0


# -- bits -----------------------------------------------------------------------------------


def _bits(
    model: Any,  # noqa: ANN401
    questions: Sequence[_Question],
    batch_size: int,
    label: str,
) -> list[float]:
    """-log2 of the probability of each answer; rows that several questions read are read once."""
    rows = sorted({question.ids for question in questions}, key=lambda ids: (len(ids), ids))
    asking: dict[tuple[int, ...], list[int]] = {ids: [] for ids in rows}
    for number, question in enumerate(questions):
        asking[question.ids].append(number)
    bits = [0.0] * len(questions)
    for batch in watched(
        [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)], label
    ):
        for ids, logits in zip(batch, _logits(model, batch), strict=True):
            for number in asking[ids]:
                bits[number] = _nats(questions[number], logits) / math.log(2)
    return bits


@torch.inference_mode()
def _logits(model: Any, rows: Sequence[tuple[int, ...]]) -> Tensor:  # noqa: ANN401
    """(rows, tokens, vocabulary); padded on the right, where causal attention never looks."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _nats(question: _Question, logits: Tensor) -> float:
    """Of one answer, from the logits of its row; shape (tokens, vocabulary)."""
    first = question.first - 1  # each token is predicted by the position before it
    log = log_softmax(logits[first : first + len(question.counted)].float(), dim=-1)

    def total(position: int, ids: list[int]) -> float:
        known = [i for i in ids if i < log.shape[1]]
        return float(log[position, known].logsumexp(0))

    nats = -sum(total(i, ids) for i, ids in enumerate(question.counted))
    return nats + sum(total(i, ids) for i, ids in enumerate(question.allowed))
