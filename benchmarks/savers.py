"""What each memory saver saves and costs: memory at its peak, time of a step, loss after the same steps.

    python benchmarks/savers.py                              ViT-S, ten minutes on two cores, 13 GiB of memory
    python benchmarks/savers.py --model tiny --rounds 2      half a minute; the ratios mean nothing

All runs are alive at once and take one step each in turn, on the same images. Memory is what is alive in torch in the
last step, on a CPU; host memory that stands for another one than the device's is not counted. Times on a CPU are
without the way to a GPU and back.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from engine_loop import EngineLoop
from reporting import header, positive, table
from stepping import Stepper

from bigrun import hookimpl
from bigrun.config import Document, read_preset
from bigrun.data.dataset import Samples
from bigrun.planner.live_bytes import LiveBytes
from bigrun.testing.out_of_torch import OutOfTorch
from bigrun.testing.runner import SyntheticImages
from bigrun_savers.activations import ActivationOffload
from bigrun_savers.plugin import torchao_refusal
from bigrun_savers.teacher import TeacherOffload

if TYPE_CHECKING:
    from bigrun.objective.base import Objective
    from bigrun.run import Run

MIB = 2**20
SMALL = [
    *("views.global_size_px=32", "views.local_size_px=16", "model.width=64", "model.depth=2", "model.heads=2"),
    *("model.ffn_hidden=128", "objective.head_hidden=32", "objective.head_bottleneck=16"),
]
MODELS = {"vit_small": [], "tiny": SMALL}
GRAM = {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1, "max_refreshes": 0}
SAVERS, ANCHOR = "memory-savers", "gram-anchoring"


@attrs.frozen
class Way:
    """One row: plugins, options, and what is done by hand since a CPU has no other memory."""

    plugins: Mapping[str, Any] = attrs.field(factory=dict)
    checkpointing: str = "none"
    offload: str = ""
    base: str = "none"
    """The row that it is compared with."""


WAYS = {
    "none": Way(),
    "none, again": Way(),
    "activation checkpointing, full": Way(checkpointing="full"),
    "optimizer states bf16": Way({SAVERS: {"optimizer_states": "bf16"}}),
    "optimizer states 8bit": Way({SAVERS: {"optimizer_states": "8bit"}}),
    "activation offload": Way(offload="activations"),
    "activation offload + full": Way(checkpointing="full", offload="activations"),
    "teacher offload": Way(offload="teacher"),
    "update in backward": Way({SAVERS: {"update_in_backward": True}}),
    "update in backward + full": Way(
        {SAVERS: {"update_in_backward": True}}, checkpointing="full", base="activation checkpointing, full"
    ),
    "Gram teacher fp32": Way({ANCHOR: GRAM}),
    "Gram teacher bf16": Way({ANCHOR: GRAM | {"teacher_dtype": "bf16"}}, base="Gram teacher fp32"),
}


class MeasuredLoop(EngineLoop):
    """A run of one way, whose memory is counted in a step if asked for."""

    def __init__(self, way: Way, document: Document, directory: Path, images: Sequence[Any]) -> None:
        super().__init__(document, directory, images)
        self.way = way
        self.is_measured = False
        self.peak_bytes = 0
        self._live: LiveBytes | None = None
        self._teacher: TeacherOffload | None = None

    @hookimpl
    def configure_model(self, objective: Objective) -> None:
        if self.way.offload == "activations":
            ActivationOffload(objective.student.backbone, OutOfTorch.of)

    @hookimpl
    def on_start(self, run: Run) -> None:
        if self.way.offload == "teacher":
            self._teacher = teacher = TeacherOffload(run.objective.teacher.backbone, run.device)

            def before_teacher(optimizer: torch.optim.Optimizer, *_: Any) -> None:
                optimizer.zero_grad(set_to_none=True)
                teacher.bring()

            run.optimizer.register_step_post_hook(before_teacher)

    @hookimpl(tryfirst=True)
    def before_step(self, run: Run) -> None:
        if self.is_measured:
            self._live = LiveBytes(1)
            modules = [run.objective, *run.frozen.values()]
            tensors = [t for module in modules for t in (*module.parameters(), *module.buffers()) if not t.is_meta]
            tensors += [t for state in run.optimizer.state.values() for t in state.values()]
            for tensor in tensors:
                self._live.label(tensor, "state")
            self._live.__enter__()

    @hookimpl(tryfirst=True)
    def after_update(self) -> None:
        if self._teacher is not None:
            self._teacher.keep()

    @hookimpl(trylast=True)
    def after_step(self, run: Run) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)
            host = sum(p.nbytes for p in run.objective.teacher.backbone.parameters()) if self._teacher else 0
            self.peak_bytes, self._live = self._live.peak.peak_bytes - host, None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="vit_small")
    parser.add_argument("--rounds", type=positive, default=8, help="steps of each, beside a first one  [8]")
    parser.add_argument("--batch", type=positive, default=4, help="images of a step  [4]")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS), help="these rows and their bases")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    print(header(f"Memory savers: {options.model}, {options.precision}, {options.batch} images a step"), flush=True)
    refusal = torchao_refusal()
    asked = {*options.only, *(WAYS[name].base for name in options.only)}
    ways = {name: way for name, way in WAYS.items() if name in asked and (refusal is None or "8bit" not in name)}
    print(f"torchao   {refusal or 'is installed'}")
    with tempfile.TemporaryDirectory(prefix="bigrun-savers-") as scratch:
        loops, seconds = measure(ways, options, Path(scratch))
    print(f"\nAfter {options.rounds + 2} steps\n{savers_table(loops, seconds)}")
    return 0


def measure(
    ways: Mapping[str, Way], options: argparse.Namespace, scratch: Path
) -> tuple[dict[str, MeasuredLoop], dict[str, list[float]]]:
    """The loops at their end, and the seconds of every step but the first and the last, whose memory is counted."""
    images = SyntheticImages(options.batch)
    loops = {
        name: MeasuredLoop(way, document(way, options), scratch / str(number), images)
        for number, (name, way) in enumerate(ways.items())
    }
    samples = Samples.pack(
        [images[i] for i in range(options.batch)], torch.arange(options.batch), torch.zeros(options.batch).long()
    )
    steppers = {name: Stepper(loop.train, [samples]) for name, loop in loops.items()}
    for stepper in steppers.values():
        stepper.start()
        stepper.advance()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    orders = itertools.cycle([list(ways), list(reversed(ways))])
    for order in itertools.islice(orders, options.rounds):
        for name in order:
            seconds[name].append(steppers[name].advance().wall)
    for name, stepper in steppers.items():
        loops[name].is_measured = True
        stepper.finish()
    return loops, seconds


def document(way: Way, options: argparse.Namespace) -> Document:
    sets = [
        *("data.workers=0", "run.log_every_steps=1", "run.checkpoint_every_steps=1000000", "hardware.device='cpu'"),
        *("run.background_checkpoints=false", f"run.max_steps={options.rounds + 2}", "optimizer.warmup_steps=1"),
        *(f"hardware.precision='{options.precision}'", f"hardware.activation_checkpointing='{way.checkpointing}'"),
        *(f"data.effective_batch={options.batch}", f"data.micro_batch={options.batch}"),
    ]
    preset = read_preset("vit_small", [*sets, *MODELS[options.model]])
    return Document(preset.source, preset.name, {**preset.tables, "plugins": dict(way.plugins)})


def savers_table(loops: Mapping[str, MeasuredLoop], seconds: Mapping[str, Sequence[float]]) -> str:
    rows = []
    for name, loop in loops.items():
        base = loops[loop.way.base]
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[loop.way.base], strict=True))
        saved = base.peak_bytes - loop.peak_bytes
        difference = abs(loop.losses[-1] / base.losses[-1] - 1)
        rows.append(
            [
                name,
                f"{loop.peak_bytes / MIB:.0f}",
                f"{saved / MIB:.0f}",
                f"{loop.peak_bytes / base.peak_bytes:.2f}",
                f"{1000 * statistics.median(seconds[name]):.0f}",
                f"{ratio:.2f}",
                f"{loop.losses[-1]:.6f}",
                f"{difference:.1e}" if difference else "0",
            ]
        )
    return table(("", "peak MiB", "saved", "ratio", "ms / step", "ratio", "loss", "difference"), rows)


if __name__ == "__main__":
    sys.exit(main())
