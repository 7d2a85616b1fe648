"""What is worth knowing of one start of a run when its results are looked at years later."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.data.fingerprint import fingerprint
from bigrun.data.split.apply import split_facts
from bigrun.machine import describe_hardware
from bigrun.provenance.packages import describe_plugins, edited_folders, versions_of
from bigrun.provenance.repository import repository

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["gather"]

PACKAGES = ("bigrun", "torch", "numpy", "pillow", "safetensors", "pluggy", "attrs", "cattrs")


def gather(run: Run) -> dict[str, Any]:
    """One start, as JSON and without secrets; nothing of the environment is in it. Never fails for git."""
    plugins = describe_plugins(run.plugins.active)
    distributions = {plugin["distribution"] for plugin in plugins.values() if "distribution" in plugin}
    facts = {
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": run.step,
        "resumed_from": None if run.resumed_from is None else str(run.resumed_from),
        "preset": run.config.source,
        "working_directory": working_directory(),
        "data": fingerprint(run.undivided or run.dataset).as_facts(),
        "split": split_facts(run),
        "repositories": list(repositories(run, distributions)),
        "packages": versions_of(sorted({*PACKAGES, *distributions})),
        "plugins": plugins,
        "python": platform.python_version(),
        "hardware": describe_hardware(run),
        "settings": [attrs.asdict(setting) for setting in run.settings],
    }
    redactor = run.config.redactor()
    return {**redactor.value(facts), "command": redactor.command(sys.orig_argv)}


def working_directory() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return None


def repositories(run: Run, distributions: set[str]) -> Iterator[dict[str, Any]]:
    """The repositories of the preset, of the working directory and of edited packages, each once, with `of`: what
    lies in it."""
    folders: dict[str, Path | None] = {}
    preset = Path(run.config.source)
    if preset.is_file():
        folders["preset"] = preset.absolute().parent
    here = working_directory()
    folders["working directory"] = None if here is None else Path(here)
    for name, folder in edited_folders(sorted({"bigrun", *distributions})).items():
        folders[f"package {name}"] = folder
    found: dict[str, dict[str, Any]] = {}
    states = {path: repository(path) for path in dict.fromkeys(folders.values()) if path is not None}
    for what, path in folders.items():
        state = None if path is None else states[path]
        if state is not None:
            found.setdefault(state["root"], {"of": [], **state})["of"].append(what)
    yield from found.values()
