"""Fully sharded data parallelism: every process has a share of the images of each step, and of all weights, gradients
and optimizer states."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from bigrun.objective.base import Objective
from bigrun.peers.errors import is_met_by_all
from bigrun.peers.gradients import needed, with_gradients
from bigrun.peers.own_time import following_gathering
from bigrun.peers.several import SeveralProcesses, networks_of
from bigrun.shards import is_sharded, local
from bigrun.strategy import clip_factor

if TYPE_CHECKING:
    from bigrun.peers.peers import Peers
    from bigrun.sections import Hardware, Parallel

__all__ = ["FullySharded"]


class Root(nn.Module):
    """Has what no block has, whole while it calls something."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.depth = 0
        """Calls, and other times in which the weights are whole, that have begun and are not over."""

    def forward(self, call: Callable[[], Any]) -> Any:
        self.depth += 1
        try:
            return call()
        finally:
            self.depth -= 1


class FullySharded(SeveralProcesses):
    """torch's FSDP2 (`fully_shard`; arXiv 2304.11277): a block's weights are gathered when it computes, then freed.

    A unit that is gathered at once is a block of a network; everything else of the objective (heads, embeddings, final
    norms) is one unit more, whole from the beginning of a micro-batch to the end of its backward pass. Weights,
    gradients and moments are fp32; in bf16 what is gathered is bf16, and gradients are summed in fp32.
    """

    is_sharded = True

    def __init__(self, hardware: Hardware, parallel: Parallel, peers: Peers) -> None:
        super().__init__(hardware, peers)
        self._groups = parallel.replicate
        self._shards_weights = parallel.shard == "full"
        self._root: Any = None
        self._frozen: list[Any] = []
        """Networks that are not the objective's."""
        self._single: set[int] = set()
        """Parameters of no block, by identity."""
        self._needed: set[str] = set()
        """Those of them that some micro-batch of the step has needed here, by name."""

    @functools.cached_property
    def mesh(self) -> DeviceMesh:
        """Of processes that have joined; for a plan of several nobody does."""
        size, groups = self.peers.size, self._groups
        shape, names = ((size,), ("shard",)) if groups == 1 else ((groups, size // groups), ("copy", "shard"))
        return init_device_mesh(self.device.type, shape, mesh_dim_names=names)

    def line(self) -> str:
        what = "weights, gradients" if self._shards_weights else "gradients"
        copies = self.mesh.size(0) if self.mesh.ndim > 1 else 1
        return f"fsdp over {self.world_size} processes: {what} and {in_shards(self.mesh.size(-1), copies)}"

    def put(self, module: nn.Module) -> nn.Module:
        """Unit by unit: a GPU never has more than its shards and one unit that is whole."""
        networks = list(networks_of(module))
        for network in networks:
            learns = any(parameter.requires_grad for parameter in network.parameters())
            for block in network.blocks:
                with following_gathering(block, self.peers.pace):
                    self._shard(block, reshard=self._shards_weights or not learns)
            gather_nothing_behind(network.blocks[0])
        if isinstance(module, Objective):
            self._root = self._shard(Root(module), reshard=False)
            self._root(lambda: None)  # the first to be called is the one that the others belong to
            self._reshard()
            in_blocks = {id(p) for network in networks for p in network.blocks.parameters()}
            self._single = {id(p) for p in self._root.parameters()} - in_blocks
            module.whole = self.whole
        else:
            for network in networks:
                self._frozen.append(self._shard(network, reshard=False))  # its norm is used on what its blocks gave
            if any(not is_sharded(parameter) for parameter in module.parameters()):
                self._frozen.append(self._shard(module, reshard=True))
        self._move_buffers(module)
        return module

    def _move_buffers(self, module: nn.Module) -> None:
        """What is beside the units."""
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                if not buffer.is_meta:
                    part._buffers[name] = buffer.to(self.device)

    def _shard(self, module: nn.Module, *, reshard: bool) -> Any:
        policy = MixedPrecisionPolicy(
            param_dtype=None if self.dtype is torch.float32 else self.dtype,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        return fully_shard(module, mesh=self.mesh, reshard_after_forward=reshard, mp_policy=policy)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        if self._root.depth:
            yield
            return
        with torch.no_grad():
            self._root(lambda: None)
        self._root.depth += 1
        try:
            yield
            self._reshard()
        except Exception as error:
            if is_met_by_all(error):
                self._reshard()
            else:
                self.is_torn = True
            raise
        finally:
            self._root.depth -= 1

    def _reshard(self) -> None:
        """Leave nothing gathered, which the next update would make outdated."""
        for network in (self._root, *self._frozen):
            for module in network.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    @contextlib.contextmanager
    def micro_batch(self, *, synchronize: bool) -> Iterator[None]:
        self._root.set_requires_gradient_sync(synchronize)
        self._root.set_is_last_backward(synchronize)
        yield

    def differentiate(self, call: Callable[[], Tensor]) -> Tensor:
        def own() -> Tensor:
            with self.peers.pace.own(self.device):
                return self._with_gradients(call())

        with self.peers.pace.together():
            loss: Tensor = self._root(own)
        return loss

    def _with_gradients(self, loss: Tensor) -> Tensor:
        """Of the unit that is no block, whose parameters are whole here."""
        found = {name: p for name, p in self._root.named_parameters() if p.requires_grad and not is_sharded(p)}
        self._needed |= (names := needed(loss, found))
        return with_gradients(loss, [parameter for name, parameter in found.items() if name not in names])

    def clip_gradients(self, modules: Mapping[str, nn.Module], max_norm: float | None) -> dict[str, Tensor]:
        """As one process does. What no process needed in this step has no gradient: AdamW leaves it as it is, decay
        included."""
        self._forget_unneeded()
        self._forget_order()
        learning = {name: with_gradient(module) for name, module in modules.items()}
        squares = self._squares([parameter for members in learning.values() for parameter in members])
        found, at = {}, 0
        for name, members in learning.items():
            own, at = squares[at : at + len(members)], at + len(members)
            norm = found[name] = own.sum().sqrt()
            if max_norm is not None and members:
                factor = clip_factor(norm, max_norm)
                torch._foreach_mul_([local_gradient(parameter) for parameter in members], factor)
        return found

    def _forget_unneeded(self) -> None:
        single = {name: p for name, p in self._root.named_parameters() if p.grad is not None and id(p) in self._single}
        # The graph does not show what a reentrant checkpoint or a function of somebody's own computes with.
        flags = [int(name in self._needed or bool(local_gradient(p).any())) for name, p in single.items()]
        for parameter, is_needed in zip(single.values(), self.peers.bits(flags), strict=True):
            if not is_needed:
                parameter.grad = None
        self._needed.clear()

    def _forget_order(self) -> None:
        """Frozen networks are units of their own: no backward pass clears what torch (2.10 to 2.13) writes down of each
        of their forward passes, to prefetch in that order."""
        for network in self._frozen:
            order = getattr(network._get_fsdp_state()._comm_ctx, "post_forward_order", [])  # none before its first pass
            for group in order:
                group._post_forward_indices.clear()
            order.clear()

    def _squares(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The squared norm of each whole gradient, (n,) float32."""
        if not parameters:
            return torch.zeros(0, device=self.device)
        norms = torch._foreach_norm([local_gradient(parameter) for parameter in parameters])
        squares = torch.stack(list(norms)).float().square()
        with self.peers.pace.together():  # over all copies: one result for everybody, to the last bit
            dist.all_reduce(squares)
        return squares / (self.world_size // self.mesh.size(-1))


def gather_nothing_behind(first: Any) -> None:
    """The first block of a network is the last of its backward pass. Behind it torch would gather what has had the
    forward pass before it, the teacher's last block, which nobody needs. The block itself is there."""
    first.set_modules_to_backward_prefetch([first])


def with_gradient(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.grad is not None]


def local_gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return local(parameter.grad)


def in_shards(shards: int, copies: int) -> str:
    """`optimizer states in 2 shards, 4 copies`."""
    plural = "" if shards == 1 else "s"
    return f"optimizer states in {shards} shard{plural}" + (f", {copies} copies" if copies > 1 else "")
