"""The device in words, found out by a process of its own, so that nobody else wakes the GPU: `-m gpu_checks.facts`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["device_facts"]

GIB = 2**30


def device_facts(device: str) -> dict[str, Any]:
    """Name (None where torch sees no GPU), memory, versions.

    Args:
        device: cuda or cpu.
    """
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    words = [sys.executable, "-m", "gpu_checks.facts", device]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    said = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def read(device: str) -> dict[str, Any]:
    import torch

    from bigrun.version import __version__

    facts: dict[str, Any] = {"device": "cpu" if device == "cpu" else None, "memory_gib": None}
    if device == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts = {"device": properties.name, "memory_gib": round(properties.total_memory / GIB, 1)}
    return {**facts, "torch": str(torch.__version__), "cuda": torch.version.cuda, "bigrun": __version__}


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1])))
