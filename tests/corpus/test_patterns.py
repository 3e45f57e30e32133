"""Patterns of the audit against hand-worked texts, and against text that only looks alike."""

import re

import pytest

from adapt.corpus.patterns import DAMAGE, PRIVATE, main_script, scripts_of

LOST, MOJIBAKE, CONTROL, HALVES = DAMAGE
EMAIL, PHONE, RECORD = PRIVATE


@pytest.mark.parametrize(
    ("kind", "text", "count"),
    [
        (LOST, "caf\ufffd and na\ufffdve", 2),
        (MOJIBAKE, "caf\u00c3\u00a9", 1),
        (MOJIBAKE, "café na\u00efve Ångström Ã", 0),
        (CONTROL, "a\x00b\x07c\x85", 3),
        (CONTROL, "line\nbreak\ttab\r", 0),
        (HALVES, "a\ud800b", 1),
        (EMAIL, "write to jane.doe+x@mail.example.org, or a@b.de.", 2),
        (EMAIL, "5 mg @ 8 h, user@host, @handle, a@b", 0),
        (PHONE, "call +1 (555) 123-4567 or 555-123-4567", 2),
        (PHONE, "Tel. +49 30 901820, (030) 901-8200, 020 7946 0958", 3),
        (PHONE, "on 2019-01-02, 120/80, 3.14159, HP:0001250, 1,000,000, 10 000 000, 100-200", 0),
        (PHONE, "DOI 10.1000/182, ICD Z85.01, 5-10-15 mg, 1234567890", 0),
        (RECORD, "MRN: 00123456; Patient ID #A-99812, SSN 123-45-6789", 3),
        (RECORD, "medical record number is 4411-22, NHS no. 943 476 5919", 2),
        (RECORD, "case no change, record 12 patients, the patient is 45, MRN unknown", 0),
        (PHONE, "Tel:555-123-4567 Fax:(555) 123-4567 tel:+493012345678", 3),
        (PHONE, "1-800-555-1234, 1 555.123.4567, 01 23 45 67 89, 01.23.45.67.89", 4),
        (PHONE, "030/1234567 and 06-12345678", 2),
        (PHONE, "2020-01-01, 01/02/2020, 01-02-2020, 01.02.2020, 12/2020, 05/2020-11/2020", 0),
        (PHONE, "at 12:30, 08:15:00, ratio 1:100, 1:555-123-4567, chr7:140453136-140453137", 0),
        (PHONE, "E11.9, C50.911, doi:10.1056/0123-4567890, HLA-B*27:05, CYP2C19, HP:0001250", 0),
        (PHONE, "2012;12(3):123-128, Smith (2019) 1345-1352, pp. 0123-0130, ISSN:0028-0836", 0),
        (PHONE, "0.5-1.0 mg, 10-20 mg/kg, 05 10 15 20 25 30, 1 02 03 04 05 06, NCT01234567", 0),
        (RECORD, "MRN12345678, Medical Record #12345678; patient id P-123, Case # 12345", 4),
        (RECORD, "Pt ID 123456; pt. no. 99812, Case#12345, record number AB 1234, MRN-1234", 5),
        (RECORD, "mRNA-1273 and mRNA 12345, patient numbers 1000 to 2000, case notes 2020", 0),
        (RECORD, "the patient number in 2020, record id for 1999, case #3, patient no 12 - 45", 0),
        (RECORD, "2020-01-01, 12:30, 1:100, E11.9, 10.1000/182, INR 2.5, Na 140, pp. 123-128", 0),
    ],
)
def test_counts(kind, text, count):
    assert (DAMAGE | PRIVATE)[kind](text) == count


@pytest.mark.parametrize("character", "éüñßç–—’“”…€ïå°µ")
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_what_was_read_in_the_wrong_encoding_is_seen(character, encoding):
    try:
        damaged = character.encode().decode(encoding)
    except UnicodeDecodeError:
        damaged = character.encode().decode("latin-1")
    assert DAMAGE[MOJIBAKE](f"word {damaged} word") == 1
    assert DAMAGE[MOJIBAKE](f"word {character} word") == 0


@pytest.mark.parametrize("kind", [*DAMAGE, *PRIVATE])
def test_long_runs_take_no_longer_than_they_are(kind):
    hard = ("a" * 200_000, "1 " * 100_000, "a.b-" * 50_000 + "@", "0" * 200_000)
    for text in (*hard, "01 " * 70_000, "(01-" * 50_000, "MRN" + "1 -" * 70_000, "pt #" * 50_000):
        (DAMAGE | PRIVATE)[kind](text)  # a pattern that backtracks would not come back


def test_scripts_are_of_letters():
    assert scripts_of("ab, 12 Ж") == {"Latin": 2, "Cyrillic": 1}
    assert scripts_of("日本 の カ") == {"Han": 2, "Hiragana": 1, "Katakana": 1}
    assert main_script(scripts_of("Übung 日")) == "Latin"
    assert main_script(scripts_of("ab日本")) is None
    assert main_script(scripts_of("12 34")) is None
    assert not re.search("[a-z]", str(scripts_of("")).removeprefix("Counter"))
