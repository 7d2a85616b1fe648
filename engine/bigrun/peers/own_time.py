"""What of a step that is taken together a process computes by itself: the blocks of its networks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from bigrun.peers.pace import Pace

__all__ = ["follow", "following_gathering"]


@attrs.frozen
class Gathering:
    """Hooks around what gathers the weights of a block."""

    pace: Pace

    def begin(self, module: nn.Module, arguments: Any) -> None:
        self.pace.enter()

    def end(self, module: nn.Module, arguments: Any) -> None:
        self.pace.leave()


@attrs.frozen
class Own:
    """Hooks around a block (T, D) -> (T, D), and on the gradients of what it gives and gets."""

    pace: Pace
    device: torch.device

    def begin(self, gradient: Tensor) -> None:
        self.pace.begin_own(self.device)

    def end(self, gradient: Tensor) -> None:
        self.pace.end_own()

    def before(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled() and arguments[0].requires_grad:
            arguments[0].register_hook(self.end)
        self.pace.begin_own(self.device)

    def behind(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        self.pace.end_own()
        if arguments[0].requires_grad and output.requires_grad:
            output.register_hook(self.begin)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def following_gathering(block: nn.Module, pace: Pace) -> Iterator[None]:
    """That others take part until a block has its weights; to be sharded in here by whoever puts the hook that gathers
    them before all others."""
    gathering = Gathering(pace)
    block.register_forward_pre_hook(untraced(block, gathering.end), prepend=True)
    yield
    block.register_forward_pre_hook(untraced(block, gathering.begin), prepend=True)


def follow(block: nn.Module, pace: Pace, device: torch.device) -> None:
    """That a block computes by itself, in the forward pass and in the backward pass: there from the gradient of what it
    gives, once a sharded block has its weights, to the gradient of what it gets, before its own gradients are sent. A
    backward pass that needs less than both counts until its end."""
    own = Own(pace, device)
    block.register_forward_pre_hook(untraced(block, own.before))
    block.register_forward_hook(untraced(block, own.behind))


def untraced(block: nn.Module, hook: Callable[..., None]) -> Callable[..., None]:
    """No part of what torch.compile makes of a block. (Saying so takes a second to import, and cannot be pickled.)"""
    is_compiled = getattr(block, "_compiled_call_impl", None) is not None
    disabled: Callable[..., None] = torch.compiler.disable(hook) if is_compiled else hook  # type: ignore[no-untyped-call]
    return disabled
