"""What may not be read is named in one message, with exit code 2, and nobody takes it for what is not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from disks import file_size_limit, small_disk, unreadable
from stories import Story
from typed import Typed

from bigrun.cli import main
from bigrun.directory import replace_file
from bigrun.errors import RunDirectoryError, UsageError
from bigrun.record.record import RunRecord
from bigrun.record.verdict import verdict

STEP = Path("checkpoints") / "step-00000003"
MENDED = "make it readable for the user of this command"


def bigrun(words: str) -> Result:
    return CliRunner().invoke(main, words.split())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run with a checkpoint, `runs/mine`."""
    monkeypatch.chdir(tmp_path)
    Story(Path("runs/mine"), max_steps=20).rows(10, 20).event("finished", "finished at step 20", 20)
    for folder in (Path("runs/mine") / STEP, Path("runs/mine/emergency/step-00000002")):
        folder.mkdir(parents=True)
        (folder / "MANIFEST.json").write_text("{}")
        (folder / "config.toml").write_text("")
    return Path("runs/mine")


# -- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "eval RUN",
        "eval RUN/checkpoints/step-00000003",
        "checkpoints list RUN",
        "checkpoints verify RUN",
        "checkpoints verify RUN 3",
        "checkpoints diff RUN 3 3",
        "checkpoints diff RUN/checkpoints/step-00000003 RUN/checkpoints/step-00000003",
        "checkpoints prune RUN --keep-last 2 --dry-run",
        "checkpoints prune RUN --keep-last 2 --yes",
        "monitor RUN --plugin feature-health --out out",
        "export RUN --to safetensors --out out",
        "replay RUN --step 3",
    ],
)
@pytest.mark.parametrize("mode", [0o000, 0o444], ids=["closed", "may be listed"])
def test_a_folder_of_checkpoints_that_may_not_be_read_is_named(run: Path, words: str, mode: int) -> None:
    with unreadable(run / "checkpoints", mode):
        done = bigrun(words.replace("RUN", str(run)))
    assert done.exit_code == 2, done.output
    assert f"runs/mine/checkpoints: cannot be read (Permission denied): {MENDED}" in done.output
    assert not Path("out").exists()


@pytest.mark.parametrize("mode", [0o000, 0o444], ids=["closed", "may be listed"])
def test_a_run_says_which_of_its_folders_cannot_be_read(run: Path, mode: int) -> None:
    record = RunRecord(run)
    assert record.unreadable == ()
    with unreadable(run / "checkpoints", mode):
        record.refresh()
        assert record.unreadable == ("checkpoints/ cannot be read (Permission denied)",)
        assert [entry.label for entry in record.checkpoints()] == ["emergency/step-00000002"]
        told = record.unreadable[0]
        assert verdict(record, []).headline == f"look at this: {told}; finished at step 20, loss 8"
        assert f"- {told}: {MENDED}" in bigrun(f"report {run} --format md").output
        watched = bigrun(f"watch {run}").output.splitlines()
        assert watched[watched.index("checkpoints (1)") + 1] == told
        assert "none yet" not in watched[watched.index("checkpoints (1)") :]
    with unreadable(run / "emergency", 0o444):
        record.refresh()
        assert record.unreadable == ("emergency/ cannot be read (Permission denied)",)
        assert [entry.label for entry in record.checkpoints()] == ["step-00000003"]


def test_nobody_knows_whether_a_run_has_begun_whose_checkpoints_are_closed(run: Path) -> None:
    (other := Story(Path("runs/new")).directory / "checkpoints").mkdir()
    with unreadable(other):
        said, closed = verdict(RunRecord(other.parent), []), "checkpoints/ cannot be read (Permission denied)"
    assert said.headline == f"stopped: nobody knows whether it has begun; {closed}"
    assert said.reasons[1].advice == (MENDED,)


def test_checkpoints_that_are_closed_now_were_not_so_before_a_run_died(run: Path) -> None:
    (other := Story(Path("runs/died")).started().directory / "checkpoints").mkdir()
    with unreadable(other):
        said = verdict(RunRecord(other.parent), []).headline
    assert said.startswith("stopped: it died at step 0")
    assert said.endswith("; checkpoints/ cannot be read (Permission denied)")
    assert "before that" not in said


def test_a_checkpoint_to_begin_at_that_may_not_be_read_is_named(typed: Typed) -> None:
    (source := Path("runs/mine") / STEP).mkdir(parents=True)
    with unreadable(Path("runs/mine/checkpoints")):
        done = typed.train("--from", str(source), "--run-dir", "runs/branch")
    assert done.code == 2
    assert f"runs/mine/checkpoints: cannot be read (Permission denied): {MENDED}" in done.said
    assert not Path("runs/branch").exists()


def test_no_checkpoint_and_none_that_may_be_read_are_two_things(run: Path) -> None:
    none = Story(Path("runs/new")).started().directory
    assert "There is no checkpoint yet" in bigrun(f"report {none} --format md").output
    (none / "checkpoints").mkdir()
    with unreadable(none / "checkpoints"):
        said = bigrun(f"report {none} --format md").output
    assert "There is no checkpoint yet" not in said
    assert "checkpoints/ cannot be read (Permission denied)" in said


@pytest.mark.parametrize("command", ["report", "watch", "compare runs/mine", "replay"])
def test_a_run_that_may_not_be_entered_is_named(run: Path, command: str) -> None:
    other = Story(Path("runs/other")).directory
    with unreadable(other, 0o444):
        done = bigrun(f"{command} {other}")
    assert done.exit_code == 2
    assert f"runs/other: cannot be read (Permission denied): {MENDED}" in done.output


# -- bigrun runs --------------------------------------------------------------------------------------------------


def test_a_folder_beside_runs_is_one_row_and_the_others_are_listed(run: Path) -> None:
    Path("runs/closed").mkdir()
    Story(Path("runs/more/last"))
    with unreadable(Path("runs/closed")):
        done = bigrun("runs")
        rows = json.loads(bigrun("runs --json").stdout)
    assert done.exit_code == 0
    assert [(row["run"], row["status"]) for row in rows] == [
        ("runs/closed", "unreadable"), ("runs/mine", "finished"), ("runs/more/last", "not begun")
    ]  # fmt: skip
    assert rows[0]["verdict"] == f"runs/closed: cannot be read (Permission denied): {MENDED}"
    assert [line.split()[0] for line in done.output.splitlines()[1:]] == [row["run"] for row in rows]


def test_a_folder_that_is_called_a_run_by_its_names_is_one(run: Path) -> None:
    """It may be listed and not entered; nothing beside it is a run."""
    other = Story(Path("far/away")).directory
    with unreadable(other, 0o444):
        done = bigrun("runs far")
    assert [line.split()[:2] for line in done.output.splitlines()[1:]] == [["far/away", "unreadable"]]


def test_folders_that_no_run_is_known_of_are_counted_at_the_end(run: Path) -> None:
    for number in range(5):
        Path(f"far/{number}").mkdir(parents=True)
    with unreadable(Path("far/0")), unreadable(Path("far/1"), 0o111):
        done = bigrun("runs far")
        as_json = bigrun("runs far --json")
        below = bigrun("runs .").output.splitlines()
    assert done.exit_code == 0
    note = "2 folders could not be searched for runs: far/0 (Permission denied), far/1 (Permission denied)"
    assert done.output.splitlines() == ["no runs below far", note]
    assert (json.loads(as_json.stdout), as_json.stderr) == ([], note + "\n")
    assert [line.split()[0] for line in below[1:-1]] == ["runs/mine"]
    assert below[-1] == note
    with unreadable(Path("far/0")):
        itself = bigrun("runs far/0")
    assert itself.exit_code == 2
    assert "far/0: cannot be searched for runs (Permission denied)" in itself.output


# -- what is no run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["report", "watch", "compare runs/mine", "report runs/mine --compare", "replay"])
def test_a_checkpoint_and_what_was_measured_of_one_are_no_runs(run: Path, command: str) -> None:
    """They have a configuration all the same."""
    done = bigrun(f"{command} {run / STEP}")
    assert done.exit_code == 2
    wanted = f"{run / STEP}: is a checkpoint of the run runs/mine: give runs/mine (or `bigrun monitor {run / STEP}`)"
    assert wanted in done.output
    visit = Path("visit")
    visit.mkdir()
    (visit / "config.toml").write_text("")
    (visit / "monitor.json").write_text(json.dumps({"checkpoint": str((run / STEP).absolute())}))
    done = bigrun(f"{command} visit")
    assert done.exit_code == 2
    home = run.absolute()
    assert f"visit: is what `bigrun monitor` wrote of {home / STEP}: give the run, {home}" in done.output
    assert not list(Path().glob("report-*"))


def test_a_checkpoint_without_its_run_and_a_visit_that_is_damaged(run: Path) -> None:
    (run / STEP).rename("moved")
    assert "moved: is a checkpoint, and no run; `bigrun monitor moved` looks at it" in bigrun("watch moved").output
    Path("moved/MANIFEST.json").rename("moved/monitor.json")
    for text in ("{", "[]", '{"checkpoint": 3}', '{"checkpoint": "/gone/checkpoints/step-00000001"}'):
        Path("moved/monitor.json").write_text(text)
        done = bigrun("watch moved")
        assert done.exit_code == 2
        assert "moved: is what `bigrun monitor` wrote of " in done.output
        assert "give the run that it is of" in done.output


def test_a_checkpoint_is_not_named_as_the_run_that_was_meant(run: Path) -> None:
    done = bigrun(f"report {run / 'checkpoints' / 'step-00000004'}")
    assert "no run (there is no config.toml); expected" in done.output


# -- what cannot be written ---------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        with pytest.raises(RunDirectoryError) as full:
            replace_file(disk / "sample-2.png", bytes(2 << 20))
        assert str(full.value) == (
            f"{disk / 'sample-2.png'}: cannot be written (No space left on device): make room on its disk"
        )
        page = Story(tmp_path / "run").directory
        (disk / "rest").write_bytes(bytes((1 << 20) - 8192))
        done = CliRunner().invoke(main, ["report", str(page), "--out", str(disk / "page.html")])
        assert done.exit_code == 2
        assert f"{disk / 'page.html'}: cannot be written (No space left on device): make room on its" in done.output
        assert "choose another" not in done.output
        assert sorted(os.listdir(disk)) == ["rest"]  # noqa: PTH208


def test_other_reasons_have_other_advice(tmp_path: Path) -> None:
    with file_size_limit(100), pytest.raises(RunDirectoryError, match=r"a\.json: .*too large\): raise the limit"):
        replace_file(tmp_path / "a.json", bytes(200))
    folder = tmp_path / "folder"
    folder.mkdir()
    with unreadable(folder, 0o555), pytest.raises(RunDirectoryError, match=r"a\.json: .*denied\): let the user"):
        replace_file(folder / "a.json", b"")
    with pytest.raises(RunDirectoryError, match=r"a\.json: cannot be written \(No such file or directory\)$"):
        replace_file(tmp_path / "none" / "a.json", b"")


# -- images -------------------------------------------------------------------------------------------------------


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """`tiny.toml` with ten images, five of them in `images/a`."""
    typed = Typed(tmp_path, monkeypatch)
    Path("images/a").mkdir()
    for number in range(5):
        Path(f"images/{number}.png").rename(f"images/a/{number}.png")
    return typed


COMMANDS = ["data check images", "data index images", "data pack images packed", "check tiny.toml", "run tiny.toml"]
ACCEPTED = ["--set", 'data.accept_findings=["unsearched-folders"]']


@pytest.mark.parametrize("words", [*COMMANDS, "data split images --fraction 0.2 --out split.json"])
def test_a_folder_of_images_that_cannot_be_searched_is_refused(typed: Typed, words: str) -> None:
    """It was one bad file, which a run may always have: half the images were trained on without a word."""
    with unreadable(Path("images/a")):
        done = typed.type(*words.split())
    assert done.code == 2, done.said
    assert "unsearched-folders: " in done.said
    assert "images/a (cannot be read (Permission denied)): how many images are in there is not known" in done.said
    assert "move it out of the data set" in done.said
    assert 'data.accept_findings = ["unsearched-folders"]' in done.said
    assert not typed.run.exists()


def test_one_that_is_accepted_by_name_is_a_finding(typed: Typed) -> None:
    with unreadable(Path("images/a")):
        checked = typed.type("data", "check", "images", *ACCEPTED)
        trained = typed.train(*ACCEPTED)
    assert checked.code == 0, checked.said
    assert "5 images checked" in checked.said
    assert "note      unsearched-folders: " in checked.said
    assert "bad-images" not in checked.said
    assert trained.code == 0, trained.said
    assert "data         unsearched-folders: " in trained.said
    assert "cannot be used" not in trained.said


def test_an_index_does_not_hide_it(typed: Typed) -> None:
    with unreadable(Path("images/a")):
        assert typed.type("data", "index", "images", *ACCEPTED).code == 0
        done = typed.train()
        assert done.code == 2
        assert "unsearched-folders: " in done.said
    later = typed.train()
    assert later.code == 2
    assert "the index is out of date" in later.said  # it knows nothing of the five


@pytest.mark.parametrize("words", COMMANDS)
def test_a_data_set_that_may_not_be_entered_is_named(typed: Typed, words: str) -> None:
    for mode in (0o000, 0o444):
        with unreadable(Path("images"), mode):
            done = typed.type(*words.split())
        assert done.code == 2, done.said
        assert f"images: cannot be read (Permission denied): {MENDED}" in done.said


def test_all_that_is_closed_leaves_no_images(typed: Typed) -> None:
    for path in Path("images").glob("*.png"):
        path.unlink()
    with unreadable(Path("images/a")):
        done = typed.train()
    assert done.code == 2
    assert "no images among 1 files" in done.said
    assert "images/a: cannot be read (Permission denied)" in done.said


def test_a_refusal_is_one_message_for_whoever_calls(run: Path) -> None:
    from bigrun.checkpoint.listing import look

    with unreadable(run / "checkpoints"), pytest.raises(UsageError, match="checkpoints: cannot be read"):
        look(run)
