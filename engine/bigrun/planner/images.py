"""How many images a run has and how large they are, where they are there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from bigrun.config import Document
from bigrun.errors import NoImagesError
from bigrun.overrides import override

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset

__all__ = ["Images", "look_at_images", "mean_bytes"]

LOOKED_AT = 5
"""Images that are decoded, from all over the data set: a second at most."""


@attrs.frozen
class Images:
    """A data set."""

    count: int
    """That are trained on."""
    each_bytes: int | None
    """Of a decoded one, on average over a few; None where none could be decoded."""


def look_at_images(document: Document) -> Images | None:
    """The data set that is trained on; None where the preset names none.

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
            return None if images.missing else Images(len(run.dataset), mean_bytes(run.dataset))
        except NoImagesError as error:
            raise NoImagesError(f"{error}; or say how many there are with --images, to plan without them") from error
        finally:
            tear_down(run)


def mean_bytes(dataset: Dataset) -> int | None:
    """Of a few decoded images, as they wait in memory."""
    count, sizes = len(dataset), []
    for index in sorted({count * i // LOOKED_AT for i in range(LOOKED_AT)} if count else ()):
        try:
            sizes.append(dataset[index].nbytes)
        except Exception:  # whatever decoders and data sets of plugins raise: the run replaces such an image
            continue
    return sum(sizes) // len(sizes) if sizes else None
