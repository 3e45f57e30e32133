"""What watches a phase for others: trackers, and a meter of energy. None of them may end it."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from adapt.workspace import Workspace, write_text

logger = logging.getLogger("adapt")

# Where runs go that the user's environment says nothing of.
PROJECT = "adapt"


@dataclass(frozen=True)
class Tracking:
    """Whose training it is.

    Attributes:
        folder: The run folder, where trackers keep their files.
        recipe: Its name; runs of one recipe are a group.
        stage: `adapted` or `control`.
        config: What to show as the run's configuration; it leaves this machine.
    """

    folder: Path
    recipe: str
    stage: str
    config: Mapping[str, Any] = field(default_factory=dict)


class Trackers(TrainerCallback):
    """Hands a phase's logs to the trackers of `report_to`; one that fails is left out from there.

    `Trainer` would put TensorBoard's files among the checkpoints, which go when training ends,
    would leave wandb's first run open for all phases after it, and would end with a tracker's
    error. Use it as a context around training, which closes what training may have left open.

    Args:
        names: `training.report_to`.
        tracking: Whose training it is; None tracks nothing.
        phase: Its name.
    """

    def __init__(self, names: Sequence[str], tracking: Tracking | None, phase: str) -> None:
        self.names = tuple(names) if tracking else ()
        self.tracking, self.phase = tracking, phase
        self.live: dict[str, Any] = {}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Opens all trackers: a new run each, or the same again after an interruption."""
        if not state.is_world_process_zero or self.tracking is None:
            return
        args.run_name = f"{self.tracking.recipe}-{self.tracking.stage}-{self.phase}"
        args.project = trackio_project()
        for name in self.names:
            with self._surviving(name):
                if name == "tensorboard":
                    self._open_tensorboard(state)
                elif name == "wandb":
                    self._open_wandb(args, state)
                self.live.setdefault(name, _callback(name))
                self.live[name].on_train_begin(args, state, control, **kwargs)
                if name == "trackio":
                    recipe = {"recipe": dict(self.tracking.config)}
                    import_module("trackio").config.update(recipe, allow_val_change=True)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Hands a log on."""
        for name in tuple(self.live):
            with self._surviving(name):
                self.live[name].on_log(args, state, control, **kwargs)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Lets trackers write their last."""
        for name in tuple(self.live):
            with self._surviving(name):
                self.live[name].on_train_end(args, state, control, **kwargs)

    def __enter__(self) -> Trackers:
        """Nothing is open before training begins."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Closes all trackers, training done or not."""
        for name in tuple(self.live):
            with self._surviving(name):
                if name == "tensorboard" and self.live[name].tb_writer:
                    self.live[name].tb_writer.close()
                elif name == "wandb":
                    import_module("wandb").finish(exit_code=int(kind is not None))
                elif name == "trackio" and kind is not None:  # else on_train_end has
                    import_module("trackio").finish()
        self.live.clear()

    def _open_tensorboard(self, state: TrainerState) -> None:
        """Event files of a phase that begins anew take the place of older ones."""
        assert self.tracking is not None
        folder = Workspace(self.tracking.folder).tensorboard / f"{self.tracking.stage}-{self.phase}"
        if state.global_step == 0:
            shutil.rmtree(folder, ignore_errors=True)
        with _environment(TENSORBOARD_LOGGING_DIR=str(folder.absolute())):
            self.live["tensorboard"] = _callback("tensorboard")

    def _open_wandb(self, args: TrainingArguments, state: TrainerState) -> None:
        """A run of its own, kept up by its id where training goes on from a checkpoint."""
        assert self.tracking is not None
        kept = Path(str(args.output_dir)) / "wandb-id"
        if state.global_step == 0 or not kept.is_file():
            write_text(kept, uuid.uuid4().hex[:12])
        open_wandb(
            self.tracking.folder,
            self.tracking.recipe,
            str(args.run_name),
            kept.read_text(encoding="utf-8"),
            {"recipe": dict(self.tracking.config)},
        )

    @contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        """Takes a tracker out that fails, and says so."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - trackers raise errors of their own classes
            self.live.pop(name, None)
            logger.warning(
                "training.report_to: %s failed in phase %s (%s: %s); its curves end there, and the "
                "run goes on: report.html has the losses%s",
                name,
                self.phase,
                type(error).__name__,
                " ".join(str(error).split())[:200],
                "; WANDB_MODE=offline needs no network" if name == "wandb" else "",
            )


def open_wandb(folder: Path, group: str, name: str, id_: str, config: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Opens the run of wandb with this id, its files under `folder`/wandb.

    What wandb's own variables say (WANDB_PROJECT, WANDB_RUN_GROUP, WANDB_DIR, WANDB_MODE) goes.
    """
    told = os.environ.get
    return import_module("wandb").init(
        project=told("WANDB_PROJECT", PROJECT),
        group=told("WANDB_RUN_GROUP", group),
        dir=told("WANDB_DIR", str(folder.absolute())),
        name=name,
        id=id_,
        resume="allow",
        config=dict(config),
    )


def trackio_project() -> str:
    """The project of trackio's runs; its own variable goes."""
    return os.environ.get("TRACKIO_PROJECT", PROJECT)


class Energy:
    """Electricity that the machine takes, as codecarbon estimates it, where that is installed.

    Attributes:
        kwh: Kilowatt hours of the block; None where not known.
    """

    def __init__(self) -> None:
        self.kwh: float | None = None
        self._meter: Any = None

    def __enter__(self) -> Energy:
        """Starts the meter, in one process for all of its machine."""
        if find_spec("codecarbon") is None or not PartialState().is_main_process:
            return self
        try:
            # The country turns energy into CO2, which is not asked for; offline asks nobody.
            self._meter = import_module("codecarbon").OfflineEmissionsTracker(
                country_iso_code="USA",
                save_to_file=False,
                log_level="error",
                allow_multiple_runs=True,
            )
            self._meter.start()
        except Exception as error:  # noqa: BLE001 - an estimate is worth no run
            self._meter = None
            logger.warning("codecarbon failed (%s); no energy is reported", error)
        return self

    def __exit__(self, *_: object) -> None:
        """Reads the meter."""
        if self._meter is None:
            return
        try:
            self._meter.stop()
            self.kwh = float(self._meter.final_emissions_data.energy_consumed)
        except Exception as error:  # noqa: BLE001 - an estimate is worth no run
            logger.warning("codecarbon failed (%s); no energy is reported", error)


def _callback(name: str) -> Any:  # noqa: ANN401
    """The tracker's callback of `transformers`."""
    return get_reporting_integration_callbacks([name])[0]()


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Sets variables for as long as the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
