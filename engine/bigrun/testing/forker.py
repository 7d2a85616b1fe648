"""A process that has imported torch, and forks others: such a start takes 0.3 s in place of 4.

What is forked is real: it has its own environment, output, exit code and end.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["start_together"]

# What a run imports, most of it late: of the CPU time of a short run, 0.43 s, it was a third.
IMPORTED = (
    "torch", "torch._dynamo", "torch.distributed", "torch.nn.parallel", "torch.distributed.fsdp",
    "PIL.PngImagePlugin", "bigrun.branch", "bigrun.build", "bigrun.checkpoint.staging", "bigrun.checkpoint.store",
    "bigrun.cli", "bigrun.data.images", "bigrun.data.loader", "bigrun.data.search", "bigrun.data.split.apply",
    "bigrun.data.tone", "bigrun.data.views", "bigrun.data.workers", "bigrun.defaults", "bigrun.devices.host",
    "bigrun.flight", "bigrun.listing", "bigrun.loop", "bigrun.model.activation_checkpointing",
    "bigrun.objective.dino", "bigrun.optimizer", "bigrun.out_of_memory", "bigrun.output", "bigrun.peers.choose",
    "bigrun.planner.flops", "bigrun.provenance.gather", "bigrun.schedules", "bigrun.session", "bigrun.state",
    "bigrun.summary", "bigrun.testing.recorder", "bigrun.weights.freeze", "bigrun.weights.start",
)  # fmt: skip


def start_together(
    target: str,
    folder: Path,
    environments: Sequence[Mapping[str, str]],
    *,
    directory: Path | None = None,
    timeout_seconds: float,
) -> list[int]:
    """Call `module:function` with a folder and a number, each in a process of its own; returns the exit codes, which
    are what the function returns, or has `sys.exit` say.

    Args:
        folder: what the processes print is there afterwards, in `output-<number>` and `errors-<number>`.
        environments: one for each process.
        directory: where they work; absent: here.
        timeout_seconds: a process that takes longer is killed (-9).
    """
    process = server()
    assert process.stdin is not None
    assert process.stdout is not None
    job = {
        "target": target,
        "folder": str(folder),
        "environments": [dict(environment) for environment in environments],
        "path": sys.path,
        "directory": str(directory or Path.cwd()),
        "timeout_seconds": timeout_seconds,
    }
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    codes: list[int] = json.loads(process.stdout.readline())
    return codes


@functools.cache
def server() -> subprocess.Popen[str]:
    """One for each process that runs tests; it ends with its input."""
    program = f"import sys; sys.path[:] = {sys.path!r}; from bigrun.testing import forker; forker.serve()"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for who runs the tests
    )
    atexit.register(process.communicate)
    return process


def serve() -> None:
    """Fork for every line of standard input."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        job = json.loads(line)
        children = [forked(job, number) for number in range(len(job["environments"]))]
        print(json.dumps(ended(children, time.monotonic() + job["timeout_seconds"])), flush=True)


def forked(job: Mapping[str, Any], number: int) -> int:
    """The id of a new process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work(job, number)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child


def work(job: Mapping[str, Any], number: int) -> int:
    folder = Path(job["folder"])
    for descriptor, name in enumerate((os.devnull, f"output-{number}", f"errors-{number}")):
        opened = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(job["environments"][number])
    os.chdir(job["directory"])
    sys.path[:] = job["path"]
    module, _, function = job["target"].partition(":")
    return int(getattr(importlib.import_module(module), function)(folder, number))


def ended(children: Sequence[int], deadline: float) -> list[int]:
    """The exit codes; what lives too long is killed."""
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        for child in children:
            if child in codes:
                continue
            if time.monotonic() > deadline:
                os.kill(child, 9)
            found, status = os.waitpid(child, os.WNOHANG if time.monotonic() <= deadline else 0)
            if found:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return [codes[child] for child in children]
