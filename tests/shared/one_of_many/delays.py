"""One process is slow, or does not come back."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harm import is_on, never_returns
from torch import Tensor, nn

from bigrun import hookimpl
from bigrun.model.block import Block
from one_of_many.who import is_named, is_other

SECONDS = 0.3
"""In each step."""


class Slow:
    """It sleeps where `SLOW` says: in a `hook`, for its `images`, or `before` the blocks of its student, or in their
    `forward` or `backward` pass."""

    @hookimpl
    def configure_model(self, run: Any, objective: nn.Module) -> None:
        blocks = [part for part in objective.student.modules() if isinstance(part, Block)]
        for block in blocks if is_other(run) else []:
            block.mlp.register_forward_hook(sleep_once(SECONDS / len(blocks)))
            if os.environ["SLOW"] == "before":
                block.register_forward_pre_hook(lambda *_: time.sleep(SECONDS / len(blocks)))

    @hookimpl
    def after_backward(self, run: Any) -> None:
        if is_other(run) and os.environ["SLOW"] == "hook":
            time.sleep(SECONDS)

    @hookimpl(wrapper=True)
    def build_loader(self, run: Any) -> Any:
        loader = yield
        return sleeping(loader) if is_other(run) and os.environ["SLOW"] == "images" else loader


def sleep_once(seconds: float) -> Callable[[nn.Module, Any, Tensor], None]:
    """A hook of a module: in the pass that `SLOW` names."""

    def sleep(module: nn.Module, arguments: Any, output: Tensor) -> None:
        if os.environ["SLOW"] == "forward":
            time.sleep(seconds)
        elif os.environ["SLOW"] == "backward" and output.requires_grad:
            output.register_hook(lambda gradient: time.sleep(seconds))  # type: ignore[no-untyped-call]

    return sleep


def sleeping(loader: Any) -> Any:
    for samples in loader:
        time.sleep(SECONDS)
        yield samples


class Hangs:
    """It does not come back, as long as the folder has a file `harm`; `HANGS` is its rank and in what."""

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        self._hang(run, step, "before_step")

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        self._hang(run, step, "after_backward")

    @hookimpl
    def on_metrics(self, run: Any, step: int) -> None:
        self._hang(run, step, "on_metrics")

    def _hang(self, run: Any, step: int, where: str) -> None:
        is_here = f"{run.peers.rank} {where}" == os.environ["HANGS"]
        if step == 4 and is_here and is_on():
            never_returns()


class KeepsInterpreter:
    """Native code lets no Python run for longer than a step may take."""

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        if step == 4 and is_other(run):
            ctypes.PyDLL(None).usleep(4_000_000)


class EndsLate:
    """The main process has something to do when the others have ended."""

    @hookimpl
    def on_finish(self, run: Any) -> None:
        if run.is_main:
            time.sleep(float(os.environ["LATE_SECONDS"]))
            Path("late").touch()


class Waits:
    """Steps are slow until somebody says `go`."""

    observer = True

    @hookimpl
    def before_step(self) -> None:
        if not Path("go").exists():
            time.sleep(0.2)


class BeginsLate:
    """The process that `LATE` names is behind the others when they look at how the images of a step are divided."""

    @hookimpl
    def configure_device(self, run: Any) -> None:
        if is_named(run, "LATE"):
            time.sleep(SECONDS)
