"""wandb: the run in Weights & Biases, offline unless asked otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from bigrun import hookimpl, option
from bigrun.options import above, not_blank
from bigrun.scribe.logger import LibraryLogger, environment_without

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["WandbConfig", "WeightsAndBiases"]

# Where a server is, and who asks. Everything else that the environment may say is for the options here to say.
ONLINE = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_CONFIG_DIR")
# What the library is not to look at, nor to send: the program's output, code, git, the machine, its own crashes. Of
# names that have changed, each version reads the one that it knows.
QUIET = {
    "WANDB_CONSOLE": "off",
    "WANDB_SILENT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_JOB_CREATION": "true",
    "WANDB_ERROR_REPORTING": "false",
    **{f"WANDB_{x}DISABLE_{what}": "true" for x in ("X_", "_") for what in ("STATS", "META", "MACHINE_INFO")},
    **{f"WANDB_{x}SAVE_REQUIREMENTS": "false" for x in ("X_", "_")},
}


@attrs.frozen
class WandbConfig:
    """Where and under which name the run is recorded."""

    mode: Literal["offline", "online", "disabled"] = option(
        "offline",
        help="offline: files in the run directory, for `wandb sync`; online: sent while training, with the account of "
        "`wandb login` or WANDB_API_KEY; disabled: nothing is written.",
    )
    project: str = option("bigrun", check=not_blank(), help="Project in Weights & Biases.")
    name: str | None = option(None, check=not_blank(), help="Name of the run there; absent: that of the run directory.")
    tags: tuple[str, ...] = option((), help="Tags of the run there.")
    finish_seconds: float = option(
        60.0, check=above(0), help="How long the end of a run waits for what is not written or sent yet."
    )


class WeightsAndBiases(LibraryLogger):
    """Metrics, events, pictures and the configuration; never a checkpoint, only where it is. The library lives in a
    process of its own."""

    Config = WandbConfig
    observer = True
    plugin, library, extra, writer = "wandb", "wandb", "wandb", "bigrun_wandb.writer"

    def __init__(self, config: WandbConfig) -> None:
        super().__init__(config.finish_seconds)
        self.config = config

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        where = {
            "offline": f"offline; wandb sync {run.directory}/wandb/offline-run-* sends it",
            "online": f"online, project {self.config.project}",
            "disabled": "disabled: nothing is written",
        }
        return [f"wandb        {where[self.config.mode]}"]

    def is_on(self) -> bool:
        return self.config.mode != "disabled"

    def settings(self, run: Run, folder: Path) -> dict[str, Any]:
        config = self.config
        return {
            "mode": config.mode,
            "project": config.project,
            "name": config.name or run.directory.resolve().name,
            "tags": list(config.tags),
        }

    def environment(self, run: Run, folder: Path) -> dict[str, str]:
        """Without a login offline; with everything that the library would put below $HOME in the plugin's folder."""
        is_online = self.config.mode == "online"
        found = environment_without("WANDB_", ONLINE if is_online else ())
        library = folder / "library"
        folders = {f"WANDB_{what}_DIR": str(library / what.lower()) for what in ("CACHE", "DATA", "ARTIFACT")}
        if not is_online:
            folders["WANDB_CONFIG_DIR"] = str(library / "config")
        return found | QUIET | folders
