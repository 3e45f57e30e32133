"""The work behind `adapt evaluate`: the evaluation stage alone, on any model."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt import bases, fertility
from adapt.errors import AdaptError, ModelError, WorkspaceError
from adapt.evaluation.measured import SCORES
from adapt.evaluation.result import ModelScores
from adapt.recipe.evaluation import MODEL_KEYS, ClassificationTask
from adapt.workspace import LOCK, Workspace, digest, fingerprint, versions, write_json

if TYPE_CHECKING:
    from adapt.corpus import Corpus
    from adapt.publish.load import Source
    from adapt.recipe import Recipe
    from adapt.vocab import VocabDelta

logger = logging.getLogger("adapt")

_STAGE = "evaluation"
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Evaluated:
    """What `adapt evaluate` found.

    Attributes:
        name: The model's, in files and tables.
        folder: Holds scores.json, predictions/ and the corpus.
        scores: All scores.
        tokens: The model's tokenizer on held-out domain text.
    """

    name: str
    folder: Path
    scores: ModelScores
    tokens: fertility.Fertility


def default_name(reference: str) -> str:
    """A name for a model: the end of its folder or id."""
    last = Path(reference.removeprefix("package:")).name or "model"
    return re.sub(r"[^\w.-]+", "-", last)


def evaluate_model(
    recipe: Recipe,
    reference: str,
    *,
    name: str,
    folder: Path,
    base: str | None = None,
    trust_remote_code: bool = False,
) -> Evaluated:
    """Scores one model by a recipe's evaluation section; done before, it is only read.

    Args:
        recipe: Whose corpus is split, and whose evaluation section says what is measured.
        reference: A run, an adapter, a checkpoint, `package:<name>` or a Hub id.
        name: Of the model, in files and tables.
        folder: Gets the corpus, unless the run's can be used, the predictions and the scores.
        base: The original base, where an adapter cannot say it.
        trust_remote_code: As in `transformers`.

    Raises:
        AdaptError: The name cannot be one of a file, the folder holds something else or another
            process is at work in it, nothing there can be loaded, or the recipe measures what such
            a model has not.
    """
    from adapt.publish.load import locate

    if not _NAME.fullmatch(name) or not name.strip("."):
        raise AdaptError("letters, digits, _, - and . only", where="--name", got=name)
    place = Workspace(folder)
    _refuse_others(place, name)
    trust = trust_remote_code or recipe.model.trust_remote_code
    if reference.startswith("package:"):
        reference = str(bases.resolve(reference).folder)
    source = locate(reference, base=base, trust_remote_code=trust)
    _refuse_what_it_has_not(recipe, source, reference)
    with place.held():
        result = _evaluated(recipe, source, place, name, trust)
    tokens = fertility.FertilityReport.from_json(result["fertility"]).domain[0]
    return Evaluated(name, folder, ModelScores.from_json(result["scores"]), tokens)


def _evaluated(
    recipe: Recipe, source: Source, place: Workspace, name: str, trust: bool
) -> dict[str, Any]:
    """The result that is there, if it is of the same inputs, or a new one."""
    from adapt.scoring import read_beside

    corpus = _corpus(recipe, place)
    inputs = {
        "section": recipe.evaluation.model_dump(exclude=MODEL_KEYS),
        **read_beside(recipe.evaluation),
        "corpus": digest(corpus.folder),
        "name": name,
        "model": _identity(source),
        "base": recipe.model.base,
        "units": recipe.embeddings.units,
        "dtype": recipe.model.dtype,
        "seed": recipe.seed,
    }
    mark = fingerprint(inputs, versions())
    record, scores = place.finished(_STAGE, mark), place.root / SCORES
    if record is not None and scores.is_file():
        logger.info("%s: done already", name)
        found: dict[str, Any] = record["result"]
        return found
    place.start(_STAGE)
    started = time.perf_counter()
    result = _scored(recipe, source, corpus, name, place.root, trust)
    write_json(scores, {"name": name, "recipe": recipe.name, **result})
    place.finish(_STAGE, mark, inputs, result, time.perf_counter() - started)
    return result


def _refuse_others(place: Workspace, name: str) -> None:
    """Refuses a run's own folder, and one with the scores of a model of another name."""
    fix = "choose another --output"
    if place.recipe.exists():
        raise WorkspaceError("is a run", where="--output", got=str(place.root), fix=fix)
    scores = place.root / SCORES
    if scores.is_file():
        owner = json.loads(scores.read_text(encoding="utf-8")).get("name")
        if owner != name:
            raise WorkspaceError(f"holds the scores of {owner}", where=str(place.root), fix=fix)
    elif place.root.exists() and not place.manifest("corpus").parent.is_dir():
        if not place.root.is_dir() or any(p.name != LOCK for p in place.root.iterdir()):
            raise WorkspaceError("holds other files", where=str(place.root), fix=fix)


def _refuse_what_it_has_not(recipe: Recipe, source: Source, reference: str) -> None:
    """Refuses a model that the recipe's evaluation cannot score, before any of it is scored.

    Raises:
        ModelError: It neither writes text nor has a head, it has a head of classes and a task asks
            for what is written, or it has units that are only read and the harness was asked for.
    """
    from adapt.publish.kinds import FILLS, kind_of
    from adapt.training.model import CLASSIFIES

    kind, section = kind_of(source.adapter or source.checkpoint), recipe.evaluation
    if kind not in (CLASSIFIES, FILLS) and not bases.writes_text(source.checkpoint):
        raise ModelError(
            "writes no text and has no head, so nothing can be scored",
            where=reference,
            fix="train a head first: a last phase with objective classification or mlm",
        )
    for task in section.tasks if kind == CLASSIFIES else ():
        method = task.method if isinstance(task, ClassificationTask) else task.kind
        if method not in ("auto", "head"):
            raise ModelError(
                f"has a head of classes and writes nothing, and evaluation.tasks {task.name} is "
                f"scored by {method}",
                where=reference,
                fix="leave that task out, or give a classification task method auto",
            )
    delta = _delta(source)
    if section.harness and delta is not None and delta.read_only:
        raise ModelError(
            "has units that are only read, and evaluation.harness scores models that write what "
            "they read",
            where=reference,
            fix="leave harness out: evaluation.harness=null",
        )


def _delta(source: Source) -> VocabDelta | None:
    """What was changed in the tokenizer's vocabulary, where it is an adapted one."""
    from adapt.vocab import VocabDelta
    from adapt.vocab.delta import FILE_NAME

    has_delta = (source.tokenizer / FILE_NAME).is_file()
    return VocabDelta.load(source.tokenizer) if has_delta else None


def _corpus(recipe: Recipe, place: Workspace) -> Corpus:
    """The recipe's split: the run's own where that is of the same recipe and files, else built.

    The run's is linked file by file; the corpus stage then looks at its fingerprint, and builds
    another here where it is not the one that the recipe asks for.
    """
    from adapt.preparation import Preparation

    run = Workspace(Path(recipe.output_dir))
    if not place.manifest("corpus").is_file() and run.manifest("corpus").is_file():
        shutil.rmtree(place.corpus, ignore_errors=True)
        shutil.copytree(run.corpus, place.corpus, copy_function=_link)
        place.manifest("corpus").parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.manifest("corpus"), place.manifest("corpus"))
    return Preparation(recipe.model_copy(update={"output_dir": str(place.root)})).corpus()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)


def _identity(source: Source) -> list[object]:
    """What tells one model from another: an adapter's bytes, a checkpoint's sizes and times."""
    files = sorted(p for p in source.checkpoint.iterdir() if p.is_file())
    stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return [stats, digest(source.adapter) if source.adapter else None, source.rows]


def _scored(
    recipe: Recipe, source: Source, corpus: Corpus, name: str, folder: Path, trust: bool
) -> dict[str, Any]:
    from adapt.evaluation.heads import decoder_window, has_head
    from adapt.evaluation.masked import fills_masks
    from adapt.evaluation.reading import measure_reading
    from adapt.evaluation.scores import sample, score_model
    from adapt.evaluation.speed import Candidate, measure_speed
    from adapt.publish.load import load_weights
    from adapt.vocab import load_tokenizer

    tokenizer = load_tokenizer(source.tokenizer, trust_remote_code=trust)
    base = bases.resolve(recipe.model.base, recipe.model.revision).folder
    base_tokenizer = load_tokenizer(base, trust_remote_code=trust)
    cut = fertility.measure(
        tokenizer.backend_tokenizer, corpus.documents("test"), name=name, progress=True
    )
    delta = _delta(source)
    # A recipe of read-only units measures every model so, that all are of the same text.
    read_only = recipe.embeddings.units == "input" or (delta is not None and delta.read_only)
    model = load_weights(source, recipe.model.dtype, merged=True, trust_remote_code=trust)
    writer = base_tokenizer if read_only else None
    section = recipe.evaluation
    scores = score_model(
        section,
        corpus,
        model,
        tokenizer,
        name=name,
        seed=recipe.seed,
        predictions=folder / "predictions",
        baselines=True,
        new_ids=delta.added_ids if delta else (),
        writer=writer,
        tokenizers=[base_tokenizer, tokenizer],
    )
    reads, task = has_head(model) or fills_masks(model), recipe.classified

    def held_out() -> Iterable[str]:
        if task and has_head(model):
            return (str(row[task.text]) for row in corpus.rows(task.name, "test"))
        return corpus.documents("test")

    texts = sample(held_out, section.max_documents, section.max_bytes, recipe.seed)
    models = {name: Candidate(lambda: model, tokenizer, writer)}
    measured = measure_reading if reads else measure_speed
    speed = measured(
        models, texts, max_length=decoder_window(model, section.max_length), seed=recipe.seed
    )
    scores = replace(scores, speed=speed.get(name))
    report = fertility.FertilityReport((cut,), ())
    return {"scores": scores.to_json(), "fertility": report.to_json()}
