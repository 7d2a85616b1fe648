"""What a target is: a library whose users are to have the backbone, and the files that it loads."""

from __future__ import annotations

import abc
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun.errors import BigrunError
from bigrun.weights.layouts import layout_named

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.export.source import Source
    from bigrun.sections import Model

__all__ = ["ExportError", "Extractor", "Target", "encode_weights", "plain_weights", "translate"]

Extractor = Callable[["Tensor"], tuple["Tensor", "Tensor"]]
"""Crops (n, C, s, s) to class tokens (n, D) and patches (n, P, D), both behind the final norm."""


class ExportError(BigrunError):
    """The export cannot be written, or does not give the checkpoint's features."""


class Target(abc.ABC):
    """A form of export."""

    name: str
    package: str
    """What pip calls the library that loads it."""

    def obstacles(self, model: Model) -> Iterator[str]:
        """Options of the model that the library has no place for, as `model.norm = 'rmsnorm'`."""
        return iter(())

    @abc.abstractmethod
    def files(self, source: Source) -> dict[str, bytes]:
        """Name -> contents of every file but the model card."""

    @abc.abstractmethod
    def usage(self, source: Source) -> str:
        """Python that loads the export from its folder, the current one, and computes `cls` and `patches`."""

    @abc.abstractmethod
    def load(self, folder: Path) -> Extractor:
        """What the library makes of the files."""

    def notes(self, source: Source) -> str:
        """What else a user of the library should know; one paragraph, or nothing."""
        return ""

    def version(self) -> str:
        """The installed version of the library, which is imported. Raises whatever importing it raises."""
        return str(importlib.import_module(self.package).__version__)


def plain_weights(source: Source) -> dict[str, Tensor]:
    """The weights under their own names, with the key's bias at zero where the model holds it there."""
    return layout_named("dinov3").to_own(source.weights, source.model)


def translate(layout: str, source: Source, **spelled: Any) -> dict[str, Tensor]:
    """The weights under another layout's names.

    Args:
        spelled: options that the layout's networks always have on, with the values they have there; what a bias or
            a LayerScale that the backbone lacks amounts to is written: zeros, ones.
    """
    import attrs
    import torch

    from bigrun.model.vit import VisionTransformer

    model = attrs.evolve(source.model, **spelled)
    weights = plain_weights(source)
    with torch.device("meta"):
        expected = plain_state(VisionTransformer(model).state_dict(), model)
    for name, tensor in expected.items():
        if name not in weights:
            weights[name] = torch.full(tensor.shape, 1.0 if name.endswith("gamma") else 0.0)
    return layout_named(layout).from_own(weights, model)


def plain_state(state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
    return layout_named("dinov3").to_own(state, model)


def encode_weights(weights: Mapping[str, Tensor]) -> bytes:
    """A safetensors file in fp32."""
    from safetensors.torch import save

    return save({name: tensor.float().contiguous() for name, tensor in weights.items()}, {"format": "pt"})
