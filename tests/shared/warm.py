"""`bigrun` in a process of its own, forked from one that has imported torch: a start takes 0.3 s in place of 4.

Half of the time of a short run are imports. The process is real: it has its own directory, environment, output, exit
code and end; only what a test kills or sends signals to is started cold.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["bigrun"]

SERVER = """
import json, os, runpy, sys
import torch, torch._dynamo
import bigrun.build, bigrun.cli, bigrun.defaults, bigrun.loop, bigrun.session
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(job["environment"])
        for descriptor, name in enumerate((os.devnull, job["output"], job["errors"])):
            opened = os.open(name, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
            os.dup2(opened, descriptor)
            os.close(opened)
        sys.argv = ["bigrun", *job["arguments"]]
        sys.orig_argv = [sys.executable, "-m", *sys.argv]
        runpy.run_module("bigrun", run_name="__main__", alter_sys=True)
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def server() -> subprocess.Popen[str]:
    """One for each process that runs tests; it ends with its input."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    atexit.register(end, process)
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


def bigrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`bigrun ARGUMENTS` in a folder, to its end."""
    process = server()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as name:
        output, errors = Path(name) / "output", Path(name) / "errors"
        output.touch()
        errors.touch()
        job = {
            "folder": str(folder), "arguments": list(arguments), "environment": dict(os.environ),
            "output": str(output), "errors": str(errors),
        }  # fmt: skip
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        texts = [path.read_text(encoding="utf-8") for path in (output, errors)]
    return subprocess.CompletedProcess(["bigrun", *arguments], code, *texts)
