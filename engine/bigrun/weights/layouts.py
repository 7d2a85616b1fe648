"""The layouts that are known, by name and by what a file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.errors import UsageError
from bigrun.values import did_you_mean
from bigrun.weights.dinov2 import Dinov2
from bigrun.weights.dinov3 import Dinov3
from bigrun.weights.timm import Timm
from bigrun.weights.transformers import Transformers
from bigrun.weights.transformers_dinov2 import TransformersDinov2

if TYPE_CHECKING:
    from collections.abc import Collection

    from bigrun.weights.layout import Layout

__all__ = ["LAYOUTS", "layout_named", "recognise"]

# The first that matches is taken: bigrun's own, which has no name that is nobody else's, is the last.
LAYOUTS: tuple[Layout, ...] = (Transformers(), TransformersDinov2(), Timm(), Dinov2(), Dinov3())


def layout_named(name: str) -> Layout:
    """The layout of this name.

    Raises:
        UsageError: there is none.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    names = [layout.name for layout in LAYOUTS]
    raise UsageError(f"there is no layout {name!r}{did_you_mean(name, names)}; layouts: {', '.join(names)}")


def recognise(keys: Collection[str]) -> Layout:
    """The layout of a backbone with these names.

    Raises:
        UsageError: they are of none.
    """
    for layout in LAYOUTS:
        if layout.matches(keys):
            return layout
    shown = ", ".join(sorted(keys)[:5]) or "none"
    raise UsageError(
        f"the names of the tensors are of no layout that is known ({', '.join(layout.name for layout in LAYOUTS)}); "
        f"the first are: {shown}"
    )
