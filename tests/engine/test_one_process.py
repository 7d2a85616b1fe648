"""Commands that are for one process, given to each of several: by torchrun, or by a cluster that sets its variables."""

from __future__ import annotations

from pathlib import Path

import pytest
import warm
from training import Training

from bigrun.errors import ExitCode


@pytest.mark.parametrize(
    "words",
    [["drill", "tiny.toml", "--small-only"], ["tune", "tiny.toml"], ["replay", "runs/tiny"], ["launch", "tiny.toml"]],
    ids=lambda words: words[0],
)
def test_one_that_trains_is_refused(tmp_path: Path, words: list[str]) -> None:
    Training(tmp_path)
    for done in warm.together(tmp_path, 2, *words):
        assert (done.returncode, done.stdout) == (ExitCode.USAGE, ""), done.stderr
        assert done.stderr == f"error: bigrun {words[0]} is for one process; this is one of 2 (WORLD_SIZE)\n"
    assert {path.name for path in tmp_path.iterdir()} == {"images", "tiny.toml"}


@pytest.mark.parametrize("words", [["run", "tiny.toml"], ["launch", "tiny.toml"]], ids=lambda words: words[0])
def test_one_of_unknown_many_does_not_train_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    Training(tmp_path)
    monkeypatch.setenv("RANK", "1")
    done = warm.bigrun(tmp_path, *words)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, ""), done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: RANK=1: this is one of the processes of a run, but WORLD_SIZE")
    assert {path.name for path in tmp_path.iterdir()} == {"images", "tiny.toml"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a run of six steps."""
    folder = tmp_path_factory.mktemp("run")
    done = Training(folder)()
    assert done.returncode == ExitCode.FINISHED, done.stderr
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "runs/tiny", "--probe", "retrieval"],
        ["monitor", "runs/tiny", "--plugin", "attention-maps"],
        ["export", "runs/tiny", "--to", "safetensors"],
        ["plan", "tiny.toml"],
        pytest.param(["check", "tiny.toml"], marks=pytest.mark.slow),
        pytest.param(["checkpoints", "list", "runs/tiny"], marks=pytest.mark.slow),
        pytest.param(["data", "check", "tiny.toml"], marks=pytest.mark.slow),
        pytest.param(["report", "runs/tiny"], marks=pytest.mark.slow),
        pytest.param(["watch", "runs/tiny", "--once"], marks=pytest.mark.slow),
        pytest.param(["runs", "runs"], marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
def test_one_that_reads_is_alone(folder: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}.items():
        monkeypatch.setenv(name, value)
    done = warm.bigrun(folder, *words)
    assert (done.returncode, done.stderr.count("error")) == (0, 0), done.stderr + done.stdout
