"""Networks of which every process may have a shard: compiled, measured, and their passes written down."""

from __future__ import annotations

from typing import Any

import torch

from bigrun import hookimpl


class CompilesBlocks:
    @hookimpl
    def configure_model(self, run: Any, objective: Any) -> None:
        for network in (objective.student, objective.teacher):
            for block in network.backbone.blocks:
                block.compile(backend="aot_eager", dynamic=False)


class StudentNorm:
    """Of weights of which each process may have a shard."""

    observer = True

    @hookimpl
    def after_step(self, run: Any) -> None:
        norms = [parameter.detach().norm() for parameter in run.objective.student.parameters()]
        run.metrics.record("student_norm", torch.stack(norms).norm())


class Passes:
    """Writes down whose forward passes each process has made, in their order."""

    def __init__(self) -> None:
        self.made: list[str] = []

    @hookimpl(tryfirst=True)
    def on_start(self, run: Any) -> None:
        networks = {"student": run.objective.student, "teacher": run.objective.teacher, **run.frozen}
        for name, network in networks.items():
            for module in network.modules():
                if hasattr(module, "blocks"):
                    module.blocks[0].register_forward_pre_hook(lambda *_, name=name: self.made.append(name))

    @hookimpl
    def before_step(self, step: int) -> None:
        self.made.append(f"step {step}")

    @hookimpl(trylast=True)
    def on_finish(self, run: Any) -> None:
        path = run.path_for("passes") / f"rank-{run.peers.rank}"
        path.write_text("\n".join(self.made), encoding="utf-8")
