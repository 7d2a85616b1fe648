"""Memory of the device: what torch sees of it, what the system says, and who else has some."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bigrun.checkpoint.space import human_bytes
from bigrun.devices import DeviceFacts
from bigrun.devices.pci import pci_address
from bigrun.devices.text import text_of
from bigrun.doctor.row import Row, judged
from bigrun.doctor.smi import ask_smi, computing, total_bytes
from bigrun.doctor.subject import Subject
from bigrun.doctor.users import User, gpu_users, users_row

__all__ = ["free_row", "memory_rows", "offered_rows", "pools", "seen_row"]

FREE_FRACTION = 0.9
"""Of a GPU's memory when nobody uses it: a context takes under 1 GiB, a desktop as much."""
SEEN_FRACTION = 0.9


def memory_rows(subject: Subject) -> Iterator[Row]:
    facts = subject.facts
    if not facts.is_gpu:
        return
    uuid, address = identity(subject)
    apps = system_bytes = None
    if facts.backend == "cuda":
        system_bytes = total_bytes(ask_smi("gpu=uuid,memory.total") or [], uuid)
        apps = ask_smi("compute-apps=gpu_uuid,pid,used_gpu_memory")
    else:
        text = text_of(subject.root / f"sys/bus/pci/devices/{address}/mem_info_vram_total").strip()
        system_bytes = int(text) if text.isdigit() else None
    is_listed = system_bytes is not None  # a part of a GPU (MIG) is not
    users = gpu_users(subject.root, None if apps is None else computing(apps, uuid if is_listed else None))
    yield free_row(facts, users)
    if facts.is_unified:
        yield from offered_rows(facts, pools(subject.root))
    else:
        yield seen_row(facts, system_bytes)
    yield users_row(users, facts)


def identity(subject: Subject) -> tuple[str | None, str | None]:
    """UUID and PCI address of the GPU, as torch says them."""
    import torch

    if subject.device.type != "cuda":
        return None, None
    properties = torch.cuda.get_device_properties(subject.device)
    uuid = getattr(properties, "uuid", None)
    return None if uuid is None else str(uuid), pci_address(properties)


def free_row(facts: DeviceFacts, users: list[User] | None = None) -> Row:
    """Advice by who has the rest."""
    total, free = facts.total_bytes, facts.free_bytes
    remedy = "another process has it, which `nvidia-smi` or `rocm-smi --showpids` may show"
    if facts.is_unified:
        remedy += "; where GPU and host share their memory programs of the host count, too"
    if users and any(user.computes for user in users):
        remedy = "what computes on it has it: see `others on the GPUs`"
    elif users:
        remedy = (
            "no other process computes on it: the desktop has the rest. Log out of it, or connect the screen to the "
            "processor's own graphics; or take a smaller data.micro_batch"
        )
    return judged(
        "device memory",
        free >= FREE_FRACTION * total,
        f"{human_bytes(total)}, {human_bytes(free)} free",
        f"{FREE_FRACTION:.0%} free before a run",
        remedy,
        facts={"total_bytes": total, "free_bytes": free},
    )


def seen_row(facts: DeviceFacts, system_bytes: int | None) -> Row:
    """What torch sees of a GPU's own memory, beside what its driver says that it has."""
    name, found = "memory seen", f"torch sees {human_bytes(facts.total_bytes)}"
    if system_bytes is None:
        return Row(name, "info", f"{found}; the driver does not say how much there is")
    return judged(
        name,
        facts.total_bytes >= SEEN_FRACTION * system_bytes,
        f"{found}, the driver {human_bytes(system_bytes)}",
        f"at least {SEEN_FRACTION:.0%} of it",
        "the rest is given to somebody else (vGPU, MIG), or reserved by the driver: `nvidia-smi -q -d MEMORY`",
        facts={"torch_bytes": facts.total_bytes, "system_bytes": system_bytes},
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
