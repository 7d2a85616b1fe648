"""Processes that read files: what they outlive, and what is said when they, or this one, lack something."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_sets import data, mixed_folder

from bigrun.errors import BigrunError, ExitCode
from bigrun.parallel import GOES_ON, in_order

CHILD = """
import signal, sys, time
from pathlib import Path
import psutil
from bigrun.data.split.hashes import hash_files
from bigrun.parallel import in_order
from bigrun.process import STOP_SIGNALS

results = in_order(hash_files, [(Path(sys.argv[1]), False, ["a/0.png"])] * 4, 1)
first = next(results)
(server,) = [p for p in psutil.Process().children() if "forkserver" in " ".join(p.cmdline())]
for process in (server, *server.children()):
    for number in STOP_SIGNALS:
        process.send_signal(number)
time.sleep(0.2)
assert server.status() != psutil.STATUS_ZOMBIE, "the server of processes is dead"
assert list(results) == [first] * 3
"""


@pytest.mark.slow
def test_processes_and_their_server_outlive_stop_signals(tmp_path: Path) -> None:
    """What decodes for a run comes from the same server, and would end with it."""
    root = mixed_folder(tmp_path)
    done = subprocess.run([sys.executable, "-c", CHILD, str(root)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_process_that_dies_is_one_message_with_its_callers_advice() -> None:
    with pytest.raises(BigrunError, match=r"a process that reads files died, for want of memory perhaps; do this$"):
        list(in_order(os._exit, [1], 1, advice="do this"))


LACKS = [
    (MemoryError(), "no more memory"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "no more memory"),
    (OSError(errno.EMFILE, "Too many open files"), "may open no more than"),
]


@pytest.mark.parametrize(("error", "said"), LACKS, ids=["memory", "ENOMEM", "EMFILE"])
@pytest.mark.parametrize("command", ["index", "pack", "check", "split"])
def test_what_the_machine_lacks_is_no_fault_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, command: str
) -> None:
    def refuse(path: str) -> None:
        raise error

    root = mixed_folder(tmp_path / "images")
    where = {
        "index": ("--out", tmp_path / "index"),
        "pack": (tmp_path / "packed",),
        "check": (),
        "split": ("--level", "image"),
    }[command]
    for module in ("data.files.facts", "data.decode"):
        monkeypatch.setattr(f"bigrun.{module}.open_regular", refuse)
    result = data(command, root, *where)
    message = result.output.replace("\n", " ")
    assert result.exit_code == (ExitCode.USAGE if command == "check" else ExitCode.ERROR)
    assert said in message
    assert "cannot be written" not in message
    assert (GOES_ON in message) == (command in ("index", "pack"))
