"""Memory of the device: what torch sees of it, what the system says, and who else has some."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from bigrun.checkpoint.space import human_bytes
from bigrun.devices import DeviceFacts
from bigrun.devices.text import text_of
from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject

__all__ = ["free_row", "memory_rows", "offered_rows", "others", "pools"]

FREE_FRACTION = 0.9
"""Of a GPU's memory when nobody uses it: a context takes under 1 GiB, a desktop as much."""
SEEN_FRACTION = 0.9
GPU_FILES = re.compile(r"/dev/(nvidia\d+|kfd)$")


def memory_rows(subject: Subject) -> Iterator[Row]:
    facts = subject.facts
    if not facts.is_gpu:
        return
    yield free_row(facts)
    yield from offered_rows(facts, pools(subject.root))
    processes = others(subject.root)
    found = ", ".join(processes) or "none that this user may see"
    remedy = "end them, or choose another GPU with CUDA_VISIBLE_DEVICES (HIP_VISIBLE_DEVICES)"
    yield judged("others on the GPUs", not processes, found, "none", remedy)


def free_row(facts: DeviceFacts) -> Row:
    total, free = facts.total_bytes, facts.free_bytes
    return judged(
        "device memory",
        free >= FREE_FRACTION * total,
        f"{human_bytes(total)}, {human_bytes(free)} free",
        f"{FREE_FRACTION:.0%} free before a run",
        "other processes have it (`nvidia-smi`, `rocm-smi --showpids`); on a machine whose memory is shared, those "
        "of the host count, too",
        facts={"total_bytes": total, "free_bytes": free},
    )


def pools(root: Path) -> list[tuple[int, int]]:
    """Of each AMD GPU: bytes that are set aside for it, and bytes of the machine's memory that it may take besides."""
    found = []
    for path in sorted((root / "sys/class/drm").glob("card*/device")):
        texts = [text_of(path / f"mem_info_{pool}_total").strip() for pool in ("vram", "gtt")]
        if all(text.isdigit() for text in texts):
            found.append((int(texts[0]), int(texts[1])))
    return found


def offered_rows(facts: DeviceFacts, offered: list[tuple[int, int]]) -> Iterator[Row]:
    """A GPU that shares the machine's memory gets a part that BIOS and kernel decide, and torch may see less of it."""
    if not facts.is_unified or not offered:
        return
    vram, gtt = max(offered)
    found = (
        f"torch sees {human_bytes(facts.total_bytes)}; set aside in the BIOS {human_bytes(vram)}, to be had of the "
        f"machine's {human_bytes(gtt)}; the machine has {human_bytes(facts.host.ram_total_bytes)}"
    )
    yield judged(
        "shared memory",
        facts.total_bytes >= SEEN_FRACTION * max(vram, gtt),
        found,
        f"torch sees the larger of both, {human_bytes(max(vram, gtt))}",
        "a newer kernel and ROCm see all of it; the kernel parameter ttm.pages_limit (pages of 4 KiB) says how much of "
        "the machine's memory the GPU may take",
        facts={"vram_bytes": vram, "gtt_bytes": gtt},
    )


def others(root: Path = Path("/")) -> list[str]:
    """Processes that have a GPU open, as `name (number)`; of other users only root sees them."""
    mine = {str(os.getpid()), str(os.getppid())}
    found = []
    for process in sorted((root / "proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        if process.name not in mine and has_gpu_open(process):
            found.append(f"{text_of(process / 'comm').strip() or '?'} ({process.name})")
    return found


def has_gpu_open(process: Path) -> bool:
    try:
        return any(GPU_FILES.search(str(link.readlink())) for link in (process / "fd").iterdir())
    except OSError:  # it has ended, or is somebody else's
        return False
