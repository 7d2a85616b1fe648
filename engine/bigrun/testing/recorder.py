"""Writes down what a run did: hook calls by name, losses, metrics, events. Never the arguments of a hook, which
would keep every graph alive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from torch import Tensor

from bigrun.events import Event
from bigrun.markers import hookimpl
from bigrun.metrics import TIMINGS
from bigrun.plugins import Plugins
from bigrun.run import Run

__all__ = ["HookCall", "HookCalls", "Recorder"]


@attrs.frozen
class HookCall:
    """One call of one hook."""

    hook: str
    step: int | None
    micro: int | None
    plugins: tuple[str, ...]
    """Who implements it."""

    def __str__(self) -> str:
        where = [f"{name}={value}" for name, value in (("step", self.step), ("micro", self.micro)) if value is not None]
        return " ".join([self.hook, *where])


class HookCalls:
    """Every hook call of a run, in order."""

    def __init__(self) -> None:
        self._calls: list[HookCall] = []

    def append(self, call: HookCall) -> None:
        self._calls.append(call)

    def __iter__(self) -> Iterator[HookCall]:
        return iter(self._calls)

    def names(self) -> list[str]:
        """The hooks' names in calling order."""
        return [call.hook for call in self._calls]

    def of(self, plugin: str) -> list[str]:
        """The hooks of one plugin, by name, in calling order."""
        return [call.hook for call in self._calls if plugin in call.plugins]

    def lines(self) -> list[str]:
        """`before_step step=1`, ..., for a golden file."""
        return [str(call) for call in self._calls]


class Recorder:
    """A companion of the run that brings the images and listens last."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.calls = HookCalls()
        self.losses: list[float] = []
        self.metrics: list[dict[str, float]] = []
        self.events: list[Event] = []
        self.parameters: dict[str, Tensor] = {}
        self.run: Run | None = None

    @hookimpl
    def configure_hooks(self, plugins: Plugins) -> None:
        def before(name: str, impls: Any, arguments: Mapping[str, Any]) -> None:
            implementers = tuple(impl.plugin_name for impl in impls)
            self.calls.append(HookCall(name, arguments.get("step"), arguments.get("micro"), implementers))

        plugins.manager.add_hookcall_monitoring(before, lambda *ignored: None)

    @hookimpl
    def configure_runtime(self, run: Run) -> None:
        self.run = run

    @hookimpl(tryfirst=True)
    def build_dataset(self, run: Run) -> Any:
        return self.dataset or None

    @hookimpl(tryfirst=True)
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        if "loss" in metrics:
            self.losses.append(metrics["loss"])
        self.metrics.append({"step": step} | {k: v for k, v in metrics.items() if k not in TIMINGS})

    @hookimpl(tryfirst=True)
    def on_event(self, run: Run, event: Event) -> None:
        self.events.append(event)

    @hookimpl
    def teardown(self, run: Run) -> None:
        if hasattr(run, "objective"):
            self.parameters = {k: v.detach().clone() for k, v in run.objective.state_dict().items()}
