"""What is not on a machine without an AMD GPU: its sysfs, and the parts of torch that a build for the CPU lacks."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import bigrun.devices.read
import bigrun_rocm.plugin
import bigrun_rocm.tuning
from bigrun.devices import DeviceFacts, TorchBuild
from bigrun.testing.devices import device
from bigrun_rocm.results_file import read_results

HERE = Path(__file__).parent
RESULTS = HERE / "tunableop_results0.csv"
VALIDATORS = {
    "PT_VERSION": "2.13.0",
    "ROCM_VERSION": "7.1.1.0-38-26aae437f6",
    "HIPBLASLT_VERSION": "100200-26aae437f6",
    "GCN_ARCH_NAME": "gfx1151",
    "ROCBLAS_VERSION": "5.1.1.26aae437f6",
}
STRIX_HALO = attrs.evolve(device("gfx1151-a"), torch=TorchBuild("2.13.0+rocm7.1", hip="7.1.52802"))


def sysfs(root: Path, name: str = "strix_halo_sysfs", address: str = "0000:c2:00.0", card: str = "card1") -> Path:
    """A tree as Linux shows it: the card's folder is a link to that of the device on the bus."""
    bus = root / "sys/devices/pci0000:00" / address
    bus.mkdir(parents=True)
    link = root / "sys/class/drm" / card / "device"
    link.parent.mkdir(parents=True)
    link.symlink_to(bus)
    for path, text in json.loads((HERE / f"{name}.json").read_text()).items():
        file = root / path.replace("card1", card)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


class FakeTunableOp:
    """torch.cuda.tunable: takes a file or leaves it, and appends each result at once, as torch 2.10 and later do; with
    `writes_at_once` false writes them when it is told to, as torch 2.9 does."""

    def __init__(self) -> None:
        self.on, self.tunes, self.filename = False, True, "tunableop_results.csv"
        self.results: list[tuple[str, str, str, float]] = []
        self.check: tuple[bool, float, float] = (False, 1e-5, 1e-5)
        self.checked: list[tuple[bool, float, float]] = []
        """The check under which each result was measured."""
        self.refuses = False
        self.writes_at_once = True

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("enable", "is_enabled", "tuning_enable", "tuning_is_enabled", "set_filename", "get_filename",
                     "get_validators", "get_results", "read_file", "set_numerical_check_tolerances"):  # fmt: skip
            patch.setattr(f"torch.cuda.tunable.{name}", getattr(self, name))

    def install_old(self, patch: pytest.MonkeyPatch) -> None:
        """As torch 2.9 is."""
        self.writes_at_once = False
        patch.setattr("torch.cuda.tunable.write_file", self.write_file, raising=False)
        patch.delattr("torch.cuda.tunable.set_numerical_check_tolerances")

    def enable(self, val: bool = True) -> None:
        self.on = val

    def is_enabled(self) -> bool:
        return self.on

    def tuning_enable(self, val: bool = True) -> None:
        self.tunes = val

    def tuning_is_enabled(self) -> bool:
        return self.tunes

    def set_filename(self, filename: str, insert_device_ordinal: bool = False) -> None:
        assert not insert_device_ordinal
        self.filename = filename

    def get_filename(self) -> str:
        return self.filename

    def get_validators(self) -> tuple[tuple[str, str], ...]:
        return tuple(VALIDATORS.items())

    def get_results(self) -> list[tuple[str, str, str, float]]:
        return self.results

    def set_numerical_check_tolerances(self, enable: bool, atol: float = 1e-05, rtol: float = 1e-05) -> None:
        self.check = (enable, atol, rtol)

    def read_file(self, filename: str | None = None) -> bool:
        results = read_results(Path(filename or self.filename))
        if self.refuses or results.validators != VALIDATORS:
            return False
        known = [result[:2] for result in self.results]
        self.results += [(*key, name, 0.1) for key, name in results.solutions.items() if key not in known]
        return True

    def write_file(self, filename: str) -> bool:
        lines = [f"Validator,{name},{value}\n" for name, value in VALIDATORS.items()]
        lines += [f"{operator},{shape},{name},{time}\n" for operator, shape, name, time in self.results]
        Path(filename).write_text("".join(lines))
        return True

    def multiply(self, shape: str) -> None:
        """A matrix product of a shape that it does not know is measured, while it tunes."""
        if not (self.on and self.tunes) or shape in [result[1] for result in self.results]:
            return
        self.checked.append(self.check)
        if not self.writes_at_once:
            self.results.append(("GemmTunableOp_BFloat16_TN", shape, "Gemm_Rocblas_1", 0.1))
            return
        path = Path(self.filename)
        if not path.exists():
            path.write_text("".join(f"Validator,{name},{value}\n" for name, value in VALIDATORS.items()))
        self.results.append(("GemmTunableOp_BFloat16_TN", shape, "Gemm_Rocblas_1", 0.1))
        with path.open("a") as file:
            file.write(f"GemmTunableOp_BFloat16_TN,{shape},Gemm_Rocblas_1,0.1\n")


class FakeBlas:
    """torch.backends.cuda.preferred_blas_library."""

    def __init__(self, has_hipblaslt: bool = True) -> None:
        self.has_hipblaslt = has_hipblaslt
        self.now = "Default"

    def __call__(self, backend: Any = None) -> Any:
        if backend is not None:
            wanted = backend if isinstance(backend, str) else backend.name
            self.now = wanted.capitalize()
        if self.now == "Cublaslt" and not self.has_hipblaslt:
            import warnings

            warnings.warn("Attempting to use hipBLASLt on an unsupported architecture!", stacklevel=2)
            self.now = "Cublas"
        return types.SimpleNamespace(name=self.now)


class FakeGpu:
    """An AMD GPU whose tensors are on the CPU: torch's own kernels of attention, everything else as it was told."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path, facts: DeviceFacts = STRIX_HALO) -> None:
        self.facts = facts
        self.fraction = self.least_fraction = 1.0
        self.synchronized = 0
        self.tunableop, self.blas = FakeTunableOp(), FakeBlas()
        self.tunableop.install(patch)
        patch.setattr("torch.backends.cuda.preferred_blas_library", self.blas)
        patch.setattr("torch.cuda.memory.get_per_process_memory_fraction", lambda: self.fraction)
        patch.setattr("torch.cuda.memory.set_per_process_memory_fraction", self._limit)
        patch.setattr("torch.cuda.synchronize", self._synchronize)
        patch.setattr("torch.cuda.get_device_properties", lambda _: properties(self.facts.total_bytes))
        patch.setattr(torch.cuda.memory, "_snapshot", lambda: {"allocator_settings": self.allocator})
        patch.setattr(bigrun.devices.read, "read_facts", lambda *_: self.facts)
        patch.setattr(bigrun_rocm.plugin, "torch_build", lambda: self.facts.torch)
        patch.setattr(bigrun_rocm.plugin, "Tuning", lambda config: bigrun_rocm.tuning.Tuning(config, root))
        self.allocator: dict[str, Any] = {"garbage_collection_threshold": 0.8, "expandable_segments": False}

    def _limit(self, fraction: float) -> None:
        assert isinstance(fraction, float)  # torch refuses another type
        self.fraction = fraction
        self.least_fraction = min(fraction, self.least_fraction)

    def _synchronize(self) -> None:
        self.synchronized += 1


def properties(total_bytes: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        pci_domain_id=0, pci_bus_id=0xC2, pci_device_id=0, name="fake", total_memory=total_bytes
    )
