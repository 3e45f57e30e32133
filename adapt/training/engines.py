"""What shares the model out among processes: plain data parallelism, DeepSpeed's ZeRO, FSDP2.

The configurations of DeepSpeed are made here, so that their names work wherever the package is
installed; `recipes/deepspeed/` holds them as files, for launchers and as a start for one's own
(`tests/training/test_engines.py` compares the two).

Where an engine cuts the parameters themselves (ZeRO-3, FSDP), each phase begins with a model loaded
afresh, and ends with what was trained gathered on the main process, tensor by tensor.
"""

from __future__ import annotations

import copy
import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, nn

from adapt.errors import DependencyError, RecipeError, TrainingError, nearest
from adapt.recipe.training import TrainingSection

# Name in the recipe: stage, and whether what is cut lies in the processor's memory.
ZERO = {
    "zero1": (1, False),
    "zero2": (2, False),
    "zero3": (3, False),
    "zero2-offload": (2, True),
    "zero3-offload": (3, True),
}

# Methods that train where parameters are cut: what the tests of two processes show to work.
CUT = ("full", "lora")

_TRUE = ("1", "true", "yes")


@dataclass(frozen=True)
class Engine:
    """How the processes share the model.

    Attributes:
        zero_stage: Of DeepSpeed; 0 without it.
        fsdp: Whether FSDP shards.
        arguments: Further keywords of `TrainingArguments`.
    """

    zero_stage: int = 0
    fsdp: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def cuts(self) -> bool:
        """Whether no process holds whole parameters."""
        return self.zero_stage == 3 or self.fsdp

    @property
    def afresh(self) -> bool:
        """Whether a model that it has taken hold of cannot go on to the next phase."""
        return self.zero_stage > 0 or self.fsdp


def zero(name: str) -> dict[str, Any]:
    """A configuration of DeepSpeed; `auto` is what the recipe says.

    Args:
        name: A key of `ZERO`.
    """
    stage, offload = ZERO[name]
    section: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 3:
        section |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            # without it a checkpoint holds no weights
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    section["reduce_bucket_size"] = "auto"
    if offload:
        section["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        if stage == 3:
            section["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "zero_optimization": section,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # the recipe's optimizer, not one that is compiled
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }


def engine_of(section: TrainingSection) -> Engine:
    """The engine of a training: the recipe's, else the launcher's.

    Args:
        section: `training` of the recipe.

    Raises:
        RecipeError: `training.deepspeed` names no configuration.
    """
    if section.deepspeed is not None:
        config = _read(section.deepspeed)
        stage = config.get("zero_optimization", {}).get("stage", 0)
        return Engine(zero_stage=int(stage), arguments={"deepspeed": config})
    if section.fsdp:
        config = {"version": 2, "reshard_after_forward": section.fsdp != "shard_grad_op"}
        return Engine(fsdp=True, arguments={"fsdp": True, "fsdp_config": config})
    return launched()


def launched() -> Engine:
    """What `accelerate launch` says through the environment."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() in _TRUE:
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
        if file:
            stage = _read(file).get("zero_optimization", {}).get("stage", 0)
        return Engine(zero_stage=int(stage))
    return Engine(fsdp=os.environ.get("ACCELERATE_USE_FSDP", "").lower() in _TRUE)


def _read(name: str) -> dict[str, Any]:
    where = "training.deepspeed"
    if name in ZERO:
        return zero(name)
    if not name.endswith(".json"):
        raise RecipeError("no such configuration", where=where, got=name, fix=nearest(name, ZERO))
    try:
        config = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot be read, {error}", where=where, got=name) from None
    if not isinstance(config, dict):
        raise RecipeError("holds no mapping", where=where, got=name)
    return config


def check_launcher(section: TrainingSection) -> None:
    """Refuses to start alone what needs a launcher; a recipe may well be checked without one.

    Raises:
        TrainingError: There is none, or too few processes.
    """
    engine = engine_of(section)
    needed = 2 if engine.fsdp else 1
    if engine.arguments and int(os.environ.get("WORLD_SIZE", "0")) < needed:
        raise TrainingError(
            f"needs a launcher{' and two processes or more' if engine.fsdp else ''}",
            where="training.fsdp" if engine.fsdp else "training.deepspeed",
            fix="start with torchrun --nproc_per_node N scripts/train.py, or leave it out",
        )


def check_engine(section: TrainingSection) -> None:
    """Refuses what an engine cannot do, before any work starts.

    Raises:
        RecipeError: `training.deepspeed` names no configuration.
        DependencyError: deepspeed is missing.
        TrainingError: A method or an option that does not go with the engine.
    """
    engine = engine_of(section)
    if engine.zero_stage and find_spec("deepspeed") is None:
        raise DependencyError("deepspeed", "deepspeed", where="training.deepspeed")
    if not engine.cuts:
        return
    name = "FSDP" if engine.fsdp else "ZeRO-3"
    if section.quantised is None and section.method not in CUT:
        raise TrainingError(
            f"{name} cuts the parameters, which is known to work with {' and '.join(CUT)} only",
            where="training.method",
            got=section.method,
            fix="take ZeRO stage 2 or less, or method lora",
        )
    first = section.lora.init_lora_weights
    if section.method == "lora" and first in ("pissa", "olora"):
        raise TrainingError(
            f"needs whole weights, which {name} cuts",
            where="training.lora.init_lora_weights",
            got=str(first),
            fix="take true, or ZeRO stage 2 or less",
        )
    if any(phase.load_best_model_at_end for phase in section.phases):
        raise TrainingError(
            f"does not go with {name}",
            where="training.phases: load_best_model_at_end",
            fix="leave it out, or take ZeRO stage 2 or less",
        )


def engine_dtype(engine: Engine, wanted: torch.dtype) -> torch.dtype:
    """The type that an engine needs weights in.

    DeepSpeed refuses a mixture: with bfloat16 it keeps float32 copies of what trains by itself.

    Args:
        engine: Of this training.
        wanted: What the method would be loaded in.
    """
    return wanted if not engine.zero_stage or torch.cuda.is_available() else torch.float32


def in_one_dtype(model: nn.Module, engine: Engine, dtype: torch.dtype) -> None:
    """Casts what a method has made float32, where DeepSpeed wants one type for all."""
    if engine.zero_stage:
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)


def set_up(engine: Engine) -> dict[str, Any]:
    """Makes the processes ready for an engine; before each phase's `TrainingArguments`.

    Without a GPU, `accelerate` sees one process only unless it is told of the CPU, and knows
    DeepSpeed and FSDP of GPUs alone: there its state is made first, and `TrainingArguments` told
    to take it as it is. DeepSpeed compiles shared-memory communication, which only inference uses,
    when processes first meet: half a minute with a compiler, and a wait without end where a build
    that was killed has left its lock in the cache of torch's extensions.

    Returns:
        Further keywords of `TrainingArguments`.
    """
    if torch.accelerator.is_available():
        return copy.deepcopy(engine.arguments)  # DeepSpeed writes a phase's values into it
    if not engine.afresh:
        return {"use_cpu": True}
    if engine.zero_stage:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import_module("deepspeed.ops").__compatible_ops__["deepspeed_shm_comm"] = False
        # ZeRO-3 loads the model before anything else would make the processes known to it
        import_module("deepspeed.comm").init_distributed("gloo", auto_mpi_discovery=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    known = DistributedType.DEEPSPEED if engine.zero_stage else DistributedType.MULTI_GPU
    PartialState(cpu=True).distributed_type = known
    configured = {"accelerator_config": {"use_configured_state": True}}
    return {**copy.deepcopy(engine.arguments), **configured}


@contextmanager
def whole(parameter: nn.Parameter) -> Iterator[None]:
    """The values of a parameter that ZeRO-3 has cut; what the first process writes is kept."""
    if not hasattr(parameter, "ds_id"):
        yield
        return
    deepspeed: Any = import_module("deepspeed")
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        yield


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """Everything that trains, whole, in this process's memory; every process calls it."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        with whole(parameter):
            value: Any = parameter.detach()
            if hasattr(value, "full_tensor"):  # a DTensor of FSDP
                value = value.full_tensor()
            found[name] = value.to("cpu", copy=True).contiguous()
    return found


def let_go(trainer: Any, engine: Engine) -> None:  # noqa: ANN401
    """Frees an engine, so that the next model is loaded as if there had been none."""
    if engine.arguments:  # said by the recipe; accelerate goes on as if by the launcher
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
        os.environ.pop("ACCELERATE_USE_FSDP", None)
    deepspeed = getattr(trainer, "deepspeed", None)
    if deepspeed is not None:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        deepspeed.destroy()
        unset_hf_deepspeed_config()
    trainer.accelerator.free_memory()
    gc.collect()
