"""Spans that two tokenizers cut differently: what they say, and that they lose nothing."""

import json
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from adapt.vocab.diff import compare
from adapt.vocab.offsets import cells


def byte_level(*merges, across=False):
    """Bytes, and what the merges make of them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


WORDS = [("Ġ", "b"), ("Ġb", "y"), ("i", "s")]
ACROSS = [*WORDS, ("is", "Ġby")]


def trimmed():
    """Offsets without the space before a word, as RoBERTa's post-processor makes them."""
    tokenizer = byte_level(*WORDS)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def wordpiece():
    pieces = ["[UNK]", "is", "by", "b", "##y", "i", "##s", "a", "##a", ".", "é"]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def sentencepiece():
    """Drops spaces at the end, puts one before the text, and bytes for what is unknown."""
    pieces = ["<unk>", "▁", "i", "s", "is", "▁is", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: number for number, piece in enumerate(pieces)},
            [("i", "s"), ("▁", "is")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return tokenizer


def unigram():
    scored = [("<unk>", -9.0), ("▁", -2.0), ("i", -3.0), ("s", -3.0), ("is", -2.5), ("▁is", -3.0)]
    tokenizer = Tokenizer(models.Unigram(scored, 0, False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


FAMILIES = {
    "bytes": byte_level(),
    "words": byte_level(*WORDS),
    "across": byte_level(*ACROSS, across=True),
    "trimmed": trimmed(),
    "wordpiece": wordpiece(),
    "sentencepiece": sentencepiece(),
    "unigram": unigram(),
}
every_pair = pytest.mark.parametrize(("one", "other"), list(permutations(sorted(FAMILIES), 2)))

documents = st.lists(
    st.one_of(
        st.text(alphabet="is by.éa \n\t\xa0心ﬁ👩\u200d😀ि▁Ġ", max_size=30),
        st.lists(st.sampled_from(["is", " by", "is by", "  ", "é", "\n"]), max_size=8).map("".join),
        st.text(max_size=10),
    ),
    max_size=4,
)


def test_a_unit_across_spaces_stands_beside_what_it_replaces():
    diff = compare(
        FAMILIES["words"], FAMILIES["across"], ["it is by me", "this is by us", "nothing"]
    )
    [change] = diff.changes
    assert (change.before, change.after) == (("is", " by"), ("is by",))
    assert (change.text, change.count, change.saved) == ("is by", 2, 2)
    assert (diff.documents, diff.documents_changed) == (3, 2)
    assert (diff.words, diff.words_changed) == (9, 4)
    assert diff.tokens_before - diff.tokens_after == 2


def test_largest_savings_first_and_costs_last():
    before = byte_level(("a", "a"), ("b", "b"))
    after = byte_level(("c", "c"), ("Ġ", "d"))
    diff = compare(before, after, ["aa bb cc cc d", "d d d d", " d"])
    assert [(c.text, c.saved) for c in diff.changes] == [
        (" d", 5),
        ("cc", 2),
        ("aa", -1),
        ("bb", -1),
    ]


def test_bytes_of_a_character_are_tokens_without_text():
    after = byte_level(*zip(*[["Ã"], ["©"]], strict=True))
    assert len(after.encode("é")) == 1
    [change] = compare(FAMILIES["bytes"], after, ["née"]).changes
    assert (change.before, change.after, change.saved) == (("é", ""), ("é",), 1)


def test_equal_cuts_with_other_ids_are_no_change():
    spec = json.loads(FAMILIES["words"].to_str())
    vocabulary = spec["model"]["vocab"]
    spec["model"]["vocab"] = {t: len(vocabulary) - 1 - i for t, i in vocabulary.items()}
    diff = compare(FAMILIES["words"], Tokenizer.from_str(json.dumps(spec)), ["this is by us"])
    assert (diff.changes, diff.documents_changed, diff.words_changed) == ((), 0, 0)


def test_dropped_spaces_belong_to_the_next_piece():
    diff = compare(FAMILIES["words"], FAMILIES["wordpiece"], ["is by"])
    assert diff.changes == ()
    [change] = compare(FAMILIES["words"], FAMILIES["wordpiece"], ["is   by"]).changes
    assert (change.before, change.after) == ((" ", " ", " by"), ("   by",))


def test_words_beside_a_change_are_not_changed():
    after = byte_level(("Ġ", "b"), ("Ġb", "Ġ"), across=True)
    diff = compare(byte_level(across=True), after, ["a b c"])
    assert [c.after for c in diff.changes] == [(" b ",)]
    assert diff.words_changed == 1


def test_stored_padding_and_truncation_do_not_count():
    padded = Tokenizer.from_str(FAMILIES["wordpiece"].to_str())
    padded.enable_padding(length=50)
    padded.enable_truncation(2)
    text = ["is by a é . is"]
    assert compare(FAMILIES["wordpiece"], padded, text).changes == ()
    assert padded.padding["length"] == 50


def test_progress_and_batches_do_not_change_the_result(monkeypatch, capsys):
    texts = ["it is by me", "this is by us"]
    whole = compare(FAMILIES["words"], FAMILIES["across"], texts)
    monkeypatch.setattr("adapt.vocab.offsets.BATCH_CHARACTERS", 5)
    assert compare(FAMILIES["words"], FAMILIES["across"], texts, progress=True) == whole
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "Comparing" in streams.err


@every_pair
@settings(max_examples=25, deadline=None)
@given(texts=documents)
def test_nothing_is_lost(one, other, texts):
    before, after = FAMILIES[one], FAMILIES[other]
    diff = compare(before, after, texts)
    tokens = [
        sum(len(t.encode(text, add_special_tokens=False)) for text in texts)
        for t in (before, after)
    ]
    assert [diff.tokens_before, diff.tokens_after] == tokens
    assert sum(change.saved for change in diff.changes) == tokens[0] - tokens[1]
    assert [c.saved for c in diff.changes] == sorted((c.saved for c in diff.changes), reverse=True)
    assert diff.words == sum(len(text.split()) for text in texts)
    assert 0 <= diff.words_changed <= diff.words
    assert (diff.documents_changed == 0) == (not diff.changes)
    for change in diff.changes:
        assert change.before != change.after
        assert all("".join(pieces) in (change.text, "") for pieces in (change.before, change.after))
        assert sum(text.count(change.text) for text in texts) >= 1
        # Minimal: no place inside the span where both cut.
        assert not inner_cuts(change.before) & inner_cuts(change.after)
    back = compare(after, before, texts)
    assert Counter((c.text, c.after, c.before, c.count) for c in back.changes) == Counter(
        (c.text, c.before, c.after, c.count) for c in diff.changes
    )


def inner_cuts(pieces):
    """Where pieces end before the span does."""
    ends = {len("".join(pieces[: number + 1])) for number in range(len(pieces))}
    return ends - {len("".join(pieces))}


@pytest.mark.parametrize("family", sorted(FAMILIES))
@settings(max_examples=40, deadline=None)
@given(texts=documents)
def test_a_tokenizer_does_not_differ_from_itself(family, texts):
    diff = compare(FAMILIES[family], FAMILIES[family], texts)
    assert diff.changes == ()
    assert diff.tokens_before == diff.tokens_after


@pytest.mark.parametrize("family", sorted(FAMILIES))
@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="is by.éa \n心ﬁ👩\u200d▁Ġ", min_size=1, max_size=30))
def test_cells_cut_where_no_token_lies_across(family, text):
    check_cells(len(text), FAMILIES[family].encode(text, add_special_tokens=False).offsets)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=12), st.integers(1, 3))
def test_cells_of_any_offsets(steps, rest):
    """Gaps, tokens of no width, and tokens that begin before the last one's end."""
    offsets, place = [], 0
    for step, width in steps:
        start = max(place + step - 1, offsets[-1][0] if offsets else 0)
        offsets.append((start, max(start + width, place if step == 0 else start)))
        place = max(place, offsets[-1][1])
    check_cells(place + rest, offsets)


def check_cells(length, offsets):
    ends, counts = (part.tolist() for part in cells(length, offsets))
    assert ends == sorted(set(ends))
    assert (ends[0] > 0, ends[-1], counts[-1]) == (True, length, len(offsets))
    assert counts == sorted(counts)
    for end, count in list(zip(ends, counts, strict=True))[:-1]:
        assert all(b <= end for _, b in offsets[:count])
        assert all(a >= end for a, _ in offsets[count:])
    places = {place for _, place in offsets if place}
    free = {p for p in places if not any(a < p < b for a, b in offsets)}
    assert set(ends) == free - {max(places, default=0)} | {length}


def test_plain_json():
    diff = compare(FAMILIES["words"], FAMILIES["across"], ["it is by me"])
    written = json.loads(json.dumps(diff.to_json()))
    assert written["changes"] == [
        {"before": ["is", " by"], "after": ["is by"], "text": "is by", "count": 1, "saved": 1}
    ]
