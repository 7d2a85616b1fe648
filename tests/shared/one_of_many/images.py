"""One process has fewer images than the others, or cannot read some."""

from __future__ import annotations

import itertools
import os
from typing import Any

from bigrun import hookimpl
from bigrun.data.faults import BadImageError
from bigrun.testing.runner import SyntheticImages
from one_of_many.who import is_other


class Empty:
    """The loader of one process ends after three steps."""

    @hookimpl(wrapper=True)
    def build_loader(self, run: Any) -> Any:
        loader = yield
        return itertools.islice(loader, 3 * run.accumulate) if is_other(run) else loader


class OtherImages:
    """One process has found one image less."""

    @hookimpl
    def build_dataset(self, run: Any) -> SyntheticImages:
        return SyntheticImages(64 - is_other(run))


class FewerPhotos:
    """One process has a version of a package that lacks some photographs."""

    @hookimpl
    def configure_runtime(self, run: Any) -> None:
        from bigrun_demo import photos

        if is_other(run):
            photos.PHOTOS["sklearn"] = photos.PHOTOS["sklearn"][1:]


class BadFor(SyntheticImages):
    """Images of which some are bad; every process meets those that are its own."""

    def __getitem__(self, index: int) -> Any:
        if index % 8 == 7:
            raise BadImageError(f"{index}.png", "truncated", "half of it is missing")
        return super().__getitem__(index)


class BadImages:
    @hookimpl
    def build_dataset(self) -> BadFor:
        return BadFor(64)


class SeenByOne(SyntheticImages):
    """One process cannot read some: those that `UNSEEN` names, for the reason that it begins with. With `until 4`, only
    before step 4."""

    def __init__(self, run: Any) -> None:
        super().__init__(5)
        self.run = run

    def describe(self, index: int) -> str:
        return f"kept/{index}.png"

    def __getitem__(self, index: int) -> Any:
        why, *numbers = os.environ["UNSEEN"].split()
        if is_other(self.run) and str(index) in numbers and (why != "until" or self.run.step < 3):
            if why == "memory":
                raise MemoryError("no memory")
            raise BadImageError(f"{index}.png", "missing", "no such file on this node")
        return super().__getitem__(index)


class LooksAtSome:
    """What is looked at is kept apart from what is trained on."""

    @hookimpl(tryfirst=True)
    def build_loader(self, run: Any) -> None:
        run.validation, run.validation_tone = SeenByOne(run), run.views.tone


class LooksAtTrained:
    """What is looked at of the images that are trained on."""

    @hookimpl(tryfirst=True)
    def build_loader(self, run: Any) -> None:
        run.dataset = SeenByOne(run)  # the loader has been given the other one
