"""How fast two processes tell each other tensors of given sizes: `scale_links.py SPEC.json`, called by scale.py.

The specification: backend (gloo or nccl), repeats, and bytes by operation. One line of JSON from process 0: by
operation, the median of what a process sends in a ring over the time (`busbw` of nccl-tests), in bytes per second.
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

FACTORS = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 gives reduce_scatter_tensor another name
    device = torch.device("cpu")
    if spec["backend"] == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(spec["backend"])
    found = {name: speed(name, size, device, spec["repeats"]) for name, size in spec["bytes"].items() if size}
    if dist.get_rank() == 0:
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


def speed(operation: str, size: int, device: torch.device, repeats: int) -> float:
    """Bytes per second that a process sends."""
    members = dist.get_world_size()
    numbers = max(size // 4 // members, 1) * members
    whole, part = torch.ones(numbers, device=device), torch.ones(numbers // members, device=device)
    calls: dict[str, Callable[[], Any]] = {
        "all-reduce": lambda: dist.all_reduce(whole),
        "all-gather": lambda: dist.all_gather_into_tensor(whole, part),
        "reduce-scatter": lambda: dist.reduce_scatter_tensor(part, whole),
    }
    sent = FACTORS[operation] * 4 * numbers * (members - 1) / members
    return sent / statistics.median(seconds(calls[operation], device) for _ in range(repeats + 1))


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    dist.barrier()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
