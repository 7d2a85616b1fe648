"""What of saved tensors is read and put together, and how much of it is in memory at once."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bigrun.checkpoint.optimizer_state import restore
from bigrun.checkpoint.saved_tensors import SavedTensors
from bigrun.checkpoint.strict import load_strict

__all__ = ["Net", "Watched", "names_of", "restore_shards"]


class Watched(SavedTensors):
    """Knows of the storages that it has given whether they are there still."""

    def __init__(self, checkpoint: Path, stem: str) -> None:
        super().__init__(checkpoint, stem)
        self.read = self.now = self.most = 0
        """Bytes: of all rows, of those whose memory is there, and the most that was."""

    def rows(self, name: str, rows: slice) -> Tensor:
        tensor = super().rows(name, rows)
        self.read += tensor.nbytes
        self.now += tensor.nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(tensor.untyped_storage(), self._gone, tensor.nbytes)
        return tensor

    def _gone(self, size: int) -> None:
        self.now -= size


class Net(nn.Module):
    """Ten matrices of one size, which two processes cut at row 4."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(6, 7, bias=False) for _ in range(10)))


def names_of(module: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in module.named_parameters()}


def restore_shards(rank: int, folder: Path, facts: dict[str, Any]) -> None:
    """As one of two processes: load a network and its optimizer into shards, and say what was read for it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    net, mesh = Net(), init_device_mesh("cpu", (2,))
    for layer in net.layers:
        layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [Shard(0)]))  # type: ignore[operator]
    optimizer = torch.optim.AdamW(net.parameters())
    weights, states = Watched(folder, "net"), Watched(folder, "optimizer")
    load_strict(net, weights, "net")
    restore(optimizer, names_of(net), states, facts)
    rows = {name: parameter.to_local().tolist() for name, parameter in net.named_parameters()}
    moments = {n: optimizer.state[p]["exp_avg"].to_local().tolist() for n, p in net.named_parameters()}
    told = {name: [one.read, one.most] for name, one in (("net", weights), ("optimizer", states))}
    (folder / f"{rank}.json").write_text(json.dumps({"rows": rows, "moments": moments, **told}))
    dist.destroy_process_group()
