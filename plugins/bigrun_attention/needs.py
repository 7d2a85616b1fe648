"""What the kernels need, decided on facts alone: each function says why a kernel cannot be used, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from bigrun.devices import DeviceFacts

__all__ = ["Work", "XformersFacts", "varlen_obstacle", "xformers_obstacle"]

XFORMERS_ROCM = ("gfx90a", "gfx942")
"""What xformers' wheel for ROCm is compiled for (.github/workflows/wheels_build.yml of its repository)."""
FLASH_HEAD_SIZE = 256
NARROW_BACKWARD = ("sm_86", "sm_89", "sm_120")
"""Whose shared memory is too small for flash's backward pass with heads of 193 to 224 (torch, sdp_utils.cpp)."""


@attrs.frozen
class Work:
    """What a kernel is asked to do."""

    heads: int
    head_size: int
    dtype: str
    """`bfloat16`, `float16` or `float32`."""

    def __str__(self) -> str:
        return f"{self.dtype} with heads of {self.head_size}"


@attrs.frozen
class XformersFacts:
    """An installation of xformers."""

    version: str | None = None
    """None where there is none."""
    import_error: str | None = None
    """What its import has raised."""
    library_error: str | None = None
    """Why its compiled part is not loaded; it can be imported nevertheless."""
    operators: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    """For each operator why it does not take the work, in xformers' words; nothing where it does."""

    def runs(self) -> list[str]:
        """Forward operators that take the work, and whose backward operator does as well: `fa2F@2.5.7-pt`."""
        return [name for name, back in self._pairs() if not self.operators[name] and not self.operators[back]]

    def refusals(self) -> str:
        """Why the others do not."""
        pairs = list(self._pairs())
        reasons = {name: dict.fromkeys(self.operators[name] + self.operators[back]) for name, back in pairs}
        return "; ".join(f"{name}: {', '.join(why)}" for name, why in reasons.items() if why)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        """cutlassF-pt and cutlassB-pt; those of inference alone have no second."""
        for name in self.operators:
            back = name.replace("F", "B", 1)
            if back != name and back in self.operators:
                yield name, back


def varlen_obstacle(device: DeviceFacts, work: Work, *, has_flash: bool, has_experimental: bool) -> str | None:
    """Why torch's varlen attention cannot be used; None where nothing speaks against it.

    Args:
        has_flash: whether torch is built with flash attention.
        has_experimental: whether TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL is 1.
    """
    release, version = device.torch.release, device.torch.version
    if release < (2, 10):
        return f"torch {version} has no torch.nn.attention.varlen: install torch 2.10 or later"
    if not device.is_gpu:
        return "torch has no such kernel for a CPU: train on a GPU, or do without this plugin"
    if work.dtype not in ("bfloat16", "float16"):
        return f"flash attention does not compute in {work.dtype}: set hardware.precision = 'bf16'"
    if work.head_size % 8 or work.head_size > FLASH_HEAD_SIZE:
        return f"flash attention takes heads of 8, 16, ... {FLASH_HEAD_SIZE}, not of {work.head_size}"
    if not has_flash:
        return f"torch {version} is built without flash attention: install a build that has it"
    if device.backend == "rocm":
        return _rocm_obstacle(device, has_experimental=has_experimental)
    if device.capability is not None and device.capability < (8, 0):
        return f"flash attention needs compute capability 8.0, this GPU is {device.arch}: do without this plugin"
    if device.arch in NARROW_BACKWARD and 192 < work.head_size <= 224:
        return f"flash attention has no backward pass for heads of {work.head_size} on {device.arch}"
    return None


def _rocm_obstacle(device: DeviceFacts, *, has_experimental: bool) -> str | None:
    """Flash attention of ROCm is AOTriton: 0.11.2 in torch 2.11 is the first whose varlen form is right, and there the
    kernels of gfx11 are experimental (0.12 has them as any other)."""
    if device.torch.release < (2, 11):
        return f"torch {device.torch.version} has an AOTriton before 0.11.2: install torch 2.11 or later"
    if device.torch.release < (2, 12) and device.arch.startswith("gfx11") and not has_experimental:
        return (
            f"torch {device.torch.version} holds its flash attention for {device.arch} to be experimental: set "
            "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1 in the environment of the run"
        )
    return None


def xformers_obstacle(device: DeviceFacts, work: Work, xformers: XformersFacts) -> str | None:
    """Why xformers' attention cannot be used; None where one of its operators takes the work."""
    if not device.is_gpu:
        return "xformers has no operator for a CPU: train on a GPU, or do without this plugin"
    if device.backend == "rocm" and device.arch not in XFORMERS_ROCM:
        return (
            f"xformers' wheel for ROCm is compiled for {' and '.join(XFORMERS_ROCM)} only, this GPU is {device.arch}: "
            "do without this plugin, or try varlen-attention"
        )
    if xformers.version is None:
        return f"xformers is not installed: {_install(device)}"
    if xformers.import_error is not None:
        return f"xformers {xformers.version} cannot be imported ({xformers.import_error}): {_install(device)}"
    if xformers.runs():
        return None
    if xformers.library_error is not None:
        return (
            f"the compiled part of xformers {xformers.version} is not loaded ({xformers.library_error}), and without "
            f"it xformers takes no work on this GPU: {_install(device)}"
        )
    remedy = "set hardware.precision = 'bf16'" if work.dtype == "float32" else "do without this plugin"
    return f"no operator of xformers {xformers.version} takes {work} on {device.arch} ({xformers.refusals()}): {remedy}"


def _install(device: DeviceFacts) -> str:
    """The wheel for this torch: xformers 0.0.33 is for torch 2.9, 0.0.34 for 2.10 alone, 0.0.35 for 2.10 and later;
    PyPI has that for CUDA 12."""
    build = device.torch
    major, minor = (build.hip or build.cuda or "0.0").split(".")[:2]
    index = f"rocm{major}.{minor}" if device.backend == "rocm" else f"cu{major}{minor}"
    wheel = f"pip install 'xformers>=0.0.35' --index-url https://download.pytorch.org/whl/{index}"
    return f"{wheel}, or try varlen-attention, which needs no package"
