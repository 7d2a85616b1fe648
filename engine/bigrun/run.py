"""A run: its parts, what it has done so far, and the verbs a plugin may use on it."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bigrun.anomaly import Anomaly
from bigrun.bad_images import BadImages
from bigrun.errors import TornError
from bigrun.events import Event, Level
from bigrun.incidents import Incidents
from bigrun.peers.errors import loss_of_a_peer
from bigrun.peers.exchange import Exchange
from bigrun.process import Process
from bigrun.run_facts import RunFacts
from bigrun.switched_off import switch_off

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bigrun.config import Config
    from bigrun.data.dataset import Samples
    from bigrun.devices import Setting
    from bigrun.plugins import Failure, Plugins
    from bigrun.room import Room

__all__ = ["Run"]

T = TypeVar("T")


class Run(RunFacts):
    """One training run, as one of its processes sees it; its parts are those of `Parts`."""

    def __init__(self, config: Config, directory: Path, plugins: Plugins, process: Process | None = None) -> None:
        self.config = config
        self.directory = directory
        self.plugins = plugins
        self.process = process or Process()
        self.hook = plugins.hook
        plugins.on_failure = self._observer_failed
        self.step = 0
        """Optimizer steps taken; skipped ones count."""
        self.position = 0
        """Images consumed by these steps, over all epochs."""
        self.images_taken = 0
        """Images that the step being taken has consumed."""
        self.activity = "start"
        """What the process is doing: start, data (waiting for images), step, observe (after_step, on_metrics),
        checkpoint or end."""
        self.is_updating = False
        """From the beginning of an update until the step counts: the state is no longer that of the step before."""
        self.saved_step: int | None = None
        """Step of the newest checkpoint, None before the first."""
        self.incidents = Incidents()
        self.bad_images = BadImages()
        self.resumed_from: Path | None = None
        self.room: Room | None = None
        """The forecast of the disk; None for a run that is finished already."""
        self.header: list[str] = []
        """What `header_lines` said, on the main process."""
        self.settings: list[Setting] = []
        """What plugins have set on process and device."""
        self.stop_reason: str | None = None
        self.stash: dict[type, Any] = {}
        """What plugins keep for each other, by type: use `put` and `get`."""
        self.samples: list[Samples] = []
        """The micro-batches of the step being taken, as they were decoded."""
        self.exchange = Exchange()
        self._agreed_stop = False

    # -- verbs ------------------------------------------------------------------------------------------------

    def path_for(self, plugin: str) -> Path:
        """A folder of the run directory that belongs to one plugin; made on first use, from `build_loader` on."""
        if not self.directory.is_dir():
            raise RuntimeError(f"{self.directory} is made when the run is built: use path_for from build_loader on")
        path = self.directory / plugin
        path.mkdir(parents=True, exist_ok=True)
        return path

    def record_setting(self, setting: Setting) -> None:
        """Say what was set, and whether it took effect: a row of the header and of what is written down of the run."""
        self.settings.append(setting)

    def request_stop(self, reason: str) -> None:
        """End the run after the current step, with a checkpoint; exit code 3."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self.event("stop-requested", f"stopping after this step: {reason}")

    def request_checkpoint(self, reason: str, *, by_all: bool = False) -> None:
        """Save a checkpoint after the current step.

        Args:
            by_all: every process of the run asks for it, in the same hook: whoever measures for each checkpoint knows
                of it at once. What one process asks for is known behind the next exchange of all: before the update,
                and after `on_metrics`.
        """
        if by_all:
            self.saver.request(reason)
        else:
            self.exchange.checkpoint(self, reason)

    def report_anomaly(self, anomaly: Anomaly) -> None:
        """Say what is wrong; `on_anomaly` decides what is done about it.

        Until `before_update` has returned it concerns the step being taken, whose update waits for the answer; later,
        as in `on_metrics`, the step that is over, before its checkpoint. What one process reports is answered by all.
        """
        self.incidents.report(anomaly)

    def event(self, kind: str, message: str, level: Level = "info", **facts: Any) -> None:
        """Tell everybody who listens (`on_event`) what happened; `facts` are JSON values.

        The main process tells it, of other processes when the step is over.
        """
        step = max(self.step, self.plugins.step)
        self.exchange.event(self, self.config.redactor().event(Event(kind, message, step, level, facts)))

    def picture(self, name: str, path: Path) -> None:
        """Show a picture that was drawn, a PNG file, to whoever shows such (`on_picture`), on the main process.

        Args:
            name: of the series that the picture is the newest of.
        """
        if self.is_main:
            self.hook.on_picture(run=self, step=self.step, name=name, path=path)

    def put(self, value: object) -> None:
        """Keep a value for other plugins under its type."""
        self.stash[type(value)] = value

    def get(self, kind: type[T]) -> T | None:
        """The value that a plugin has put under this type, or None."""
        return self.stash.get(kind)

    def materialise(self, module: torch.nn.Module) -> None:
        """Give a frozen module on the meta device storage on the run's device; its values are undefined."""
        module.to_empty(device=self.device)

    # -- what the loop asks -----------------------------------------------------------------------------------

    def continues(self) -> bool:
        """Whether another step is to be taken."""
        self._hear_signal()
        heard = self._agreed_stop or (self.stop_reason is not None and self.peers.size == 1)
        return not (self.finished or heard)

    def begin_step(self, step: int) -> None:
        """Set the schedules' values of this step."""
        from bigrun.optimizer import apply_to_optimizer
        from bigrun.weights.freeze import hold_backbone

        self.plugins.step = step
        self.peers.pace.begin_step()
        self.metrics.begin_step()
        self.metrics.throughput.begin_step(step)
        self.schedules.apply(step)
        for name, value in self.schedules.now.items():
            self.metrics.record(name, value)
        apply_to_optimizer(self.optimizer, self.schedules)
        hold_backbone(self, step)

    def end_step(self, step: int) -> None:
        """Count the step and its images."""
        self.peers.pace.end_step()
        self.step, self.activity, self.is_updating = step, "observe", False
        self.position += self.images_taken
        self.images_taken = 0

    def reseed(self, step: int, micro: int) -> None:
        """Make every global random generator a function of (seed, step, micro-batch of the step): micro-batches count
        over all processes, so that what is drawn for one does not depend on which process has it.

        So a resumed run draws what the straight run drew without saving any generator, and an observer that draws
        numbers changes nothing.
        """
        from bigrun.data.draws import derive_seed
        from bigrun.process import seed_generators

        number = micro + 1 + (self.strategy.rank * self.accumulate if micro >= 0 else 0)
        seed = derive_seed(self.config.run.seed, "step", 0, step, number)
        seed_generators(seed, self.device)

    def clip_gradients(self) -> Tensor:
        """Clip each trained module and record its norm; returns the norm over all, before clipping, shape ()."""
        import torch

        modules = self.objective.trained_modules()
        norms = self.strategy.clip_gradients(modules, self.config.optimizer.clip_norm)
        self.metrics.record_all({f"grad_norm/{name}": norm for name, norm in norms.items()})
        total: Tensor = torch.linalg.vector_norm(torch.stack(list(norms.values())))
        self.metrics.record("grad_norm", total)
        return total

    def agree(self, finite: Sequence[Tensor]) -> bool:
        """Whether the step is finite on all processes; also settles stop requests and failed observers."""
        self.flight.record(self.plugins.step, self.position, self.samples, self.metrics.items())
        self._hear_signal()
        stop, failed = self.stop_reason is not None, self.plugins.failed_bits()
        agreement = self.strategy.agree(finite, stop=stop, failed=failed)
        self._agreed_stop = agreement.stop
        self.quarantine(agreement.failed)
        return agreement.healthy

    def _hear_signal(self) -> None:
        """A signal handler only sets a number; here it becomes a request, and an event."""
        if self.stop_signal is not None and self.stop_reason is None:
            self.request_stop(signal.Signals(self.stop_signal).name)

    def tell_metrics(self, step: int) -> None:
        """Flush the metrics of all processes; the main one tells them."""
        metrics = self.metrics.flush()
        if self.is_main:
            self.hook.on_metrics(run=self, step=step, metrics=metrics)

    def quarantine(self, bits: int) -> None:
        """Remove observers that failed on any process, and say so."""
        for name in self.plugins.quarantine(bits, self):
            self.event(
                "quarantined", f"observer {name} is switched off for the rest of the run", "warning", plugin=name
            )

    def _observer_failed(self, failure: Failure, error: BaseException) -> None:
        is_torn = hasattr(self, "strategy") and self.strategy.is_torn
        if is_torn and loss_of_a_peer(error) is not None:
            raise error  # it has failed elsewhere, where it says why
        self.event(
            "observer-failed",
            f"observer {failure.plugin} failed in {failure.hook}: {failure.error}",
            "error",
            plugin=failure.plugin,
            hook=failure.hook,
            traceback=failure.traceback,
        )
        if is_torn:
            raise TornError(
                f"observer {failure.plugin} failed in {failure.hook} in the middle of what all processes do together, "
                f"and they cannot go on without it: {failure.error}. The checkpoints are whole; "
                f"{switch_off(self, failure)}"
            )
