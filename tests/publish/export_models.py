"""Runs and checkpoints that the tests of exports share; each is made once."""

import json
import shutil
import subprocess

import torch

from adapt.pipeline import Pipeline
from adapt.publish import merge
from adapt.recipe import load_recipe

PHASE = {"name": "domain", "objective": "clm", "max_steps": 3, "learning_rate": 0.05}
PHASE |= {"per_device_train_batch_size": 2, "max_length": 64}

RUNS = {}


def trained(tiny_recipe, **sections):
    """A run up to its adapter, made once for all tests, which leave it as it is."""
    key = json.dumps(sections, sort_keys=True)
    if key not in RUNS:
        pipeline = Pipeline(load_recipe(tiny_recipe(training={"phases": [PHASE]}, **sections)))
        pipeline.prepared.build_tokenizer()
        pipeline.tuned.adapter()
        RUNS[key] = pipeline.workspace
    return RUNS[key]


def in_this_process(command, **options):
    """The fresh process of a merge costs seconds; it is tested with merging."""
    try:
        merge.stock.main(*command[3:])
    except Exception as error:
        return subprocess.CompletedProcess(command, 1, "", f"{type(error).__name__}: {error}")
    return subprocess.CompletedProcess(command, 0, "", "")


def checkpoint(folder, tokenizer_of, kind="Llama", **settings):
    """A tiny model of random weights, none of them zero or one, with a tokenizer's files."""
    import transformers

    shutil.copytree(tokenizer_of, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    own = json.loads((tokenizer_of / "config.json").read_text())
    same = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    settings = {name: own[name] for name in same} | {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        **settings,
    }
    config = getattr(transformers, f"{kind}Config")(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder
