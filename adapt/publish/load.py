"""Loads what a run made: from its folder, an adapter's, a merged checkpoint's, or the Hub.

An adapter whose rows are all that the original base lacks is put on the original base, as plain
PEFT does it. Where that is not enough, for ids have moved, rows were padded or the output was
untied, the adapted base is made again out of the original base, `vocab_delta.json`, the
tokenizer and `adapt.json`, and kept in the cache under a name made of the contents of all of
them. The rows of new tokens lie in the adapter either way.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel

from adapt import bases
from adapt.embeddings.convert import with_safetensors
from adapt.embeddings.locate import Embeddings, find, parameters
from adapt.embeddings.shards import read_header, shard_files
from adapt.embeddings.surgery import row_sources, rows_needed, write_adapted_base
from adapt.errors import ModelError, WorkspaceError, nearest
from adapt.publish.kinds import kind_of, load_served, load_whole
from adapt.publish.settings import LOCAL, AdapterSettings
from adapt.training.model import ADAPTER_CONFIG, CONTEXT, ON_ROWS, best_dtype
from adapt.training.parts import keep_output_bias
from adapt.vocab import OUTPUT, TOKENIZER_FILES, VocabDelta, load_tokenizer
from adapt.vocab.delta import FILE_NAME
from adapt.vocab.files import copy_tokenizer
from adapt.workspace import Workspace, digest, fingerprint, new_folder, versions

CONFIG = "config.json"
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Source:
    """Where a model is loaded from.

    Attributes:
        checkpoint: Weights.
        adapter: The adapter that goes onto them; None where they are whole.
        rows: Rows that the embeddings are resized to before the adapter is put on; None leaves
            them. All rows gained are the adapter's.
        settings: What the adapter's `adapt.json` says.
    """

    checkpoint: Path
    adapter: Path | None
    rows: int | None
    settings: AdapterSettings

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.adapter or self.checkpoint


def load(
    reference: str | Path,
    *,
    dtype: str = "auto",
    merged: bool = False,
    base: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | Path | None = None,
) -> tuple[Any, Any]:
    """See `adapt.load`, which is this."""
    refuse_dtype(dtype)
    source = locate(
        reference,
        base=base,
        revision=revision,
        trust_remote_code=trust_remote_code,
        cache_dir=cache_dir,
    )
    tokenizer = load_tokenizer(source.tokenizer, trust_remote_code=trust_remote_code)
    model = load_weights(source, dtype, merged=merged, trust_remote_code=trust_remote_code)
    return model, tokenizer


def refuse_dtype(dtype: str) -> None:
    """Refuses a name that is no type of weights.

    Raises:
        ModelError: It is not.
    """
    if dtype not in DTYPES:
        raise ModelError("no type of weights", where="dtype", got=dtype, fix=nearest(dtype, DTYPES))


def load_weights(source: Source, dtype: str, *, merged: bool, trust_remote_code: bool) -> Any:  # noqa: ANN401
    """The model of a source, in evaluation mode.

    Args:
        source: From `locate`.
        dtype: See `adapt.load`.
        merged: Merges the adapter into the weights, which are freshly read for it.
        trust_remote_code: As in `transformers`.
    """
    type_ = best_dtype(source.settings.dtype if dtype == "auto" else dtype)
    checkpoint, adapter = source.checkpoint, source.adapter
    kind, trust = kind_of(adapter or checkpoint), {"trust_remote_code": trust_remote_code}
    if adapter is None:
        return load_whole(checkpoint, kind, type_, **trust)
    if source.rows is None and (merged or _is_several(adapter)):
        return load_served(checkpoint, adapter, type_, **trust)
    model = load_whole(checkpoint, kind, type_, **trust)
    if source.rows is not None:
        model.resize_token_embeddings(source.rows, mean_resizing=False)
    adapted = PeftModel.from_pretrained(model, str(adapter))
    keep_output_bias(adapted)
    return (adapted.merge_and_unload() if merged else adapted).eval()


def _is_several(adapter: Path) -> bool:
    """Whether an adapter is more than one of PEFT's, or changes the configuration as well."""
    return (adapter / ON_ROWS).is_dir() or (adapter / CONTEXT).is_file()


def locate(
    reference: str | Path,
    *,
    base: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | Path | None = None,
) -> Source:
    """Finds what to load, and makes the adapted base anew where it takes that.

    Args:
        reference: See `adapt.load`.
        base: See `adapt.load`.
        revision: See `adapt.load`.
        trust_remote_code: As in `transformers`.
        cache_dir: See `adapt.load`.

    Raises:
        AdaptError: Nothing there can be loaded, or the original base cannot be found.
    """
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        folder = _fetched(str(reference), revision, trust_remote_code, cache_dir)
    adapted = None
    if _is_run(folder):
        run = Workspace(folder)
        _refuse_unfinished(run)
        folder, adapted = run.adapter, run.adapted_base
    settings = AdapterSettings.load(folder)
    if not (folder / ADAPTER_CONFIG).is_file():
        if not (folder / CONFIG).is_file():
            raise ModelError(
                "neither a run, nor an adapter, nor a checkpoint",
                where=str(reference),
                fix=f"give a folder with recipe.yaml, {ADAPTER_CONFIG} or {CONFIG}",
            )
        return Source(folder, None, None, settings)
    if base is None and adapted and (adapted / CONFIG).is_file():
        return Source(adapted, folder, None, settings)
    checkpoint = _base(folder, settings, base)
    cache = Path(cache_dir) if cache_dir else bases.cache_folder()
    return _on_base(checkpoint, folder, settings, cache, trust_remote_code)


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file()


def _refuse_unfinished(run: Workspace) -> None:
    """An adapter counts once its training is recorded, and on the rows that it was trained on."""
    try:
        trained, rows = (
            json.loads(run.manifest(stage).read_text(encoding="utf-8"))
            for stage in ("training", "embeddings")
        )
        same = trained["inputs"]["embeddings"] == rows["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same or not run.adapter.is_dir():
        raise WorkspaceError(
            "holds no finished training",
            where=str(run.root),
            fix=f"adapt run {run.recipe} goes on where it stopped",
        )


def _fetched(
    repo: str, revision: str | None, trust_remote_code: bool, cache_dir: str | Path | None
) -> Path:
    # Code only where the user trusts it.
    wanted = [*bases.WANTED, *(["*.py"] if trust_remote_code else [])]
    try:
        return bases.snapshot(repo, wanted, revision=revision, cache_dir=cache_dir)
    except Exception as error:  # the HTTP client's own tree, which changes with hub versions
        raise ModelError(
            f"no such folder, and the Hub does not give it ({type(error).__name__})",
            where="reference",
            got=repo,
            fix="give a run folder, an adapter's or a checkpoint's folder, or a reachable Hub id",
        ) from None


def _base(adapter: Path, settings: AdapterSettings, given: str | None) -> Path:
    """The checkpoint that the adapter goes onto, or that one is made of for it.

    What `adapter_config.json` names comes first where it is a folder here, then what `adapt.json`
    says, then a Hub id that plain PEFT would take.

    Raises:
        ModelError: None of them says a base that can be found.
    """
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    named, revision = config.get("base_model_name_or_path") or "", config.get("revision")
    if given is not None:
        return bases.resolve(given).folder
    if named and (Path(named) / CONFIG).is_file():
        return Path(named)
    if settings.base != LOCAL:
        return bases.resolve(settings.base, settings.revision).folder
    if named and not Path(named).is_absolute():
        return bases.resolve(named, revision).folder
    raise ModelError(
        "was trained on a base that lay in a folder, which is not here",
        where=str(adapter),
        fix='give the original base: adapt.load(..., base="folder"), or --base',
    )


def _on_base(
    base: Path, adapter: Path, settings: AdapterSettings, cache: Path, trust_remote_code: bool
) -> Source:
    """The adapter on a base that is the original one, or the adapted one already."""
    delta_file = adapter / FILE_NAME
    if not delta_file.is_file() or _same_file(delta_file, base / FILE_NAME):
        return Source(base, adapter, None, settings)
    delta = VocabDelta.load(adapter)
    base = with_safetensors(base, trust_remote_code=trust_remote_code)
    shards = [read_header(base / name)[0] for name in shard_files(base)]
    tensors = {name: stored for held in shards for name, stored in held.items()}
    wanted = parameters(base, trust_remote_code=trust_remote_code)
    found = find(wanted, tensors, str(base))
    rows = rows_needed(delta, found.rows, settings.pad_to_multiple_of)
    if _adapter_is_enough(delta, found, rows, settings) and not _is_several(adapter):
        return Source(base, adapter, rows if rows > found.rows else None, settings)
    rebuilt = _rebuilt(base, adapter, delta, settings, cache, trust_remote_code)
    return Source(rebuilt, adapter, None, settings)


def _same_file(a: Path, b: Path) -> bool:
    return b.is_file() and a.read_bytes() == b.read_bytes()


def _adapter_is_enough(
    delta: VocabDelta, found: Embeddings, rows: int, settings: AdapterSettings
) -> bool:
    """Whether every row is the base's in its place, or in the adapter."""
    if settings.untie or found.rows < delta.base_size:
        return False  # the latter is refused, with its reason, where the base is made
    if delta.read_only:
        return False  # only a checkpoint can say that units are never to be written
    if found.bias and delta.added:
        return False  # an adapter has no biases of new tokens
    sources = row_sources(delta, found.rows, rows)
    kept = (sources == np.arange(rows)) & (sources < found.rows)
    new = (sources >= found.rows) & (sources < found.rows + len(delta.added))
    return bool((kept | new).all())


def _rebuilt(
    base: Path,
    adapter: Path,
    delta: VocabDelta,
    settings: AdapterSettings,
    cache: Path,
    trust_remote_code: bool,
) -> Path:
    """The adapted base, from the cache or made anew."""
    files = [adapter / name for name in TOKENIZER_FILES if (adapter / name).is_file()]
    weights = [p for p in sorted(base.iterdir()) if p.suffix in (".safetensors", ".json", ".py")]
    made_of = [[(path.name, digest(path)) for path in group] for group in (weights, files)]
    options = {
        "init": settings.init,
        "init_output": settings.init_output,
        "seed": settings.seed,
        "pad_to_multiple_of": settings.pad_to_multiple_of,
        "untie": settings.untie,
    }
    key = fingerprint(made_of, options, versions().get("adapt-lm"))
    target = cache / "adapted" / f"{base.name}-{key[:16]}"
    if not target.is_dir():
        # A checkpoint with the adapter's files in it would load the adapter by itself.
        with new_folder(target) as unfinished, tempfile.TemporaryDirectory() as tokenizer:
            for file in files:
                shutil.copyfile(file, Path(tokenizer) / file.name)
            if delta.read_only:
                (Path(tokenizer) / OUTPUT).mkdir()
                copy_tokenizer(load_tokenizer(base), Path(tokenizer) / OUTPUT)
            write_adapted_base(
                base,
                Path(tokenizer),
                delta,
                folder=unfinished,
                trust_remote_code=trust_remote_code,
                **options,  # type: ignore[arg-type]
            )
    return target
