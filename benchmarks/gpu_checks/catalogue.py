"""The checks, in the order in which they are made: what is quick and other claims rest on comes first. Torch-free."""

from __future__ import annotations

from gpu_checks.check import Check

__all__ = ["CHECKS"]

CHECKS = (
    Check(
        "settings",
        "with cuda-tuning every setting of a run takes effect, expandable segments included; facts are torch's",
        "reference/hardware.md",
        90,
    ),
    Check(
        "tf32",
        "TF32 moves products, KoLeo and a Gram loss of 5e-6 by 1e-3 or less, one of 1e-7 by 1 %; it is given back",
        "how-to/tune-for-nvidia.md",
        60,
    ),
    Check(
        "bf16_sums",
        "bf16_sums = 'precise' is as exact as torch's own or more, and both are as exact as bf16",
        "how-to/tune-for-nvidia.md",
        60,
    ),
    Check(
        "attention_kernels",
        "attention runs the kernel that cuda-tuning reports, at every number of tokens, and allowed ones alone",
        "how-to/tune-for-nvidia.md",
        60,
    ),
    Check(
        "transfers",
        "images and numbers go to the GPU while the host goes on",
        "reference/options.md",
        45,
    ),
    Check(
        "host_syncs",
        "a step makes the host wait for the device once",
        "explanation/architecture.md",
        60,
    ),
    Check(
        "optimizer",
        "AdamW is fused and takes no memory for its step; it and the teacher's mean are right",
        "reference/hardware.md",
        45,
    ),
    Check(
        "memory_prediction",
        "`bigrun plan` predicts the allocator's peak within 10 % (CPU: 3 %), and the device's need suffices",
        "how-to/does-it-fit.md",
        180,
    ),
    Check(
        "training",
        "checkpointing, cuda-tuning and unfused AdamW train the same; checkpointing takes less memory",
        "how-to/tune-for-nvidia.md",
        90,
    ),
    Check(
        "one_pass",
        "attention over all crops in one call equals one call for each size",
        "how-to/replace-the-attention.md",
        90,
    ),
    Check(
        "out_of_memory",
        "a run that lacks memory goes on with half the micro-batch, twice as many, and learns the same",
        "how-to/when-memory-runs-out.md",
        150,
    ),
    Check(
        "background_checkpoint",
        "training stands still for one copy of the state, and not for the disk",
        "explanation/reliability.md",
        90,
    ),
    Check(
        "savers",
        "offload trains the same with less of the device's memory; smaller states of the optimizer nearly",
        "how-to/save-memory.md",
        150,
    ),
    Check(
        "telemetry",
        "rows have temperature, power, clocks, utilisation and memory; no sample waits for the GPU",
        "how-to/watch-the-hardware.md",
        90,
    ),
    Check(
        "compiled",
        "compiled blocks train the same, in graphs without a break, for which torch's limit has room",
        "how-to/tune-for-nvidia.md",
        240,
    ),
    Check(
        "doctor",
        "`bigrun doctor` examines the machine and finds nothing that fails",
        "how-to/check-the-machine.md",
        120,
    ),
)
