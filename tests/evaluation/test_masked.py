"""Pseudo bits per byte against a direct computation, and the same for any two tokenizers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from adapt.evaluation.masked import (
    Words,
    _windows,
    fills_masks,
    read_masked,
    shared_words,
    told_bits,
)
from tests.conftest import clinical

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789."
TEXTS = [
    "the cat",
    "",
    "   ",
    " one  two\nthree ",
    clinical(0)["definition"],
    " ".join(clinical(seed)["definition"] for seed in (1, 2)),
]


def wrapped(backend, **options):
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=10_000,
        **dict(zip(names, SPECIAL, strict=True)),
        **options,
    )


def wordpiece(*units):
    """WordPiece over lower-case letters and digits, with whole units beside them."""
    pieces = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *units]
    backend = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return wrapped(backend)


def spaced(*units):
    """BPE over letters and spaces, whose units go across spaces."""
    merges = [(unit[:i], unit[i:]) for unit in units for i in [len(unit) - 1]]
    pieces = [*SPECIAL, *LETTERS, " ", *units]
    return wrapped(Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges)))


def bert(tokenizer, seed=0):
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
        initializer_range=0.5,
    )
    torch.manual_seed(seed)
    model = BertForMaskedLM(config).eval()
    torch.nn.init.normal_(model.cls.predictions.decoder.bias)
    return model


class BlindForMaskedLM(torch.nn.Module):
    """Gives each piece the same probability wherever it stands."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits = torch.tensor(probabilities).log()
        text = SimpleNamespace(max_position_embeddings=None)
        self.config = SimpleNamespace(get_text_config=lambda: text)
        self.device = torch.device("cpu")

    def get_output_embeddings(self):
        return None

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def blind(tokenizer, parts):
    """The same probability for a unit as for its parts one after the other; `[PAD]` pays for it."""
    size = len(tokenizer)
    ids = tokenizer.get_vocab()
    shares = [0.5 if i == 0 else 0.5 * (i + 1) / 20_000 for i in range(size)]
    for unit, pieces in parts.items():
        shares[ids[unit]] = math.prod(shares[ids[piece]] for piece in pieces)
    shares[0] = 1 - sum(shares[1:])
    return BlindForMaskedLM(shares)


def read(model, tokenizer, texts, words, batch_size=4, max_length=512, **options):
    return read_masked(
        model,
        tokenizer,
        texts,
        words,
        max_length=max_length,
        batch_size=batch_size,
        label="",
        **options,
    )


def log_probability(model, ids, hidden, at):
    """Of the piece at a place, with some places hidden; bits."""
    seen = [4 if i in hidden else id_ for i, id_ in enumerate(ids)]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([seen])).logits[0, at].double()
    return float(torch.log_softmax(logits, -1)[ids[at]]) / math.log(2)


# -- words ------------------------------------------------------------------------------------


def test_a_unit_across_a_space_hides_both_words_in_every_model():
    plain, wide = spaced(), spaced("a ", "a b")
    assert wide.backend_tokenizer.encode("a b a").tokens == ["a b", " ", "a"]
    assert shared_words(["a b a"], [plain], max_length=9)[0].ends == (1, 3, 5)
    words = shared_words(["a b a"], [plain, wide], max_length=9)
    assert words == shared_words(["a b a"], [wide, plain], max_length=9)
    assert words == [Words((3, 5), (True, True))]
    model = bert(plain)
    ids = plain("a b a", add_special_tokens=False)["input_ids"]
    together = [(0, {0, 1, 2}), (1, {1, 2}), (2, {2}), (3, {3, 4}), (4, {4})]
    expected = -sum(log_probability(model, ids, hidden, at) for at, hidden in together)
    assert read(model, plain, ["a b a"], words).bits[0] == pytest.approx(expected, rel=1e-5)


def test_what_one_of_them_cannot_spell_is_scored_by_none():
    text = "ab  [MASK] c日d ef"
    words = shared_words([text], [wordpiece()], max_length=64)[0]
    assert words.scored == (True, False, False, True)
    short = shared_words(["abcdef gh"], [wordpiece(), wordpiece("gh")], max_length=7)[0]
    assert short.scored == (False, True)  # six pieces, where five fit between [CLS] and [SEP]
    assert short.scored_bytes("abcdef gh") == 3
    joined = shared_words(["abcdef gh"], [wordpiece("abcdef"), wordpiece()], max_length=7)[0]
    assert joined.scored == (False, True)


@settings(max_examples=150)
@given(st.text(alphabet="ab \n.é日\u200b\x00", max_size=40), st.booleans())
def test_words_cover_the_text_and_no_token_lies_across_two(text, cross):
    tokenizers = [spaced(), spaced("a ", "a b")] if cross else [wordpiece(), wordpiece("ab")]
    cut = shared_words([text], tokenizers, max_length=16)[0]
    assert list(cut.ends) == sorted(set(cut.ends))
    assert (cut.ends[-1:] == (len(text),)) == bool(text.strip())
    for tokenizer in tokenizers:
        offsets = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets
        assert not any(start < end < stop for start, stop in offsets for end in cut.ends)
    assert cut.scored_bytes(text) <= len(text.encode())


@settings(max_examples=200)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(2, 40))
def test_windows_score_each_word_once_between_words(pieces, room):
    upto = np.cumsum([0, *pieces]).tolist()
    windows = list(_windows(upto, room))
    assert [word for first, last, _, _ in windows for word in range(first, last)] == list(
        range(len(pieces))
    )
    widest = max(pieces)
    for first, last, begin, end in windows:
        assert begin <= first < last <= end
        assert upto[end] - upto[begin] <= max(room, pieces[first])
        if upto[last] - upto[first] <= room // 2 < upto[-1]:
            left, right = upto[first] - upto[begin], upto[end] - upto[last]
            assert left > room // 4 - widest or begin == 0
            assert right > room // 4 - widest or end == len(pieces)


def test_the_number_of_masks_tells_no_more_than_its_code_takes():
    tokenizer = wordpiece("ab")
    texts = ["ab c ab de", "日 ab"]
    words = shared_words(texts, [tokenizer], max_length=32)
    # Of five words that are scored four have one piece, one has two; the sixth is unknown.
    expected = -4 * math.log2(4 / 5) - math.log2(1 / 5)
    assert told_bits(tokenizer, texts, words) == pytest.approx(expected)


# -- reading ----------------------------------------------------------------------------------


def test_bits_are_those_of_a_computation_by_hand():
    tokenizer = wordpiece()
    model = bert(tokenizer)
    assert fills_masks(model)
    text = "ab cde"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == "[CLS] a ##b c ##d ##e [SEP]".split()
    hidden_at = {1: {1, 2}, 2: {2}, 3: {3, 4, 5}, 4: {4, 5}, 5: {5}}
    expected = -sum(log_probability(model, ids, hidden, at) for at, hidden in hidden_at.items())
    found = read(model, tokenizer, [text], shared_words([text], [tokenizer], max_length=512))
    assert found.bits[0] == pytest.approx(expected, rel=1e-5)
    assert found.positions[0] == 5


@pytest.mark.parametrize("kind", ["Roberta", "ModernBert", "DistilBert", "DebertaV2"])
def test_output_layers_of_other_encoders_see_one_place_as_well(kind):
    """One batch of rows of unlike length, against one row at a time with all logits."""
    import transformers

    tokenizer = wordpiece()
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "DistilBert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), intermediate_size=32, **sizes, **ids, sep_token_id=3
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForMaskedLM")(config).eval()
    texts = ["ab cde", "f"]
    found = read(model, tokenizer, texts, shared_words(texts, [tokenizer], max_length=64))
    hidden_at = [{1: {1, 2}, 2: {2}, 3: {3, 4, 5}, 4: {4, 5}, 5: {5}}, {1: {1}}]
    for text, bits, places in zip(texts, found.bits, hidden_at, strict=True):
        ids = tokenizer(text)["input_ids"]
        direct = [log_probability(model, ids, hidden, at) for at, hidden in places.items()]
        assert bits == pytest.approx(-sum(direct), rel=1e-4)


@pytest.mark.parametrize("max_length", [40, 512])
def test_the_batch_changes_no_figure(max_length):
    tokenizer = wordpiece("the", "##al")
    model = bert(tokenizer)
    words = shared_words(TEXTS, [tokenizer], max_length=max_length)
    alone, *others = (
        read(model, tokenizer, TEXTS, words, size, max_length, new_ids=[len(tokenizer) - 1])
        for size in (1, 3, 16)
    )
    assert alone.bits[0] > 0
    assert alone.bits[1] == alone.bits[2] == 0
    for other in others:
        np.testing.assert_allclose(other.bits, alone.bits, atol=1e-4, rtol=1e-6)
        np.testing.assert_allclose(other.new, alone.new, atol=1e-6)
        assert (other.positions == alone.positions).all()


@pytest.mark.parametrize("max_length", [24, 512])
def test_without_context_the_pieces_of_a_word_do_not_matter(max_length):
    """By the chain rule: a unit as likely as its pieces one after the other changes nothing."""
    whole = {"##nal": ["##n", "##a", "##l"], "the": ["t", "##h", "##e"]}
    plain, adapted = wordpiece(), wordpiece(*whole)
    across = {"a ": ["a", " "], "a b": ["a", " ", "b"], "b a": ["b", " ", "a"]}
    narrow, wide = spaced(), spaced("a ", "a b")
    for base, units, parts, texts in (
        (plain, adapted, whole, TEXTS),
        (narrow, wide, {k: across[k] for k in ("a ", "a b")}, ["a b a b b", "b a", "c a b" * 9]),
    ):
        words = shared_words(texts, [base, units], max_length=max_length)
        before = read(blind(base, {}), base, texts, words, max_length=max_length)
        after = read(blind(units, parts), units, texts, words, max_length=max_length)
        assert after.positions.sum() < before.positions.sum()
        np.testing.assert_allclose(after.bits, before.bits, rtol=1e-4)


def test_a_long_document_costs_nearly_the_same_in_windows():
    tokenizer = wordpiece()
    model = bert(tokenizer)
    text = [" ".join(["abc de f ghij"] * 12)]
    bits = [
        read(model, tokenizer, text, shared_words(text, [tokenizer], max_length=n), max_length=n)
        for n in (40, 512)
    ]
    assert bits[0].positions[0] == bits[1].positions[0] == 120
    assert bits[0].bits[0] == pytest.approx(bits[1].bits[0], rel=0.25)


def test_probability_on_new_tokens_is_that_where_words_are_predicted():
    tokenizer = wordpiece("ab")
    new = tokenizer.get_vocab()["ab"]
    model = bert(tokenizer)
    words = shared_words(["ab c"], [tokenizer], max_length=64)
    found = read(model, tokenizer, ["ab c"], words, new_ids=[new])
    ids = tokenizer("ab c")["input_ids"]
    expected = 0.0
    for at in (1, 2):
        seen = [4 if i == at else id_ for i, id_ in enumerate(ids)]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([seen])).logits[0, at]
        expected += float(logits.softmax(-1)[new])
    assert found.new[0] == pytest.approx(expected, rel=1e-4)
