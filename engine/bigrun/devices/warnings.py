"""What is worth knowing of a configuration on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigrun.devices.facts import DeviceFacts
    from bigrun.sections import Hardware

__all__ = ["device_warnings"]


def device_warnings(hardware: Hardware, facts: DeviceFacts) -> Iterator[str]:
    """Lines for the header."""
    if not facts.is_gpu and hardware.precision == "bf16" and not facts.host.cpu.has_fast_bf16:
        yield (
            "hardware.precision = 'bf16', and this processor has no instructions for it (amx_bf16, avx512_bf16): a "
            "step can take many times as long as with hardware.precision = 'fp32'"
        )
    if facts.is_gpu and facts.built_for and not is_built_for(facts.arch, facts.built_for):
        yield (
            f"torch {facts.torch.version} has no kernels for {facts.arch} (only {', '.join(facts.built_for)}): they "
            "are made at the first use, which takes minutes, or missing; install a build that has them"
        )


def is_built_for(arch: str, built_for: tuple[str, ...]) -> bool:
    """Kernels of NVIDIA run on later chips of the same major version; those of AMD on one chip alone."""
    if arch in built_for:
        return True
    major, minor = arch[3:-1], arch[-1:]
    return arch.startswith("sm_") and any(
        built.startswith("sm_") and built[3:-1] == major and built[-1:] <= minor for built in built_for
    )
