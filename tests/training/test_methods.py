"""Every method on a tiny decoder: it learns, leaves the rest alone, and loads without adapt."""

import json
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from adapt.bases import Base
from adapt.check import check
from adapt.errors import AdaptError, DependencyError, ModelError, TrainingError
from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from adapt.recipe.training import TrainingSection
from adapt.training.methods import METHODS, prepare
from adapt.training.model import (
    ON_ROWS,
    Loading,
    load_for_training,
    load_merged,
    training_dtype,
)
from adapt.training.requirements import check_section
from adapt.training.rows import BESIDE, WHOLE, plan
from adapt.training.saving import load_state, save_state, save_trained

NEW = 10
PHASE = {"name": "one", "objective": "clm", "max_steps": 1}
LEARNED = 1.7  # nats a token; it is 6 at first, and 2.3 where any of the ten is as likely


@pytest.fixture(scope="session")
def pairs(tiny_base, tmp_path_factory):
    """Folders of the original and of the adapted base, by whether the output layer is tied."""
    root = tmp_path_factory.mktemp("methods")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.add_tokens([f"unit{i}x" for i in range(NEW)])
    made = {}
    for tied in (True, False):
        original, adapted = root / f"original-{tied}", root / f"adapted-{tied}"
        shutil.copytree(tiny_base, original)
        if not tied:
            config = LlamaConfig.from_pretrained(tiny_base, tie_word_embeddings=False)
            torch.manual_seed(1)
            LlamaForCausalLM(config).save_pretrained(original)
        model = AutoModelForCausalLM.from_pretrained(original)
        rows = model.config.vocab_size
        model.resize_token_embeddings(rows + NEW, mean_resizing=False)
        model.save_pretrained(adapted)
        tokenizer.save_pretrained(adapted)
        made[tied] = original, adapted, tuple(range(rows, rows + NEW))
    return made


def section(method, **options):
    return TrainingSection(method=method, phases=[PHASE], **options)


def prepared(pairs, settings, *, tied=True, dtype="float32", **loading):
    _, adapted, ids = pairs[tied]
    torch.manual_seed(0)
    type_ = training_dtype(settings.method, dtype)
    model = load_for_training(adapted, type_, Loading(**loading), settings.quantised)
    model.config.use_cache = False
    rows = plan(model, settings.method, ids, quantised=settings.quantised is not None)
    return prepare(model, settings, rows), ids


def batch(ids):
    """Sequences that go round the new tokens, each from another one."""
    rows = [[ids[(start + i) % NEW] for i in range(9)] for start in range(NEW)]
    return torch.tensor(rows)


def learn(model, ids, steps=60, rate=2e-2):
    """The last loss."""
    texts = batch(ids)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=texts, attention_mask=torch.ones_like(texts), labels=texts).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return float(loss.detach())


def saved(model, pairs, folder, tied=True):
    original, adapted, _ = pairs[tied]
    folder.mkdir()
    save_trained(model, adapted, Base(original, str(original), str(original)), folder, adapted)
    return folder


def plain(folder):
    """The model as someone without adapt loads it."""
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    if (folder / ON_ROWS).is_dir():
        model = PeftModel.from_pretrained(model.merge_and_unload(), folder / ON_ROWS)
    return model.eval()


@torch.inference_mode()
def logits(model, ids):
    texts = batch(ids)
    return model(input_ids=texts, attention_mask=torch.ones_like(texts)).logits.float()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"qlora"}))
def test_method(method, tied, pairs, tmp_path):
    model, ids = prepared(pairs, section(method), tied=tied)
    first = {n: p.detach().clone() for n, p in model.named_parameters()}
    frozen = {n: first[n] for n, p in model.named_parameters() if not p.requires_grad}
    assert bool(frozen) == (method != "full")
    assert learn(model, ids, rate=3e-3 if method in WHOLE else 2e-2) < LEARNED
    now = dict(model.named_parameters())
    assert {n for n in first if torch.equal(now[n], first[n])} == set(frozen)

    folder = saved(model, pairs, tmp_path / "trained", tied)
    expected = logits(model, ids)
    torch.testing.assert_close(logits(plain(folder), ids), expected)
    merged = load_merged(pairs[tied][1], folder, torch.float32)
    held_by_prefix = expected[:, -9:]  # logits of virtual tokens are left out
    torch.testing.assert_close(logits(merged, ids), held_by_prefix, rtol=1e-4, atol=1e-4)
    assert (method in WHOLE) == (not (folder / "adapter_config.json").is_file())
    assert (folder / ON_ROWS).is_dir() == (method in BESIDE)
    assert (folder / "tokenizer.json").is_file()


@pytest.mark.parametrize("method", ["edges", "lora", "ia3", "prefix", "p_tuning", "prompt", "rows"])
def test_what_trains_is_float32_on_a_bfloat16_base(method, pairs, tmp_path):
    model, ids = prepared(pairs, section(method), dtype="bfloat16")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    before = learn(model, ids, steps=1)
    assert learn(model, ids, steps=15, rate=3e-3 if method in WHOLE else 2e-2) < before
    folder = saved(model, pairs, tmp_path / "trained")
    torch.testing.assert_close(logits(plain(folder), ids), logits(model, ids), rtol=0.1, atol=0.2)


OPTIONS = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "random": {"init_lora_weights": False},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora", "use_rslora": True},
    "pissa of small layers": {"init_lora_weights": "pissa", "r": 48},  # the base has 32 wide ones
    "olora of small layers": {"init_lora_weights": "olora", "r": 48},
    "layers": {"layers_to_transform": [1]},
    "names": {"target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_lora_option(name, pairs, tmp_path):
    model, ids = prepared(pairs, section("lora", lora={"r": 4, "lora_alpha": 8, **OPTIONS[name]}))
    # Adapters that begin far from the base swing at the rate that those which begin at it take.
    steps, rate = (80, 5e-3) if name == "random" else (40, 2e-2)
    assert learn(model, ids, steps, rate) < LEARNED
    folder = saved(model, pairs, tmp_path / "trained")
    loaded, expected = plain(folder), logits(model, ids)
    torch.testing.assert_close(logits(loaded, ids), expected, rtol=1e-3, atol=1e-3)
    merged = load_merged(pairs[True][1], folder, torch.float32)
    torch.testing.assert_close(logits(merged, ids), expected, rtol=1e-3, atol=1e-3)
    adapted = [n for n, _ in loaded.named_modules() if n.endswith("lora_A")]
    if name == "layers":
        assert adapted
        assert all("layers.1" in n for n in adapted)
    if name == "names":
        assert {n.split(".")[-2] for n in adapted} == {"q_proj", "down_proj"}


@pytest.mark.parametrize("init", [True, "loftq"])
def test_qlora_trains_and_loads_onto_the_full_precision_base(init, pairs, tmp_path):
    settings = section("qlora", lora={"r": 4, "lora_alpha": 8, "init_lora_weights": init})
    model, ids = prepared(pairs, settings)
    kinds = {type(m).__name__ for m in model.get_base_model().modules()}
    assert "Linear4bit" in kinds
    held = [p.detach().clone() for p in model.parameters() if not p.requires_grad]
    assert learn(model, ids) < LEARNED
    now = [p for p in model.parameters() if not p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(held, now, strict=True))
    folder = saved(model, pairs, tmp_path / "trained")
    loaded = plain(folder)
    texts = batch(ids)
    with torch.inference_mode():
        assert loaded(input_ids=texts, labels=texts).loss < LEARNED
    merged = load_merged(pairs[True][1], folder, torch.float32)
    torch.testing.assert_close(logits(merged, ids), logits(loaded, ids), rtol=1e-4, atol=1e-4)
    assert {p.dtype for p in merged.parameters()} == {torch.float32}


def test_loftq_is_nearer_to_the_base_than_what_four_bits_left(pairs):
    _, adapted, ids = pairs[True]
    exact = logits(AutoModelForCausalLM.from_pretrained(adapted).eval(), ids)
    distance = {}
    for init in (True, "loftq"):
        settings = section("qlora", lora={"r": 16, "init_lora_weights": init})
        model, _ = prepared(pairs, settings)
        # bitsandbytes repacks the weights to infer, which takes wider layers than these
        given = model.train()(input_ids=batch(ids)).logits.detach()
        distance[init] = (given - exact).norm()
    assert distance["loftq"] < 0.7 * distance[True]


def test_eight_bits(pairs):
    model, ids = prepared(pairs, section("qlora", quantization="int8", lora={"r": 2}))
    assert "Linear8bitLt" in {type(m).__name__ for m in model.get_base_model().modules()}
    assert learn(model, ids, rate=5e-3) < LEARNED


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_whole_matrices_beside_lora_where_every_row_is_new(tied, pairs, tmp_path):
    _, adapted, ids = pairs[tied]
    model = load_for_training(adapted, torch.bfloat16, Loading())
    model.config.use_cache = False
    rows = plan(model, "lora", range(model.config.vocab_size))
    assert rows.how == "modules_to_save"
    model = prepare(model, section("lora"), rows)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert learn(model, ids, rate=5e-3) < LEARNED
    folder = tmp_path / "trained"
    folder.mkdir()
    base = Base(adapted, str(adapted), str(adapted))  # as a run names it whose ids have moved
    save_trained(model, adapted, base, folder, adapted)
    merged = load_merged(adapted, folder, torch.bfloat16)
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied
    torch.testing.assert_close(logits(merged, ids), logits(model, ids), rtol=0.1, atol=0.2)


@pytest.mark.parametrize("method", ["full", "lora", "p_tuning", "prefix"])
def test_state_is_taken_up_exactly(method, pairs, tmp_path):
    settings = section(method, prompt={"prefix_projection": True, "num_virtual_tokens": 3})
    model, ids = prepared(pairs, settings)
    learn(model, ids, steps=2)
    save_state(model, tmp_path)
    again, _ = prepared(pairs, settings)
    load_state(again, tmp_path)
    assert torch.equal(logits(again, ids), logits(model, ids))


def test_checkpoint_keeps_the_type_of_the_base(pairs, tmp_path):
    original, adapted, ids = pairs[True]
    narrow = tmp_path / "bfloat16"
    AutoModelForCausalLM.from_pretrained(adapted, dtype=torch.bfloat16).save_pretrained(narrow)
    model = load_for_training(narrow, training_dtype("full", "bfloat16"), Loading())
    assert model.dtype == torch.float32
    model = prepare(model, section("full"), plan(model, "full", ids))
    folder = tmp_path / "trained"
    folder.mkdir()
    save_trained(model, adapted, Base(original, "x", "x"), folder, narrow)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded.config.use_cache


# -- refusals ---------------------------------------------------------------------------------


def test_rows_without_new_rows_are_refused(pairs):
    model = load_for_training(pairs[True][0], torch.float32, Loading())
    with pytest.raises(TrainingError, match="no new rows"):
        prepare(model, section("rows"), plan(model, "rows", []))


def test_unknown_modules_are_refused(pairs):
    for method, options in {
        "lora": {"lora": {"target_modules": ["nothing"]}},
        "ia3": {"ia3": {"target_modules": ["nothing"], "feedforward_modules": []}},
    }.items():
        with pytest.raises(ModelError, match=f"training.{method}.target_modules: .*nothing"):
            prepared(pairs, section(method, **options))


@pytest.mark.parametrize(
    "targets", [["embed_tokens", "q_proj"], ["lm_head"], r".*(lm_head|q_proj)"]
)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_matrices_with_new_rows_take_no_adapter(targets, tied, pairs):
    reason = "is tied to the other" if tied else "has new rows"
    with pytest.raises(ModelError, match=rf"training\.lora\.target_modules: .* {reason}"):
        prepared(pairs, section("lora", lora={"target_modules": targets}), tied=tied)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_an_output_layer_takes_an_adapter_where_it_is_merged_into_that_alone(tied, pairs, tmp_path):
    settings = section("lora", lora={"target_modules": ["lm_head", "q_proj"]})
    original, _, ids = pairs[tied]
    model = load_for_training(original, torch.float32, Loading())
    model.config.use_cache = False
    rows = plan(model, "lora", ())
    if tied:
        with pytest.raises(ModelError, match="lm_head is tied"):
            prepare(model, settings, rows)
        return
    model = prepare(model, settings, rows)
    known = [i - NEW for i in ids]
    learn(model, known, steps=5)
    folder = tmp_path / "trained"
    folder.mkdir()
    save_trained(model, original, Base(original, str(original), "x"), folder, original)
    merged = load_merged(original, folder, torch.float32)
    torch.testing.assert_close(logits(merged, known), logits(model, known), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [[0, 9], [-1], []])
def test_layers_that_there_are_not_are_refused(wrong, pairs):
    with pytest.raises(ModelError, match=r"layers_to_transform: the base has 2 layers"):
        prepared(pairs, section("lora", lora={"layers_to_transform": wrong}))


def test_targets_that_are_no_expression_are_refused(pairs):
    with pytest.raises(ModelError, match=r"target_modules: is no regular expression"):
        prepared(pairs, section("lora", lora={"target_modules": "*q_proj"}))


def test_layers_held_transposed(tmp_path):
    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)

    def made(**lora):
        model = load_for_training(tmp_path, torch.float32, Loading())
        return prepare(model, section("lora", lora=lora), plan(model, "lora", ()))

    adapted = {n for n, _ in made(layers_to_transform=[1]).named_modules() if n.endswith("lora_A")}
    assert len(adapted) == 4  # of attention and of the feed-forward part, two each
    assert all("h.1." in n for n in adapted)
    for targets in ("all-linear", ["c_fc"]):
        with pytest.raises(ModelError, match=r"init_lora_weights: cannot begin from .*transposed"):
            made(init_lora_weights="olora", target_modules=targets)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"method": "lora", "quantization": "nf4"}, "goes with method qlora"),
        ({"method": "qlora", "lora": {"init_lora_weights": "pissa"}}, "needs the weights"),
        ({"method": "qlora", "lora": {"init_lora_weights": "orthogonal"}}, "needs the weights"),
        ({"method": "qlora", "quantization": "int8", "lora": {"use_dora": True}}, "nf4, not int8"),
        (
            {"method": "qlora", "quantization": "int8", "lora": {"init_lora_weights": "olora"}},
            "nf4, not int8",
        ),
        ({"method": "prompt", "neftune_noise_alpha": 5.0}, "neftune_noise_alpha"),
        ({"method": "lora", "lora": {"init_lora_weights": "loftq"}}, "qlora and nf4"),
        (
            {"method": "qlora", "quantization": "int8", "lora": {"init_lora_weights": "loftq"}},
            "nf4",
        ),
        ({"method": "lora", "lora": {"use_dora": True, "init_lora_weights": "pissa"}}, "use_dora"),
        ({"method": "lora", "lora": {"r": 3, "init_lora_weights": "orthogonal"}}, "even r"),
        ({"method": "prefix", "gradient_checkpointing": True}, "gradient_checkpointing"),
        ({"method": "ia3", "ia3": {"target_modules": ["q_proj"]}}, "or neither"),
    ],
)
def test_options_that_contradict_each_other(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        TrainingSection(phases=[PHASE], **wrong)


def test_missing_packages_are_named_before_work(monkeypatch, pairs):
    monkeypatch.setattr("adapt.training.requirements.find_spec", lambda name: None)
    monkeypatch.setattr("adapt.training.model.find_spec", lambda name: None)
    wanted = {
        r"training\.method: needs the package bitsandbytes.*adapt-lm\[quantize\]": {
            "method": "qlora"
        },
        r"training\.optim: needs the package bitsandbytes": {"optim": "paged_adamw_8bit"},
        r"training\.report_to: needs the package wandb": {"report_to": ["wandb"]},
        r"training\.report_to: needs the package trackio": {"report_to": ["trackio"]},
        r"training\.report_to: needs the package tensorboard": {"report_to": ["tensorboard"]},
    }
    for line, options in wanted.items():
        with pytest.raises(DependencyError, match=line):
            check_section(TrainingSection(phases=[PHASE], **options))
    for loading, quantised in ((Loading("flash_attention_2"), None), (Loading(), "nf4")):
        with pytest.raises(AdaptError, match="needs the package"):
            load_for_training(pairs[True][0], torch.float32, loading, quantised)


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(TrainingError, match=r"torch_compile: needs a C\+\+ compiler.*no no-such"):
        check_section(TrainingSection(phases=[PHASE], torch_compile=True))
    check_section(TrainingSection(phases=[PHASE]))


# -- through the stage ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"method": "edges", "optim": "adafactor"},
        {"method": "p_tuning", "prompt": {"num_virtual_tokens": 3}},
        {"method": "lora", "gradient_checkpointing": True, "neftune_noise_alpha": 5.0},
    ],
    ids=lambda options: options["method"],
)
def test_stage(options, tiny_recipe):
    phase = {"name": "domain", "objective": "clm", "max_steps": 2, "max_length": 64}
    written = tiny_recipe(training={**options, "phases": [phase]}, evaluation={"tasks": []})
    pipeline = Pipeline(load_recipe(written))
    trained = pipeline.tuned.adapter()
    assert trained.trainable > 0
    assert trained.adapter_bytes > 1000
    assert trained.phases[0].steps == 2
    assert pipeline.scored.scores("adapted").domain.interval.value > 0


def test_the_check_says_how_new_rows_train(tiny_recipe):
    recipe = load_recipe(tiny_recipe())
    assert check(recipe).new_rows == "token_indices (the new rows alone, in float32)"
    assert check(load_recipe(tiny_recipe(training={"method": "full"}))).new_rows.startswith("all")
    kept = load_recipe(tiny_recipe(tokenizer={"mode": "keep"}))
    assert check(kept).new_rows.startswith("none")
