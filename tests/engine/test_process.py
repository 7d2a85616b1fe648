"""What a run changes in its process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import random, resource, sys
import torch
from bigrun.process import kept_memory

def faults_of_a_step():
    before, draw, alive = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, random.Random(0), []
    for _ in range(100):
        alive.append(torch.ones(draw.choice([1_000, 50_000, 1_500_000, 4_000_000, 8_000_000])))
        if len(alive) > 15:
            alive.pop(draw.randrange(15))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

torch.set_num_threads(1)
with kept_memory(torch.device(sys.argv[1])):
    steps = [faults_of_a_step() for _ in range(8)]
    inside = resident_mib()
outside = resident_mib()
print(min(steps[1:]), faults_of_a_step(), round(inside - outside))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.slow)])
def test_a_cpu_run_keeps_what_a_step_frees_and_gives_it_back_at_its_end(device: str) -> None:
    """A step touches about 80,000 pages of 4 KiB. Once the heap is as large as a step needs, none is faulted in again;
    behind the run they are, and the memory is the kernel's. A kernel that moves pages meanwhile faults in some of a
    step or two, hence the fewest of the steps."""
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, device],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    within, behind, freed_mib = map(int, done.stdout.split())
    if device == "cpu":
        assert within < 1_000
        assert freed_mib >= 50  # about 300, less where the kernel is short of memory and has taken some itself
    else:
        assert within > 3_000
    assert behind > 3_000
