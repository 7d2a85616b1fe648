"""telemetry: temperature, power, clocks, memory and speed, sampled beside the run, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun_telemetry.allocator import read_allocator
from bigrun_telemetry.config import TelemetryConfig
from bigrun_telemetry.flags import judge
from bigrun_telemetry.gpu import Gpu
from bigrun_telemetry.health import section
from bigrun_telemetry.progress import Progress
from bigrun_telemetry.rows import Rows
from bigrun_telemetry.sampler import Sampler
from bigrun_telemetry.sources import Sources, openers
from bigrun_telemetry.work import kind_of_step, moved_bytes

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Telemetry"]


class Telemetry:
    """A thread takes the samples, without any call of CUDA, and the run's hooks tell how fast it is. What the thread
    finds waits for the next hook, which makes an event of it.

    Of the hooks between two steps it is the first and the last that is called: what others do in them, such as an
    evaluation, is no slowness of the steps.
    """

    Config = TelemetryConfig
    observer = True

    def __init__(self, config: TelemetryConfig) -> None:
        self.config = config
        self._progress: Progress | None = None
        self._sampler: Sampler | None = None
        self._kind: Hashable = None

    @hookimpl
    def header_lines(self) -> list[str]:
        return [f"telemetry    looks at the hardware every {self.config.interval_seconds:g} s (telemetry.jsonl)"]

    @hookimpl
    def on_start(self, run: Run) -> None:
        gpu, interval = Gpu.of(run.device), self.config.interval_seconds
        link_gbps = None if gpu is None else gpu.link_gbps
        self._progress = Progress(lambda: (run.plugins.step, run.activity), interval, link_gbps=link_gbps)
        self._sampler = Sampler(
            partial(Sources, openers(gpu, run.directory)),
            self._progress,
            Rows(run.directory, run.path_for("telemetry"), run.strategy.rank, int(self.config.keep_gib * 2**30)),
            partial(
                judge,
                vendor=None if gpu is None else gpu.vendor,
                hot_celsius=self.config.hot_celsius,
                limits=run.config.run,
            ),
            interval,
        )
        self._tell(run, self._sampler)
        self._sampler.start()

    @hookimpl
    def before_update(self, run: Run, step: int) -> None:
        self._kind = kind_of_step(run, step)

    @hookimpl(tryfirst=True)
    def after_step(self, run: Run) -> None:
        assert self._progress is not None
        assert self._sampler is not None
        self._progress.step_ended(run.position, self._kind, moved_bytes(run) if run.facts.is_gpu else 0)
        self._progress.pause_began()
        self._kind = None
        if self._sampler.wants_allocator:
            self._sampler.wants_allocator = False
            self._sampler.allocator = read_allocator(run.device)
        self._tell(run, self._sampler)

    @hookimpl(tryfirst=True)
    def on_metrics(self, metrics: Mapping[str, float]) -> None:
        if self._progress is not None:
            self._progress.metrics_came(metrics)
            self._progress.pause_began()

    @hookimpl(tryfirst=True)
    def on_checkpoint(self, run: Run) -> None:
        if self._progress is not None:
            self._progress.pause_began()
            stall = 0.0 if run.saver.times is None else run.saver.times.stall_seconds
            self._progress.saved(stall, just_now=not run.saver.background)

    @hookimpl(specname="after_step", trylast=True)
    def after_step_of_others(self) -> None:
        self._resume()

    @hookimpl(specname="on_metrics", trylast=True)
    def on_metrics_of_others(self) -> None:
        self._resume()

    @hookimpl(specname="on_checkpoint", trylast=True)
    def on_checkpoint_of_others(self) -> None:
        self._resume()

    def _resume(self) -> None:
        if self._progress is not None:
            self._progress.pause_ended()

    @hookimpl(optionalhook=True)
    def health_section(self, run: Run) -> dict[str, Any] | None:
        """For a health report, if there is one: `title`, `status` (ok, warn, fail), `lines`, `table`."""
        if self._sampler is None:
            return None
        with self._sampler.lock:
            return section(*self._sampler.facts)

    @hookimpl
    def on_finish(self, run: Run) -> None:
        if self._sampler is not None:
            self._tell(run, self._sampler)

    @hookimpl
    def teardown(self, run: Run) -> None:
        sampler, self._sampler = self._sampler, None
        if sampler is not None:
            sampler.end()
            self._tell(run, sampler)

    @staticmethod
    def _tell(run: Run, sampler: Sampler) -> None:
        """Tell what the thread has found, which may be long ago when the run stood still; raise what has ended it."""
        for found in sampler.events():
            run.event(found.kind, found.message, found.level, seen_utc=found.time_utc, **found.facts)
        if sampler.error is not None:
            error, sampler.error = sampler.error, None
            raise error
