"""How long a device takes for something, at its best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

__all__ = ["best_seconds"]

LIMIT_SECONDS = 0.8


def best_seconds(work: Callable[[], object], device: torch.device, limit_seconds: float = LIMIT_SECONDS) -> float:
    """The shortest of as many repetitions as the limit has room for, one at least; what compiles and allocates is done
    before.
    """
    spent, best = seconds_of(work, device), math.inf
    while best == math.inf or spent + best < limit_seconds:
        seconds = seconds_of(work, device)
        spent += seconds
        best = min(best, seconds)
    return best


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
