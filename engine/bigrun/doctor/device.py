"""The device that a run would use."""

from __future__ import annotations

from collections.abc import Iterator

from bigrun.devices import DeviceFacts
from bigrun.devices.choose import refusal
from bigrun.devices.warnings import is_built_for
from bigrun.doctor.present import Present, present_gpus
from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject
from bigrun.errors import UsageError

__all__ = ["bf16_row", "device_row", "device_rows", "kernel_row"]


def device_rows(subject: Subject) -> Iterator[Row]:
    try:
        facts = subject.facts
    except UsageError as error:
        problem = str(error).replace("hardware.device = ", "--device ")
        found, _, remedy = problem.partition(": ")
        yield Row("device", "fail", found, f"a GPU for {subject.wish}", remedy)
        return
    except (ImportError, OSError) as error:
        text = f"torch cannot be imported: {error}".splitlines()[0]
        yield Row("device", "fail", text, "a torch that can be imported", "pip install --force-reinstall torch")
        return
    except RuntimeError as error:  # of CUDA and HIP
        text = f"cannot be used: {error}".splitlines()[0]
        yield Row("device", "fail", text, "an answer", "restart the machine; if it stays so, install the driver anew")
        return
    yield device_row(facts, subject.wish, present_gpus(subject.root))
    yield from count_rows(facts)
    yield kernel_row(facts) if facts.is_gpu else bf16_row(facts)


def device_row(facts: DeviceFacts, wish: str, present: list[Present]) -> Row:
    """`auto` takes the CPU where torch sees no GPU, also when there is one."""
    backend, about = facts.torch.backend, {"device": facts.as_facts()}
    if wish != "auto" or facts.is_gpu or backend not in [gpu.backend for gpu in present]:
        return Row("device", "ok", facts.line(), facts=about)
    _, _, remedy = (refusal(backend, facts.torch, available=False) or "").partition(": ")
    found = f"{facts.line()}: it sees no GPU, and would train on the CPU"
    return Row("device", "warn", found, "the GPU that the kernel sees", remedy, about)


def count_rows(facts: DeviceFacts) -> Iterator[Row]:
    import torch

    count = torch.cuda.device_count() if facts.is_gpu else 0
    if count > 1:
        text = f"{count}; only number {facts.index} is examined: CUDA_VISIBLE_DEVICES (HIP_...) chooses another"
        yield Row("GPUs", "info", text)


def kernel_row(facts: DeviceFacts) -> Row:
    """Whether torch was compiled for this chip."""
    good = not facts.built_for or is_built_for(facts.arch, facts.built_for)
    return judged(
        "kernels",
        good,
        f"torch has them for {', '.join(facts.built_for) or 'what it does not say'}",
        facts.arch,
        "install a torch that was built for this chip: without, kernels are made at their first use, or are missing",
    )


def bf16_row(facts: DeviceFacts) -> Row:
    found = ", ".join(facts.host.cpu.features) or "no such instructions"
    remedy = "set hardware.precision = 'fp32': bf16 takes many times as long on this processor"
    return judged("bf16", facts.host.cpu.has_fast_bf16, found, "amx_bf16, avx512_bf16 or bf16", remedy)
