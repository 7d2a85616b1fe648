"""Which torch is installed, known without importing it: what must be set before torch is imported depends on it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import attrs

__all__ = ["TorchBuild", "torch_build"]


@attrs.frozen
class TorchBuild:
    """A build of torch."""

    version: str
    """`2.13.0+cpu`"""
    cuda: str | None = None
    """Version of CUDA; None for a build without."""
    hip: str | None = None
    """Version of HIP (ROCm); None for a build without."""

    @property
    def release(self) -> tuple[int, int]:
        """(2, 13)"""
        found = re.match(r"(\d+)\.(\d+)", self.version)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @property
    def backend(self) -> str:
        """`cuda`, `rocm` or `cpu`."""
        return "rocm" if self.hip else "cuda" if self.cuda else "cpu"

    def __str__(self) -> str:
        what = f"ROCm {self.hip}" if self.hip else f"CUDA {self.cuda}" if self.cuda else "no GPU"
        return f"{self.version} for {what}"


def torch_build() -> TorchBuild:
    """Of the installed torch, from its `version.py`.

    Raises:
        ModuleNotFoundError: there is none.
    """
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("torch is not installed")
    text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text(encoding="utf-8")
    return TorchBuild(assigned(text, "__version__") or "0", assigned(text, "cuda"), assigned(text, "hip"))


def assigned(text: str, name: str) -> str | None:
    """The string that a line `name: Optional[str] = 'value'` assigns."""
    found = re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None
