"""`adapt generate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapt.cli.models import (
    BaseOption,
    BatchSize,
    Dtype,
    InputFile,
    Model,
    OutputFile,
    Trust,
    load,
    put,
    rows_of,
    write_lines,
)
from adapt.errors import AdaptError, DataError, ModelError

if TYPE_CHECKING:
    from transformers import GenerationConfig


@dataclass(frozen=True)
class Decoding:
    """How an answer is decoded; every row of a batch repeats it.

    Attributes:
        max_new_tokens: Longest answer; tokens.
        temperature: 0 is greedy, unless top_p or top_k says otherwise.
        top_p: Sampled from the likeliest tokens of this probability together.
        top_k: Sampled from so many of the likeliest.
        num_beams: Beams; 1 searches with none.
        seed: Of sampling.
        heal: Whether the end of a prompt may be made anew.
        chat: Whether the prompt is a turn in the chat template.
    """

    max_new_tokens: int
    temperature: float | None
    top_p: float | None
    top_k: int | None
    num_beams: int
    seed: int
    heal: bool
    chat: bool

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn."""
        filtered = self.top_p is not None or self.top_k is not None
        return filtered if self.temperature is None else self.temperature > 0


def generate(
    model: Model,
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; - is standard input.")
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Answer in the chat template; turn by turn in a terminal."),
    ] = False,
    input_: InputFile = None,
    column: Annotated[str, typer.Option(help="Column that holds the prompt.")] = "prompt",
    output: OutputFile = None,
    heal: Annotated[
        bool,
        typer.Option(help="Let longer tokens reach over the end of the prompt."),
    ] = True,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer; tokens.")] = 256,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="Of sampling; 0 is greedy."),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Sample from the likeliest, this much.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample from so many likeliest.")] = None,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams; their text comes at once.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling.")] = 0,
    batch_size: BatchSize = 8,
    dtype: Dtype = "auto",
    base: BaseOption = None,
    trust_remote_code: Trust = False,
) -> None:
    """Continue a text, or chat; the answer is written while it is made.

    Greedy, unless --temperature, --top-p or --top-k is given. One line break at the end of
    standard input does not count. In the chat template nothing is healed, for a turn ends where
    the model has seen turns end.

    Examples:
      adapt generate runs/medical "Nephrocalcinosis is characterized by"

      adapt generate runs/medical --chat

      echo "An abnormality of the" | adapt generate runs/medical --temperature 0.7 --seed 1

      adapt generate runs/medical --input prompts.jsonl --column prompt --output answers.jsonl
    """
    how = Decoding(
        max_new_tokens, temperature, top_p, top_k, num_beams, seed, heal and not chat, chat
    )
    turns = chat and prompt is None and input_ is None and sys.stdin.isatty()
    if input_ is None and output:
        raise AdaptError("is for --input", where="--output", fix="redirect standard output")
    if input_ and prompt is not None:
        raise AdaptError("a prompt and --input", where="adapt generate", fix="give one of them")
    rows = rows_of(input_, column, "answer") if input_ else []
    text = None if turns or input_ else _asked(prompt)
    loaded, tokenizer = load(model, dtype, base, trust_remote_code)
    from adapt.evaluation.heads import has_head
    from adapt.evaluation.masked import fills_masks

    if fills_masks(loaded):
        raise ModelError("fills in hidden words, and writes no text", where=model)
    if has_head(loaded):
        fix = f"adapt classify {model} gives its labels"
        raise ModelError("has a head of classes, and writes no text", where=model, fix=fix)
    if chat and not tokenizer.chat_template:
        raise AdaptError("has no chat template", where=model, fix="leave --chat out")
    from transformers import set_seed

    set_seed(how.seed)
    writer = _Writer(loaded, tokenizer, how, _config(loaded, tokenizer, how))
    if input_:
        made = {"model": model, **asdict(how)}
        answers = writer.all([row[column] for row in rows], batch_size)
        pairs = zip(rows, answers, strict=True)
        lines = [{**row, "answer": answer, "generation": made} for row, answer in pairs]
        write_lines(output, [json.dumps(line, ensure_ascii=False) for line in lines])
    elif turns:
        _converse(writer)
    else:
        writer.answer([{"role": "user", "content": text or ""}])


# -- generating -------------------------------------------------------------------------------


def _asked(prompt: str | None) -> str:
    """The prompt given, or standard input."""
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise AdaptError(
            "no prompt", where="adapt generate", fix="give one, - for standard input, or --input"
        )
    try:
        read = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 at byte {error.start}", where="standard input") from None
    return read.removesuffix("\n").removesuffix("\r")


def _config(model: Any, tokenizer: Any, how: Decoding) -> GenerationConfig:  # noqa: ANN401
    """The decoding asked for; of the model's own only where it ends, and what it never writes."""
    from transformers import GenerationConfig

    from adapt.training.batches import start_ids

    own = model.generation_config
    ends = own.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    ends = [*ends, tokenizer.eos_token_id, *start_ids(tokenizer)]  # as one document follows another
    model.generation_config = GenerationConfig()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    drawn: dict[str, Any] = {}
    if how.sampled:
        drawn = {"temperature": how.temperature or 1.0, "top_k": how.top_k or 0}
        drawn |= {} if how.top_p is None else {"top_p": how.top_p}
    return GenerationConfig(
        do_sample=how.sampled,
        num_beams=how.num_beams,
        max_new_tokens=how.max_new_tokens,
        pad_token_id=pad,
        eos_token_id=sorted({id_ for id_ in ends if id_ is not None}) or None,
        suppress_tokens=own.suppress_tokens,
        **drawn,
    )


@dataclass(frozen=True)
class _Writer:
    """A model that answers, always in the same way."""

    model: Any
    tokenizer: Any
    how: Decoding
    config: GenerationConfig

    def ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation up to where the model answers, or of the one text to continue."""
        from adapt.training.batches import encode_documents

        if not self.how.chat:
            return next(encode_documents(self.tokenizer, [messages[0]["content"]]))
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def answer(self, messages: Sequence[dict[str, str]]) -> str:
        """Streams one answer to standard output, in UTF-8 whatever the terminal's encoding."""
        from adapt.generation import stream

        ids, options = self.ids(messages), {"generation_config": self.config}
        done = stream(self.model, self.tokenizer, ids, put, heal=self.how.heal, **options)
        put("\n")
        return done.text

    def all(self, prompts: Sequence[str], batch_size: int) -> list[str]:
        """Answers many prompts, with a progress bar."""
        from adapt.generation import complete

        done = complete(
            self.model,
            self.tokenizer,
            [self.ids([{"role": "user", "content": prompt}]) for prompt in prompts],
            heal=self.how.heal,
            batch_size=batch_size,
            generation_config=self.config,
        )
        return [one.text for one in done]


def _converse(writer: _Writer) -> None:
    """Turn by turn until the end of input; an empty line says nothing."""
    sys.stderr.write("Ctrl-D ends the conversation.\n")
    messages: list[dict[str, str]] = []
    for turn in _turns():
        messages.append({"role": "user", "content": turn})
        messages.append({"role": "assistant", "content": writer.answer(messages)})


def _turns() -> Iterator[str]:
    while True:
        try:
            line = input("> ")
        except EOFError:
            sys.stderr.write("\n")
            return
        if line.strip():
            yield line
