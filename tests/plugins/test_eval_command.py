"""`bigrun eval`: what a checkpoint's features know, read-only, with an exit code for scripts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from probe_images import TOML, write_masks, write_photos

from bigrun.checkpoint.disk import hash_file
from bigrun.checkpoint.store import CheckpointStore
from bigrun.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with probes, on photographs in three folders, and their masks."""
    home = tmp_path_factory.mktemp("eval")
    write_photos(home / "photos")
    write_masks(home / "masks")
    preset = TOML.format(path=home / "photos", steps=4, log=1, save=2, lr=0.02)
    (home / "tiny.toml").write_text(preset + '[plugins.probes]\nlabels = "folder"\n[plugins.metrics-log]\n')
    result = CliRunner().invoke(main, ["run", str(home / "tiny.toml"), "--run-dir", str(home / "run")])
    assert result.exit_code == 0, result.output
    return home


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def as_json(*arguments: object) -> dict[str, Any]:
    result = evaluate(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of everything."""
    files = {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    folders = {str(path): (b"", path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")] if path.is_dir()}
    return files | folders


def step(made: Path, number: int) -> Path:
    return CheckpointStore(made / "run" / "checkpoints").path(number)


# -- what it says ---------------------------------------------------------------------------------------------


def test_the_values_are_those_of_the_run_and_nothing_is_written(made: Path) -> None:
    before = contents(made)
    found = as_json(step(made, 2))
    assert contents(made) == before
    rows = [json.loads(line) for line in (made / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = {name: value for name, value in rows[1].items() if name.startswith("probe/")}
    assert {name: row["value"] for name, row in found["values"].items()} == logged
    state = json.loads((step(made, 4) / "state.json").read_text())["plugins"]["probes"]["state"]
    for name, row in found["values"].items():
        assert row["before_step_1"] == state["baselines"]["begin"][name]
        assert row["chance"] == state["baselines"]["chance"][name]
    assert found["values"]["probe/knn_accuracy"]["asked"] == 6
    assert found["values"]["probe/retrieval_top1"]["asked"] == 24


def test_it_says_exactly_which_checkpoint(made: Path) -> None:
    newest = as_json(made / "run", "--probe", "retrieval")
    assert newest["step"] == 4
    assert newest["checkpoint"] == str(step(made, 4))
    assert newest["manifest_sha256"] == hash_file(step(made, 4) / "MANIFEST.json")
    text = evaluate(step(made, 2), "--probe", "retrieval").output
    assert f"step 2, saved {as_json(step(made, 2))['created_utc']}, manifest sha256" in text
    assert "view retrieval, first" in text
    assert "k-NN" not in text


def test_other_images_labels_and_masks_and_the_student(made: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "other", classes=2, each=4)
    other = as_json(made / "run", "--path", tmp_path / "other", "--labels", "folder", "--k", 1)
    assert other["set"]["summary"].startswith("knn, linear, retrieval: 8 images")
    assert "before_step_1" not in other["values"]["probe/knn_accuracy"], "that is known of other images only"
    assert other["values"]["probe/knn_accuracy"]["raw_pixels"] == 1.0
    dense = as_json(made / "run", "--masks", made / "masks", "--probe", "dense")
    assert dense["values"].keys() == {"probe/dense_miou", "probe/dense_pixel_accuracy"}
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"class0/{i}.png,{i % 2}\n" for i in range(8)))
    table = as_json(
        made / "run", "--labels-file", tmp_path / "labels.csv", "--set", "plugins.probes.leave_one_out=true"
    )
    assert table["values"]["probe/knn_accuracy"]["asked"] == 8
    teacher, student = (as_json(step(made, 2), "--probe", "retrieval", *more) for more in ([], ["--student"]))
    assert (teacher["network"], student["network"]) == ("teacher", "student")
    assert teacher["values"] != student["values"]


def test_a_run_without_probes_is_asked_what_needs_no_labels(made: Path, tmp_path: Path) -> None:
    preset = (made / "tiny.toml").read_text().partition("[plugins")[0].replace("max_steps = 4", "max_steps = 1")
    (tmp_path / "plain.toml").write_text(preset)
    assert (
        CliRunner().invoke(main, ["run", str(tmp_path / "plain.toml"), "--run-dir", str(tmp_path / "run")]).exit_code
        == 0
    )
    found = as_json(tmp_path / "run", "--images", 10)
    assert found["values"].keys() == {f"probe/retrieval_{name}" for name in ("top1", "top5", "ratio_to_chance")}
    assert found["values"]["probe/retrieval_top1"]["chance"] == 0.1


def test_the_answer_goes_to_a_file_that_is_not_the_runs(made: Path, tmp_path: Path) -> None:
    found = as_json(made / "run", "--probe", "retrieval", "--out", tmp_path / "answer.json")
    assert json.loads((tmp_path / "answer.json").read_text()) == found
    before = contents(made)
    result = evaluate(made / "run", "--probe", "retrieval", "--out", made / "run" / "answer.json")
    assert result.exit_code == 2
    assert "is inside the run directory" in result.output
    assert contents(made) == before


# -- exit codes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--min", "retrieval=0.0"], 0, "met          probe/retrieval_top1"),
        (["--min", "retrieval_top5=0.0", "--min", "probe/retrieval_top1=1.01"], 1, "not met      probe/retrieval_top1"),
        (["--min", "knn=0.5"], 2, "probe/knn_accuracy was not measured"),
        (["--min", "retreival=0.5"], 2, "did you mean 'retrieval'"),
        (["--min", "retrieval"], 2, "expected NAME=NUMBER"),
        (["--min", "retrieval=nan"], 2, "expected NAME=NUMBER"),
        (["--images", "1"], 2, "--images: expected 2 to 100000, got 1"),
        (["--labels-file", "nowhere.csv"], 2, "nowhere.csv"),
        (["--probe", "dense"], 2, "dense needs masks"),
        (["--path", "nowhere"], 2, "no such folder"),
        (["--no-plugin", "nothing"], 2, "it is not active"),
        (["--plugin", "attention-map"], 2, "attention-map: is not installed here - did you mean 'attention-maps'"),
    ],
)  # fmt: skip
def test_the_exit_code_tells_too_small_from_unknown(made: Path, arguments: list[str], code: int, said: str) -> None:
    asked = [] if {"--probe", "--labels-file"} & set(arguments) else ["--probe", "retrieval"]
    result = evaluate(made / "run", *asked, *arguments)
    assert result.exit_code == code, result.output
    assert said in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("harm", ["damage", "empty", "missing"])
def test_what_is_no_checkpoint_is_refused_with_2(made: Path, tmp_path: Path, harm: str) -> None:
    place = tmp_path / "checkpoint"
    if harm == "damage":
        shutil.copytree(step(made, 4), place)
        data = bytearray((place / "teacher.safetensors").read_bytes())
        data[-1] ^= 1
        (place / "teacher.safetensors").write_bytes(data)
    elif harm == "empty":
        place.mkdir()
    result = evaluate(place)
    assert result.exit_code == 2, result.output
    assert str(place) in result.output
    assert "Traceback" not in result.output


def test_an_option_of_the_command_is_called_by_its_name(made: Path) -> None:
    """And not after the checkpoint's configuration, in which another value stands."""
    result = evaluate(step(made, 4), "--k", 0, "--images", 1)
    assert result.exit_code == 2
    said = result.stderr.removeprefix("error: ").splitlines()
    assert sorted(said) == ["--images: expected 2 to 100000, got 1", "--k: expected at least 1, got 0"]
    both = evaluate(step(made, 4), "--k", 0, "--set", "plugins.probes.temperature=-1").stderr.splitlines()
    assert both[0] == "error: --k: expected at least 1, got 0"
    assert both[1].endswith("config.toml: 1 problem")
    assert both[2].startswith("  plugins.probes.temperature: ")
    given = evaluate(step(made, 4), "--set", "plugins.probes.k=0").stderr
    assert "plugins.probes.k: expected at least 1, got 0" in given
    assert "--k" not in given


# -- a run that goes on ---------------------------------------------------------------------------------------


def test_a_run_that_is_still_writing_is_asked_about_its_newest_whole_checkpoint(made: Path, tmp_path: Path) -> None:
    """A save that has begun, and a newer checkpoint that is damaged."""
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    store = CheckpointStore(run / "checkpoints")
    shutil.copytree(store.path(4), run / "checkpoints" / ".tmp-step-00000006")
    (store.path(4) / "student.safetensors").write_bytes(b"half")
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')
    before = contents(run)
    result = evaluate(run, "--probe", "retrieval", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["step"] == 2
    assert "step-00000004 is damaged and was passed over" in result.stderr
    assert contents(run) == before


def test_a_checkpoint_that_its_run_removes_meanwhile_gives_way_to_the_next(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    from bigrun.evaluation import newest as module

    found = module.find_checkpoint

    def and_gone(path: Path, say: Any) -> Path:
        checkpoint: Path = found(path, say)
        if checkpoint.name == "step-00000004":
            shutil.rmtree(checkpoint)
        return checkpoint

    monkeypatch.setattr(module, "find_checkpoint", and_gone)
    result = evaluate(run, "--probe", "retrieval", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["step"] == 2
    assert "its run has removed it meanwhile" in result.stderr


@pytest.mark.slow
def test_while_the_run_goes_on_nothing_of_it_changes(made: Path, tmp_path: Path) -> None:
    """Two evaluations beside a real process that trains: it ends as it would have."""
    import subprocess
    import sys
    import time

    preset = (made / "tiny.toml").read_text().replace("max_steps = 4", "max_steps = 60")
    (tmp_path / "long.toml").write_text(preset + "[plugins.checkpoint-rotation]\nkeep_last = 2\n")
    command = [sys.executable, "-m", "bigrun", "run", "long.toml", "--run-dir"]
    alone = subprocess.run([*command, "alone"], cwd=tmp_path, capture_output=True, check=True)
    process = subprocess.Popen([*command, "run"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not CheckpointStore(tmp_path / "run" / "checkpoints").steps():
            time.sleep(0.05)
        while process.poll() is None:
            assert evaluate(tmp_path / "run", "--probe", "retrieval").exit_code == 0
    finally:
        process.kill() if process.poll() is None else None
        process.wait()
    assert process.returncode == 0
    assert alone.returncode == 0
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "run")
    ]
    assert losses[0] == losses[1]
