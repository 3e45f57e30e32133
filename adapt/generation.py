"""Continuing text: greedy or sampled, with token healing at the edge of the prompt.

A prompt may end where training never cut: " characterized" is a context that a model with the
token " characterized by" has hardly seen before " by". Healing drops the tokens at the prompt's
end that a longer token could reach over, and lets the model write only what begins with the text
that was dropped, until that text is there again.

It is an approximation. The exact way would sum over every tokenization of the prompt; healing
keeps the tokens before the dropped ones as they are, and constrains the others one at a time, each
position renormalised over what is allowed there. Greedy decoding then takes the likeliest token
of each position, which need not be the likeliest text.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.streamers import BaseStreamer

from adapt.errors import DataError
from adapt.progress import watched
from adapt.training.batches import encode_documents, start_ids
from adapt.vocab.pieces import Pieces, pieces_of

__all__ = [
    "Completion",
    "Healed",
    "HealingProcessor",
    "Pieces",
    "complete",
    "generate",
    "heal",
    "pieces_of",
    "stream",
]

# -- healing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Healed:
    """A prompt without the tokens at its end that a longer token could reach over.

    Attributes:
        kept: Ids that stay.
        prefix: What the dropped tokens spelled, and what is written next has to begin with; empty
            where nothing was dropped. May begin or end inside a character.
    """

    kept: list[int]
    prefix: bytes


def heal(tokenizer: Any, prompt_ids: Sequence[int]) -> Healed:  # noqa: ANN401
    """Drops the longest run of tokens at a prompt's end that some token begins with and outgrows.

    Not the last token only: " is characterized" may be two tokens, and " is characterized by" one.
    Special tokens are never dropped, nor anything before one. A prompt without special tokens
    is left with what a document begins with in training, or with its first token where that is
    nothing.

    Args:
        tokenizer: A fast tokenizer.
        prompt_ids: The whole prompt.
    """
    pieces = pieces_of(tokenizer)
    found, text = [(0, b"")], b""
    for count, id_ in enumerate(reversed(prompt_ids), start=1):
        spelled = pieces.text([id_])
        text = spelled + text
        if not spelled or len(text) >= pieces.longest:
            break
        if pieces.reach_beyond(text):
            found.append((count, text))
    start: list[int] = []
    if found[-1][0] == len(prompt_ids):
        start = start_ids(tokenizer)
        if not start and len(found) > 1:  # a model needs something to go on from
            found.pop()
    dropped, prefix = found[-1]
    return Healed(list(prompt_ids[: len(prompt_ids) - dropped]) or start, prefix)


class HealingProcessor(LogitsProcessor):
    """Allows only tokens that go on with each prompt's dropped text, until it is there again.

    Args:
        pieces: What the tokens spell.
        prefixes: Dropped text of each prompt; a prompt may have several rows one after the other,
            as with beams.
        prompt_length: Tokens before the first generated one, padding included.
    """

    def __init__(self, pieces: Pieces, prefixes: Sequence[bytes], prompt_length: int) -> None:
        self.pieces, self.prefixes, self.prompt_length = pieces, prefixes, prompt_length
        self.longest = max(map(len, prefixes), default=0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Masks what is not allowed.

        Args:
            input_ids: (rows, tokens so far).
            scores: (rows, vocabulary); not changed.

        Returns:
            (rows, vocabulary), -inf where a token is not allowed.
        """
        if input_ids.shape[1] - self.prompt_length >= self.longest:
            return scores  # each token has written a byte at least
        rows_each = len(input_ids) // len(self.prefixes)
        masked = scores.clone()
        for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            rest = self.pieces.rest(self.prefixes[row // rows_each], ids)
            if rest:
                # Ids that the output layer lacks, such as units that are only read, fall away.
                allowed = [i for i in self.pieces.allowed(rest) if i < scores.shape[1]]
                masked[row] = float("-inf")
                masked[row, allowed] = scores[row, allowed]
        return masked


# -- generating -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Completion:
    """What a model wrote.

    Attributes:
        ids: Generated tokens, padding included.
        text: What they say after the prompt's end: without what healing had dropped, and without
            special tokens.
    """

    ids: list[int]
    text: str


def generate(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    *,
    heal: bool = True,
    batch_size: int = 8,
    **generate_kwargs: Any,  # noqa: ANN401
) -> list[str]:
    """Continues texts: each answer goes on where its prompt ends, with its space if it has one.

    A prompt begins like a document in training, and no chat template is put around it.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its fast tokenizer.
        prompts: Texts; one may be empty.
        heal: Whether the prompt's last tokens may be made anew (see `heal`). They then count
            among `max_new_tokens`.
        batch_size: Prompts at once, those of like length together.
        **generate_kwargs: For `model.generate`; one sequence is returned a prompt.

    Raises:
        DataError: A prompt has no tokens, and the tokenizer has none to start from.
    """
    encoded = list(encode_documents(tokenizer, prompts))
    done = complete(model, tokenizer, encoded, heal=heal, batch_size=batch_size, **generate_kwargs)
    return [completion.text for completion in done]


@torch.inference_mode()
def complete(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[Sequence[int]],
    *,
    heal: bool,
    batch_size: int,
    label: str = "generation",
    **generate_kwargs: Any,  # noqa: ANN401
) -> list[Completion]:
    """`generate` for prompts that are token ids already.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its fast tokenizer.
        prompts: Ids of each.
        heal: As in `generate`.
        batch_size: Prompts at once.
        label: For the progress bar.
        **generate_kwargs: For `model.generate`.

    Raises:
        DataError: A prompt has no tokens.
    """
    _refuse_empty(prompts)
    healed = [_heal(tokenizer, ids) if heal else Healed(list(ids), b"") for ids in prompts]
    order = sorted(range(len(healed)), key=lambda i: len(healed[i].kept))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    done: dict[int, Completion] = {}
    for batch in watched(batches, label):
        written = _complete_batch(model, tokenizer, [healed[i] for i in batch], generate_kwargs)
        done |= zip(batch, written, strict=True)
    return [done[i] for i in range(len(prompts))]


@torch.inference_mode()
def stream(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompt: Sequence[int],
    write: Callable[[str], object],
    *,
    heal: bool,
    **generate_kwargs: Any,  # noqa: ANN401
) -> Completion:
    """`complete` for one prompt, handing its text out while it is made.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its fast tokenizer.
        prompt: Ids.
        write: Called with every new part of the text, as soon as its characters are whole; the
            parts together are the completion's text.
        heal: As in `generate`.
        **generate_kwargs: For `model.generate`. With beams the text comes at once, at the end.

    Raises:
        DataError: The prompt has no tokens.
    """
    _refuse_empty([prompt])
    healed = _heal(tokenizer, prompt) if heal else Healed(list(prompt), b"")
    config = generate_kwargs.get("generation_config")
    beams = getattr(config, "num_beams", None) or generate_kwargs.get("num_beams") or 1
    if beams == 1:
        generate_kwargs["streamer"] = _Streamer(tokenizer, len(healed.prefix), write)
    (done,) = _complete_batch(model, tokenizer, [healed], generate_kwargs)
    if beams > 1:
        write(done.text)
    return done


class _Streamer(BaseStreamer):
    """Text of tokens as they come: whole characters, without what healing made anew."""

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401
        skip: int,
        write: Callable[[str], object],
    ) -> None:
        self.tokenizer, self.pieces, self.skip, self.write = (
            tokenizer,
            pieces_of(tokenizer),
            skip,
            write,
        )
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.ids: list[int] = []
        self.written = 0
        self.prompt_came = False

    def put(self, value: Tensor) -> None:
        """Takes the prompt, then one token after the other."""
        if not self.prompt_came:
            self.prompt_came = True
            return
        new = value.flatten().tolist()
        if self.pieces:
            spelled = self.pieces.text(new)
            self._write(self.decoder.decode(spelled[self.skip :]))
            self.skip = max(0, self.skip - len(spelled))
            return
        self.ids += new
        # A later token may change how the last word reads, as WordPiece's do: that one waits.
        self._write_decoded(whole=False)

    def end(self) -> None:
        """Writes what was held back."""
        if self.pieces:
            self._write(self.decoder.decode(b"", final=True))
        else:
            self._write_decoded(whole=True)

    def _write_decoded(self, *, whole: bool) -> None:
        text = _text(self.tokenizer, self.pieces, self.ids, 0)
        end = len(text) if whole else text.rfind(" ")
        if end > self.written:
            self._write(text[self.written : end])
            self.written = end

    def _write(self, text: str) -> None:
        if text:
            self.write(text)


def _refuse_empty(prompts: Sequence[Sequence[int]]) -> None:
    for number, ids in enumerate(prompts, start=1):
        if not ids:
            raise DataError(f"prompt {number} has no tokens", fix="give it some text")


_heal = heal  # `generate` and `complete` have an argument of that name


def _complete_batch(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[Healed],
    generate_kwargs: dict[str, Any],
) -> list[Completion]:
    pieces = pieces_of(tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    options = dict(generate_kwargs)
    if "generation_config" not in options:
        options.setdefault("pad_token_id", pad)
    longest = max(len(prompt.kept) for prompt in prompts)
    fill = [longest - len(prompt.kept) for prompt in prompts]
    prefixes = [prompt.prefix for prompt in prompts]
    if any(prefixes):
        others = options.pop("logits_processor", [])
        options["logits_processor"] = [HealingProcessor(pieces, prefixes, longest), *others]
    # On the left, so that every prompt ends where generation begins; the mask hides the filling.
    ids = [[pad or 0] * n + p.kept for p, n in zip(prompts, fill, strict=True)]
    mask = [[0] * n + [1] * (longest - n) for n in fill]
    output = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        **options,
    )
    return [
        Completion(row, _text(tokenizer, pieces, row, len(prefix)))
        for row, prefix in zip(output[:, longest:].tolist(), prefixes, strict=True)
    ]


def _text(tokenizer: Any, pieces: Pieces, ids: list[int], skip: int) -> str:  # noqa: ANN401
    """Text of generated tokens after the first `skip` bytes, which the prompt had already."""
    if not pieces:
        return str(tokenizer.decode(ids, skip_special_tokens=True))
    return pieces.text(ids)[skip:].decode(errors="replace")
