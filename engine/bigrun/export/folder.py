"""The output folder: all of it appears by one rename, or nothing does."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from bigrun.checkpoint import disk
from bigrun.errors import UsageError
from bigrun.export.target import ExportError

__all__ = ["new_folder", "require_free"]


def require_free(final: Path) -> None:
    """Accept a folder that does not exist or is empty.

    Raises:
        UsageError: something is there.
    """
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise UsageError(f"{final}: is there and is no folder; choose another with --out")
    if final.is_dir() and any(final.iterdir()):
        raise UsageError(f"{final}: is there and not empty; remove it, or choose another with --out")


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder beside `final`, which takes its name when the block ends; if the block raises it is removed.

    Raises:
        ExportError: the disk refuses.
    """
    temporary = final.with_name(f".{final.name}-{uuid4().hex}.tmp")
    made = [parent for parent in final.parents if not parent.exists()]
    published = False
    try:
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(temporary / "__pycache__", ignore_errors=True)  # of a hubconf.py that was tried
        disk.sync(temporary)
        temporary.rename(final)
        published = True
        disk.sync_directory(final.parent)
    except OSError as error:
        raise ExportError(f"{final}: not written: {error}") from error
    finally:
        if not published:
            shutil.rmtree(temporary, ignore_errors=True)
            for parent in made:
                with contextlib.suppress(OSError):
                    parent.rmdir()
