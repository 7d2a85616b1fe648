"""Processes that save and rotate small checkpoints until they are killed."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import multiprocessing.process
import os
import random
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from forked import start

from bigrun.checkpoint import manifest
from bigrun.checkpoint.records import verified_records
from bigrun.checkpoint.retention import Policy, reasons_to_stay
from bigrun.checkpoint.store import CheckpointStore

__all__ = ["begin", "kill_at_random", "rotate", "rotate_and_die", "rotate_for_ever", "save", "verified"]

# A fork server that has imported these starts each process in 30 ms instead of two seconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "torch", "safetensors.torch", "bigrun.checkpoint.store"])

CHANGES = {"os.rename", "os.remove", "os.rmdir"}


def begin(target: Any, *arguments: Any) -> multiprocessing.context.ForkServerProcess:
    """Start a process; its server, if it begins here, is deaf to stop signals, as that of the data loader is."""
    process = PROCESSES.Process(target=target, args=arguments)
    start(process)
    return process


def kill_at_random(process: multiprocessing.process.BaseProcess, log: Path, size: int, longest_seconds: float) -> int:
    """Kill a process at a random moment after its first report beyond `size` bytes of the log, and wait for its end;
    returns the last number that it reported."""
    while log.stat().st_size == size:
        assert process.is_alive()
        time.sleep(0.001)
    time.sleep(random.uniform(0, longest_seconds))
    process.kill()
    process.join()
    return int(log.read_text().split()[-1])


def save(store: CheckpointStore, step: int, **facts: Any) -> Path:
    """A checkpoint whose every file tells its step."""
    tensors = {stem: {"w": torch.full((5_000,), float(step))} for stem in ("student", "teacher")}
    return store.save(step, tensors, {"state": {"step": step, **facts}}, f"step = {step}\n")


def verified(directory: Path) -> list[int]:
    """Steps of the checkpoints that verify, each read now, and that are what was saved."""
    store = CheckpointStore(directory)
    steps = [step for step in store.steps() if not manifest.verify(store.path(step))]
    for step in steps:
        assert store.load_facts(store.path(step), "state")["step"] == step
        assert torch.equal(store.load_tensors(store.path(step), "teacher")["w"], torch.full((5_000,), float(step)))
    return steps


def rotate(store: CheckpointStore, policy: Policy) -> None:
    for step, reasons in reasons_to_stay(verified_records(store), policy).items():
        if not reasons:
            store.delete(step)


def rotate_and_die(directory: Path, policy: Policy, at: int) -> None:
    """Rotate; SIGKILL at the n-th rename or removal, before it is done."""
    count = 0

    def strike(event: str, _: tuple[Any, ...]) -> None:
        nonlocal count
        if event in CHANGES:
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(strike)
    rotate(CheckpointStore(directory), policy)


def rotate_for_ever(directory: Path, policy: Policy, first: int, unhealthy: Collection[int], log: Path) -> None:
    """Save every step, rotate, and write down each step once its `save` has returned."""
    store = CheckpointStore(directory)
    with log.open("a", buffering=1) as lines:
        for step in range(first, sys.maxsize):
            save(store, step, anomalies=["loss-spike"] if step in unhealthy else [])
            lines.write(f"{step}\n")
            rotate(store, policy)
