"""Whether a plugin does in two processes what it does in one."""

from __future__ import annotations

import inspect
import math
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import ExitCode
from bigrun.hookspecs import Hooks
from bigrun.testing.processes import Member

if TYPE_CHECKING:
    from bigrun.testing.contract import PluginContract
    from bigrun.testing.runner import Runner

__all__ = ["check_finished", "check_hooks", "check_two_processes"]

CLOSE = 1e-3
"""Relative: sums over two processes are rounded otherwise, and a few steps make more of that."""


def check_two_processes(contract: PluginContract, bigrunner: Runner, strategy: str = "ddp") -> None:
    """Two processes take the steps of one, with the same state behind them, and one goes on with what two have begun.

    One accumulates two micro-batches, two have one each, and share the networks as `parallel.strategy` says.
    """
    one, begun = contract.run(bigrunner, accumulate=2), bigrunner.tmp_path / "two"
    one.assert_finished()
    shared: dict[str, Any] = {"steps": contract.steps, "config": contract.config, "dataset": contract.dataset}
    tables = {**contract.tables, "parallel": {"strategy": strategy}}
    members = bigrunner.together(contract.plugin, directory=begun, **(shared | tables))
    check_finished(members)
    check_hooks(members, one.hooks.lines())
    at_step = next((step for step in one.checkpoints if step < contract.steps), None)
    assert at_step is not None, "the run has no checkpoint to resume from"
    resumed = contract.run(bigrunner, accumulate=2, directory=behind(begun, at_step, bigrunner.tmp_path / "resumed"))
    resumed.assert_finished()
    free = {*contract.depends_on_clock, *contract.depends_on_processes}
    expected = contract.saved_state(one.directory)
    for what, losses, directory in (
        ("two processes", members[0].losses, begun),
        ("one that goes on behind two", resumed.losses, resumed.directory),
    ):
        check_alike(f"{what}: losses", one.losses[-len(losses) :], losses)
        check_alike(f"{what}: the plugin's state", expected, contract.saved_state(directory), free)


def check_finished(members: Collection[Member]) -> None:
    """All took all steps, nothing was quarantined, and no process has written what is the main one's."""
    for member in members:
        said = f"process {member.rank}: exit code {member.exit_code}: {member.error}; {member.output[-2000:]}"
        assert member.exit_code == ExitCode.FINISHED, said
        assert member.foreign == [], (
            f"process {member.rank} has written {', '.join(member.foreign)}, of which the main process has one, too: "
            f"write where `run.is_main`, or a file with `rank-{member.rank}` in its name"
        )


def check_hooks(members: Collection[Member], golden: Iterable[str]) -> None:
    """Hooks of all processes come in the same order on all, which is that of one process; those of the main one on the
    main one alone."""
    for member in members:
        assert in_order(member.hooks) == in_order(golden), f"process {member.rank}: not the hooks of one process"
        if member.rank > 0:
            others = {call.partition(" ")[0] for call in member.hooks} & {n for n, who in CALLED.items() if who == MAIN}
            assert not others, f"process {member.rank} has called {', '.join(sorted(others))}"


def check_alike(what: str, one: Any, other: Any, free: Collection[str] = ()) -> None:
    """Equal but for rounding, and for what is known by names of `free`."""
    found = list(differences(one, other, free))
    assert not found, f"{what}, not as of one process: {'; '.join(found[:5])}"


def differences(one: Any, other: Any, free: Collection[str] = (), path: str = "") -> Iterator[str]:
    """Where two JSON values differ, but for numbers that are close and what stands under names of `free`."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other} - {*free}):
            if key in one and key in other:
                yield from differences(one[key], other[key], free, f"{path}.{key}")
            else:
                yield f"{path}.{key} is there once"
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, free, f"{path}[{place}]")
    elif one != other and not are_close(one, other):
        yield f"{path}: {one!r} and {other!r}"


def are_close(one: Any, other: Any) -> bool:
    """Of numbers, also of those in words, as a state has NaN."""
    try:
        pair = float(one), float(other)
    except (TypeError, ValueError):
        return False
    return all(map(math.isnan, pair)) or math.isclose(*pair, rel_tol=CLOSE, abs_tol=CLOSE / 10)


def behind(directory: Path, step: int, copy: Path) -> Path:
    """A copy of a run directory as if the run had died right after the checkpoint of `step`."""
    shutil.copytree(directory, copy)
    store = CheckpointStore(copy / "checkpoints")
    for later in store.steps():
        if later > step:
            shutil.rmtree(store.path(later))
    return copy


# -- what the hooks promise ---------------------------------------------------------------------------------------

ALL, MAIN = "all, in the same order", "the main one"


def processes_of(hook: str) -> str:
    """Who calls a hook of the engine, as its documentation says."""
    found = re.search(r"^Processes: ([^;]*);", inspect.getdoc(getattr(Hooks, hook)) or "", re.MULTILINE)
    assert found is not None, hook
    return found[1]


CALLED = {name: processes_of(name) for name, spec in vars(Hooks).items() if hasattr(spec, "bigrun_spec")}


def in_order(calls: Iterable[str]) -> list[str]:
    """The calls of hooks that all processes call in the same order, without those for further micro-batches of a step,
    of which several processes have fewer."""
    ordered = (call for call in calls if CALLED.get(call.partition(" ")[0]) == ALL)
    return [call for call in ordered if " micro=" not in call or call.endswith(" micro=0")]
