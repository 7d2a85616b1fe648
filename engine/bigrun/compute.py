"""What a step of the engine's own objective computes, and the speeds that this is a fraction of (MFU)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from torch import nn

from bigrun.device_speed import Peak, known_peak, measured_tflops
from bigrun.model.vit import VisionTransformer
from bigrun.planner.flops import pair_flops, step_flops

if TYPE_CHECKING:
    from bigrun.run import Run
    from bigrun.sections import Model, Views

__all__ = ["Compute", "begin_compute", "compute_line", "count_passes", "pass_flops"]


@attrs.frozen
class Compute:
    """Model FLOPs: what the step is, not how it is done. What is computed again does not count, and neither do heads
    and losses; a branch that stochastic depth leaves out does not, either (see `bigrun.planner.flops`)."""

    model: Model
    views: Views
    sizes_px: Callable[[int], tuple[int, int]]
    """Sides of the global and the local crops in a step."""
    frozen_steps: int = 0
    """At the start, in which the backbone does not learn."""
    processes: int = 1
    peak: Peak | None = None
    """Of one device."""
    measured_tflops: float | None = None
    """Of one device, in large products of bf16."""

    def flops(self, step: int) -> float:
        """Of an image in this step."""
        learns, kept = step > self.frozen_steps, 1 - self.model.drop_path_fraction
        return pair_flops(self.model, self.views, self.sizes_px(step), learns=learns, kept_fraction=kept)

    @property
    def mean_flops(self) -> float:
        """Of an image, over the sizes of crops; the backbone learns."""
        return step_flops(self.model, self.views, kept_fraction=1 - self.model.drop_path_fraction)

    def rates(self, flops_per_second: float) -> Mapping[str, float]:
        """Metrics of all devices together: see `bigrun.throughput.TIMINGS`."""
        tflops = flops_per_second / 1e12
        found = {"model_tflops_per_second": tflops}
        if self.peak is not None:
            found["mfu_fraction"] = tflops / (self.processes * self.peak.tflops)
        if self.measured_tflops is not None:
            found["mfu_of_measured_fraction"] = tflops / (self.processes * self.measured_tflops)
        return found


def begin_compute(run: Run) -> None:
    """Count from now on what steps compute, where that is known; on a GPU, measure what it can do."""
    if builder(run) is not None:
        return
    config, processes = run.config, run.strategy.world_size
    run.metrics.throughput.compute = Compute(
        config.model,
        config.views,
        run.views.sizes_px,
        frozen_steps=config.init.freeze_backbone_steps or 0,
        processes=processes,
        peak=known_peak(config.hardware, run.facts),
        measured_tflops=measured_tflops(run),
    )
    for frozen in run.frozen.values():
        count_passes(frozen, lambda flops: run.metrics.throughput.add_flops(processes * flops))


def builder(run: Run) -> str | None:
    """The plugin that has built the objective; None for the engine, which knows what its own computes."""
    return run.plugins.builders.get("build_objective")


def count_passes(frozen: nn.Module, add: Callable[[float], None]) -> None:
    """Whenever a vision transformer in `frozen` embeds a stack of crops, in whichever of its methods: whoever owns it
    decides in which steps that is. It is taken to go through all blocks."""

    def counting(backbone: VisionTransformer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda embedding, args: add(pass_flops(backbone, *args[0].shape))

    for module in frozen.modules():
        if isinstance(module, VisionTransformer):
            module.patch_embed.register_forward_pre_hook(counting(module))


def pass_flops(backbone: VisionTransformer, crops: int, channels: int, height_px: int, width_px: int) -> float:
    """Of a forward pass of crops (n, C, H, W) through a backbone of any architecture."""
    side_px, width = backbone.patch_embed.proj.stride[0], backbone.patch_embed.proj.out_channels
    patches = (height_px // side_px) * (width_px // side_px)
    tokens = backbone.prefix + patches
    weights = sum(m.in_features * m.out_features for m in backbone.blocks.modules() if isinstance(m, nn.Linear))
    attention = 4 * tokens**2 * width * len(backbone.blocks)
    return crops * (2 * weights * tokens + attention + 2 * channels * side_px**2 * width * patches)


def compute_line(run: Run) -> str | None:
    """For the header; None before `begin_compute`."""
    if plugin := builder(run):
        return f"not known of the objective of plugin {plugin}: MFU n/a"
    compute = run.metrics.throughput.compute
    if compute is None:
        return None
    image = f"{human_flops(compute.mean_flops)} an image"
    measured = "" if compute.measured_tflops is None else f", measured {compute.measured_tflops:.4g}"
    if run.config.hardware.precision != "bf16":
        return f"{image}; no peak is known of fp32: MFU n/a"
    if compute.peak is None:
        return f"{image}; peak unknown{measured} (hardware.peak_tflops states it): MFU n/a"
    return f"{image}; peak {compute.peak.tflops:g} TFLOP/s ({compute.peak.whose}){measured}"


def human_flops(flops: float) -> str:
    """`1.61 TFLOP`, `58.3 GFLOP`."""
    return f"{flops / 1e12:.3g} TFLOP" if flops >= 1e11 else f"{flops / 1e9:.3g} GFLOP"
