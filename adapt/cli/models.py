"""`adapt generate` and `adapt merge`: what a finished run is for."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapt.cli.shared import say
from adapt.errors import AdaptError, DataError

if TYPE_CHECKING:
    from transformers import GenerationConfig

Model = Annotated[
    str, typer.Argument(help="A run folder, an adapter, a checkpoint, or a Hub id of one.")
]
BaseOption = Annotated[
    str | None, typer.Option("--base", help="The original base, where the adapter cannot say it.")
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code of the model's own.")]
InputFile = Annotated[
    Path | None, typer.Option("--input", help="A .jsonl, .csv, .parquet or .txt file.")
]
OutputFile = Annotated[
    Path | None, typer.Option("--output", help="JSONL file, written whole or not at all.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts at once, from a file.")]


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


def merge(
    model: Annotated[str, typer.Argument(help="A run folder, an adapter, or its Hub id.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; without it, `merged` in the run.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the weights written; auto: what the base is stored in.")
    ] = "auto",
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights.")] = "5GB",
    force: Annotated[bool, typer.Option("--force", help="Replace a checkpoint there.")] = False,
    base: BaseOption = None,
    trust_remote_code: Trust = False,
) -> None:
    """Merge the adapter into a stand-alone checkpoint that stock transformers loads.

    A fresh process reads the checkpoint with transformers alone and compares logits and 20
    greedy continuations with the adapter model; where they differ, nothing is left behind.

    Examples:
      adapt merge runs/medical

      adapt merge runs/medical --output medical-merged --dtype bfloat16 --max-shard-size 2GB
    """
    from adapt.publish.merge import merge as merge_

    done = merge_(
        model,
        output,
        dtype=dtype,
        max_shard_size=max_shard_size,
        force=force,
        base=base,
        trust_remote_code=trust_remote_code,
    )
    say(
        f"compared in a fresh process: logits within {done.difference:.2g} of their spread "
        f"({done.tolerance:g} allowed for {done.dtype}), 20 greedy continuations the same"
        + (f" but for {done.near_ties} near ties" if done.near_ties else "")
    )
    files = "1 file" if done.files == 1 else f"{done.files} files"
    say(f"merged: {done.folder} ({done.bytes_ / 1e6:,.1f} MB, {files}, {done.dtype})")


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


def load(model: str, dtype: str, base: str | None, trust_remote_code: bool) -> tuple[Any, Any]:
    """A model ready to serve, and its tokenizer."""
    from adapt.publish.load import load as load_

    # Merged: the rows of new tokens would be put into their matrix anew at every token.
    return load_(model, dtype=dtype, merged=True, base=base, trust_remote_code=trust_remote_code)


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


# -- files ------------------------------------------------------------------------------------


def rows_of(path: Path | None, column: str, added: str) -> list[dict[str, Any]]:
    """Rows of a file that have text in a column, and none that would be written over.

    Raises:
        DataError: They have not.
    """
    from adapt.corpus.read import read_rows, string_of

    found = []
    for number, row in read_rows(Path(path or "")):
        if string_of(row, column, f"{path}:{number}") is None:
            raise DataError(f"column {column} is null", where=f"{path}:{number}")
        if added in row:
            raise DataError(
                f"has a column {added} already", where=f"{path}:{number}", fix="rename it"
            )
        found.append(row)
    if not found:
        raise DataError("holds no rows", where=str(path))
    return found


def put(text: str) -> None:
    """Writes to standard output at once, exactly, in UTF-8 whatever the terminal's encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    sys.stdout.write(text)
    sys.stdout.flush()


def write_lines(output: Path | None, lines: Sequence[str]) -> None:
    """Writes lines to a file, whole or not at all, or to standard output."""
    from adapt.workspace import write_text

    if output is None:
        put("".join(f"{line}\n" for line in lines))
        return
    write_text(output, "\n".join(lines) + "\n")
    say(f"wrote {output}: {len(lines):,} rows")
