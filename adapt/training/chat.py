"""Conversations of several turns, cut into what is learned and what is only read.

Templates rarely mark the assistant's turns themselves, so a conversation is rendered turn by turn:
what a turn adds to the text before it is that turn. This holds only where rendering more turns
leaves the earlier text as it was, which is checked for every conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from adapt.errors import DataError

Message = dict[str, str]


@dataclass(frozen=True)
class Segment:
    """A stretch of a rendered conversation.

    Attributes:
        text: As rendered.
        learned: Whether the model is to write it.
    """

    text: str
    learned: bool


def segments(tokenizer: Any, messages: Sequence[Message], where: str) -> list[Segment]:  # noqa: ANN401
    """A conversation in the model's chat template; the texts in a row are the whole rendering.

    Args:
        tokenizer: With a chat template.
        messages: `role` and `content` of each turn; the assistant has at least one.
        where: Names the conversation in errors.

    Raises:
        DataError: No template, no turn to learn, a conversation that the template refuses, or a
            template that changes earlier turns when later ones come.
    """
    if not tokenizer.chat_template:
        raise DataError(
            "the tokenizer has no chat template for conversations",
            where=where,
            fix="take an instruction-tuned base, or give the rows as a task",
        )
    _check(messages, where)
    found: list[Segment] = []
    done = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked = _rendered(tokenizer, messages[:i], where, ask=True)
        said = _rendered(tokenizer, messages[: i + 1], where, ask=False)
        if not asked.startswith(done) or not said.startswith(asked):
            raise _unstable(i, where)
        header, learned = _split_turn(said[len(asked) :], message["content"], i, where)
        found += [Segment(asked[len(done) :] + header, False), Segment(learned, True)]
        done = said
    whole = _rendered(tokenizer, messages, where, ask=False)
    if not whole.startswith(done):
        raise _unstable(len(messages) - 1, where)
    return [s for s in (*found, Segment(whole[len(done) :], False)) if s.text]


def _check(messages: Sequence[Message], where: str) -> None:
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not good:
        raise DataError(
            "messages is not a list of turns",
            where=where,
            fix='write [{"role": "user", "content": "..."}, {"role": "assistant", ...}]',
        )
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    if not answers or not all(answer.strip() for answer in answers):
        what = "has an empty turn" if answers else "has no turn"
        raise DataError(f"the conversation {what} of the assistant", where=where)


def _rendered(tokenizer: Any, messages: Sequence[Message], where: str, *, ask: bool) -> str:  # noqa: ANN401
    if not messages:  # many templates read messages[0]; nothing comes before an opening answer
        return ""
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=ask
        )
    except (TemplateError, ValueError, KeyError, IndexError) as error:
        raise DataError(
            f"the chat template refuses the conversation, {error}",
            where=where,
            fix="change the order or the roles of its turns",
        ) from None
    return text


def _split_turn(turn: str, content: str, i: int, where: str) -> tuple[str, str]:
    """What a template puts before an answer, and the answer with what ends it.

    Where a template has no prompt for answers, their header is part of what the turn adds.
    """
    wanted = content.strip()
    start = turn.find(wanted)
    if start < 0:
        raise DataError(
            f"the chat template does not show turn {i + 1} as it is written",
            where=where,
            fix="train on a template that keeps the content of turns",
        )
    return ("", turn) if not turn[:start].strip() else (turn[:start], turn[start:])


def _unstable(i: int, where: str) -> DataError:
    return DataError(
        f"the chat template changes earlier turns when turn {i + 1} comes, so what the assistant "
        "said cannot be told from the rest",
        where=where,
        fix="set a template that only adds text, or give each answer as a row of its own",
    )
