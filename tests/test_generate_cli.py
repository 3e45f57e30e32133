"""`adapt generate` and `adapt classify`: what they write, and what they refuse."""

import io
import json
import math
import sys

import pytest
import torch

import adapt
from adapt import cli
from adapt.cli import generate
from adapt.evaluation.classification import Options, predict
from adapt.generation import complete
from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from adapt.training.batches import encode_documents

PHASE = {"name": "domain", "objective": "clm", "max_steps": 3, "learning_rate": 0.05}
PHASE |= {"per_device_train_batch_size": 2, "max_length": 64}
PROMPT = "An abnormality of the left ventricle characterized"
RUNS = []


@pytest.fixture
def run(tiny_recipe):
    """A run up to its adapter, made once; with new units that cross spaces."""
    if not RUNS:
        path = tiny_recipe(training={"phases": [PHASE]}, corpus={"general": []})
        pipeline = Pipeline(load_recipe(path))
        pipeline.prepared.build_tokenizer()
        pipeline.tuned.adapter()
        RUNS.append(pipeline.workspace.root)
    return RUNS[0]


class Terminal(io.StringIO):
    """Standard input of somebody who types."""

    def isatty(self):
        return True


def piped(data: bytes):
    return io.TextIOWrapper(io.BytesIO(data), encoding="latin-1")


@pytest.fixture
def verb(capfdbinary, monkeypatch):
    """Runs `adapt`; gives exit code, standard output as it was written, and standard error."""

    def verb(*arguments, stdin=None):
        monkeypatch.setattr(sys, "stdin", stdin or Terminal())
        # As in a terminal whose encoding is not UTF-8.
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
        monkeypatch.setattr(sys, "stdout", out)
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        written = out.buffer.getvalue()
        return caught.value.code or 0, written, capfdbinary.readouterr().err.decode()

    return verb


def expected(run, prompts, *, heal=True, tokens=12, seed=0, **options):
    model, tokenizer = adapt.load(run, merged=True)
    ids = list(encode_documents(tokenizer, prompts))
    stops = {"eos_token_id": sorted({tokenizer.eos_token_id, ids[0][0]})}
    options = {"do_sample": False, "max_new_tokens": tokens, **stops, **options}
    torch.manual_seed(seed)
    done = complete(model, tokenizer, ids, heal=heal, batch_size=8, **options)
    return [one.text for one in done]


def test_a_prompt_is_healed_and_gone_on_with(run, verb):
    code, out, _ = verb("generate", run, PROMPT, "--max-new-tokens", "12")
    assert code == 0
    assert out == (expected(run, [PROMPT])[0] + "\n").encode()
    code, out, _ = verb("generate", run, PROMPT, "--max-new-tokens", "12", "--no-heal")
    assert out == (expected(run, [PROMPT], heal=False)[0] + "\n").encode()


@pytest.mark.parametrize("dash", [[], ["-"]], ids=["piped", "dash"])
def test_standard_input_is_the_prompt_without_its_last_line_break(run, verb, dash):
    prompt = "naïve 心臓 "
    stdin = piped(f"{prompt}\n".encode())
    code, out, _ = verb("generate", run, *dash, "--max-new-tokens", "12", stdin=stdin)
    assert code == 0
    assert out.decode() == expected(run, [prompt])[0] + "\n"


def test_what_is_written_is_utf8_whatever_the_model_says(run, verb):
    """Sampled hot from an untrained model: bytes of all kinds, whole and broken characters."""
    hot = ["--temperature", "9", "--seed", "3", "--max-new-tokens", "60"]
    code, out, _ = verb("generate", run, PROMPT, *hot)
    assert code == 0
    sampled = {"do_sample": True, "temperature": 9.0, "top_k": 0}
    text = expected(run, [PROMPT], tokens=60, seed=3, **sampled)[0]
    assert out.decode() == text + "\n"
    assert not text.isascii()
    assert verb("generate", run, PROMPT, *hot)[1] == out
    assert verb("generate", run, PROMPT, *hot[:2], "--seed", "4", *hot[4:])[1] != out


def test_beams_write_the_same_text_at_once(run, verb):
    code, out, _ = verb("generate", run, PROMPT, "--num-beams", "3", "--max-new-tokens", "12")
    assert code == 0
    assert out.decode() == expected(run, [PROMPT], num_beams=3)[0] + "\n"


def test_a_file_of_prompts(run, verb, tmp_path):
    prompts = [PROMPT, "The mayor", "characterized by", "心"]
    rows = [{"id": i, "ask": prompt} for i, prompt in enumerate(prompts)]
    source, target = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--input", source, "--column", "ask", "--max-new-tokens", "12", "--seed", "7"]
    code, out, _ = verb("generate", run, *arguments, "--output", target)
    assert code == 0
    assert out.decode().endswith("answers.jsonl: 4 rows\n")
    made = [json.loads(line) for line in target.read_text().splitlines()]
    assert [{k: row[k] for k in ("id", "ask")} for row in made] == rows
    assert [row["answer"] for row in made] == expected(run, prompts)
    assert made[0]["generation"] == {
        "model": str(run), "max_new_tokens": 12, "temperature": None, "top_p": None, "top_k": None,
        "num_beams": 1, "seed": 7, "heal": True, "chat": False,
    }  # fmt: skip
    code, out, _ = verb("generate", run, *arguments)
    assert [json.loads(line) for line in out.decode().splitlines()] == made


def test_chat_is_put_in_the_template_and_remembers(run, verb, monkeypatch):
    asked = []

    def answer(self, messages):
        asked.append([message["content"] for message in messages])
        return real(self, messages)

    real = generate._Writer.answer
    monkeypatch.setattr(generate._Writer, "answer", answer)
    lines = iter(["What is a nephron?", "", "And a ureter?"])

    def typed(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    code, out, _ = verb("generate", run, "--chat", "--max-new-tokens", "4")
    assert code == 0
    first = asked[0]
    assert first == ["What is a nephron?"]
    reply = asked[1][1]
    assert asked[1] == [*first, reply, "And a ureter?"]
    assert out.decode().startswith(reply + "\n")

    model, tokenizer = adapt.load(run, merged=True)
    chat = [{"role": "user", "content": first[0]}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = {"eos_token_id": sorted({tokenizer.eos_token_id, 0})}
    (done,) = complete(model, tokenizer, [ids], heal=False, batch_size=1, max_new_tokens=4, **ends)
    assert done.text == reply
    code, out, _ = verb("generate", run, first[0], "--chat", "--max-new-tokens", "4")
    assert out.decode() == reply + "\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        ([], None, "no prompt; give one"),
        (["x", "--input", "y.jsonl"], None, "give one of them"),
        (["x", "--output", "y.jsonl"], None, "--output: is for --input"),
        (["--input", "no.jsonl"], None, "no such file"),
        ([], b"caf\xe9", "standard input: is not UTF-8 at byte 3"),
        (["x", "--dtype", "half"], None, "no type of weights"),
    ],
)
def test_what_generate_refuses(run, verb, arguments, stdin, message):
    code, out, err = verb("generate", run, *arguments, stdin=piped(stdin) if stdin else None)
    assert (code, out) == (2, b"")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_column_that_is_taken_or_missing(run, verb, tmp_path):
    source = tmp_path / "rows.jsonl"
    for row, message in (
        ({"prompt": "x", "answer": "y"}, "has a column answer already"),
        ({"promt": "x"}, "did you mean promt"),
        ({"prompt": None}, "column prompt is null"),
    ):
        source.write_text(json.dumps(row))
        code, _, err = verb("generate", run, "--input", source)
        assert code == 2
        assert message in err


# -- classify ---------------------------------------------------------------------------------

TEXTS = ["An abnormality of the nephron.", "Chronic infection of the optic nerve in 12 patients."]


def test_texts_get_the_label_that_the_evaluation_gives(run, verb, tmp_path):
    arguments = [part for text in TEXTS for part in ("--text", text)]
    code, out, err = verb("classify", run, *arguments)
    assert code == 0, err
    lines = [line.split("\t") for line in out.decode().splitlines()]
    model, tokenizer = adapt.load(run, merged=True)
    organs = ["brain", "heart", "kidney"]
    prompts = [f"{text}\n\nCategory:" for text in TEXTS]
    found = predict(model, tokenizer, prompts, organs, Options(1024))
    assert [label for label, _ in lines] == found.answers

    source, target = tmp_path / "notes.jsonl", tmp_path / "labelled.jsonl"
    source.write_text("".join(json.dumps({"note": text}) + "\n" for text in TEXTS))
    files = ["--input", source, "--column", "note", "--output", target, "--task", "organ"]
    assert verb("classify", run, *files)[0] == 0
    made = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["note"] for row in made] == TEXTS
    for row, (label, probability) in zip(made, lines, strict=True):
        assert row["label"] == label
        assert row["probability"] == pytest.approx(float(probability), abs=1e-4)
        assert row["probability"] == max(row["probabilities"].values())
        assert sorted(row["probabilities"]) == organs
        assert math.isclose(sum(row["probabilities"].values()), 1.0, abs_tol=1e-5)


def test_labels_may_be_given_and_a_run_is_not_needed(run, verb):
    code, out, _ = verb("classify", run / "adapter", "--text", TEXTS[0], "--labels", "renal, other")
    assert code == 0
    assert out.decode().split("\t")[0] in {"renal", "other"}
    (only,) = verb("classify", run, "--text", TEXTS[0], "--labels", "renal")[1].splitlines()
    assert only == b"renal\t1.0000"


@pytest.mark.parametrize(
    ("where", "arguments", "message"),
    [
        ("", [], "a --text or an --input"),
        ("", ["--text", "x", "--task", "orgn"], "--task did you mean organ?"),
        ("", ["--text", "x", "--task", "define"], "which classification task"),
        ("adapter", ["--text", "x"], "give --labels"),
        ("", ["--input", "no.jsonl"], "no such file"),
    ],
)
def test_what_classify_refuses(run, verb, where, arguments, message):
    code, out, err = verb("classify", run / where, *arguments)
    assert (code, out) == (2, b"")
    assert message in err
