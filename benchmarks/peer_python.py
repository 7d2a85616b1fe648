"""Another library in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

__all__ = ["installed_versions"]

SCRIPT = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


def installed_versions(python: Path | None, *names: str) -> str | None:
    """`name version, name version` in the environment of that Python, or None when no Python was given.

    Raises:
        SystemExit: it does not run, or one of the packages is not installed there.
    """
    if python is None:
        return None
    try:
        done = subprocess.run([python, "-c", SCRIPT, *names], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"--peer-python {python}: {error.strerror}") from error
    if done.returncode:
        raise SystemExit(f"--peer-python {python}: expected {', '.join(names)} there; {done.stderr.strip()[-200:]}")
    return ", ".join(f"{name} {number}" for name, number in json.loads(done.stdout).items())
