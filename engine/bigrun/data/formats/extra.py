"""The libraries of the extra `formats`."""

from __future__ import annotations

from typing import Any

from bigrun.data.faults import BadImageError

__all__ = ["imagecodecs", "missing_extra", "tifffile"]


def imagecodecs(path: str, what: str) -> Any:
    """The module, for a file that holds `what`. Raises BadImageError: "unsupported" where it is not installed."""
    try:
        import imagecodecs as module
    except ImportError:
        raise missing_extra(path, what) from None
    return module


def tifffile(path: str, what: str) -> Any:
    """The module, for a file that holds `what`. Raises BadImageError: "unsupported" where it is not installed."""
    try:
        import tifffile as module
    except ImportError:
        raise missing_extra(path, what) from None
    return module


def missing_extra(path: str, what: str) -> BadImageError:
    """For a file that holds `what`, which Pillow alone would read with loss."""
    return BadImageError(
        path,
        "unsupported",
        f'{what} is read without loss by libraries that are not installed: pip install "bigrun[formats]"',
    )
