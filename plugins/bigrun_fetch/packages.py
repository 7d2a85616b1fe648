"""Packages from the user's own registries, by the user's own clients. Nothing is installed, and no code of a package is
run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bigrun.errors import UsageError
from bigrun_fetch import no_build

__all__ = ["download_deb", "download_sdist", "download_wheels"]

TIMEOUT_SECONDS = 1800


def download_sdist(requirement: str, sha256: str, scratch: Path) -> Path:
    """The source distribution of `NAME==VERSION`, whose hash pip compares before it unpacks anything.

    Raises:
        UsageError: it cannot be had, or is another file.
    """
    backend = scratch / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    shutil.copyfile(str(no_build.__file__), backend / "build_meta.py")
    (scratch / "requirements.txt").write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="ascii")
    words = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-r", str(scratch / "requirements.txt")]
    with_backend = {"PYTHONPATH": str(backend.parent), "PIP_USE_PEP517": "1"}  # pip's option: older ones run setup.py
    (found,) = pip_download(words, scratch / "sdist", requirement, with_backend)
    return found


def download_wheels(requirements: Sequence[str], scratch: Path) -> list[Path]:
    """The wheels for this Python.

    Raises:
        UsageError: they cannot be had.
    """
    words = ["--no-deps", "--only-binary", ":all:", *requirements]
    return pip_download(words, scratch / "wheels", ", ".join(requirements), {})


def download_deb(package: str, scratch: Path) -> Path:
    """A package of Debian or one that is made of it.

    Raises:
        UsageError: it cannot be had.
    """
    if shutil.which("apt-get") is None:
        raise UsageError(
            f"the Debian package {package} is fetched by apt-get, which is not here; give the file with --from"
        )
    (scratch / "deb").mkdir()
    printed = run(["apt-get", "download", package], {"LC_ALL": "C"}, scratch / "deb")
    found = list((scratch / "deb").glob("*.deb"))
    if not found:  # the exit code is no help: apt-get warns that its own user may not write here
        raise UsageError(f"{package}: apt-get could not fetch it: {last_error(printed, 'E:')}; {offline()}")
    return found[0]


def pip_download(words: Sequence[str], folder: Path, what: str, environment: Mapping[str, str]) -> list[Path]:
    """Raises: UsageError when pip brings nothing."""
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip") or ""]
    if not pip[0]:
        raise UsageError(
            f"{what}: is fetched by pip, which is not installed here; install it, or give the file with --from"
        )
    command = [*pip, "download", "--dest", str(folder), "--retries", "1", "--progress-bar", "off", *words]
    printed = run(command, environment, folder.parent)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    if not found:
        raise UsageError(f"{what}: pip could not fetch it: {last_error(printed, 'ERROR:')}; {offline()}")
    return found


def run(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    """What a client prints. Raises: UsageError when it does not come to an end."""
    try:
        done = subprocess.run(
            list(command), cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=TIMEOUT_SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UsageError(f"{command[0]} has not come to an end in {TIMEOUT_SECONDS} s; {offline()}") from None
    return done.stdout


def last_error(printed: str, mark: str) -> str:
    """The client's own word, in one line."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line.removeprefix(mark).strip() for line in lines if line.startswith(mark)]
    return (errors or lines or ["it says nothing"])[-1]


def offline() -> str:
    return "without a network get the file elsewhere and give it with --from FILE"
