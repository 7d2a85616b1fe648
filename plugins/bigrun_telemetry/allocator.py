"""What torch's allocator says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun_telemetry.sample import Sample

if TYPE_CHECKING:
    import torch

__all__ = ["read_allocator"]


def read_allocator(device: torch.device) -> Sample:
    """Counters of the caching allocator: bookkeeping in this process, which asks nothing of the driver and waits for
    nothing. For the run's own thread, as everything that is torch's."""
    import torch

    if device.type != "cuda":
        return Sample()
    facts = torch.cuda.memory_stats(device)
    return Sample(
        torch_allocated_bytes=facts.get("allocated_bytes.all.current"),
        torch_reserved_bytes=facts.get("reserved_bytes.all.current"),
        torch_peak_bytes=facts.get("allocated_bytes.all.peak"),
        torch_alloc_retries=facts.get("num_alloc_retries"),
        torch_ooms=facts.get("num_ooms"),
    )
