"""The training stage: phases in order through HF `Trainer`, resumable, one process or many."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from torch.optim import AdamW
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from adapt.bases import Base
from adapt.corpus import Corpus
from adapt.errors import TrainingError
from adapt.recipe.evaluation import AnyTask
from adapt.recipe.training import Phase, TrainingSection
from adapt.training.batches import collate
from adapt.training.callbacks import StopOnNan
from adapt.training.model import (
    best_dtype,
    load_model,
    new_row_parameters,
    save_adapter,
    with_lora,
)
from adapt.training.phases import PhaseData, phase_data, sequences_a_step, shared_out
from adapt.training.result import PhaseResult, Trained
from adapt.workspace import new_folder, write_json


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
) -> Trained:
    """The stage: trains all phases and writes the adapter. Every process calls it.

    Args:
        section: `training` of the recipe.
        corpus: Only its training side is read.
        tasks: Labelled rows, for phases with objective `sft`.
        model_folder: The checkpoint to start from: the adapted base, or the base for a control.
        tokenizer: Its tokenizer.
        tokenizer_folder: Where that lies.
        new_ids: Rows that train besides the adapters.
        base: The original base, which the adapter names.
        dtype: `model.dtype` of the recipe.
        trust_remote_code: As in `transformers`.
        seed: Of initial values and order.
        checkpoints: Folder of this very training's checkpoints; gone when it is done.
        folder: The adapter, written by the main process, whole or not at all.
        documents: Documents of each phase, for a control; None fills the phases' steps.

    Raises:
        TrainingError: Memory, disk, or a loss that is not a number.
    """
    torch.manual_seed(seed)
    model = load_model(model_folder, best_dtype(dtype), trust_remote_code=trust_remote_code)
    model.config.use_cache = False  # packed rows are told apart only without a cache
    peft_model = with_lora(model, section.lora, new_ids)
    results = []
    for i, phase in enumerate(section.phases):
        data = phase_data(
            phase, tokenizer, corpus, tasks, seed + i, documents[i] if documents else None
        )
        pad = tokenizer.pad_token_id
        pad = tokenizer.eos_token_id if pad is None else pad
        results.append(_run_phase(phase, peft_model, data, pad or 0, seed, checkpoints))
    if PartialState().is_main_process:
        with new_folder(folder) as unfinished:
            save_adapter(peft_model, tokenizer_folder, base, unfinished)
        shutil.rmtree(checkpoints, ignore_errors=True)
    PartialState().wait_for_everyone()
    trainable = sum(p.numel() for p in peft_model.parameters() if p.requires_grad)
    size = (folder / "adapter_model.safetensors").stat().st_size
    return Trained(folder, tuple(results), trainable, size)


def _run_phase(
    phase: Phase, model: PeftModel, data: PhaseData, pad: int, seed: int, checkpoints: Path
) -> PhaseResult:
    """Trains one phase, or takes up its weights where it is done already."""
    done = checkpoints / f"{phase.name}-done"
    arguments = _arguments(phase, data, seed, checkpoints / phase.name)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data.examples,
        data_collator=partial(collate, max_length=phase.max_length, pad=pad),
        callbacks=[StopOnNan(phase.name)],
        optimizers=(_optimizer(model, phase), None),
    )
    if (done / "phase.json").is_file():
        weights = load_peft_weights(str(done), device=str(arguments.device))
        set_peft_model_state_dict(model, weights)
        record = json.loads((done / "phase.json").read_text(encoding="utf-8"))
        return PhaseResult.from_json(record)
    try:
        output = trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints / phase.name))
    except torch.OutOfMemoryError:
        raise TrainingError(
            "out of memory",
            where=f"training.phases: {phase.name}",
            fix="lower per_device_train_batch_size or max_length",
        ) from None
    losses = tuple((int(h["step"]), h["loss"]) for h in trainer.state.log_history if "loss" in h)
    result = PhaseResult(
        phase.name,
        trainer.state.global_step,
        data.documents,
        data.bytes_,
        sum(map(len, data.examples)),
        round(output.metrics["train_runtime"], 3),
        losses,
    )
    if PartialState().is_main_process:
        with new_folder(done) as unfinished:
            model.save_pretrained(str(unfinished), save_embedding_layers=False)
            write_json(unfinished / "phase.json", asdict(result))
    return result


def _arguments(phase: Phase, data: PhaseData, seed: int, folder: Path) -> TrainingArguments:
    """Trainer's settings; no device is named, and the weights' own type is the one computed in.

    Autocast (`bf16=True`) would cost more than half of a CPU's speed: the frozen weights are in
    bfloat16 already, and the adapters stay in float32 either way.
    """
    per_device, accumulation = shared_out(phase, PartialState().num_processes)
    steps = -(-len(data.examples) // sequences_a_step(phase))
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=phase.learning_rate,
        lr_scheduler_type=phase.lr_scheduler_type,
        warmup_steps=round(phase.warmup_ratio * steps),
        weight_decay=phase.weight_decay,
        max_grad_norm=phase.max_grad_norm,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",  # phase_data has shuffled, alike for a control
        save_strategy="steps",
        save_steps=phase.save_steps,
        save_total_limit=1,
        logging_steps=phase.logging_steps,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.accelerator.is_available(),
        report_to=[],
        seed=seed,
        ddp_find_unused_parameters=False,
    )


def _optimizer(model: PeftModel, phase: Phase) -> AdamW:
    """AdamW with a learning rate of its own for the new token rows."""
    rows = new_row_parameters(model)
    held = {id(parameter) for parameter in rows}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in held]
    groups: list[dict[str, Any]] = [{"params": rest, "weight_decay": phase.weight_decay}]
    if rows:
        rate = phase.new_token_learning_rate or phase.learning_rate
        groups.append({"params": rows, "lr": rate, "weight_decay": 0.0})
    return AdamW(groups, lr=phase.learning_rate)


def _last_checkpoint(folder: Path) -> str | None:
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None
