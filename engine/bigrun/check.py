"""`bigrun check PRESET`: everything a run would do before its first step, without training and without writing."""

from __future__ import annotations

import contextlib
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
    from bigrun.process import preserved_random_state, preserved_threads
    from bigrun.run import Run
    from bigrun.session import tear_down
    from bigrun.summary import plan

    run = Run(config, Path("runs") / config.name, plugins)
    with contextlib.ExitStack() as stack:
        stack.callback(tear_down, run)
        plugins.hook.configure_runtime(run=run)
        stack.enter_context(preserved_random_state())
        stack.enter_context(preserved_threads())
        build_data(run)
        run.strategy.device = torch.device("meta")
        with torch.device("meta"):
            build_objective(run, fresh=True)
        yield f"{document.source}: valid"
        yield f"plugins      {', '.join(plugins.active) or 'none'}"
        lines = [*plan(run), *plugin_lines(run)]
        # Only a plugin prints events, and there may be none that does.
        lines += [f"error        {f.plugin} failed in {f.hook}: {f.error}" for f in plugins.failures.values()]
        yield from map(config.redactor().text, lines)
        if images.missing:
            yield "warning      data.path: no images are named yet; a run needs --set data.path=/folder"
