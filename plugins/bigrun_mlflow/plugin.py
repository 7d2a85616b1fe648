"""mlflow: the run in MLflow, in files of the run directory unless asked otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl, option
from bigrun.options import above, not_blank
from bigrun.scribe.logger import LibraryLogger, environment_without

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Mlflow", "MlflowConfig"]

# The library reports its use by default, makes an identity of this installation below $HOME for that, and
# refuses (3.17) its own file store without being told.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
}
# Which run and experiment is written is for the options here to say.
STEERING = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_NAME")


@attrs.frozen
class MlflowConfig:
    """Where and under which name the run is recorded."""

    tracking_uri: str | None = option(
        None,
        check=not_blank(),
        help="Where MLflow keeps it: a server (https://...) or a database (sqlite:////absolute/path.db, which needs "
        "the full mlflow package); absent: files in mlflow/store of the run directory, and no network.",
    )
    experiment: str = option("bigrun", check=not_blank(), help="Experiment in MLflow; made if it is not there.")
    name: str | None = option(None, check=not_blank(), help="Name of the run there; absent: that of the run directory.")
    finish_seconds: float = option(
        60.0, check=above(0), help="How long the end of a run waits for what is not written."
    )


class Mlflow(LibraryLogger):
    """Metrics, events, pictures and the configuration; never a checkpoint, only where it is. The library lives in a
    process of its own."""

    Config = MlflowConfig
    observer = True
    plugin, library, extra, writer = "mlflow", "mlflow", "mlflow", "bigrun_mlflow.writer"

    def __init__(self, config: MlflowConfig) -> None:
        super().__init__(config.finish_seconds)
        self.config = config

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        uri = self.config.tracking_uri
        where = f"files in {run.directory}/mlflow/store" if uri is None else run.config.redactor().text(uri)
        return [f"mlflow       {where}, experiment {self.config.experiment}"]

    def settings(self, run: Run, folder: Path) -> dict[str, Any]:
        config = self.config
        return {
            "tracking_uri": config.tracking_uri,
            "experiment": config.experiment,
            "name": config.name or run.directory.resolve().name,
        }

    def environment(self, run: Run, folder: Path) -> dict[str, str]:
        """With what says who asks (MLFLOW_TRACKING_TOKEN and its like), if there is a server to be asked."""
        kept = () if self.config.tracking_uri is None else [n for n in os.environ if n not in STEERING]
        return environment_without("MLFLOW_", kept) | QUIET | {"XDG_CONFIG_HOME": str(folder / "library")}
