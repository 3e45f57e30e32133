"""The head that an objective puts on a model's body, and how the body goes from phase to phase.

All classes of `transformers` for one architecture call the body's parameters by the same names, and
so does PEFT for what it puts into the body. So a phase with another head starts from a model of its
own class, and takes from the phase before whatever has the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from adapt.errors import ModelError
from adapt.training.filling import Classes
from adapt.training.model import CLASSIFIES, WRITES, expecting_new_weights
from adapt.training.parts import outside_layers

_AUTO_CLASSES = {
    "clm": WRITES,
    "sft": WRITES,
    "mlm": "AutoModelForMaskedLM",
    "classification": CLASSIFIES,
}


@dataclass(frozen=True)
class Head:
    """What stands on the body. Two phases with equal heads train one and the same model.

    Attributes:
        auto_class: Class of `transformers` that the model is loaded with.
        settings: Keys of the model's configuration.
    """

    auto_class: str
    settings: dict[str, Any] = field(default_factory=dict)


def model_class(objective: str) -> Any:  # noqa: ANN401
    """The class of `transformers` that an objective's model is loaded with."""
    import transformers

    return getattr(transformers, _AUTO_CLASSES[objective])


def head(objective: str, classes: Classes | None = None, pad: int | None = None) -> Head:
    """The head of a phase.

    Args:
        objective: Of the phase.
        classes: `PhaseData.classes`, for `classification`.
        pad: Id that fills rows up; a decoder's head reads the last token that is not it.
    """
    if classes is None:
        return Head(_AUTO_CLASSES[objective])
    settings = {
        "num_labels": len(classes.names),
        "id2label": dict(enumerate(classes.names)),
        "label2id": {name: i for i, name in enumerate(classes.names)},
        "problem_type": (
            "multi_label_classification" if classes.several else "single_label_classification"
        ),
        "pad_token_id": pad,
    }
    return Head(_AUTO_CLASSES[objective], settings)


def load_with_head(
    folder: Path | str,
    wanted: Head,
    dtype: torch.dtype,
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """A model with a head, which is made anew where the checkpoint has none.

    Args:
        folder: The checkpoint.
        wanted: Its head.
        dtype: Of the weights.
        **options: More of `from_pretrained`, such as `trust_remote_code`.

    Returns:
        The model in evaluation mode, on the processor. Its `new_modules` names the modules that
        the checkpoint lacks, which must train whole (`modules_to_save` of PEFT).

    Raises:
        ModelError: The architecture has no such head.
    """
    import transformers

    auto: Any = getattr(transformers, wanted.auto_class)
    try:
        if quantization := options.get("quantization_config"):
            # What the checkpoint has no weights for cannot be held in fewer bits.
            trust = bool(options.get("trust_remote_code"))
            bare = outline(folder, auto, trust_remote_code=trust)
            quantization.llm_int8_skip_modules = outside_layers(bare)
        with expecting_new_weights():
            model, info = auto.from_pretrained(
                str(folder), dtype=dtype, output_loading_info=True, **wanted.settings, **options
            )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot be loaded with {wanted.auto_class}, {str(error).splitlines()[0]}",
            where=str(folder),
            fix="take a base of another architecture or another objective",
        ) from None
    model.new_modules = new_modules(model, info["missing_keys"])
    return model.eval()


def outline(folder: Path | str, kind: Any, *, trust_remote_code: bool = False) -> nn.Module:  # noqa: ANN401
    """A model without its weights, on the meta device.

    Args:
        folder: The checkpoint, of which only the configuration is read.
        kind: From `model_class`.
        trust_remote_code: As in `transformers`.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        made: nn.Module = kind.from_config(config, trust_remote_code=trust_remote_code)
    return made


def new_modules(model: nn.Module, missing: Collection[str]) -> list[str]:
    """Modules all of whose weights are missing from the checkpoint.

    A weight that is tied to another one, or whose module holds such a weight, is not new.
    """
    parents = dict.fromkeys(name.rpartition(".")[0] for name in sorted(missing))
    found = []
    for name in filter(None, parents):
        module = model.get_submodule(name)
        own = [f"{name}.{n}" for n, _ in module.named_parameters(remove_duplicate=False)]
        if all(n in missing for n in own):
            found.append(name)
    return found


@torch.no_grad()
def hand_over(trained: nn.Module, fresh: nn.Module) -> int:
    """Copies what has the same name and shape: the body, with what trains in it.

    Args:
        trained: The model of the phase before; with the same method and new rows.
        fresh: The model of the next phase.

    Returns:
        Tensors copied.
    """
    given, count = trained.state_dict(), 0
    for name, tensor in fresh.state_dict().items():
        other = given.get(name)
        if other is not None and other.shape == tensor.shape:
            tensor.copy_(other)
            count += 1
    return count


def loss_function(classes: Classes | None) -> Callable[..., Tensor] | None:
    """The loss of a classification phase for `Trainer(compute_loss_func=...)`; None for others.

    The mean over texts (and classes, where a text may have several) of all batches that make a
    step, so that accumulation does not change it.
    """
    if classes is None:
        return None
    weights = None if classes.weights is None else torch.tensor(classes.weights)

    def loss(
        outputs: Any,  # noqa: ANN401
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        logits: Tensor = outputs["logits"].float()  # (texts, classes)
        own = None if weights is None else weights.to(logits.device)
        items = labels.numel() if num_items_in_batch is None else num_items_in_batch
        total = (
            binary_cross_entropy_with_logits(logits, labels, pos_weight=own, reduction="sum")
            if classes.several
            else cross_entropy(logits, labels, weight=own, reduction="sum")
        )
        return total / items

    return loss
