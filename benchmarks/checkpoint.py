"""What a checkpoint costs: how long training stands still, until it is on the disk, verified, loaded again.

python benchmarks/checkpoint.py                              ViT-S and ViT-L, ten minutes, 12 GiB of memory and of disk
python benchmarks/checkpoint.py --architectures vit_giant    with 60 GiB
python benchmarks/checkpoint.py --architectures vit_test --rounds 2    ten seconds

The state is what a run of the architecture saves: student and teacher with their heads, and two moments of AdamW, fp32.
Every round saves it in all ways, in turn, into a directory of its own, which is removed afterwards. Only bigrun's ways
force it to the disk, read it back and compare hashes; the others end when the operating system has taken the bytes.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from reporting import header, positive, table
from torch import Tensor

from bigrun.architectures import from_architecture
from bigrun.checkpoint.manifest import verify
from bigrun.checkpoint.optimizer_state import flatten
from bigrun.checkpoint.space import human_bytes
from bigrun.checkpoint.staging import Staging, count_bytes
from bigrun.checkpoint.store import CheckpointStore
from bigrun.ema import frozen_copy
from bigrun.objective.network import DinoNetwork
from bigrun.sections import Model, Objective

Groups = dict[str, dict[str, Tensor]]
Times = dict[str, float]
PROTOTYPES = 16384


class State:
    """The networks and the optimizer of a run; random numbers, for a disk may compress others."""

    def __init__(self, architecture: str) -> None:
        model = Model(architecture=architecture, **from_architecture({"architecture": architecture}))
        objective = Objective(prototypes=PROTOTYPES, ibot_prototypes=PROTOTYPES, koleo_group=16)
        self.student = DinoNetwork(model, objective)
        self.teacher = frozen_copy(self.student)
        self.optimizer = torch.optim.AdamW(self.student.parameters())
        for parameter in self.student.parameters():
            moments = {"exp_avg": torch.randn_like(parameter), "exp_avg_sq": torch.rand_like(parameter)}
            self.optimizer.state[parameter] = {"step": torch.tensor(1000.0), **moments}

    def gather(self) -> Groups:
        """What `bigrun.state.gather_state` gathers: no copies."""
        names = {parameter: name for name, parameter in self.student.named_parameters()}
        tensors, _ = flatten(self.optimizer, names)
        return {"student": self.student.state_dict(), "teacher": self.teacher.state_dict(), "optimizer": tensors}


class Ways:
    """The ways of saving: each takes a state and an empty directory, and returns its times."""

    def __init__(self) -> None:
        self.staging = Staging()
        self.thread = ThreadPoolExecutor(1)

    def copy(self, state: State, directory: Path) -> Times:
        return {"stall": timed(lambda: Staging().copy(state.gather()))}

    def background(self, state: State, directory: Path) -> Times:
        store, began = CheckpointStore(directory), time.perf_counter()
        tensors = self.staging.copy(state.gather())
        future = self.thread.submit(store.save, 1, tensors, {"state": {"step": 1}}, "")
        stall = time.perf_counter() - began
        path = future.result()
        return {"stall": stall, "total": time.perf_counter() - began, **read_again(path)}

    def foreground(self, state: State, directory: Path) -> Times:
        store = CheckpointStore(directory)
        total = timed(lambda: store.save(1, state.gather(), {"state": {"step": 1}}, ""))
        return {"stall": total, "total": total, **read_again(store.path(1))}

    def torch_save(self, state: State, directory: Path) -> Times:
        path = directory / "state.pth"
        total = timed(lambda: torch.save(state.gather(), path))
        drop_cache(directory)
        return {"stall": total, "total": total, "load": timed(lambda: touch(torch.load(path)))}

    def torch_save_synced(self, state: State, directory: Path) -> Times:
        """What a careful script does: beside it, forced to the disk, renamed."""
        path = directory / "state.pth"

        def save() -> None:
            torch.save(state.gather(), path.with_suffix(".tmp"))
            with path.with_suffix(".tmp").open("rb") as file:
                os.fsync(file.fileno())
            path.with_suffix(".tmp").replace(path)

        total = timed(save)
        return {"stall": total, "total": total}

    def dcp(self, state: State, directory: Path) -> Times:
        import torch.distributed.checkpoint as dcp

        began = time.perf_counter()
        future: Any = dcp.async_save(state.gather(), checkpoint_id=directory / "dcp")
        stall = time.perf_counter() - began
        future.result()
        total = time.perf_counter() - began
        drop_cache(directory / "dcp")
        empty = {name: {key: torch.empty_like(t) for key, t in group.items()} for name, group in state.gather().items()}
        return {
            "stall": stall, "total": total, "load": timed(lambda: dcp.load(empty, checkpoint_id=directory / "dcp")),
        }  # fmt: skip

    def all(self) -> dict[str, Callable[[State, Path], Times]]:
        return {
            "one copy in memory": self.copy,
            "bigrun, background": self.background,
            "bigrun, foreground": self.foreground,
            "torch.save": self.torch_save,
            "torch.save, fsync": self.torch_save_synced,
            "DCP async_save": self.dcp,
        }


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def read_again(path: Path) -> Times:
    """Times to verify a checkpoint and to load it, each from the disk."""
    drop_cache(path)
    verified = timed(lambda: verify(path))
    drop_cache(path)
    stems = [file.stem for file in path.glob("*.safetensors")]
    return {"verify": verified, "load": timed(lambda: [touch(CheckpointStore.load_tensors(path, s)) for s in stems])}


def touch(tree: Any) -> None:
    """Read what may only be mapped."""
    for value in tree.values():
        if isinstance(value, Tensor):
            value.clone()
        else:
            touch(value)


def drop_cache(directory: Path) -> None:
    os.sync()
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(architecture: str, rounds: int, folder: Path) -> tuple[int, dict[str, Times]]:
    """Bytes of the state, and the medians of every way."""
    state, ways = State(architecture), Ways()
    size = count_bytes(tensor for group in state.gather().values() for tensor in group.values())
    found: dict[str, list[Times]] = {name: [] for name in ways.all()}
    for number in range(rounds + 1):
        for name, save in ways.all().items():
            directory = Path(tempfile.mkdtemp(dir=folder))
            times = save(state, directory)
            shutil.rmtree(directory)
            if number:  # the first round makes buffers and imports modules
                found[name].append(times)
        gc.collect()
    return size, {
        name: {key: statistics.median(times[key] for times in all_times) for key in all_times[0]}
        for name, all_times in found.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architectures", nargs="+", default=["vit_small", "vit_large"])
    parser.add_argument("--rounds", type=positive, default=5, help="measured rounds  [5]")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured  [a temporary one]")
    options = parser.parse_args()
    print(header("Checkpoints: what a save costs"), flush=True)
    warnings.simplefilter("ignore")  # DCP warns of its own internals
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 1), rank=0, world_size=1)
        for architecture in options.architectures:
            size, found = measure(architecture, options.rounds, folder)
            print(f"\n{architecture}: {human_bytes(size)}, medians of {options.rounds} rounds, seconds")
            copy = found["one copy in memory"]["stall"]
            rows = []
            for way, times in found.items():
                cells = [f"{times[key]:.2f}" if key in times else "" for key in ("stall", "total", "verify", "load")]
                rows.append((way, *cells, f"{times['stall'] / copy:.2f}"))
            print(table(("way", "stall", "on disk", "verify", "load", "stall / copy"), rows), flush=True)
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
