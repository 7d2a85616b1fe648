"""What happens to one process of several; `--plugin one_of_many:NAME`."""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

from torch import Tensor

from bigrun import hookimpl
from bigrun.anomaly import Action, Anomaly


def is_other(run: Any) -> bool:
    return bool(run.strategy.rank == run.strategy.world_size - 1 > 0)


class Infinite:
    @hookimpl
    def loss_terms(self, run: Any, step: int, outputs: Any) -> dict[str, Tensor]:
        zero = 0 * outputs.global_features.cls.sum()
        return {"infinite": zero + (float("inf") if step == 2 and is_other(run) else 0)}


class Fails:
    observer = True

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            raise ValueError("on one process")


class Stops:
    observer = True

    @hookimpl
    def after_update(self, run: Any, step: int) -> None:
        if step == 4 and is_other(run):
            os.kill(os.getpid(), signal.SIGTERM)


class Empty:
    """The loader of one process ends after three steps."""

    @hookimpl(wrapper=True)
    def build_loader(self, run: Any) -> Any:
        loader = yield
        return itertools.islice(loader, 3 * run.accumulate) if is_other(run) else loader


class Halts:
    """Asked what to do about what another process has found, the main one answers for all."""

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            run.report_anomaly(Anomaly("odd", step, "something is odd"))

    @hookimpl
    def on_anomaly(self, run: Any) -> Action:
        return Action.WARN if is_other(run) else Action.HALT


class Dies:
    observer = True

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        if step == 4 and str(run.strategy.rank) == os.environ["DIES"]:
            os.kill(os.getpid(), signal.SIGKILL)


class Passes:
    """Writes down whose forward passes each process has made, in their order."""

    def __init__(self) -> None:
        self.made: list[str] = []

    @hookimpl(tryfirst=True)
    def on_start(self, run: Any) -> None:
        networks = {"student": run.objective.student, "teacher": run.objective.teacher, **run.frozen}
        for name, network in networks.items():
            for module in network.modules():
                if hasattr(module, "blocks"):
                    module.blocks[0].register_forward_pre_hook(lambda *_, name=name: self.made.append(name))

    @hookimpl
    def before_step(self, step: int) -> None:
        self.made.append(f"step {step}")

    @hookimpl(trylast=True)
    def on_finish(self, run: Any) -> None:
        path = run.path_for("passes") / f"rank-{run.peers.rank}"
        path.write_text("\n".join(self.made), encoding="utf-8")


class AsksAlone:
    """One process asks for a checkpoint."""

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            run.request_checkpoint("one of two wants it")


class FailsAtEnd:
    """On the process that is not the main one, in its last hooks; and nothing is told there."""

    observer = True

    @hookimpl
    def on_event(self, run: Any) -> None:
        assert run.is_main

    @hookimpl
    def on_picture(self, run: Any) -> None:
        assert run.is_main

    @hookimpl
    def on_finish(self, run: Any) -> None:
        run.picture("nothing", run.directory / "nothing.png")
        if is_other(run):
            raise ValueError("in the last hook")


class FailsInTeardown:
    @hookimpl
    def teardown(self, run: Any) -> None:
        if is_other(run):
            raise ValueError("behind the last hook")


class FailsInHeader:
    @hookimpl
    def header_lines(self) -> list[str]:
        raise ValueError("on the main process alone")


class FailsInStart:
    @hookimpl
    def on_start(self, run: Any) -> None:
        if is_other(run):
            raise ValueError("on another process alone")
