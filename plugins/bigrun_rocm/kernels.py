"""The kernels of attention: tested, and those forbidden that are wrong."""

from __future__ import annotations

from collections.abc import Callable

from bigrun.devices import Planned, Setting
from bigrun_rocm.attention import AttentionChoice, Measured

__all__ = ["apply_attention", "gate_setting"]


def apply_attention(choice: AttentionChoice) -> tuple[list[Setting], Callable[[], None]]:
    """Allow and forbid the fused kernels; returns the rows, and what undoes it."""
    import torch

    flags = torch.backends.cuda
    switches: dict[str, tuple[Callable[[], bool], Callable[[bool], None]]] = {
        "flash": (flags.flash_sdp_enabled, flags.enable_flash_sdp),
        "memory-efficient": (flags.mem_efficient_sdp_enabled, flags.enable_mem_efficient_sdp),
    }
    before = {name: read() for name, (read, _) in switches.items()}
    rows = []
    for name, (read, write) in switches.items():
        write(choice.allowed[name])
        rows.append(
            Setting(
                f"{name} attention",
                _on(before[name]),
                _on(choice.allowed[name]),
                read() == choice.allowed[name],
                choice.evidence[name],
                choice.custom[name],
            )
        )

    def undo() -> None:
        for name, (_, write) in switches.items():
            write(before[name])

    return rows, undo


def gate_setting(gate: Planned, before: str | None, flash: Measured) -> Setting:
    """The row of AOTriton's gate: it has no value to read back, but a kernel that runs shows that it is open."""
    if gate.value != "1":
        told = f"{gate.reason}; torch does not tell it"
        return Setting(gate.name, before, gate.value, None, told, gate.is_custom)
    shown = "flash attention runs" if flash.problem is None else f"flash attention {flash}"
    return Setting(gate.name, before, gate.value, flash.problem is None, f"{shown}; {gate.reason}", gate.is_custom)


def _on(value: bool) -> str:
    return "on" if value else "off"
