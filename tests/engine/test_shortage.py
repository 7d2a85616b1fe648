"""What the system refuses a process, said as what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from training import Training

from bigrun.errors import ExitCode, UsageError
from bigrun.shortage import shortages_told


def test_a_folder_for_temporary_files_that_is_too_deep_for_sockets_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    training = Training(tmp_path, data={"workers": 1})
    done = training()
    assert done.returncode == ExitCode.USAGE
    assert f"{deep}, whose path of {len(str(deep))} bytes is too long" in done.stderr
    assert "set TMPDIR to a shorter one" in done.stderr
    assert done.stdout.count("warning: a process that decodes") == 0
    monkeypatch.delenv("TMPDIR")
    assert training().returncode == 0


def test_other_work_in_processes_says_the_same() -> None:
    with pytest.raises(UsageError, match="set TMPDIR"), shortages_told(""):
        raise OSError("AF_UNIX path too long")
