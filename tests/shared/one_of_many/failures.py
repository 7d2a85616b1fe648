"""Something is raised on one process, each time in another place."""

from __future__ import annotations

import sys
from typing import Any

import torch

from bigrun import hookimpl
from bigrun.errors import DataError
from one_of_many.who import is_named, is_other


class FailsInHeader:
    @hookimpl
    def header_lines(self) -> list[str]:
        raise ValueError("on the main process alone")


class FailsInStart:
    """When the others are ready."""

    @hookimpl
    def on_start(self, run: Any) -> None:
        if is_other(run):
            raise ValueError("on another process alone")


class Fails:
    observer = True

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            raise ValueError("on one process")


class Raises:
    """A critical plugin fails in the middle of a step, on the process that `RAISES` names."""

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        if step == 4 and is_named(run, "RAISES"):
            raise ValueError("in the middle")


class Leaves:
    """It ends the process, or means to."""

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        if step == 4 and is_other(run):
            sys.exit(0)


class FailsInLook:
    observer = True

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        with run.objective.evaluation() as backbone:
            crops = torch.zeros(1, run.config.model.in_channels, 32, 32)
            if step == 3 and is_other(run):
                raise ValueError("in the middle of a look")
            backbone(crops)


class CannotLook:
    """What only the main process does meets images that cannot be read."""

    @hookimpl
    def on_metrics(self, run: Any, step: int) -> None:
        if step == 3:
            raise DataError("no image to look at")


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
