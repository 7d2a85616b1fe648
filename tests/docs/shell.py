"""A shell in the directory of a page, as its reader has it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import attrs
import numpy as np
from fenced import ROOT, blocks_of
from PIL import Image

__all__ = ["Shell", "open_page"]


@attrs.frozen
class Shell:
    """Runs blocks in one directory, which keeps their files from block to block."""

    directory: Path
    environment: dict[str, str]
    timeout_seconds: int = 180

    def __call__(self, script: str) -> subprocess.CompletedProcess[str]:
        """The exit code, and what was printed with errors among the rest."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=self.timeout_seconds,
            check=False,
        )


def open_page(directory: Path, environment: dict[str, str]) -> Shell:
    """A page's directory: a folder `images`, and the preset of the first tutorial."""
    make_images(directory / "images")
    for block in blocks_of(ROOT / "docs/tutorial/first-run.md"):
        if block.action == "file":
            (directory / block.argument).write_text(block.text, encoding="utf-8")
    small = {"OMP_NUM_THREADS": "1"}  # two threads wait for each other on a busy machine
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # what pip needs is installed
    return Shell(directory, environment | small | offline)


def make_images(folder: Path, count: int = 40) -> None:
    """Smooth coloured images, in two folders and two formats."""
    (folder / "more").mkdir(parents=True)
    y, x = np.mgrid[0:80, 0:100] / 80
    for i in range(count):
        waves = [np.sin((i + 2 + c) * x * 3 + c) + np.cos((i % 5 + 1) * y * 3 - c) for c in range(3)]
        pixels = ((np.stack(waves, axis=-1) + 2) / 4 * 255).astype(np.uint8)
        name = f"{'more/' if i % 2 else ''}{i:02d}.{'png' if i % 3 else 'jpg'}"
        Image.fromarray(pixels).save(folder / name)
