"""provenance.json: what a run was trained on, by which code and where, start by start, and in every checkpoint."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typed import Typed

import bigrun
from bigrun.checkpoint.difference import compare
from bigrun.checkpoint.facts import load_facts
from bigrun.data.fingerprint import fingerprint
from bigrun.data.folder import ImageFolder
from bigrun.data.split import Split
from bigrun.provenance.packages import describe_plugins, edited_folders, versions_of
from bigrun.provenance.repository import repository


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@y", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return Typed(tmp_path, monkeypatch, run={"max_steps": 2})


def starts(typed: Typed) -> list[dict[str, Any]]:
    document = json.loads((typed.run / "provenance.json").read_text(encoding="utf-8"))
    assert document["format_version"] == 1
    found: list[dict[str, Any]] = document["starts"]
    return found


def test_each_start_is_added_and_each_checkpoint_has_its_own(typed: Typed) -> None:
    assert typed.train("--set", "run.max_steps=1").code == 0
    assert typed.train().code == 0
    first, second = starts(typed)
    assert (first["step"], first["resumed_from"]) == (0, None)
    assert (second["step"], second["resumed_from"]) == (1, "runs/tiny/checkpoints/step-00000001")
    assert load_facts(typed.checkpoint(1), "provenance") == first
    assert load_facts(typed.checkpoint(2), "provenance") == second
    assert typed.train().code == 0  # nothing is left to do: no start
    assert len(starts(typed)) == 2


def test_a_start_says_with_what_it_was_made(typed: Typed) -> None:
    assert typed.train().code == 0
    (start,) = starts(typed)
    assert start["packages"]["bigrun"] == bigrun.__version__
    assert start["packages"]["torch"] == importlib.metadata.version("torch")
    assert start["hardware"]["facts"]["torch"]["version"] == torch.__version__  # with the build: +cu130
    assert {"numpy", "pillow", "safetensors"} <= start["packages"].keys()
    assert start["plugins"]["console"] == {"distribution": "bigrun", "version": bigrun.__version__}
    assert start["python"] == ".".join(map(str, sys.version_info[:3]))
    assert start["command"] == sys.orig_argv
    assert start["working_directory"] == str(typed.folder)
    assert start["preset"] == "tiny.toml"
    assert start["time_utc"].endswith("+00:00")
    assert start["hardware"]["device"].startswith("CPU")
    host = start["hardware"]["facts"]["host"]
    assert host["ram_total_bytes"] > host["ram_free_bytes"] > 2**28
    assert host["cpu"]["cores"] >= host["cpu"]["usable_cores"] >= 1
    assert start["settings"] == []
    assert start["split"] is None
    assert set(start) == {
        "time_utc", "step", "resumed_from", "preset", "working_directory", "data", "split", "repositories", "packages",
        "plugins", "python", "hardware", "settings", "command",
    }  # fmt: skip


def test_a_start_says_on_what_it_was_trained(typed: Typed) -> None:
    """All of the data set, also with a split; by contents once there is an index."""
    assert typed.type("data", "split", "images", "--fraction", "0.3").code == 0
    split = ("--set", "data.split=split.json")
    assert typed.train(*split, "--set", "run.max_steps=1").code == 0
    assert typed.type("data", "index", "images").code == 0
    assert typed.train(*split).code == 0
    first, second = starts(typed)
    assert first["data"]["kind"] == "paths-and-sizes"
    assert second["data"] == {
        "kind": "content", "sha256": ImageFolder.search("images").files.content_hash, "files": 10,
    }  # fmt: skip
    assert first["split"]["sha256"] == Split.load("split.json").sha256
    assert not typed.events("data-changed")  # two kinds of hashes cannot be compared


def test_other_images_in_their_places_are_said(typed: Typed) -> None:
    assert typed.train("--set", "run.max_steps=1").code == 0
    Image.new("RGB", (41, 51), "red").save("images/3.png")
    done = typed.train()
    assert done.code == 0, done.said
    (event,) = typed.events("data-changed")
    first, second = starts(typed)
    assert event["facts"] == {"before": first["data"]["sha256"], "now": second["data"]["sha256"]}
    assert "files of the data set have other names or sizes" in event["message"]


def test_a_checkpoint_is_the_same_whoever_made_it(typed: Typed) -> None:
    """Times and commands do not make two checkpoints differ; the difference is shown all the same."""
    assert typed.train().code == 0
    assert typed.train("--run-dir", "runs/again").code == 0
    again = typed.folder / "runs" / "again" / "checkpoints" / "step-00000002"
    provenance = json.loads((again / "provenance.json").read_text())
    provenance["python"] = "3.99"
    (again / "provenance.json").write_text(json.dumps(provenance))
    assert any("3.99" in line for line in compare(typed.checkpoint(2), again).facts["provenance.json"])
    assert compare(typed.checkpoint(2), again).is_equal


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format_version": 9, "starts": []}', '{"format_version": 1}', "[" * 10**5]
)
def test_a_list_that_cannot_be_read_is_kept_and_said(typed: Typed, text: str) -> None:
    assert typed.train("--set", "run.max_steps=1").code == 0
    (typed.run / "provenance.json").write_text(text)
    assert typed.train().code == 0
    assert (typed.run / "provenance.json.unreadable").read_text() == text
    assert len(starts(typed)) == 1
    assert len(typed.events("provenance-unreadable")) == 1


# -- git --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    (folder / "a.toml").write_text("a = 1\n")
    git(folder, "add", "a.toml")
    git(folder, "commit", "-q", "-m", "one")
    return folder


def test_a_repository_is_told_by_its_commit_and_whether_that_is_all(committed: Path) -> None:
    commit = git(committed, "rev-parse", "HEAD")
    clean = {"root": str(committed), "commit": commit, "branch": "trunk", "is_dirty": False, "remote": None}
    assert repository(committed) == clean
    (committed / "untracked").write_text("x")
    (committed / "below").mkdir()
    assert repository(committed / "below") == clean
    (committed / "a.toml").write_text("a = 2\n")
    assert repository(committed) == clean | {"is_dirty": True}
    git(committed, "add", "a.toml")
    assert repository(committed) == clean | {"is_dirty": True}
    git(committed, "checkout", "-q", "-f", "--detach")
    git(committed, "reset", "-q", "--hard")
    assert repository(committed) == clean | {"branch": None}


def test_what_is_no_repository_and_what_has_no_commit(tmp_path: Path) -> None:
    assert repository(tmp_path) is None
    missing = repository(tmp_path / "no such folder")
    assert missing is not None
    assert "cannot change to" in missing["problem"]
    git(tmp_path, "init", "-q")
    found = repository(tmp_path)
    assert found is not None
    assert (found["commit"], found["is_dirty"]) == (None, False)


def test_without_git_a_run_starts_all_the_same(
    committed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert repository(committed) == {"root": str(committed), "problem": "there is no git"}
    assert repository(tmp_path) is None
    typed = Typed(tmp_path, monkeypatch, run={"max_steps": 1})
    done = typed.train()
    assert done.code == 0, done.said
    assert all("problem" in entry for entry in starts(typed)[0]["repositories"])


def test_git_that_fails_or_hangs_stops_nothing(
    committed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    fake.write_text("#!/bin/sh\necho 'fatal: detected dubious ownership in repository' >&2\nexit 128\n")
    fake.chmod(0o755)
    found = repository(committed)
    assert found == {"root": str(committed), "problem": "fatal: detected dubious ownership in repository"}
    monkeypatch.setattr("bigrun.provenance.repository.SECONDS", 0.1)
    fake.write_text("#!/bin/sh\nexec sleep 5\n")
    found = repository(committed)
    assert found is not None
    assert "TimeoutExpired" in found["problem"]


def test_nothing_that_a_repository_names_is_started(committed: Path, tmp_path: Path) -> None:
    script = tmp_path / "monitor"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    script.chmod(0o755)
    git(committed, "config", "core.fsmonitor", str(script))
    assert repository(committed) is not None
    assert not (tmp_path / "started").exists()
    git(committed, "status")
    assert (tmp_path / "started").exists()  # git itself would have


@pytest.mark.parametrize("name", ["x", "a.b'$(d)", "Upper.Clean", os.fsdecode(b"\xe9"), "a=b"])
@pytest.mark.parametrize("kind", ["clean", "process"])
def test_no_filter_that_a_repository_names_is_started(committed: Path, tmp_path: Path, name: str, kind: str) -> None:
    """One that git has no way to switch off is not risked."""
    git(committed, "config", f"filter.{name}.required", "true")
    git(committed, "config", f"filter.{name}.{kind}", f"touch {tmp_path / 'started'}; exit 1")
    (committed / ".git" / "info" / "attributes").write_bytes(b"a.toml filter=" + os.fsencode(name) + b"\n")
    os.utime(committed / "a.toml", (1, 1))  # as large as before: only its contents would tell
    found = repository(committed)
    assert found is not None
    assert not (tmp_path / "started").exists()
    if "=" in name:
        assert "filters that cannot be switched off" in found["problem"]
    else:
        assert found["is_dirty"] is False
    subprocess.run(["git", "-C", str(committed), "status"], capture_output=True, check=False)
    assert (tmp_path / "started").exists()  # git itself would have


def test_nothing_is_fetched_for_a_partial_clone(committed: Path, tmp_path: Path) -> None:
    """What its configuration names would be started for it."""
    script = tmp_path / "upload-pack"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    script.chmod(0o755)
    tree = git(committed, "rev-parse", "HEAD^{tree}")
    (committed / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    options = {
        "core.repositoryFormatVersion": "1", "extensions.partialClone": "origin", "remote.origin.promisor": "true",
        "remote.origin.url": str(committed), "remote.origin.uploadpack": str(script),
    }  # fmt: skip
    for option, value in options.items():
        git(committed, "config", option, value)
    found = repository(committed)
    assert found is not None
    assert found["is_dirty"] is None
    assert not (tmp_path / "started").exists()
    subprocess.run(["git", "-C", str(committed), "status"], capture_output=True, check=False)
    assert (tmp_path / "started").exists()  # git itself would have


def test_variables_of_git_do_not_name_another_repository(
    committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    found = repository(committed)
    assert found is not None
    assert found["root"] == str(committed)


def test_the_repositories_of_preset_and_folder_are_in_a_start(typed: Typed, committed: Path) -> None:
    commit = git(committed, "rev-parse", "HEAD")
    text = Path("tiny.toml").read_text().replace('path = "images"', f'path = "{typed.folder}/images"')
    (committed / "mine.toml").write_text(text)
    assert typed.type("run", committed / "mine.toml", "--run-dir", "runs/tiny").code == 0
    (mine,) = [entry for entry in starts(typed)[0]["repositories"] if "preset" in entry["of"]]
    assert (mine["commit"], mine["root"]) == (commit, str(committed))


# -- packages ---------------------------------------------------------------------------------------------------------


def test_versions_of_packages_that_are_there() -> None:
    assert versions_of(["torch", "no-such-package"]) == {"torch": importlib.metadata.version("torch")}


def test_a_plugin_that_is_no_package_is_told_by_its_source(typed: Typed) -> None:
    Path("theirs.py").write_text("class Plugin:\n    pass\n")
    assert typed.train("--plugin", "theirs:Plugin").code == 0
    plugin = starts(typed)[0]["plugins"]["theirs:Plugin"]
    assert plugin["file"] == str(typed.folder / "theirs.py")
    expected = subprocess.run(["sha256sum", "theirs.py"], capture_output=True, text=True, check=True).stdout.split()[0]
    assert plugin["sha256"] == expected
    made = type("Made", (), {})
    made.__module__ = "__main__"
    assert set(describe_plugins({"x:Made": made()})["x:Made"]) == {"file", "sha256"}


def test_packages_that_are_edited_in_place_are_known_by_their_folder() -> None:
    assert edited_folders(["no-such-package", "torch"]) == {}


# -- fingerprints -----------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_names_and_sizes_until_there_is_an_index(typed: Typed) -> None:
    before = fingerprint(ImageFolder.search("images"))
    data = bytearray(Path("images/3.png").read_bytes())
    data[-1] ^= 1
    Path("images/3.png").write_bytes(data)
    assert fingerprint(ImageFolder.search("images")) == before
    Path("images/3.png").rename("images/03.png")
    renamed = fingerprint(ImageFolder.search("images"))
    assert renamed != before
    Path("images/03.png").write_bytes(bytes(data) + b"\0")
    assert fingerprint(ImageFolder.search("images")) not in (before, renamed)
    folder = ImageFolder.search("images")
    Path("images/5.png").unlink()
    assert fingerprint(folder).kind == "paths-and-sizes"  # gone since; no error
