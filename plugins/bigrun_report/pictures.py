"""Pictures of a run directory as data in a page."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path, PurePosixPath

from bigrun.links import read_bytes
from bigrun_report.parts import Picture

__all__ = ["Album"]

SIDE_PX = 1200
MOST_PIXELS = 64_000_000
MOST_BYTES = 64_000_000
"""Of a file that is looked at: more than a picture of MOST_PIXELS takes as a PNG of few colours."""
PNG_SIDE_PX = 256
"""A larger one becomes a JPEG: as PNG, one with 1200 px takes a second and a megabyte."""


class Album:
    """Takes in pictures until its pages would be too large to send by mail."""

    def __init__(self, directory: Path, most_bytes: int = 4_000_000) -> None:
        self.directory = directory
        self.left_bytes = most_bytes
        self._taken: set[str] = set()

    def picture(self, path: str, caption: str) -> Picture | None:
        """The picture of a path below the run directory; one that cannot be shown has its reason as the caption; None
        for one that was taken before."""
        if path in self._taken:
            return None
        self._taken.add(path)
        try:
            data, kind = self._encoded(self._bytes(path))
        except Unfit as error:
            return Picture(f"{caption} (not shown: {path}: {error})")
        self.left_bytes -= len(data)
        return Picture(caption, f"data:image/{kind};base64,{base64.b64encode(data).decode()}")

    def _bytes(self, path: str) -> bytes:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise Unfit("expected a path below the run directory")
        whole = self.directory / pure
        home = Path(os.path.realpath(self.directory))
        try:
            if Path(os.path.realpath(whole)) != home / pure:
                raise Unfit("it is, or lies behind, a link")
            return read_bytes(whole, MOST_BYTES)
        except (OSError, ValueError) as error:
            raise Unfit(getattr(error, "strerror", None) or "it cannot be read") from None

    def _encoded(self, data: bytes) -> tuple[bytes, str]:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise Unfit(f"{picture.width} x {picture.height} px are too many")
                picture.load()
                shown = picture.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
            raise Unfit(f"no picture ({type(error).__name__})") from None
        shown.thumbnail((SIDE_PX, SIDE_PX))
        file = io.BytesIO()
        kind = "png" if max(shown.size) <= PNG_SIDE_PX else "jpeg"
        shown.save(file, kind, quality=85)
        if file.tell() > self.left_bytes:
            raise Unfit("the page has pictures enough")
        return file.getvalue(), kind


class Unfit(Exception):
    """Why a picture cannot be shown."""
