"""A Hub in this process, and a run whose result files were written by hand."""

import json
import struct
import time
from types import SimpleNamespace

import pytest
import yaml

from adapt.vocab import Kept, NewToken, VocabDelta
from tests.publish.hub_server import TOKEN, Hub

BASE = "somebody/general-model"
PHASE = {"name": "domain", "objective": "clm", "max_steps": 3, "learning_rate": 0.05}
PHASE |= {"per_device_train_batch_size": 2, "max_length": 64}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server; the client of this process knows it and nothing else, and is logged in."""
    from huggingface_hub import constants

    with Hub() as server:
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": server.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def naps(monkeypatch):
    """Seconds that were to be waited, by the client and by us; none is."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    from adapt.publish import transfer

    waited = []
    clock = SimpleNamespace(**vars(time))
    clock.sleep, clock.time = waited.append, lambda: 1_700_000_000.0
    for module in (_http, transfer, file_download):
        monkeypatch.setattr(module, "time", clock)
    return waited


def safetensors(numbers, metadata=None):
    """A file of one tensor."""
    data = struct.pack(f"<{len(numbers)}f", *numbers)
    layout = {"dtype": "F32", "shape": [len(numbers)], "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": metadata or {"format": "pt"}, "w": layout}).encode()
    return len(header).to_bytes(8, "little") + header + data


def likelihood(value, seed):
    interval = {"value": value, "low": value - 0.0615, "high": value + 0.0587}
    return {"bits": [seed * 1.5], "bytes_": [seed], "interval": interval}


def scores(domain, general, accuracy):
    main = {"value": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1}
    organ = {"kind": "classification", "rows": 57, "main": main, "examples": []}
    organ["metrics"] = {"accuracy": accuracy, "macro_f1": accuracy - 0.11}
    return {
        "domain": likelihood(domain, 83),
        "general": likelihood(general, 59),
        "tasks": {"organ": organ},
        "edge": None,
    }


def evaluation(choice="do not extend"):
    """reports/evaluation.json, of figures that occur nowhere else."""
    trained = {
        "phases": [
            {
                "name": "domain",
                "steps": 48,
                "documents": 918,
                "bytes_": 170_001,
                "tokens": 28_114,
                "seconds": 123.53,
                "losses": [[10, 5.73]],
            }
        ],
        "trainable": 3_594_240,
        "adapter_bytes": 14_431_832,
    }
    by_model = {
        "base": scores(1.1747, 1.0308, 0.0733),
        "control": scores(0.8817, 1.0326, 0.3267),
        "adapted": scores(1.1454, 1.1247, 0.3067),
    }

    def compared(name, domain, general):
        spread = {"low": -0.0713, "high": 0.0076}
        return {
            "against": name,
            "domain": {"value": domain, **spread},
            "general": {"value": general, "low": 0.0842, "high": 0.1031},
        }

    return {
        "name": "medical",
        "base": BASE,
        "verdict": {
            "choice": choice,
            "sentence": f"{choice.capitalize()}: adapted 1.145 bits per byte, control 0.882, with "
            "23.2% of tokens saved.",
        },
        "table": [
            {
                "measure": f"bits per byte, {kind} text",
                "better": "lower",
                "values": {m: s[kind]["interval"]["value"] for m, s in by_model.items()},
                "digits": 3,
                "intervals": {
                    m: [s[kind]["interval"]["low"], s[kind]["interval"]["high"]]
                    for m, s in by_model.items()
                },
            }
            for kind in ("domain", "general")
        ],
        "edge": [],
        "comparisons": {
            "base": compared("base", -0.0293, 0.0938),
            "control": compared("control", 0.2637, 0.0921),
        },
        "scores": by_model,
        "training": {"adapted": trained, "control": trained},
        "corpus": {
            "splits": {"train": {"documents": 18_932, "bytes_": 3_524_171, "words": 515_373}},
            "dropped": {"near duplicate": 752},
            "tasks": {"organ": {"train": 9_329, "test": 1_064}},
            "provenance": [
                {
                    "name": "Ontology | of <b>things</b>",
                    "version": "releases/2025-01-16",
                    "licence": "CC-BY-4.0",
                    "url": "https://example.org/a/licence",
                }
            ],
            "read": {"domain": 22_600},
        },
        "vocabulary": {
            "added": 2,
            "removed": 0,
            "joints": [" "],
            "notes": ["units stay inside words, for 17 merges could not be proven"],
            "audit": {},
            "curve": [],
            "replaced": [],
        },
        "seconds": {"corpus": 1.9, "training": 200.4},
        "environment": {"processor": "x86_64", "cores": "2", "gpu": "none", "torch": "2.13.0"},
    }


def _fertility(name, tokens):
    return {
        "name": name,
        "documents": 2_324,
        "bytes_": 387_632,
        "characters": 387_601,
        "words": 56_720,
        "tokens": tokens,
        "tokens_per_word": tokens / 56_720,
        "bytes_per_token": 387_632 / tokens,
        "continued_word_share": tokens / 490_000,
        "single_token_term_share": None,
        "normalized_sequence_length": tokens / 82_820,
        "most_split_words": [],
    }


def recipe(base):
    """A recipe with paths of this machine in it."""
    return {
        "name": "medical",
        "output_dir": "/home/anna/runs/medical",
        "seed": 3,
        "model": {"base": base, "revision": None, "dtype": "auto"},
        "corpus": {
            "sources": [
                {"path": "/home/anna/secret-project/notes.jsonl", "dataset": None},
                {"path": None, "dataset": "somebody/abstracts"},
            ],
            "general": [{"path": "data/general/news.jsonl", "dataset": None}],
        },
        "tokenizer": {"mode": "extend", "new_tokens": 2, "terms": "~/lists/terms.txt"},
        "embeddings": {"init": "mean", "untie": False, "pad_to_multiple_of": None},
        "training": {"method": "lora", "phases": [{"name": "domain", "objective": "clm"}]},
        "publish": {"push_to_hub": False, "hub_model_id": None, "language": ["en"]},
    }


@pytest.fixture
def make_run(tmp_path):
    """Writes a finished run: `make_run(base=…, moved=True)`; gives its folder."""

    def make_run(base=BASE, moved=False, choice="do not extend", **sections):
        run = tmp_path / "run"
        token = NewToken(300, "Ġunit", " unit", (5, 6))
        runs = (Kept(0, 1, 299),) if moved else (Kept(0, 0, 300),)
        delta = VocabDelta(300, 301, runs, (token,), (299,) if moved else ())
        # An adapter that stands on the adapted base names that.
        named = str(run / "adapted-base") if moved else base
        tokenizer = {
            "tokenizer.json": json.dumps({"model": {"vocab": {"/usr/lib/": 7, "/root": 8}}}),
            "tokenizer_config.json": json.dumps({"name_or_path": str(run / "tokenizer")}),
            "chat_template.jinja": "{{ '</think>' }}{{ messages }}",
        }
        config = {"model_type": "llama", "_name_or_path": str(run / "adapted-base")}
        checkpoint = {
            **tokenizer,
            "config.json": json.dumps(config),
            "model.safetensors": safetensors([1.0, 2.0]),
        }
        adapter = {"adapter_model.safetensors": safetensors([3.0, 4.0, 5.0])}
        settings = {"adapt": "0.1.0", "base": base, "revision": "abc"}
        stays = {
            "adapter/optimizer.pt": "x",
            "adapter/.env": "x",
            "adapter/checkpoint-5/adapter_model.safetensors": "x",
            "adapter/training_args.bin": "x",
            "adapter/notes.txt": "x",
            "control/adapter_model.safetensors": "x",
            "corpus/train.jsonl": "x",
        }
        files = {
            **{f"tokenizer/{n}": c for n, c in tokenizer.items()},
            **{f"adapted-base/{n}": c for n, c in checkpoint.items()},
            **{f"merged/{n}": c for n, c in checkpoint.items()},
            **{f"adapter/{n}": c for n, c in {**tokenizer, **adapter}.items()},
            "adapter/adapter_config.json": json.dumps(
                {"base_model_name_or_path": named, "revision": None, "r": 8}
            ),
            "adapter/adapt.json": json.dumps(settings),
            "control/adapter_config.json": json.dumps({"base_model_name_or_path": base}),
            "reports/evaluation.json": json.dumps(evaluation(choice)),
            "reports/fertility.json": json.dumps(
                {
                    "domain": [_fertility("base", 82_820), _fertility("adapted", 63_583)],
                    "general": [],
                }
            ),
            "recipe.yaml": yaml.safe_dump({**recipe(base), **sections}),
            **stays,
        }
        for name, content in files.items():
            path = run / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for folder in ("tokenizer", "adapter", "adapted-base", "merged"):
            delta.save(run / folder)
        (run / "merged" / "config.json").touch()  # was made after the adapter
        return run

    return make_run


@pytest.fixture(scope="session")
def adapters():
    """Workspaces of runs up to their adapter, by the sections of their recipes."""
    return {}


@pytest.fixture
def trained(adapters, tiny_recipe, tmp_path):
    """Runs a recipe up to its adapter, at a rate that moves every logit; gives the run folder.

    A recipe is run once for all tests, which leave its folder as it is.
    """
    from adapt.pipeline import Pipeline
    from adapt.recipe import load_recipe

    def trained(**sections):
        key = json.dumps(sections, sort_keys=True)
        if key not in adapters:
            path = tiny_recipe(training={"phases": [PHASE]}, **sections)
            # General text that needs few of the base's tokens, so that there is much to prune.
            rows = (f"An abnormality of the ureter in {n} of {n * 7} patients." for n in range(30))
            text = "".join(json.dumps({"text": row}) + "\n" for row in rows)
            (tmp_path / "general.jsonl").write_text(text)
            pipeline = Pipeline(load_recipe(path))
            pipeline.prepared.build_tokenizer()
            pipeline.tuned.adapter()
            adapters[key] = pipeline.workspace
        return adapters[key]

    return trained
