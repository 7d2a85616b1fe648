"""How many images a run has, where they are there."""

from __future__ import annotations

from pathlib import Path

import attrs

from bigrun.config import Document, override
from bigrun.errors import NoImagesError

__all__ = ["count_images"]


def count_images(document: Document) -> int | None:
    """Images of the data set that are trained on; None where the preset names none.

    Raises:
        BigrunError: as the run itself would when it looks for its images.
    """
    from bigrun.activation import activate
    from bigrun.check import WithoutImages
    from bigrun.planner.hooks import DeclareRehearsal, RehearsedHooks

    images = WithoutImages()
    tables = override(document.tables, ["hardware.device='cpu'"])
    config, plugins = activate(
        attrs.evolve(document, tables=tables), {"check": images, "rehearsal": DeclareRehearsal()}
    )

    from bigrun.build import build_data
    from bigrun.process import preserved_threads
    from bigrun.run import Run
    from bigrun.session import tear_down

    run = Run(config, Path("runs") / config.name, plugins)
    run.hook = RehearsedHooks(plugins)
    with preserved_threads():
        try:
            build_data(run)
        except NoImagesError as error:
            raise NoImagesError(f"{error}; or say how many there are with --images, to plan without them") from error
        finally:
            tear_down(run)
    return None if images.missing else len(run.dataset)
