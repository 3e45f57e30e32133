"""What a run is likely to take, from sizes and one timed product; no weight is read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt import bases
from adapt.errors import ModelError
from adapt.recipe import Recipe
from adapt.recipe.evaluation import ClassificationTask
from adapt.recipe.training import TrainingSection
from adapt.recipe.vocabulary import TokenizerSection

# `evaluation.reading.ReadingLoad`: what is read in turns, four characters a token, and one by one.
_TIMED_TOKENS = (7 + 1) * 24_000 // 4
_TIMED_TEXTS = 7 * 16
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


def estimate(recipe: Recipe) -> Estimate | None:
    """Sizes from the configuration alone; no weight is read.

    Floating point operations a token: 2 a parameter forwards and 2 backwards through frozen
    weights (Kaplan et al. 2020, table 1, less the weights' own gradients).
    """
    folder = bases.on_disk(recipe.model.base)
    if folder is None:
        return None
    from adapt.training.model import best_dtype

    model = _with_head(folder, recipe.training, trust_remote_code=recipe.model.trust_remote_code)
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
    seconds = (training_tokens(recipe) * 4 + evaluation_tokens(recipe) * 2) * parameters / rate
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


def _with_head(folder: Path, section: TrainingSection, *, trust_remote_code: bool) -> Any:  # noqa: ANN401
    """The base without its weights, with the head of the first phase.

    Raises:
        ModelError: Its config.json names no model that `transformers` knows, or one that cannot do
            what a phase asks, or code of its own that the recipe does not trust.
    """
    from adapt.training.heads import model_class, outline

    kind = model_class(section.phases[0].objective)
    try:
        model: Any = outline(folder, kind, trust_remote_code=trust_remote_code)
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
            f"is {model.config.architectures[0]}, which writes no text",
            where=f"training.phases: {writing[0].name}: objective {writing[0].objective}",
            got=str(folder),
            fix="take a causal language model, or objectives mlm and classification",
        )
    model.tie_weights()
    return model


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


def training_tokens(recipe: Recipe) -> int:
    """Tokens that the trainings of a run read, controls included."""
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
    the text allowed were in as many documents as are allowed. What only reads is timed by
    `_timed_tokens`.
    """
    section = recipe.evaluation
    if recipe.training.classifies:
        rows = [task.max_documents or section.max_documents for task in section.tasks]
        models = 1 + section.control + section.times_control
        timed = (1 + section.control) * _timed_tokens(section.max_length)
        return models * sum(rows) * section.max_length // 2 + timed
    if recipe.training.fills_masks:
        models = 2 + section.control
        pieces = 2 * section.max_bytes // 4
        window = min(section.max_length, max(1, section.max_bytes // 4 // section.max_documents))
        timed = models * _timed_tokens(section.max_length)
        return (models + section.times_control) * pieces * window + timed
    tasks = sum(
        (task.max_documents or section.max_documents)
        * (250 if isinstance(task, ClassificationTask) else 100 + task.max_new_tokens)
        for task in section.tasks
    )
    text = 2 * section.max_bytes // 4
    models = 2 + section.control
    return models * (text + tasks + 4 * 160 * 32) + section.times_control * text


def _timed_tokens(max_length: int) -> int:
    """Tokens that a model which only reads is timed on."""
    return _TIMED_TOKENS + _TIMED_TEXTS * max_length // 2


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
