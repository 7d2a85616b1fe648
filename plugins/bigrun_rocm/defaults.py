"""Values for options that nobody has set: a start that should fit, from closed forms and published measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from bigrun_rocm.known_problems import MICRO_BATCH_CAP

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.devices import DeviceFacts

__all__ = ["WORKERS", "Need", "choose_defaults", "memory_need", "workers_for"]

GIB = 2**30
WORKERS = 8
"""78, 337, 495, 482, 503 and 485 images per second with 0, 4, 8, 16, 24 and 32 (DINO-X, small images, gfx1151)."""
LARGEST = {"gfx1151": 64}
"""Micro-batch, 256 elsewhere: ViT-L/14 took 23.5 images per second with 48 and 64, 22.4 with 128 and 160 (DINO-X)."""
FORM_ERROR = 1.15
"""The closed form was up to 15 % below what a CPU's allocator counted."""
RESERVED = 1.08
CONTEXT_BYTES = round(0.7 * GIB)

Defaults = dict[str, tuple[Any, str]]


@attrs.frozen
class Need:
    """Memory of a training step on the device, as a closed form."""

    static_bytes: float
    image_bytes: float
    """For each image of the micro-batch, with everything kept for the backward pass."""
    checkpointed_image_bytes: float
    """The same when blocks are computed again (activation checkpointing)."""
    block_bytes: float
    """For each image, once: the block that is being computed again."""

    def total_bytes(self, micro_batch: int, *, checkpointed: bool) -> float:
        """On the device, with what the allocator and the driver take beside it."""
        each = self.checkpointed_image_bytes + self.block_bytes if checkpointed else self.image_bytes
        return (self.static_bytes + micro_batch * each) * FORM_ERROR * RESERVED + CONTEXT_BYTES


def memory_need(config: Config) -> Need:
    """Closed form: fp32 weights, gradients and moments of the student, the teacher's weights, bf16 copies; activations
    of blocks (40 D bytes for each token with a residual in fp32) and rows of the heads (K prototypes).

    D width, L depth, K prototypes; bytes.
    """
    model, views, objective = config.model, config.views, config.objective
    width, depth = model.width, model.depth
    sides = views.sizes_px or ((views.global_size_px, views.local_size_px),)
    extra = 1 + model.storage_tokens
    patches = max((side // model.patch_size_px) ** 2 for side, _ in sides)
    small = max((side // model.patch_size_px) ** 2 for _, side in sides)
    tokens = views.global_crops * (patches + extra) + views.local_crops * (small + extra)
    block = tokens * (40 * width + 4 * model.heads + 16)
    prototypes = (objective.prototypes or 0) + (objective.ibot_prototypes or 0)
    hidden, bottleneck = objective.head_hidden, objective.head_bottleneck
    layers = width * hidden + max(objective.head_layers - 2, 0) * hidden**2 + hidden * bottleneck
    heads = 2 * layers + bottleneck * prototypes
    ffn = (3 if model.ffn == "swiglu" else 2) * width * model.ffn_hidden
    parameters = depth * (4 * width**2 + ffn) + heads
    masked = views.global_crops * patches * config.masking.crop_fraction * sum(config.masking.ratio) / 2
    rows = (objective.prototypes or 0) * (views.global_crops * 14 + views.local_crops * 10)
    patch_rows = (objective.ibot_prototypes or objective.prototypes or 0) * masked * 22
    return Need(
        static_bytes=parameters * (16 + 2 + 4),
        image_bytes=depth * block + rows + patch_rows,
        checkpointed_image_bytes=depth * tokens * 4 * width + rows + patch_rows,
        block_bytes=block,
    )


def choose_defaults(facts: DeviceFacts, config: Config, limit_bytes: int, processes: int = 1) -> Defaults:
    """Options by name, each with a reason; nothing for a device of another kind. They go by what the user has set.

    Args:
        limit_bytes: what the run may take on the device.
    """
    if facts.backend != "rocm":
        return {}
    micro_batch, checkpointing = choose_micro_batch(facts, config, limit_bytes, processes)
    gib = memory_need(config).total_bytes(micro_batch, checkpointed=checkpointing != "none") / GIB
    room = f"a step should take {gib:.1f} of {limit_bytes / GIB:.1f} GiB, by a closed form"
    speed = f"; larger ones were no faster on {facts.arch}" if micro_batch == LARGEST.get(facts.arch) else ""
    chosen: dict[str, tuple[Any, str]] = {
        "data.micro_batch": (micro_batch, room + speed),
        "hardware.activation_checkpointing": (checkpointing, room),
        "data.workers": (
            workers_for(facts),
            "more were no faster on gfx1151; two processors are left for the rest",
        ),
        "hardware.pin_memory": (True, "images came 6 % faster on gfx1151, and pages that are not pinned may hang"),
    }
    if not ("data.workers" in config.explicit and config.data.workers == 0):
        shared = (2, "what waits takes memory that is the GPU's, too")
        chosen["data.prefetch"] = shared if facts.is_unified else (4, "what waits takes memory of the host alone")
    return chosen


def workers_for(facts: DeviceFacts) -> int:
    """Processes that decode."""
    return max(min(WORKERS, facts.host.cpu.usable_cores - 2), 1)


def choose_micro_batch(facts: DeviceFacts, config: Config, limit_bytes: int, processes: int) -> tuple[int, str]:
    """The largest micro-batch that should fit, of whole groups of KoLeo; with activation checkpointing only where
    nothing fits without."""
    need, share = memory_need(config), config.data.effective_batch // processes
    group = (config.objective.koleo_group or 1) if config.objective.koleo_weight > 0 else 1
    largest = LARGEST.get(facts.arch, 2 * MICRO_BATCH_CAP)
    sizes = [size for size in range(group, share + 1, group) if share % size == 0 and size <= max(largest, group)]
    if "data.micro_batch" in config.explicit and config.data.micro_batch is not None:
        sizes = [config.data.micro_batch]
    ways = ["none", "full"]
    if "hardware.activation_checkpointing" in config.explicit:
        ways = [config.hardware.activation_checkpointing]
    for way in ways:
        fits = (s for s in sizes if need.total_bytes(s, checkpointed=way != "none") <= limit_bytes)
        size = max(fits, default=None)
        if size is not None:
            return size, way
    return min(sizes, default=share), ways[-1]
