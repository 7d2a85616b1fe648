"""The values that are tried, from those of the preset, the machine and the command line. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from bigrun.errors import ConfigError, UsageError
from bigrun.tuner.recipe import Recipe
from bigrun.tuner.trial import Settings

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.devices import DeviceFacts

__all__ = ["MODES", "Space", "Wishes", "space_of"]

MODES = ("none", "selective", "full")
"""Of activation checkpointing, from the fastest to the one that needs the least memory."""
WORKERS = (0, 1, 2, 4, 8, 16)
ATTENTION = "-attention"
"""How the name of a plugin ends that does nothing but replace the kernel of attention."""


@attrs.frozen
class Wishes:
    """Values that the command line names; None: those that the preset and the machine suggest."""

    micro_batches: tuple[int, ...] | None = None
    workers: tuple[int, ...] | None = None
    pin_memory: tuple[bool, ...] | None = None
    compile: tuple[bool, ...] | None = None
    attention: tuple[str, ...] | None = None


@attrs.frozen
class Space:
    """Values of each setting, in the order in which they are preferred where they are equally fast."""

    start: Settings
    """Those of the run as the preset has it."""
    micro_batches: tuple[int, ...]
    """Rising."""
    modes: tuple[str, ...]
    """The next one is tried when no micro-batch fits."""
    workers: tuple[int, ...]
    """Rising."""
    pin_memory: tuple[bool, ...]
    compile: tuple[bool | None, ...] = (None,)
    attention: tuple[str | None, ...] = (None,)

    @property
    def most_trials(self) -> int:
        """More are never made."""
        micro = len(self.micro_batches) * len(self.modes)
        return micro + sum(map(len, (self.workers, self.pin_memory, self.compile, self.attention)))


def space_of(
    recipe: Recipe, config: Config, facts: DeviceFacts, wishes: Wishes, installed: Sequence[str]
) -> tuple[Space, list[str]]:
    """The values to try, and notes on what is not tried.

    Args:
        config: of the run as the preset has it, with what plugins have chosen for the device.
        installed: names of the plugins that there are.

    Raises:
        UsageError: a value of the command line cannot be used.
    """
    notes: list[str] = []
    hardware, data = config.hardware, config.data
    assert data.micro_batch is not None
    start = Settings(data.micro_batch, hardware.activation_checkpointing, data.workers, hardware.pin_memory)
    if recipe.compiling:
        start = attrs.evolve(start, compile=is_compiled(config, recipe))
    modes = MODES[MODES.index(hardware.activation_checkpointing) :]
    if "hardware.activation_checkpointing" in config.explicit:
        notes.append(f"activation checkpointing: the preset says {modes[0]}; more is tried only if nothing fits")
    space = Space(
        start,
        micro_batches(recipe, config, start, wishes, notes),
        modes,
        worker_counts(config, facts, wishes),
        pins(start, facts, wishes, notes),
        compiled(start, facts, wishes, notes),
        kernels(config, facts, wishes, installed, notes),
    )
    return space, notes


def is_compiled(config: Config, recipe: Recipe) -> bool:
    return any(config.plugins[name].compile for name in recipe.compiling)


def micro_batches(recipe: Recipe, config: Config, start: Settings, wishes: Wishes, notes: list[str]) -> tuple[int, ...]:
    """Powers of two, and the preset's own, that leave effective batch and objective as they are."""
    effective, wished = config.data.effective_batch, wishes.micro_batches
    powers = {1 << exponent for exponent in range(effective.bit_length()) if effective % (1 << exponent) == 0}
    valid = tuple(valid_sizes(recipe, config, start, sorted(wished or powers | {start.micro_batch})))
    refused = sorted(set(wished or ()) - set(valid))
    if refused:
        raise UsageError(
            f"--micro-batch {','.join(map(str, refused))}: would be another objective; expected sizes that divide "
            f"data.effective_batch = {effective} and leave objective.koleo_group = {config.objective.koleo_group} as "
            "it is"
        )
    if wished is None and len(valid) == 1 < effective:
        group = f"objective.koleo_group = {config.objective.koleo_group}"
        notes.append(
            f"micro-batch: only {valid[0]} leaves {group} as it is, others are not tried; with objective.koleo_group "
            "set to a smaller number they are"
        )
    return valid


def valid_sizes(recipe: Recipe, config: Config, start: Settings, sizes: Sequence[int]) -> Iterator[int]:
    from bigrun.activation import activate

    for size in sizes:
        try:
            other, _ = activate(recipe.with_settings(attrs.evolve(start, micro_batch=size)))
        except ConfigError:
            continue
        uses_groups = "objective" not in config.replaced and config.objective.koleo_weight > 0
        if not uses_groups or other.objective.koleo_group == config.objective.koleo_group:
            yield size


def worker_counts(config: Config, facts: DeviceFacts, wishes: Wishes) -> tuple[int, ...]:
    """As many as there are processor cores at most, and the preset's own."""
    if wishes.workers is not None:
        return tuple(sorted(set(wishes.workers)))
    counts = {count for count in WORKERS if count <= facts.host.cpu.usable_cores} | {config.data.workers}
    if {"data.prefetch", "data.worker_timeout_seconds"} & config.explicit:
        counts -= {0} if config.data.workers else set()  # the preset would be refused
    return tuple(sorted(counts))


def pins(start: Settings, facts: DeviceFacts, wishes: Wishes, notes: list[str]) -> tuple[bool, ...]:
    if wishes.pin_memory is not None:
        return wishes.pin_memory
    if facts.is_gpu:
        return (start.pin_memory, not start.pin_memory)
    notes.append("pinning: has no effect on a CPU, not tried")
    return (start.pin_memory,)


def compiled(start: Settings, facts: DeviceFacts, wishes: Wishes, notes: list[str]) -> tuple[bool | None, ...]:
    if start.compile is None:
        if wishes.compile is not None:
            raise UsageError("--compile: no active plugin has an option `compile`; switch one on with --plugin")
        notes.append("compile: no active plugin has an option `compile`, not tried")
        return (None,)
    if wishes.compile is not None:
        return wishes.compile
    if facts.is_gpu:
        return (start.compile, not start.compile)
    notes.append("compile: not tried on a CPU; --compile false,true does")
    return (start.compile,)


def kernels(
    config: Config, facts: DeviceFacts, wishes: Wishes, installed: Sequence[str], notes: list[str]
) -> tuple[str | None, ...]:
    """Plugins to switch on, behind None for the preset as it is."""
    active = [name for name in config.plugins if name.endswith(ATTENTION)]
    if wishes.attention is not None:
        unknown = [name for name in wishes.attention if name not in installed and ":" not in name]
        if unknown:
            raise UsageError(f"--attention {','.join(unknown)}: no plugin of that name; `bigrun plugins` lists them")
        return (None, *(name for name in wishes.attention if name not in config.plugins))
    if active:
        notes.append(f"attention: {active[0]} is active, others are not tried; --no-plugin {active[0]} lets them")
        return (None,)
    if not facts.is_gpu:
        notes.append("attention: other kernels are for GPUs, not tried")
        return (None,)
    return (None, *(name for name in installed if name.endswith(ATTENTION)))
