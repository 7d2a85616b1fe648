"""The values that are tried, from those of the preset, the machine and the command line. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from bigrun.errors import ConfigError, UsageError
from bigrun.same_objective import micro_batches_fixed_by
from bigrun.tuner.recipe import Recipe
from bigrun.tuner.trial import Settings
from bigrun.values import did_you_mean

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.devices import DeviceFacts

__all__ = ["MODES", "TURNS", "Space", "Wishes", "space_of"]

MODES = ("none", "selective", "full")
"""Of activation checkpointing, from the fastest to the one that needs the least memory."""
WORKERS = (0, 1, 2, 4, 8, 16)
TURNS = 2
"""Trials of what seems faster, beside as many of what it is to replace."""
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
    """Values of each setting."""

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
        """More are never made: each value once, and the best of each setting beside the one before."""
        micro = len(self.micro_batches) * len(self.modes)
        others = (self.workers, self.pin_memory, self.compile, self.attention)
        return micro + sum(map(len, others)) + 2 * TURNS * (1 + len(others))

    def line(self) -> str:
        """For the header."""
        values: dict[str, Sequence[object]] = {
            "micro-batch": self.micro_batches,
            "workers": self.workers,
            "pin": [str(value).lower() for value in self.pin_memory],
            "compile": [str(value).lower() for value in self.compile if value is not None],
            "attention": [value or "the preset's" for value in self.attention] if len(self.attention) > 1 else [],
        }
        return "; ".join(f"{name} {', '.join(map(str, several))}" for name, several in values.items() if several)


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
        less = "" if modes == MODES else "; less is not: --set hardware.activation_checkpointing=none begins there"
        notes.append(f"activation checkpointing: the preset says {modes[0]}; more is tried only if nothing fits{less}")
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
    obstacle = fixed_by(config, is_wished=wished is not None)
    powers = {1 << exponent for exponent in range(effective.bit_length()) if effective % (1 << exponent) == 0}
    asked = sorted(wished or powers | {start.micro_batch})
    others = [] if obstacle else [size for size in asked if is_valid(recipe, start, size)]
    valid = tuple(size for size in asked if size == start.micro_batch or size in others)
    refused = sorted(set(wished or ()) - set(valid))
    if refused:
        group = config.objective.koleo_group
        expected = f"sizes that divide data.effective_batch = {effective} and are multiples of objective.koleo_group"
        raise UsageError(
            f"--micro-batch {','.join(map(str, refused))}: would be another objective; "
            + (obstacle or f"expected {expected} = {group}")
        )
    if wished is None and len(valid) == 1 < effective:
        small = f"others are no multiples of objective.koleo_group = {config.objective.koleo_group}"
        notes.append(f"micro-batch: only {valid[0]} leaves the objective as it is ({obstacle or small})")
    return valid


def fixed_by(config: Config, *, is_wished: bool) -> str | None:
    """Why another micro-batch would be another objective, or may be, whatever its size."""
    if "objective" in config.replaced:
        plugin = config.replaced["objective"]
        why = f"plugin {plugin} brings the objective, which may depend on it; --micro-batch names sizes all the same"
        return None if is_wished else why
    return micro_batches_fixed_by(config)


def is_valid(recipe: Recipe, start: Settings, size: int) -> bool:
    from bigrun.activation import activate

    try:
        activate(recipe.with_settings(attrs.evolve(start, micro_batch=size)))
    except ConfigError:
        return False
    return True


def worker_counts(config: Config, facts: DeviceFacts, wishes: Wishes) -> tuple[int, ...]:
    """As many as there are processor cores at most, and the preset's own."""
    bound = sorted({"data.prefetch", "data.worker_timeout_seconds"} & config.explicit) if config.data.workers else []
    if wishes.workers is not None:
        if 0 in wishes.workers and bound:
            raise UsageError(f"--workers 0: the preset sets {bound[0]}, which has no effect then: remove it there")
        return tuple(sorted(set(wishes.workers)))
    counts = {count for count in WORKERS if count <= facts.host.cpu.usable_cores} | {config.data.workers}
    return tuple(sorted(counts - {0} if bound else counts))


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
    notes.append(
        "compile: not tried on a CPU; --compile false,true does, for a plugin whose option has an effect there"
    )
    return (start.compile,)


def kernels(
    config: Config, facts: DeviceFacts, wishes: Wishes, installed: Sequence[str], notes: list[str]
) -> tuple[str | None, ...]:
    """Plugins to switch on, behind None for the preset as it is."""
    active = [name for name in config.plugins if name.endswith(ATTENTION)]
    if wishes.attention is not None:
        unknown = [name for name in wishes.attention if name not in installed and ":" not in name]
        if unknown:
            hint = did_you_mean(unknown[0], installed)
            raise UsageError(f"--attention {','.join(unknown)}: no such plugin{hint}; `bigrun plugins` lists them")
        return (None, *(name for name in wishes.attention if name not in config.plugins))
    if active:
        notes.append(f"attention: {active[0]} is active, others are not tried; --no-plugin {active[0]} lets them")
        return (None,)
    if not facts.is_gpu:
        notes.append("attention: other kernels are for GPUs, not tried")
        return (None,)
    return (None, *(name for name in installed if name.endswith(ATTENTION)))
