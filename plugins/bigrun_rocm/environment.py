"""Environment variables: which ones a run needs, and how they come back behind it."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from bigrun.devices import Planned, TorchBuild
from bigrun_rocm.config import RocmConfig

__all__ = ["ALLOCATOR_VARIABLES", "Environment", "cache_root", "plan_environment", "version_folder"]

ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""torch takes the first of them that is set; under ROCm, too, the first is the one that every version reads."""
GARBAGE_COLLECTION_FRACTION = 0.8


def cache_root(config: RocmConfig, environment: Mapping[str, str]) -> Path:
    """Where results are kept for later runs."""
    if config.cache_directory is not None:
        return Path(config.cache_directory).expanduser()
    base = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or "~").expanduser() / ".cache")
    return Path(base) / "bigrun" / "rocm"


def version_folder(build: TorchBuild) -> str:
    """`torch-2.13.0+rocm7.1-hip-7.1.52802`: after upgrades what MIOpen had kept crashed
    (ROCm/legacy-rocm-build issue 6034)."""
    return f"torch-{build.version}-hip-{build.hip}"


def plan_environment(build: TorchBuild, environment: Mapping[str, str], config: RocmConfig) -> list[Planned]:
    """Variables that must be there before torch is imported; none for a torch that is not built for ROCm."""
    if build.backend != "rocm":
        return []
    return [plan_allocator(environment, config), *plan_miopen(build, environment, config)]


def plan_allocator(environment: Mapping[str, str], config: RocmConfig) -> Planned:
    for name in ALLOCATOR_VARIABLES:
        if name in environment:
            return Planned(name, None, f"is {environment[name]!r} in the environment", is_custom=True)
    fraction = config.garbage_collection_fraction
    chosen = [f"garbage_collection_threshold:{GARBAGE_COLLECTION_FRACTION if fraction is None else fraction:g}"]
    if config.expandable_segments is not None:
        chosen.append(f"expandable_segments:{config.expandable_segments}")
    reason = "unused blocks are given back before more is asked for; no expandable segments, which crash under ROCm"
    is_custom = fraction is not None or config.expandable_segments is not None
    return Planned(ALLOCATOR_VARIABLES[0], ",".join(chosen), "by option" if is_custom else reason, is_custom)


def plan_miopen(build: TorchBuild, environment: Mapping[str, str], config: RocmConfig) -> list[Planned]:
    folder = cache_root(config, environment) / "miopen" / version_folder(build)
    folders = {"MIOPEN_USER_DB_PATH": folder / "db", "MIOPEN_CUSTOM_CACHE_DIR": folder / "kernels"}
    planned = []
    for name, path in folders.items():
        if name in environment:
            planned.append(Planned(name, None, f"is {environment[name]!r} in the environment", is_custom=True))
        elif config.miopen_cache is False:
            planned.append(Planned(name, None, "miopen_cache = false", is_custom=True))
        else:
            reason = "kept for later runs, apart for each version of torch and ROCm"
            planned.append(Planned(name, str(path), reason, is_custom=config.miopen_cache is True))
    return planned


class Environment:
    """Variables of this process that are set for a run."""

    def __init__(self, variables: MutableMapping[str, str] | None = None) -> None:
        self._variables = os.environ if variables is None else variables
        self._before: dict[str, str | None] = {}

    def set(self, name: str, value: str) -> str | None:
        """Set one; returns what it was."""
        before = self._variables.get(name)
        self._before.setdefault(name, before)
        self._variables[name] = value
        return before

    def undo(self) -> None:
        """Give every variable the value that it had before."""
        for name, value in self._before.items():
            if value is None:
                self._variables.pop(name, None)
            else:
                self._variables[name] = value
        self._before.clear()
