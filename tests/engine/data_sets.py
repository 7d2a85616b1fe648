"""Folders of images for the tests of indexes and packed forms, and `bigrun data` on them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from bigrun.cli import main

__all__ = ["cut_short", "data", "data_json", "mixed_folder", "noise", "read_only", "save"]

Pixels = npt.NDArray[np.generic]


def noise(height: int, width: int, kind: str = "RGB", seed: int = 0) -> Pixels:
    """Random pixels of a mode: L, RGB, I;16 or F."""
    rng = np.random.default_rng(seed)
    if kind == "F":
        return rng.random((height, width), dtype=np.float32)
    shape = (height, width, 3) if kind == "RGB" else (height, width)
    return rng.integers(0, 65536 if kind == "I;16" else 256, shape, dtype=np.uint16 if kind == "I;16" else np.uint8)


def save(path: Path, pixels: Pixels, **options: Any) -> Path:
    """Write an image; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def cut_short(path: Path) -> Path:
    """Take the second half of a file away."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def mixed_folder(root: Path) -> Path:
    """Nine images of several kinds in two folders, two of them with the same content."""
    for number in range(5):
        save(root / "a" / f"{number}.png", noise(20 + number, 24, seed=number))
    save(root / "a" / "same.png", noise(20, 24, seed=0))
    save(root / "b" / "photo.jpg", noise(18, 30, "L"))
    save(root / "b" / "deep.png", noise(16, 17, "I;16"))
    save(root / "b" / "unit.tif", noise(15, 16, "F"))
    return root


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be written in `folder`, by root neither."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    if subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True).returncode != 0:
        pytest.skip("a read-only folder needs the permission to mount, or not to be root")
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def data(*words: object) -> Result:
    """`bigrun data ...` in this process."""
    result = CliRunner().invoke(main, ["data", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def data_json(*words: object) -> dict[str, Any]:
    """What `bigrun data ... --json` says."""
    result = data(*words, "--json")
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said
