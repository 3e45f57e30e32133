"""The adapter of a finished run, from the Hub, where nothing but `peft` and `transformers` is.

    make demo
    pytest -m network tests/publish/test_fresh_environment.py

`ADAPT_RUN` names another run than `runs/medical`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import adapt
from adapt.publish.hub import push

ROOT = Path(__file__).parents[2]
REPO = "org/domain"
LARGEST = 15_000_000  # bytes of an adapter of rank 8 with 2,000 new tokens

# The code of the card, as someone would paste it who has never heard of adapt.
SCRIPT = """
import json, sys
{code}
said = []
for prompt in json.load(open(sys.argv[1])):
    asked = tokenizer(prompt, return_tensors="pt")
    made = model.generate(**asked, do_sample=False, max_new_tokens=24)[0]
    said.append(tokenizer.decode(made))
json.dump(said, open(sys.argv[2], "w"))
"""
PROMPTS = [
    "An abnormality of the renal pelvis",
    "Nephrocalcinosis is",
    "The patient was admitted with",
    "Define: atrial septal defect",
    "Once upon a time",
]


def said_by(model, tokenizer):
    said = []
    for prompt in PROMPTS:
        asked = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            made = model.generate(**asked, do_sample=False, max_new_tokens=24)[0]
        said.append(tokenizer.decode(made))
    return said


@pytest.mark.slow
@pytest.mark.network
def test_a_pushed_adapter_writes_the_same_in_a_fresh_environment(hub, tmp_path):
    run = Path(os.environ.get("ADAPT_RUN", ROOT / "runs" / "medical"))
    assert (run / "report.html").is_file(), f"no finished run in {run}: make demo, or ADAPT_RUN"
    push(run, REPO, ["adapter", "base"])
    files = hub.repositories[REPO].files
    weights = sum(len(files[name]) for name in files if name.endswith(".safetensors"))
    assert weights < LARGEST
    card = files["README.md"].decode()
    code = card.split("```python\n")[1].split("```")[0]
    assert "import adapt" not in code

    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", f"torch=={torch.__version__.split('+')[0]}"]
    subprocess.run([*install, "peft", "transformers"], check=True)
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True)
    assert "adapt-lm" not in listed.stdout
    asked, answered = tmp_path / "asked.json", tmp_path / "answered.json"
    asked.write_text(json.dumps(PROMPTS))
    variables = {k: v for k, v in os.environ.items() if "OFFLINE" not in k and k != "PYTHONPATH"}
    variables |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1"}
    variables |= {"HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [python, "-c", SCRIPT.format(code=code), str(asked), str(answered)],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(answered.read_text()) == said_by(*adapt.load(run))
