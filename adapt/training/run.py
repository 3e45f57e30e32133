"""The training stage: phases in order through HF `Trainer`, resumable, one process or many."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from adapt.bases import Base
from adapt.corpus import Corpus
from adapt.recipe.evaluation import AnyTask
from adapt.recipe.training import Phase, TrainingSection
from adapt.training.callbacks import LogLine
from adapt.training.engines import (
    Engine,
    check_launcher,
    engine_dtype,
    engine_of,
    in_one_dtype,
)
from adapt.training.failures import explained
from adapt.training.faster import faster
from adapt.training.filling import pad_id
from adapt.training.heads import Head, hand_over, head, load_with_head
from adapt.training.loop import arguments_of, check_rows_apart, record_of, run_phase
from adapt.training.methods import PROMPTS, prepare
from adapt.training.model import (
    AS_IT_IS,
    WRITES,
    Loading,
    device,
    load_for_training,
    loading_options,
    training_dtype,
)
from adapt.training.phases import phase_data, sequences_a_step
from adapt.training.reading import never_written
from adapt.training.requirements import check_section
from adapt.training.result import Trained
from adapt.training.rows import plan
from adapt.training.saving import (
    load_state,
    save_trained,
    trained_bytes,
)
from adapt.training.tracking import Trackers, Tracking
from adapt.workspace import new_folder


def train(
    section: TrainingSection,
    corpus: Corpus,
    tasks: Sequence[AnyTask],
    *,
    model_folder: Path,
    tokenizer: Any,  # noqa: ANN401
    tokenizer_folder: Path,
    new_ids: Sequence[int],
    base: Base,
    dtype: str,
    trust_remote_code: bool,
    seed: int,
    checkpoints: Path,
    folder: Path,
    documents: Sequence[int] | None = None,
    text_bytes: Sequence[int] | None = None,
    completion_tokenizer: Any | None = None,  # noqa: ANN401
    tokenized: Path | None = None,
    loading: Loading = AS_IT_IS,
    tracking: Tracking | None = None,
) -> Trained:
    """The stage: trains all phases and writes what was trained. Every process calls it.

    Args:
        section: `training` of the recipe.
        corpus: Only its training side is read.
        tasks: Labelled rows, for phases with objective `sft`.
        model_folder: The checkpoint to start from: the adapted base, or the base for a control.
        tokenizer: Its tokenizer.
        tokenizer_folder: Where that lies.
        new_ids: Rows that train in every method.
        base: The original base, which the adapter names.
        dtype: `model.dtype` of the recipe.
        trust_remote_code: As in `transformers`.
        seed: Of initial values and order.
        checkpoints: Folder of this very training's checkpoints; gone when it is done.
        folder: The adapter or checkpoint, written by the main process, whole or not at all.
        documents: Documents of each phase, for a control; None fills the phases' steps.
        text_bytes: Instead of that, UTF-8 bytes of each phase that its documents have to fit in.
        completion_tokenizer: The base's, where units are only read; None: one for all.
        tokenized: Folder of encoded texts, kept between runs; None encodes in memory.
        loading: How the model is loaded, beyond its type.
        tracking: What trackers are told of the run; None: they get nothing.

    Raises:
        DependencyError: A package that the recipe needs is missing.
        ModelError: The method does not fit the model.
        TrainingError: Memory, disk, or a loss that is not a number.
    """
    check_section(section)
    check_launcher(section)
    engine = engine_of(section)
    model: Any = None
    standing: Head | None = None
    before: Path | None = None
    results = []

    def prepared(wanted: Head, into: Engine) -> Any:  # noqa: ANN401
        """A model that trains what the method trains."""
        torch.manual_seed(seed)  # so that a resumed run makes the same new weights
        weights = engine_dtype(into, training_dtype(section.method, dtype))
        fresh = _load(wanted, model_folder, weights, loading, section.quantised, trust_remote_code)
        fresh.config.use_cache = False  # packed rows are told apart only without a cache
        quantised = section.quantised is not None
        rows = plan(fresh, section.method, new_ids, quantised=quantised, engine=engine)
        fresh = prepare(fresh, section, rows)
        check_rows_apart(fresh, section, new_ids, into)
        in_one_dtype(fresh, into, weights)
        if completion_tokenizer is not None and wanted.auto_class == WRITES:
            never_written(fresh, new_ids)
        return fresh

    for i, phase in enumerate(section.phases):
        if section.method in PROMPTS:  # virtual tokens stand before a row, not before a document
            phase = phase.model_copy(update={"packing": False})
        with explained(f"training.phases: {phase.name}"):
            encoded = partial(
                phase_data,
                phase,
                tokenizer,
                corpus,
                tasks,
                seed + i,
                completion_tokenizer=completion_tokenizer,
                cache=tokenized,
            )
            data = encoded(
                documents[i] if documents else None, bytes_=text_bytes[i] if text_bytes else None
            )
            validation = encoded(None, split="validation") if phase.eval_steps else None
            wanted = head(phase.objective, data.classes, pad_id(tokenizer))
            done = checkpoints / f"{phase.name}-done"
            # Before the model: ZeRO-3 has it loaded in pieces as long as these live.
            arguments = arguments_of(section, phase, data, seed, checkpoints / phase.name, engine)
            if not (engine.afresh and record_of(done)) and (engine.afresh or wanted != standing):
                fresh = prepared(wanted, engine)
                if engine.afresh and before:
                    load_state(fresh, before, only_known=True)
                elif model is not None:
                    hand_over(model, fresh)
                model, standing = fresh, wanted
            watching = partial(
                LogLine,
                phase.name,
                data.examples,
                sequences_a_step(phase),
                new_ids=() if engine.cuts else new_ids,
                every_token=phase.objective == "clm" and completion_tokenizer is None,
            )
            lean = _lean(section, phase, engine, loading)
            results.append(
                run_phase(
                    phase,
                    model,
                    data,
                    validation,
                    arguments,
                    done,
                    watching,
                    engine,
                    lean,
                    trackers=Trackers(section.report_to, tracking, phase.name),
                )
            )
            before = done
    if PartialState().is_main_process:
        with explained("training"):
            if engine.afresh and before:
                model = prepared(wanted, Engine())
                load_state(model, before)
            with new_folder(folder) as unfinished:
                save_trained(model, tokenizer_folder, base, unfinished, model_folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
    PartialState().wait_for_everyone()
    parameters = [] if model is None else model.parameters()
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return Trained(folder, tuple(results), trainable, trained_bytes(folder))


def _lean(section: TrainingSection, phase: Phase, engine: Engine, loading: Loading) -> Any:  # noqa: ANN401
    """What spares work while a phase trains: nothing where parameters are cut, or compiled."""
    if engine.cuts or section.torch_compile:
        return nullcontext
    chunk = section.loss_chunk if phase.objective in ("clm", "sft") else None
    free = loading.attn_implementation == "auto"
    return partial(faster, positions=chunk, any_attention=free)


def _load(
    wanted: Head,
    folder: Path,
    dtype: torch.dtype,
    loading: Loading,
    quantised: str | None,
    trust_remote_code: bool,
) -> Any:  # noqa: ANN401
    """A model with the head that a phase needs."""
    if wanted.auto_class == WRITES:
        return load_for_training(
            folder, dtype, loading, quantised, trust_remote_code=trust_remote_code
        )
    options = loading_options(
        folder, dtype, loading, quantised, trust_remote_code=trust_remote_code
    )
    model = load_with_head(folder, wanted, dtype, trust_remote_code=trust_remote_code, **options)
    return model if "device_map" in options else model.to(device())
