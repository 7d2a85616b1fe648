"""`bigrun` in processes of its own, forked from one that has imported torch: a start takes 0.3 s in place of 4.

Half of the time of a short run are imports. A process is real: it has its own directory, environment, output, exit
code and end; only what a test kills or sends signals to is started cold.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bigrun.testing.forker import start_together

__all__ = ["bigrun", "together"]


def bigrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`bigrun ARGUMENTS` in a folder, to its end."""
    (done,) = started(folder, arguments, [os.environ], {})
    return done


def together(
    folder: Path,
    processes: int,
    *arguments: str,
    only: Mapping[int, Sequence[str]] | None = None,
    elsewhere: Mapping[int, Path] | None = None,
) -> list[subprocess.CompletedProcess[str]]:
    """The same as so many processes of one run, as torchrun starts them; by rank. `only`: more arguments of some;
    `elsewhere`: other folders of some, as on a machine of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    return started(folder, arguments, [{**os.environ, **place, **rank} for rank in ranks], only or {}, elsewhere)


def started(
    folder: Path,
    arguments: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    only: Mapping[int, Sequence[str]],
    elsewhere: Mapping[int, Path] | None = None,
) -> list[subprocess.CompletedProcess[str]]:
    words = ["bigrun", *arguments]
    with tempfile.TemporaryDirectory() as name:
        for number in range(len(environments)):
            own = [*words, *only.get(number, ())]
            place = str((elsewhere or {}).get(number, folder))
            (Path(name) / f"words-{number}").write_text(json.dumps([place, own]), encoding="utf-8")
        codes = start_together("warm:command", Path(name), environments, directory=folder, timeout_seconds=600)
        said = [
            [without_greetings((Path(name) / f"{kind}-{number}").read_text("utf-8")) for kind in ("output", "errors")]
            for number in range(len(environments))
        ]
    return [subprocess.CompletedProcess(words, code, *texts) for code, texts in zip(codes, said, strict=True)]


def without_greetings(text: str) -> str:
    """gloo of torch 2.10 prints with how many others it is connected."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("[Gloo] Rank "))


def command(folder: Path, number: int) -> int:
    """In a process of its own: `bigrun ARGUMENTS`."""
    place, sys.argv = json.loads((folder / f"words-{number}").read_text(encoding="utf-8"))
    os.chdir(place)
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    runpy.run_module("bigrun", run_name="__main__", alter_sys=True)
    return 0
