"""Processes that answer at once, or not: `python -m answering DESCRIPTOR`, and the work of a dry run in forked ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil

from bigrun.dry_run.together import ask_together
from bigrun.errors import BigrunError
from bigrun.peers.errors import PeerLostError, SaidElsewhere
from bigrun.testing.forker import start_together
from bigrun.tuner.child import main
from bigrun.tuner.isolation import Answer
from bigrun.tuner.tether import tethered

__all__ = ["acted", "forked", "is_gone"]


def acted(folder: Path, *parts: str, hear: Callable[[Mapping[str, Any]], None] = lambda line: None) -> list[Answer]:
    """What is answered when each process plays its part, and has written its ids into the folder."""
    order = {"what": "act", "parts": parts, "folder": str(folder)}
    return ask_together(order, [os.environ | {"RANK": str(rank)} for rank in range(len(parts))], "answering", hear)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def act(parts: Sequence[str], folder: str, tell: Callable[..., None]) -> dict[str, Any]:
    """Play the part of this rank. Each writes down who it is, and what it has started."""
    rank = int(os.environ["RANK"])
    helper = subprocess.Popen(["sleep", "600"])
    whole = Path(folder) / f"unfinished-{rank}"
    whole.write_text(f"{os.getpid()} {helper.pid}")
    whole.rename(Path(folder) / f"pids-{rank}")
    everybody = [Path(folder) / f"pids-{number}" for number in range(len(parts))]
    while not all(path.exists() for path in everybody):
        time.sleep(0.01)
    tell(step=rank)
    PARTS[parts[rank]]([int(path.read_text().split()[0]) for path in everybody if path != everybody[rank]])
    return {"rank": rank}


def well(others: Sequence[int]) -> None:
    """Answers."""


def sleeps(others: Sequence[int]) -> None:
    time.sleep(600)


def fails(others: Sequence[int]) -> NoReturn:
    raise BigrunError("no such luck")


def fails_last(others: Sequence[int]) -> NoReturn:
    """When the others have said what they say."""
    while not all(map(is_gone, others)):
        time.sleep(0.01)
    raise BigrunError("no such luck")


def dies(others: Sequence[int]) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def loses(others: Sequence[int]) -> NoReturn:
    """As torch says it."""
    raise PeerLostError("another process of the run is gone")


def repeats(others: Sequence[int]) -> NoReturn:
    raise SaidElsewhere("process 2 on node-b has ended: no memory", 1)


PARTS: Mapping[str, Callable[[Sequence[int]], None]] = {
    part.__name__: part for part in (well, sleeps, fails, fails_last, dies, loses, repeats)
}


def forked(order: Mapping[str, Any], environments: Sequence[Mapping[str, str]]) -> list[Answer]:
    """What `bigrun.dry_run.child` answers, of processes that need not import torch, and meet as they do there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "order").write_text(json.dumps(order), encoding="utf-8")
        codes = start_together("answering:work", folder, environments, timeout_seconds=300)
        said = [(folder / f"errors-{number}").read_text("utf-8") for number in range(len(codes))]
        assert not any(codes), said
        lines = [json.loads((folder / f"answer-{number}").read_text("utf-8")) for number in range(len(codes))]
    return [Answer(**line) for line in lines]


def work(folder: Path, number: int) -> int:
    from bigrun.dry_run.child import WORK
    from bigrun.tuner.child import describe

    wanted = json.loads((folder / "order").read_text(encoding="utf-8"))
    try:
        answer = {"status": "ok", "facts": WORK[wanted.pop("what")](tell=lambda **line: None, **wanted)}
    except Exception as error:
        answer = describe(error)
    (folder / f"answer-{number}").write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    main(tethered(), int(sys.argv[1]), {"act": act})
