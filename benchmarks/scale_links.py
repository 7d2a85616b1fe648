"""How long two processes take to tell each other tensors of given sizes: `scale_links.py SPEC.json`, for scale.py.

The specification: backend (gloo or nccl), repeats, and collectives, each an operation and the bytes of its payload. One
line of JSON from process 0: the median of each in seconds, with the copies that FSDP2 makes for it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bigrun.process import kept_memory


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 gives reduce_scatter_tensor another name
    device = torch.device("cpu")
    if spec["backend"] == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(spec["backend"])
    with kept_memory(device):  # as in a run
        found = [taken(operation, size, device, spec["repeats"]) for operation, size in spec["collectives"]]
    if dist.get_rank() == 0:
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


def taken(operation: str, size: int, device: torch.device, repeats: int) -> float:
    """Seconds of one, the median."""
    members = dist.get_world_size()
    numbers = max(size // 4 // members, 1) * members
    whole, part = torch.ones(numbers, device=device), torch.ones(numbers // members, device=device)

    def gather() -> None:
        """Into a buffer, and out of it into the weights. FSDP2 takes the memory of both anew each time."""
        buffer = torch.empty_like(whole)
        dist.all_gather_into_tensor(buffer, part)
        torch.empty_like(whole).copy_(buffer)

    def scatter() -> None:
        """From a buffer into which gradients are copied."""
        dist.reduce_scatter_tensor(torch.empty_like(part), torch.empty_like(whole).copy_(whole))

    calls: dict[str, Callable[[], Any]] = {
        "all-reduce": lambda: dist.all_reduce(whole),
        "all-gather": gather,
        "reduce-scatter": scatter,
    }
    return statistics.median(seconds(calls[operation], device) for _ in range(repeats + 1))


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    dist.barrier()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
