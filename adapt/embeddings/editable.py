"""Which kinds of models can get tokens; known by the configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapt import bases
from adapt.errors import ModelError


def check_editable(
    base: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> None:
    """Raises what is known to be wrong with a base by its configuration alone.

    Args:
        base: `model.base` of the recipe; what is on the Hub is asked for its configuration.
        revision: `model.revision` of the recipe.
        trust_remote_code: As in `transformers`.

    Raises:
        ModelError: It is of a kind whose tokens cannot be changed.
    """
    from transformers import AutoConfig

    folder = bases.on_disk(base)
    if folder is None and (base.startswith("package:") or Path(base).expanduser().exists()):
        return
    try:
        config = AutoConfig.from_pretrained(
            str(folder or base), revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError):
        return  # said, with its reason, by what reads it
    refuse_uneditable(config, where="model.base", got=base)


def refuse_uneditable(config: Any, *, where: str, got: str | None = None) -> None:  # noqa: ANN401
    """Refuses kinds of models whose tokens have more than an input and an output row.

    Args:
        config: The model's configuration.
        where: For the message.
        got: For the message.

    Raises:
        ModelError: It is of such a kind.
    """
    text = config if config.is_encoder_decoder else config.get_text_config()
    reasons = {
        "it reads with an encoder and writes with a decoder": config.is_encoder_decoder,
        "each of its layers has a table of tokens too": getattr(
            text, "hidden_size_per_layer_input", 0
        ),
        "it reads more than text": text is not config,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ModelError(
                f"a {config.model_type} model cannot be adapted: {reason}",
                where=where,
                got=got,
                fix="take a model of text alone, with a decoder or an encoder",
            )
