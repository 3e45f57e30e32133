"""Token healing: properties on tiny tokenizers of every spelling, and a tiny random Llama."""

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
)

from adapt.errors import DataError
from adapt.generation import (
    HealingProcessor,
    Pieces,
    complete,
    generate,
    heal,
    pieces_of,
    stream,
)

TEXT = [
    "The disorder is characterized by renal failure and is characterized by anaemia.",
    "A disease of the kidney characterized by cysts of the kidney, as in the naïve café.",
    "日本語のテキスト 心臓 日本人 ✓ 😀😃 2024 numbers\n\nand   spaces.",
] * 3
PROMPTS = [
    "The disorder is characterized",
    "A disease of",
    "A disease of the kid",
    "日",
    "x y  ",
    "is",
    "numbers\n",
    "",
]


def byte_level(pattern=True, start=True):
    """Units cross spaces where the text is not cut by a pattern."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>"] if start else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    names = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"} if start else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def sentencepiece(prepend=True):
    """As Llama 2 (a space put before every text) and as Gemma (none)."""
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    steps = [normalizers.Prepend("▁")] if prepend else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    trainer = BpeTrainer(
        vocab_size=480,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    strip = [decoders.Strip(" ", 1, 0)] if prepend else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    # The trainer makes added tokens of the bytes; in real files they are tokens of the model only.
    spec = json.loads(backend.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )


MAKERS = {
    "units": lambda: byte_level(pattern=False),
    "words": byte_level,
    "llama": sentencepiece,
    "gemma": lambda: sentencepiece(prepend=False),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small lose more to handing work between threads than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made():
    """(tokenizer, model) by name, each made once."""
    known = {}
    for name, make in MAKERS.items():
        tokenizer = make()
        known[name] = (tokenizer, llama(len(tokenizer) + 3))
    return known


def llama(rows):
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def encode(tokenizer, text):
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def begin(tokenizer):
    return [tokenizer.bos_token_id or tokenizer.eos_token_id]


# Pieces of the training text, whole and cut, beside any Unicode.
PARTS = st.sampled_from([t[a:b] for t in TEXT[:3] for a in range(0, 40, 7) for b in (a + 3, a + 9)])
TEXTS = st.lists(PARTS | st.text(max_size=4), max_size=4).map("".join)
NAMES = st.sampled_from(sorted(MAKERS))


# -- what tokens spell ----------------------------------------------------------------------


def test_the_byte_alphabet_is_that_of_tokenizers():
    tokenizer = byte_level()
    pieces = pieces_of(tokenizer)
    vocabulary = tokenizer.get_vocab()
    single = {pieces.spelling[vocabulary[c]] for c in pre_tokenizers.ByteLevel.alphabet()}
    assert single == {bytes([byte]) for byte in range(256)}
    for byte in range(0x80):
        (id_,) = encode(tokenizer, chr(byte))
        assert pieces.spelling[id_] == bytes([byte])


@settings(max_examples=80)
@given(name=NAMES, text=TEXTS)
def test_tokens_spell_their_text(made, name, text):
    tokenizer, _ = made[name]
    front = b" " if name == "llama" and text else b""
    assert pieces_of(tokenizer).text(encode(tokenizer, text)) == front + text.encode()


def test_added_tokens_spell_as_they_read_and_special_ones_nothing():
    tokenizer = byte_level()
    assert pieces_of(tokenizer) is pieces_of(tokenizer)
    tokenizer.add_tokens(["é là", AddedToken("plain", normalized=False)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|special|>"]})
    pieces = pieces_of(tokenizer)  # although it was asked for before
    assert [pieces.spelling[i] for i in tokenizer.convert_tokens_to_ids(["é là", "plain"])] == [
        "é là".encode(),
        b"plain",
    ]
    assert pieces.spelling[tokenizer.convert_tokens_to_ids("<|special|>")] == b""
    assert pieces.spelling[tokenizer.eos_token_id] == b""


SMALL = st.binary(min_size=1, max_size=5).map(lambda b: bytes(c % 3 or 255 for c in b))


@settings(max_examples=100)
@given(st.lists(SMALL, min_size=1, max_size=10), SMALL)
def test_allowed_tokens_are_those_that_can_lead_on(tokens, rest):
    pieces = Pieces((b"", *tokens))

    def leads(text):  # by the definition
        return any(
            token.startswith(text) or (text.startswith(token) and leads(text[len(token) :]))
            for token in tokens
        )

    expected = {
        i
        for i, token in enumerate(tokens, start=1)
        if token.startswith(rest) or (rest.startswith(token) and leads(rest[len(token) :]))
    }
    allowed = pieces.allowed(rest)
    assert set(allowed) == expected
    assert len(allowed) == len(expected)
    assert pieces.reach_beyond(rest) == any(t.startswith(rest) and t != rest for t in tokens)


# -- healing --------------------------------------------------------------------------------


@settings(max_examples=80)
@given(name=NAMES, text=TEXTS)
def test_the_longest_run_that_a_token_outgrows_is_dropped(made, name, text):
    tokenizer, _ = made[name]
    pieces = pieces_of(tokenizer)
    ids = begin(tokenizer) + encode(tokenizer, text)
    healed = heal(tokenizer, ids)
    assert ids[: len(healed.kept)] == healed.kept
    assert pieces.text(ids) == pieces.text(healed.kept) + healed.prefix

    def outgrown(first):
        tail = pieces.text(ids[first:])
        return any(s.startswith(tail) and s != tail for s in pieces.spelling)

    firsts = [first for first in range(1, len(ids)) if outgrown(first)]
    assert len(healed.kept) == min(firsts, default=len(ids))


def test_a_unit_of_several_tokens_is_dropped_whole(made):
    tokenizer, _ = made["units"]
    units = [s.decode() for s in pieces_of(tokenizer).spelling if s.isascii() and s.count(b" ") > 1]
    dropped = []
    for unit in units:
        ids = begin(tokenizer) + encode(tokenizer, unit[: unit.rindex(" ")])
        dropped.append(len(ids) - len(heal(tokenizer, ids).kept))
    assert max(dropped) > 1  # the tokenizer of this test has such units
    assert min(dropped) > 0


def test_special_tokens_stay_with_all_before_them(made):
    tokenizer, _ = made["words"]
    ids = [*encode(tokenizer, "x"), tokenizer.eos_token_id]
    assert heal(tokenizer, ids).kept == ids
    assert heal(tokenizer, [*ids, *encode(tokenizer, " ")]).kept == ids


def test_a_prompt_healed_away_starts_as_a_document(made):
    tokenizer, _ = made["words"]
    healed = heal(tokenizer, encode(tokenizer, " "))
    assert (healed.kept, healed.prefix) == ([tokenizer.eos_token_id], b" ")


def test_without_a_start_the_first_token_stays():
    tokenizer = byte_level(start=False)
    ids = encode(tokenizer, " ")
    assert heal(tokenizer, ids).kept == ids
    assert heal(tokenizer, [ids[0], *encode(tokenizer, "x "), *ids]).kept[0] == ids[0]
    assert heal(tokenizer, encode(tokenizer, "x ")).kept == encode(tokenizer, "x")
    assert heal(tokenizer, []).kept == []
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        generate(None, tokenizer, [""])


def test_wordpiece_has_nothing_to_heal():
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    trainer = WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator(TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    ids = encode(tokenizer, "the disorder is")
    assert heal(tokenizer, ids).kept == ids
    model = llama(len(tokenizer))
    (done,) = complete(model, tokenizer, [ids], heal=True, batch_size=1, max_new_tokens=5)
    assert done.text == tokenizer.decode(done.ids, skip_special_tokens=True)


# -- generating -----------------------------------------------------------------------------


def written(made, name, prompts, *, heal=True, batch_size=8, **options):
    tokenizer, model = made[name]
    ids = [begin(tokenizer) + encode(tokenizer, prompt) for prompt in prompts]
    options = {"max_new_tokens": 6, "do_sample": False, **options}
    return complete(model, tokenizer, ids, heal=heal, batch_size=batch_size, **options)


@settings(max_examples=10)
@given(
    name=NAMES,
    prompts=st.lists(TEXTS, min_size=4, max_size=8),
    seed=st.none() | st.integers(0, 99),
)
def test_the_answer_begins_where_the_prompt_ends(made, name, prompts, seed):
    """Greedy, and sampled at a temperature at which the model says anything at all."""
    tokenizer, _ = made[name]
    sampled = {"do_sample": True, "temperature": 3.0, "top_k": 0} if seed is not None else {}
    pieces = pieces_of(tokenizer)
    longest = max(len(heal(tokenizer, encode(tokenizer, p)).prefix) for p in prompts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        answers = written(made, name, prompts, max_new_tokens=longest + 3, **sampled)
    for prompt, done in zip(prompts, answers, strict=True):
        ids = begin(tokenizer) + encode(tokenizer, prompt)
        whole = pieces.text(heal(tokenizer, ids).kept + done.ids)
        assert whole.startswith(pieces.text(ids))
        front = " " if name == "llama" and prompt else ""
        assert whole.decode(errors="replace") == front + prompt + done.text


@settings(max_examples=8)
@given(name=NAMES, prompts=st.lists(TEXTS | st.just("x y."), min_size=2, max_size=5))
def test_with_nothing_to_heal_the_ids_are_those_of_plain_generation(made, name, prompts):
    tokenizer, model = made[name]
    plain = written(made, name, prompts, heal=False, batch_size=1)
    for prompt, expected in zip(prompts, plain, strict=True):
        ids = begin(tokenizer) + encode(tokenizer, prompt)
        given_ids = torch.tensor([ids])
        mask = torch.ones_like(given_ids)
        stock = model.generate(given_ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
        assert expected.ids == stock[0, len(ids) :].tolist()
        if not heal(tokenizer, ids).prefix:
            assert written(made, name, [prompt])[0].ids == expected.ids


@settings(max_examples=8)
@given(name=NAMES, prompts=st.lists(TEXTS | st.sampled_from(PROMPTS), min_size=2, max_size=4))
def test_a_batch_gives_what_each_prompt_gives_alone(made, name, prompts):
    together = [done.text for done in written(made, name, prompts)]
    assert together == [written(made, name, [prompt])[0].text for prompt in prompts]


@pytest.mark.parametrize("name", MAKERS)
def test_the_constrained_tokens_are_the_likeliest_that_are_allowed(made, name):
    """Against a loop that tries every token of the vocabulary."""
    tokenizer, model = made[name]
    spelling = pieces_of(tokenizer).spelling
    for prompt in PROMPTS:
        healed = heal(tokenizer, begin(tokenizer) + encode(tokenizer, prompt))
        (done,) = written(made, name, [prompt])
        ids, rest = list(healed.kept), healed.prefix
        for id_ in done.ids:
            with torch.inference_mode():
                logits = model(torch.tensor([ids])).logits[0, -1].tolist()
            fits = [
                i
                for i in range(len(logits))
                if not rest or (i < len(spelling) and spelling[i] and same_start(spelling[i], rest))
            ]
            assert id_ == max(fits, key=logits.__getitem__)
            ids.append(id_)
            rest = rest[len(spelling[id_]) if id_ < len(spelling) else 0 :]


def same_start(a, b):
    """With all bytes in the vocabulary, every beginning can be gone on with."""
    return a.startswith(b) or b.startswith(a)


def test_beams_have_the_prefix_of_their_prompt(made):
    for done, prompt in zip(
        written(made, "units", PROMPTS, num_beams=3, max_new_tokens=16), PROMPTS, strict=True
    ):
        tokenizer, _ = made["units"]
        pieces = pieces_of(tokenizer)
        kept = heal(tokenizer, begin(tokenizer) + encode(tokenizer, prompt)).kept
        whole = pieces.text(kept + done.ids)
        assert whole == prompt.encode() + whole[len(prompt.encode()) :]


def test_healing_finds_the_unit_that_a_plain_prompt_shuts_out(made):
    """A model that knows the unit only: its bias makes every other token unlikely."""
    tokenizer, _ = made["units"]
    pieces = pieces_of(tokenizer)
    unit = max((s for s in pieces.spelling if s.startswith(b" ") and s.count(b" ") > 1), key=len)
    id_ = pieces.spelling.index(unit)
    scores = torch.randn(1, len(pieces.spelling))
    scores[0, id_] = -50.0  # the likeliest only of what is allowed
    prefix = unit[: unit.rindex(b" ")]
    ids = torch.zeros(1, 4, dtype=torch.long)
    masked = HealingProcessor(pieces, [prefix], 4)(ids, scores)
    assert masked[0, id_] == -50.0
    left = (masked[0] > float("-inf")).nonzero().flatten().tolist()
    assert left == sorted(pieces.allowed(prefix))
    assert len(left) < len(pieces.spelling) / 4
    assert (scores > float("-inf")).all()  # the model's own are not changed


def test_ids_that_the_output_layer_lacks_are_left_out():
    pieces = Pieces((b"a", b"b", b"ab", b"abc"))
    scores = HealingProcessor(pieces, [b"ab"], 1)(
        torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 2)
    )
    assert scores.tolist() == [[1.0, float("-inf")]]


def test_generate_takes_what_model_generate_takes(made):
    tokenizer, model = made["units"]
    seen = []

    def watch(input_ids, scores):
        seen.append(len(input_ids))
        return scores

    config = GenerationConfig(max_new_tokens=7, do_sample=False, pad_token_id=0)
    options = {"generation_config": config, "logits_processor": LogitsProcessorList([watch])}
    texts = generate(model, tokenizer, PROMPTS, batch_size=3, **options)
    assert texts == [done.text for done in written(made, "units", PROMPTS, max_new_tokens=7)]
    assert set(seen) == {3, 2}
    assert generate(model, tokenizer, [], max_new_tokens=3) == []
    plain = generate(model, tokenizer, PROMPTS, heal=False, max_new_tokens=7)
    assert plain == [d.text for d in written(made, "units", PROMPTS, heal=False, max_new_tokens=7)]


def test_an_answer_shorter_than_what_was_dropped_is_empty(made):
    tokenizer, model = made["units"]
    healed = heal(tokenizer, begin(tokenizer) + encode(tokenizer, PROMPTS[0]))
    pieces = pieces_of(tokenizer)
    short = [i for i in pieces.allowed(healed.prefix) if len(pieces.spelling[i]) == 1]
    draw = random.Random(0)

    def only(input_ids, scores):
        masked = torch.full_like(scores, float("-inf"))
        masked[:, draw.choice(short)] = 0.0
        return masked

    texts = generate(
        model,
        tokenizer,
        PROMPTS[:1],
        max_new_tokens=1,
        logits_processor=LogitsProcessorList([only]),
    )
    assert texts == [""]


# -- streaming ------------------------------------------------------------------------------


@settings(max_examples=10)
@given(
    name=NAMES,
    prompt=TEXTS | st.sampled_from(PROMPTS),
    seed=st.integers(0, 99),
    healed=st.booleans(),
)
def test_streamed_parts_are_the_completion(made, name, prompt, seed, healed):
    """At a temperature at which characters break off and bytes stand alone."""
    tokenizer, model = made[name]
    ids = begin(tokenizer) + encode(tokenizer, prompt)
    options = {"do_sample": True, "temperature": 3.0, "top_k": 0, "max_new_tokens": 20}
    parts = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        (expected,) = complete(model, tokenizer, [ids], heal=healed, batch_size=1, **options)
        torch.manual_seed(seed)
        done = stream(model, tokenizer, ids, parts.append, heal=healed, **options)
    assert done == expected
    assert "".join(parts) == done.text
    assert all(parts)


def test_text_is_streamed_while_it_is_made(made):
    """A character of three tokens waits for the third; the rest comes token by token."""
    tokenizer, model = made["words"]
    wanted = "x 🜚 y".encode()
    pieces = pieces_of(tokenizer)
    single = {spelled: i for i, spelled in enumerate(pieces.spelling) if len(spelled) == 1}
    seen = []

    def say(input_ids, scores):
        seen.append(len(parts))
        masked = torch.full_like(scores, float("-inf"))
        masked[:, single[wanted[len(seen) - 1 : len(seen)]]] = 0.0
        return masked

    parts = []
    options = {"max_new_tokens": len(wanted), "logits_processor": LogitsProcessorList([say])}
    stream(model, tokenizer, begin(tokenizer), parts.append, heal=False, **options)
    assert parts == ["x", " ", "🜚", " ", "y"]
    assert seen[-1] == 4  # all but the last were there before the last token was chosen


def test_beams_come_at_once_and_nothing_is_refused(made):
    tokenizer, model = made["units"]
    ids = begin(tokenizer) + encode(tokenizer, PROMPTS[0])
    parts = []
    done = stream(model, tokenizer, ids, parts.append, heal=True, num_beams=2, max_new_tokens=9)
    assert parts == [done.text]
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        stream(model, tokenizer, [], parts.append, heal=True)


def test_word_pieces_stream_word_by_word():
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    trainer = WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator(TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    model, parts = llama(len(tokenizer)), []
    options = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 30}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ids = encode(tokenizer, "the disorder")
        done = stream(model, tokenizer, ids, parts.append, heal=True, **options)
    assert "".join(parts) == done.text
    assert len(parts) > 3
