"""What each objective learns: the answers only, whole words, labels; and that models learn it."""

import copy
import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
)

from adapt.bases import Base
from adapt.corpus import Corpus, CorpusStatistics
from adapt.errors import AdaptError, DataError, ModelError, RecipeError
from adapt.recipe.evaluation import ClassificationTask, GenerationTask
from adapt.recipe.training import LoraSection, Phase, TrainingSection
from adapt.training.batches import IGNORED, Labelled, collate_labelled, start_ids
from adapt.training.chat import segments
from adapt.training.examples import windows
from adapt.training.heads import hand_over, head, load_with_head, loss_function
from adapt.training.masking import mask_words, word_starts
from adapt.training.objectives import balanced
from adapt.training.phases import check_tasks, phase_data
from adapt.training.records import Dialogue, PlainText, first_pieces
from adapt.training.run import train
from adapt.vocab import Material, adapt_vocabulary, load_tokenizer
from tests.conftest import clinical, general

WORDS = "cardiac renal tubule fibrosis of the heart is a chronic finding in patients with".split()
ORGAN = ClassificationTask(name="organ", kind="classification", path="-", label="organ")


def phase(objective, **changes):
    changes = {"max_steps": 3, "max_length": 32, **changes}
    return Phase(name="p", objective=objective, **changes)


def corpus_of(folder, texts=(), rows=(), task="organ", validation=(), checked=()):
    """A corpus as its stage leaves it, without the work."""
    for split, some in (("train", texts), ("validation", validation), ("test", ())):
        lines = [json.dumps({"text": text, "origin": "-"}) + "\n" for text in some]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    for split, some in (("train", rows), ("validation", checked)):
        path = folder / "tasks" / task / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
    return Corpus(folder, CorpusStatistics({}, {}, {}, []))


@pytest.fixture(scope="module")
def wordpiece():
    """BERT's pipeline with letters and a few pieces, so that most words are of several."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = ["the", "of", "is", "heart", "ren", "chron", "##al", "##ic"]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters), *pieces]
    ids = {token: i for i, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.add_special_tokens(special)
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.decoder = decoders.WordPiece()
    backend.enable_padding(length=64)  # as all-MiniLM's file has it
    names = ("pad", "unk", "cls", "sep", "mask")
    tokens = {f"{n}_token": t for n, t in zip(names, special, strict=True)}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)


@pytest.fixture(scope="module")
def encoder(wordpiece, tmp_path_factory):
    """A tiny BERT without a head, like all-MiniLM."""
    folder = tmp_path_factory.mktemp("encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(wordpiece),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.3,  # as if trained: hidden states that differ from word to word
        )
        BertModel(config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def adapted(tiny_base, tmp_path_factory):
    """A tokenizer with units across spaces, of the tiny base."""
    from adapt.recipe.vocabulary import TokenizerSection

    folder = tmp_path_factory.mktemp("adapted")
    texts = [clinical(seed)["definition"] for seed in range(120)]
    adapt_vocabulary(
        TokenizerSection(new_tokens=40, min_frequency=3),
        load_tokenizer(tiny_base),
        Material(lambda: iter(texts)),
        folder / "new",
    )
    return load_tokenizer(folder / "new")


# -- whole words --------------------------------------------------------------------------------


def test_a_unit_across_spaces_is_one_with_the_words_it_spans():
    text = "heart attack, now"
    offsets = [(0, 8), (8, 12), (12, 13), (13, 17)]  # "heart at", "tack", ",", " now"
    assert word_starts(text, offsets) == [True, False, True, True]


def test_bytes_of_one_character_stay_together():
    assert word_starts("é 字字", [(0, 1), (0, 1), (2, 3), (3, 4)]) == [True, False, True, True]


mixed = st.text(alphabet="ab c,é字\u0301 9", max_size=40) | st.lists(
    st.sampled_from(WORDS), max_size=12
).map(" ".join)


@given(mixed, st.integers(0, 50))
def test_words_are_hidden_whole_and_special_tokens_never(wordpiece, text, seed):
    encoding = wordpiece.backend_tokenizer.encode(text, add_special_tokens=False)
    ids = [i for i, real in zip(encoding.ids, encoding.attention_mask, strict=True) if real]
    offsets = encoding.offsets[: len(ids)]
    special = set(wordpiece.all_special_ids)
    hidden, labels = mask_words(
        ids,
        word_starts(text, offsets),
        probability=0.3,
        mask=wordpiece.mask_token_id,
        special=special,
        replacements=np.arange(5, len(wordpiece)),
        seed=(seed,),
    )
    chosen = [label != IGNORED for label in labels]
    for i, id_ in enumerate(ids):
        assert labels[i] == (id_ if chosen[i] else IGNORED)
        assert id_ not in special or not chosen[i]
        assert chosen[i] or hidden[i] == id_
    for i in range(1, len(ids)):  # pieces of one word lie side by side, with letters at the joint
        (_, before), (after, _) = offsets[i - 1], offsets[i]
        if before == after and text[before - 1].isascii() and text[after].isascii():
            if text[before - 1].isalnum() and text[after].isalnum():
                assert chosen[i - 1] == chosen[i]
    assert any(chosen) or all(id_ in special for id_ in ids) or special & set(ids)


def test_of_hidden_tokens_eight_in_ten_are_masked_and_one_is_another():
    ids = [7] * 20_000
    hidden, labels = mask_words(
        ids,
        [True] * len(ids),
        probability=0.5,
        mask=4,
        special={0, 4},
        replacements=np.arange(10, 99),
        seed=(1, 2),
    )
    chosen = [h for h, label in zip(hidden, labels, strict=True) if label != IGNORED]
    assert len(chosen) / len(ids) == pytest.approx(0.5, abs=0.02)
    assert chosen.count(4) / len(chosen) == pytest.approx(0.8, abs=0.02)
    assert chosen.count(7) / len(chosen) == pytest.approx(0.1, abs=0.02)
    assert min(set(chosen) - {4, 7}) >= 10


def test_mlm_frames_windows_and_hides_anew_each_time_round(wordpiece, tmp_path):
    texts = [" ".join(WORDS * 3), "the heart is renal", "chronic fibrosis"]
    corpus = corpus_of(tmp_path, texts)
    many = phase("mlm", max_steps=20, mlm_probability=0.3)
    data = phase_data(many, wordpiece, corpus, [], 0, None)
    assert len(data.examples) <= 40
    by_text = {}
    for example in data.examples:
        assert len(example) <= 32
        assert (example.input_ids[0], example.input_ids[-1]) == (2, 3)
        assert (example.labels[0], example.labels[-1]) == (IGNORED, IGNORED)
        pairs = zip(example.input_ids, example.labels, strict=True)
        original = tuple(i if label == IGNORED else label for i, label in pairs)
        by_text.setdefault(original, set()).add(tuple(example.labels))
    assert max(map(len, by_text.values())) > 1  # other words when the text comes again
    whole = wordpiece.decode([i for ids in by_text for i in ids], skip_special_tokens=True)
    assert "chronic fibrosis" in whole
    again = phase_data(many, wordpiece, corpus, [], 0, None)
    assert [e.labels for e in again.examples] == [e.labels for e in data.examples]
    batch = data.collate([data.examples[0], data.examples[1]])
    assert set(batch) == {"input_ids", "labels", "attention_mask"}
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 9))
def test_windows_keep_every_token_and_cut_before_words(starts, room):
    parts = list(windows(0, len(starts), room, lambda: starts))
    assert [i for p in parts for i in range(p.start, p.end)] == list(range(len(starts)))
    for part in parts[:-1]:
        assert 0 < part.end - part.start <= room
        inside = starts[part.start + 1 : part.end + 1]
        assert starts[part.end] or not any(inside)


def test_mlm_needs_a_mask_token(tiny_base, tmp_path):
    with pytest.raises(ModelError, match="no mask token.*take an encoder"):
        phase_data(
            phase("mlm"), load_tokenizer(tiny_base), corpus_of(tmp_path, ["a b"]), [], 0, None
        )


# -- conversations ------------------------------------------------------------------------------

said = st.text(alphabet="ab cé\n.字", min_size=1, max_size=20).filter(str.strip)
turns = st.lists(st.tuples(said, said), min_size=1, max_size=4)


def messages_of(pairs):
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


@given(turns, st.booleans())
def test_only_the_assistants_words_and_their_end_are_learned(tiny_base, pairs, thanks):
    tokenizer = load_cached(tiny_base)
    messages = messages_of(pairs) + [{"role": "user", "content": "thanks"}] * thanks
    record = Dialogue(tokenizer, None, 10_000)({"messages": messages, "where": "-"})
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole.startswith(tokenizer.decode(record.input_ids))
    flagged = zip(record.input_ids, record.flags, strict=True)
    learned = tokenizer.decode([id_ for id_, flag in flagged if flag])
    assert learned == "".join(f"{answer}<|im_end|>" for _, answer in pairs)
    assert record.bytes_ == sum(len(m["content"].encode()) for m in messages)


_loaded = {}


def load_cached(folder):
    return _loaded.setdefault(folder, load_tokenizer(folder))


@given(turns, st.integers(4, 60))
def test_long_conversations_keep_something_to_learn_and_count_what_they_lose(
    tiny_base, pairs, max_length
):
    tokenizer = load_cached(tiny_base)
    item = {"messages": messages_of(pairs), "where": "-"}
    whole = Dialogue(tokenizer, None, 10_000)(item)
    cut = Dialogue(tokenizer, None, max_length)(item)
    assert len(cut.input_ids) <= max_length
    assert any(cut.flags[1:])
    text = tokenizer.decode(whole.input_ids)
    if all(character.isascii() for character in text):
        kept = tokenizer.decode(cut.input_ids)
        assert len(kept) + cut.lost == len(text)
    assert (cut.lost > 0) == (len(cut.input_ids) < len(whole.input_ids)) or not text.isascii()


def test_a_template_without_a_prompt_for_answers_learns_no_header(tiny_base):
    tokenizer = copy.deepcopy(load_tokenizer(tiny_base))
    tokenizer.chat_template = tokenizer.chat_template.split("{% if add_gen")[0]
    found = segments(tokenizer, messages_of([("hi", "yes")]), "-")
    assert [s.text for s in found if s.learned] == ["yes<|im_end|>\n"]


FORGETS = (
    "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }}\n"
    "{% else %}{{ m.content[:1] }}\n{% endif %}{% endfor %}"
)


def test_a_template_that_changes_earlier_turns_is_refused(tiny_base):
    tokenizer = copy.deepcopy(load_tokenizer(tiny_base))
    tokenizer.chat_template = FORGETS
    assert segments(tokenizer, messages_of([("hi", "yes")]), "-")
    with pytest.raises(DataError, match="talks.jsonl:3: the chat template changes earlier turns"):
        segments(tokenizer, messages_of([("hi", "yes"), ("and", "no")]), "talks.jsonl:3")


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ("hello", "not a list of turns"),
        ([{"role": "assistant", "content": None}], "not a list of turns"),
        ([{"role": "user", "content": "hi"}], "no turn of the assistant"),
        (messages_of([("hi", " ")]), "an empty turn of the assistant"),
    ],
)
def test_a_row_that_is_no_conversation_is_named(tiny_base, messages, what):
    with pytest.raises(DataError, match=f"talks:1: .*{what}"):
        segments(load_tokenizer(tiny_base), messages, "talks:1")


def test_conversations_and_tasks_take_turns(tiny_base, tmp_path):
    tokenizer = load_tokenizer(tiny_base)
    task = GenerationTask(name="define", kind="generation", path="-", prompt="{term}", target="is")
    corpus = corpus_of(tmp_path, rows=[{"term": "kidney", "is": "an organ"}], task="define")
    talks = tmp_path / "talks.jsonl"
    talks.write_text(json.dumps({"messages": messages_of([("a", "b"), ("c", "d")])}))
    some = phase("sft", messages=str(talks), max_length=128)
    data = phase_data(some, tokenizer, corpus, [task], 0, None)
    learned = [[x for x in e.labels if x != IGNORED] for e in data.examples]
    texts = {tokenizer.decode(ids) for ids in learned}
    assert texts == {"an organ<|im_end|>", "b<|im_end|>d<|im_end|>"}
    assert (data.documents, data.truncated_documents, data.truncated_bytes) == (6, 0, 0)


# -- units that are only read -------------------------------------------------------------------


def test_prompts_are_read_in_units_and_completions_written_in_base_pieces(tiny_base, adapted):
    base = load_tokenizer(tiny_base)
    text = clinical(3)["definition"]
    record = Dialogue(adapted, base, 500)({"prompt": text, "completion": text})
    learned = [id_ for id_, flag in zip(record.input_ids, record.flags, strict=True) if flag]
    assert learned == [*base.backend_tokenizer.encode(text).ids, base.eos_token_id]
    prompt = record.input_ids[: -len(learned)]
    assert max(prompt) >= len(base) > max(learned)
    assert base.decode(learned[:-1]) == text
    assert text in adapted.decode(prompt)


@given(st.integers(0, 400), st.integers(0, 9))
def test_the_beginning_of_a_document_is_read_in_units_and_all_learned_in_base_pieces(
    tiny_base, adapted, number, seed
):
    base, text = load_cached(tiny_base), clinical(number)["definition"]
    record = PlainText(adapted, base, seed)(text)
    start = len(start_ids(base))
    assert record.flags == [False] * start + [True] * (len(record.flags) - start)
    assert adapted.decode(record.input_ids[start:]) == text
    units = adapted.backend_tokenizer.encode(text).ids
    pieces = base.backend_tokenizer.encode(text).ids
    ids, labels = record.input_ids[start:], record.labels[start:]
    assert any(ids == units[:i] + pieces[len(pieces) - len(ids) + i :] for i in range(len(ids) + 1))
    # Every label is a base piece: the first of what its token spells.
    left = iter(pieces)
    for id_, label in zip(ids, labels, strict=True):
        inner = len(base.backend_tokenizer.encode(adapted.decode([id_])).ids) - 1
        assert label == next(left)
        if id_ >= len(base):
            assert len([next(left) for _ in range(inner)]) == inner > 0
        else:
            assert label == id_
    assert next(left, None) is None


ODD = st.lists(st.sampled_from(["heart", " ", "日本", "🫀", "é", "\n"])).map("".join)


@given(st.text(max_size=40) | ODD)
def test_first_pieces_begin_where_their_tokens_do(tiny_base, adapted, text):
    tokenizer = load_cached(tiny_base)
    base = tokenizer.backend_tokenizer
    read, written = adapted.backend_tokenizer.encode(text), base.encode(text)
    found = first_pieces(text, read, written)
    # The same text by the same tokenizer is learned as it is.
    assert first_pieces(text, written, written) == written.ids
    left = iter(written.ids)
    assert all(piece in left for piece in found if piece is not None)  # in their order
    for id_, piece in zip(read.ids, found, strict=True):
        assert piece in (None, id_) or id_ >= len(tokenizer)


def test_without_a_second_tokenizer_all_of_a_document_is_learned(adapted):
    record = PlainText(adapted, None, 0)("the heart")
    assert record.flags == [True] * len(record.input_ids)


# -- what does not fit --------------------------------------------------------------------------


@given(
    st.text(alphabet="ab é字.", max_size=60), st.text(alphabet="ab é字.", min_size=1, max_size=60)
)
def test_bytes_that_do_not_fit_are_counted(tiny_base, prompt, completion):
    tokenizer = load_cached(tiny_base)
    record = Dialogue(tokenizer, None, 24)({"prompt": prompt, "completion": completion})
    whole = Dialogue(tokenizer, None, 999)({"prompt": prompt, "completion": completion})
    assert whole.lost == 0
    assert len(record.input_ids) == min(24, len(whole.input_ids))
    size = partial(bytes_of, tokenizer)
    # A character whose tokens are parted counts for its first, so at most one of each side moves.
    ended = record.input_ids[-1] == tokenizer.eos_token_id  # put there, not part of the text
    text = size(whole.input_ids) - (0 if ended else len(tokenizer.eos_token))
    assert abs(size(record.input_ids) + record.lost - text) <= 4


def bytes_of(tokenizer, ids):
    decoder = {c: b for b, c in byte_characters().items()}
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return sum(len(t) if t.startswith("<|") else sum(c in decoder for c in t) for t in tokens)


def byte_characters():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return dict(enumerate(sorted(alphabet)))


def test_truncation_is_reported(tiny_base, tmp_path, caplog):
    rows = [{"text": "a " * 60, "organ": "x"}, {"text": "a", "organ": "y"}]
    corpus = corpus_of(tmp_path, rows=rows)
    with caplog.at_level("INFO", logger="adapt"):
        data = phase_data(
            phase("classification"), load_tokenizer(tiny_base), corpus, [ORGAN], 0, None
        )
    assert (data.documents, data.truncated_documents) == (6, 3)
    assert 0 < data.truncated_bytes < 3 * 120
    assert "3 of 6 documents (50.0 %) are longer than max_length 32" in caplog.text


# -- labels -------------------------------------------------------------------------------------


def test_labels_are_numbered_in_order_and_weighed_by_how_rare_they_are(tiny_base, tmp_path):
    organs = ["lung", "heart", "heart", "heart"]
    corpus = corpus_of(tmp_path, rows=[{"text": f"t {o}", "organ": o} for o in organs])
    some = phase("classification", class_weights="balanced", max_steps=2)
    data = phase_data(some, load_tokenizer(tiny_base), corpus, [ORGAN], 0, None)
    assert data.classes.names == ("heart", "lung")
    assert not data.classes.several
    assert data.classes.weights == pytest.approx((4 / 6, 2.0))
    batch = data.collate(list(data.examples))
    assert sorted(batch["labels"].tolist()) == [0, 0, 0, 1]
    assert (batch["input_ids"][:, 0] == start_ids(load_tokenizer(tiny_base))[0]).all()


def test_rows_may_have_several_labels_or_none(tiny_base, tmp_path):
    rows = [{"text": str(i), "organ": o} for i, o in enumerate(["a; b", "b", " ", "b;a;b"])]
    some = phase("classification", class_weights="balanced", max_steps=2)
    corpus = corpus_of(tmp_path, rows=rows)
    several = ORGAN.model_copy(update={"label_separator": ";"})
    data = phase_data(some, load_tokenizer(tiny_base), corpus, [several], 0, None)
    assert data.classes.several
    assert data.classes.weights == pytest.approx((1.0, 1 / 3))
    batch = data.collate(list(data.examples))
    assert sorted(batch["labels"].tolist()) == [[0, 0], [0, 1], [1, 1], [1, 1]]


def test_balanced_weights_have_mean_one_over_rows():
    counts = [5, 1, 14]
    weights = balanced(counts, 20, several=False)
    assert sum(w * c for w, c in zip(weights, counts, strict=True)) == pytest.approx(20)


@pytest.mark.parametrize("several", [None, 3])
def test_the_loss_is_that_of_transformers_whatever_the_accumulation(several):
    from adapt.training.filling import Classes

    examples = [Labelled([5] * n, [n % 3]) for n in (2, 3, 4, 7)]
    batch = collate_labelled(examples, 0, several)
    assert batch["attention_mask"].sum(1).tolist() == [2, 3, 4, 7]
    logits = torch.randn(4, 3)
    loss = loss_function(Classes(("a", "b", "c"), several is not None, None))
    name = "binary_cross_entropy_with_logits" if several else "cross_entropy"
    expected = getattr(torch.nn.functional, name)(logits, batch["labels"])
    torch.testing.assert_close(loss({"logits": logits}, batch["labels"]), expected)
    items = batch["labels"].numel()
    halves = [
        loss({"logits": logits[part]}, batch["labels"][part], num_items_in_batch=items)
        for part in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(halves), expected)


@pytest.mark.parametrize(
    ("given_phase", "tasks", "what"),
    [
        (phase("classification"), [], "needs one task of kind classification"),
        (phase("sft"), [], "no rows to train on"),
        (phase("sft", tasks=["orgn"]), [ORGAN], "did you mean organ"),
    ],
)
def test_tasks_that_are_not_there_are_refused(given_phase, tasks, what):
    with pytest.raises(RecipeError, match=f"training.phases: p: .*{what}"):
        check_tasks(given_phase, tasks)


@pytest.mark.parametrize(
    "keys",
    [
        {"objective": "clm", "class_weights": "balanced"},
        {"objective": "mlm", "messages": "x.jsonl"},
        {"objective": "classification", "tasks": ["a", "b"]},
        {"objective": "clm", "early_stopping_patience": 2},
        {"objective": "clm", "load_best_model_at_end": True},
    ],
)
def test_keys_that_do_not_belong_are_refused(keys):
    with pytest.raises(ValueError, match="goes with|one task|need eval_steps"):
        Phase(name="p", max_steps=1, **keys)


@pytest.mark.parametrize("several", [False, True])
def test_rows_whose_label_has_no_class_are_said(several, wordpiece, tmp_path, caplog):
    caplog.set_level("INFO", "adapt")
    rows = [{"text": "the heart", "organ": "heart"}, {"text": "of renal", "organ": "renal"}]
    strange = [{"text": "is chronic", "organ": name} for name in ("liver", "spleen", "liver")]
    corpus = corpus_of(tmp_path, rows=rows, checked=[rows[0], *strange])
    task = ORGAN.model_copy(update={"label_separator": ";" if several else None})
    some = phase("classification")
    data = phase_data(some, wordpiece, corpus, [task], 0, None, split="validation")
    assert data.documents == (4 if several else 1)
    end = "which is left out" if several else "and are left out"
    said = f"p (validation): 3 of 4 rows have a label that no training row has, {end}: liver, spl"
    assert said in caplog.text
    caplog.clear()
    corpus_of(tmp_path, rows=rows, checked=rows)
    phase_data(some, wordpiece, corpus, [task], 0, None, split="validation")
    assert "no training row" not in caplog.text


@pytest.mark.parametrize("length", [400, 4000])
def test_a_long_document_does_not_make_a_phase_of_hidden_words_longer(length, wordpiece, tmp_path):
    texts = ["the heart", " ".join(random.Random(0).choices(WORDS, k=length))]
    corpus = corpus_of(tmp_path, texts)
    some = phase("mlm", max_steps=30, per_device_train_batch_size=4)
    for seed in range(3):
        found = len(phase_data(some, wordpiece, corpus, [], seed, None).examples)
        assert 0.8 * 120 <= found <= 120


# -- without packing ----------------------------------------------------------------------------


def test_without_packing_a_row_is_a_document_and_steps_are_of_like_length(tiny_base, tmp_path):
    tokenizer = load_tokenizer(tiny_base)
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(64)]
    corpus = corpus_of(tmp_path, texts)
    changes = {"max_steps": 16, "per_device_train_batch_size": 4, "max_length": 128}
    loose = phase_data(phase("clm", packing=False, **changes), tokenizer, corpus, [], 0, None)
    packed = phase_data(phase("clm", **changes), tokenizer, corpus, [], 0, loose.documents)
    assert (loose.documents, len(loose.examples)) == (64, 64)
    assert len(packed.examples) < 20
    learned = [
        sorted(x for e in d.examples for x in e.labels if x != IGNORED) for d in (loose, packed)
    ]
    assert learned[0] == learned[1]
    batches = [loose.collate([loose.examples[i + j] for j in range(4)]) for i in range(0, 64, 4)]
    filled = sum(int((b["attention_mask"] == 0).sum()) for b in batches)
    assert filled < 0.1 * sum(b["attention_mask"].numel() for b in batches)


# -- models learn -------------------------------------------------------------------------------


def fit(model, data, steps, batch=8, rate=5e-3):
    """Plain training on the examples in order; the mean loss of the last five steps."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    loss_of = loss_function(data.classes)
    examples = [data.examples[i] for i in range(len(data.examples))]
    loader = DataLoader(examples, batch, collate_fn=data.collate)
    losses = []
    for one in loader:
        inputs = dict(one)
        labels = inputs.pop("labels") if loss_of else None
        output = model(**inputs)
        loss = loss_of(output, labels) if loss_of else output.loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert len(losses) == steps
    return sum(losses[-5:]) / 5


LABELLED = [
    {"text": f"{('the', 'of', 'is', 'a')[i % 4]} {organ}", "organ": organ}
    for i in range(8)
    for organ in ("heart", "renal", "chronic")
]


def with_lora(model):
    config = LoraConfig(
        r=4, lora_alpha=16, target_modules="all-linear", modules_to_save=model.new_modules
    )
    return get_peft_model(model, config)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_encoder_learns_hidden_words_and_then_labels_on_the_same_body(
    encoder, wordpiece, tmp_path, method
):
    torch.manual_seed(0)
    texts = [" ".join([word] * 6) for word in ("the", "of", "is", "a")]
    corpus = corpus_of(tmp_path, texts, rows=LABELLED)
    steps, size = 60, {"per_device_train_batch_size": 8}
    wrap = with_lora if method == "lora" else (lambda model: model)
    first = phase_data(phase("mlm", max_steps=steps, **size), wordpiece, corpus, [], 0, None)
    model = wrap(load_with_head(encoder, head("mlm"), torch.float32))
    assert fit(model, first, steps, rate=2e-3) < 2.0  # of ln(65) = 4.2 at first

    some = phase("classification", max_steps=60, **size)
    second = phase_data(some, wordpiece, corpus, [ORGAN], 0, None)
    wanted = head("classification", second.classes, wordpiece.pad_token_id)
    classifier = wrap(load_with_head(encoder, wanted, torch.float32))
    hand_over(model, classifier)
    probe = {"input_ids": torch.tensor([[2, 9, 11, 3]]), "output_hidden_states": True}
    with torch.inference_mode():
        states = [m.eval()(**probe).hidden_states[-1] for m in (model, classifier)]
    assert torch.equal(*states)
    assert fit(classifier, second, 60, rate=2e-3) < 0.5  # of ln(3) = 1.1
    assert classifier.config.id2label == {0: "chronic", 1: "heart", 2: "renal"}


@pytest.mark.parametrize("separator", [None, "+"])
def test_a_decoder_learns_labels(tiny_base, tmp_path, separator):
    torch.manual_seed(0)
    tokenizer = load_tokenizer(tiny_base)
    some = phase(
        "classification",
        max_steps=50,
        per_device_train_batch_size=8,
        class_weights="balanced",
    )
    task = ORGAN.model_copy(update={"label_separator": separator})
    data = phase_data(some, tokenizer, corpus_of(tmp_path, rows=LABELLED), [task], 0, None)
    wanted = head("classification", data.classes, tokenizer.pad_token_id)
    model = load_with_head(tiny_base, wanted, torch.float32)
    assert model.new_modules == ["score"]
    assert fit(model, data, 50, rate=1e-2) < 0.3  # of 1.1, or 0.7 with several


def test_a_head_that_an_architecture_has_not_is_refused(tiny_base):
    with pytest.raises(ModelError, match="cannot be loaded with AutoModelForMaskedLM"):
        load_with_head(tiny_base, head("mlm"), torch.float32)


# -- stopping -----------------------------------------------------------------------------------


def trained(some, tiny_base, corpus, tmp_path):
    return train(
        TrainingSection(lora=LoraSection(r=2), phases=[some]),
        corpus,
        [],
        model_folder=tiny_base,
        tokenizer=load_tokenizer(tiny_base),
        tokenizer_folder=tiny_base,
        new_ids=[],
        base=Base(tiny_base, str(tiny_base), str(tiny_base)),
        dtype="float32",
        trust_remote_code=False,
        seed=0,
        checkpoints=tmp_path / "checkpoints",
        folder=tmp_path / "adapter",
        tokenized=tmp_path / "tokenized",
    )


def test_a_phase_ends_when_validation_gets_no_better_and_counts_what_it_saw(tiny_base, tmp_path):
    texts = [general(seed) for seed in range(30)]
    corpus = corpus_of(tmp_path, texts, validation=["zzz qqq xxx", "0 1 2 3"])
    some = phase(
        "clm",
        max_steps=30,
        learning_rate=0.3,  # every step makes other text less likely
        eval_steps=1,
        early_stopping_patience=2,
        load_best_model_at_end=True,
        save_steps=1,
        logging_steps=1,
    )
    result = trained(some, tiny_base, corpus, tmp_path).phases[0]
    assert result.steps < 30
    losses = dict(result.validation_losses)
    assert len(losses) == result.steps
    assert min(losses, key=losses.get) == result.steps - 2
    whole = phase_data(some, load_tokenizer(tiny_base), corpus, [], 0, None)
    assert (result.documents, result.bytes_) == whole.examples.seen(2 * result.steps)[:2]
    assert result.documents < whole.documents
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_nothing_to_validate_on_is_said(tiny_base, tmp_path):
    corpus = corpus_of(tmp_path, ["some text here"])
    some = phase("clm", eval_steps=1)
    with pytest.raises(AdaptError, match="nothing on the validation side"):
        phase_data(some, load_tokenizer(tiny_base), corpus, [], 0, None, split="validation")


def test_phases_with_other_heads_share_a_body(encoder, wordpiece, tmp_path):
    corpus = corpus_of(tmp_path, ["the heart is"] * 3, rows=LABELLED)
    wordpiece.save_pretrained(str(tmp_path / "tokenizer"))
    size = {"max_steps": 3, "learning_rate": 1e-2, "save_steps": 1, "max_length": 32}
    phases = [
        Phase(name="words", objective="mlm", **size),
        Phase(name="labels", objective="classification", **size),
    ]
    result = train(
        TrainingSection(lora=LoraSection(r=2), phases=phases),
        corpus,
        [ORGAN],
        model_folder=encoder,
        tokenizer=wordpiece,
        tokenizer_folder=tmp_path / "tokenizer",
        new_ids=[7, 8],
        base=Base(encoder, str(encoder), str(encoder)),
        dtype="float32",
        trust_remote_code=False,
        seed=0,
        checkpoints=tmp_path / "checkpoints",
        folder=tmp_path / "adapter",
    )
    assert [phase.steps for phase in result.phases] == [3, 3]
    weights = load_file(str(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert any("classifier" in name for name in weights)
    loaded = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(str(encoder), num_labels=3),
        str(tmp_path / "adapter"),
    )
    trained = {n: p for n, p in loaded.named_parameters() if "lora_B" in n}
    assert trained
    assert sum(bool(p.abs().sum() > 0) for p in trained.values()) > 0.9 * len(trained)
