"""Errors of a recipe that can be known before work starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from adapt import bases
from adapt.corpus import check_corpus
from adapt.corpus.read import terms_of
from adapt.embeddings.editable import check_editable
from adapt.errors import AdaptError, ModelError, RecipeErrors, WorkspaceError
from adapt.estimate import Estimate, estimate
from adapt.recipe import Recipe
from adapt.recipe.evaluation import GenerationTask
from adapt.vocab import load_tokenizer, refuse_other_families
from adapt.workspace import Workspace

_GIB = 2**30


def check(recipe: Recipe) -> Estimate | None:
    """Validates everything that can be known before work starts; changes nothing.

    Returns:
        An estimate, or None where the base is not on disk yet and its size is not known.

    Raises:
        RecipeErrors: All that is wrong.
    """
    problems: list[AdaptError] = list(check_corpus(recipe.corpus, recipe.evaluation.tasks))
    checks: tuple[Callable[[], None], ...] = (
        lambda: bases.check(recipe.model.base, recipe.model.revision),
        lambda: Workspace(Path(recipe.output_dir)).claim(recipe.name, recipe.model.base),
        lambda: _check_donor(recipe),
        lambda: _check_terms(recipe),
        lambda: _check_phases(recipe),
        lambda: _check_schemas(recipe),
        lambda: _check_harness(recipe),
        lambda: _check_method(recipe),
        lambda: _check_rows(recipe),
    )
    for one in checks:
        try:
            one()
        except AdaptError as problem:
            problems.append(problem)
    if problems:
        raise RecipeErrors(problems)
    trust = recipe.model.trust_remote_code
    check_editable(recipe.model.base, recipe.model.revision, trust_remote_code=trust)
    found = estimate(recipe)
    _check_family(recipe)
    _check_mask_head(recipe)
    _check_positions(recipe)
    if found:
        _check_disk(Path(recipe.output_dir), found.disk_bytes)
    return found


def _check_donor(recipe: Recipe) -> None:
    """A donor of rows that cannot be had."""
    if recipe.embeddings.donor:
        from adapt.embeddings.donor import check_donor

        trust = recipe.model.trust_remote_code
        check_donor(recipe.embeddings.donor, trust_remote_code=trust)


def _check_terms(recipe: Recipe) -> None:
    for name, given in (
        ("evaluation.terms", recipe.evaluation.terms),
        ("tokenizer.terms", recipe.tokenizer.terms),
        ("tokenizer.score_terms", recipe.tokenizer.score_terms),
    ):
        terms_of(given or [], name)


def _check_family(recipe: Recipe) -> None:
    """A tokenizer that cannot be extended, where the base is on disk already."""
    folder = bases.on_disk(recipe.model.base)
    if folder and recipe.tokenizer.mode != "keep":
        trust = recipe.model.trust_remote_code
        refuse_other_families(load_tokenizer(folder, trust_remote_code=trust))


def _check_phases(recipe: Recipe) -> None:
    """Phases whose tasks are not there, or whose steps the processes cannot share out."""
    from adapt.training.phases import check_tasks, shared_out

    for phase in recipe.training.phases:
        check_tasks(phase, recipe.evaluation.tasks)
        shared_out(phase, int(os.environ.get("WORLD_SIZE", "1")))


def _check_schemas(recipe: Recipe) -> None:
    """JSON schemas that answers are to be checked against."""
    from adapt.evaluation.text_checks import schema_checker

    for task in recipe.evaluation.tasks:
        if isinstance(task, GenerationTask) and task.json_schema:
            schema_checker(Path(task.json_schema))


def _check_harness(recipe: Recipe) -> None:
    """Tasks of lm-evaluation-harness that it has not, or the harness itself missing."""
    if recipe.evaluation.harness:
        from adapt.evaluation.harness import check_harness

        check_harness(recipe.evaluation.harness)


def _check_method(recipe: Recipe) -> None:
    """Packages that the training lacks, and one map of devices for several processes."""
    from adapt.training.model import Loading, check_packages
    from adapt.training.requirements import check_section

    check_section(recipe.training)
    check_packages(Loading.of(recipe.model), recipe.training.quantised)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.model.device_map and processes > 1:
        raise ModelError(
            f"one copy of the model cannot be shared by {processes} processes",
            where="model.device_map",
            got=recipe.model.device_map,
            fix="start one process, or leave it out",
        )


def _check_rows(recipe: Recipe) -> None:
    """New rows alone, where there are none or something else would have to train beside them."""
    training, got = recipe.training, recipe.training.method
    if got != "rows":
        return
    if any(phase.objective == "classification" for phase in training.phases):
        reason = "does not train a head of classes"
        raise ModelError(reason, where="training.method", got=got, fix="take lora or full")
    if recipe.tokenizer.mode in ("keep", "prune"):
        reason = f"there are no new rows to train with tokenizer.mode={recipe.tokenizer.mode}"
        raise ModelError(reason, where="training.method", got=got, fix="take lora or extend")
    if recipe.evaluation.control:
        raise ModelError(
            "trains new rows alone, and the control has none",
            where="training.method",
            got=got,
            fix="set evaluation.control=false: the base itself is scored too",
        )


def _check_positions(recipe: Recipe) -> None:
    """Sequences longer than a base's table of positions, where the base is on disk already."""
    training, folder = recipe.training, bases.on_disk(recipe.model.base)
    if folder is None:
        return
    from adapt.training.heads import model_class, outline
    from adapt.training.methods import PROMPTS
    from adapt.training.parts import learned_positions

    kind = model_class(training.phases[0].objective)
    model = outline(folder, kind, trust_remote_code=recipe.model.trust_remote_code)
    positions = learned_positions(model)
    virtual = training.prompt.num_virtual_tokens if training.method in PROMPTS else 0
    for phase in training.phases:
        if positions is not None and phase.max_length + virtual > positions:
            behind = f" behind {virtual} virtual tokens" if virtual else ""
            raise ModelError(
                f"max_length does not fit into the base's {positions} positions{behind}",
                where=f"training.phases: {phase.name}",
                got=phase.max_length,
                fix=f"set it to {positions - virtual}" if positions > virtual + 1 else None,
            )


def _check_mask_head(recipe: Recipe) -> None:
    """A head for hidden words that nothing would train, or keep, in any of the phases."""
    training, folder = recipe.training, bases.on_disk(recipe.model.base)
    if folder is None or not any(phase.objective == "mlm" for phase in training.phases):
        return
    from adapt.publish.kinds import has_mask_head
    from adapt.training.methods import PROMPTS

    where, fix = "training.method", "take lora or full"
    if training.method in PROMPTS:
        reason = "has virtual tokens, which a model that fills in hidden words has no place for"
        raise ModelError(reason, where=where, got=training.method, fix=fix)
    if training.method == "rows" and not has_mask_head(folder):
        reason = f"does not train the head for hidden words, which {recipe.model.base} lacks"
        raise ModelError(reason, where=where, got=training.method, fix=fix)


def _check_disk(output_dir: Path, needed: int) -> None:
    place = next(p for p in (output_dir.absolute(), *output_dir.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise WorkspaceError(
            f"the disk has {free / _GIB:.1f} GiB free, the run needs about {needed / _GIB:.1f}",
            where="output_dir",
            got=str(output_dir),
            fix="free some space or choose another output_dir",
        )
