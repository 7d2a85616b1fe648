"""A fresh environment beside the one that runs the tests, and the command line in it."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import attrs

from bigrun.throughput import TIMINGS

__all__ = ["Environment", "build", "finish", "rows_of"]


@attrs.frozen
class Environment:
    """A virtual environment that also sees the packages of the one that runs the tests.

    So torch is not installed a second time, and bigrun is the installed one: a wheel under tox, the checkout in an
    editable install.
    """

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Environment:
        venv.create(folder, with_pip=False)
        (packages,) = folder.glob("lib/python*/site-packages")
        # addsitedir, not a plain path: the checkout of an editable install is itself found through a .pth file.
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        (packages / "below.pth").write_text("\n".join(lines), encoding="utf-8")
        return cls(folder)

    def python(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run this environment's Python in a folder, by default its own."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))}
        return subprocess.run(
            [self.folder / "bin" / "python", *arguments],
            cwd=cwd or self.folder,
            env=inherited | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def bigrun(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return self.python("-m", "bigrun", *arguments)

    def install(self, *wheels: Path) -> None:
        # bigrun is there already; --no-index so that nothing else can be meant.
        finish(self.python("-m", "pip", "install", "--no-deps", "--no-index", *wheels))

    def uninstall(self, distribution: str) -> None:
        finish(self.python("-m", "pip", "uninstall", "--yes", distribution))


def build(source: Path) -> Path:
    """The wheel of a distribution's source."""
    command: list[str | Path] = [sys.executable, "-m", "build", "--wheel", "--no-isolation", source]
    finish(subprocess.run(command, capture_output=True, text=True, check=False, timeout=300))
    (built,) = (source / "dist").glob("*.whl")
    return built


def finish(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that must succeed."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows_of(directory: Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl` without the measured times."""
    rows = map(json.loads, (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]
