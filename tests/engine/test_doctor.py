"""`bigrun doctor`, as a user types it; and that no check ends the others."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from disks import fill, small_disk

from bigrun.cli import main
from bigrun.devices import torch_build
from bigrun.doctor.check import Check, rows_of
from bigrun.doctor.checks import CHECKS
from bigrun.doctor.examine import examine
from bigrun.doctor.report import lines
from bigrun.doctor.row import Row, judged, worst
from bigrun.doctor.subject import Subject
from bigrun.version import __version__

OTHER = "cuda" if torch_build().backend == "rocm" else "rocm"
"""What this torch is not built for."""


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", "--quick", *arguments])


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["verdict"] for row in document["rows"]}


# -- the command ------------------------------------------------------------------------------------------------


def test_a_machine_that_can_train(tmp_path: Path) -> None:
    """Whatever this machine lacks costs speed at most; nothing is left on its disk."""
    done = doctor("--json", "--device", "cpu", "--run-dir", str(tmp_path / "runs"))
    assert done.exit_code == 0, done.output
    document = json.loads(done.output)
    assert list(document) == ["bigrun", "run_dir", "device", "quick", "verdict", "seconds", "rows"]
    assert (document["bigrun"], document["device"], document["quick"]) == (__version__, "cpu", True)
    assert document["verdict"] in ("ok", "warn")
    for row in document["rows"]:
        assert list(row) == ["name", "verdict", "found", "expected", "remedy", "facts"]
        assert row["verdict"] in ("ok", "info", "warn")
        assert row["found"]
        assert (row["remedy"] is not None) == (row["verdict"] == "warn")
    found = verdicts(document)
    for name in ("Python", "torch", "dependencies", "can be written", "checkpoint", "run lock", "fp32 products",
                 "bf16 products ViT-L", "attention of a run ViT-S", "attention math ViT-L"):  # fmt: skip
        assert found[name] == "ok"
    assert {"memory", "usable processors", "file system", "free space", "disk writing", "disk sync"} <= set(found)
    assert "bf16 speed" not in found
    assert list(tmp_path.iterdir()) == []


def test_what_failed_is_said_with_what_to_do_and_the_rest_is_examined(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        fill(disk, leave_bytes=1 << 18)  # room for a directory, not for what is saved there
        done = doctor("--device", OTHER, "--run-dir", str(disk / "runs" / "mine"))
    assert done.exit_code == 1
    said = done.output.splitlines()
    at = next(i for i, line in enumerate(said) if line.startswith("fail  device "))
    assert "is built for" in said[at]
    assert said[at + 1].strip().startswith("-> install another (pip install --force-reinstall torch --index-url")
    assert any(line.startswith("warn  file system") and "tmpfs" in line for line in said)
    at = next(i for i, line in enumerate(said) if line.startswith("fail  saving"))
    assert "No space left on device" in said[at]
    assert "make room on the disk" in said[at + 1]
    assert any(line.startswith("info  matrix products") and "no device" in line for line in said)
    assert said[-1].startswith("fail  all")
    assert "extra ct" in done.output


@pytest.mark.parametrize("arguments", [["--device", "tpu"], ["--run-dir", "file"], ["--run-dir", "file/runs"], ["x"]])
def test_what_cannot_be_examined_is_a_usage_error(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    done = doctor(*arguments)
    assert done.exit_code == 2
    assert "Error: " in done.output


# -- checks -----------------------------------------------------------------------------------------------------


CHECKED = """
import os, signal, time
from bigrun.doctor.row import Row

def good(subject):
    print("what a library prints is no row")
    yield Row("good", "ok", str(subject.run_dir))

def raises(subject):
    yield Row("before", "ok", "seen")
    raise KeyError("libamd_smi.so")

def crashes(subject):
    yield Row("before", "ok", "seen")
    os.write(2, b"Memory access fault by GPU node-1\\n")
    os.kill(os.getpid(), signal.SIGABRT)

def hangs(subject):
    yield Row("before", "ok", "seen")
    time.sleep(60)
"""


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module `checked`, which other processes find, too."""
    (tmp_path / "checked.py").write_text(CHECKED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "checked", raising=False)
    return tmp_path


def check(name: str, **options: Any) -> Check:
    return Check(name, f"checked:{name}", **options)


def test_a_check_that_raises_crashes_or_hangs_fails_alone(checked: Path) -> None:
    checks = [check("raises"), check("crashes"), check("hangs", limit_seconds=3.0), check("good")]
    rows = list(examine(Subject(checked), checks))
    assert [(row.name, row.verdict) for row in rows] == [
        ("before", "ok"),
        ("raises", "fail"),
        ("before", "ok"),
        ("crashes", "fail"),
        ("before", "ok"),
        ("hangs", "fail"),
        ("good", "ok"),
    ]
    assert rows[1].found == "KeyError: 'libamd_smi.so'"
    assert rows[3].found.endswith("killed by SIGABRT: Memory access fault by GPU node-1")
    assert rows[5].found == "no answer after 3 s"
    assert rows[6].found == str(checked)
    assert all(row.remedy for row in rows if row.verdict == "fail")


def test_a_check_without_what_it_needs_is_left_out(checked: Path) -> None:
    subject = Subject(Path("/proc/runs"), wish=OTHER)
    for need in ("device", "disk"):
        (row,) = rows_of(check("raises", needs=need), subject)
        assert (row.verdict, row.found) == ("info", f"left out: there is no {need} to examine")
    assert len(list(rows_of(check("raises"), subject))) == 2


def test_every_check_is_there_and_quick_leaves_out_speed() -> None:
    assert all(callable(each.function()) for each in CHECKS)
    assert [each.name for each in CHECKS if not each.in_quick] == ["computing speed", "memory speed"]
    assert len({each.name for each in CHECKS}) == len(CHECKS)


# -- rows -------------------------------------------------------------------------------------------------------


def test_a_warning_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="driver: warn without a remedy"):
        Row("driver", "warn", "old")
    assert judged("driver", True, "580", "580", "install it").remedy is None
    bad = judged("driver", False, "550", "580", "install it", otherwise="fail")
    assert (bad.verdict, bad.remedy) == ("fail", "install it")
    text = list(lines(bad))
    assert [line.split() for line in text] == [
        ["fail", "driver", "550", "(expected", "580)"],
        ["->", "install", "it"],
    ]


def test_the_worst_verdict_counts_and_facts_are_none() -> None:
    rows = {verdict: Row(verdict, verdict, "x", remedy="y") for verdict in ("info", "ok", "warn", "fail")}
    assert worst([]) == worst([rows["info"]]) == worst([rows["info"], rows["ok"]]) == "ok"
    assert worst([rows["ok"], rows["warn"], rows["info"]]) == "warn"
    assert worst([rows["fail"], rows["warn"]]) == "fail"
