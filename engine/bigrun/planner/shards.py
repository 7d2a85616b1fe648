"""One of several processes that have shards of networks (FSDP2), in a rehearsal.

Weights are whole tensors without values, of which a shard is counted; what is gathered is counted where torch's FSDP2
gathers it (torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, torch 2.13):

- a unit's weights in the compute type while it computes, and once more as the buffer in which they came: that of a
  forward pass is kept until the next unit of a forward pass has come, that of a backward pass is of the next unit;
- whole gradients of a unit in fp32 until its backward pass is over; then as the buffer from which they are scattered,
  which is kept until that of the next unit is full.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bigrun.model.vit import VisionTransformer
from bigrun.planner.labels import trained
from bigrun.planner.memory import GATHERED, OPTIMIZER, TEACHER, WEIGHTS, frozen_category
from bigrun.planner.process import RehearsalProcess
from bigrun.planner.units import Unit, Units, padded_numbers, shard_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bigrun.planner.live_bytes import LiveBytes
    from bigrun.planner.sharing import Sharing
    from bigrun.run import Run
    from bigrun.sections import Hardware

__all__ = ["RehearsedShard", "units_of"]

FP32 = 4


class RehearsedShard(RehearsalProcess):
    """The first process of a group, which has the largest shards."""

    def __init__(self, hardware: Hardware, live: LiveBytes, sharing: Sharing) -> None:
        super().__init__(hardware, live, sharing.processes)
        self.sharing = sharing
        self.units = Units()
        self._came = 0
        """Bytes of the buffer in which the last unit of a forward pass came."""
        self._scattering = 0
        """Bytes of the buffer from which gradients were scattered last."""
        self._waiting: dict[int, Gradients] = {}

    def share(self, run: Run) -> None:
        self.units = units_of(run)
        names = [WEIGHTS, TEACHER, *map(frozen_category, run.frozen)]
        self.live.part_of = lambda tensor, category: self._part(tensor) if category in names else None
        self.live.device.add(GATHERED, self._gathered_bytes(self.units.frozen_rest))
        if self.dtype.itemsize < FP32:
            self.live.without_copies = frozenset(names)
        for module in (run.objective, *run.frozen.values()):
            for block in blocks_of(module):
                self._follow(block)
        learning = [parameter for parameter in trained(run) if parameter.requires_grad]
        groups = [Gradients(list(block.parameters())) for block in blocks_of(run.objective.student)]
        blocks = {id(parameter) for gradients in groups for parameter in gradients.members}
        groups.append(Gradients([p for p in learning if id(p) not in blocks], is_of_block=False))
        for gradients in groups:
            self._waiting |= {id(parameter): gradients for parameter in gradients.members}
        for parameter in learning:
            parameter.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]

    def _part(self, tensor: Tensor) -> int | None:
        if not isinstance(tensor, nn.Parameter):
            return None
        return shard_numbers(tuple(tensor.shape), self.sharing.shards) * tensor.itemsize

    # -- weights --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        root = self._gathered_bytes(self.units.root)
        self.live.device.add(GATHERED, root)
        yield
        self.live.device.add(GATHERED, -root)

    @contextlib.contextmanager
    def micro_batch(self, *, synchronize: bool) -> Iterator[None]:
        with self.whole():
            yield
            self._scatter_rest()

    def _follow(self, block: nn.Module) -> None:
        """Gather the block's weights where torch would."""
        size = self._gathered_bytes(Unit(shapes_of(block.parameters())))

        def before(module: nn.Module, arguments: Any) -> None:
            self.live.device.add(GATHERED, size + size - self._came)
            self._came = size

        def after(module: nn.Module, arguments: Any, output: Tensor) -> None:
            kept = size if output.requires_grad and self.sharing.shard == "grads" else 0
            self.live.device.add(GATHERED, kept - size)
            if output.requires_grad:
                hook = lambda gradient: self.live.device.add(GATHERED, 2 * size - 2 * kept)  # noqa: E731
                output.register_hook(hook)  # type: ignore[no-untyped-call]

        block.register_forward_pre_hook(before)
        block.register_forward_hook(after)

    def _gathered_bytes(self, unit: Unit) -> int:
        return unit.padded(self.sharing.shards) * self.dtype.itemsize

    # -- gradients ------------------------------------------------------------------------------------------------

    def _arrived(self, parameter: Tensor) -> None:
        gradients = self._waiting[id(parameter)]
        gradients.missing.discard(id(parameter))
        if not gradients.missing and gradients.is_of_block:
            self._scatter(gradients)

    def _scatter(self, gradients: Gradients) -> None:
        """Whole gradients become shards, and what was gathered is let go of."""
        device, shards = self.live.device, self.sharing.shards
        device.add(GATHERED, -self._scattering)
        members = [parameter for parameter in gradients.members if parameter.grad is not None]
        self._scattering = FP32 * sum(padded_numbers(tuple(p.shape), shards) for p in members)
        device.add(GATHERED, self._scattering)
        for parameter in members:
            assert parameter.grad is not None
            self.live.resize(parameter.grad, FP32 * shard_numbers(tuple(parameter.shape), shards))
        if gradients.is_of_block:
            size = self._gathered_bytes(Unit(shapes_of(gradients.members)))
            device.add(GATHERED, -(size if self.sharing.shard == "grads" else 2 * size))
        gradients.missing = set(map(id, gradients.members))

    def _scatter_rest(self) -> None:
        """At the end of the backward pass: that of what is no block, and the last buffer is let go of."""
        for gradients in {id(g): g for g in self._waiting.values() if not g.is_of_block}.values():
            self._scatter(gradients)
        self.live.device.add(GATHERED, -self._scattering)
        self._scattering = 0

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """Optimizer and teacher work on shards."""
        with self.live.during(OPTIMIZER), self.live.shared(1 / self.sharing.shards):
            yield


class Gradients:
    """Those of one unit."""

    def __init__(self, members: list[nn.Parameter], *, is_of_block: bool = True) -> None:
        self.members = members
        self.is_of_block = is_of_block
        self.missing = {id(parameter) for parameter in members}
        """Of those that have none in this backward pass yet."""


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Of all vision transformers in a module."""
    networks = [part for part in module.modules() if isinstance(part, VisionTransformer)]
    return [block for network in networks for block in network.blocks]


def shapes_of(tensors: Iterable[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def units_of(run: Run) -> Units:
    """The units that FSDP gathers, of networks that are built."""
    objective = run.objective
    student, teacher = blocks_of(objective.student), blocks_of(objective.teacher)
    blocks = {id(p) for block in [*student, *teacher] for p in block.parameters()}
    rest = [parameter for parameter in objective.parameters() if id(parameter) not in blocks]
    learning = {id(parameter) for parameter in trained(run)}
    frozen = [block for module in run.frozen.values() for block in blocks_of(module)]
    inside = {id(p) for block in frozen for p in block.parameters()}
    around = [p for module in run.frozen.values() for p in module.parameters() if id(p) not in inside]
    return Units(
        student=tuple(Unit(shapes_of(block.parameters())) for block in student),
        teacher=()
        if objective.teacher is objective.student
        else tuple(Unit(shapes_of(block.parameters())) for block in teacher),
        frozen=tuple(Unit(shapes_of(block.parameters())) for block in frozen),
        frozen_rest=Unit(shapes_of(around)),
        root=Unit(shapes_of(rest)),
        root_learning=Unit(shapes_of(p for p in rest if id(p) in learning)),
    )
