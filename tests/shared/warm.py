"""`bigrun` in processes of its own, forked from one that has imported torch: a start takes 0.3 s in place of 4.

Half of the time of a short run are imports. A process is real: it has its own directory, environment, output, exit
code and end; only what a test kills or sends signals to is started cold.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["bigrun", "together"]

SERVER = """
import json, os, runpy, sys
import torch, torch._dynamo, torch.distributed, torch.nn.parallel
import bigrun.build, bigrun.cli, bigrun.defaults, bigrun.loop, bigrun.session
for line in sys.stdin:
    job = json.loads(line)
    children = []
    for environment, output, errors, more in job["processes"]:
        child = os.fork()
        if child == 0:
            os.chdir(job["folder"])
            os.environ.clear()
            os.environ.update(environment)
            for descriptor, name in enumerate((os.devnull, output, errors)):
                opened = os.open(name, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
                os.dup2(opened, descriptor)
                os.close(opened)
            sys.argv = ["bigrun", *job["arguments"], *more]
            sys.orig_argv = [sys.executable, "-m", *sys.argv]
            runpy.run_module("bigrun", run_name="__main__", alter_sys=True)
            sys.exit(0)
        children.append(child)
    print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
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
    (done,) = started(folder, arguments, [os.environ])
    return done


def together(
    folder: Path, processes: int, *arguments: str, only: Mapping[int, Sequence[str]] | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """The same as so many processes of one run, as torchrun starts them; by rank. `only`: more arguments of some."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    return started(folder, arguments, [{**os.environ, **place, **rank} for rank in ranks], only or {})


def started(
    folder: Path,
    arguments: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    only: Mapping[int, Sequence[str]] | None = None,
) -> list[subprocess.CompletedProcess[str]]:
    process = server()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as name:
        files = [(Path(name) / f"output-{i}", Path(name) / f"errors-{i}") for i in range(len(environments))]
        for path in (path for pair in files for path in pair):
            path.touch()
        processes = [
            (dict(environment), str(output), str(errors), list((only or {}).get(rank, ())))
            for rank, (environment, (output, errors)) in enumerate(zip(environments, files, strict=True))
        ]
        job = {"folder": str(folder), "arguments": list(arguments), "processes": processes}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        codes = json.loads(process.stdout.readline())
        texts = [[path.read_text(encoding="utf-8") for path in pair] for pair in files]
    words = ["bigrun", *arguments]
    return [subprocess.CompletedProcess(words, code, *said) for code, said in zip(codes, texts, strict=True)]
