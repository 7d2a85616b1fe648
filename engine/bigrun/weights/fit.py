"""Which tensor of a file goes where, and what becomes of the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs
import torch

from bigrun.weights.coverage import Coverage
from bigrun.weights.qkv import has_key_bias, without_key_bias
from bigrun.weights.resample import resample_patch_embedding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from bigrun.objective.base import Network
    from bigrun.sections import Model

__all__ = ["Fit", "fit"]

BACKBONE = "backbone."
PATCHES = "backbone.patch_embed.proj.weight"
PERIODS = "backbone.rope_embed.periods"
BIAS = ".attn.qkv.bias"
# The originals' periods were rounded to bf16, which has 8 bits of mantissa.
PERIOD_TOLERANCE = 2.0**-8
# Norms that a file without them has in another: (name here, name there), tried in this order.
SAME_NORM = (
    (r"backbone\.local_cls_norm\.", "backbone.cls_norm."),
    (r"backbone\.local_cls_norm\.", "backbone.norm."),
    (r"backbone\.cls_norm\.", "backbone.norm."),
)
# Parameters that a file may lack because zero, their first value, says the same: no masked patch was seen, or the
# projection has no bias.
ZERO = re.compile(r"backbone\.(mask_token|blocks\.\d+\.attn\.qkv\.bias)")


@attrs.frozen(eq=False)
class Fit:
    """What is to be loaded, by the network's names, and how much of it that is."""

    tensors: Mapping[str, Tensor]
    coverage: Coverage


def fit(
    found: Mapping[str, Tensor],
    network: Network,
    model: Model,
    *,
    path: Path,
    layout: str,
    heads: bool = False,
    resample: bool = False,
) -> Fit:
    """Match a file's tensors with a network's; neither is changed, and both may be on the meta device.

    Args:
        found: by the network's names (`backbone.blocks.0.norm1.weight`).
        network: freshly initialised.
        heads: whether the network's heads count too, or only its backbone.
        resample: whether a patch embedding for another patch size is fitted to this one.
    """
    expected = {n: t for n, t in network.state_dict().items() if heads or n.startswith(BACKBONE)}
    parameters = {n: p.numel() for n, p in network.named_parameters() if n in expected}
    found = dict(found)
    if resample and PATCHES in found and found[PATCHES].shape[:2] == expected[PATCHES].shape[:2]:
        found[PATCHES] = resample_patch_embedding(found[PATCHES], model.patch_size_px)
    key_biases = [n for n, t in found.items() if model.mask_k_bias and n.endswith(BIAS) and has_key_bias(t)]
    found |= {n: without_key_bias(found[n]) for n in key_biases}
    misfits = dict(_misfits(found, expected))
    tensors = {n: t for n, t in found.items() if n in expected and n not in misfits}
    implied = {n: start for n in parameters if n not in found and (start := _implied(n, found, parameters))}
    tensors |= {n: found[start] for n, start in implied.items() if start in tensors}
    absent = [n for n in parameters if n not in found and n not in implied]
    coverage = Coverage(
        path=str(path),
        layout=layout,
        parameters={_short(n): count for n, count in parameters.items()},
        loaded=frozenset(_short(n) for n in tensors if n in parameters and n not in implied),
        implied={_short(n): f"as {_short(start)}" if start in found else start for n, start in implied.items()},
        missing=tuple(_short(n) for n in absent),
        unused=(
            *(_short(n) for n in found if n not in expected),
            *(f"the keys' part of {_short(n)} (model.mask_k_bias = true)" for n in key_biases),
        ),
        misfits=tuple(f"{_short(n)} {text}" for n, text in misfits.items()),
    )
    return Fit(tensors, coverage)


def _implied(name: str, found: Mapping[str, Tensor], parameters: Mapping[str, int]) -> str | None:
    """What a parameter that the file lacks begins as so that the network is the file's: a tensor of the file, or words;
    None when there is no such thing.
    """
    if parameters[name] == 0:
        return "empty"
    if ZERO.fullmatch(name):
        return "zero"
    for pattern, same in SAME_NORM:
        other = re.sub(pattern, same, name)
        if other != name and other in found:
            return other
    return None


def _misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Tensors that have a name here and cannot be used, and why."""
    for name, tensor in found.items():
        if name not in expected:
            continue
        if tensor.shape != expected[name].shape:
            yield name, f"has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        elif name == PERIODS and not _same_periods(tensor, expected[name]):
            yield name, "are not those of model.rope_base or model.rope_period_range"


def _same_periods(found: Tensor, expected: Tensor) -> bool:
    """Within bf16's rounding; of meta tensors that is not known, and True."""
    if found.is_meta or expected.is_meta:
        return True
    return torch.allclose(found.float().cpu(), expected.cpu(), rtol=PERIOD_TOLERANCE, atol=0)


def _short(name: str) -> str:
    return name.removeprefix(BACKBONE)
