"""Drift: new text against a run's own held-out figures."""

import json
from dataclasses import replace

import pytest

from adapt.fertility import Fertility, FertilityReport, SplitWord, measure
from adapt.fertility.drift import drift
from adapt.vocab.source import open_backend
from adapt.workspace import write_json
from tests.conftest import clinical, general

HELD_OUT = Fertility(
    "adapted", 10, 5000, 5000, 800, 1000, 1.25, 5, 0.2, 0.1, None, 0.01,
    (SplitWord("known", 3, ("kn", "own")),),
)  # fmt: skip
NEW = SplitWord("novel", 9, ("no", "vel"))


def now(tokens_per_word=1.25, unknown=0.01):
    words = (NEW, *HELD_OUT.most_split_words)
    return replace(
        HELD_OUT, tokens_per_word=tokens_per_word, unknown_rate=unknown, most_split_words=words
    )


@pytest.mark.parametrize(
    ("tokens_per_word", "unknown", "worse"),
    [
        (1.25, 0.01, ()),
        (1.31, 0.01, ()),  # 4.8 % longer
        (1.32, 0.01, ("tokens per word",)),  # 5.6 %
        (1.0, 0.059, ()),
        (1.0, 0.061, ("unknown tokens",)),
        (2.0, 0.5, ("tokens per word", "unknown tokens")),
    ],
)
def test_hand_worked(tokens_per_word, unknown, worse):
    found = drift(HELD_OUT, now(tokens_per_word, unknown), 0.05)
    assert found.worse == worse
    assert ("adapt again" in found.sentence) == bool(worse)
    assert found.new_words == (NEW,)
    assert found.longer == pytest.approx(tokens_per_word / 1.25 - 1)


def test_refuses_what_has_no_words():
    with pytest.raises(ValueError, match="without a word"):
        drift(HELD_OUT, replace(now(), words=0))
    for threshold in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            drift(HELD_OUT, now(), threshold)


def chinese(length, tokens=1.0):
    """A text without spaces but between clauses of so many characters."""
    words, ratio = 6000 // length, tokens * length
    return replace(
        HELD_OUT, characters=6000, words=words, tokens_per_word=ratio, tokens_per_character=tokens
    )


@pytest.mark.parametrize(("length", "tokens", "worse"), [(60, 1.0, ()), (30, 1.2, True)])
def test_text_without_spaces_goes_by_characters(length, tokens, worse):
    found = drift(chinese(30), chinese(length, tokens), 0.05)
    assert found.unit == "tokens per character"
    assert found.longer == pytest.approx(tokens - 1)
    assert found.worse == (("tokens per character",) if worse else ())
    assert "tokens per character (words stand without spaces) 1.000" in found.sentence
    assert drift(HELD_OUT, now()).unit == "tokens per word"


@pytest.fixture
def run(tmp_path, tiny_base):
    """A run as far as its tokenizer, which is the base's; its domain is plain English."""
    folder = tmp_path / "run"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "tokenizer.json").write_bytes(
        (tiny_base / "tokenizer.json").read_bytes()
    )
    texts = [general(seed) for seed in range(300, 340)]
    held_out = measure(open_backend(str(folder)), texts, name="adapted")
    write_json(folder / "reports" / "fertility.json", FertilityReport((held_out,), ()).to_json())
    return folder


def lines(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_text_of_the_domain_is_fine_and_text_of_another_is_not(adapt, run, tmp_path):
    same = lines(tmp_path / "same.jsonl", [general(seed) for seed in range(500, 540)])
    code, out, _ = adapt("report", "--against", run, "--text", same)
    assert code == 0
    assert "within 5.0%" in out
    other = lines(tmp_path / "other.jsonl", [clinical(seed)["definition"] for seed in range(40)])
    written = tmp_path / "drift.json"
    code, out, _ = adapt("report", "--against", run, "--text", other, "--output", written)
    assert code == 1
    assert "adapt again" in out
    assert "abnormality" in out
    assert json.loads(written.read_text())["worse"] == ["tokens per word"]
    assert adapt("report", "--against", run, "--text", other, "--threshold", "9")[0] == 0


@pytest.mark.parametrize("threshold", ["nan", "-0.1", "inf"])
def test_a_threshold_that_never_alarms_is_refused(adapt, run, tmp_path, threshold):
    text = lines(tmp_path / "t.jsonl", ["a harbour"])
    code, _, err = adapt("report", "--against", run, "--text", text, "--threshold", threshold)
    assert code == 2
    assert "--threshold" in err
    assert "--text" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--text", "TEXT"], "give --tokenizer or --against"),
        (["report", "--text", "TEXT", "--against", "nowhere"], "no finished figures"),
        (["report", "--text", "TEXT", "--against", "RUN", "--by", "x"], "leave out --by"),
        (["report", "--text", "TEXT", "--against", "RUN", "--output", "a.csv"], "known: .json"),
        (["report", "--text", "EMPTY", "--against", "RUN"], "without a word"),
    ],
)
def test_wrong_input_is_one_line(adapt, run, tmp_path, arguments, message):
    known = {
        "RUN": run,
        "TEXT": lines(tmp_path / "t.jsonl", ["a harbour"]),
        "EMPTY": lines(tmp_path / "e.jsonl", ["", " "]),
    }
    code, _, err = adapt(*[known.get(one, one) for one in arguments])
    assert code == 2
    assert message in err.splitlines()[-1]
