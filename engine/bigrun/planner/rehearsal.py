"""A step of a run without data and without values: everything is built and called as in a run, nothing is computed."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bigrun.activation import activate
from bigrun.build import build_data, build_objective, build_optimizer
from bigrun.compute import count_passes
from bigrun.config import Config, Document
from bigrun.devices import DeviceFacts
from bigrun.devices.facts import Backend
from bigrun.errors import PluginError, UsageError
from bigrun.flight import FlightRecorder
from bigrun.planner.hooks import DeclareRehearsal, RehearsedHooks
from bigrun.planner.imitation import attend_as_on_gpu, fill_queues, imitating, keep_most_crops
from bigrun.planner.labels import label_state
from bigrun.planner.live_bytes import LiveBytes
from bigrun.planner.memory import Memory, has_growing_segments
from bigrun.planner.process import RehearsalProcess
from bigrun.planner.replicas import RehearsedReplica
from bigrun.planner.saved import copy_bytes, saved_bytes
from bigrun.planner.savings import Saving, savings_of
from bigrun.planner.shards import RehearsedShard, units_of
from bigrun.planner.sharing import ALONE, PlannedPeers, Sharing
from bigrun.planner.stand_in import NoDataSet, StandInViews, stand_in_samples
from bigrun.planner.step import take_heaviest_step
from bigrun.planner.storage import give_storage
from bigrun.planner.units import Units
from bigrun.process import Process, preserved_random_state, preserved_threads
from bigrun.run import Run
from bigrun.session import tear_down
from bigrun.summary import count_parameters

__all__ = ["Rehearsal", "rehearse"]

ROUNDING_BYTES = {"cuda": 512, "cpu": 1}
"""By torch's type of device: a GPU of AMD is `cuda`, too."""


@attrs.frozen
class Rehearsal:
    """What a rehearsal has found."""

    config: Config
    accumulate: int
    parameters: Mapping[str, int]
    memory: Memory
    checkpoint_bytes: int
    copy_bytes: int
    """Of the state in host memory, from which a checkpoint is written while training goes on."""
    built_bytes: int
    """Of networks when they are built, in host memory: whole ones, also for a process that keeps shards."""
    frozen_flops: float
    """Per image, of forward passes through vision transformers that are frozen modules."""
    has_teacher: bool
    """Whether the teacher is a network of its own."""
    refused: Mapping[str, str]
    """Plugins that took no part in the steps, and why."""
    facts: DeviceFacts
    """Of the device that was planned for."""
    moved: Mapping[str, int] = attrs.field(factory=dict)
    """Bytes that wait in host memory instead of on the device, by what they are there."""
    savings: tuple[Saving, ...] = ()
    has_no_choice: tuple[str, ...] = ()
    """Plugins that would choose values for the device if its memory were known."""
    segments_grow: bool = False
    """Of torch's allocator, which then wastes less."""
    sharing: Sharing = ALONE
    units: Units = attrs.field(factory=Units)

    def need_bytes(self, backend: Backend) -> int:
        """What the device must have."""
        return self.memory.need_bytes(backend, grows=self.segments_grow)


class RehearsedRun(Run):
    """A run in which modules get storage without values."""

    def materialise(self, module: nn.Module) -> None:
        give_storage(module)


def rehearse(document: Document, device: str, facts: DeviceFacts | None = None, sharing: Sharing = ALONE) -> Rehearsal:
    """Build the run that a document describes and take its heaviest step, as on `device` (cpu; cuda for any GPU).

    Neither a GPU nor images are needed. The step is the last of the run (where it has no end, one in the far future),
    in which the optimizer has its state, every parameter is trained, and plugins have begun what begins late.

    Args:
        facts: of the device, which plugins may go by; those of the processor that is here if not given.
        sharing: among so many processes; the step is that of the first one, and `[parallel]` says how.

    Raises:
        BigrunError: as the run itself would before its first step.
        UsageError: an objective or an optimizer of a plugin needs values.
    """
    config, plugins = activate(document, {"no-data-set": NoDataSet(), "rehearsal": DeclareRehearsal()})
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for context in (preserved_random_state(), preserved_threads(), imitating(device)):
            stack.enter_context(context)
        run = RehearsedRun(config, Path(folder), plugins, Process(PlannedPeers(sharing.processes)))
        stack.callback(gc.collect)  # objective and plugins refer to each other
        stack.callback(tear_down, run)
        run.hook = hooks = RehearsedHooks(plugins, facts)
        build_data(run)
        assert run.config.data.micro_batch is not None
        run.loader = stand_in_samples(run.config.data.micro_batch)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        live = stack.enter_context(LiveBytes(ROUNDING_BYTES[device]))
        built = build(run, live, device, sharing.under(config.parallel))
        flops = count_frozen(run)
        try:
            take_heaviest_step(run, live)
        except PluginError as error:
            raise UsageError(f"{document.source}: no plan can be made without values: {error}") from error
        objective, saved = run.objective, saved_bytes(run)
        return Rehearsal(
            config=run.config,
            accumulate=run.accumulate,
            parameters=count_parameters(objective, objective.trained_modules()),
            memory=live.peak,
            checkpoint_bytes=sum(saved),
            copy_bytes=copy_bytes(saved, device),
            built_bytes=built,
            frozen_flops=sum(flops) / run.config.data.micro_batch,
            has_teacher=objective.teacher is not objective.student,
            refused=dict(hooks.refused),
            facts=run.facts,
            moved=live.host.peak.by_category,
            savings=savings_of(run, live.is_on_device) if sharing.processes == 1 else (),
            has_no_choice=hooks.has_no_choice,
            segments_grow=grows(run),
            sharing=sharing.under(config.parallel),
            units=units_of(run),
        )


def build(run: Run, live: LiveBytes, device: str, sharing: Sharing) -> int:
    """Networks and optimizer: first without storage, which takes no time, then with storage without values. Returns the
    bytes of the networks before any is shared."""
    process = process_of(run, live, sharing)
    run.strategy = process
    run.flight = FlightRecorder()
    run.strategy.device = torch.device("meta")
    with torch.device("meta"):
        build_objective(run, fresh=False)
    if sharing.processes > 1:
        run.objective.share_step(cast("Any", None))  # refuses what several cannot do; there is no group
    run.strategy.device = torch.device("cpu")
    networks = nn.ModuleList([run.objective, *run.frozen.values()])
    give_storage(networks)
    built = sum(tensor.nbytes for tensor in (*networks.parameters(), *networks.buffers()))
    if device == "cuda":
        attend_as_on_gpu([run.objective, *run.frozen.values()])
    keep_most_crops([run.objective])
    fill_queues(run.objective)
    build_optimizer(run)
    run.objective.train()
    run.views = StandInViews(run.views, live, with_spacing=run.config.model.scale_embedding)  # type: ignore[assignment]
    run.hook.on_start(run=run)
    run.hook.rehearse(run=run)  # type: ignore[attr-defined]
    process.share(run)
    label_state(run, live)
    return built


def process_of(run: Run, live: LiveBytes, sharing: Sharing) -> RehearsalProcess:
    """The first of those that share the networks."""
    if sharing.strategy == "fsdp":
        return RehearsedShard(run.config.hardware, live, sharing)
    kind = RehearsedReplica if sharing.strategy == "ddp" else RehearsalProcess
    return kind(run.config.hardware, live, sharing.processes)


def count_frozen(run: Run) -> list[float]:
    """Operations of forward passes through frozen vision transformers, from now on."""
    found: list[float] = []
    for frozen in run.frozen.values():
        count_passes(frozen, found.append)
    return found


def grows(run: Run) -> bool:
    """Whether segments of torch's allocator would: by the plugins' word, else by the environment's."""
    answers = run.hook.segments_grow(facts=run.facts)  # type: ignore[attr-defined]
    return any(answers) if answers else has_growing_segments(os.environ)
