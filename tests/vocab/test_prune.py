"""The promises of pruning and replacing, for any string and every family."""

import copy
import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from adapt.errors import VocabularyError
from adapt.vocab.delta import VocabDelta
from adapt.vocab.prune import prune, removable, replace, usage
from adapt.vocab.renumber import renumber
from adapt.vocab.spec import build, spec_of, text_of, vocabulary

from .conftest import PROSE

# What the base learned from; the sample is PROSE alone, so that much of the base is of no use.
ELSEWHERE = [
    "The mayor repaired the harbour, and the captain sailed the harbour before the rain in 1987.",
    "A farmer painted two bicycles; her sister described the wooden bridge and the bridge's rail.",
    "The evening train visited the village where the villagers carried the remaining instruments.",
    "Der Bürgermeister übergab die Brücke, und die Brücken führten über die Flüsse.",
    "東京都の港町、港町の東京都。 東京の港 😀😀😀 ------ ======",
]
SAMPLE = PROSE
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
KINDS = ["byte-level", "all-merges", "sentencepiece", "wordpiece", "unigram"]
LOSSLESS = KINDS[:3]

words = st.sampled_from([w for text in PROSE + ELSEWHERE for w in text.split()] + [" ", "\n", "é"])
strings = st.one_of(
    st.text(),
    st.lists(words).map(" ".join),
    st.lists(words).map("".join),
    st.text("abdegilnrst, "),
)
examples = settings(max_examples=100, deadline=None)


def encode(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text, add_special_tokens=False).tokens


def trained(kind: str) -> Tokenizer:
    if kind in ("byte-level", "all-merges"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif kind == "sentencepiece":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?<=▁)(?=[^▁])"), "isolated")
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence(steps)
        special = ["<unk>", "<s>", "</s>", *BYTES]
        trainer = trainers.BpeTrainer(vocab_size=560, special_tokens=special, show_progress=False)
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        special = ["[UNK]", "<s>", "</s>"]
        trainer = trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=special, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=220,
            special_tokens=["<s>", "</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        )
    tokenizer.train_from_iterator(PROSE + 3 * ELSEWHERE, trainer)
    return tokenizer


@cache
def made(kind: str) -> str:
    tokenizer = trained(kind)
    tokenizer.add_tokens([AddedToken("harbour master", normalized=False)])
    specials = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=specials
    )
    spec = spec_of(tokenizer)
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in BYTES]
    if kind == "all-merges":  # as files made of tiktoken's: every way to split a token is a merge
        vocab = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
        cuts = [(t[:i], t[i:]) for t in vocab for i in range(1, len(t))]
        known = spec["model"]["vocab"].keys()
        spec["model"]["merges"] = [[a, b] for a, b in cuts if a in known and b in known]
        spec["model"]["ignore_merges"] = True
    return json.dumps(spec)


def base_spec(kind: str) -> dict:
    return json.loads(made(kind))


@cache
def pruned(kind: str) -> tuple[Tokenizer, Tokenizer]:
    spec = base_spec(kind)
    tokenizer = build(spec)
    return tokenizer, build(prune(spec, usage(tokenizer, SAMPLE)))


def unknown(spec_or_tokenizer: Tokenizer) -> str | None:
    return next((t for t in ("[UNK]", "<unk>") if spec_or_tokenizer.token_to_id(t)), None)


def holds_for(kind: str, old: Tokenizer, new: Tokenizer, text: str) -> None:
    """What both modes promise of one text."""
    before, after = encode(old, text), encode(new, text)
    if all(new.token_to_id(token) is not None for token in before):
        assert after == before
    unk = unknown(old)
    assert after.count(unk) <= before.count(unk)
    if kind in LOSSLESS:
        ids = [t.encode(text, add_special_tokens=False).ids for t in (old, new)]
        assert old.decode(ids[0]) == new.decode(ids[1])


# -- prune -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_pruning_removes_what_the_sample_has_no_use_for(kind):
    old, new = pruned(kind)
    assert new.get_vocab_size() < old.get_vocab_size() - 40
    assert build(spec_of(new)).to_str() == new.to_str()


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_the_sample_keep_their_tokens(kind):
    old, new = pruned(kind)
    for text in SAMPLE:
        assert encode(new, text) == encode(old, text)


@pytest.mark.parametrize("kind", KINDS)
@examples
@given(text=strings)
def test_any_string_after_pruning(kind, text):
    holds_for(kind, *pruned(kind), text)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_dense_in_the_old_order_and_the_delta_has_them_all(kind):
    old, new = (t.get_vocab() for t in pruned(kind))
    assert sorted(new.values()) == list(range(len(new)))
    assert sorted(new, key=new.get) == [t for t in sorted(old, key=old.get) if t in new]
    delta = VocabDelta.between(old, new, lambda _: (), str)
    kept, at = delta.kept_ids
    assert sorted([*kept, *delta.removed]) == sorted(old.values())
    assert dict(zip(kept, at, strict=True)) == {old[token]: id_ for token, id_ in new.items()}
    assert not delta.added


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_and_post_processor_stay(kind):
    old, new = pruned(kind)
    assert [str(t) for t in new.get_added_tokens_decoder().values()] == [
        str(t) for t in old.get_added_tokens_decoder().values()
    ]
    text = PROSE[0] + "harbour master</s>"
    for pair in ((text,), (text, PROSE[1])):
        before, after = old.encode(*pair), new.encode(*pair)
        assert after.tokens == before.tokens
        assert after.special_tokens_mask == before.special_tokens_mask
        assert [new.id_to_token(id_) for id_ in after.ids] == after.tokens


@pytest.mark.parametrize("kind", LOSSLESS)
def test_bytes_and_characters_stay(kind):
    old, new = (t.get_vocab().keys() for t in pruned(kind))
    assert {t for t in old if len(t) == 1 or t in BYTES} <= new
    if kind != "sentencepiece":
        assert set(pre_tokenizers.ByteLevel.alphabet()) <= new


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_given_is_changed(kind):
    spec = base_spec(kind)
    before = copy.deepcopy(spec)
    prune(spec, {})
    assert spec == before


@pytest.mark.parametrize("kind", KINDS)
def test_pruning_twice_removes_nothing_more(kind):
    _, new = pruned(kind)
    assert prune(spec_of(new), usage(new, SAMPLE)) == spec_of(new)


# -- the order ---------------------------------------------------------------------------------


@cache
def order(kind: str) -> list[int]:
    spec = base_spec(kind)
    return removable(spec, usage(build(spec), SAMPLE))


@cache
def without(kind: str, count: int) -> Tokenizer:
    gone = set(order(kind)[:count])
    kept = sorted((i, token) for token, i in vocabulary(base_spec(kind)).items() if i not in gone)
    return build(renumber(base_spec(kind), {token: i for i, (_, token) in enumerate(kept)}))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), text=strings)
def test_every_prefix_may_go_alone(kind, data, text):
    count = len(order(kind)) * data.draw(st.integers(0, 20)) // 20
    holds_for(kind, build(base_spec(kind)), without(kind, count), text)


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_stays_is_characters_bytes_and_added(kind):
    spec = base_spec(kind)
    gone, text = set(order(kind)), text_of(spec)
    left = {token for token, id_ in vocabulary(spec).items() if id_ not in gone}
    left -= {token["content"] for token in spec["added_tokens"]} | {*BYTES}
    if kind == "unigram":  # and the piece on which the unknown token's score hangs
        left.discard(min(spec["model"]["vocab"], key=lambda piece: piece[1])[0])
    assert all(len(text(token)) == 1 or len(token) == 1 for token in left)


@pytest.mark.parametrize("kind", KINDS)
def test_the_used_come_after_the_unused(kind):
    spec = base_spec(kind)
    counts = usage(build(spec), SAMPLE)
    used = [bool(counts[id_]) for id_ in order(kind)]
    kept = len(vocabulary(prune(spec, counts)))
    assert not any(used[: len(vocabulary(spec)) - kept])
    assert removable(spec, dict(sorted(counts.items()))) == order(kind)


def bpe(merges: list[str], **model) -> dict:
    """Byte-level BPE of a few merges, spelled as old files do."""
    tokens = sorted({c for c in "".join(merges) if c != " "})
    tokens += dict.fromkeys(merge.replace(" ", "") for merge in merges)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spec = spec_of(tokenizer)
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    spec["model"] |= {"vocab": vocab, "merges": merges, **model}
    return spec


def test_a_part_counts_as_much_as_what_is_made_of_it():
    spec = bpe(["a b", "c d", "ab c", "d e", "x y", "f g"])
    ids = vocabulary(spec)
    counts = {ids["abc"]: 9, ids["cd"]: 3, ids["fg"]: 9}
    names = {id_: token for token, id_ in ids.items()}
    found = [names[id_] for id_ in removable(spec, counts)]
    assert found == ["xy", "de", "cd", "fg", "abc", "ab"]
    assert [names[i] for i in removable(spec, counts, {ids["abc"]})] == ["xy", "de", "cd", "fg"]


def test_a_merge_that_never_acts_binds_nothing():
    # "ab" is made first, so "abc" is never made of "bc", which only other texts use.
    spec = bpe(["a b", "b c", "ab c", "a bc"])
    ids = vocabulary(spec)
    assert ids["bc"] == removable(spec, {ids["abc"]: 1, ids["ab"]: 1})[0]
    assert set(vocabulary(prune(spec, {ids["abc"]: 1}))) == {"a", "b", "c", "ab", "abc"}


def test_unreachable_comes_first():
    # "bcd" can't be: "cd" is made first, and no merge takes it.
    spec = bpe(["c d", "b c", "x y", "bc d"])
    ids = vocabulary(spec)
    assert removable(spec, {})[0] == ids["bcd"]
    assert encode(build(spec), "bcd") == ["b", "cd"]
    # A lookup of the whole piece reaches it.
    spec["model"]["ignore_merges"] = True
    assert removable(spec, {ids["xy"]: 1})[-1] == ids["xy"]
    assert encode(build(spec), "bcd") == ["bcd"]
    assert removable(spec, {ids["bcd"]: 5})[-1] == ids["bcd"]


def test_the_pre_tokenizer_makes_unreachable():
    spec = bpe(["a b", "x y", "1 2"])
    spec["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, spec["pre_tokenizer"]],
    }
    ids = vocabulary(spec)
    spec = renumber(spec, {"12": 0, **{t: i + 1 for t, i in ids.items() if t != "12"}})
    assert removable(spec, {})[0] == 0


def test_part_of_a_character_is_not_called_unreachable():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first, second, third = pre_tokenizers.ByteLevel(False).pre_tokenize_str("日")[0][0]
    spec = bpe([f"{first} {second}", "a b", f"{second} {third}"])
    assert {first, second, third} <= set(alphabet)
    ids = vocabulary(spec)
    # A tie, so the higher id goes first.
    assert removable(spec, {}) == sorted((ids[t] for t in ids if len(t) == 2), reverse=True)


def test_protected_stays_with_all_it_is_made_of():
    spec = bpe(["a b", "ab c", "d e"])
    ids = vocabulary(spec)
    assert removable(spec, {}, {ids["abc"]}) == [ids["de"]]


# -- families ----------------------------------------------------------------------------------


def wordpiece(*pieces: str) -> dict:
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(("[UNK]", *pieces))}))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return spec_of(tokenizer)


def test_wordpiece_that_could_make_unknown_stays():
    # Without "ab", "abcd" would be cut a|##bc|##d, and "##d" is unknown.
    spec = wordpiece("a", "##b", "##c", "ab", "##bc", "##cd", "[unused1]")
    tokenizer = build(spec)
    assert encode(tokenizer, "abcd") == ["ab", "##cd"]
    assert removable(spec, {}) == [7]
    assert encode(build(prune(spec, {})), "abcd") == ["ab", "##cd"]
    complete = wordpiece("a", "##b", "##c", "##d", "ab", "##bc", "##cd", "[unused1]")
    assert removable(complete, {}) == [8, 7, 6, 5]


def test_wordpiece_needs_the_form_of_the_place():
    assert removable(wordpiece("a", "b", "ab"), {}) == []
    assert removable(wordpiece("a", "##b", "ab"), {}) == [3]


def test_unigram_keeps_the_score_of_the_unknown():
    pieces = [("<unk>", 0.0), ("a", -2.0), ("b", -2.0), ("ab", -1.0), ("ba", -30.0), ("aa", -1.5)]
    spec = spec_of(Tokenizer(models.Unigram(pieces, 0)))
    assert removable(spec, {}) == [5, 3]
    # "ac" is a piece, but not "c": text that another piece cuts off from its "a" would be unknown.
    incomplete = [*pieces, ("ac", -3.0)]
    assert removable(spec_of(Tokenizer(models.Unigram(incomplete, 0))), {}) == []


def test_other_families_are_refused():
    spec = spec_of(Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))
    with pytest.raises(VocabularyError, match=r"WordLevel.*set tokenizer\.mode"):
        prune(spec, {})


# -- replace -----------------------------------------------------------------------------------

NEW = ["nephro", "cardio", "hypercalciuria", "characterized", "kidney", "anaemia", "dysplasia"]


@cache
def extended(kind: str) -> str:
    """The base and some words of the domain, made of what the base makes of them."""
    spec, base = base_spec(kind), build(base_spec(kind))
    vocab = vocabulary(spec)
    for added in spec["added_tokens"]:  # so that ids after it can be the model's
        if kind != "unigram":
            spec["model"]["vocab"][added["content"]] = added["id"]
        elif added["id"] == len(spec["model"]["vocab"]):
            spec["model"]["vocab"].append([added["content"], 0.0])
    for word in NEW:
        tokens = encode(base, word)
        if kind in LOSSLESS:
            for i in range(1, len(tokens)):
                left, right = "".join(tokens[:i]), tokens[i]
                if [left, right] not in spec["model"]["merges"]:
                    spec["model"]["merges"].append([left, right])
                vocab.setdefault(left + right, len(vocab))
                spec["model"]["vocab"][left + right] = vocab[left + right]
        elif kind == "wordpiece":
            spec["model"]["vocab"][word] = vocab.setdefault(word, len(vocab))
        elif "▁" + word not in vocab:
            vocab["▁" + word] = len(vocab)
            spec["model"]["vocab"].append(["▁" + word, -1.0])
    return json.dumps(spec)


@cache
def replaced(kind: str):
    base, more = base_spec(kind), json.loads(extended(kind))
    result, changes = replace(base, more, usage(build(more), SAMPLE))
    return build(base), build(more), build(result), changes


@pytest.mark.parametrize("kind", KINDS)
def test_replacing_keeps_the_size(kind):
    base, more, new, changes = replaced(kind)
    assert len(changes) == more.get_vocab_size() - base.get_vocab_size() > 2
    assert sorted(new.get_vocab().values()) == sorted(base.get_vocab().values())
    for change in changes:
        assert base.id_to_token(change.id) == change.token
        assert new.id_to_token(change.id) == change.new_token
        assert change.count == 0
    kept = base.get_vocab().items() - {(c.token, c.id) for c in changes}
    assert kept <= new.get_vocab().items()


@pytest.mark.parametrize("kind", KINDS)
def test_new_tokens_are_used_and_special_ones_stay(kind):
    base, more, new, changes = replaced(kind)
    for text in SAMPLE:
        assert encode(new, text) == encode(more, text)
        assert new.encode(text).tokens == ["<s>", *encode(more, text), "</s>"]
    assert set(encode(new, " ".join(NEW))) & {change.new_token for change in changes}
    gone = {change.token for change in changes}
    assert gone.isdisjoint(["<s>", "</s>", "<unk>", "[UNK]", "harbour master", *BYTES])
    assert not any(len(token) == 1 for token in gone)


@pytest.mark.parametrize("kind", KINDS)
@examples
@given(text=strings)
def test_any_string_after_replacing(kind, text):
    base, more, new, _ = replaced(kind)
    holds_for(kind, more, new, text)
    if kind in LOSSLESS:
        plain = encode(base, text)
        if all(new.token_to_id(token) is not None for token in plain):
            assert len(encode(new, text)) <= len(plain)


def test_protected_tokens_are_not_replaced():
    base, more = base_spec("byte-level"), json.loads(extended("byte-level"))
    _, changes = replace(base, more, {})
    protected = {change.id for change in changes}
    _, others = replace(base, more, {}, protected)
    assert protected.isdisjoint(change.id for change in others)


def test_too_few_to_replace():
    base = bpe(["a b", "b c"])
    more = bpe(["a b", "b c"])
    more["model"]["merges"] = [*more["model"]["merges"], "ab c", "ab a", "ab b"]
    for token in ("abc", "aba", "abb"):
        more["model"]["vocab"][token] = len(more["model"]["vocab"])
    with pytest.raises(VocabularyError, match=r"only 1 tokens.*got 3; ask for 1 at most"):
        replace(base, more, {})


def test_an_extension_that_moves_ids_is_refused():
    base = bpe(["a b", "b c"])
    with pytest.raises(VocabularyError, match="does not keep"):
        replace(base, bpe(["c b", "d c"]), {})


# -- renumber ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokens_at_their_ids_are_the_same_file(kind):
    spec = base_spec(kind)
    assert build(renumber(spec, vocabulary(spec))).to_str() == build(spec).to_str()


def test_merges_keep_their_format():
    spec = bpe(["a b", "ab c", "c d"])
    kept = [token for token in vocabulary(spec) if token != "ab"]
    new = renumber(spec, {token: id_ for id_, token in enumerate(kept)})
    assert new["model"]["merges"] == ["c d"]
    spec["model"]["merges"] = [merge.split() for merge in spec["model"]["merges"]]
    new = renumber(spec, {token: id_ for id_, token in enumerate(kept)})
    assert new["model"]["merges"] == [["c", "d"]]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("processor", [processors.BertProcessing, processors.RobertaProcessing])
def test_post_processors_follow(processor, nested):
    tokenizer = build(base_spec("byte-level"))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    one = processor(*ids)
    tokenizer.post_processor = processors.Sequence([one]) if nested else one
    vocab = tokenizer.get_vocab()
    shifted = {token: (id_ + 7) % len(vocab) for token, id_ in vocab.items()}
    new = build(renumber(spec_of(tokenizer), shifted)).encode("a", PROSE[0])
    assert new.tokens == tokenizer.encode("a", PROSE[0]).tokens
    assert new.ids == [shifted[token] for token in new.tokens]


@pytest.mark.parametrize("kind", KINDS)
def test_any_permutation_loads_as_it_was_written(kind):
    """Also where an added token that the model does not list lands among those that it lists."""
    spec = base_spec(kind)
    vocab = vocabulary(spec)
    reversed_ = {token: len(vocab) - 1 - id_ for token, id_ in vocab.items()}
    old, new = build(spec), build(renumber(spec, reversed_))
    assert new.get_vocab() == reversed_
    text = "harbour master" + PROSE[0] + "<s>"
    assert new.encode(text).tokens == old.encode(text).tokens
    assert new.encode(text).ids == [reversed_[token] for token in old.encode(text).tokens]


def test_padding_follows():
    tokenizer = build(base_spec("byte-level"))
    tokenizer.enable_padding(pad_id=1, pad_token="</s>", length=40)
    spec = json.loads(tokenizer.to_str())
    kept = [token for token in vocabulary(spec) if token != "<s>"]
    spec["post_processor"] = None
    assert renumber(spec, {t: i for i, t in enumerate(kept)})["padding"]["pad_id"] == 0


def test_what_cannot_be_written_is_refused():
    spec = base_spec("unigram")
    vocab = vocabulary(spec)
    with pytest.raises(VocabularyError, match="one id"):
        renumber(spec, dict.fromkeys(vocab, 0))
    with pytest.raises(VocabularyError, match="no such token, got 'nowhere'"):
        renumber(spec, {**vocab, "nowhere": len(vocab)})
    with pytest.raises(VocabularyError, match="cannot do without a token, got '<unk>'"):
        renumber(spec, {token: id_ for token, id_ in vocab.items() if token != "<unk>"})
    with pytest.raises(VocabularyError, match="dense"):
        renumber(spec, {token: id_ + 1 for token, id_ in vocab.items()})


# -- usage, and a real one -----------------------------------------------------------------------


def test_usage_counts_ids_without_special_tokens():
    tokenizer = build(base_spec("wordpiece"))
    counts = usage(tokenizer, iter(["the the", "the"] * 1500))
    assert counts == {tokenizer.token_to_id("the"): 4500}


@pytest.fixture(scope="module")
def real(smollm2) -> tuple[Tokenizer, Tokenizer]:
    spec = spec_of(smollm2.backend_tokenizer)
    tokenizer = build(spec)
    return tokenizer, build(prune(spec, usage(tokenizer, SAMPLE)))


def test_real_sample_keeps_its_tokens(real):
    old, new = real
    assert new.get_vocab_size() < 1000 < old.get_vocab_size()
    for text in SAMPLE:
        assert encode(new, text) == encode(old, text)


@examples
@given(text=strings)
def test_any_string_on_a_real_one(real, text):
    holds_for("byte-level", *real, text)
