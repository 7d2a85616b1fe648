"""xformers-attention, varlen-attention: attention over the crops of all sizes in one call, instead of one call for each
size."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs

from bigrun import hookimpl
from bigrun.devices import Setting
from bigrun.errors import UsageError
from bigrun_attention.config import AttentionConfig

if TYPE_CHECKING:
    from bigrun.events import Level
    from bigrun.objective.base import Objective
    from bigrun.run import Run
    from bigrun_attention.kernel import Attend
    from bigrun_attention.needs import Work
    from bigrun_attention.replacement import Replacement

__all__ = ["VarlenAttention", "XformersAttention"]


class PackedAttentionPlugin:
    """Replaces the kernel of every attention layer, or refuses; what it has done is in the header and an event."""

    Config = AttentionConfig
    name: ClassVar[str]

    def __init__(self, config: AttentionConfig) -> None:
        self.config = config
        self._done: Replacement | None = None

    def obstacle(self, run: Run, work: Work) -> str | None:
        raise NotImplementedError

    def build(self) -> Attend:
        raise NotImplementedError

    @hookimpl
    def configure_model(self, run: Run, objective: Objective) -> None:
        from bigrun_attention.replacement import replace

        done = replace(run, objective, self)
        if done.obstacle is not None and self.config.otherwise == "refuse":
            raise UsageError(
                f"plugins.{self.name}: {done.obstacle}. With plugins.{self.name}.otherwise = 'default' the run starts "
                "with the engine's own attention"
            )
        self._done = done
        evidence = done.obstacle or f"beside the engine's own: off by {done.error:.2g} of the largest value"
        run.record_setting(Setting("attention", "one call per crop size", self.name, done.obstacle is None, evidence))

    @hookimpl
    def header_lines(self) -> list[str]:
        return [f"attention    {self._done}"]

    @hookimpl
    def on_start(self, run: Run) -> None:
        assert self._done is not None
        level: Level = "info" if self._done.obstacle is None else "warning"
        run.event("attention", f"attention: {self._done}", level, **attrs.asdict(self._done))


class XformersAttention(PackedAttentionPlugin):
    """xformers' memory_efficient_attention with a BlockDiagonalMask."""

    name = "xformers-attention"

    def obstacle(self, run: Run, work: Work) -> str | None:
        from bigrun_attention.memory_efficient import read_xformers
        from bigrun_attention.needs import XformersFacts, xformers_obstacle

        without_a_gpu = XformersFacts()  # no import of xformers decides about it
        xformers = read_xformers(run.device, work) if run.facts.is_gpu else without_a_gpu
        return xformers_obstacle(run.facts, work, xformers)

    def build(self) -> Attend:
        from bigrun_attention.memory_efficient import build_memory_efficient

        return build_memory_efficient()


class VarlenAttention(PackedAttentionPlugin):
    """torch.nn.attention.varlen."""

    name = "varlen-attention"

    def obstacle(self, run: Run, work: Work) -> str | None:
        import os

        import torch

        from bigrun_attention.needs import varlen_obstacle

        return varlen_obstacle(
            run.facts,
            work,
            has_flash=torch.backends.cuda.is_flash_attention_available(),
            has_experimental=os.environ.get("TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL") == "1",
        )

    def build(self) -> Attend:
        from bigrun_attention.varlen import build_varlen

        return build_varlen()
