"""Crashes that others have met: under which conditions, and who says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import attrs

from bigrun.devices import DeviceFacts
from bigrun.devices.linux import kernel_problems, kernel_version
from bigrun_rocm.driver import DriverFacts
from bigrun_rocm.environment import ALLOCATOR_VARIABLES

__all__ = ["MICRO_BATCH_CAP", "PROBLEMS", "KnownProblem", "Situation", "advice", "is_launch_failure", "problem_lines"]

STRIX_HALO = "gfx1151"
MICRO_BATCH_CAP = 128
"""Images. With decoding processes every run of 256 and more ended with a HIP error on gfx1151, none of 160 and less
(DINO-X, 72 runs, torch 2.9.1, ROCm 7.1.1)."""
BROKEN_MES = 0x83
SMALL_HEAD = 32
LAUNCH_FAILURES = re.compile(
    r"HIP error|hipError(?:LaunchFailure|IllegalAddress)|unspecified launch failure", re.IGNORECASE
)
DEAD_NIGHTLIES = ("20260609", "20260612")


@attrs.frozen
class Situation:
    """What a run is about to do, and where. `head_size` in channels."""

    facts: DeviceFacts
    driver: DriverFacts = attrs.field(factory=DriverFacts)
    environment: Mapping[str, str] = attrs.field(factory=dict)
    micro_batch: int = 1
    workers: int = 0
    head_size: int = 64
    precision: str = "bf16"

    @property
    def kernel(self) -> tuple[int, int, int]:
        """(6, 17, 0)"""
        return kernel_version(self.facts.host.kernel)

    @property
    def is_strix_halo(self) -> bool:
        return self.facts.arch == STRIX_HALO


@attrs.frozen
class KnownProblem:
    """A condition, what happens under it and what to do, and a source."""

    name: str
    applies: Callable[[Situation], bool]
    message: str
    source: str


def is_dead_nightly(now: Situation) -> bool:
    found = re.search(r"(?:dev|a)(\d{8})", now.facts.torch.version)
    return found is not None and DEAD_NIGHTLIES[0] <= found[1] <= DEAD_NIGHTLIES[1]


def asks_for_segments(now: Situation) -> bool:
    """Whether the user lets segments of the allocator grow."""
    values = (now.environment.get(name, "") for name in ALLOCATOR_VARIABLES)
    return any(re.search(r"expandable_segments\s*:\s*true", value, re.IGNORECASE) for value in values)


PROBLEMS = (
    KnownProblem(
        "mes-firmware",
        lambda now: now.is_strix_halo and now.driver.mes_firmware == BROKEN_MES,
        "MES firmware 0x83 (linux-firmware 20251125) hangs the GPU: install another linux-firmware, with 0x80 or a "
        "later one, and remove amdgpu-dkms-firmware where it brings this one",
        "ROCm/legacy-rocm-build issues 5724 and 5991",
    ),
    KnownProblem(
        "cwsr",
        lambda now: now.is_strix_halo and now.driver.has_cwsr is True and now.kernel < (6, 18),
        "saving running waves (CWSR) may hang the GPU on Linux before 6.18: boot with amdgpu.cwsr_enable=0",
        "ROCm/legacy-rocm-build issues 5590 and 5991",
    ),
    KnownProblem(
        "nightly",
        lambda now: now.is_strix_halo and is_dead_nightly(now),
        "the nightly builds of torch of 9 to 12 June 2026 end with a segmentation fault: install another",
        "ROCm/TheRock issue 5763",
    ),
    KnownProblem(
        "override",
        lambda now: "HSA_OVERRIDE_GFX_VERSION" in now.environment,
        "HSA_OVERRIDE_GFX_VERSION makes ROCm take the GPU for another; with 11.0.0 on gfx1151 that led to memory "
        "access faults: unset it, and install a torch that is built for the GPU",
        "ROCm/legacy-rocm-build issue 5824",
    ),
    KnownProblem(
        "expandable-segments",
        asks_for_segments,
        "expandable_segments crash (hipErrorIllegalAddress) and hang under ROCm: take them out of the environment, or "
        "out of the options of rocm-tuning",
        "pytorch/pytorch issues 187343 and 192259",
    ),
    KnownProblem(
        "head-size",
        lambda now: now.is_strix_halo and now.precision == "bf16" and now.head_size <= SMALL_HEAD,
        "a training with attention heads of 32 channels in bf16 gave NaN on gfx1151: set model.heads so that they have "
        "64, or hardware.precision = 'fp32'",
        "ROCm/legacy-rocm-build issue 6034, one user's report",
    ),
    KnownProblem(
        "micro-batch",
        lambda now: now.is_strix_halo and now.micro_batch > MICRO_BATCH_CAP and now.workers > 0,
        f"micro-batches of 256 images and more have ended with HIP errors on gfx1151 where data.workers > 0: set "
        f"data.micro_batch to {MICRO_BATCH_CAP} or less; larger ones were no faster",
        "DINO-X, torch 2.9.1 with ROCm 7.1.1",
    ),
)
"""Each is somebody's report, not a measurement of this project. Versions of Linux are in `bigrun.devices.linux`."""


def problem_lines(situation: Situation) -> list[str]:
    """For the header; nothing for a device of another kind."""
    if situation.facts.backend != "rocm":
        return []
    facts = situation.facts
    release = facts.host.kernel
    linux = [(f"Linux {release}: {p.message}", p.source) for p in kernel_problems(facts.arch, release)]
    others = [(p.message, p.source) for p in PROBLEMS if p.applies(situation)]
    return [f"warning      {message} ({source})" for message, source in linux + others]


def is_launch_failure(error: BaseException) -> bool:
    """Whether a kernel has failed on the GPU, for other reasons than memory: its context is lost for the process."""
    return bool(LAUNCH_FAILURES.search(str(error))) and "out of memory" not in str(error)


def advice(micro_batch: int, noted: int | None) -> str:
    """What to do about it.

    Args:
        noted: the micro-batch with which the next process will continue; None: that of this one.
    """
    told = "a kernel failed on the GPU, of which this process can make no more use"
    option = "plugins.rocm-tuning.synchronize_after_backward = true narrows down which kernel"
    if noted is not None:
        return f"{told}; the next start continues from the newest checkpoint with micro-batches of {noted}. {option}"
    half = f" with --set data.micro_batch={micro_batch // 2}" if micro_batch > 1 else ""
    return f"{told}; start again{half}, which continues from the newest checkpoint. {option}"
