"""`adapt export --format onnx`: onnxruntime gives what the checkpoint gives, or nothing is left."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt import cli
from adapt.errors import DependencyError, ModelError
from adapt.publish.export import ExportError, export, to_onnx
from tests.publish.export_models import checkpoint


@pytest.fixture(scope="module")
def tiny(tiny_base, tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("onnx") / "tiny", tiny_base)


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    """Made once, by the command: tracing costs seconds."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(tiny), "--format", "onnx", "--int8", "--output", str(folder)])
    assert not caught.value.code
    return folder


@pytest.fixture
def traced(exported, monkeypatch):
    """The graph that was traced before, in place of tracing."""

    def copied(model, path, checkpoint):
        for name in ("model.onnx", "model.onnx.data"):
            (path.parent / name).write_bytes((exported / name).read_bytes())

    monkeypatch.setattr(to_onnx, "_trace", copied)


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_the_graph_answers_any_batch_and_length(exported, tiny):
    graph = session(exported / "model.onnx")
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert [i.name for i in graph.get_inputs()] == ["input_ids", "attention_mask", "position_ids"]
    generator = torch.Generator().manual_seed(0)
    for rows, length in ((1, 1), (1, 90), (3, 2), (4, 33)):
        ids = torch.randint(400, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, : length // 2] = 0  # the first row is half padding
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        with torch.inference_mode():
            expected = model(**given).logits
        (found,) = graph.run(["logits"], {k: v.numpy() for k, v in given.items()})
        real = mask.bool()
        torch.testing.assert_close(
            torch.from_numpy(found)[real], expected[real], rtol=1e-4, atol=1e-4
        )


def test_eight_bits_are_smaller_and_near(exported, tiny):
    ids = AutoTokenizer.from_pretrained(tiny)("The mayor", return_tensors="np")["input_ids"]
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    given["position_ids"] = np.arange(ids.shape[1])[None]
    whole, narrow = (
        session(exported / name).run(["logits"], given)[0]
        for name in ("model.onnx", "model_int8.onnx")
    )
    difference = np.abs(whole - narrow).max() / whole.std()
    assert 1e-4 < difference < 0.5
    record = json.loads((exported / "export.json").read_text())
    assert any(line.startswith("model_int8.onnx") for line in record["checked"])
    assert any("no cache of keys and values" in line for line in record["lost"])
    assert {"tokenizer.json", "config.json", "chat_template.jinja"} <= set(record["bytes_"])


def fails(tiny, place, error, message, **options):
    with pytest.raises(error, match=message):
        export(tiny, "onnx", place / "out", **options)
    assert list(place.iterdir()) == []


def test_a_graph_of_another_model_fails(traced, tiny, tmp_path, monkeypatch):
    load_model = to_onnx.load_model

    def changed(*args, **options):
        model = load_model(*args, **options)
        model.model.layers[1].mlp.down_proj.weight.data *= 1.1
        return model

    monkeypatch.setattr(to_onnx, "load_model", changed)
    fails(tiny, tmp_path / "place", ExportError, "logits differ")


def test_eight_bits_that_lose_too_much_fail(traced, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "INT8", 1e-7)
    fails(tiny, tmp_path / "place", ExportError, "leave --int8 out", int8=True)


def test_a_model_that_cannot_be_traced_is_an_error_of_one_line(tiny, tmp_path, monkeypatch):
    def breaks(*args, **options):
        raise RuntimeError("data-dependent\nbranch")

    monkeypatch.setattr(torch.onnx, "export", breaks)
    fails(tiny, tmp_path / "place", ModelError, r"traced for ONNX \(RuntimeError: data-dependent\)")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(tiny, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=rf"needs the package {package}; .*adapt-lm\[onnx\]"):
        export(tiny, "onnx", tmp_path / "out")


def test_logits_of_units_that_are_only_read_are_named(traced, tiny, tmp_path):
    import shutil

    source = shutil.copytree(tiny, tmp_path / "read-only")
    settings = {"eos_token_id": 2, "suppress_tokens": [398, 399]}
    (source / "generation_config.json").write_text(json.dumps(settings))
    done = export(source, "onnx", tmp_path / "out")
    assert any("2 tokens that are never to be written" in line for line in done.lost)
