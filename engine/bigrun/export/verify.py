"""Whether what was written gives the checkpoint's features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from bigrun.export.target import ExportError

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.export.source import Source
    from bigrun.export.target import Extractor, Target

__all__ = ["LIMIT", "Verdict", "largest_difference", "verify"]

LIMIT = 1e-4
"""Of the largest difference, over the largest feature: fp32 sums in another order give about 1e-6."""


@attrs.frozen
class Verdict:
    """What was compared with what, or why nothing was."""

    library: str
    """With its version: `timm 1.0.20`; without one if it cannot be imported."""
    images: str = ""
    differences: Mapping[str, float] = attrs.field(factory=dict)
    """By tensor, relative."""
    reason: str = ""
    """Why there was no comparison."""

    @property
    def verified(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        if self.reason:
            return f"not verified: {self.reason}"
        each = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        return (
            f"verified in {self.library}, fp32, on {self.images}: "
            f"largest difference over largest feature: {each} (limit {LIMIT:.0e})"
        )


def verify(target: Target, folder: Path, source: Source, say: Callable[[str], None]) -> Verdict:
    """Load `folder` through the target's library and compare features with the checkpoint's.

    `say` is told why the run's own images are not used.

    Raises:
        ExportError: they differ, or the library refuses the files.
    """
    import torch

    from bigrun.export.images import find_crops

    try:
        library = f"{target.package} {target.version()}"
    except Exception as error:  # a broken installation raises anything: ImportError, RuntimeError, AttributeError
        return Verdict(target.package, reason=explain_missing(target.package, error))
    crops = find_crops(source, say)
    with torch.inference_mode():
        expected = own_features(source, crops.pixels)
        got = foreign_features(target, folder, crops.pixels)
    names = ("class token", "patches")
    differences = {n: largest_difference(a, b) for n, a, b in zip(names, expected, got, strict=True)}
    verdict = Verdict(library, crops.what, differences)
    if not all(difference <= LIMIT for difference in differences.values()):  # NaN is not
        raise ExportError(f"the export does not give the checkpoint's features and is not kept: {verdict}")
    return verdict


def explain_missing(package: str, error: Exception) -> str:
    """Not there is one thing, there and broken another."""
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return f"{package} is not installed (pip install {package})"
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{package} cannot be imported here ({type(error).__name__}: {text:.200})"


def own_features(source: Source, crops: Tensor) -> tuple[Tensor, Tensor]:
    features = source.backbone()(crops)
    return features.cls, features.patches


def foreign_features(target: Target, folder: Path, crops: Tensor) -> tuple[Tensor, Tensor]:
    try:
        extract: Extractor = target.load(folder)
        return extract(crops)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"{target.package} does not load the export, which is not kept: {type(error).__name__}: {error}"
        ) from error


def largest_difference(expected: Tensor, got: Tensor) -> float:
    """max |a - b| / max |a|; NaN when a shape is another, a is zero, or a number is not finite."""
    if expected.shape != got.shape:
        return float("nan")
    return float((expected - got).abs().max() / expected.abs().max())
