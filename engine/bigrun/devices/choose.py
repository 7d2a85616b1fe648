"""The device that `hardware.device` asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.devices.torch_build import TorchBuild
from bigrun.errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["choose_device", "refusal"]

INSTALL = {
    "cuda": "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130",
    "rocm": "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/rocm7.1, or AMD's own "
    "wheels for its chip",
}
"""Builds of torch, for example; PyPI's is for CUDA."""
NAMES = {"cuda": "CUDA", "rocm": "ROCm", "cpu": "the CPU alone"}


def choose_device(wish: str) -> torch.device:
    """The training device for `hardware.device`; `auto` takes a GPU where torch sees one.

    Raises:
        UsageError: a GPU was asked for, and this torch is built for another kind or sees none.
    """
    import torch

    build = TorchBuild(str(torch.__version__), torch.version.cuda, torch.version.hip)
    available = torch.cuda.is_available()  # also true for ROCm builds
    if wish in INSTALL and (problem := refusal(wish, build, available=available)):
        raise UsageError(problem)
    return torch.device("cuda", torch.cuda.current_device()) if available and wish != "cpu" else torch.device("cpu")


def refusal(wish: str, build: TorchBuild, *, available: bool) -> str | None:
    """Why a GPU that was asked for cannot be used."""
    asked = f"hardware.device = '{wish}', but torch {build.version}"
    if build.backend != wish:
        other = f", or set hardware.device = '{build.backend}' or 'auto'"
        return f"{asked} is built for {NAMES[build.backend]}: install another ({INSTALL[wish]}){other}"
    if not available:
        return (
            f"{asked} sees no GPU: check its driver (`{'rocminfo' if wish == 'rocm' else 'nvidia-smi'}` names the "
            "GPUs that it serves, and whether you may use them), or set hardware.device = 'auto' or 'cpu'"
        )
    return None
