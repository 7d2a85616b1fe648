"""Where and how a step runs: device, precision, gradient synchronisation, agreement between processes.

`Strategy` is what the loop asks of it. `SingleProcess` is one process; `bigrun.peers.ddp` several.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import attrs
import torch
from torch import Tensor, nn

from bigrun.devices.choose import choose_device
from bigrun.sections import Hardware

__all__ = ["Agreement", "SingleProcess", "Strategy", "clip_factor", "is_meta"]

EPSILON = 1e-6
"""That of torch's `clip_grads_with_norm_`."""


@attrs.frozen
class Agreement:
    """What all processes know together after a step's gradients."""

    healthy: bool
    stop: bool
    failed: int
    """Bit i is set when observer i failed on any process."""


def is_meta(module: nn.Module) -> bool:
    """Whether a module has no storage yet."""
    return any(tensor.is_meta for tensor in module.state_dict().values())


def clip_factor(norm: Tensor, max_norm: float) -> Tensor:
    """What gradients of a norm, shape (), are multiplied by so that theirs is at most `max_norm`, as torch does."""
    return (max_norm / (norm + EPSILON)).clamp(max=1.0)


class Strategy(abc.ABC):
    """One process's part in the run."""

    device: torch.device
    rank: int
    world_size: int
    is_sharded = False
    """Whether a process has a part of the networks only, so that all take part in a save."""

    is_torn = False
    """Whether something that all processes do together has failed on this one, so that the others wait for it."""

    def line(self) -> str:
        """How several processes share the networks, for the header."""
        return f"{self.world_size} processes"

    @abc.abstractmethod
    def place(self, module: nn.Module) -> nn.Module:
        """Move (or shard) a module, in place, to where it is used; one on the meta device stays there."""

    @abc.abstractmethod
    def precision(self) -> AbstractContextManager[None]:
        """The context of every forward pass."""

    @abc.abstractmethod
    def micro_batch(self, *, synchronize: bool) -> AbstractContextManager[None]:
        """The context of one micro-batch's forward and backward pass; gradients are exchanged between processes only if
        `synchronize`."""

    def whole(self) -> AbstractContextManager[None]:
        """The context in which networks may be used outside of `differentiate`; all processes enter it."""
        return nullcontext()

    def differentiate(self, call: Callable[[], Tensor]) -> Tensor:
        """What `call` returns: the loss of a micro-batch, shape (), which `backward` is going to be called with."""
        return call()

    @abc.abstractmethod
    def backward(self, loss: Tensor, *, keep_graph: bool = False) -> None:
        """Add the gradients of a scalar loss; with `keep_graph` that can be done again."""

    @abc.abstractmethod
    def clip_gradients(self, modules: Mapping[str, nn.Module], max_norm: float | None) -> dict[str, Tensor]:
        """Scale each module's gradients to at most `max_norm` (L2); returns the norms before, shape (), float32."""

    @abc.abstractmethod
    def agree(self, finite: Sequence[Tensor], *, stop: bool, failed: int) -> Agreement:
        """Reduce over processes: finite everywhere, someone asked to stop, observers that failed anywhere."""


class SingleProcess(Strategy):
    """One process, one device, bf16 autocast or fp32; weights and gradients are fp32."""

    rank = 0
    world_size = 1

    def __init__(self, hardware: Hardware) -> None:
        self.device = choose_device(hardware.device)
        self.dtype = torch.bfloat16 if hardware.precision == "bf16" else torch.float32

    def place(self, module: nn.Module) -> nn.Module:
        return module if is_meta(module) else module.to(self.device)

    def precision(self) -> AbstractContextManager[None]:
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def micro_batch(self, *, synchronize: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor, *, keep_graph: bool = False) -> None:
        loss.backward(retain_graph=keep_graph)  # type: ignore[no-untyped-call]

    def clip_gradients(self, modules: Mapping[str, nn.Module], max_norm: float | None) -> dict[str, Tensor]:
        return {name: _clip(module.parameters(), max_norm, self.device) for name, module in modules.items()}

    def agree(self, finite: Sequence[Tensor], *, stop: bool, failed: int) -> Agreement:
        return Agreement(bool(torch.stack(list(finite)).all()), stop, failed)


def _clip(parameters: Iterable[nn.Parameter], max_norm: float | None, device: torch.device) -> Tensor:
    with_gradient = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in with_gradient if p.grad is not None]
    if not gradients:  # the module does not learn in this step; torch's zero would be on the CPU
        return torch.zeros((), device=device)
    norm = nn.utils.get_total_norm(gradients)
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(with_gradient, max_norm, norm)
    return norm.float()
