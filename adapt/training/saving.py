"""What was trained, on disk: for plain PEFT and `transformers`, and to go on training from."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, TrainableTokensConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adapt.bases import Base
from adapt.errors import TrainingError
from adapt.training.engines import gathered, whole
from adapt.training.model import ADAPTER_CONFIG, CONTEXT, ON_ROWS
from adapt.training.parts import task_type
from adapt.training.precision import ROWS
from adapt.vocab import OUTPUT, TOKENIZER_FILES
from adapt.workspace import write_json

ADAPTER = "adapter_model.safetensors"
STATE = "trainable.safetensors"

Tensors = dict[str, Tensor]


def save_trained(
    model: Any,  # noqa: ANN401
    tokenizer: Path,
    base: Base,
    folder: Path,
    checkpoint: Path,
) -> None:
    """Writes what was trained, with its tokenizer, so that plain PEFT or `transformers` load it.

    An adapter loads from the original base: with the new rows in the adapter and the tokenizer
    beside it, PEFT grows the base by itself. Where PEFT's format has no place for both, the rows
    are the folder's adapter, and what goes onto them lies in `on_rows`. A model that trained its
    own weights becomes a checkpoint, in the type that its base is stored in.

    Args:
        model: The trained model.
        tokenizer: Folder of its tokenizer, whose files are copied in.
        base: The original base, which an adapter names.
        folder: Written into.
        checkpoint: What training started from.
    """
    if isinstance(model, PeftModel):
        _save_adapter(model, base, folder)
    else:
        _save_checkpoint(model, folder, stored_dtype(checkpoint))
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    if (tokenizer / OUTPUT).is_dir():
        shutil.copytree(tokenizer / OUTPUT, folder / OUTPUT)


def trained_bytes(folder: Path) -> int:
    """Size of the weights that `save_trained` wrote."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


# -- adapters ---------------------------------------------------------------------------------


def _save_adapter(model: PeftModel, base: Base, folder: Path) -> None:
    kind = model.peft_config["default"].peft_type
    rows = _wrapped_rows(model) if kind not in ("LORA", "TRAINABLE_TOKENS") else {}
    own = folder / ON_ROWS if rows else folder
    # PEFT's default adds both embedding matrices where the vocabulary differs from the base's.
    model.save_pretrained(str(own), save_embedding_layers=False)
    (own / "README.md").unlink(missing_ok=True)  # PEFT's card says nothing true of this run
    first: Tensors = getattr(model, "first_lora", {})
    rank: int = getattr(model.peft_config["default"], "r", 0)
    _rewrite(own / ADAPTER, lambda tensors: _plain(tensors, first, rank, keep_rows=not rows))
    _name_base(own, base, shifted=bool(first))
    dtype = model.get_input_embeddings().weight.dtype
    if rows:
        _save_rows(model, rows, folder)
        _name_base(folder, base)
    _rewrite(folder / ADAPTER, lambda tensors: _narrow(tensors, dtype))
    if context := _context(model):
        write_json(folder / CONTEXT, context)


def _context(model: PeftModel) -> dict[str, Any]:
    """Keys of the configuration that are not the base's: stretched positions, a head's labels."""
    config: Any = model.config
    found: dict[str, Any] = {}
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        length = config.max_position_embeddings
        found |= {"rope_parameters": rope, "max_position_embeddings": length}
    if task_type(model.get_base_model()) == "SEQ_CLS":
        found |= {
            "num_labels": config.num_labels,
            "id2label": config.id2label,
            "label2id": config.label2id,
            "problem_type": config.problem_type,
            "pad_token_id": config.get_text_config().pad_token_id,
        }
    return found


def _wrapped_rows(model: PeftModel) -> Tensors:
    """New rows by the name of the module whose they are, as `get_base_model` calls it."""
    end = f".token_adapter.{ROWS}.default"
    base = model.get_base_model()
    return {n.removesuffix(end): p for n, p in base.named_parameters() if n.endswith(end)}


def _save_rows(model: PeftModel, rows: Tensors, folder: Path) -> None:
    """Rows as an adapter of PEFT's own kind for them.

    A tied output has none of its own in the model, but is looked for when they are loaded.
    """
    base: Any = model.get_base_model()
    wrapper: Any = base.get_submodule(next(iter(rows)))
    config = TrainableTokensConfig(
        task_type=task_type(base),
        token_indices=list(wrapper.token_adapter.token_indices["default"]),
        target_modules=[name.rsplit(".", 1)[-1] for name in rows],
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    outputs = base.get_output_embeddings()
    wrapped = hasattr(outputs, "token_adapter")
    ends = (n for n, m in base.named_modules() if m is outputs and wrapped)
    tied = {name: next(iter(rows.values())) for name in ends if name not in rows}
    tensors = {
        f"base_model.model.{name}.{ROWS}": rows_.detach().clone().contiguous()
        for name, rows_ in {**rows, **tied}.items()
    }
    save_file(tensors, str(folder / ADAPTER), metadata={"format": "pt"})


def _rewrite(weights: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = change(load_file(str(weights)))
    empty = [name for name, tensor in tensors.items() if not tensor.numel()]
    if empty:
        raise TrainingError(
            "a weight came out empty: its shards were not gathered",
            where=str(weights),
            got=empty[0],
            fix="take ZeRO stage 2, or stage3_gather_16bit_weights_on_model_save",
        )
    save_file(tensors, str(weights), metadata={"format": "pt"})
    weights.chmod(0o644)


def _narrow(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """Stores new rows in the type of the matrix that they go into.

    They train in float32, and every forward pass rounds them to the matrix: to store more would
    make the adapter larger and no logit different.
    """
    return {n: t.to(dtype) if ROWS in n else t for n, t in tensors.items()}


def _plain(tensors: Tensors, first: Tensors, rank: int, *, keep_rows: bool) -> Tensors:
    """Adapters as plain LoRA on the original weights, without rows that are kept elsewhere.

    Where first values B0 A0 were not zero in effect and the frozen weights made up for them (W -
    s B0 A0, or W rounded to 4 bits), what was learned is s (B A - B0 A0), which is LoRA of twice
    the rank: [B, -B0] and [A; A0]. A decomposition of a layer smaller than the rank has fewer
    rows; zeros make up what the rank that is written down promises.
    """
    kept = {n: t for n, t in tensors.items() if keep_rows or ROWS not in n}
    before = {name.replace(".default.", "."): tensor for name, tensor in first.items()}
    for name, tensor in kept.items():
        if name in before:
            other = before[name].to(tensor)
            down = ".lora_A." in name
            axis = 0 if down else 1
            both = torch.cat([tensor, other if down else -other], axis)
            missing = 2 * rank - both.shape[axis]
            kept[name] = pad(both, (0, 0, 0, missing) if down else (0, missing))
    return kept


def _name_base(folder: Path, base: Base, *, shifted: bool = False) -> None:
    """Names the original base, and the rank that the weights have."""
    path = folder / ADAPTER_CONFIG
    record = json.loads(path.read_text(encoding="utf-8"))
    record["base_model_name_or_path"], record["revision"] = base.reference, base.revision
    if shifted:
        scale = math.sqrt(2) if record["use_rslora"] else 2
        record["lora_alpha"] *= scale  # the scale of twice the rank stays what it was
        record["r"] *= 2
        record["init_lora_weights"] = True
    write_json(path, record)


# -- checkpoints ------------------------------------------------------------------------------


def stored_dtype(checkpoint: Path) -> torch.dtype:
    """The type that a checkpoint says its weights have; float32 where it says none."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    return getattr(torch, name)  # type: ignore[no-any-return]


def _save_checkpoint(model: Any, folder: Path, dtype: torch.dtype) -> None:  # noqa: ANN401
    """The whole model; tensors that are one in the model stay one."""
    cast: dict[int, Tensor] = {}
    state: Tensors = {}
    for name, tensor in model.state_dict().items():
        wide = tensor.is_floating_point()
        key = tensor.data_ptr()
        state[name] = cast.setdefault(key, tensor.to(dtype)) if wide else tensor
    cached, model.config.use_cache = model.config.use_cache, True
    model.save_pretrained(str(folder), state_dict=state)
    model.config.use_cache = cached
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    record["dtype"] = str(dtype).removeprefix("torch.")  # else that of the model in memory
    write_json(folder / "config.json", record)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)


# -- going on ---------------------------------------------------------------------------------


def save_state(model: nn.Module, folder: Path) -> None:
    """Everything that trains, exactly: what an adapter's own format may leave out."""
    write_state(gathered(model), folder)


def write_state(trained: Tensors, folder: Path) -> None:
    """The same, from what `engines.gathered` gave to every process."""
    save_file(trained, str(folder / STATE), metadata={"format": "pt"})


@torch.no_grad()
def load_state(model: nn.Module, folder: Path, *, only_known: bool = False) -> None:
    """Takes up what `save_state` wrote.

    Args:
        model: Prepared alike.
        folder: Written by `save_state`.
        only_known: Leaves out what the model has no place for: it may have another head.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in load_file(str(folder / STATE)).items():
        held = parameters.get(name) if only_known else parameters[name]
        if held is None:
            continue
        with whole(held):
            if held.shape == tensor.shape or not only_known:
                held.copy_(tensor)


class StateInCheckpoints(TrainerCallback):
    """Keeps in Trainer's checkpoints what PEFT's format leaves out: the network of p_tuning.

    PEFT writes the virtual tokens that the network makes, and reads them back into its input.
    """

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Writes into the checkpoint that was just made."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if _has_network(kwargs["model"]) and state.is_world_process_zero:
            save_state(kwargs["model"], folder)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Takes up where the checkpoint was."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if _has_network(kwargs["model"]) and (folder / STATE).is_file():
            load_state(kwargs["model"], folder)


def _has_network(model: Any) -> bool:  # noqa: ANN401
    """Whether what is saved of a model is made by a network that trains."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    return sum("prompt_encoder" in name for name in trained) > 1
