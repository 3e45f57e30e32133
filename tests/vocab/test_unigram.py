import copy
import random
from collections import Counter
from itertools import accumulate, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from adapt.errors import VocabularyError
from adapt.vocab.audit import generated_texts
from adapt.vocab.spec import SPACE, build, spec_of, vocabulary
from adapt.vocab.unigram import EPSILON, harmful, widen, with_units
from tests.conftest import clinical
from tests.vocab.conftest import DOMAIN

TEXTS = DOMAIN + [clinical(seed)["definition"] for seed in range(60)]
WORDS = sorted({word for text in TEXTS for word in text.split()})
SCHEMES = ["always", "first", "never"]


def trained(scheme: str = "always", single: bool = True) -> dict:
    """A Unigram model with `▁` first, its scores 32-bit floats as SentencePiece stores them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=["<s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    spec = spec_of(tokenizer)
    if single:
        for piece in spec["model"]["vocab"]:
            piece[1] = float(np.float32(piece[1]))
    return spec


def from_scores(scores: dict[str, float], **more) -> dict:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *scores.items()], unk_id=0))
    tokenizer.decoder = decoders.Fuse()
    return spec_of(tokenizer) | more


def ids_of(spec: dict, *pieces: str) -> tuple[int, ...]:
    place = {piece: id_ for id_, (piece, _) in enumerate(spec["model"]["vocab"])}
    return tuple(place[piece] for piece in pieces)


def runs(spec: dict, texts: list[str], most: int) -> dict[str, tuple[int, ...]]:
    """Every run of base tokens in one piece of text, most frequent first; none ends in a space."""
    spelling = [piece for piece, _ in spec["model"]["vocab"]]
    counts: Counter[tuple[int, ...]] = Counter()
    for encoding in build(spec).encode_batch(texts, add_special_tokens=False):
        for start in range(len(encoding.ids)):
            for end in range(start + 2, min(start + 9, len(encoding.ids) + 1)):
                if len({encoding.word_ids[i] for i in range(start, end)}) == 1:
                    counts[tuple(encoding.ids[start:end])] += 1
    units = {}
    for ids, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        unit = "".join(spelling[id_] for id_ in ids)
        if spec["model"]["unk_id"] not in ids and unit not in spelling and unit[-1] != SPACE:
            units.setdefault(unit, ids)
    return dict(list(units.items())[:most])


def ends(tokens: list[str]) -> set[int]:
    return set(accumulate(map(len, tokens)))


class Pair:
    """A base and what the units make of it, side by side."""

    def __init__(self, spec: dict, units: dict, widened: dict | None = None) -> None:
        self.units = units
        self.base, self.new = build(spec), build(with_units(widened or spec, units))
        self.unknown = spec["model"]["unk_id"]

    def only_glued(self, text: str) -> None:
        old, new = (t.encode(text, add_special_tokens=False) for t in (self.base, self.new))
        assert ends(new.tokens) <= ends(old.tokens)
        assert len(new.ids) <= len(old.ids)
        assert new.ids.count(self.unknown) == old.ids.count(self.unknown)
        assert self.new.decode(new.ids) == self.base.decode(old.ids)


@pytest.fixture(scope="module", params=["inside words", "across spaces"])
def pair(request):
    base = trained()
    spec = base
    if request.param == "across spaces":
        spec, reason = widen(base)
        assert reason is None
    units = runs(spec, TEXTS, 800)
    dropped = harmful(spec, units, TEXTS)
    kept = {unit: ids for unit, ids in units.items() if unit not in dropped}
    return Pair(base, kept, spec)


@pytest.fixture(scope="module")
def strings(pair):
    pieces = [piece for piece, score in trained()["model"]["vocab"] if score < 0]
    part = st.sampled_from(WORDS) | st.sampled_from([*pieces, *pair.units])
    part = part.map(lambda piece: piece.replace(SPACE, " "))
    glued = st.lists(part, min_size=1, max_size=12).map("".join)
    return st.text() | glued | st.lists(glued | st.text(max_size=3), max_size=4).map(" ".join)


def test_base_ids_and_scores_stay_and_units_follow():
    spec = trained()
    before, units = copy.deepcopy(spec), runs(spec, TEXTS, 200)
    after = with_units(spec, units)
    assert spec == before
    size = len(spec["model"]["vocab"])
    assert after["model"]["vocab"][:size] == before["model"]["vocab"]
    assert [piece for piece, _ in after["model"]["vocab"][size:]] == list(units)
    assert build(after).get_vocab() == vocabulary(after)
    assert with_units(spec, units) == after


def test_a_unit_wins_over_its_own_segmentation_and_over_shorter_units():
    spec = from_scores({piece: -7.3 - i / 7 for i, piece in enumerate("abcdef")})
    chains = ["ab", "abc", "def", "bcde", "abcdef"]
    new = build(with_units(spec, {chain: ids_of(spec, *chain) for chain in chains}))
    for chain in chains:
        assert new.encode(chain).tokens == [chain]
    # One bonus a unit would have let abc + def, two of them, win over abcdef.
    assert new.encode("abcdefabcdef").tokens == ["abcdef", "abcdef"]
    assert new.encode("fbcdea").tokens == ["f", "bcde", "a"]


def test_a_unit_does_not_win_where_the_base_cuts_otherwise():
    # a + bc leads a + b + c by the least that two 32-bit scores can differ by.
    spec = from_scores({"a": -3.0, "b": -3.0, "c": -3.0, "bc": -6.0 + 2.0**-21})
    new = build(with_units(spec, {"ab": ids_of(spec, "a", "b")}))
    assert new.encode("abab").tokens == ["ab", "ab"]
    assert new.encode("abcab").tokens == ["a", "bc", "ab"]


@pytest.mark.parametrize("seed", range(3))
def test_units_win_in_a_long_text_without_spaces(seed):
    draw = random.Random(seed)
    spec = from_scores({piece: -draw.uniform(8, 14) for piece in "abcdefgh"})
    new = build(with_units(spec, {"abcd": ids_of(spec, *"abcd"), "ef": ids_of(spec, *"ef")}))
    text = "abcdefgh" * 10_000
    assert new.encode(text).tokens == ["abcd", "ef", "g", "h"] * 10_000


def test_epsilon_is_below_the_steps_of_32_bit_scores_and_above_rounding():
    step = float(np.spacing(np.float32(2.0)))
    assert step / EPSILON == 1024
    assert EPSILON > 3 * np.spacing(2.0**20 - 1) / 2


def test_units_make_unknown_characters_no_dearer_where_it_matters():
    # "ß" is only known inside "aß": whether it is used depends on what an unknown costs.
    spec = from_scores({"a": -1.0, "b": -1.0, "c": -1.0, "aß": -9.0, "ba": -1.0, "cba": -0.5})
    lowest = {"bcbc": ids_of(spec, *"bcbc"), "bcbcbcbcbc": ids_of(spec, *"bcbcbcbcbc")}
    assert harmful(spec, lowest, []) == {"bcbcbcbcbc"}
    closed = copy.deepcopy(spec)
    closed["model"]["vocab"].append(["ß", -9.0])
    assert harmful(closed, lowest, []) == frozenset()


def test_a_tie_that_costs_a_token_is_found():
    # abcd is ab + cd or a + bc + d, both -8: the base takes two tokens.
    scores = {"a": -2.0, "d": -2.0, "bc": -4.0, "ab": -4.0, "cd": -4.0, "b": -9.0, "c": -9.0}
    spec = from_scores(scores)
    units = {"abc": ids_of(spec, "a", "bc"), "abab": ids_of(spec, "ab", "ab")}
    assert build(spec).encode("abcd").tokens == ["ab", "cd"]
    assert build(with_units(spec, units)).encode("abcd").tokens == ["abc", "d"]
    assert harmful(spec, units, ["abab", "abcd"]) == {"abc"}
    assert harmful(spec, units, ["abab"]) == frozenset()


def test_a_unit_that_decodes_otherwise_is_dropped():
    spec = trained()
    spec["pre_tokenizer"]["split"] = False  # and the decoder as it is: it drops a space inside
    units = runs(spec, TEXTS, 300)
    inside = {unit for unit in units if SPACE in unit[1:]}
    assert inside
    assert harmful(spec, units, []) == inside


def test_added_tokens_behind_the_vocabulary_keep_their_ids():
    tokenizer = build(trained())
    # One in known characters, one in unknown ones, one that only normalisation would bring.
    tokenizer.add_special_tokens(["<|x|>", "renal"])
    tokenizer.add_tokens([AddedToken("kidney", single_word=True)])
    spec = spec_of(tokenizer)
    units = runs(spec, TEXTS, 300)
    new = build(with_units(spec, units))
    old_ids = tokenizer.get_vocab()
    assert {token: new.get_vocab()[token] for token in old_ids} == old_ids
    assert [new.token_to_id(unit) for unit in units] == list(
        range(max(old_ids.values()) + 1, max(old_ids.values()) + 1 + len(units))
    )
    added = {token["id"] for token in spec["added_tokens"]}
    texts = ["<|x|>", "renal", "a <|x|> b", "the kidney", "kidneys", "renal<|x|>", "\uff52enal"]
    for text in texts:
        old, fresh = tokenizer.encode(text), new.encode(text)
        assert ends(fresh.tokens) <= ends(old.tokens)
        assert added.intersection(fresh.ids) == added.intersection(old.ids)


def test_an_added_token_that_cannot_be_kept_from_winning_is_refused():
    tokenizer = build(from_scores({"a": -1.0, "b": -1.0}))
    tokenizer.add_tokens([AddedToken("xyz", single_word=True)])
    spec = spec_of(tokenizer)
    with pytest.raises(VocabularyError, match="single_word"):
        with_units(spec, {"ab": ids_of(spec, "a", "b")})


@pytest.mark.parametrize(
    ("unit", "pieces"),
    [("ab", ("b", "a")), ("c", ("a", "b")), ("a", ("a",)), ("<unk>a", ("<unk>", "a"))],
)
def test_what_is_no_unit_is_refused(unit, pieces):
    spec = from_scores({"a": -1.0, "b": -1.0, "c": -1.0})
    with pytest.raises(VocabularyError, match="new spelling"):
        with_units(spec, {unit: ids_of(spec, *pieces)})


def test_no_units_change_nothing():
    spec = trained()
    assert with_units(spec, {}) == spec
    assert harmful(spec, {}, TEXTS) == frozenset()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_widening_keeps_the_segmentation_of_the_bases_own_pieces(scheme):
    spec = trained(scheme)
    before = copy.deepcopy(spec)
    widened, reason = widen(spec)
    assert reason is None
    assert widened["pre_tokenizer"]["split"] is False
    assert spec == before
    base, wide = build(spec), build(widened)
    blanks = ["", " ", "   ", " a", "a ", "a  b", "  a   b  ", "a\n b", f"a{SPACE} b", "ж ж", "жж "]
    blanks += ["<s> a", "a<s>  b", "<s>"]
    for text in [*blanks, *TEXTS, *islice(generated_texts(5_000, 0), 5_000)]:
        old, new = (t.encode(text, add_special_tokens=False) for t in (base, wide))
        assert new.ids == old.ids, text
        assert wide.decode(new.ids) == base.decode(old.ids), text


def test_widening_lets_units_cross_spaces(pair):
    crossing = [unit for unit in pair.units if SPACE in unit[1:]]
    across = '"split":false' in pair.new.to_str().replace(" ", "")
    assert bool(crossing) == across


def _metaspace_after_whitespace(spec):
    parts = [{"type": "WhitespaceSplit"}, spec["pre_tokenizer"]]
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}


def _piece_across(spec):
    spec["model"]["vocab"].append([f"{SPACE}of{SPACE}the", -5.0])


def _piece_of_marks(spec):
    spec["model"]["vocab"].append([SPACE * 2, -5.0])


def _no_mark(spec):
    spec["model"]["vocab"] = [p for p in spec["model"]["vocab"] if p[0] != SPACE]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_metaspace_after_whitespace, "WhitespaceSplit"),
        (_piece_across, "space inside"),
        (_piece_of_marks, "space inside"),
        (_no_mark, "not a piece"),
    ],
)
def test_what_is_not_proven_is_not_widened(change, reason):
    spec = trained()
    change(spec)
    widened, why = widen(spec)
    assert widened == spec
    assert reason in why


def test_what_crosses_spaces_already_stays_as_it_is():
    spec = trained("never") | {"pre_tokenizer": None}
    assert widen(spec) == (spec, None)


def test_units_keep_every_promise_on_the_texts(pair):
    for text in TEXTS + WORDS + list(generated_texts(1_000, 1)):
        pair.only_glued(text)


def test_units_are_kept_and_save_tokens(pair):
    old, new = (
        sum(map(len, t.encode_batch(TEXTS, add_special_tokens=False)))
        for t in (pair.base, pair.new)
    )
    assert len(pair.units) > 400
    assert new < 0.7 * old


def test_every_unit_can_be_reached(pair):
    used = {i for text in TEXTS for i in pair.new.encode(text).ids}
    for unit, ids in pair.units.items():
        spelled = pair.new.model.tokenize(unit)
        alone = [token.id for token in pair.base.model.tokenize(unit)] == list(ids)
        assert not alone or [token.value for token in spelled] == [unit]
    assert len(used & {pair.new.token_to_id(unit) for unit in pair.units}) > 50


def test_units_keep_every_promise_on_every_string(pair, strings):
    @settings(max_examples=500, deadline=None)
    @given(strings)
    def check(text):
        pair.only_glued(text)

    check()


def test_dropping_is_deterministic():
    spec, _ = widen(trained())
    units = runs(spec, TEXTS, 300)
    assert harmful(spec, units, TEXTS) == harmful(spec, units, TEXTS)
