import json
import subprocess
import sys
import unicodedata
import weakref
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from adapt.fertility import (
    METRICS,
    FertilityReport,
    measure,
    measure_groups,
    normalized_sequence_length,
    renyi_efficiency,
    saved,
)

CORPUS = [
    "the patient has an abnormal heart rhythm, the heart is enlarged.",
    "Abnormality of the heart: characterized by an abnormal rhythm of the heart",
    "naïve café 心脏 疾病",
] * 4


def byte_level(vocab_size=320, **options):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def digits():
    """Digits one by one before byte-level BPE, as SmolLM2 has it."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), tokenizer.pre_tokenizer]
    )
    return tokenizer


def trimmed():
    """Offsets without the space before a word, as RoBERTa's post-processor makes them."""
    tokenizer = byte_level()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def across_spaces():
    """Has a unit that covers two words and the space between them."""
    return byte_level(vocab_size=500, use_regex=False)


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=90, special_tokens=["[UNK]", "[PAD]", "[CLS]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS[:2], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]"))]
    )
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS[:2], trainer)
    return tokenizer


def byte_fallback():
    """SentencePiece BPE: a space put before the text, bytes for what is unknown."""
    pieces = ["<unk>", "▁", "h", "e", "a", "he", "▁he", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.BPE(
        {piece: number for number, piece in enumerate(pieces)},
        [("h", "e"), ("▁", "he")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return tokenizer


FAMILIES = {
    make.__name__: make()
    for make in (byte_level, digits, trimmed, across_spaces, wordpiece, unigram, byte_fallback)
}
every_family = pytest.mark.parametrize("family", sorted(FAMILIES))

texts = st.lists(
    st.one_of(
        st.text(alphabet="the art.,-(\n \t\xa0é心ﬁ👩\u200d😀ि_1", max_size=40),
        st.sampled_from(CORPUS),
        st.text(max_size=20),
    ),
    max_size=4,
)


def word_level(**vocabulary):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, **vocabulary}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def characters():
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def test_counts_of_a_text_worked_by_hand():
    result = measure(characters(), ["ab, é\n", "a"], name="bytes")
    assert (result.name, result.documents) == ("bytes", 2)
    assert (result.bytes_, result.characters, result.words, result.tokens) == (8, 7, 3, 8)
    assert result.tokens_per_word == pytest.approx(8 / 3)
    assert result.bytes_per_token == 1.0
    assert result.tokens_per_character == pytest.approx(8 / 7)
    assert result.continued_word_share == pytest.approx(2 / 3), "ab and é, whose two bytes count"
    assert [(word.word, word.pieces) for word in result.most_split_words] == [
        ("ab", ("a", "b")),
        ("é", ("é", "")),
    ]


def test_words_by_their_tokens_worked_by_hand():
    text = "a bb ccc ccc " + "d" * 9 + " " + "e" * 10 + " " + "f" * 30
    result = measure(characters(), [text, "g", " \n"], name="bytes")
    assert result.word_tokens == (2, 1, 2, 0, 0, 0, 0, 0, 1, 2)
    assert measure(characters(), ["  "], name="bytes").word_tokens == (0,) * 10


def test_documents_by_their_ratio_worked_by_hand():
    # 3, 2 and 1 tokens a word; the document without words is left out.
    result = measure(characters(), ["ccc", "a b c", "\n", "bb"], name="bytes")
    assert (
        measure(characters(), ["a b c"], name="x").document_quantiles
        == (pytest.approx(5 / 3),) * 21
    )
    ratios = sorted([3.0, 5 / 3, 2.0])
    assert len(result.document_quantiles) == 21
    assert result.document_quantiles[0] == pytest.approx(ratios[0])
    assert result.document_quantiles[10] == pytest.approx(ratios[1])
    assert result.document_quantiles[15] == pytest.approx((ratios[1] + ratios[2]) / 2)
    assert result.document_quantiles[20] == pytest.approx(ratios[2])
    assert measure(characters(), ["\n"], name="x").document_quantiles == ()


@every_family
@settings(max_examples=40, deadline=None)
@given(texts=texts)
def test_the_distributions_agree_with_the_figures(family, texts):
    result = measure(FAMILIES[family], texts, name=family)
    assert len(result.word_tokens) == 10
    assert sum(result.word_tokens) <= result.words
    continued = sum(result.word_tokens[1:])
    assert result.continued_word_share == (continued / result.words if result.words else 0.0)
    ratios = [
        measure(FAMILIES[family], [text], name=family).tokens_per_word
        for text in texts
        if text.split()
    ]
    expected = np.percentile(ratios, range(0, 101, 5)).tolist() if ratios else []
    assert result.document_quantiles == pytest.approx(tuple(expected))


def test_punctuation_around_a_word_does_not_split_it():
    tokenizer = word_level(heart=1)
    result = measure(tokenizer, ['("heart"), heart-heart ...'], name="words")
    assert result.words == 3
    assert result.continued_word_share == pytest.approx(1 / 3)
    assert result.most_split_words[0].word == "heart-heart"
    assert result.most_split_words[0].pieces == ("heart", "-", "heart")


def test_vowel_signs_belong_to_their_word():
    result = measure(characters(), ["हिन्दी।"], name="bytes")
    assert result.most_split_words[0].word == "हिन्दी"


def test_a_unit_across_words_counts_as_one_token_of_each():
    tokenizer = across_spaces()
    text = CORPUS[1]
    assert len(tokenizer.encode(text)) == 1, "the trainer glued the whole sentence together"
    result = measure(tokenizer, [text], name="across")
    assert (result.tokens, result.continued_word_share) == (1, 0.0)
    assert result.tokens_per_word == pytest.approx(1 / len(text.split()))


def test_a_unit_that_ends_inside_a_word_splits_it():
    tokenizer = word_level(**{"by the heart": 1, "beat": 2})
    tokenizer.pre_tokenizer = pre_tokenizers.Split("beat", "isolated")
    result = measure(tokenizer, ["by the heartbeat"], name="across")
    assert result.continued_word_share == pytest.approx(1 / 3)
    assert result.most_split_words[0].pieces == ("heart", "beat")


@pytest.mark.parametrize("make", [unigram, byte_fallback])
def test_the_space_put_before_a_text_is_no_piece_of_its_first_word(make):
    tokenizer = make()
    assert tokenizer.encode("心 心").tokens[0] == "▁"
    first, second = (measure(tokenizer, [text], name="x") for text in ("心", " 心"))
    assert first.continued_word_share == second.continued_word_share
    assert first.most_split_words == second.most_split_words


def test_most_split_words_cost_most_first():
    words = ["aaaa"] * 2 + ["bb"] * 5 + ["ccc"] * 4 + ["d"] * 9
    result = measure(characters(), [" ".join(words)], name="bytes")
    assert [(word.word, word.count) for word in result.most_split_words] == [
        ("ccc", 4),  # 8 tokens above one each
        ("aaaa", 2),  # 6
        ("bb", 5),  # 5
    ]


def test_most_split_words_are_fifty_and_readable():
    text = " ".join(f"w{number}" for number in range(80)) + " " + "acgt" * 50
    result = measure(characters(), [text], name="bytes")
    assert len(result.most_split_words) == 50
    assert all(len(word.word) <= 64 for word in result.most_split_words)
    assert result.continued_word_share == 1.0, "what is too long to list still counts"


def test_terms_are_counted_as_in_running_text():
    tokenizer = byte_level()
    assert len(tokenizer.encode(" heart")) == 1
    terms = ["heart", " heart ", "zebra", "  "]
    assert measure(
        tokenizer, ["x"], name="bpe", terms=terms
    ).single_token_term_share == pytest.approx(2 / 3)
    assert measure(tokenizer, ["x"], name="bpe").single_token_term_share is None


def test_an_unknown_term_is_not_a_token():
    tokenizer = word_level(heart=1)
    assert measure(tokenizer, [], name="w", terms=["heart", "☃"]).single_token_term_share == 0.5


@pytest.mark.parametrize(
    ("make", "unknown"), [(wordpiece, True), (unigram, True), (byte_level, False)]
)
def test_unknown_rate(make, unknown):
    tokenizer = make()
    assert measure(tokenizer, [CORPUS[0]], name="x").unknown_rate == 0.0
    result = measure(tokenizer, ["heart ☃"], name="x")
    assert result.unknown_rate == (pytest.approx(1 / result.tokens) if unknown else 0.0)


def test_stored_truncation_and_padding_do_not_count_and_stay():
    plain = wordpiece()
    tokenizer = Tokenizer.from_str(plain.to_str())  # training twice may break ties differently
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=40)
    before = tokenizer.to_str()
    assert measure(tokenizer, CORPUS, name="x") == measure(plain, CORPUS, name="x")
    assert tokenizer.to_str() == before


@every_family
@pytest.mark.parametrize("empty", [[], [""], [" \n\t"], ["", "  "]])
def test_texts_without_words(family, empty):
    result = measure(FAMILIES[family], empty, name=family)
    assert (result.documents, result.words, result.tokens_per_word) == (len(empty), 0, 0.0)
    assert (result.continued_word_share, result.most_split_words) == (0.0, ())
    assert (result.word_tokens, result.document_quantiles) == ((0,) * 10, ())


@every_family
@settings(max_examples=60, deadline=None)
@given(texts=texts)
def test_agrees_with_encoding_one_by_one(family, texts):
    tokenizer = FAMILIES[family]
    result = measure(tokenizer, texts, name=family)
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert result.tokens == sum(map(len, encoded))
    assert result.words == sum(len(text.split()) for text in texts)
    assert result.bytes_ == len("".join(texts).encode())
    assert 0.0 <= result.unknown_rate <= 1.0
    assert result.continued_word_share * result.words == pytest.approx(
        sum(plain_continued(tokenizer, *pair) for pair in zip(texts, encoded, strict=True))
    )
    for word in result.most_split_words:
        assert "".join(word.pieces) == word.word
        assert len(word.pieces) >= 2
        assert any(word.word in text for text in texts)


def plain_continued(tokenizer, text, encoding):
    """The definition, every word against every token."""
    offsets = list(encoding.offsets)
    if encoding.tokens and encoding.tokens[0] in ("▁", "Ġ"):
        start, end = offsets[0]
        if not text[start:end].isspace() and text[start:end] != encoding.tokens[0]:
            offsets[0] = (0, 0)
    continued, position = 0, 0
    for run in text.split():
        position = text.index(run, position)
        inside = [i for i, c in enumerate(run) if not unicodedata.category(c).startswith("P")]
        low, high = (inside[0], inside[-1] + 1) if inside else (0, len(run))
        span = set(range(position + low, position + high))
        continued += sum(bool(span.intersection(range(*offset))) for offset in offsets) >= 2
        position += len(run)
    return continued


@every_family
@settings(max_examples=30, deadline=None)
@given(one=texts, other=texts)
def test_texts_add_up(family, one, other):
    a, b, both = (
        measure(FAMILIES[family], part, name=family) for part in (one, other, one + other)
    )
    for count in ("documents", "bytes_", "characters", "words", "tokens"):
        assert getattr(both, count) == getattr(a, count) + getattr(b, count)
    assert both.continued_word_share * both.words == pytest.approx(
        a.continued_word_share * a.words + b.continued_word_share * b.words
    )
    assert 0.0 <= both.continued_word_share <= 1.0
    assert both.word_tokens == tuple(map(sum, zip(a.word_tokens, b.word_tokens, strict=True)))


def test_batches_and_progress_do_not_change_the_result(monkeypatch, capsys):
    tokenizer = byte_level()
    whole = measure(tokenizer, CORPUS, name="x")
    monkeypatch.setattr("adapt.vocab.offsets.BATCH_CHARACTERS", 10)
    assert measure(tokenizer, CORPUS, name="x", progress=True) == whole
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "Measuring x" in streams.err


class Text(str):
    """One that can be seen to be let go."""


def test_texts_are_streamed(monkeypatch):
    monkeypatch.setattr("adapt.vocab.offsets.BATCH_CHARACTERS", 200)
    most, alive = 0, weakref.WeakSet()

    def texts():
        nonlocal most
        for number in range(100):
            text = Text(f"the patient number {number} has a fever")
            alive.add(text)
            most = max(most, len(alive))
            yield text

    streamed = measure(byte_level(), texts(), name="x")
    assert streamed.documents == 100
    assert 5 < most < 20  # a batch, and the one before it
    assert measure_groups(byte_level(), {"": texts()}, name="x")[0] == streamed
    assert most < 20


def test_saved_is_the_share_of_tokens():
    before = measure(characters(), CORPUS, name="bytes")
    after = measure(byte_level(), CORPUS, name="bpe")
    assert saved(before, after) == pytest.approx(1 - after.tokens / before.tokens)
    assert saved(after, before) < 0
    assert saved(before, before) == 0.0


def test_saved_refuses_different_texts():
    tokenizer = byte_level()
    one, other = (measure(tokenizer, texts, name="x") for texts in (["heart"], ["hearts"]))
    with pytest.raises(ValueError, match="different texts"):
        saved(one, other)


def test_report_is_plain_json():
    result = measure(byte_level(), CORPUS, name="bpe", terms=["heart"])
    report = FertilityReport(domain=(result,), general=()).to_json()
    assert json.loads(json.dumps(report))["domain"][0]["tokens"] == result.tokens


# -- lengths, efficiency, vocabulary, context ---------------------------------------------------


def test_lengths_are_against_the_first_of_a_report():
    one, other = (
        measure(characters(), CORPUS, name="bytes"),
        measure(byte_level(), CORPUS, name="b"),
    )
    report = FertilityReport((one, other), (other, one), {"de": (other, other)})
    ratio = other.tokens / one.tokens
    assert [f.normalized_sequence_length for f in report.domain] == [1.0, pytest.approx(ratio)]
    assert [f.normalized_sequence_length for f in report.general] == [1.0, pytest.approx(1 / ratio)]
    assert [f.normalized_sequence_length for f in report.groups["de"]] == [1.0, 1.0]
    assert one.normalized_sequence_length is None, "nothing to be relative to"
    assert saved(one, other) == pytest.approx(1 - report.domain[1].normalized_sequence_length)


@every_family
@settings(max_examples=20, deadline=None)
@given(texts=texts)
def test_the_first_has_length_one(family, texts):
    first = measure(FAMILIES[family], texts, name="first")
    other = measure(FAMILIES["byte_level"], texts, name="other")
    report = FertilityReport((first, other), ())
    assert report.domain[0].normalized_sequence_length == 1.0
    length = report.domain[1].normalized_sequence_length
    if first.tokens:
        assert length == pytest.approx(other.tokens / first.tokens)
    else:
        assert length == (None if other.tokens else 1.0)


def test_length_without_a_reference():
    empty, some = (measure(wordpiece(), texts, name="x") for texts in ([" "], ["x"]))
    assert empty.tokens == 0
    assert normalized_sequence_length(empty, empty) == 1.0
    with pytest.raises(ValueError, match="different texts"):
        normalized_sequence_length(some, measure(byte_level(), ["two words"], name="y"))


def test_renyi_efficiency_worked_by_hand():
    # p = (1/2, 1/4, 1/4), order 2: -log(1/4 + 1/16 + 1/16) / log 8
    assert renyi_efficiency([2, 1, 1], 8, alpha=2) == pytest.approx(-np.log(3 / 8) / np.log(8))
    # order 0.5: 2 log(sum of roots)
    expected = 2 * np.log(np.sqrt([0.5, 0.25, 0.25]).sum()) / np.log(8)
    assert renyi_efficiency([2, 1, 1], 8, alpha=0.5) == pytest.approx(expected)
    assert renyi_efficiency([], 8) == 0.0
    assert renyi_efficiency([5], 8) == 0.0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50), st.integers(0, 50))
def test_renyi_efficiency_is_a_share(counts, unused):
    efficiency = renyi_efficiency(counts, len(counts) + unused)
    assert 0.0 <= efficiency <= 1.0
    assert renyi_efficiency([c * 7 for c in counts], len(counts) + unused) == pytest.approx(
        efficiency, abs=1e-12
    )
    assert renyi_efficiency(counts, len(counts) + unused + 1) <= efficiency


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 5000), st.integers(1, 10**9))
def test_renyi_efficiency_of_even_use_is_one(vocabulary, count):
    efficiency = renyi_efficiency([count] * vocabulary, vocabulary)
    assert efficiency == pytest.approx(1.0)
    assert efficiency <= 1.0


def test_vocabulary_in_use_and_words_in_a_context():
    tokenizer = characters()
    result = measure(tokenizer, ["ab ab", "b"], name="bytes", context=12)
    assert (result.vocabulary, result.vocabulary_used) == (256, 3)
    assert result.vocabulary_used_share == 3 / 256
    assert result.tokens_per_word == 2.0
    assert (result.context, result.words_in_context) == (12, 6.0)
    assert 0 < result.renyi_efficiency < 1


@every_family
@settings(max_examples=20, deadline=None)
@given(one=texts, other=texts)
def test_vocabulary_in_use_is_that_of_the_union(family, one, other):
    tokenizer = FAMILIES[family]
    a, b, both = (measure(tokenizer, part, name="x") for part in (one, other, one + other))
    low, high = max(a.vocabulary_used, b.vocabulary_used), a.vocabulary_used + b.vocabulary_used
    assert low <= both.vocabulary_used <= min(high, both.vocabulary)
    ids = {i for text in one + other for i in tokenizer.encode(text, add_special_tokens=False).ids}
    assert both.vocabulary_used == len(ids)


# -- terms --------------------------------------------------------------------------------------


def test_terms_that_need_most_tokens_first():
    terms = ["bb", "ccc", " ccc ", "a", "é", ""]
    result = measure(characters(), ["x"], name="bytes", terms=terms)
    # The space before a term is a token of its own here, without a character of the term.
    assert [(t.word, t.count, t.pieces) for t in result.most_split_terms] == [
        ("ccc", 2, ("", "c", "c", "c")),
        ("bb", 1, ("", "b", "b")),
        ("é", 1, ("", "é", "")),
        ("a", 1, ("", "a")),
    ]
    assert measure(byte_level(), ["x"], name="bpe", terms=["heart"]).most_split_terms == ()


@every_family
@settings(max_examples=40, deadline=None)
@given(terms=st.lists(st.text(alphabet="the art.,-心ﬁé_1▁Ġ", max_size=12), max_size=60))
def test_pieces_of_a_term_are_the_term_one_a_token(family, terms):
    tokenizer = FAMILIES[family]
    result = measure(tokenizer, [], name=family, terms=terms)
    assert len(result.most_split_terms) <= 50
    for term in result.most_split_terms:
        assert "".join(term.pieces) == term.word
        assert term.word in {given.strip() for given in terms}
        assert len(term.pieces) == len(tokenizer.encode(f" {term.word}", add_special_tokens=False))
    lengths = [len(term.pieces) for term in result.most_split_terms]
    assert lengths == sorted(lengths, reverse=True)
    assert not lengths or lengths[-1] > 1


# -- parts and files ----------------------------------------------------------------------------


@every_family
@settings(max_examples=20, deadline=None)
@given(one=texts, other=texts)
def test_parts_make_the_whole(family, one, other):
    tokenizer, options = FAMILIES[family], {"name": family, "context": 64}
    whole, parts = measure_groups(
        tokenizer, {"one": one, "other": other}, terms=["heart"], **options
    )
    assert whole == measure(tokenizer, one + other, terms=["heart"], **options)
    assert parts == {
        "one": measure(tokenizer, one, **options),
        "other": measure(tokenizer, other, **options),
    }


def test_a_report_survives_json():
    results = tuple(
        measure(make(), CORPUS, name=make.__name__, terms=["heart", "enlarged heart"])
        for make in (byte_level, wordpiece)
    )
    report = FertilityReport(results, (), {"en": results})
    assert FertilityReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_report_of_an_older_version_is_read():
    record = FertilityReport((measure(byte_level(), CORPUS, name="bpe"),), ()).to_json()
    del record["groups"]
    old = {
        "name", "documents", "bytes_", "characters", "words", "tokens", "tokens_per_word",
        "bytes_per_token", "tokens_per_character", "continued_word_share",
        "single_token_term_share", "unknown_rate", "most_split_words",
    }  # fmt: skip
    first = record["domain"][0]
    record["domain"] = [{key: value for key, value in first.items() if key in old}]
    read = FertilityReport.from_json(record).domain[0]
    assert read.tokens == first["tokens"]
    assert read.most_split_words
    assert (read.renyi_efficiency, read.vocabulary, read.words_in_context) == (None, None, None)
    assert (read.word_tokens, read.document_quantiles) == ((), ())


def test_metrics_are_the_fields_that_are_numbers():
    result = FertilityReport(
        (measure(byte_level(), CORPUS, name="bpe", terms=["heart"]),), ()
    ).domain[0]
    numbers = {k for k, v in asdict(result).items() if isinstance(v, (int, float))}
    assert set(METRICS) == numbers
    assert result.word_tokens
    assert result.document_quantiles, "which are lists, and no metric"


def test_needs_no_torch():
    code = "import sys, adapt.fertility; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
