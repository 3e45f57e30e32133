"""What can be known before work starts: errors of a recipe, and what a run will take."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt import bases
from adapt.corpus import check_corpus
from adapt.corpus.read import terms_of
from adapt.errors import AdaptError, ModelError, RecipeErrors, WorkspaceError
from adapt.recipe import Recipe
from adapt.recipe.evaluation import ClassificationTask, GenerationTask
from adapt.recipe.training import TrainingSection
from adapt.recipe.vocabulary import TokenizerSection
from adapt.vocab import load_tokenizer, refuse_other_families
from adapt.workspace import Workspace

_GIB = 2**30
_TIMED_TEXTS = 5 * 48 + 32  # `evaluation.reading.ReadingLoad`
_AUTO = 2000  # units to reckon with where the run is to find the number


@dataclass(frozen=True)
class Estimate:
    """What a run is likely to take; orders of magnitude, from sizes and one timed product.

    Attributes:
        parameters: Of the base.
        memory_bytes: Peak of training: weights, adapters with optimizer, activations, logits.
        seconds: Training and evaluation on this machine.
        disk_bytes: What the run folder and the cache grow by.
        new_rows: How the rows of new tokens train, and why.
    """

    parameters: int
    memory_bytes: int
    seconds: float
    disk_bytes: int
    new_rows: str = ""


def check(recipe: Recipe) -> Estimate | None:
    """Validates everything that can be known before work starts; changes nothing.

    Returns:
        An estimate, or None where the base is not on disk yet and its size is not known.

    Raises:
        RecipeErrors: All that is wrong.
    """
    problems: list[AdaptError] = list(check_corpus(recipe.corpus, recipe.evaluation.tasks))
    checks: tuple[Callable[[], None], ...] = (
        lambda: bases.check(recipe.model.base, recipe.model.revision),
        lambda: Workspace(Path(recipe.output_dir)).claim(recipe.name, recipe.model.base),
        lambda: _check_donor(recipe),
        lambda: _check_terms(recipe),
        lambda: _check_phases(recipe),
        lambda: _check_schemas(recipe),
        lambda: _check_harness(recipe),
        lambda: _check_method(recipe),
    )
    for one in checks:
        try:
            one()
        except AdaptError as problem:
            problems.append(problem)
    if problems:
        raise RecipeErrors(problems)
    estimate = _estimate(recipe)
    _check_family(recipe)
    _check_mask_head(recipe)
    if estimate:
        _check_disk(Path(recipe.output_dir), estimate.disk_bytes)
    return estimate


def _check_donor(recipe: Recipe) -> None:
    """A donor of rows that cannot be had."""
    if recipe.embeddings.donor:
        from adapt.embeddings.donor import check_donor

        trust = recipe.model.trust_remote_code
        check_donor(recipe.embeddings.donor, trust_remote_code=trust)


def _check_terms(recipe: Recipe) -> None:
    for name, given in (
        ("evaluation.terms", recipe.evaluation.terms),
        ("tokenizer.terms", recipe.tokenizer.terms),
        ("tokenizer.score_terms", recipe.tokenizer.score_terms),
    ):
        terms_of(given or [], name)


def _check_family(recipe: Recipe) -> None:
    """A tokenizer that cannot be extended, where the base is on disk already."""
    folder = bases.on_disk(recipe.model.base)
    if folder and recipe.tokenizer.mode != "keep":
        trust = recipe.model.trust_remote_code
        refuse_other_families(load_tokenizer(folder, trust_remote_code=trust))


def _check_phases(recipe: Recipe) -> None:
    """Phases whose tasks are not there, or whose steps the processes cannot share out."""
    from adapt.training.phases import check_tasks, shared_out

    for phase in recipe.training.phases:
        check_tasks(phase, recipe.evaluation.tasks)
        shared_out(phase, int(os.environ.get("WORLD_SIZE", "1")))


def _check_schemas(recipe: Recipe) -> None:
    """JSON schemas that answers are to be checked against."""
    from adapt.evaluation.text_checks import schema_checker

    for task in recipe.evaluation.tasks:
        if isinstance(task, GenerationTask) and task.json_schema:
            schema_checker(Path(task.json_schema))


def _check_harness(recipe: Recipe) -> None:
    """Tasks of lm-evaluation-harness that it has not, or the harness itself missing."""
    if recipe.evaluation.harness:
        from adapt.evaluation.harness import check_harness

        check_harness(recipe.evaluation.harness)


def _check_method(recipe: Recipe) -> None:
    """Packages that the training lacks, and one map of devices for several processes."""
    from adapt.training.model import Loading, check_packages
    from adapt.training.requirements import check_section

    check_section(recipe.training)
    check_packages(Loading.of(recipe.model), recipe.training.quantised)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.model.device_map and processes > 1:
        raise ModelError(
            f"one copy of the model cannot be shared by {processes} processes",
            where="model.device_map",
            got=recipe.model.device_map,
            fix="start one process, or leave it out",
        )


def _check_mask_head(recipe: Recipe) -> None:
    """A head for hidden words that nothing would train, or keep, as the last of all phases."""
    training, folder = recipe.training, bases.on_disk(recipe.model.base)
    if not training.fills_masks or folder is None:
        return
    from adapt.publish.kinds import has_mask_head
    from adapt.training.methods import PROMPTS

    where, fix = "training.method", "take lora or full"
    if training.method in PROMPTS:
        reason = "has virtual tokens, which a model that fills in hidden words has no place for"
        raise ModelError(reason, where=where, got=training.method, fix=fix)
    if training.method in ("ia3", "rows") and not has_mask_head(folder):
        reason = f"does not train the head for hidden words, which {recipe.model.base} lacks"
        raise ModelError(reason, where=where, got=training.method, fix=fix)


def _decision(recipe: Recipe, model: Any, new_tokens: int) -> str:  # noqa: ANN401
    """How the new rows will train on a model of this kind; raises where they cannot."""
    from adapt.training.model import scaled_positions
    from adapt.training.rows import Setting, decide, engine, is_tied

    if scaling := recipe.model.rope_scaling:
        where = recipe.model.base
        scaled_positions(model.config, scaling.type, scaling.factor, where=where)
    tied = is_tied(model) and recipe.embeddings.untie is not True  # auto may leave it so
    rows = model.config.get_text_config().vocab_size
    whole = recipe.tokenizer.vocab_size is not None  # a new tokenizer: every row is new
    share = 1.0 if whole else new_tokens / (rows + new_tokens)
    section = recipe.training
    quantised = section.quantised is not None
    return str(decide(Setting(section.method, tied, quantised, *engine(section), share)))


def _check_disk(output_dir: Path, needed: int) -> None:
    place = next(p for p in (output_dir.absolute(), *output_dir.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise WorkspaceError(
            f"the disk has {free / _GIB:.1f} GiB free, the run needs about {needed / _GIB:.1f}",
            where="output_dir",
            got=str(output_dir),
            fix="free some space or choose another output_dir",
        )


def _estimate(recipe: Recipe) -> Estimate | None:
    """Sizes from the configuration alone; no weight is read.

    Floating point operations a token: 2 a parameter forwards and 2 backwards through frozen
    weights (Kaplan et al. 2020, table 1, less the weights' own gradients).
    """
    folder = bases.on_disk(recipe.model.base)
    if folder is None:
        return None
    from adapt.training.model import best_dtype

    model = _outline(folder, recipe.training, trust_remote_code=recipe.model.trust_remote_code)
    text = model.config.get_text_config()
    parameters = sum(p.numel() for p in model.parameters())
    layers = sum(p.numel() for n, p in model.named_parameters() if p.ndim > 1 and "embed" not in n)
    dtype = best_dtype(recipe.model.dtype)
    new_tokens = _new_tokens(recipe.tokenizer)
    hidden, vocabulary = text.hidden_size, text.vocab_size + new_tokens
    trained = _trained(recipe.training, layers, text, hidden * vocabulary, hidden * new_tokens)
    row = max(p.per_device_train_batch_size * p.max_length for p in recipe.training.phases)
    memory = (
        _held(recipe.training, parameters, layers, dtype.itemsize)
        + trained * 16  # float32 weight, gradient and two moments of AdamW
        + row
        * text.num_hidden_layers
        * hidden
        * 34
        * dtype.itemsize
        // 2  # Korthikanti 2022, eq. 1
        + row * vocabulary * (2 * dtype.itemsize + 8)  # logits and their gradient, float32 copies
    )
    rate = _operations_per_second(dtype)
    seconds = (_training_tokens(recipe) * 4 + evaluation_tokens(recipe) * 2) * parameters / rate
    disk = 2 * parameters * dtype.itemsize + 4 * trained * 12
    decision = _decision(recipe, model, new_tokens)
    return Estimate(parameters, memory, seconds, disk, decision)


def _trained(
    section: TrainingSection,
    layers: int,
    text: Any,  # noqa: ANN401
    embedding: int,
    new_rows: int,
) -> int:
    """Parameters that train, by method; virtual tokens and scales are too few to count."""
    if section.method == "full":
        return layers + embedding
    if section.method == "edges":
        return 2 * layers // int(text.num_hidden_layers) + embedding
    lora = section.lora.r * 2 * layers // int(text.hidden_size)
    return new_rows + (lora if section.method in ("lora", "qlora") else 0)


def _held(section: TrainingSection, parameters: int, layers: int, itemsize: int) -> int:
    """Bytes of frozen weights; where all train, they are among what trains."""
    if section.method == "full":
        return 0
    if section.quantised is None:
        return parameters * itemsize
    each = {"nf4": 0.52, "int8": 1.0}[section.quantised]  # with the scales of blocks
    return (parameters - layers) * itemsize + round(layers * each)


def _new_tokens(section: TokenizerSection) -> int:
    """Rows that training adds or makes anew, as far as the recipe says."""
    if section.mode in ("keep", "prune"):
        return 0
    if section.vocab_size:
        return section.vocab_size
    return _AUTO if isinstance(section.new_tokens, str) else section.new_tokens


def _outline(folder: Path, section: TrainingSection, *, trust_remote_code: bool) -> Any:  # noqa: ANN401
    """The base without its weights, with the head of the first phase.

    Raises:
        ModelError: Its config.json names no model that `transformers` knows, or one that cannot do
            what a phase asks, or code of its own that the recipe does not trust.
    """
    import torch
    from transformers import AutoConfig

    from adapt.training.heads import model_class

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        kind = model_class(section.phases[0].objective)
        with torch.device("meta"):
            model = kind.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                "brings Python code of its own",
                where=str(folder),
                fix="set model.trust_remote_code=true if you trust it",
            ) from None
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"not a language model, {reason}", where=str(folder)) from None
    writing = [p for p in section.phases if p.objective in ("clm", "sft")]
    if writing and not bases.writes_text(folder):
        raise ModelError(
            f"is {config.architectures[0]}, which writes no text",
            where=f"training.phases: {writing[0].name}: objective {writing[0].objective}",
            got=str(folder),
            fix="take a causal language model, or objectives mlm and classification",
        )
    model.tie_weights()
    return model


def _training_tokens(recipe: Recipe) -> int:
    steps = sum(
        p.max_steps * p.per_device_train_batch_size * p.gradient_accumulation_steps * p.max_length
        for p in recipe.training.phases
    )
    section = recipe.evaluation
    # The control's text is longer; the control of the same time computes what the adapter does.
    return round(steps * (1 + 1.3 * section.control + section.times_control))


def evaluation_tokens(recipe: Recipe) -> int:
    """Tokens that the evaluation reads, and what else it does in the time of so many.

    Four bytes a token; a prompt of some hundred tokens and some hundred label tokens a row. A head
    reads a row and nothing else. Timing the models (`evaluation.speed.Load`) is 4 turns of 160
    steps of decoding, each of which took as long as reading 32 tokens (SmolLM2 on two cores). Of
    the control of the same time only the likelihood is measured, or what its head says. A model
    that fills in hidden words reads a document once for each of its tokens; that is reckoned as if
    the text allowed were in as many documents as are allowed. What only reads is timed on 5 turns
    of 48 texts, and one of 32.
    """
    section = recipe.evaluation
    if recipe.training.classifies:
        rows = [task.max_documents or section.max_documents for task in section.tasks]
        models = 1 + section.control + section.times_control
        timed = (1 + section.control) * _TIMED_TEXTS
        return (models * sum(rows) + timed) * section.max_length // 2
    if recipe.training.fills_masks:
        models = 2 + section.control
        pieces = 2 * section.max_bytes // 4
        window = min(section.max_length, max(1, section.max_bytes // 4 // section.max_documents))
        timed = models * _TIMED_TEXTS * section.max_length // 2
        return (models + section.times_control) * pieces * window + timed
    tasks = sum(
        (task.max_documents or section.max_documents)
        * (250 if isinstance(task, ClassificationTask) else 100 + task.max_new_tokens)
        for task in section.tasks
    )
    text = 2 * section.max_bytes // 4
    models = 2 + section.control
    return models * (text + tasks + 4 * 160 * 32) + section.times_control * text


def _operations_per_second(dtype: object) -> float:
    """Times one matrix product of the size that layers have; half of it is reached in training."""
    import torch

    # Not accelerate's device: it would take this process, which alone checks, for the only one.
    place = torch.accelerator.current_accelerator() or torch.device("cpu")
    a = torch.ones(512, 2048, dtype=dtype, device=place)  # type: ignore[call-overload]
    b = torch.ones(2048, 2048, dtype=dtype, device=place)  # type: ignore[call-overload]
    float((a @ b).sum())
    start, rounds = time.perf_counter(), 10
    for _ in range(rounds):
        float((a @ b).sum())
    return 0.5 * rounds * 2 * 512 * 2048 * 2048 / (time.perf_counter() - start)
