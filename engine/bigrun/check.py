"""`bigrun check PRESET`: everything a run would do before its first step, without training and without writing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bigrun.config import Document

__all__ = ["check_preset"]


def check_preset(document: Document) -> Iterator[str]:
    """Lines about what the run would be.

    The networks are built on the meta device: a model of any size is counted exactly and takes no memory.

    Raises:
        BigrunError: as the run itself would before its first step.
    """
    import torch

    from bigrun.run import Run
    from bigrun.session import activate, build_data, build_objective, tear_down
    from bigrun.summary import plan

    config, plugins = activate(document)
    run = Run(config, Path("runs") / config.name, plugins)
    try:
        plugins.hook.configure_runtime(run=run)
        build_data(run)
        run.strategy.device = torch.device("meta")
        with torch.device("meta"):
            build_objective(run)
        yield f"{document.source}: valid"
        yield f"plugins      {', '.join(plugins.active) or 'none'}"
        yield from plan(run)
    finally:
        tear_down(run)
