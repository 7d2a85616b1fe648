"""An environment in which the commands of the documentation run as a reader would type them."""

from __future__ import annotations

import os
import site
import subprocess
import venv
from pathlib import Path

import pytest
from fenced import ROOT
from shell import Shell


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a virtual environment that sees this one's packages and may install others."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, with_pip=False)
    (packages,) = root.glob("lib/python*/site-packages")
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    (packages / "outer.pth").write_text("".join(f"import site; site.addsitedir({folder!r})\n" for folder in folders))
    for command, module in (
        ("bigrun", "bigrun"),
        ("pip", "pip"),
        ("pytest", "pytest"),
        ("torchrun", "torch.distributed.run"),
    ):
        script = root / "bin" / command
        script.write_text(f'#!/bin/sh\nexec "{root}/bin/python" -m {module} "$@"\n')
        script.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_") and k != "PYTHONPATH"}
    return kept | {
        "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(root),
        "COLUMNS": "120",
    }


@pytest.fixture
def checkout(environment: dict[str, str], tmp_path: Path) -> Shell:
    """A copy of the repository's files, for commands that install or test all of it."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_file():
            target.write_bytes(source.read_bytes())
    return Shell(tmp_path, environment, timeout_seconds=3600)
