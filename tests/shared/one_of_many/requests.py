"""One process asks for something: the run for a checkpoint, or the others for what they have."""

from __future__ import annotations

import os
from typing import Any

from bigrun import hookimpl
from one_of_many.who import is_other


class AsksAlone:
    """One process asks for a checkpoint."""

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            run.request_checkpoint("one of two wants it")


class AsksOthers:
    """One process asks all of something, which nobody else does; where `ASKS` is `both` the others ask more."""

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            run.peers.gathered("of the one")
        elif step == 3 and os.environ["ASKS"] == "both":
            self.ask(run)

    def ask(self, run: Any) -> None:
        run.peers.gathered(["of", "the others"])


class AsksFirst:
    """One process fails before it asks, and goes on without this observer."""

    observer = True

    @hookimpl(tryfirst=True)
    def after_step(self, run: Any, step: int) -> None:
        if step == 3:
            if is_other(run):
                raise ValueError("before it asks")
            run.peers.gathered("first")


class AsksSecond:
    observer = True

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 3:
            run.peers.gathered("second")
