"""What is tuned: a preset, and what a trial makes of it. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from bigrun.config import Config, Document
from bigrun.devices.defaults import BY_DEVICE
from bigrun.overrides import override
from bigrun.planner.regrouping import KOLEO_GROUP, regrouping
from bigrun.tuner.trial import Settings

__all__ = ["MICRO_BATCHES", "Recipe", "compiling", "shorten"]

MICRO_BATCHES = 2
"""Of a trial's step at most: one more than one, so that gradients are added up as in the run."""
NEVER = 10**9


@attrs.frozen
class Recipe:
    """A preset, and what its settings are called."""

    document: Document
    compiling: tuple[str, ...] = ()
    """Its plugins that compile the networks (`plugins.NAME.compile`)."""
    config: Config | None = None
    """Of the preset as it is: `objective.koleo_group`, which a rule may have chosen for its micro-batch, stays the
    same."""

    @classmethod
    def of(cls, document: Document, config: Config) -> Recipe:
        """
        Args:
            config: of the document, with what plugins have chosen for the device.
        """
        return cls(document, compiling(config.plugins), config)

    def koleo_group(self, micro_batch: int) -> int | None:
        """That must be set beside a micro-batch; None where the rule chooses it, or nothing has to be."""
        found = None if self.config is None else regrouping(self.config, micro_batch)
        return None if found is None else found.own

    def sets(self, settings: Settings) -> list[str]:
        """Words for `--set` that make the run one with these settings."""
        words = [
            f"data.micro_batch={settings.micro_batch}",
            f"data.workers={settings.workers}",
            f"hardware.activation_checkpointing={settings.activation_checkpointing}",
            f"hardware.pin_memory={str(settings.pin_memory).lower()}",
        ]
        group = self.koleo_group(settings.micro_batch)
        words += [] if group is None else [f"{KOLEO_GROUP}={group}"]
        if settings.compile is not None:
            words += [f'plugins."{name}".compile={str(settings.compile).lower()}' for name in self.compiling]
        return words

    def plugins(self, settings: Settings) -> list[str]:
        """Names for `--plugin`."""
        return [] if settings.attention is None else [settings.attention]

    def tables(self, settings: Settings) -> dict[str, Any]:
        """The settings alone, as a part of a preset."""
        tables = override({}, self.sets(settings), self.plugins(settings))
        return {name: table for name, table in tables.items() if table}

    def with_settings(self, settings: Settings) -> Document:
        """The preset of the run with these settings."""
        tables = override(self.document.tables, self.sets(settings), self.plugins(settings))
        return attrs.evolve(self.document, tables=tables)


def compiling(active: Mapping[str, Any]) -> tuple[str, ...]:
    """The active plugins that have an option `compile`.

    Args:
        active: the plugins of a configuration, by name.
    """
    return tuple(
        name
        for name, options in active.items()
        if options is not None and "compile" in attrs.fields_dict(type(options))
    )


def shorten(config: Config, steps: int, micro_batches: int = MICRO_BATCHES) -> Document:
    """A preset of the same networks and the same work for each image, whose steps have a few micro-batches.

    What a rule has chosen from the whole effective batch, the number of prototypes above all, stays; what a plugin
    chooses for the device is chosen again.

    Args:
        steps: that the trial may take; a run that has fewer gets as many.
        micro_batches: of a step at most.
    """
    tables, data = config.tables(), config.data
    assert data.micro_batch is not None
    for path in BY_DEVICE:
        table, _, option = path.partition(".")
        if path not in config.explicit:
            tables[table].pop(option, None)
    accumulate = data.effective_batch // data.micro_batch
    tables["data"]["effective_batch"] = data.micro_batch * min(accumulate, micro_batches)
    run = tables["run"]
    run.pop("max_hours", None)
    run["checkpoint_every_steps"] = NEVER
    if config.run.max_steps is not None:
        run["max_steps"] = max(config.run.max_steps, steps)
    tables["hardware"]["on_oom"] = "stop"
    return Document(config.source, config.name, tables)
