"""What NVIDIA's driver says by nvidia-smi, which comes with it: the system's view, beside torch's."""

from __future__ import annotations

import shutil
import subprocess

__all__ = ["ask_smi", "computing", "total_bytes"]

LIMIT_SECONDS = 10.0
MIB = 1 << 20


def ask_smi(query: str) -> list[list[str]] | None:
    """Lines of fields; None where there is no nvidia-smi, or it does not answer.

    Args:
        query: `gpu=uuid,memory.total`, `compute-apps=gpu_uuid,pid,used_gpu_memory`.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, f"--query-{query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def computing(lines: list[list[str]], uuid: str | None) -> dict[int, int | None]:
    """Processes that compute on a GPU, and the bytes they have there; None where the driver does not say.

    Args:
        lines: of gpu_uuid, pid, used_gpu_memory (MiB).
        uuid: as torch writes it; None: of any GPU.
    """
    found: dict[int, int | None] = {}
    for gpu, pid, used in (line for line in lines if len(line) == 3):
        if pid.isdigit() and (uuid is None or gpu.endswith(uuid)):
            found[int(pid)] = int(used) * MIB if used.isdigit() else None
    return found


def total_bytes(lines: list[list[str]], uuid: str | None) -> int | None:
    """Memory of the GPU with this UUID, from lines of uuid, memory.total (MiB); None where it is not among them."""
    found = [line[1] for line in lines if len(line) == 2 and uuid is not None and line[0].endswith(uuid)]
    return int(found[0]) * MIB if found and found[0].isdigit() else None
