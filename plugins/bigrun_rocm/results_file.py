"""Files of TunableOp: `Validator,NAME,VALUE` lines with the versions for which the results were measured, then
`OPERATOR,PARAMETERS,SOLUTION,MILLISECONDS`. torch takes all of a file or nothing: every version must agree."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from bigrun.devices import DeviceFacts

__all__ = ["Results", "disagreements", "read_results", "repair", "results_key"]

VALIDATOR = "Validator"


@attrs.frozen
class Results:
    """What a file says."""

    validators: Mapping[str, str] = attrs.field(factory=dict)
    solutions: Mapping[tuple[str, str], str] = attrs.field(factory=dict)
    """By operator and parameters."""
    is_torn: bool = False
    """Whether the last line has no end: its process was killed while it wrote."""


def read_results(path: Path) -> Results:
    """Read a file; nothing where there is none. Lines that are neither are passed over, as torch does."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return Results()
    whole, _, rest = text.rpartition("\n")
    validators: dict[str, str] = {}
    solutions: dict[tuple[str, str], str] = {}
    for line in whole.splitlines():
        parts = line.split(",")
        if parts[0] == VALIDATOR and len(parts) >= 3:
            validators[parts[1]] = parts[2]
        elif len(parts) >= 3:
            solutions.setdefault((parts[0], parts[1]), parts[2])
    return Results(validators, solutions, bool(rest))


def repair(path: Path) -> bool:
    """Cut off a last line that was not written to its end, of which torch would take half a solution for a whole one;
    returns whether there was one."""
    if not read_results(path).is_torn:
        return False
    beside = path.with_suffix(".tmp")
    whole, end, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    beside.write_text(whole + end, encoding="utf-8")  # no empty line: torch's reader does not expect one
    os.replace(beside, path)  # noqa: PTH105 - one atomic rename
    return True


def disagreements(file: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Versions of a file that are not those of now, for which torch takes nothing of it.

    Args:
        now: what torch says; a version that it does not say yet is not compared.
    """
    told = [
        f"{name} is {file[name]} there, {value} here" if name in file else f"{name} is missing"
        for name, value in sorted(now.items())
        if file.get(name) != value
    ]
    return told + [f"{name} is not known here" for name in sorted(file) if now and name not in now]


def results_key(facts: DeviceFacts, validators: Mapping[str, str]) -> str:
    """The folder of results for one GPU architecture and versions of torch, HIP and hipBLASLt."""
    parts = [facts.arch, f"torch-{facts.torch.version}", f"hip-{facts.torch.hip}"]
    if "HIPBLASLT_VERSION" in validators:
        parts.append(f"hipblaslt-{validators['HIPBLASLT_VERSION']}")
    return re.sub(r"[^\w.+-]", "_", "-".join(parts))
