"""The command line, as a user types it: real processes, real files, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import warm
from PIL import Image
from tiny import NETWORK

import bigrun
from bigrun.config import shipped_presets
from bigrun.entry_points import installed

PRESET = (
    """# a tiny run
[run]
max_steps = {steps}
log_every_steps = 1
checkpoint_every_steps = 2

[data]
path = "images"
effective_batch = 4
workers = {workers}
"""
    + NETWORK
    + """\

[hardware]
device = "cpu"
precision = "fp32"
threads = 1

[plugins.console]
[plugins.metrics-log]
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with images and a preset."""
    (tmp_path / "images" / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(10):
        pixels = rng.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / ("more" if i % 2 else ".") / f"{i}.png")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    write_preset(tmp_path)
    return tmp_path


def write_preset(folder: Path, steps: int = 4, workers: int = 0) -> None:
    (folder / "tiny.toml").write_text(PRESET.format(steps=steps, workers=workers), encoding="utf-8")


def command(folder: Path, *arguments: str | bytes) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in arguments if isinstance(word, str)]
    if words[:1] in (["run"], ["check"]) and len(words) == len(arguments):
        return warm.bigrun(folder, *words)
    return subprocess.run(
        [sys.executable, "-m", "bigrun", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def losses(run: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def test_run_trains_says_what_it_does_and_leaves_its_state(folder: Path) -> None:
    done = command(folder, "run", "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for part in (
        "run          runs/tiny (from step 0)",
        "device       cpu in fp32",
        "parameters   backbone 23,712",
        "batch        effective 4 = micro 4 x accumulate 1 x processes 1",
        "length       4 optimizer steps x 4 images = 16 images = 1.6 epochs of 10",
        "images       10 files; 1 other files are left alone (notes.txt)",
        "by rule      optimizer.warmup_steps = 0 (10 % of the run)",
        "configuration, resolved:",
        "max_steps = 4",
        "step 4/4",
        "finished: 4 optimizer steps, 16 images",
        "checkpoint: runs/tiny/checkpoints/step-00000004",
    ):
        assert part in done.stdout
    run = folder / "runs" / "tiny"
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoints", "config.toml", "events.jsonl", "metrics.jsonl", "provenance.json", "saved.json",
    ]  # fmt: skip
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4]
    assert (run / "config.toml").read_text() == (run / "checkpoints" / "step-00000004" / "config.toml").read_text()


def test_the_saved_configuration_is_a_preset_of_the_same_run(folder: Path) -> None:
    command(folder, "run", "tiny.toml")
    (folder / "again.toml").write_text((folder / "runs" / "tiny" / "config.toml").read_text())
    assert command(folder, "run", "again.toml").returncode == 0
    assert losses(folder / "runs" / "again") == losses(folder / "runs" / "tiny")


def test_the_same_command_resumes_and_fresh_starts_beside(folder: Path) -> None:
    write_preset(folder, steps=4)
    assert command(folder, "run", "tiny.toml").returncode == 0
    straight = losses(folder / "runs" / "tiny")

    again = command(folder, "run", "tiny.toml")
    assert again.returncode == 0
    assert "this run is already finished at step 4" in again.stdout

    stopped = command(folder, "run", "tiny.toml", "--fresh", "--set", "run.max_steps=2")
    assert stopped.returncode == 0
    assert "runs/tiny-2" in stopped.stdout
    assert (folder / "runs" / "tiny-2" / "checkpoints" / "step-00000002").is_dir()
    assert losses(folder / "runs" / "tiny") == straight

    longer = command(folder, "run", "tiny.toml", "--run-dir", "runs/tiny-2")
    assert longer.returncode == 0
    assert "(resumed after step 2, from runs/tiny-2/checkpoints/step-00000002)" in longer.stdout
    assert "since the checkpoint: run.max_steps: 2 -> 4" in longer.stdout
    assert [step for step, _ in losses(folder / "runs" / "tiny-2")] == [1, 2, 3, 4]


ENDLESS = [
    word
    for option in (
        "run.checkpoint_every_steps=1000000",
        # Far more than a machine takes while a test waits for a few; what a rule makes a share of it is 0.
        "run.max_steps=1000000",
        "optimizer.warmup_steps=0",
        "optimizer.freeze_last_layer_steps=0",
        "objective.teacher_temperature_warmup_steps=0",
    )
    for word in ("--set", option)
]


def run_until(folder: Path, run: str, step: int, number: signal.Signals, *arguments: str) -> tuple[int, str]:
    """Train until a step is in the log, then send a signal; exit code and output."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bigrun", "run", "tiny.toml", *ENDLESS, *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        rows = folder / "runs" / run / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (rows.exists() and rows.read_text().count("\n") >= step):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, output


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_step_saves_and_the_run_continues_exactly(
    folder: Path, number: signal.Signals, code: int
) -> None:
    write_preset(folder, workers=1)
    stopped, output = run_until(folder, "tiny", 3, number)
    assert stopped == code, output
    assert f"stopping after this step: {number.name}" in output
    assert "the same command continues" in output
    assert "Traceback" not in output
    first = losses(folder / "runs" / "tiny")
    assert [step for step, _ in first] == list(range(1, len(first) + 1))

    resumed, output = run_until(folder, "tiny", len(first) + 3, number)
    assert resumed == code, output
    assert f"(resumed after step {len(first)}, " in output
    both = losses(folder / "runs" / "tiny")

    assert run_until(folder, "tiny-2", len(both), number, "--fresh")[0] == code
    straight = losses(folder / "runs" / "tiny-2")
    assert straight[: len(both)] == both
    assert len(set(both)) == len(both) > len(first)  # the weights move, or any path would be this one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing.toml"], "nothing.toml: no such file"),
        (["run", "vit_larg"], "vit_larg: no preset of that name - did you mean 'vit_large'?"),
        (["run", "tiny.toml", "--set", "model.dept=3"], "model.dept: unknown option - did you mean 'depth'?"),
        (["run", "tiny.toml", "--set", "model.depth='3'"], "model.depth: expected int, got '3'"),
        (["run", "tiny.toml", "--set", "model.depth"], "expected KEY=VALUE"),
        (["run", "tiny.toml", "--plugin", "gram-anchorin"], "no such plugin - did you mean 'gram-anchoring'?"),
        (["run", "tiny.toml", "--no-plugin", "tensorboard"], "--no-plugin tensorboard: it is not active"),
        (["run", "tiny.toml", "--set", "data.path=nowhere"], "nowhere: no such folder"),
        (["run", "tiny.toml", "--run-dir", "images"], "images holds files but no run"),
        (["run", "tiny.toml", "--run-dir", "tiny.toml"], "tiny.toml is a file; a run needs a directory"),
        (["run", "vit_tiny"], "no images: set data.path to a folder of images"),
        (["check", "tiny.toml", "--set", "views.global_size_px=33"], "33 is not a multiple of model.patch_size_px = 8"),
        (["run", "tiny.toml", "--set", "max_steps=3"], "max_steps: unknown table - did you mean 'run.max_steps'?"),
        (["run", "tiny.toml", "--set", 'data.path=""'], "data.path: expected a name, got nothing"),
        (["run", "tiny.toml", "--plugin", "mine"], "a class that is not installed is named module:Class"),
        (["explain", "depth"], "no such table - did you mean 'model.depth'?"),
        (["run", "tiny.toml", "--set", "#x=1"], "expected KEY=VALUE"),
        (["run", "tiny.toml", "--set", "run.seed=1\nrun.max_steps=2"], "expected KEY=VALUE"),
        (["run", "tiny.toml", "--set", "plugins.console=false"], "plugins.console: expected a table, got false"),
        (["run", "tiny.toml", "--set", b"data.path=im\xff"], "data.path: expected text in UTF-8"),
        (["run", "x" * 300 + ".toml"], "cannot be read: File name too long"),
        (["run", "images/"], "no such file"),
        (["run", "tiny.toml", "--run-dir", "tiny.toml/x"], "cannot be a run directory (Not a directory)"),
        (["run", "tiny.toml", "--set", "model.width=4000000000000000000"], "model.width: expected 4 to"),
        (["explain", "model.dept"], "model has no such option - did you mean 'depth'?"),
        (["explain", "modle"], "no such table - did you mean 'model'?"),
    ],
)
def test_bad_input_is_one_message_exit_code_2_and_leaves_nothing(
    folder: Path, arguments: list[str | bytes], message: str
) -> None:
    before = sorted(folder.rglob("*"))
    done = command(folder, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_data_set_of_nothing_is_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    done = command(folder, "run", "tiny.toml", "--set", "data.path=empty")
    assert done.returncode == 2
    assert "empty: no images among 0 files" in done.stderr


def test_bad_images_end_the_run_with_their_names_and_the_checkpoints_stay(folder: Path) -> None:
    command(folder, "run", "tiny.toml", "--set", "run.max_steps=2")
    for bad in (folder / "images").rglob("*.png"):
        bad.write_bytes(bad.read_bytes()[:200])
    done = command(folder, "run", "tiny.toml", "--set", "run.max_steps=9")
    assert done.returncode == 1
    assert "images/0.png: truncated: the PNG file ends too early" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "runs" / "tiny" / "checkpoints" / "step-00000002" / "MANIFEST.json").is_file()


def test_check_counts_and_warns_without_writing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = command(folder, "check", "tiny.toml")
    assert done.returncode == 0
    assert done.stdout.startswith("tiny.toml: valid")
    assert "warning      data.effective_batch = 4: below 64 images" in done.stdout
    assert sorted(folder.rglob("*")) == before


def test_plugins_lists_name_kind_distribution_version_and_presets(folder: Path) -> None:
    lines = command(folder, "plugins").stdout.splitlines()
    assert lines[0].split() == ["plugin", "kind", "distribution", "version", "active", "in"]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert set(rows) == set(installed())
    assert rows["console"][1:4] == ["observer", "bigrun", bigrun.__version__]
    assert rows["gram-anchoring"][1] == "critical"
    assert "vit_giant" in " ".join(rows["gram-anchoring"][4:])


def test_presets_lists_every_preset_with_its_first_line(folder: Path) -> None:
    output = command(folder, "presets").stdout
    for name, file in shipped_presets().items():
        first = file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert any(line.startswith(name) and line.endswith(first) for line in output.splitlines())


def test_explain_shows_type_default_unit_and_value(folder: Path) -> None:
    output = command(folder, "explain", "optimizer.warmup_steps", "--preset", "vit_large").stdout
    for part in ("Linear warm-up", "type     int\n", "default  chosen by rule", "unit     optimizer steps"):
        assert part in output
    assert "vit_large  38 (by rule: 10 % of the run)" in output
    assert "plugins.gram-anchoring.weight" in command(folder, "explain", "plugins.gram-anchoring.weight").stdout
    assert "  depth (int; default 12): Number of blocks L." in command(folder, "explain", "model").stdout


def test_version_help_and_completion(folder: Path) -> None:
    assert command(folder, "--version").stdout == f"bigrun, version {bigrun.__version__}\n"
    helped = command(folder, "--help").stdout
    for name in ("run", "check", "plugins", "presets", "explain", "completion"):
        assert f"\n  {name}" in helped
    for shell in ("bash", "zsh", "fish"):
        assert "_BIGRUN_COMPLETE" in command(folder, "completion", shell).stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("bigrun run vit_", ["vit_giant", "vit_large", "vit_small", "vit_tiny"]),
        ("bigrun run quickstart --plugin gram", ["gram-anchoring"]),
    ],
)
def test_completion_knows_presets_and_plugins(folder: Path, words: str, expected: list[str]) -> None:
    environment = os.environ | {
        "_BIGRUN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1),
    }  # fmt: skip
    script = "import sys; sys.argv[0] = 'bigrun'; from bigrun.cli import main; main(prog_name='bigrun')"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert [line.split(",")[1] for line in done.stdout.splitlines()] == expected


TERMS = """
from bigrun import hookimpl


class Twice:
    @hookimpl
    def loss_terms(self, outputs):
        return {"dino_global": outputs.global_features.cls.sum() * 0}


class Vector:
    @hookimpl
    def loss_terms(self, outputs):
        return {"mine": outputs.global_features.cls}
"""


@pytest.mark.parametrize(
    ("plugin", "code", "message"),
    [
        ("Twice", 2, "error: the loss term 'dino_global' comes twice"),
        ("Vector", 1, "error: my_terms:Vector failed in loss_terms at step 1: TypeError: expected a mapping of names"),
    ],
)
def test_a_wrong_loss_term_is_one_message(folder: Path, plugin: str, code: int, message: str) -> None:
    (folder / "my_terms.py").write_text(TERMS, encoding="utf-8")
    done = command(folder, "run", "tiny.toml", "--plugin", f"my_terms:{plugin}")
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
