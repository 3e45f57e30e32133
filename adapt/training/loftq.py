"""First values of adapters that make good what quantisation lost (LoftQ)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from adapt.errors import ModelError


@torch.no_grad()
def loftq(peft_model: Any) -> None:  # noqa: ANN401
    """Adapters that make good what 4 bits lost, from the weights of the checkpoint itself.

    The best approximation of rank r to W - Q(W), by its singular value decomposition (Li et al.
    2023, algorithm 1, one step; Q(W) stays what was loaded). PEFT's own needs a GPU.
    """
    from bitsandbytes.functional import dequantize_4bit
    from safetensors import safe_open

    base = peft_model.get_base_model()
    files = sorted(Path(base.name_or_path).glob("*.safetensors"))
    opened: list[Any] = [safe_open(str(path), "pt") for path in files]
    stored = {name: file for file in opened for name in file.keys()}
    for name, module in base.named_modules():
        if not (hasattr(module, "lora_A") and hasattr(module.base_layer.weight, "quant_state")):
            continue
        # A checkpoint of a bare body has the names of its own class.
        bare = name.removeprefix(f"{base.base_model_prefix}.")
        key = f"{name}.weight" if f"{name}.weight" in stored else f"{bare}.weight"
        if key not in stored:
            raise ModelError(
                f"loftq finds no {name}.weight in the checkpoint",
                where="training.lora.init_lora_weights",
                fix="take true",
            )
        held = module.base_layer.weight
        weight = stored[key].get_tensor(key).to(held.device).float()
        lost = weight - dequantize_4bit(held.data, held.quant_state).float()
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        u, sigma, v = torch.linalg.svd(lost, full_matrices=False)
        rank = min(len(down), len(sigma))
        root = sigma[:rank].sqrt()
        down.zero_()[:rank] = root[:, None] * v[:rank]
        up.zero_()[:, :rank] = u[:, :rank] * root / module.scaling["default"]
