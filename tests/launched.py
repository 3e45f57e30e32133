"""`scripts/train.py` for a process of its own, with audits as small as the suite's."""

import runpy
import sys
from importlib import import_module
from pathlib import Path

# Modules whose GENERATED is how many strings a learned tokenizer proves itself on; 11 s of the
# product's 100,000 would come with every process that a test starts.
AUDITS = ("adapt.vocab.build", "adapt.vocab.extend")
SMALL = 200

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"

if __name__ == "__main__":
    sys.path[0] = str(SCRIPT.parent)  # as if Python had been given the script
    for module in AUDITS:
        import_module(module).GENERATED = SMALL
    runpy.run_path(str(SCRIPT), run_name="__main__")
