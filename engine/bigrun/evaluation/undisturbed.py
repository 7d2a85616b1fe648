"""A network that is looked at, and is afterwards as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

__all__ = ["undisturbed"]

COMPILED = "_compiled_call_impl"
"""Where torch keeps what `Module.compile` makes (torch 2.2 to 2.13)."""


@contextlib.contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and no module that is compiled. Afterwards every module is as it was.

    What torch.compile has made is for the sizes of training. It would be made anew, in minutes, for each new size and
    mode; beyond torch's limit of 8 the steps of training would run uncompiled; and it calls no function that is put in
    later.
    """
    modes = [(module, module.training) for module in network.modules()]
    compiled = [(module, vars(module)[COMPILED]) for module, _ in modes if vars(module).get(COMPILED) is not None]
    try:
        for module, _ in modes:
            module.training = False
        for module, _ in compiled:
            setattr(module, COMPILED, None)
        with torch.no_grad():
            yield
    finally:
        for module, call in compiled:
            setattr(module, COMPILED, call)
        for module, mode in modes:
            module.training = mode
