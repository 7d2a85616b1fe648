"""`bigrun launch --slurm`: a script that runs, tells all machines, and goes back into the queue once.

`srun` and `scontrol` are stand-ins: the machines of a job are process groups of this one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm
from one_of_many.folder import put_into
from training import Training, read_lines

from bigrun.errors import ExitCode, UsageError
from bigrun.launch.asked import asked_lines, check_asked, seconds_of
from bigrun.launch.options import SlurmOptions

SRUN = """#!/bin/bash
# The command on each machine; USR1 goes to every process there, as Slurm may send it.
printf '%s\\n' "$@" > "$SAID/srun"
while [[ $1 == --* ]]; do shift; done
set -m
machines=()
for ((n = 0; n < SLURM_NNODES; n++)); do
    SLURM_NODEID=$n "$@" &
    machines+=($!)
done
trap 'for m in "${machines[@]}"; do kill -USR1 -- "-$m"; done' USR1
echo $$ > "$SAID/srun.pid"
highest=0
for m in "${machines[@]}"; do
    wait "$m"; code=$?
    while kill -0 "$m" 2>/dev/null; do wait "$m"; code=$?; done
    ((code > highest)) && highest=$code
done
exit $highest
"""
SCONTROL = """#!/bin/bash
case $1-$2 in
    show-hostnames) echo 127.0.0.1; echo 127.0.0.2 ;;
    show-job) echo "JobId=$3"; echo "   PreemptEligibleTime=2026-05-18T10:40:26 PreemptTime=$PREEMPTED" ;;
    requeue-*) echo "$2" >> "$SAID/requeued" ;;
esac
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script as the next turn of one job."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    facts = {"JOB_ID": str(4000 + os.getpid() % 1000), "NNODES": "2", "CPUS_PER_TASK": "8", "JOB_NODELIST": "n[1-2]"}
    for name, value in facts.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SAID", str(tmp_path))
    monkeypatch.setenv("PREEMPTED", "None")

    def run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", script], cwd="/", capture_output=True, text=True, timeout=300)

    return run


def script_of(training: Training, *words: str) -> str:
    done = warm.bigrun(training.folder, "launch", "tiny.toml", "--slurm", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def requeued(folder: Path) -> list[str]:
    path = folder / "requeued"
    return path.read_text().split() if path.exists() else []


MARKS = """from pathlib import Path
from bigrun import hookimpl
class Marks:
    @hookimpl
    def configure_runtime(self, run):
        Path("begun").touch()
"""
HOSTILE = 'it\'s a "run" $HOME `ls` #1;'


def test_every_word_reaches_the_command_as_it_was_given(
    tmp_path: Path, job: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / HOSTILE).mkdir()
    training = Training(tmp_path / HOSTILE, data={"effective_batch": 16})
    words = ["--nodes", "2", "--gpus", "8", "--run-dir", f"runs/{HOSTILE}", "--device", "auto"]
    asked = ["--time", "2-00:00:00", "--partition", "gpu", "--sbatch=--account=lab", "--warning-seconds", "900"]
    script = script_of(training, *words, *asked)
    directives = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert directives == [
        "--job-name=tiny", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=64",
        "--time=2-00:00:00", "--partition=gpu", "--signal=USR1@900", "--requeue", "--open-mode=append",
        "--output=%x-%j.out", "--account=lab",
    ]  # fmt: skip
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    (tmp_path / "bin" / "srun").write_text("#!/bin/bash\npwd\nprintf '%s\\n' \"$@\"\n")
    lines = job(script).stdout.splitlines()
    assert lines[0] == str(training.folder)
    assert {"--wait=0", "--kill-on-bad-exit=0", "--export=ALL", "--cpus-per-task=8"} <= set(lines)
    port = 20000 + int(os.environ["SLURM_JOB_ID"])
    assert {f"--rendezvous=127.0.0.1:{port}", f"--run-dir={training.folder}/runs/{HOSTILE}"} <= set(lines)
    assert lines[-2:] == ["--", "tiny.toml"]
    assert not [line for line in lines if line.startswith(("--slurm", "--time", "--node-rank"))]
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")  # of a job whose script has lost that line
    without = job(script).stdout.splitlines()
    assert without == [line for line in lines if line != "--cpus-per-task=8"]


def test_only_a_job_whose_time_is_up_or_that_is_preempted_goes_back(
    tmp_path: Path, job: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path)
    plain = script_of(training, "--processes", "1")
    limited = script_of(training, "--processes", "1", "--max-hours", "5")
    for script, code, preempted, is_requeued in [
        (plain, 138, "None", True),
        (plain, 140, "None", True),
        (plain, 143, "2026-05-18T11:40:26", True),
        (plain, 143, "None", False),
        (limited, 3, "None", True),
        (plain, 3, "None", False),
        (plain, 0, "None", False),
        (plain, 137, "None", False),
    ]:
        monkeypatch.setenv("PREEMPTED", preempted)
        (tmp_path / "bin" / "srun").write_text(f"#!/bin/sh\nexit {code}\n")
        done = job(script)
        assert done.returncode == code
        assert requeued(tmp_path) == [os.environ["SLURM_JOB_ID"]] * is_requeued
        assert f"exit code {code}; requeued: {'yes' if is_requeued else 'no'}" in done.stderr
        (tmp_path / "requeued").unlink(missing_ok=True)


def test_what_a_job_cannot_repeat_is_refused(tmp_path: Path) -> None:
    training = Training(tmp_path)
    for words, said in [
        (["--gpus", "1", "--fresh"], "--fresh is for a first start"),
        (["--gpus", "1", "--from", "elsewhere"], "--from is for a first start"),
        (["--nodes", "2", "--gpus", "1", "--rendezvous", "a:1"], "--rendezvous is found in the job"),
        (["--nodes", "2", "--gpus", "1", "--node-rank", "0"], "--node-rank is found in the job"),
        (["--processes", "3"], "cannot be divided among 3 processes"),
        (["--processes", "2", "--nodes", "3"], "cannot be divided among 6 processes"),
        ([], "--gpus N"),
        (["--gpus", "2"], "the run is to be on the CPU (hardware.device); add --device auto, or say --processes 2"),
        (
            ["--processes", "2", "--device", "cuda"],
            "no GPU, and hardware.device is 'cuda': say --gpus 2",
        ),
        (["--gpus", "1", "--time", "1\n#SBATCH -A x"], "expected a time of Slurm"),
        (["--gpus", "1", "--sbatch", "account"], "no option of sbatch in one line"),
    ]:
        done = warm.bigrun(tmp_path, "launch", "tiny.toml", "--slurm", *words)
        assert (done.returncode, done.stdout) == (ExitCode.USAGE, ""), done.stderr
        assert said in done.stderr
    assert not training.run.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "data.micro_batch=4"], "is no multiple of data.micro_batch = 4 x 2 processes"),
        (["--set", "parallel.strategy=single"], "'single', but there are 2 processes"),
        (["--set", "parallel.strategy=fsdp", "--set", "parallel.replicate=3"], "replicate = 3 does not divide 2"),
        (["--set", "objective.koleo_weight=0.1", "--set", "objective.koleo_group=4"], "koleo_group = 4; take one"),
    ],
)
def test_what_the_run_would_refuse_waits_in_no_queue(tmp_path: Path, words: list[str], said: str) -> None:
    """With the words of the run itself, which `bigrun launch` says before there is a process."""
    (tmp_path / "marks.py").write_text(MARKS)
    training = Training(tmp_path, plugins={"marks:Marks": {}})
    queued = warm.bigrun(tmp_path, "launch", "tiny.toml", "--slurm", "--processes", "1", "--nodes", "2", *words)
    started = warm.bigrun(tmp_path, "launch", "tiny.toml", "--processes", "2", *words)
    assert not (tmp_path / "begun").exists()
    alone = training.together(2, *words)[0]
    assert (tmp_path / "begun").exists()
    assert {done.returncode for done in (alone, queued, started)} == {ExitCode.USAGE}
    assert said in alone.stderr
    assert (alone.stderr, "") == (queued.stderr, queued.stdout) == (started.stderr, started.stdout)
    assert not training.run.exists()


def asked(**options: Any) -> SlurmOptions:
    nothing: dict[str, Any] = dict.fromkeys(("time", "partition", "cpus", "warning_seconds"))
    return SlurmOptions(**{"wanted": True, **nothing, "more": ()} | options)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20", 1200), ("90:30", 5430), ("24:00:00", 86400), ("2-0", 172800), ("1-2:3", 93780), ("1-02:03:04", 93784)],
)
def test_a_time_has_a_form_of_slurm(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds
    check_asked(asked(time=text))


@pytest.mark.parametrize(
    ("text", "words"),
    [("24", "24 minutes"), ("24:00", "24 minutes"), ("36:00:00", "1 day 12 hours"), ("2-0:01", "2 days 1 minute")],
)
def test_the_script_says_the_time_in_words(text: str, words: str) -> None:
    lines = asked_lines(asked(time=text))["asked"].splitlines()
    assert lines == [f"# Of each turn: {words}.", f"#SBATCH --time={text}"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        *[
            ({"time": time}, "expected a time of Slurm that is not 0")
            for time in ("abc", "", "0", "0:00:00", "24:61:00", "1-24", "1:2:3:4", "-5", "1\n", "\u0663")
        ],
        ({"time": "0:05:00", "warning_seconds": 600}, "--time 0:05:00 is 300 s, and --warning-seconds 600"),
        ({"time": "5"}, "--time 5 is 300 s, and --warning-seconds 600"),
        *[({"partition": name}, "expected a name of letters") for name in ("", "a b", "a\nb", "$x", "-x", "\xe4")],
        *[
            ({"more": (option,)}, said)
            for option, said in {
                "--nodes=4": "say --nodes N", "-N4": "say --nodes N", "--nodes 4": "say --nodes N",
                "--ntasks=2": "--gpus N or --processes N", "--ntasks-per-node=2": "--gpus N or --processes N",
                "--gpus-per-node=4": "say --gpus N", "-c8": "say --cpus N", "--signal=B:TERM@9": "--warning-seconds N",
                "--sig=TERM": "--warning-seconds N", "--requeue": "puts the job back itself", "-tx": "say --time TIME",
                "--output=x": "change it there", "--partition=a": "say --partition NAME", "-": "once for each",
                "--ntasks=4": "--ntasks contradicts the script", "--nodes=3": "--nodes is set by the script",
                "--cpus-per-gpu=4": "say --cpus N", "--gres=gpu:8": "say --gpus N", "--gres gpu": "say --gpus N",
                "--gres=tmp:1G,gpu:h100:8": "say --gpus N", "--gpus-per-task=1": "--gpus-per-task contradicts",
                "--array=1-3": "a script for each run", "-a1-3": "a script for each run",
                "--account=a --nodes=4": "once for each", "": "once for each", "--comment=a#b": "once for each",
            }.items()
        ],
    ],
)  # fmt: skip
def test_what_sbatch_would_refuse_or_read_twice_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        check_asked(asked(**options))


def test_what_the_script_does_not_say_may_be_asked() -> None:
    more = ("--account=lab", "-Alab", "--constraint=[a100|h100]&nvlink", "--time-min=1", "--no-kill", "--exclusive")
    more += ("--gres=tmp:100G", "--gres-flags=enforce-binding", "--export=NONE")
    check_asked(asked(partition="gpu,gpu-2", more=more))


@pytest.mark.slow
@pytest.mark.parametrize("is_active", [False, True], ids=["without the plugin", "with the plugin"])
def test_a_job_of_two_machines_is_told_saves_goes_back_once_and_finishes(
    tmp_path: Path, job: Callable[..., subprocess.CompletedProcess[str]], is_active: bool
) -> None:
    """USR1 to every process of both machines, those that decode and their helpers included."""
    put_into(tmp_path)
    plugins = {"one_of_many.delays:Waits": {}} | ({"slurm-requeue": {}} if is_active else {})
    training = Training(
        tmp_path, run={"max_steps": 30, "checkpoint_every_steps": 100}, data={"workers": 1}, plugins=plugins
    )
    script = script_of(training, "--nodes", "2", "--processes", "1", "--time", "1:00:00")
    with subprocess.Popen(
        ["bash", "-c", script], cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as first:
        until = time.monotonic() + 120
        while not training.metrics() and time.monotonic() < until and first.poll() is None:
            time.sleep(0.05)
        os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGUSR1)
        output, errors = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGUSR1, output + errors
    assert "processes 2" in output
    assert errors == f"bigrun: exit code {first.returncode}; requeued: yes\n"
    assert requeued(tmp_path) == [os.environ["SLURM_JOB_ID"]]
    assert is_active == ("is requeued by its script when its time is up" in output)
    (stopped,) = training.events("stopped")
    assert [path.name for path in (training.run / "checkpoints").iterdir()] == [f"step-{stopped['step']:08d}"]
    (tmp_path / "go").touch()
    second = job(script)
    assert second.returncode == 0, second.stderr
    assert requeued(tmp_path) == [os.environ["SLURM_JOB_ID"]]
    assert [row["step"] for row in read_lines(training.run / "metrics.jsonl")] == list(range(1, 31))
    assert f"resumed after step {stopped['step']}" in second.stdout
