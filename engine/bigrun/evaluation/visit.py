"""A checkpoint opened to be looked at: its networks and its data, without anything that trains. Read-only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.activation import activate
from bigrun.checkpoint import manifest
from bigrun.checkpoint.disk import hash_file
from bigrun.checkpoint.facts import load_facts
from bigrun.checkpoint.layout import CHECKPOINTS, CONFIG, EMERGENCY, MANIFEST
from bigrun.checkpoint.store import CheckpointStore
from bigrun.checkpoint.strict import load_strict
from bigrun.config import Document, read_written
from bigrun.errors import CheckpointError, DamagedCheckpointError, UsageError

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Visit", "document_of", "visited"]


@attrs.frozen
class Visit:
    """Which checkpoint is looked at, exactly."""

    checkpoint: Path
    step: int
    manifest_sha256: str
    """Of MANIFEST.json, which holds the hash of every other file."""
    created_utc: str
    state: Mapping[str, Any]
    """`state.json`."""

    @classmethod
    def of(cls, checkpoint: Path, *, is_verified: bool = False) -> Visit:
        """Identify a checkpoint.

        Args:
            is_verified: every byte of it has just been read; else that is done here.

        Raises:
            DamagedCheckpointError: it is damaged, or is being removed by the run that rotates it away.
        """
        try:
            problems = [] if is_verified else manifest.verify(checkpoint)
            if problems and checkpoint.is_dir():
                raise DamagedCheckpointError("\n".join([f"{checkpoint}: damaged:", *(f"  {p}" for p in problems)]))
            known = manifest.read(checkpoint)
            identity = hash_file(checkpoint / MANIFEST)
        except OSError as error:
            text = f"{checkpoint}: cannot be read ({error.strerror}): has its run removed it?"
            raise DamagedCheckpointError(text) from None
        state = load_facts(checkpoint, "state")
        plugins = state.get("plugins") if isinstance(state, dict) else None
        if not isinstance(plugins, dict) or not all(isinstance(facts, dict) for facts in plugins.values()):
            raise DamagedCheckpointError(f"{checkpoint}: its state.json is not the state of a run")
        return cls(checkpoint.resolve(), known.step, identity, known.created_utc, state)

    @property
    def run_directory(self) -> Path:
        """The run that the checkpoint is of; of one that was moved out of its run, the directory it is in."""
        home = self.checkpoint.parent
        return home.parent if home.name in (CHECKPOINTS, EMERGENCY) else home

    @property
    def name(self) -> str:
        """Of the step, and whether the checkpoint is one of trouble: `step-12000`, `emergency-step-12000`."""
        prefix = "emergency-" if self.checkpoint.parent.name == EMERGENCY else ""
        return f"{prefix}step-{self.step}"


def document_of(checkpoint: Path, **overrides: Any) -> Document:
    """The configuration that a checkpoint was saved with, and what the command line changes of it.

    Args:
        overrides: `sets`, `plugins` and `no_plugins`, as `read_preset` takes them.

    Raises:
        UsageError, ConfigError: it cannot be read.
    """
    return read_written(checkpoint / CONFIG).overridden(**overrides)


@contextlib.contextmanager
def visited(visit: Visit, document: Document, directory: Path, companions: Mapping[str, Any]) -> Iterator[Run]:
    """A run whose data and networks are those of a checkpoint: for `measurements`, not for steps.

    Args:
        directory: where plugins may write; nothing is written beside the checkpoint.
        companions: plugin instances that no configuration names.

    Raises:
        CheckpointError: the tensors are not those of the configured networks.
        BigrunError: as a run would before its first step.
    """
    from bigrun.build import build_data, build_objective
    from bigrun.metrics import Metrics
    from bigrun.process import preserved_random_state, preserved_threads
    from bigrun.run import Run
    from bigrun.session import tear_down
    from bigrun.state import check_facts, restore_frozen

    config, plugins = activate(document, companions)
    run = Run(config, directory, plugins)
    with contextlib.ExitStack() as stack:
        stack.callback(tear_down, run)
        plugins.hook.configure_runtime(run=run)
        stack.enter_context(preserved_random_state())
        stack.enter_context(preserved_threads())
        build_data(run)
        if len(run.dataset) == 0:
            raise UsageError("the data set is empty: there is nothing to look at")
        build_objective(run, fresh=False)
        check_facts(visit.state, visit.checkpoint)
        run.checkpoints = CheckpointStore(visit.checkpoint.parent)
        for name, module in run.objective.parts().items():
            where = f"{visit.checkpoint.name}/{name}.safetensors"
            load_strict(module, run.checkpoints.load_tensors(visit.checkpoint, name), where)
        restore_frozen(run, visit.checkpoint, drop_plugins=("*",))
        for module in (run.objective, *run.frozen.values()):
            module.eval()
        run.metrics = Metrics(config.run.log_every_steps, run.max_steps, config.data.effective_batch)
        run.step = run.plugins.step = visit.step
        run.position = visit.state["position"]
        restore_plugins(run, visit.state["plugins"])
        run.schedules.apply(max(visit.step, 1))
        yield run


def restore_plugins(run: Run, saved: Mapping[str, Any]) -> None:
    """What the plugins that are active here knew of the run.

    Raises:
        CheckpointError: a newer version of a plugin wrote it.
    """
    for name, plugin in run.plugins.active.items():
        facts = saved.get(name, {})
        version = getattr(plugin, "state_version", 1)
        if facts.get("state") is not None and facts["state_version"] > version:
            raise CheckpointError(
                f"plugin {name}: the checkpoint's state has version {facts['state_version']}, this plugin reads up to "
                f"{version}: install the plugin's newer version, or leave it out with --no-plugin {name}"
            )
        run.plugins.load_state(name, facts.get("state"))
