"""Mirror steps of a run to Weights & Biases, with the ledger's own times. Needs wandb.

The run there has the job's id. A second export continues after the last step there, so nothing is duplicated. Steps
that a resume superseded stay as an earlier attempt sent them, since W&B only appends.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import wandb

from turnloom.errors import Refused, why
from turnloom.results.files import rows
from turnloom.results.runs import Run
from turnloom.results.scalars import scalars
from turnloom.v1 import training_pb2

PROJECT: Final = "turnloom"  #: unless WANDB_PROJECT or wandb's settings name one
ANSWER_SECONDS: Final = 60.0  #: for W&B to take the run
UPLOAD_SECONDS: Final = 600.0  #: for all steps to arrive there


def mirror(folder: Path, runs: Sequence[Run]) -> list[str]:
    """Send the runs' steps; offline (WANDB_MODE=offline), write folders that `wandb sync` sends later.

    Stops wandb's own process at the end, which completes its files; other wandb runs of this process end with it.

    Args:
        folder: where wandb keeps its files, in wandb/ below it; an unsent export of the same job there is replaced.
        runs: jobs with their steps.

    Returns:
        Address of each run's page; offline its folder.

    Raises:
        Refused: W&B refused, or could not be reached in time.
    """
    try:
        return [_mirror(folder, run) for run in runs]
    finally:
        wandb.teardown()


def _mirror(folder: Path, run: Run) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in (folder / "wandb").glob(f"offline-run-*-{run.job.id}"):
            shutil.rmtree(old)
        with wandb.init(
            project=wandb.setup().settings.project or PROJECT,
            id=run.job.id,
            name=wandb.setup().settings.run_name or run.job.id,
            resume="allow",
            dir=folder,
            config=config_of(run),
            settings=_settings(run.job.host),
        ) as sink:
            for row in rows([run]):
                step = row["step"]
                assert isinstance(step, int)
                if step >= sink.step:  # W&B would refuse each existing step with a warning
                    sink.log({**scalars(row), "_timestamp": row["time"]}, step=step)
            return str(Path(sink.dir).parent) if sink.offline else str(sink.url)
    except (wandb.Error, TimeoutError, OSError) as error:
        said = why(error).strip().splitlines()[0].rstrip(".") if why(error).strip() else type(error).__name__
        raise Refused(
            f"Weights & Biases did not take {run.job.id}: {said}.",
            hint="Log in with `wandb login` or WANDB_API_KEY; WANDB_MODE=offline writes a folder for `wandb sync`.",
        ) from error


def config_of(run: Run) -> dict[str, object]:
    """Return the run's configuration: every hyperparameter (enums by short name), model, datasets, labels."""
    chosen: dict[str, object] = {}
    hyperparameters = run.job.hyperparameters
    for field in training_pb2.Hyperparameters.DESCRIPTOR.fields:
        value = getattr(hyperparameters, field.name)
        if field.enum_type is not None:
            name = field.enum_type.values_by_number[value].name
            value = name.removeprefix(field.enum_type.values[0].name.removesuffix("UNSPECIFIED")).lower()
        chosen[field.name] = value
    about = {name: getattr(run.job, name) for name in ("model", "training_dataset", "test_dataset", "host")}
    about["training_dataset"] = run.training_name
    return {**chosen, **about, "labels": dict(run.job.metadata)}


def _settings(host: str) -> wandb.Settings:
    """Return settings that send nothing about this machine, which did not train; `host` did."""
    return wandb.Settings(
        host=host or "unknown",
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
        init_timeout=ANSWER_SECONDS,
        finish_timeout=UPLOAD_SECONDS,
        finish_timeout_raises=True,
    )
