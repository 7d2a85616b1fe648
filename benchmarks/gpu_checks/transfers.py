"""Images and numbers on their way to a GPU that is busy: the host does not wait, and they arrive as they were."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures

if TYPE_CHECKING:
    import torch

    from gpu_checks.subject import Subject

__all__ = ["busy", "measure", "problems"]

BUSY_SECONDS = 0.5


def measure(subject: Subject) -> Figures:
    import numpy as np
    import torch

    from bigrun.data.dataset import Samples
    from bigrun.data.transfer import transfer
    from bigrun.testing.runner import SyntheticImages

    count, side = (4, 40) if subject.tiny else (64, 512)
    images, device, numbers = SyntheticImages(count, side), subject.device, torch.arange(count)
    samples = Samples.pack([images[i] for i in range(count)], numbers, torch.zeros_like(numbers))
    arrays = [np.arange(count * 8, dtype=np.int64).reshape(count, 8), np.linspace(0, 1, count)]

    def images_to(pin_memory: bool) -> Samples:
        return samples.to(device, pin_memory=pin_memory)

    ways: dict[str, Callable[[], Any]] = {
        "images, pinned": lambda: images_to(True),
        "images, pageable": lambda: images_to(False),
        "numbers": lambda: list(transfer(arrays, device)),
    }
    rows = {name: timed(way, device) for name, way in ways.items()}
    moved = images_to(True)
    (reals, whole), (line, _) = transfer(arrays, device)
    del reals
    return {
        "is_gpu": subject.is_gpu,
        "megabytes": samples.pixels.numel() / 1e6,
        "ways": {name: found for name, (found, _) in rows.items()},
        "images_equal": torch.equal(moved.pixels.cpu(), samples.pixels),
        "numbers_equal": bool((whole.cpu().numpy() == arrays[0]).all())
        and bool(np.allclose(line.cpu().numpy(), arrays[1], atol=1e-7)),
    }


def timed(way: Callable[[], Any], device: torch.device) -> tuple[dict[str, Any], Any]:
    """How long the host takes for it while the GPU is busy, and whether that is still busy then."""
    from gpu_checks.steps import wait

    way()  # page-locked memory is found once, and kept
    wait(device)
    still_busy = busy(device)
    began = time.perf_counter()
    moved = way()
    seconds = time.perf_counter() - began
    goes_on = still_busy()
    wait(device)
    return {"host_ms": 1000 * seconds, "gpu_still_busy": goes_on}, moved


def busy(device: torch.device, seconds: float = BUSY_SECONDS) -> Callable[[], bool]:
    """Give a GPU work for about so long; returns what says whether it still does that."""
    if device.type != "cuda":
        return lambda: False
    import torch

    from gpu_checks.steps import median_seconds

    a = torch.randn(8192, 8192, device=device).bfloat16()
    out = torch.empty_like(a)
    once = median_seconds(lambda: torch.mm(a, a, out=out), device, 3)
    done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    for _ in range(int(seconds / once) + 1):
        torch.mm(a, a, out=out)
    done.record()
    return lambda: not done.query()


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    for name in ("images", "numbers"):
        if not figures[f"{name}_equal"]:
            yield f"{name} arrive as others"
    for name in ("images, pinned", "numbers") if figures["is_gpu"] else ():
        if not figures["ways"][name]["gpu_still_busy"]:
            yield f"{name}: the host has waited for the GPU"
