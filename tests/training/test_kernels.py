"""Kernels that a machine has not are refused in one line, before any work."""

from importlib.util import find_spec

import pytest
import torch

from adapt.cli import main


@pytest.mark.parametrize(
    ("installed", "lacks"),
    [(False, "the package flash_attn, which is not installed"), (True, "a GPU")],
    ids=["no-package", "no-gpu"],
)
def test_flash_attention_that_cannot_be_had(installed, lacks, tiny_recipe, monkeypatch, capsys):
    def found(name):
        known = object() if installed else None
        return known if name == "flash_attn" else find_spec(name)

    monkeypatch.setattr("adapt.training.model.find_spec", found)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    path = tiny_recipe(model={"attn_implementation": "flash_attention_2"})
    with pytest.raises(SystemExit) as caught:
        main(["run", str(path)])
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"model.attn_implementation: needs {lacks}, got 'flash_attention_2'; ")
    assert "take sdpa" in line
    assert not (path.parent / "run").exists()
