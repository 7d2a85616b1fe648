"""The contract that plugin authors inherit: good plugins pass, and each broken promise is noticed by its test."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bigrun.testing.contract import PluginContract
from bigrun.testing.guard import unchanged_process
from bigrun.testing.runner import Runner

# A critical plugin whose loss depends on its state.
CRITICAL = """
from bigrun import hookimpl

class Example:
    def __init__(self):
        self.steps = 0

    @hookimpl
    def before_step(self, run):
        self.steps += 1

    @hookimpl
    def loss_terms(self, outputs):
        return {"example": 0.1 * self.steps * outputs.global_features.cls.square().mean()}

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]
"""

# An observer that counts, and holds a file.
OBSERVER = """
import torch
from bigrun import hookimpl

class Example:
    observer = True

    def __init__(self):
        self.steps = 0
        self.file = None

    @hookimpl
    def on_start(self, run):
        if run.is_main:
            self.file = (run.path_for("example") / "log").open("a")

    @hookimpl
    def after_update(self, run, step):
        self.steps += 1
        if self.file is not None:
            self.file.write(f"{torch.rand(()).item()}")

    @hookimpl
    def on_error(self, error):
        self.error = error

    @hookimpl
    def teardown(self):
        if self.file is not None:
            self.file.close()
            self.file = None

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]
"""

MODULE = "contract_example"
TWO, SHARDS = "test_two_processes_are_one", "test_two_processes_with_shards_are_one"
Install = Callable[[str], PluginContract]


class Contract(PluginContract):
    plugin = "example"
    steps = 3


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution of one module with the plugin `example`; returns the plugin's contract."""

    def install(source: str) -> PluginContract:
        site = tmp_path / "site"
        metadata = site / "example-1.0.dist-info"
        metadata.mkdir(parents=True)
        (site / f"{MODULE}.py").write_text(source, encoding="utf-8")
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n", encoding="utf-8")
        (metadata / "entry_points.txt").write_text(f"[bigrun]\nexample = {MODULE}:Example\n", encoding="utf-8")
        monkeypatch.syspath_prepend(site)
        return type("Contract", (Contract,), {})()  # each with a run of its own

    yield install
    sys.modules.pop(MODULE, None)


def replaced(source: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


PROMISES = [name for name in dir(PluginContract) if name.startswith("test_")]
EACH = [
    pytest.param(
        source,
        promise,
        id=f"{promise}-{kind}",
        marks=[pytest.mark.slow] * (promise == SHARDS or (promise == TWO and kind == "critical")),
    )
    for promise in PROMISES
    for kind, source in (("critical", CRITICAL), ("observer", OBSERVER))
]


@pytest.mark.parametrize(("source", "promise"), EACH)
def test_a_good_plugin_keeps_every_promise(bigrunner: Runner, install: Install, source: str, promise: str) -> None:
    contract = install(source)
    try:
        getattr(contract, promise)(bigrunner)
    except pytest.skip.Exception:
        assert source is CRITICAL
        assert promise == "test_an_observer_leaves_losses_bit_identical"


FORGETS = ('self.steps = state["steps"]', "pass")
TEARDOWN = """        if self.file is not None:
            self.file.close()
            self.file = None"""

BROKEN = {
    "a critical plugin forgets its state": (
        replaced(CRITICAL, FORGETS),
        "test_resume_equals_the_straight_run_bit_for_bit",
        "resumed at step 1",
    ),
    "a critical plugin saves no state": (
        replaced(CRITICAL, ("state_dict(self):", "no_state(self):"), ("load_state_dict", "no_load")),
        "test_resume_equals_the_straight_run_bit_for_bit",
        "resumed at step 1",
    ),
    "an observer forgets its state": (
        replaced(OBSERVER, FORGETS),
        "test_resume_equals_the_straight_run_bit_for_bit",
        "resumed at step 1",
    ),
    "a metric depends on what is not saved": (
        replaced(
            OBSERVER, FORGETS, ('{"steps": self.steps}', "{}"), ("_update(self", '_step(self'),
            ("self.steps += 1", 'self.steps += 1\n        run.metrics.record("mine", self.steps)'),
        ),
        "test_resume_equals_the_straight_run_bit_for_bit",
        "resumed at step 1",
    ),
    "a state is no JSON": (
        replaced(CRITICAL, ('{"steps": self.steps}', '{"steps": {self.steps}}')),
        "test_its_state_is_json_and_round_trips",
        "the state of plugin example: cannot be written as JSON",
    ),
    "a state is not a number": (
        replaced(CRITICAL, ('{"steps": self.steps}', '{"steps": self.steps, "best": float("nan")}')),
        "test_its_state_is_json_and_round_trips",
        "the state of plugin example: cannot be written as JSON",
    ),
    "a state is changed by JSON": (
        replaced(OBSERVER, ('{"steps": self.steps}', '{"steps": self.steps, "shape": (1, 2)}')),
        "test_its_state_is_json_and_round_trips",
        "the state of plugin example: would not come back",
    ),
    "a state is loaded wrongly": (
        replaced(CRITICAL, ('state["steps"]', 'state["steps"] + 1')),
        "test_its_state_is_json_and_round_trips",
        "does not come back from load_state_dict",
    ),
    "a state is saved and never loaded": (
        replaced(CRITICAL, ("load_state_dict", "restore")),
        "test_its_state_is_json_and_round_trips",
        "one without the other is useless",
    ),
    "an observer changes weights": (
        replaced(
            OBSERVER,
            ("self.steps += 1", "next(iter(run.objective.student.parameters())).data.mul_(3)"),
        ),
        "test_an_observer_leaves_losses_bit_identical",
        "it changed the losses",
    ),
    "an observer changes gradients": (
        replaced(
            OBSERVER,
            ("after_update(self, run, step)", "after_backward(self, run)"),
            ("self.steps += 1", "next(iter(run.objective.student.parameters())).grad.zero_()"),
        ),
        "test_an_observer_leaves_losses_bit_identical",
        "it changed the losses",
    ),
    "an observer changes the last teacher only": (
        replaced(
            OBSERVER,
            ("self.steps += 1", "step == 3 and next(iter(run.objective.teacher.parameters())).data.add_(1)"),
        ),
        "test_an_observer_leaves_losses_bit_identical",
        r"it changed teacher\.backbone",
    ),
    "an observer ends the run": (
        replaced(OBSERVER, ("self.steps += 1", 'run.request_stop("seen enough")')),
        "test_an_observer_leaves_losses_bit_identical",
        "exit code 3",
    ),
    "a header needs what a session makes": (
        replaced(OBSERVER, ("    def state_dict", '    @hookimpl\n    def header_lines(self, run):\n        '
                            'return [f"flops {run.metrics.throughput.compute}"]\n\n    def state_dict')),
        "test_its_header_is_there_under_bigrun_check",
        "example failed in header_lines",
    ),
    "a hook has a default": (
        replaced(CRITICAL, ("before_step(self, run)", "before_step(self, run=None)")),
        "test_hook_implementations_have_plain_parameters",
        "before_step: run has a default",
    ),
    "its kind is computed": (
        replaced(OBSERVER, ("observer = True", "observer = bool(1)")),
        "test_its_kind_is_readable_without_importing_it",
        "observer = True",
    ),
    "a second teardown fails": (
        replaced(OBSERVER, (TEARDOWN, "        self.file.close()\n        self.file = None")),
        "test_teardown_twice_is_harmless",
        "exit code 4|example",
    ),
    "a teardown needs a start": (
        replaced(OBSERVER, (TEARDOWN, "        self.file.close()")),
        "test_a_failure_in_each_hook_ends_the_run_or_is_quarantined",
        "after its failure in on_start it failed again",
    ),
    "another process writes what the main one does": (
        replaced(OBSERVER, ("if run.is_main:", "if True:")),
        TWO,
        "process 1 has written example/log",
    ),
    "another process has another loss": (
        replaced(CRITICAL, ("before_step(self, run)", "before_step(self, run, step)"),
                 ("self.steps += 1", "self.steps += 1 + run.peers.rank * (step == 2)")),
        TWO,
        "two processes: losses, not as of one process",
    ),
    "a state is that of a part of the images": (
        replaced(OBSERVER, ("self.steps += 1", 'self.steps = run.position * (step > 1) / run.strategy.world_size')),
        TWO,
        "two processes: the plugin's state, not as of one process",
    ),
    "a hook is never called": (
        replaced(CRITICAL, ("before_step(self, run)", "build_dataset(self)")),
        "test_a_failure_in_each_hook_ends_the_run_or_is_quarantined",
        "build_dataset was never called",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * (BROKEN[case][1] == TWO and "loss" not in case)) for case in BROKEN],
)
def test_a_broken_promise_is_noticed(bigrunner: Runner, install: Install, case: str) -> None:
    source, promise, says = BROKEN[case]
    contract = install(source)
    with pytest.raises(AssertionError, match=says):
        getattr(contract, promise)(bigrunner)


def test_a_plugin_that_is_not_installed_fails(bigrunner: Runner) -> None:
    for promise in ("test_loads_by_its_entry_point_name", "test_rejects_an_unknown_option"):
        with pytest.raises(AssertionError):
            getattr(Contract(), promise)(bigrunner)


def test_measured_times_can_be_left_out(bigrunner: Runner, install: Install) -> None:
    timed = replaced(OBSERVER, ("self.steps += 1", "import time; self.steps = time.perf_counter()"))
    contract = install(timed)
    with pytest.raises(AssertionError, match="resumed at step 1"):
        contract.test_resume_equals_the_straight_run_bit_for_bit(bigrunner)

    class Timed(Contract):
        depends_on_clock = ("steps",)

    Timed().test_resume_equals_the_straight_run_bit_for_bit(bigrunner)


# -- the guard around every run -------------------------------------------------------------------------------


@pytest.fixture
def restored_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A place for a test that changes the process."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.chdir(tmp_path)
    python, numpy, generator = random.getstate(), np.random.get_state(), torch.get_rng_state()
    threads, kind, precision = torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision()
    handler = signal.getsignal(signal.SIGTERM)
    yield
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(generator)
    torch.set_num_threads(threads)
    torch.set_default_dtype(kind)
    torch.set_float32_matmul_precision(precision)
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("environment (BIGRUN_A)", lambda: os.environ.update(BIGRUN_A="1")),
        ("random", random.random),
        ("numpy.random", np.random.rand),
        ("torch.random", lambda: torch.rand(())),
        ("root logger", lambda: logging.getLogger().setLevel(logging.DEBUG)),
        ("root logger", lambda: logging.getLogger().addHandler(logging.NullHandler())),
        ("working directory", lambda: os.chdir("/")),
        ("signal handlers", lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)),
        ("torch threads", lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
        ("torch default type", lambda: torch.set_default_dtype(torch.float64)),
        ("torch matmul precision", lambda: torch.set_float32_matmul_precision("medium")),
    ],
)
def test_the_guard_notices_a_changed_process(restored_process: None, what: str, change: Callable[[], Any]) -> None:
    with (
        pytest.raises(AssertionError, match=rf"the run changed the process: {re.escape(what)}(\n|$)"),
        unchanged_process(),
    ):
        change()


def test_a_run_passes_the_guard_with_another_number_of_threads(bigrunner: Runner) -> None:
    with unchanged_process():
        bigrunner.run(steps=1, hardware={"threads": torch.get_num_threads() + 1}).assert_finished()
