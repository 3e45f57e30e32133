"""What a recipe's training needs that may be missing; known before any work starts."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec

from adapt.errors import DependencyError, TrainingError
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
        TrainingError: The engine does not go with the method or an option, or nothing compiles.
    """
    for name in section.report_to:
        if not any(find_spec(package) for package in TRACKERS[name]):
            raise DependencyError(TRACKERS[name][0], name, where="training.report_to")
    where = "training.method" if section.quantised else "training.optim"
    foreign = any(part in section.optim for part in OPTIMIZERS)
    if (section.quantised or foreign) and find_spec("bitsandbytes") is None:
        raise DependencyError("bitsandbytes", "quantize", where=where)
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if section.torch_compile and not shutil.which(compiler):
        raise TrainingError(
            f"needs a C++ compiler, and there is no {compiler} on the PATH",
            where="training.torch_compile",
            fix="install one, name one in CXX, or set it to false",
        )
    check_engine(section)
