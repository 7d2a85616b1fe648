"""A step for which the memory does not suffice."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from training import Training
from typed import Typed

from bigrun.out_of_memory import first_sentence, is_out_of_memory

# What torch says on a GPU, from step AT on, for micro-batches of more than MOST.
SMALL = """
import os
import signal
import torch
from bigrun import hookimpl

AT, MOST, WHERE = {at}, {most}, {where!r}


def fail(run, where, step):
    if where == WHERE.partition(" ")[0] and step >= AT and run.config.data.micro_batch > MOST:
        if WHERE.endswith("stopped"):
            os.kill(os.getpid(), signal.SIGTERM)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has ...")


class Small:
    @hookimpl
    def loss_terms(self, run, step, micro, batch, outputs):
        fail(run, "loss", step)
        return {{}}

    @hookimpl
    def after_update(self, run, step):
        fail(run, "after_update", step)

    @hookimpl
    def after_step(self, run, step):
        fail(run, "after_step", step)

    @hookimpl
    def configure_model(self, run, objective):
        def forward(module, arguments):
            fail(run, "forward", run.plugins.step)
        objective.register_forward_pre_hook(forward)

    @hookimpl
    def build_optimizer(self, run, parameters):
        class Optimizer(torch.optim.AdamW):
            def step(self, closure=None):
                fail(run, "update", run.plugins.step)
                return super().step(closure)
        groups = [{{k: v for k, v in group.items()}} for group in parameters]
        return Optimizer(groups, lr=1e-3) if WHERE == "update" else None
"""


def training(folder: Path, at: int = 4, most: int = 1, where: str = "forward", **tables: Any) -> Training:
    data = {"effective_batch": 4, "micro_batch": 4} | tables.pop("data", {})
    tables = {"objective": {"koleo_weight": 0.0}, "data": data, **tables}
    made = Training(folder, run={"max_steps": 6}, plugins={"small:Small": {}}, **tables)
    (folder / "small.py").write_text(SMALL.format(at=at, most=most, where=where))
    return made


def losses(run: Training) -> list[float]:
    return [row["loss"] for row in run.metrics() if "loss" in row]


@pytest.mark.parametrize("where", ["forward", "loss"])
def test_it_ends_in_one_message_with_the_state_saved(tmp_path: Path, where: str) -> None:
    run = training(tmp_path, where=where)
    done = run()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "step 4 needs more memory than the device has (" in line
    assert "CUDA out of memory" in line
    assert "the state before it is saved" in line
    assert "by the planner's closed form such a step takes 2 MiB, and this process can have " in line
    assert "something else must have taken the memory" in line, "the test's own error did"
    assert "with the same effective batch of 4: data.micro_batch = 2 (2 x 2, 1 MiB)" in line
    assert 'data.micro_batch = 4 and hardware.activation_checkpointing = "full" (4 x 1, 1 MiB)' in line
    assert 'hardware.on_oom = "halve" halves the micro-batch by itself' in line
    assert "`bigrun plan`" in line
    assert (run.run / "checkpoints" / "step-00000003").is_dir(), "none was due there"
    (event,) = run.events("out-of-memory")
    assert (event["level"], event["facts"]["starts_again"]) == ("error", False)
    assert not (run.run / "memory.json").exists()


def test_what_could_be_spared_is_said(tmp_path: Path) -> None:
    """A network of 200,000 parameters, with 8 bytes of averages for each."""
    model: Any = {"width": 128, "ffn_hidden": 512}
    done = training(tmp_path, where="update", model=model)()
    assert done.returncode == 1
    assert "whatever the micro-batch is: states of the optimizer in bf16 2 MiB less, states of " in done.stderr
    assert "(docs/how-to/save-memory.md)" in done.stderr


@pytest.mark.parametrize("where", ["forward", pytest.param("update", marks=pytest.mark.slow)])
def test_a_planner_that_fails_hides_nothing(tmp_path: Path, where: str) -> None:
    run = training(tmp_path, where=where)
    (tmp_path / "broken.py").write_text(
        "from bigrun import hookimpl\n"
        "class Broken:\n"
        "    @hookimpl\n"
        "    def on_start(self, run):\n"
        "        import bigrun.planner.savings\n"
        "        def fail(*_):\n"
        "            raise ValueError('of the planner')\n"
        "        bigrun.planner.savings.savings_of = fail\n"
    )
    done = run("--plugin", "broken:Broken")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "CUDA out of memory" in line
    assert "the planner has no advice (ValueError: of the planner)" in line
    assert ("data.micro_batch = 2 (now 4)" if where == "forward" else "a smaller one does not help") in line
    if where == "forward":
        assert (run.run / "checkpoints" / "step-00000003").is_dir()


@pytest.mark.slow
def test_what_was_saved_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = training(tmp_path / "whole", at=100)
    assert whole().returncode == 0
    broken = training(tmp_path / "broken")
    assert broken().returncode == 1
    assert broken("--no-plugin", "small:Small", "--drop-plugin", "small:Small").returncode == 0
    assert losses(broken) == losses(whole)


def test_half_the_micro_batch_in_a_new_process_until_it_fits(tmp_path: Path) -> None:
    """The objective stays the same: each loss is that of the run which never had to, but for what is drawn for each
    micro-batch (docs/explanation/accumulation.md), which is switched off here."""
    for name in ("whole", "halved"):
        (tmp_path / name).mkdir()
    same: Any = {"model": {"drop_path_fraction": 0.0, "rope_rescale_factor": False}}
    whole = training(tmp_path / "whole", at=100, **same)
    assert whole().returncode == 0
    halved = training(tmp_path / "halved", hardware={"on_oom": "halve"}, **same)
    done = halved()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("out of memory: step 4 needs more memory") == 2
    assert [event["facts"]["micro_batch"] for event in halved.events("out-of-memory")] == [4, 2]
    assert [row["step"] for row in halved.metrics() if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert losses(halved) == pytest.approx(losses(whole), rel=2e-6)
    note = json.loads((halved.run / "memory.json").read_text())
    assert note == {"micro_batch": 1, "instead_of": 4, "step": 4}


@pytest.mark.slow
def test_a_later_start_does_not_try_again_what_did_not_fit(tmp_path: Path) -> None:
    run = training(tmp_path, hardware={"on_oom": "halve"})
    assert run("--set", "run.max_steps=5").returncode == 0
    assert len(run.events("out-of-memory")) == 2
    done = run()
    assert done.returncode == 0, done.stderr
    assert len(run.events("out-of-memory")) == 2
    assert "data.micro_batch = 1 (4 did not fit into the device's memory, see memory.json)" in done.stdout
    done = run("--set", "data.micro_batch=2", "--set", "run.max_steps=7")  # another wish is tried
    assert done.returncode == 0, done.stderr
    done = run("--set", "run.max_steps=7", "--fresh")
    assert done.returncode == 0, "a run beside it begins with its own micro-batch"
    assert done.stdout.count("out of memory: ") == 2
    assert [event["facts"]["micro_batch"] for event in run.events("out-of-memory")] == [4, 2, 2]


@pytest.mark.slow
def test_a_supervised_run_goes_on_under_its_supervisor(tmp_path: Path) -> None:
    run = training(tmp_path, hardware={"on_oom": "halve"})
    done = run("--supervise", "--max-restarts", "0")
    assert done.returncode == 0, done.stderr
    assert "restart" not in done.stderr, "it is no restart of the supervisor's, of which there are only three in vain"
    assert len(run.events("out-of-memory")) == 2
    assert run.metrics()[-1]["step"] == 6


@pytest.mark.slow
def test_the_time_of_all_processes_counts_and_other_words_stay(tmp_path: Path) -> None:
    run = training(tmp_path, most=2, hardware={"on_oom": "halve"})
    done = run("--max-hours", "0.5", "--set", "run.max_steps=4", "--fresh")
    assert done.returncode == 0, done.stderr
    assert run.metrics()[-1]["step"] == 4
    assert not (tmp_path / "runs" / "tiny-2").exists()
    words = json.loads((run.run / "provenance.json").read_text())["starts"][-1]["command"]
    (hours,) = [float(word.partition("=")[2]) for word in words if word.startswith("--max-hours=")]
    assert 0.4 < hours < 0.5
    assert "--set=run.max_steps=4" in words
    assert not any(word.startswith("--fresh") for word in words)


def test_in_an_update_nothing_is_saved(tmp_path: Path) -> None:
    """Half of the weights would be those of the next step."""
    run = training(tmp_path, at=4, where="update")
    done = run()
    assert done.returncode == 1
    assert "the update had begun, so the newest checkpoint is what remains" in done.stderr
    assert sorted(path.name for path in (run.run / "checkpoints").iterdir()) == ["step-00000002"]


@pytest.mark.parametrize("at", [1, 4])
def test_after_an_update_nothing_is_saved_either(tmp_path: Path, at: int) -> None:
    """The weights are those of the next step, and the step does not count yet; half the images would not help."""
    run = training(tmp_path, at=at, where="after_update", hardware={"on_oom": "halve"})
    done = run()
    assert done.returncode == 1
    assert "a smaller one does not help" in done.stderr
    newest = "that is the one of step 2" if at == 4 else "there is none"
    assert f"the newest checkpoint is what remains: {newest}" in done.stderr
    assert [event["facts"]["starts_again"] for event in run.events("out-of-memory")] == [False]
    assert not (run.run / "memory.json").exists()
    if at == 4:
        assert sorted(path.name for path in (run.run / "checkpoints").iterdir()) == ["step-00000002"]


def test_a_hook_behind_the_step_is_no_step(tmp_path: Path) -> None:
    run = training(tmp_path, where="after_step", hardware={"on_oom": "halve"})
    done = run()
    assert done.returncode == 1
    assert "small:Small failed in after_step" in done.stderr
    assert run.events("out-of-memory") == []


def test_a_run_that_is_asked_to_stop_stops(tmp_path: Path) -> None:
    """Slurm's warning, in the step that fails: the job must be requeued, not trained on until it is killed."""
    run = training(tmp_path, where="forward stopped", hardware={"on_oom": "halve"})
    done = run()
    assert done.returncode == 128 + 15, done.stderr
    assert "stopped after step 3" in done.stdout
    assert (run.run / "checkpoints" / "step-00000003").is_dir()
    assert not (run.run / "memory.json").exists()


def test_a_run_whose_time_is_over_stops(tmp_path: Path) -> None:
    run = training(tmp_path, hardware={"on_oom": "halve"})
    done = run("--max-hours", "0.0000001")
    assert done.returncode == 3, done.stderr


def test_what_the_disk_has_refused_is_not_said_to_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training(tmp_path)
    (tmp_path / "full.py").write_text(
        "from bigrun import hookimpl\n"
        "class Full:\n"
        "    @hookimpl\n"
        "    def after_step(self, run, step):\n"
        "        if step == 3:\n"
        "            from bigrun.errors import NotSavedError\n"
        "            def refuse(*_, **__):\n"
        "                raise NotSavedError('the disk is full')\n"
        "            run.checkpoints.save = refuse\n"
    )
    done = run("--plugin", "full:Full")
    assert done.returncode == 1
    assert "the state before it could not be saved, and the newest checkpoint is that of step 2" in done.stderr


@pytest.mark.parametrize(
    ("tables", "obstacle"),
    [
        (
            {"objective": {"koleo_weight": 0.0, "sinkhorn_scope": "micro"}},
            'data.micro_batch cannot be halved: objective.sinkhorn_scope = "micro" makes it part of the objective',
        ),
        pytest.param(
            {"data": {"effective_batch": 3, "micro_batch": 3}},
            "data.micro_batch cannot be halved: it is 3",
            marks=pytest.mark.slow,
        ),
        (
            {"objective": {"koleo_weight": 0.1, "koleo_group": 4}},
            "data.micro_batch cannot be halved: objective.koleo_group = 4 does not divide 2",
        ),
    ],
)
def test_what_would_be_another_objective_is_not_done(tmp_path: Path, tables: Any, obstacle: str) -> None:
    run = training(tmp_path, most=0, hardware={"on_oom": "halve", "activation_checkpointing": "full"}, **tables)
    done = run()
    assert done.returncode == 1
    assert obstacle in done.stderr
    offers_one = "data.micro_batch = 1 (1 x 3, " in done.stderr
    assert offers_one is ("it is 3" in obstacle), "that divides three, and needs less"
    assert ("no micro-batch fits by it" in done.stderr) is not offers_one


def test_the_first_step_has_no_state_to_save(tmp_path: Path) -> None:
    done = training(tmp_path, at=1)()
    assert "there was no state to save before it" in done.stderr


def test_a_damaged_note_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = Typed(tmp_path, monkeypatch, hardware={"on_oom": "halve"}, run={"max_steps": 1})
    typed.run.mkdir(parents=True)
    assert typed.train("--set", "run.max_steps=1").code == 0
    for text in (
        "{",
        "[]",
        '{"micro_batch": "x", "instead_of": 4}',
        '{"micro_batch": 3, "instead_of": 4}',
        '{"micro_batch": 0, "instead_of": 4}',
        '{"micro_batch": -2, "instead_of": 4}',
    ):
        (typed.run / "memory.json").write_text(text)
        assert typed.train("--set", "run.max_steps=2").code == 0


# -- a real allocator -------------------------------------------------------------------------------------------


def allocate_too_much() -> None:
    torch.empty(2**50, dtype=torch.uint8)


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        allocate_too_much()
    assert is_out_of_memory(caught.value)
    assert first_sentence(caught.value).startswith("DefaultCPUAllocator: ")
    wrapped = ValueError("of a plugin")
    wrapped.__cause__ = caught.value
    assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert is_out_of_memory(RuntimeError("HIP error: out of memory\nHIP kernel errors might be reported later"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    other = KeyError("raised from None behind one that was caught")
    other.__context__, other.__suppress_context__ = caught.value, True
    assert not is_out_of_memory(other)
    assert not is_out_of_memory(None)


@pytest.mark.slow
def test_a_limit_of_the_shell_is_what_a_run_can_have(tmp_path: Path) -> None:
    """A real allocation that fails: of a step that takes more than is left of `ulimit -v`."""
    run = training(
        tmp_path,
        at=100,
        data={"effective_batch": 64, "micro_batch": 64},
        model={"width": 384, "ffn_hidden": 1536, "depth": 12, "heads": 6},
        views={"global_size_px": 224, "local_size_px": 96, "local_crops": 8},
    )
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -v 6000000 && exec "$@"', "bash", *run.words()],
        cwd=run.folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert limited.returncode == 1, limited.stderr
    assert "step 1 needs more memory than the device has (DefaultCPUAllocator: " in limited.stderr
    assert "GiB, and this process can have 5.72 GiB; what plugins spare" in limited.stderr
    assert "is not counted; what fits by it, with the same effective batch of 64: " in limited.stderr
