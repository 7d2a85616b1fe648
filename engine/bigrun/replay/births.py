"""Where the first value that is not finite comes from: every operation of a step is looked at, forward and backward."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import FrameType

__all__ = ["Birth", "Births", "Look", "watched"]

CONSTANTS = (
    "full",
    "fill",
    "masked_fill",
    "scalar_tensor",
    "new_full",
    "constant_pad",
    "lift_fresh",
    "empty",
    "detach",
)
"""Operations that write what they are told: an infinity of theirs is meant, as in a mask. `empty` reads old memory."""


PHASES = {
    "next_window": {"": "views"},
    "ask": {
        "prepare": "teacher's pass",
        "forward": "student's pass",
        "loss_terms": "loss",
        "statistics": "statistics",
        "update_teacher": "teacher's update",
    },
    "backward": {"": "backward pass"},
    "clip_gradients": {"": "clipping"},
    "step": {"": "optimizer"},
}
"""Names of functions on the stack, and of the `method` that `ask` is given."""
KEPT = 3
"""Births that are kept: an infinity may be meant, so that the first is not always the one."""


@attrs.frozen
class Look:
    """A tensor at a glance."""

    shape: tuple[int, ...]
    dtype: str
    nan: int
    infinite: int
    largest: float
    """Largest magnitude among the finite values; 0 when there are none."""

    @classmethod
    def at(cls, tensor: Tensor) -> Look:
        values = tensor.detach().float()
        finite = values[torch.isfinite(values)]
        return cls(
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            int(torch.isnan(values).sum()),
            int(torch.isinf(values).sum()),
            float(finite.abs().max()) if finite.numel() else 0.0,
        )

    def __str__(self) -> str:
        bad = [f"{count} {name}" for count, name in ((self.nan, "NaN"), (self.infinite, "infinite")) if count]
        state = ", ".join(bad) if bad else f"finite, largest magnitude {self.largest:.3g}"
        return f"{self.shape} {self.dtype}: {state}"


@attrs.frozen
class Birth:
    """The operation that made something not finite out of finite values."""

    operation: str
    phase: str
    """The part of the step, with the micro-batch."""
    module: str
    """Path of the innermost module, '' outside of any and in the backward pass."""
    source: str
    """File and line, of the forward operation in the backward pass; '' where it is unknown."""
    inputs: tuple[Look, ...]
    output: Look


class Births(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside this context the first births are kept in `found`; everything is computed as ever, only slower."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        """
        Args:
            modules: the roots by name; what is inside them is named by its path.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Birth] = []
        self._paths = {
            id(inner): f"{name}.{path}" if path else name
            for name, module in modules.items()
            for path, inner in module.named_modules()
        }

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        inputs = floats((args, kwargs))
        if len(self.found) == KEPT or any(word in name for word in CONSTANTS) or not all(map(all_finite, inputs)):
            return func(*args, **(kwargs or {}))
        # An operation in place overwrites what it was given.
        looks = [Look.at(tensor) for tensor in inputs] if func._schema.is_mutable else None
        result = func(*args, **(kwargs or {}))
        bad = next((tensor for tensor in floats(result) if not all_finite(tensor)), None)
        if bad is not None:
            seen = looks or [Look.at(tensor) for tensor in inputs]
            self.found.append(Birth(name, *self._place(), tuple(seen), Look.at(bad)))
        return result

    def _place(self) -> tuple[str, str, str]:
        """(phase, module, source) of the code that runs; in a backward pass the code whose gradient is computed."""
        stack = list(frames())
        node: Any = torch._C._current_autograd_node()
        if node is not None:
            return phase_of(stack) or "backward pass", "", forward_source(node)
        owners = [self._paths.get(id(frame.f_locals.get("self"))) for frame in stack]
        ours = next((frame for frame in stack if is_ours(frame.f_code.co_filename)), None)
        source = "" if ours is None else place(ours.f_code.co_filename, ours.f_lineno, ours.f_code.co_name)
        return phase_of(stack), next(filter(None, owners), ""), source


@contextlib.contextmanager
def watched(births: Births) -> Iterator[None]:
    """Watch every operation; autograd notes where each was made, for the backward pass."""
    with torch.autograd.set_detect_anomaly(True, check_nan=False), births:
        yield


def forward_source(node: Any) -> str:
    """What autograd's anomaly mode has noted of the operation whose gradient `node` computes."""
    lines = [line.strip() for text in node.metadata.get("traceback_", []) for line in text.splitlines()]
    ours = [line.split('"') for line in lines if line.startswith('File "') and is_ours(line.split('"')[1])]
    if not ours:
        return f"the gradient {node.name()}"
    _, path, rest = ours[-1]
    number, _, name = rest.removeprefix(", line ").partition(", in ")
    return f"the gradient of {place(path, number, name)}"


def phase_of(stack: Sequence[FrameType]) -> str:
    """What the loop is doing, by its own names; on a GPU the backward pass has a stack of its own, without them."""
    found, micro = "", ""
    for frame in stack:
        code, values = frame.f_code, frame.f_locals
        if not found and code.co_name in PHASES:
            found = PHASES[code.co_name].get(values.get("method", ""), "")
        elif not found and code.co_name == "contained":  # of bigrun.plugins, around what a plugin implements
            found = f"{values['hook']} of {values['name']}"
        if code.co_name == "accumulate" and "micro" in values:
            micro = f", micro-batch {values['micro']}"
    return f"{found}{micro}" if found else ""


def floats(tree: Any) -> list[Tensor]:
    return [
        leaf
        for leaf in tree_leaves(tree)
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and not leaf.is_meta and leaf.numel()
    ]


def all_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())


def frames() -> Iterable[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


def is_ours(filename: str) -> bool:
    """Whether a file is neither torch's, nor Python's, nor this one."""
    path = Path(filename)
    library = "torch" in path.parts or path.parent == Path(contextlib.__file__).parent
    return not (library or filename.startswith("<") or filename == __file__)


def place(filename: str, line: int | str, function: str) -> str:
    return f"{'/'.join(Path(filename).parts[-3:])}:{line} in {function}"
