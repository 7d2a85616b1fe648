"""`bigrun data verify`."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["verify"]


@click.command()
@click.argument("packed", type=click.Path(path_type=Path))
@click.option(
    "--workers", type=click.IntRange(0, 1000), metavar="N", help="Processes that read.  [default: one for each core]"
)
def verify(packed: Path, workers: int | None) -> None:
    """Read all of the packed data set PACKED, and compare every image with its hash.

    After a copy to another disk, or years. Its source is not needed. The exit code is 2 if an image is not what was
    packed.
    """
    from bigrun.data.pack.marker import is_packed, read_marker
    from bigrun.data.pack.verify import verify_pack
    from bigrun.errors import UsageError
    from bigrun.parallel import default_workers
    from bigrun.progress import progress
    from bigrun.terminal import say

    if not is_packed(packed):
        raise UsageError(f"{packed}: no packed data set; expected a folder that `bigrun data pack` has written")
    files = read_marker(packed)["files"]
    with progress("verifying", files) as advance:
        images = verify_pack(packed, default_workers(files) if workers is None else workers, advance)
    say(f"{packed}: verified, {images:,} images are what was packed")
