"""What the whole suite shares: no network, a tiny base model, and a recipe that runs on it."""

import copy
import gc
import json
import os
import random
from functools import partial

import pytest
import yaml
from hypothesis import settings

from tests.launched import AUDITS, SMALL

# Before anything imports the Hub's client, which reads them once.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    # Matrices this small are computed faster than threads are woken, most of all on a busy machine.
    OMP_NUM_THREADS="1",
)
for launched in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
    os.environ.pop(launched, None)

# The same examples every time: what lands today must not fail tomorrow on a lucky draw.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_ORGANS = {
    "heart": ["left ventricle", "mitral valve", "coronary artery", "atrial septum", "pericardium"],
    "kidney": ["renal tubule", "glomerular basement membrane", "renal pelvis", "nephron", "ureter"],
    "brain": ["cerebral cortex", "basal ganglia", "corpus callosum", "cerebellum", "optic nerve"],
}
_FINDINGS = [
    "progressive loss of function",
    "abnormal accumulation of fluid",
    "thickening of the wall",
    "chronic inflammatory infiltrate",
    "congenital malformation",
    "a reduced number of cells",
    "intermittent obstruction",
]
_CAUSES = ["infection", "hypertension", "trauma", "an inherited mutation", "chronic exposure"]
_PEOPLE = ["The mayor", "A farmer", "Her sister", "The old captain", "Our teacher", "The pilot"]
_DEEDS = ["repaired", "painted", "sold", "described", "visited", "carried", "forgot"]
_THINGS = ["the harbour", "two bicycles", "a wooden bridge", "the evening train", "his garden"]
_TIMES = ["on Monday", "before the rain", "in 1987", "after lunch", "last winter", "at noon"]


def clinical(seed: int) -> dict[str, str]:
    """One made-up finding: its term, its definition (the same for the same seed), its organ."""
    draw = random.Random(f"clinical-{seed}")
    organ = draw.choice(sorted(_ORGANS))
    part, finding = draw.choice(_ORGANS[organ]), draw.choice(_FINDINGS)
    definition = (
        f"An abnormality of the {part} characterized by {finding} in {draw.randint(2, 98)} of "
        f"{draw.randint(100, 999)} patients with {draw.choice(_CAUSES)}."
    )
    return {"term": f"{finding} of the {part}", "definition": definition, "organ": organ}


def general(seed: int) -> str:
    """Three made-up sentences of plain English, the same for the same seed."""
    draw = random.Random(f"general-{seed}")
    choices = [_PEOPLE, _DEEDS, _THINGS, _TIMES]
    return " ".join(" ".join(draw.choice(words) for words in choices) + "." for _ in range(3))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A checkpoint folder: Llama of two layers, byte-level BPE of 400 tokens, chat template.

    Untrained, tied embeddings, float32, and small enough that a training step takes
    milliseconds. Digits are split one by one, as in SmolLM2. Treat it as read-only.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-base")
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(str(folder))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(str(folder))
    return folder


def _tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([general(seed) for seed in range(200)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """A checkpoint folder: BERT of two layers without a head, WordPiece of some 300 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import WordPieceTrainer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    texts = [general(seed) for seed in range(200)] + [" ".join("abcdefghijklmnopqrstuvwxyz")]
    trainer = WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    backend.train_from_iterator([*texts, clinical(0)["definition"]], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=128,
        **dict(zip(names, special, strict=True)),
    )
    folder = tmp_path_factory.mktemp("tiny-encoder")
    tokenizer.save_pretrained(str(folder))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,  # as if trained: hidden states that differ from word to word
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(str(folder))
    return folder


@pytest.fixture
def tiny_recipe(tmp_path, tiny_base):
    """Writes a recipe that runs on `tiny_base` within seconds, and its data, into `tmp_path`.

    Call it with sections to change, merged into the defaults: a mapping goes deep, anything else
    takes the place of what was there, as in `tiny_recipe(tokenizer={"new_tokens": 5})`. Returns
    the path of `recipe.yaml`. Every path in it is absolute; beside it lie `corpus.jsonl`,
    `general.jsonl`, `classification.jsonl` and `generation.jsonl`, and `run` is the run folder.
    """

    return partial(write_recipe, tmp_path, tiny_base)


def write_recipe(folder, base, **overrides):
    """`tiny_recipe` in any folder."""
    rows = [clinical(seed) for seed in range(160)]
    files = {
        "corpus": [{"text": row["definition"]} for row in rows],
        "general": [{"text": general(seed)} for seed in range(1_000, 1_030)],
        "classification": [{k: row[k] for k in ("definition", "organ")} for row in rows[:60]],
        "generation": [{k: row[k] for k in ("term", "definition")} for row in rows[:60]],
    }
    for name, items in files.items():
        text = "".join(json.dumps(item) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    recipe = folder / "recipe.yaml"
    merged = _merge(_tiny(folder, base), overrides)
    recipe.write_text(yaml.safe_dump(merged, sort_keys=False), encoding="utf-8")
    return recipe


def _tiny(folder, base):
    classification = {
        "name": "organ",
        "kind": "classification",
        "path": str(folder / "classification.jsonl"),
        "text": "definition",
        "label": "organ",
    }
    generation = {
        "name": "define",
        "kind": "generation",
        "path": str(folder / "generation.jsonl"),
        "prompt": "Define: {term}",
        "target": "definition",
        "max_new_tokens": 8,
    }
    batch = {"max_steps": 2, "per_device_train_batch_size": 2, "max_length": 64}
    return {
        "name": "tiny",
        "output_dir": str(folder / "run"),
        "seed": 0,
        "model": {"base": str(base), "dtype": "float32"},
        "corpus": {
            "sources": [{"path": str(folder / "corpus.jsonl")}],
            "general": [{"path": str(folder / "general.jsonl")}],
        },
        "tokenizer": {"new_tokens": 20, "min_frequency": 3},
        "embeddings": {"init": "mean"},
        "training": {
            "lora": {"r": 2, "lora_alpha": 4},
            "phases": [
                {"name": "domain", "objective": "clm", "learning_rate": 1e-3, **batch},
                {"name": "tasks", "objective": "sft", "learning_rate": 1e-3, **batch},
            ],
        },
        "evaluation": {
            "control_time": False,  # a third training, for the tests that are about it
            "max_documents": 4,
            "max_bytes": 2_000,
            "max_length": 64,
            "tasks": [classification, generation],
        },
    }


# An encoder's phases, and the task that its head is trained on and scored by.
BATCH = {
    "logging_steps": 2,
    "per_device_train_batch_size": 8,
    "max_length": 128,
    "learning_rate": 5e-3,
}
LABELS = {"name": "labels", "objective": "classification", "max_steps": 80, **BATCH}
PHASES = [{"name": "words", "objective": "mlm", "max_steps": 3, **BATCH}, LABELS]
ORGAN = {"name": "organ", "kind": "classification", "text": "definition", "label": "organ"}


@pytest.fixture
def adapt(capsys):
    """Runs `adapt` in this process; gives its exit code, standard output and standard error."""

    from adapt import cli

    def adapt(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return adapt


def encoder_recipe(folder, base, task=(), **changes):
    """`write_recipe`, loaded, for masked words and then a head for `ORGAN`, changed by `task`."""
    from adapt.recipe import load_recipe

    path = folder / "classification.jsonl"
    tasks = [{**ORGAN, "path": str(path), "max_documents": 30, **dict(task)}]
    sections = {
        "training": {"phases": PHASES},
        "evaluation": {"tasks": tasks},
        "corpus": {"test_fraction": 0.3},
    }
    for name, section in changes.items():
        sections[name] = {**sections.get(name, {}), **section}
    recipe = write_recipe(folder, base, **sections)
    rows = [clinical(seed) for seed in range(160)]
    path.write_text(
        "".join(json.dumps({k: row[k] for k in ("definition", "organ")}) + "\n" for row in rows)
    )
    return load_recipe(recipe)


def _merge(base, changes):
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        deep = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if deep else value
    return merged


@pytest.fixture(autouse=True, scope="module")
def frozen_libraries():
    """A collection of garbage walks through every object, and those of torch take it a second.

    Trainer and probes collect often: it was half of a probe's time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def small_audits():
    """Every learned tokenizer audits itself; the tests of promises bring their own strings."""
    with pytest.MonkeyPatch.context() as patch:
        for module in AUDITS:
            patch.setattr(f"{module}.GENERATED", SMALL)
        yield
