"""Every method under a head: it learns, keeps the head, leaves the rest alone, loads without adapt.

The head, or a part of it, is drawn anew for each of these bases, and again when it is loaded.
"""

import pytest
import torch
import transformers
from peft import PeftModel
from transformers import BertConfig, LlamaConfig

from adapt.bases import Base
from adapt.errors import ModelError
from adapt.publish.kinds import load_served
from adapt.recipe.training import TrainingSection
from adapt.training.filling import Classes
from adapt.training.heads import head, load_with_head
from adapt.training.methods import METHODS, prepare
from adapt.training.model import AS_IT_IS, ON_ROWS, loading_options
from adapt.training.rows import BESIDE, WHOLE, plan
from adapt.training.saving import save_trained

NEW = (7, 8)
LABELS = head("classification", Classes(("one", "other"), several=False, weights=None), pad=0)
WORDS = head("mlm")
LEARNED = 0.3  # nats; where the two classes are as likely, and before training, it is 0.69
SMALL = {"vocab_size": 60, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS = 2
BASES = ["BertModel", "BertForMaskedLM", "LlamaForCausalLM"]
METHODS_WITH_A_HEAD = sorted(set(METHODS) - {"rows"})


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Checkpoints by class: a body with a pooler, one without it, a decoder."""
    root = tmp_path_factory.mktemp("heads")
    bert = BertConfig(
        **SMALL,
        num_attention_heads=HEADS,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,
    )
    llama = LlamaConfig(**SMALL, num_attention_heads=HEADS, num_key_value_heads=HEADS)
    for name, config in (
        ("BertModel", bert),
        ("BertForMaskedLM", bert),
        ("LlamaForCausalLM", llama),
    ):
        torch.manual_seed(0)
        getattr(transformers, name)(config).save_pretrained(root / name)
    return root


def prepared(folder, settings, wanted=LABELS):
    torch.manual_seed(1)
    options = loading_options(folder, torch.float32, AS_IT_IS, settings.quantised)
    model = load_with_head(folder, wanted, torch.float32, **options)
    model.config.use_cache = False
    quantised = settings.quantised is not None
    return prepare(model, settings, plan(model, settings.method, NEW, quantised=quantised))


def section(method, **options):
    return TrainingSection(
        method=method,
        prompt={"num_virtual_tokens": 4},
        phases=[{"name": "one", "objective": "classification", "max_steps": 1}],
        **options,
    )


def batch():
    """Texts that hold the one or the other of two new tokens, and which."""
    texts = torch.randint(10, 60, (16, 6), generator=torch.Generator().manual_seed(0))
    which = torch.arange(16) % 2
    texts[torch.arange(16), torch.arange(16) % 6] = torch.tensor(NEW)[which]
    return texts, which


def learn(model, rate, steps=40, words=False):
    """The last loss; of hidden words, those of the new tokens are to be read off the text."""
    texts, which = batch()
    labels = torch.where(torch.isin(texts, torch.tensor(NEW)), texts, -100) if words else which
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=texts, attention_mask=torch.ones_like(texts), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return float(loss.detach())


@torch.inference_mode()
def logits(model):
    texts, _ = batch()
    return model(input_ids=texts, attention_mask=torch.ones_like(texts)).logits


def saved(model, base, folder):
    folder.mkdir()
    save_trained(model, base, Base(base, str(base), str(base)), folder, base)
    return folder


def plain(base, folder, wanted=LABELS):
    """The model as someone without adapt loads it."""
    kind = getattr(transformers, wanted.auto_class)
    if not (folder / "adapter_config.json").is_file():
        return kind.from_pretrained(folder).eval()
    model = PeftModel.from_pretrained(kind.from_pretrained(base, **wanted.settings), folder)
    if (folder / ON_ROWS).is_dir():
        model = PeftModel.from_pretrained(model.merge_and_unload(), folder / ON_ROWS)
    return model.eval()


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("method", METHODS_WITH_A_HEAD)
def test_method_under_a_head_made_anew(method, name, bases, tmp_path):
    base = bases / name
    model = prepared(base, section(method))
    first = {n: p.detach().clone() for n, p in model.named_parameters()}
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert bool(frozen) == (method != "full")
    assert learn(model, 1e-3 if method in WHOLE else 1e-2) < LEARNED
    now = dict(model.named_parameters())
    assert {n for n in first if torch.equal(now[n], first[n])} == frozen
    new = ["classifier", "bert.pooler.dense"] if "Masked" in name else ["classifier", "score"]
    heads = [n for n in now if any(one in n for one in new) and "original_module" not in n]
    assert heads
    assert not frozen & set(heads)

    folder = saved(model, base, tmp_path / "trained")
    torch.manual_seed(2)  # what the adapter lacks would be drawn otherwise
    loaded, merged = plain(base, folder), load_served(base, folder, torch.float32)
    torch.testing.assert_close(logits(merged), logits(loaded), rtol=1e-4, atol=1e-4)
    tolerance = 0.3 if method == "qlora" else 1e-4  # trained on weights of 4 bits
    torch.testing.assert_close(logits(merged), logits(model), rtol=tolerance, atol=tolerance)
    assert (folder / ON_ROWS).is_dir() == (method in BESIDE)


def test_new_rows_alone_in_an_encoder(bases, tmp_path):
    base = bases / "BertForMaskedLM"
    model = prepared(base, section("rows"), WORDS)
    first = {n: p.detach().clone() for n, p in model.named_parameters()}
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert learn(model, 3e-2, words=True) < LEARNED
    now = dict(model.named_parameters())
    assert {n for n in first if torch.equal(now[n], first[n])} == frozen
    assert len(now) == len(frozen) + 1
    folder = saved(model, base, tmp_path / "trained")
    for loaded in (plain(base, folder, WORDS), load_served(base, folder, torch.float32)):
        torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "wanted", "said"),
    [
        ("BertModel", LABELS, "classifier"),
        ("LlamaForCausalLM", LABELS, "score"),
        ("BertModel", WORDS, "cls.predictions.transform.dense"),
    ],
)
def test_new_rows_alone_under_a_head_made_anew_are_refused(name, wanted, said, bases):
    with pytest.raises(ModelError, match=rf"training\.method: would leave .*{said}"):
        prepared(bases / name, section("rows"), wanted)


@pytest.mark.parametrize("wanted", [LABELS, WORDS], ids=["labels", "words"])
@pytest.mark.parametrize("bits", ["nf4", "int8"])
@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM"])
def test_only_layers_are_quantised(name, bits, wanted, bases):
    model = prepared(bases / name, section("qlora", quantization=bits), wanted)
    assert learn(model, 1e-2, steps=2, words=wanted is WORDS) < 50
    body = dict(model.get_base_model().named_modules())
    held = {n for n, m in body.items() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")}
    linear = "attention.self.query", "attention.output.dense", "output.dense"
    assert {f"bert.encoder.layer.{i}.{one}" for i in (0, 1) for one in linear} <= {
        n.removesuffix(".base_layer") for n in held
    }
    assert all("encoder.layer" in n for n in held)


def test_loftq_finds_the_weights_of_a_bare_body(bases):
    settings = section("qlora", lora={"init_lora_weights": "loftq"})
    model = prepared(bases / "BertModel", settings)
    ups = [p for n, p in model.named_parameters() if "lora_B" in n and "encoder" in n]
    assert ups
    assert all(p.abs().max() > 0 for p in ups)
