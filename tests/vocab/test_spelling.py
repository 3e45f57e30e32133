"""Bytes of tokens by their spelling, against the decoders of `tokenizers`."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, pre_tokenizers

from adapt.vocab.spelling import BYTE_CHARACTERS, byte_level, spelled_byte_level, speller


def spell_by(decoder):
    return speller(json.loads(decoder.__getstate__()))


SENTENCEPIECE = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=12))
def test_byte_level_there_and_back(text):
    spelled = spelled_byte_level(text)
    assert byte_level(spelled) == text
    assert spell_by(decoders.ByteLevel()) is byte_level
    assert decoders.ByteLevel().decode([spelled]) == text.decode(errors="replace")


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_byte_level_spells_as_the_pre_tokenizer_does(text):
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    assert spelled_byte_level(text.encode()) == "".join(piece for piece, _ in pieces)


def test_every_byte_has_its_character():
    assert set(BYTE_CHARACTERS) == set(pre_tokenizers.ByteLevel.alphabet())
    assert len(BYTE_CHARACTERS) == 256


def test_an_added_token_is_spelled_as_it_reads():
    assert byte_level("<|im start|>") == b"<|im start|>"


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=5) | st.sampled_from(["<0x0A>", "<0xFF>", "<0xZZ>", "▁a▁"]))
def test_sentencepiece_spells_what_its_decoder_reads(token):
    spell = spell_by(SENTENCEPIECE)
    assert spell(token).decode(errors="replace") == SENTENCEPIECE.decode([token])


def test_without_byte_fallback_nothing_is_a_byte():
    spell = spell_by(decoders.Metaspace())
    assert spell("▁<0x0A>") == b" <0x0A>"
    assert spell("<0x0A>") == b"<0x0A>"


def test_where_text_is_no_sum_of_tokens_nothing_spells():
    assert spell_by(decoders.WordPiece()) is None
    assert spell_by(decoders.Sequence([decoders.ByteLevel(), decoders.CTC()])) is None
    assert speller(None) is None
