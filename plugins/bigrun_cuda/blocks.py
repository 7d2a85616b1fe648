"""Blocks compiled one by one: all blocks of a network share what was compiled, and checkpointing stays inside."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from bigrun.devices import Setting

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "blocks_of",
    "compile_blocks",
    "compile_event",
    "compile_refusal",
    "compile_row",
    "raise_recompile_limit",
    "what_compiles",
]

NAME = "compiled blocks"
COMPILERS = ("cc", "gcc", "clang")
SPARE = 4
"""Graphs beside those of training: other sizes and modes in which plugins look at features."""


def compile_refusal(*, has_triton: bool, has_compiler: bool) -> str | None:
    """Why blocks cannot be compiled for a GPU, and what to do."""
    if not has_triton:
        return "Triton is not installed: pip install triton, in the version that this torch asks for"
    if not has_compiler:
        return f"Triton needs a C compiler, and there is none of {', '.join(COMPILERS)}: install gcc, or set CC"
    return None


def what_compiles(environment: Mapping[str, str]) -> dict[str, bool]:
    """Arguments of `compile_refusal`, from this machine."""
    has_compiler = bool(environment.get("CC")) or any(map(shutil.which, COMPILERS))
    return {"has_triton": find_spec("triton") is not None, "has_compiler": has_compiler}


def blocks_of(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Every block of these networks, each once."""
    from bigrun.model.block import Block

    found = (part for module in modules for part in module.modules() if isinstance(part, Block))
    return list(dict.fromkeys(found))


def compile_blocks(blocks: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Compile each block when it is first called, for exactly the sizes that it sees. Names of parameters stay, and a
    copy of a compiled block is not compiled."""
    for block in blocks:
        block.compile(dynamic=False, backend=backend)


def raise_recompile_limit(sizes: int) -> Callable[[], None]:
    """Room for the graphs of each size of crops, three with gradients (stochastic depth keeps one of two numbers of
    global crops and one of two of local ones, by the same draw) and one without; beyond torch's limit of 8 a block
    would run uncompiled, with no more than a log line. Returns what undoes it."""
    import torch._dynamo.config as dynamo

    stack = ExitStack()
    needed = 4 * sizes + SPARE
    limits: Any = dynamo
    if needed > limits.recompile_limit:
        stack.enter_context(limits.patch(recompile_limit=needed))
    return stack.close


def compile_row(blocks: list[nn.Module], *, is_custom: bool) -> Setting:
    """Of what will be compiled in the first step."""
    wrapped = sum(getattr(block, "_compiled_call_impl", None) is not None for block in blocks)
    evidence = f"{wrapped} of {len(blocks)} blocks call what torch.compile makes in the first step"
    return Setting(NAME, "0", str(len(blocks)), wrapped == len(blocks) > 0, evidence, is_custom)


def compile_event() -> tuple[str, dict[str, int]]:
    """What the first step has compiled: message and facts."""
    from torch._dynamo.utils import counters

    graphs = int(counters["stats"]["unique_graphs"])
    breaks = sum(counters["graph_break"].values())
    return f"blocks are compiled: {graphs} graphs, {breaks} graph breaks", {"graphs": graphs, "graph_breaks": breaks}
