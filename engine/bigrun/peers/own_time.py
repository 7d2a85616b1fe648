"""What of a step that is taken together a process computes by itself: the blocks of its networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bigrun.peers.pace import Pace

__all__ = ["follow", "follow_gathering"]


def follow_gathering(block: nn.Module, pace: Pace) -> None:
    """That others take part until a sharded block has its weights. To be called once it is sharded."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def before(module: nn.Module, arguments: Any) -> None:
        pace.enter()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def behind(module: nn.Module, arguments: Any) -> None:
        pace.leave()

    block.register_forward_pre_hook(before, prepend=True)
    block.register_forward_pre_hook(behind)


def follow(block: nn.Module, pace: Pace, device: torch.device) -> None:
    """That a block (T, D) -> (T, D) computes by itself, in the forward pass and in the backward pass: there from the
    gradient of what it gives, once a sharded block has its weights, to the gradient of what it gets, before its own
    gradients are sent."""

    def begin(gradient: Tensor) -> None:
        pace.begin_own(device)

    def end(gradient: Tensor) -> None:
        pace.end_own()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled() and arguments[0].requires_grad:
            arguments[0].register_hook(end)
        pace.begin_own(device)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def behind(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        pace.end_own()
        if arguments[0].requires_grad and output.requires_grad:
            output.register_hook(begin)  # type: ignore[no-untyped-call]

    block.register_forward_pre_hook(before)
    block.register_forward_hook(behind)
