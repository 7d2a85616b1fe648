"""How the process of a command ends: with its exit code, whatever native threads do meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from one_of_many.folder import put_into
from training import Training

ASKS_FOR_EVER = ["--plugin", "one_of_many.threads:AsksForEver"]
ENDS = """
import atexit, sys, threading, time
from bigrun.process_end import as_process, end_without_finalisation

class Said:
    def __del__(self):
        print("finalised")

kept = Said()

def command():
    atexit.register(print, "at exit", end="")
    threading.Thread(target=lambda: (time.sleep(0.2), print("a thread that is no daemon"))).start()
    {skip}
    {end}

as_process(command)
"""


def ended(end: str, skip: str = "end_without_finalisation()") -> subprocess.CompletedProcess[str]:
    program = ENDS.format(end=end, skip=skip)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=buffered)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("sys.exit(3)", 3),
        ("sys.exit()", 0),
        ("pass", 0),
        ("sys.exit(-1)", 255),
        ("sys.exit('a message')", 1),
        ("1 / 0", 1),
    ],
)
@pytest.mark.parametrize("skip", ["end_without_finalisation()", "pass"])
def test_a_command_ends_as_python_would_end_it(end: str, code: int, skip: str) -> None:
    done = ended(end, skip)
    assert done.returncode == code
    said = "a thread that is no daemon\nat exit"
    assert done.stdout == (said if skip != "pass" else f"{said}finalised\n")
    assert (done.stderr == "a message\n") == ("message" in end)
    assert ("ZeroDivisionError: division by zero\n" in done.stderr) == ("/" in end)


@pytest.mark.parametrize("raised", ["OSError", "KeyboardInterrupt", "AttributeError"])
def test_what_cannot_be_flushed_changes_no_exit_code(raised: str) -> None:
    """A full disk; Ctrl-C while nobody reads; a stream of a plugin's own."""
    stream = f"sys.stdout = type('Stream', (), {{'flush': lambda self: (_ for _ in ()).throw({raised})}})()"
    assert ended(f"{stream}; sys.exit(3)").returncode == 3


def test_what_native_libraries_have_printed_is_there() -> None:
    assert "of C" in ended("import ctypes; ctypes.CDLL(None).printf(b'of C')").stdout


def test_nothing_is_to_be_called_at_exit_before_the_command_begins() -> None:
    """What was registered by then would not be called."""
    program = "import atexit, bigrun.__main__, bigrun.supervisor.attempt; print(atexit._ncallbacks())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_a_run_of_several_ends_with_its_exit_code_while_native_threads_need_python(tmp_path: Path) -> None:
    """Finalisation would end it with SIGABRT."""
    put_into(tmp_path)
    training = Training(tmp_path)
    done = warm.bigrun(tmp_path, "launch", "tiny.toml", "--processes", "2", "--set", "run.max_steps=1", *ASKS_FOR_EVER)
    assert done.returncode == 0, done.stderr
    assert (training.run / "checkpoints").is_dir()
