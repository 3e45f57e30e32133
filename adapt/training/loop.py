"""One phase through HF `Trainer`: its settings, its optimizer, and how it ends."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from adapt.errors import TrainingError
from adapt.recipe.training import Phase, TrainingSection
from adapt.training.callbacks import (
    Bar,
    Checkpoints,
    LogLine,
    StopOnNan,
    any_asked,
    last_checkpoint,
    seconds_until,
)
from adapt.training.engines import Engine, gathered, let_go, set_up
from adapt.training.failures import Stopped, explained, stop_on_sigterm
from adapt.training.heads import loss_function
from adapt.training.model import best_dtype, new_row_parameters
from adapt.training.phases import PhaseData, sequences_a_step, shared_out
from adapt.training.result import PhaseResult
from adapt.training.saving import StateInCheckpoints, load_state, write_state
from adapt.training.stopping import evaluation_arguments, stopping_callbacks
from adapt.training.tracking import Energy, Trackers
from adapt.workspace import new_folder, write_json

logger = logging.getLogger("adapt")

_ROWS_SHARE = 0.1  # of the learning rate, for new rows that train beside adapters


def record_of(done: Path) -> PhaseResult | None:
    """What a finished phase did."""
    if not (done / "phase.json").is_file():
        return None
    return PhaseResult.from_json(json.loads((done / "phase.json").read_text(encoding="utf-8")))


def run_phase(
    phase: Phase,
    model: Any,  # noqa: ANN401
    data: PhaseData,
    validation: PhaseData | None,
    arguments: TrainingArguments,
    done: Path,
    watching: Callable[..., LogLine],
    engine: Engine,
    lean: Callable[[Any], AbstractContextManager[None]] = nullcontext,
    *,
    trackers: Trackers,
) -> PhaseResult:
    """Trains one phase, or takes up its weights where it is done already."""
    if record := record_of(done):
        if not engine.afresh:  # else the phase after it takes them up
            load_state(model, done)
        return record
    where = f"training.phases: {phase.name}"
    standing = last_checkpoint(Path(str(arguments.output_dir)))
    earlier = seconds_until(standing)
    with explained(where), stop_on_sigterm() as stop:
        checkpoints = Checkpoints(stop, earlier)
        resting = at_rest(model) if phase.trains == "rows" else []
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=data.examples,
            eval_dataset=validation.examples if validation else None,
            data_collator=data.collate,
            compute_loss_func=loss_function(data.classes),
            callbacks=[
                trackers,
                StopOnNan(phase.name),
                StateInCheckpoints(),
                *stopping_callbacks(phase),
                checkpoints,
            ],
            optimizer_cls_and_kwargs=_optimizer(model, phase, arguments),
        )
        trainer.remove_callback(PrinterCallback if arguments.disable_tqdm else ProgressCallback)
        if not arguments.disable_tqdm:
            trainer.add_callback(Bar())
        # First of all, so that trackers show what it adds.
        trainer.callback_handler.callbacks.insert(0, watching(model=model))
        with lean(model), trackers, Energy() as energy:
            output = trainer.train(resume_from_checkpoint=standing)
        reached = trainer.state.global_step
        if checkpoints.stopped and reached < arguments.max_steps:
            raise Stopped(
                f"stopped by SIGTERM at step {reached} of {arguments.max_steps}, which is saved",
                where=where,
                fix="run the same command again to go on",
            )
        if phase.load_best_model_at_end and trainer.state.best_model_checkpoint is None:
            logger.warning(
                "%s: no validation loss is a number, so the last weights are kept", where
            )
        for parameter in resting:  # which what is written below belongs to
            parameter.requires_grad_(True)
        seconds = earlier + output.metrics["train_runtime"]
        result = _result(phase, data, trainer, seconds, energy.kwh)
        trained = gathered(trainer.accelerator.unwrap_model(trainer.model))
        if engine.afresh:
            let_go(trainer, engine)
        if PartialState().is_main_process:
            with new_folder(done) as unfinished:
                write_state(trained, unfinished)
                write_json(unfinished / "phase.json", asdict(result))
        PartialState().wait_for_everyone()
        asked = any_asked(stop.asked)  # one that goes on alone would wait for the others
    if asked:
        raise Stopped(
            "stopped by SIGTERM when the phase was done and saved",
            where=where,
            fix="run the same command again to go on",
        )
    return result


def check_rows_apart(
    model: Any,  # noqa: ANN401
    section: TrainingSection,
    new_ids: Sequence[int],
    engine: Engine,
) -> None:
    """Refuses a phase of new rows alone where they train within the whole matrix.

    Args:
        model: Prepared for training.
        section: `training` of the recipe.
        new_ids: Ids of the new rows; a control has none, and nothing is refused.
        engine: Of this training.

    Raises:
        TrainingError: Every row is new, or an engine cuts the matrix.
    """
    alone = [phase.name for phase in section.phases if phase.trains == "rows"]
    if alone and new_ids and (engine.cuts or not new_row_parameters(model)):
        raise TrainingError(
            "the new rows train within a whole matrix, or one that is cut, not apart from it",
            where=f"training.phases: {alone[0]}: trains",
            got="rows",
            fix="take all",
        )


def at_rest(model: Any) -> list[Any]:  # noqa: ANN401
    """Freezes all that trains but the new rows, for a phase; where there are none, nothing.

    A control has no new rows: it trains what it has, on the text that its pair reads.

    Returns:
        What was frozen.
    """
    rows = {id(parameter) for parameter in new_row_parameters(model)}
    found = [p for p in model.parameters() if rows and p.requires_grad and id(p) not in rows]
    for parameter in found:
        parameter.requires_grad_(False)
    return found


def _result(
    phase: Phase, data: PhaseData, trainer: Trainer, seconds: float, kwh: float | None
) -> PhaseResult:
    """What the phase did."""
    history, reached = trainer.state.log_history, trainer.state.global_step
    seen = data.documents, data.bytes_, data.tokens
    if reached < trainer.args.max_steps:  # ended early
        seen = data.examples.seen(reached * sequences_a_step(phase))
    return PhaseResult(
        phase.name,
        reached,
        *seen,
        round(seconds, 3),
        tuple((int(h["step"]), h["loss"]) for h in history if "loss" in h),
        data.truncated_documents,
        data.truncated_bytes,
        tuple((int(h["step"]), h["eval_loss"]) for h in history if "eval_loss" in h),
        kwh,
        tuple((int(h["step"]), h["bits_per_byte"]) for h in history if "bits_per_byte" in h),
    )


def arguments_of(
    section: TrainingSection,
    phase: Phase,
    data: PhaseData,
    seed: int,
    folder: Path,
    engine: Engine,
) -> TrainingArguments:
    """Trainer's settings; no device is named, and the weights' own type is the one computed in.

    Autocast (`bf16=True`) would cost more than half of a CPU's speed: the frozen weights are in
    bfloat16 already, and the adapters stay in float32 either way. Only where all weights are
    float32 and a GPU computes faster in bfloat16 is it worth it. DeepSpeed takes the same word for
    the one type that its weights have.
    """
    faster = torch.cuda.is_available() and best_dtype("auto") == torch.bfloat16
    per_device, accumulation = shared_out(phase, PartialState().num_processes)
    steps = -(-len(data.examples) // sequences_a_step(phase))
    arguments = TrainingArguments(
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
        logging_steps=phase.logging_steps,
        logging_nan_inf_filter=False,  # else StopOnNan never sees one
        remove_unused_columns=False,
        dataloader_pin_memory=torch.accelerator.is_available(),
        optim=section.optim,
        bf16=(section.method == "full" or bool(engine.zero_stage)) and faster,
        neftune_noise_alpha=section.neftune_noise_alpha,
        torch_compile=section.torch_compile,
        report_to=[],  # Trackers does that
        seed=seed,
        ddp_find_unused_parameters=False,
        **(_recomputing() if section.gradient_checkpointing else {}),
        **evaluation_arguments(phase),
        **set_up(engine),
    )
    # Set afterwards: given to it, save_steps would have to be a multiple of eval_steps, for it does
    # not know that `stopping.Validation` saves the best.
    arguments.load_best_model_at_end = phase.load_best_model_at_end
    return arguments


def _recomputing() -> dict[str, Any]:
    """Gradient checkpointing, as the installed `transformers` calls it."""
    names = TrainingArguments.__dataclass_fields__
    kind = "activation" if "activation_checkpointing" in names else "gradient"
    return {
        f"{kind}_checkpointing": True,
        f"{kind}_checkpointing_kwargs": {"use_reentrant": False},
    }


def _optimizer(
    model: Any,  # noqa: ANN401
    phase: Phase,
    arguments: TrainingArguments,
) -> tuple[Any, dict[str, Any]]:
    """The recipe's optimizer, with a learning rate of its own for the new token rows.

    Adam makes every gradient as large as the learning rate, and at every position the output layer
    gives each row one, however small: at the rate of the adapters rows drift away from what they
    were made to be (docs/decisions.md, "Learning rates of rows").
    """
    rows = new_row_parameters(model)
    held = {id(parameter) for parameter in rows}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in held]
    groups: list[dict[str, Any]] = [{"params": rest, "weight_decay": phase.weight_decay}]
    if rows:
        share = _ROWS_SHARE if rest else 1.0
        rate = phase.new_token_learning_rate or share * phase.learning_rate
        groups.append({"params": rows, "lr": rate, "weight_decay": 0.0})
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return kind, {**options, "params": [group for group in groups if group["params"]]}
