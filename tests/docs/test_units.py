"""The systemd units of the documentation are ones that systemd accepts."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fenced import Block, blocks_of, pages

from bigrun.errors import ExitCode

UNITS = [block for page in pages() for block in blocks_of(page) if block.argument.endswith(".service")]


def test_there_is_one() -> None:
    assert UNITS


@pytest.mark.parametrize("block", UNITS, ids=lambda block: block.where)
def test_systemd_accepts_a_unit(block: Block, tmp_path: Path) -> None:
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(block.text)
    program, *arguments = unit["Service"]["ExecStart"].split()
    assert (Path(program).name, arguments[0]) == ("bigrun", "run")
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there; only the form was checked")
    here = block.text.replace(program, sys.executable)  # a program that exists
    (tmp_path / block.argument).write_text(here)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / block.argument)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if block.argument in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@pytest.mark.parametrize("block", UNITS, ids=lambda block: block.where)
def test_a_unit_knows_the_exit_codes(block: Block) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(block.text)
    given_up = {int(code) for code in unit["Service"]["RestartPreventExitStatus"].split()}
    well = {int(code) for code in unit["Service"]["SuccessExitStatus"].split()}
    assert given_up == {ExitCode.USAGE, ExitCode.HALTED, ExitCode.NO_PROGRESS}
    assert well == {ExitCode.STOPPED, ExitCode.QUARANTINED, 130, 143}
