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
    with pytest.raises(ValueError, match="threshold"):
        drift(HELD_OUT, now(), -0.1)


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
