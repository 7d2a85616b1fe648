"""Data sets with everything that can be wrong with a file, and plugins that spoil one, for `--plugin spoiled:NAME` in a
folder that has a copy of this file."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from bigrun import hookimpl
from bigrun.data.folder import ImageFolder

__all__ = ["AT_START", "IN_THE_RUN", "TURNED", "Deadly", "TurnsBad", "add_images", "bomb", "cut", "image", "spoil"]

AT_START = {
    "empty.png": "empty", "page.jpg": "not-an-image", "drawing.png": "not-an-image", "loop.png": "missing",
    "gone.png": "missing", "sick.png": "unreadable", "pipe.png": "not-a-file",
}  # fmt: skip
"""Known to the search; they have no number."""
IN_THE_RUN = {
    "cut.png": "truncated", "bomb.png": "too-large", "deep.png": "unsupported", "four.tif": "unsupported",
    "flipped.png": "other",
}  # fmt: skip
"""Files that begin as an image does."""
TURNED = {"1.png": "missing", "2.png": "not-a-file", "3.png": "not-a-file", "4.png": "empty", "5.png": "truncated"}
"""What `TurnsBad` makes of good ones after the search."""


def image(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 255, (40 + number % 7, 50, 3), dtype=np.uint8))


def add_images(folder: Path, numbers: range) -> None:
    for number in numbers:
        image(number).save(folder / f"{number}.png")


def cut(path: Path) -> None:
    """Truncate a file to its half."""
    os.truncate(path, path.stat().st_size // 2)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int = 50_000) -> bytes:
    """A PNG of 50,000 x 50,000 pixels in a hundred bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    idat = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


def spoil(folder: Path) -> None:
    """Add one file of every kind to a folder of images."""
    (folder / "empty.png").touch()
    (folder / "page.jpg").write_text("<!DOCTYPE html><html><title>404</title></html>")
    image(0).save(folder / "drawing.png", "EPS")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    (folder / "sick.png").symlink_to("/proc/self/mem")  # a regular file; reading its first page is EIO, for root too
    os.mkfifo(folder / "pipe.png")
    (folder / "up").symlink_to(folder)
    (folder / "notes.txt").write_text("no image")
    image(1).save(folder / "cut.png")
    cut(folder / "cut.png")
    (folder / "bomb.png").write_bytes(bomb())
    Image.fromarray(np.array([[-1000, 7]], dtype=np.int32)).save(folder / "deep.png", "TIFF")
    tifffile.imwrite(folder / "four.tif", np.zeros((4, 40, 50), np.uint8), photometric="minisblack")
    image(2).save(folder / "flipped.png")
    data = bytearray((folder / "flipped.png").read_bytes())
    data[60] ^= 0xFF
    (folder / "flipped.png").write_bytes(data)


class TurnsBad:
    """Files that were good when the folder was searched, and are not when they are decoded."""

    @hookimpl
    def configure_model(self) -> None:
        folder = Path("images")
        (folder / "1.png").unlink()
        (folder / "2.png").unlink()
        os.mkfifo(folder / "2.png")
        (folder / "3.png").unlink()
        (folder / "3.png").mkdir()
        os.truncate(folder / "4.png", 0)
        cut(folder / "5.png")


class DeadlyImages(ImageFolder):
    """One of them kills the process that decodes it."""

    def __getitem__(self, index: int, /) -> Any:
        if self.describe(index).endswith("/7.png") and not Path("cured").exists():
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)
        return super().__getitem__(index)


class Deadly:
    """Brings those images."""

    @hookimpl
    def build_dataset(self, run: Any) -> DeadlyImages:
        found = DeadlyImages.search(run.config.data.path)
        assert isinstance(found, DeadlyImages)
        return found


def copy_beside(folder: Path) -> None:
    """For `--plugin spoiled:NAME`."""
    shutil.copy(__file__, folder)
