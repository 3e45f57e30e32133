"""Ways to put a text under one of a set of labels, behind one interface."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from adapt.errors import nearest
from adapt.evaluation.constrained import constrained
from adapt.evaluation.heads import class_names, decoder_window, logits_of, single
from adapt.evaluation.labels import answer_log_probabilities
from adapt.training.batches import completion_ids, prompt_ids

# How the log probability of a label's text is made comparable across labels.
_LENGTHS: dict[str, Callable[[str, Sequence[int]], int]] = {
    "none": lambda text, ids: 1,
    "tokens": lambda text, ids: len(ids),
    "bytes": lambda text, ids: len(text.encode()),
}

NEUTRAL = "N/A"  # text without content, as in Zhao et al. 2021


@dataclass(frozen=True)
class Classified:
    """What each prompt was found to be.

    Attributes:
        labels: The label set.
        answers: Label of each prompt.
        confidence: Probability of that label, (prompts,).
        probabilities: Of every label, (prompts, labels), each row summing to 1; None where the way
            does not give them.
    """

    labels: tuple[str, ...]
    answers: list[str]
    confidence: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None


@dataclass(frozen=True)
class Options:
    """How prompts are classified.

    Attributes:
        max_length: Prompts lose tokens from their left beyond this.
        batch_size: Prompts at once, those of like length together.
        bar: For the progress bar.
        normalize: A label's log probability is divided by its `tokens` (the end token included),
            its UTF-8 `bytes`, or `none`.
        neutral: A prompt without content; each label's probability is divided by the one that it
            has there, after normalisation. None: no calibration.
        num_beams: Of `constrained`.
        examples: Prompts and labels that `few_shot` shows; of the training side.
        writer: Tokenizer of the labels, where units are only read; None: the prompts'.
    """

    max_length: int
    batch_size: int = 8
    bar: str = "classification"
    normalize: str = "none"
    neutral: str | None = None
    num_beams: int = 1
    examples: tuple[tuple[str, str], ...] = ()
    writer: Any = None


def predict(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    labels: Sequence[str],
    options: Options,
    method: str = "likelihood",
) -> Classified:
    """Labels with their probabilities, by one of `METHODS`.

    Args:
        model: In evaluation mode; a causal language model, for `head` one with class logits.
        tokenizer: Its tokenizer.
        prompts: What the model is asked; for `head` the bare texts.
        labels: Label set, no label twice.
        options: How.
        method: A key of `METHODS`.

    Raises:
        ValueError: An unknown method, no labels, or a label twice.
        ModelError: The model cannot be used in this way.
    """
    if method not in METHODS:
        raise ValueError(f"method: unknown, got {method!r}; {nearest(method, METHODS)}")
    if not labels or len(set(labels)) < len(labels):
        raise ValueError("a label set needs labels, each once")
    return METHODS[method](model, tokenizer, prompts, tuple(labels), options)


def by_likelihood(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    labels: tuple[str, ...],
    options: Options,
) -> Classified:
    """The label whose text, its end token included, is the likeliest answer.

    With the end token the labels' probabilities are those of whole answers, so that a label is
    not preferred for being the beginning of another one. Calibration: Zhao et al. 2021, Calibrate
    Before Use, arXiv:2102.09690, with one prompt without content.
    """
    answers = [completion_ids(options.writer or tokenizer, text) for text in labels]
    asked = [*prompts, *([] if options.neutral is None else [options.neutral])]
    room = decoder_window(model, options.max_length, after=max(map(len, answers)))
    scores = answer_log_probabilities(
        model,
        [prompt_ids(tokenizer, prompt)[-room:] for prompt in asked],
        answers,
        batch_size=options.batch_size,
        label=options.bar,
    )
    length = _LENGTHS[options.normalize]
    scores /= [max(length(text, ids), 1) for text, ids in zip(labels, answers, strict=True)]
    if options.neutral is not None:
        scores = scores[:-1] - log_softmax(scores[-1])
    return likeliest(labels, softmax(scores, axis=-1))


def by_few_shot(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    labels: tuple[str, ...],
    options: Options,
) -> Classified:
    """`by_likelihood` after examples, all in one turn of the user.

    The window is that of so many prompts more, up to what the model was made for.
    """
    neutral = options.neutral
    longest = options.max_length * (1 + len(options.examples))
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or longest
    shown = [few_shot_prompt(options.examples, prompt) for prompt in prompts]
    options = replace(
        options,
        max_length=max(min(longest, limit - 64), options.max_length),
        neutral=None if neutral is None else few_shot_prompt(options.examples, neutral),
    )
    return by_likelihood(model, tokenizer, shown, labels, options)


def by_constrained(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    labels: tuple[str, ...],
    options: Options,
) -> Classified:
    """The label that generation writes when it can write nothing else."""
    answers = [completion_ids(options.writer or tokenizer, text) for text in labels]
    room = decoder_window(model, options.max_length, after=max(map(len, answers)))
    chosen, confidence = constrained(
        model,
        tokenizer,
        [prompt_ids(tokenizer, prompt)[-room:] for prompt in prompts],
        answers,
        num_beams=options.num_beams,
        batch_size=options.batch_size,
        label=options.bar,
    )
    return Classified(labels, [labels[i] for i in chosen], confidence, None)


def by_head(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    labels: tuple[str, ...],
    options: Options,
) -> Classified:
    """The likeliest class of a trained head; a label that the head does not know has probability 0.

    Prompts are the bare texts here, as in training. The label set is the head's own and what
    `labels` has besides.
    """
    names = class_names(model)
    logits = logits_of(
        model,
        tokenizer,
        prompts,
        max_length=options.max_length,
        batch_size=options.batch_size,
        label=options.bar,
    )
    every = (*names, *(label for label in labels if label not in names))
    found = single(logits)
    return likeliest(every, np.pad(found, ((0, 0), (0, len(every) - len(names)))))


METHODS: dict[str, Callable[..., Classified]] = {
    "likelihood": by_likelihood,
    "constrained": by_constrained,
    "few_shot": by_few_shot,
    "head": by_head,
}


def likeliest(labels: tuple[str, ...], probabilities: NDArray[np.float64]) -> Classified:
    """The likeliest label of each row of (rows, labels) probabilities."""
    answers = [labels[i] for i in probabilities.argmax(-1)]
    return Classified(labels, answers, probabilities.max(-1), probabilities)


def few_shot_examples(
    rows: Sequence[tuple[str, str]], shots: int, seed: int
) -> tuple[tuple[str, str], ...]:
    """Prompts and labels to show, drawn from the training side; all where there are fewer."""
    return tuple(random.Random(seed).sample(list(rows), min(shots, len(rows))))


def few_shot_prompt(examples: Sequence[tuple[str, str]], prompt: str) -> str:
    """Examples, each a prompt with its label on the next line, and the prompt to answer."""
    return "\n\n".join([*(f"{asked}\n{answer}" for asked, answer in examples), prompt])
