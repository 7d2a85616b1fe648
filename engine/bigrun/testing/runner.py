"""Run the engine inside a test: tiny, on the CPU, on synthetic images; or the real command line."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from bigrun.checkpoint.layout import step_name
from bigrun.config import Document
from bigrun.errors import BigrunError, ExitCode
from bigrun.run import Run
from bigrun.session import run_training
from bigrun.testing.processes import Member, run_together
from bigrun.testing.recorder import HookCalls, Recorder

__all__ = ["TINY", "RunResult", "Runner", "SyntheticImages"]

# One thread: the tensors are so small that on a busy machine two threads wait for each other; 0.1 s becomes 8 s.
TINY: Mapping[str, Any] = {
    # Checkpoints in the foreground, so that the order of hooks does not depend on the disk.
    "run": {
        "log_every_steps": 1, "checkpoint_every_steps": 1, "max_steps": 3, "background_checkpoints": False,
    },
    "data": {"effective_batch": 4, "workers": 0},
    "model": {
        "width": 32, "depth": 2, "heads": 2, "ffn_hidden": 64, "patch_size_px": 8, "storage_tokens": 1,
        "layerscale": 0.1,
    },
    "views": {"global_size_px": 32, "local_size_px": 16, "local_crops": 2},
    # Without KoLeo, whose groups would depend on the micro-batch.
    "objective": {"head_hidden": 32, "head_bottleneck": 16, "prototypes": 64, "koleo_weight": 0.0},
    "optimizer": {"warmup_steps": 0, "freeze_last_layer_steps": 0},
    "hardware": {"device": "cpu", "precision": "fp32", "threads": 1},
}  # fmt: skip


class SyntheticImages:
    """Smooth coloured images, each a function of its index."""

    def __init__(self, length: int = 12, size_px: int = 40) -> None:
        self.length = length
        self.size_px = size_px

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        """(3, size, size) uint8."""
        y, x = np.mgrid[0 : self.size_px, 0 : self.size_px] / self.size_px
        waves = [np.sin((index + 2 + c) * 2 * x + c) + np.cos((index % 5 + 1) * 3 * y - c) for c in range(3)]
        return torch.from_numpy(((np.stack(waves) + 2) / 4 * 255).astype(np.uint8))


@attrs.frozen
class RunResult:
    """What a run did."""

    exit_code: int
    error: BigrunError | None
    run: Run | None
    directory: Path
    losses: list[float]
    """Loss of every step that was not skipped; bitwise comparable."""
    metrics: list[dict[str, float]]
    """Every flush, without the timings."""
    hooks: HookCalls
    events: list[Any]
    parameters: dict[str, Tensor]
    """The objective's tensors at the end, student and teacher."""

    def assert_finished(self) -> None:
        """The run took all its steps and nothing was quarantined."""
        assert self.error is None, f"the run ended with: {self.error}"
        assert self.exit_code == ExitCode.FINISHED, f"exit code {self.exit_code}; {[e.message for e in self.events]}"

    def damage(self, step: int, part: str) -> None:
        """Flip one bit in `<part>.safetensors` of a checkpoint, as a failing disk does."""
        path = self.directory / "checkpoints" / step_name(step) / f"{part}.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    @property
    def quarantined(self) -> list[str]:
        """Names of observers that failed."""
        return list(self.run.plugins.failures) if self.run else []

    @property
    def checkpoints(self) -> list[int]:
        """Steps of the checkpoints on disk."""
        from bigrun.checkpoint.store import CheckpointStore

        return CheckpointStore(self.directory / "checkpoints").steps()


class Runner:
    """Runs in a directory of the test's own."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self._count = 0

    def document(
        self, plugins: Mapping[str, Any], *, steps: int = 3, accumulate: int = 1, **tables: Mapping[str, Any] | None
    ) -> Document:
        """The tiny preset with plugins; `tables` override options by table, and None takes out an option or a table."""
        merged: dict[str, Any] = copy.deepcopy(dict(TINY))
        merged["run"]["max_steps"] = steps
        merged["data"]["micro_batch"] = merged["data"]["effective_batch"] // accumulate
        for name, table in tables.items():
            changed = merged.pop(name, {}) | dict(table) if table is not None else {}
            merged[name] = {option: value for option, value in changed.items() if value is not None}
        merged["plugins"] = dict(plugins)
        return Document("test", "test", merged)

    def run(
        self,
        *names: str,
        steps: int = 3,
        accumulate: int = 1,
        config: Mapping[str, Any] | None = None,
        companions: Sequence[Any] = (),
        directory: Path | None = None,
        dataset: Any = None,
        **tables: Mapping[str, Any] | None,
    ) -> RunResult:
        """Train with the plugins of these names.

        Args:
            config: options of the first plugin.
            companions: hook implementations of the test itself, registered as they are.
            directory: a run directory to continue; absent: a new one.
            dataset: images instead of the synthetic ones; pass False to let the plugins bring them.
            tables: options of the engine by table, as `views={"local_crops": 0, "local_size_px": None}`; None takes an
                option, or a whole table, out of the tiny preset.
        """
        plugins = {name: dict(config or {}) if i == 0 else {} for i, name in enumerate(names)}
        document = self.document(plugins, steps=steps, accumulate=accumulate, **tables)
        self._count += 1
        directory = directory or self.tmp_path / f"run-{self._count}"
        return self._train(document, directory, companions, SyntheticImages() if dataset is None else dataset)

    def together(
        self,
        *names: str,
        processes: int = 2,
        steps: int = 3,
        accumulate: int = 1,
        config: Mapping[str, Any] | None = None,
        directory: Path | None = None,
        dataset: Any = None,
        timeout_seconds: float = 120,
        **tables: Mapping[str, Any] | None,
    ) -> list[Member]:
        """Train in so many processes of one run, as torchrun starts them; by rank. Arguments as for `run`.

        Args:
            accumulate: micro-batches of a step over all processes are so many: a multiple of `processes`.
            dataset: is pickled.
            timeout_seconds: a process that takes longer is killed.
        """
        plugins = {name: dict(config or {}) if i == 0 else {} for i, name in enumerate(names)}
        document = self.document(plugins, steps=steps, accumulate=max(accumulate, processes), **tables)
        self._count += 1
        directory = directory or self.tmp_path / f"run-{self._count}"
        images = SyntheticImages() if dataset is None else dataset
        return run_together(document, directory, images, processes, timeout_seconds)

    def resume(self, result: RunResult, at_step: int, **tables: Mapping[str, Any]) -> RunResult:
        """Continue a copy of a run from its checkpoint of `at_step`, as if the run had died right after it."""
        assert result.run is not None
        self._count += 1
        directory = self.tmp_path / f"run-{self._count}"
        shutil.copytree(result.directory, directory)
        for step in result.checkpoints:
            if step > at_step:
                shutil.rmtree(directory / "checkpoints" / result.run.checkpoints.path(step).name)
        document = Document("test", "test", result.run.config.tables())
        merged = {**document.tables, **{n: {**document.tables.get(n, {}), **t} for n, t in tables.items()}}
        recorder = Recorder(result.run.dataset)
        recorder.metrics += [row for row in result.metrics if row["step"] <= at_step]
        recorder.losses += [row["loss"] for row in recorder.metrics if "loss" in row]
        return self._train(Document("test", "test", merged), directory, (), result.run.dataset, recorder)

    def _train(
        self,
        document: Document,
        directory: Path,
        companions: Sequence[Any],
        dataset: Any,
        recorder: Recorder | None = None,
    ) -> RunResult:
        recorder = recorder or Recorder(dataset)
        everybody = {"recorder": recorder} | {f"companion-{i}": c for i, c in enumerate(companions)}
        error, code = None, int(ExitCode.ERROR)
        try:
            _, code = run_training(document, directory, companions=everybody)
        except BigrunError as caught:
            error, code = caught, int(caught.exit_code)
        return RunResult(
            exit_code=int(code),
            error=error,
            run=recorder.run,
            directory=directory,
            losses=recorder.losses,
            metrics=recorder.metrics,
            hooks=recorder.calls,
            events=recorder.events,
            parameters=recorder.parameters,
        )

    def cli(
        self, *arguments: str, check: bool = False, timeout_seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run the real command line in the test's directory."""
        return subprocess.run(
            [sys.executable, "-m", "bigrun", *arguments],
            cwd=self.tmp_path,
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout_seconds,
        )
