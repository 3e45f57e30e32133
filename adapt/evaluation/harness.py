"""Tasks of EleutherAI's lm-evaluation-harness, by their names there: a bridge, and no task of ours.

Gao et al., A framework for few-shot language model evaluation, https://github.com/EleutherAI/
lm-evaluation-harness. Most of its tasks fetch their data from the Hub.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from adapt.errors import DataError, DependencyError, RecipeError, nearest
from adapt.evaluation.bootstrap import Interval
from adapt.recipe.evaluation import HarnessSection

_WHERE = "evaluation.harness"
_Z = 1.96  # of a 95 % interval around a mean with a normal error


def check_harness(section: HarnessSection) -> None:
    """Refuses tasks that cannot be run; loads no data.

    Raises:
        DependencyError: lm_eval is not installed.
        RecipeError: There is no such task.
    """
    if find_spec("lm_eval") is None:
        raise DependencyError("lm_eval", "harness", where=_WHERE)
    known = _manager(section.include_path).all_tasks
    for name in section.tasks:
        if name not in known:
            fix = nearest(name, known)
            raise RecipeError("no such task", where=f"{_WHERE}.tasks", got=name, fix=fix)


def harness_scores(
    section: HarnessSection,
    model: Any,  # noqa: ANN401 - transformers' models share no typed base
    tokenizer: Any,  # noqa: ANN401
    *,
    batch_size: int,
    seed: int,
) -> dict[str, dict[str, Interval]]:
    """Scores a model on the harness's tasks.

    Args:
        section: Which tasks, and how much of them.
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        batch_size: Sequences at once.
        seed: Of the examples shown.

    Returns:
        By task, then by metric as the harness calls it. Intervals are normal ones from the standard
        error that it reports; without one, or for a metric that has none, the value thrice.

    Raises:
        DependencyError: lm_eval is not installed.
        RecipeError: There is no such task.
        DataError: A task's data cannot be had.
    """
    check_harness(section)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    try:
        found = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=list(section.tasks),
            num_fewshot=section.num_fewshot,
            limit=section.limit,
            task_manager=_manager(section.include_path),
            log_samples=False,
            bootstrap_iters=1000,  # of metrics that are no means; none would leave all errors out
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (OSError, ValueError) as error:  # data sets that are not there, whatever the reason
        reason = str(error).strip().splitlines()[0]
        fix = "fetch the data once with a network, or leave the task out"
        raise DataError(f"cannot be scored, {reason}", where=_WHERE, fix=fix) from None
    results: dict[str, dict[str, Any]] = found["results"]
    return {task: _metrics(measured) for task, measured in results.items()}


def _metrics(measured: dict[str, Any]) -> dict[str, Interval]:
    """`acc,none` and `acc_stderr,none` of the harness as one interval."""
    found = {}
    for name, value in measured.items():
        metric, _, kind = name.partition(",")
        if not isinstance(value, int | float) or not kind or metric.endswith("_stderr"):
            continue
        error = measured.get(f"{metric}_stderr,{kind}")
        half = _Z * error if isinstance(error, int | float) else 0.0
        shown = metric if kind == "none" else f"{metric} ({kind})"
        found[shown] = Interval(float(value), float(value - half), float(value + half))
    return found


@lru_cache(maxsize=1)
def _manager(include_path: str | None) -> Any:  # noqa: ANN401
    """Index of all tasks by name: thousands of files, read once for the check and every model.

    It says which tasks there are; what a task says is read when it is scored.
    """
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)
