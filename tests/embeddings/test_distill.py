"""Only new rows train; they come nearer to what the base does, and what is not met stays."""

import json
from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from adapt.embeddings.build import Lesson, learn_rows, make_adapted_base
from adapt.embeddings.distill import Distillation
from adapt.embeddings.frozen import Frozen
from adapt.embeddings.result import AdaptedBase
from adapt.embeddings.snippets import NOWHERE, aligned, snippets
from adapt.embeddings.surgery import write_adapted_base
from adapt.errors import ModelError
from adapt.recipe.vocabulary import DistillSection, EmbeddingsSection, TokenizerSection
from adapt.vocab import Material, adapt_vocabulary, load_tokenizer
from adapt.workspace import digest, new_folder
from tests.conftest import clinical, general

TEXTS = [clinical(seed)["definition"] for seed in range(120)]
SHORT = Distillation(
    steps=30, seconds=60, learning_rate=1e-2, snippet_tokens=3_000, tokens_per_step=256
)
START = (0,)  # <|endoftext|>


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Operations this small take longer in two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vocabulary(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary") / "tokenizer"
    section = TokenizerSection(new_tokens=30)
    return adapt_vocabulary(
        section, load_tokenizer(tiny_base), Material(texts=lambda: TEXTS), folder
    )


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
MODELS = {
    "llama tied": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=400, intermediate_size=48, tie_word_embeddings=True, **SIZES)
    ),
    "llama untied": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=400, intermediate_size=48, tie_word_embeddings=False, **SIZES)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=3, n_head=2)),
    "phi with bias": lambda: PhiForCausalLM(
        PhiConfig(vocab_size=400, intermediate_size=48, **SIZES)
    ),
    "gemma capped, padded": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=416, intermediate_size=48, num_key_value_heads=1, head_dim=16, **SIZES
        )
    ),
}


@pytest.fixture(scope="module")
def bases(tiny_base, tmp_path_factory):
    """Folders of small models with the tiny base's tokenizer, made when asked for."""
    made = {}

    def base(name):
        if name not in made:
            folder = made[name] = tmp_path_factory.mktemp("base")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = MODELS[name]()
                for parameter in model.parameters():
                    if parameter.dim() == 2:
                        parameter.data.mul_(5)  # nearly linear as it is made
            model.save_pretrained(str(folder))
            load_tokenizer(tiny_base).save_pretrained(str(folder))
        return made[name]

    return base


@dataclass
class Made:
    base: object
    plain: object
    adapted: object
    result: AdaptedBase
    learned: object


@pytest.fixture(scope="module")
def distilled(bases, vocabulary, tmp_path_factory):
    """The adapted base before and after, and what learning says of itself; made once each."""
    made = {}

    def run(name, texts=TEXTS, untie=False, again=0, **options):
        key = (name, len(texts), untie, again, tuple(sorted(options.items())))
        if key not in made:
            folder, base = tmp_path_factory.mktemp("run"), bases(name)
            results = []
            for place in ("plain", "adapted"):
                with new_folder(folder / place) as unfinished:
                    result = write_adapted_base(
                        base, vocabulary.folder, vocabulary.delta, "mean", unfinished, untie=untie
                    )
                results.append(replace(result, folder=folder / place))
            learned = learn_rows(
                Frozen.load(base, torch.float32),
                base,
                vocabulary,
                results[1],
                Lesson(lambda: texts, START),
                replace(SHORT, **options),
            )
            made[key] = Made(base, folder / "plain", folder / "adapted", results[1], learned)
        return made[key]

    return run


def tensors(folder):
    return {k: v for p in folder.glob("*.safetensors") for k, v in load_file(str(p)).items()}


def loaded(folder):
    model, info = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype="auto", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_rows_come_nearer_and_nothing_else_changes(name, distilled, vocabulary):
    run = distilled(name)
    losses = (run.learned.hidden_loss, run.learned.next_token_loss)
    fell = [after / before for before, after in losses]
    assert sum(fell) < 2 if run.result.tied else max(fell) < 1
    before, after = tensors(run.plain), tensors(run.adapted)
    assert before.keys() == after.keys()
    new = sorted(set(vocabulary.delta.added_ids) - set(run.learned.untouched))
    assert len(new) > 5
    learned = {t.name for t in run.result.tensors if t.role in ("input", "output")}
    for tensor, old in before.items():
        now = after[tensor]
        if tensor in learned:
            assert (now[new] != old[new]).any(1).all()
            now[new] = old[new]
        assert torch.equal(now, old), tensor
    loaded(run.adapted)


@pytest.mark.parametrize("name", ["llama tied", "llama untied", "gemma capped, padded"])
def test_text_without_new_tokens_has_the_logits_it_had(name, distilled, vocabulary):
    run = distilled(name)
    ids = torch.randint(0, vocabulary.delta.base_size, (2, 12))
    with torch.inference_mode():
        before, after = (loaded(f)(ids).logits for f in (run.base, run.adapted))
    columns = vocabulary.delta.base_size
    torch.testing.assert_close(after[..., :columns], before[..., :columns])


def test_only_new_rows_get_a_gradient(distilled, bases, vocabulary):
    frozen = Frozen.load(bases("llama tied"), torch.float32)
    assert not any(parameter.requires_grad for parameter in frozen.model.parameters())
    rows = frozen.inputs.detach().clone().requires_grad_()
    for layer in (1, 2, 3):
        frozen.states(torch.tensor([[5, 6, 7]]), rows, layer).sum().backward()
    assert all(parameter.grad is None for parameter in frozen.model.parameters())
    assert rows.grad is not None


@pytest.mark.parametrize("name", sorted(MODELS))
def test_states_are_those_of_the_model_itself(name, bases):
    frozen, ids = Frozen.load(bases(name), torch.float32), torch.randint(0, 400, (2, 9))
    with torch.inference_mode():
        whole = frozen.model(ids, output_hidden_states=True)
        half = frozen.states(ids, frozen.inputs, 2)
        torch.testing.assert_close(half, whole.hidden_states[2])
        both = frozen.both_states(ids, 2)
        torch.testing.assert_close(both[0], half)
        logits = frozen.logits(both[1].flatten(0, 1), frozen.outputs, frozen.bias)
        torch.testing.assert_close(logits, whole.logits.flatten(0, 1).float())
        picked = frozen.logits_of(both[1].flatten(0, 1), ids.flatten())
        torch.testing.assert_close(picked, logits.gather(1, ids.flatten()[:, None])[:, 0])


def test_steps_and_seconds_are_budgets(distilled):
    assert distilled("llama tied", steps=3).learned.steps == 3
    assert distilled("llama tied", steps=10_000, seconds=0.0).learned.steps <= 1


def test_the_seed_decides(distilled):
    one, same = (tensors(distilled("llama tied", again=i, steps=5).adapted) for i in (1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)


def test_units_that_no_snippet_holds_stay_and_are_listed(distilled, vocabulary):
    run = distilled("llama tied", texts=TEXTS[:4], steps=5)
    untouched = list(run.learned.untouched)
    assert untouched
    others = sorted(set(vocabulary.delta.added_ids) - set(untouched))
    before, after = (tensors(f)["model.embed_tokens.weight"] for f in (run.plain, run.adapted))
    assert torch.equal(before[untouched], after[untouched])
    assert (before[others] != after[others]).any(1).all()


def test_no_text_at_all_leaves_every_row(distilled, vocabulary):
    run = distilled("llama tied", texts=[])
    assert list(run.learned.untouched) == vocabulary.delta.added_ids
    assert run.learned.steps == 0
    assert digest(run.plain) == digest(run.adapted)


UNITS_ALONE = "each document is one unit"


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (TEXTS[:1], {}),
        (TEXTS, {"snippet_tokens": 1}),
        (TEXTS * 3, {"seconds": 1e-6, "tokens_per_step": 8, "held_out": 0.9}),
        (UNITS_ALONE, {}),
    ],
    ids=["one snippet", "one token", "no time", "units alone"],
)
def test_too_little_to_learn_from_leaves_every_row(texts, options, bases, vocabulary, tmp_path):
    start = START
    if texts is UNITS_ALONE:
        texts, start = [token.text for token in vocabulary.delta.added] * 3, ()
    with new_folder(tmp_path / "adapted") as unfinished:
        result = write_adapted_base(
            bases("llama tied"), vocabulary.folder, vocabulary.delta, "mean", unfinished
        )
    result = replace(result, folder=tmp_path / "adapted")
    before = digest(result.folder)
    learned = learn_rows(
        Frozen.load(bases("llama tied"), torch.float32),
        bases("llama tied"),
        vocabulary,
        result,
        Lesson(lambda: texts, start),
        replace(SHORT, **options),
    )
    assert learned.steps == 0
    assert list(learned.untouched) == vocabulary.delta.added_ids
    assert learned.sentence.startswith("no new row was distilled")
    assert digest(result.folder) == before


def test_what_is_learned_after_the_last_look_is_kept(distilled, bases, vocabulary, monkeypatch):
    """Time that ends before there was any look at the snippets held out."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("adapt.embeddings.distill.time.perf_counter", lambda: float(next(ticks)))
    run = distilled("llama tied", steps=10_000, seconds=60.0, again=3)
    assert 1 < run.learned.steps < 1_000
    before, after = run.learned.hidden_loss
    assert after < before


# -- untied ------------------------------------------------------------------------------------


def test_untying_gives_an_output_matrix_of_its_own(distilled, vocabulary):
    run = distilled("llama tied", untie=True)
    model = loaded(run.adapted)
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert inputs is not outputs
    assert not model.config.tie_word_embeddings
    size, added = vocabulary.delta.base_size, vocabulary.delta.added_ids
    new = sorted(set(added) - set(run.learned.untouched))
    assert torch.equal(inputs[:size], outputs[:size])
    assert torch.equal(inputs[:size], tensors(run.base)["model.embed_tokens.weight"])
    assert (inputs[new] != outputs[new]).any(1).all()
    assert not run.result.tied
    assert run.result.parameters_added == inputs.numel() + len(added) * inputs.shape[1]


@pytest.mark.parametrize("stored_twice", [False, True])
@pytest.mark.parametrize("shards", ["8KB", "1GB"])
def test_an_untied_checkpoint_computes_what_the_tied_one_did(
    shards, stored_twice, tiny_base, tmp_path, vocabulary
):
    from safetensors.torch import save_file

    base = tmp_path / "base"
    model = LlamaForCausalLM.from_pretrained(str(tiny_base))
    model.save_pretrained(str(base), max_shard_size=shards)
    if stored_twice and shards == "1GB":
        stored = tensors(base)
        stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
        save_file(stored, str(base / "model.safetensors"), metadata={"format": "pt"})
    for untie in (False, True):
        with new_folder(tmp_path / str(untie)) as unfinished:
            write_adapted_base(
                base, vocabulary.folder, vocabulary.delta, "last", unfinished, untie=untie
            )
    ids = torch.randint(0, vocabulary.delta.size, (2, 9))
    tied, untied = (loaded(tmp_path / str(untie)) for untie in (False, True))
    with torch.inference_mode():
        assert torch.equal(tied(ids).logits, untied(ids).logits)
    assert tied.config.tie_word_embeddings
    index = tmp_path / "True" / "model.safetensors.index.json"
    if index.is_file():
        stored = tensors(tmp_path / "True")
        record = json.loads(index.read_text())
        assert record["weight_map"].keys() == stored.keys()
        assert record["metadata"]["total_size"] == sum(t.nbytes for t in stored.values())


def test_untying_what_is_untied_changes_nothing(bases, vocabulary, tmp_path):
    for untie in (False, True):
        with new_folder(tmp_path / str(untie)) as unfinished:
            write_adapted_base(
                bases("llama untied"),
                vocabulary.folder,
                vocabulary.delta,
                "mean",
                unfinished,
                untie=untie,
            )
    assert digest(tmp_path / "False") == digest(tmp_path / "True")


# -- the stage ---------------------------------------------------------------------------------


SECTION = EmbeddingsSection(
    init="distill",
    distill=DistillSection(steps=3, snippet_tokens=3_000, tokens_per_step=256, learning_rate=1e-2),
)


def test_the_stage_learns_rows_and_says_so(tiny_base, vocabulary, tmp_path):
    lesson = Lesson(lambda: TEXTS, START)
    result = make_adapted_base(SECTION, tiny_base, vocabulary, tmp_path / "out", lesson=lesson)
    assert (result.init, result.distilled.steps) == ("distill", 3)
    assert {tensor.init for tensor in result.tensors} == {"distill"}
    record = json.loads(json.dumps(result.to_json()))
    assert AdaptedBase.from_json(result.folder, record) == result


def test_an_encoder_is_refused(tiny_base, vocabulary, tmp_path):
    base = tmp_path / "bert"
    config = BertConfig(vocab_size=400, intermediate_size=32, **SIZES)
    BertForMaskedLM(config).save_pretrained(str(base))
    with pytest.raises(ModelError, match="causal language model"):
        make_adapted_base(
            SECTION, base, vocabulary, tmp_path / "out", lesson=Lesson(lambda: TEXTS, START)
        )
    assert not (tmp_path / "out").exists()


# -- snippets ----------------------------------------------------------------------------------


def chosen(tiny_base, vocabulary, texts, **options):
    return picked(tiny_base, vocabulary, texts, **options).snippets


def picked(tiny_base, vocabulary, texts, **options):
    return snippets(
        lambda: texts,
        load_tokenizer(tiny_base),
        load_tokenizer(vocabulary.folder),
        vocabulary.delta.added_ids,
        start=(START, START),
        **{"max_length": 256, "tokens": 10**6, "seed": 0, **options},
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=30), st.sampled_from([*TEXTS[:20], *[general(i) for i in range(5)]])
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(4, 40),
)
def test_every_place_of_the_student_ends_where_one_of_the_teacher_does(
    tiny_base, vocabulary, parts, length
):
    text = " ".join(parts)
    base, new = (
        load_tokenizer(f).backend_tokenizer.encode(text, add_special_tokens=False)
        for f in (tiny_base, vocabulary.folder)
    )
    ends = aligned(base.offsets, new.offsets)
    assert NOWHERE not in ends or not text.isascii()
    assert all(base.offsets[e][1] == new.offsets[i][1] for i, e in enumerate(ends) if e >= 0)
    known = [e for e in ends if e != NOWHERE]
    assert known == sorted(set(known))
    of = {token.id: token.constituents for token in vocabulary.delta.added}
    total = 0
    for snippet in chosen(tiny_base, vocabulary, [text], max_length=length):
        assert snippet.ids[snippet.first] in of
        assert not set(snippet.ids[: snippet.first]) & of.keys()
        total += len(snippet.ids) - 1
        if NOWHERE in snippet.ends:
            continue
        steps = zip(snippet.ends, snippet.ends[1:], snippet.ids[1:], strict=False)
        for before, after, id_ in steps:
            held = snippet.base_ids[before + 1 : after + 1]
            assert held == of.get(id_, (id_,))
    assert total <= len(new.ids)


def test_every_unit_is_met_before_any_is_met_often(tiny_base, vocabulary):
    everything = chosen(tiny_base, vocabulary, TEXTS)
    new = set(vocabulary.delta.added_ids)
    all_met = {id_ for s in everything for id_ in s.ids} & new
    few = chosen(tiny_base, vocabulary, TEXTS, tokens=1_500)
    assert len(few) < len(everything) / 2
    assert {id_ for s in few for id_ in s.ids} & new == all_met
    assert few == everything[: len(few)]


def test_tokens_that_share_a_character_are_told_apart_or_left_out():
    base = [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert aligned(base, [(0, 1), (1, 2), (1, 2), (2, 3)]) == [0, NOWHERE, 3, 4]
    assert aligned(base, base) == [0, 1, 2, 3, 4]
    assert aligned(base, [(0, 2), (2, 3)]) == [3, 4]
    assert aligned([(0, 2)], [(0, 1), (1, 2)]) == [NOWHERE, 0]


def test_tokens_may_have_moved_or_gone(bases, tiny_base, tmp_path):
    """Mode `replace`: new tokens take the ids of tokens that are no longer there."""
    material = Material(texts=lambda: TEXTS, general=lambda: [general(i) for i in range(30)])
    section = TokenizerSection(mode="replace", new_tokens=25)
    made = adapt_vocabulary(section, load_tokenizer(tiny_base), material, tmp_path / "tokenizer")
    assert made.delta.removed
    base = bases("phi with bias")
    with new_folder(tmp_path / "adapted") as unfinished:
        result = write_adapted_base(base, made.folder, made.delta, "mean", unfinished)
    result = replace(result, folder=tmp_path / "adapted")
    before = tensors(result.folder)
    learned = learn_rows(
        Frozen.load(base, torch.float32), base, made, result, Lesson(lambda: TEXTS, START), SHORT
    )
    assert learned.hidden_loss[1] < learned.hidden_loss[0]
    assert learned.next_token_loss[1] < learned.next_token_loss[0]
    base_ids, new_ids = made.delta.kept_ids
    old, now = tensors(base), tensors(result.folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(now[name][new_ids], old[name][base_ids])
    assert torch.equal(now["lm_head.bias"], before["lm_head.bias"])


def test_general_text_is_spread_among_the_snippets(tiny_base, vocabulary):
    plain = [general(seed) for seed in range(40)]
    mixed = picked(
        tiny_base, vocabulary, TEXTS, tokens=4_000, general=lambda: plain, general_share=0.25
    ).snippets
    units = set(vocabulary.delta.added_ids)
    tokenizer = load_tokenizer(tiny_base)
    of_general = {(*START, *tokenizer(text)["input_ids"]) for text in plain}
    kinds = [s.base_ids in of_general for s in mixed]
    size = {
        kind: sum(len(s.base_ids) for s, k in zip(mixed, kinds, strict=True) if k == kind)
        for kind in (True, False)
    }
    assert 700 < size[True] <= 1_000
    assert 3_000 <= size[False] < 3_300
    half = len(kinds) // 2
    assert abs(sum(kinds[:half]) - sum(kinds[half:])) <= 2
    for snippet in mixed:
        assert snippet.first == next(
            (i for i, id_ in enumerate(snippet.ids) if id_ in units), len(snippet.ids)
        )


def test_the_share_of_a_unit_is_told(tiny_base, vocabulary):
    everything = picked(tiny_base, vocabulary, TEXTS)
    assert set(everything.share.values()) == {1.0}
    few = picked(tiny_base, vocabulary, TEXTS, tokens=1_500)
    assert few.share.keys() == everything.share.keys()
    counts = Counter(id_ for s in everything.snippets for id_ in s.ids)
    rare = min(few.share, key=lambda id_: counts[id_])
    frequent = max(few.share, key=lambda id_: counts[id_])
    assert few.share[rare] > few.share[frequent] * 1.5


@pytest.mark.parametrize("name", ["llama tied", "llama untied"])
def test_units_that_are_only_read_learn_from_states_alone(name, distilled, vocabulary):
    run = distilled(name, next_token_weight=0.0)
    before, after = run.learned.hidden_loss
    assert after < 0.9 * before
    if name == "llama untied":
        kept, now = (tensors(folder)["lm_head.weight"] for folder in (run.plain, run.adapted))
        assert torch.equal(kept, now)
