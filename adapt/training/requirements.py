"""What a recipe's training needs that may be missing; known before any work starts."""

from __future__ import annotations

from importlib.util import find_spec

from adapt.errors import DependencyError
from adapt.recipe.training import TrainingSection
from adapt.training.engines import check_engine

# What each place for log lines is a package of; any one of them will do.
TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}

# Optimizers of other packages than torch and transformers.
OPTIMIZERS = ("8bit", "paged", "lion", "ademamix")


def check_section(section: TrainingSection) -> None:
    """Refuses what needs a package that is not installed; loads none.

    Args:
        section: `training` of the recipe.

    Raises:
        DependencyError: One is missing.
        RecipeError: `training.deepspeed` names no configuration.
        TrainingError: The engine does not go with the method or an option.
    """
    for name in section.report_to:
        if not any(find_spec(package) for package in TRACKERS[name]):
            raise DependencyError(TRACKERS[name][0], name, where="training.report_to")
    where = "training.method" if section.quantised else "training.optim"
    foreign = any(part in section.optim for part in OPTIMIZERS)
    if (section.quantised or foreign) and find_spec("bitsandbytes") is None:
        raise DependencyError("bitsandbytes", "quantize", where=where)
    check_engine(section)
