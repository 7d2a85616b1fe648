"""What the system refuses a process, said as what to do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from training import Training

from bigrun.errors import ExitCode, UsageError
from bigrun.shortage import shortages_told


@pytest.mark.slow
def test_a_folder_for_temporary_files_that_is_too_deep_for_sockets_is_named(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    training = Training(tmp_path, data={"workers": 1})
    environment = os.environ | {"TMPDIR": str(deep)}
    done = subprocess.run(training.words(), cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == ExitCode.USAGE
    assert f"{deep}, whose path of {len(str(deep))} bytes is too long" in done.stderr
    assert "set TMPDIR to a shorter one" in done.stderr
    assert "a process that decodes" not in done.stdout + done.stderr


def test_processes_whose_sockets_have_no_room_for_their_name_are_no_riddle() -> None:
    with pytest.raises(UsageError, match="set TMPDIR to a shorter one"), shortages_told(""):
        raise OSError("AF_UNIX path too long")
