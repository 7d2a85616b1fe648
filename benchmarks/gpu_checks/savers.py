"""memory-savers: the same training with less of the device's memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures, relative_difference
from gpu_checks.training import same_training

if TYPE_CHECKING:
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

BATCH, STEPS = 32, 4
UPDATE = "update_in_backward"
"""It takes less where gradients are at the peak: in a large network with few images and full checkpointing."""
LARGE_BATCH, LARGE_SAVING_MIB = 2, 500
"""Of ViT-L, whose gradients take 1.1 GiB."""
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "teacher_offload": {"teacher_offload": True},
    "activation_offload": {"activation_offload": True},
    "states bf16": {"optimizer_states": "bf16"},
    "states 8bit": {"optimizer_states": "8bit"},
}
ROWS = {
    "teacher_offload": "teacher in host memory",
    "activation_offload": "activations in host memory",
    "states bf16": "optimizer states",
    "states 8bit": "optimizer states",
}
OFFLOADS = ("teacher_offload", "activation_offload")
EXACT = 1e-3
"""Of losses with offload and two backward passes, which compute the same by the same kernels."""


def measure(subject: Subject) -> Figures:
    from bigrun_savers.plugin import offload_refusal, torchao_refusal
    from gpu_checks.recipe import COMPARABLE, document
    from gpu_checks.steps import Steps, train

    no_torchao, ways = torchao_refusal(), {}
    for name, options in WAYS.items():
        if "8bit" in name and no_torchao is not None:
            continue
        plugins = {"memory-savers": options} if options else {}
        found = train(document(subject, "vit_small", BATCH, COMPARABLE, plugins), Steps(STEPS))
        ways[name] = {**found.figures(), "setting": found.setting(ROWS[name]) if options else None}
    return {
        "is_gpu": subject.is_gpu,
        "has_host_memory": offload_refusal(subject.facts) is None,
        "without_8bit": no_torchao,
        "ways": ways,
        "large": large(subject),
    }


def large(subject: Subject) -> Figures:
    from gpu_checks.recipe import COMPARABLE, document
    from gpu_checks.steps import Steps, train

    sets = [*COMPARABLE, "hardware.activation_checkpointing='full'"]
    found = {}
    for name, options in (("none", {}), (UPDATE, {UPDATE: True})):
        plugins = {"memory-savers": options} if options else {}
        ran = train(document(subject, "vit_large", LARGE_BATCH, sets, plugins), Steps(STEPS))
        found[name] = {**ran.figures(), "setting": ran.setting("update in the backward pass") if options else None}
    return found


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    ways = figures["ways"]
    base = ways["none"]
    for name, found in ways.items():
        yield from (f"{name}: {problem}" for problem in same_training(found, base))
        if name == "none":
            continue
        takes_effect = figures["has_host_memory"] or name not in OFFLOADS
        if found["setting"] is None or found["setting"]["took_effect"] is not takes_effect:
            yield f"{name}: its setting's row is {found['setting']}"
        if name in OFFLOADS:
            difference = relative_difference(found["losses"], base["losses"])
            if not difference <= EXACT:
                yield f"{name}: losses differ by {difference:.1e}"
        if figures["is_gpu"] and takes_effect and not found["peak_mib"] < base["peak_mib"]:
            yield f"{name}: takes {found['peak_mib']:.0f} MiB, without it {base['peak_mib']:.0f}"
    yield from problems_of_update(figures["large"], is_gpu=figures["is_gpu"])


def problems_of_update(ways: Mapping[str, Any], *, is_gpu: bool) -> Iterator[str]:
    base, found = ways["none"], ways[UPDATE]
    yield from (f"{UPDATE}: {problem}" for problem in same_training(found, base))
    if found["setting"] is None or not found["setting"]["took_effect"]:
        yield f"{UPDATE}: its setting's row is {found['setting']}"
    difference = relative_difference(found["losses"], base["losses"])
    if not difference <= EXACT:
        yield f"{UPDATE}: losses differ by {difference:.1e}"
    if is_gpu and not found["peak_mib"] < base["peak_mib"] - LARGE_SAVING_MIB:
        yield f"{UPDATE}: takes {found['peak_mib']:.0f} MiB, without it {base['peak_mib']:.0f}"
