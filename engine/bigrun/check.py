"""`bigrun check PRESET`: everything a run would do before its first step, without training and without writing."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.config import Document
from bigrun.errors import NoImagesError
from bigrun.markers import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.data.dataset import Dataset
    from bigrun.run import Run

__all__ = ["check_preset"]


class NoImages:
    """The data set of a preset that leaves the images to its user."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int, /) -> Tensor:
        raise IndexError(index)


class WithoutImages:
    """Lets a preset be checked before there are images; a folder that is named must exist."""

    missing = False

    @hookimpl(wrapper=True)
    def build_dataset(self, run: Run) -> Generator[None, Dataset, Dataset]:
        try:
            return (yield)
        except NoImagesError:
            if run.config.data.path is not None:
                raise
            self.missing = True
            return NoImages()


def plugin_lines(run: Run) -> list[str]:
    """What the plugins would say in the header; the engine's own lines are about a device, and there is none."""
    manager = run.plugins.manager
    answer = manager.subset_hook_caller("header_lines", [manager.get_plugin("engine")])
    return [line for lines in answer(run=run) for line in lines]


def check_preset(document: Document) -> Iterator[str]:
    """Lines about what the run would be.

    The networks are built on the meta device: a model of any size is counted exactly and takes no memory.

    Raises:
        BigrunError: as the run itself would before its first step.
    """
    from bigrun.activation import activate

    images = WithoutImages()
    config, plugins = activate(document, {"check": images})  # before torch: a typo is answered at once

    import torch

    from bigrun.build import build_data, build_objective
    from bigrun.run import Run
    from bigrun.session import tear_down
    from bigrun.summary import plan

    run = Run(config, Path("runs") / config.name, plugins)
    try:
        plugins.hook.configure_runtime(run=run)
        build_data(run)
        run.strategy.device = torch.device("meta")
        with torch.device("meta"):
            build_objective(run, fresh=True)
        yield f"{document.source}: valid"
        yield f"plugins      {', '.join(plugins.active) or 'none'}"
        yield from map(config.redactor().text, [*plan(run), *plugin_lines(run)])
        if images.missing:
            yield "warning      data.path: no images are named yet; a run needs --set data.path=/folder"
    finally:
        tear_down(run)
