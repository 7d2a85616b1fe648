"""What a dry run sees of its steps: a companion of the run, in the process that trains."""

from __future__ import annotations

import hashlib
import math
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun.checkpoint.facts import encode_facts
from bigrun.checkpoint.listing import count_bytes
from bigrun.checkpoint.retention import Policy
from bigrun.dry_run.fingerprints import fingerprints
from bigrun.dry_run.written import sizes_of
from bigrun.markers import hookimpl
from bigrun.metrics import TIMINGS
from bigrun.saver import Saver

if TYPE_CHECKING:
    from bigrun.events import Event
    from bigrun.run import Run

__all__ = ["Watching", "peak_of_process"]


def peak_of_process() -> int:
    """The most memory, in bytes, that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class OneSave(Saver):
    """Saves after one step only, or not at all: the run's directory goes away with its last state."""

    def __init__(self, step: int | None, *, background: bool) -> None:
        super().__init__(1, background=background)
        self.step = step
        self.saved: dict[str, str] | None = None
        """`fingerprints` of what was saved."""

    def due(self, step: int) -> bool:
        return step == self.step

    def save(self, run: Run) -> None:
        if run.step == self.step:
            self.saved = fingerprints(run)
            super().save(run)
        else:
            run.saved_step = run.step  # what ends the run takes its state for saved


class Watching:
    """Stops the run after some steps, with a checkpoint after one of them, and writes down what happened.

    The run keeps its own length, so that its schedules are those of its first steps.
    """

    def __init__(self, stop_at: int, save_at: int | None, compare_at: int | None, tell: Callable[..., None]) -> None:
        """
        Args:
            compare_at: the step after which the state of plugins is compared with another run's.
        """
        self.stop_at = stop_at
        self.save_at = save_at
        self.compare_at = compare_at
        self.tell = tell
        self.facts: dict[str, Any] = {"before_bytes": peak_of_process(), "warnings": [], "header": [], "left_out": []}
        self.rows: dict[int, dict[str, float | str]] = {}
        self.timings: dict[int, dict[str, float]] = {}
        self.seconds: dict[int, float] = {}
        self.sizes: dict[int, dict[str, int]] = {}
        self._since = 0.0

    @hookimpl(tryfirst=True)
    def configure_runtime(self, run: Run) -> None:
        run.process.is_rehearsal = True

    @hookimpl(trylast=True)
    def on_start(self, run: Run) -> None:
        config, room = run.config, run.room
        run.saver = OneSave(self.save_at, background=config.run.background_checkpoints)
        self.facts |= {
            "parallel": run.strategy.line(),
            "device": f"{run.device} in {config.hardware.precision}: {run.facts.line()}",
            "is_gpu": run.device.type == "cuda",
            "effective_batch": config.data.effective_batch,
            "images": len(run.dataset),
            "max_steps": run.max_steps,
            "checkpoint_every_steps": config.run.checkpoint_every_steps,
            "background": config.run.background_checkpoints,
            "parameters": parameters(run),
            "header": list(run.header),
            "stateless": stateless(run),
            "rotation": rotation(run),
        }
        if run.resumed_from is not None:
            self.facts["restored"] = fingerprints(run)
        if room is not None:
            self.facts |= {"free_bytes": room.free_bytes, "room": room.count, "expected_bytes": room.checkpoint_bytes}
        self._since = time.perf_counter()

    @hookimpl(tryfirst=True)
    def before_step(self, run: Run, step: int) -> None:
        if step >= self.stop_at:  # several processes end together behind the step in which all know
            run.request_stop("the dry run has seen enough")

    @hookimpl(trylast=True)
    def after_step(self, run: Run, step: int) -> None:
        now = time.perf_counter()
        self.seconds[step], self._since = now - self._since, now
        if run.is_main:
            self.sizes[step] = sizes_of(run.directory)
        if step == self.save_at:
            self.facts["before_save_bytes"] = peak_of_process()
        if step == self.compare_at and run.is_main:  # of several processes a checkpoint has the main one's
            self.facts["states"] = states(run)
        self.tell(step=step)

    @hookimpl(tryfirst=True)
    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows[step] = {name: as_json(value) for name, value in metrics.items() if name not in TIMINGS}
        self.timings[step] = {name: metrics[name] for name in TIMINGS if name in metrics}

    @hookimpl(tryfirst=True)
    def on_checkpoint(self, run: Run, step: int, path: Path) -> None:
        times = run.saver.times
        assert times is not None
        self.facts["checkpoint"] = {
            "step": step,
            "path": str(path),
            "bytes": count_bytes(path),
            "stall_seconds": times.stall_seconds,
            "total_seconds": times.total_seconds,
        }

    @hookimpl
    def on_event(self, event: Event) -> None:
        if event.kind == "logger-off":
            self.facts["left_out"].append(event.message)
        elif event.level != "info":
            self.facts["warnings"].append(f"{event.kind}: {event.message}")

    def answer(self, run: Run) -> dict[str, Any]:
        """Everything, as JSON."""
        import torch

        if run.device.type == "cuda":
            self.facts["device_peak_bytes"] = torch.cuda.max_memory_allocated(run.device)
            self.facts["device_reserved_bytes"] = torch.cuda.max_memory_reserved(run.device)
        return self.facts | {
            "saved": getattr(run.saver, "saved", None),
            "steps": run.step,
            "stop_reason": run.stop_reason,
            "failures": {name: failure.error for name, failure in run.plugins.failures.items()},
            "peak_bytes": peak_of_process(),
            "rows": self.rows,
            "timings": self.timings,
            "seconds": self.seconds,
            "sizes": self.sizes,
        }


def parameters(run: Run) -> dict[str, int]:
    from bigrun.summary import count_parameters

    return count_parameters(run.objective, run.objective.trained_modules())


def stateless(run: Run) -> list[str]:
    """Plugins that may change training and save nothing of their own."""
    observers = run.plugins.observers()
    return [n for n, plugin in run.plugins.active.items() if n not in observers and not hasattr(plugin, "state_dict")]


def rotation(run: Run) -> dict[str, Any] | None:
    """How many checkpoints stay, where a plugin says so by a `policy`; None where nothing is removed."""
    policies = [getattr(plugin, "policy", None) for plugin in run.plugins.active.values()]
    for policy in policies:
        if isinstance(policy, Policy):
            return {"keep_last": policy.keep_last, "milestones_every_steps": policy.milestones_every_steps}
    return None


def states(run: Run) -> dict[str, str]:
    """The hash of what each plugin that may change training would save now."""
    return {
        name: hashlib.sha256(encode_facts(facts["state"], name)).hexdigest()
        for name, facts in run.plugins.state_dict().items()
        if not facts["observer"]
    }


def as_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(float(value))
