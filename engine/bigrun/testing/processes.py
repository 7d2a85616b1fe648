"""One run in several processes, inside a test: real ones, which talk by gloo on the CPU."""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.testing.forker import start_together

if TYPE_CHECKING:
    from bigrun.config import Document

__all__ = ["Member", "run_together"]

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
OF_ONE, OF_TWO = {"os.remove", "os.truncate", "os.rmdir", "shutil.rmtree"}, {"os.rename", "os.link", "os.symlink"}


@attrs.frozen
class Member:
    """What one process of several did."""

    rank: int
    exit_code: int
    error: str | None
    losses: list[float]
    """On the main process, of every step that was not skipped."""
    hooks: list[str]
    """Every hook call, as `before_step step=1`."""
    events: list[dict[str, Any]]
    """Of which this process's plugins were told."""
    quarantined: list[str]
    written: list[str]
    """Files of the run directory that this process has opened for writing, moved or removed, by their paths in it.
    Python's own calls are seen, not those of native code or of programs that it starts."""
    output: str
    """What it has printed, and then what it has printed as errors."""

    @property
    def foreign(self) -> list[str]:
        """What of `written` is the main process's to write: everything in whose path `rank-<rank>` does not stand, and
        which is no piece of a checkpoint."""
        if self.rank == 0:
            return []
        own = rf"rank-{self.rank}(?!\d)|-0*{self.rank + 1}-of-\d+\.safetensors"
        return [path for path in self.written if not re.search(own, path)]


def run_together(
    document: Document, directory: Path, dataset: Any, processes: int, timeout_seconds: float
) -> list[Member]:
    """Train in so many processes, as torchrun starts them; by rank.

    Args:
        dataset: as for `Runner.run`; it is pickled.
        timeout_seconds: what takes longer is killed, with exit code -9.

    Raises:
        TypeError: the data set cannot be pickled.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job").write_bytes(pickled((document, directory, dataset)))
        environments = [{**os.environ, **place, **rank} for rank in ranks]
        codes = start_together(
            "bigrun.testing.processes:take_part", folder, environments, timeout_seconds=timeout_seconds
        )
        return [member_of(folder, rank, code) for rank, code in enumerate(codes)]


def pickled(job: Any) -> bytes:
    try:
        return pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"the data set is sent to other processes, and cannot be ({error}): expected an object that can be "
            "pickled, of a class at the top of a module"
        ) from error


def member_of(folder: Path, rank: int, code: int) -> Member:
    path, said = folder / f"result-{rank}", [folder / f"{kind}-{rank}" for kind in ("output", "errors")]
    output = "".join(file.read_text(encoding="utf-8", errors="replace") for file in said if file.exists())
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    nothing: dict[str, Any] = {"error": None, **{f.name: [] for f in attrs.fields(Member)[3:-1]}}
    return Member(**nothing | known | {"rank": rank, "exit_code": code, "output": output})


def take_part(folder: Path, rank: int) -> int:
    """In a process of its own: be one of the processes; returns its exit code."""
    from bigrun.errors import BigrunError
    from bigrun.peers.place import Place
    from bigrun.session import run_training
    from bigrun.testing.recorder import Recorder

    document, directory, dataset = pickle.loads((folder / "job").read_bytes())
    written, recorder, error = watch_writes(directory), Recorder(dataset), None
    try:
        _, code = run_training(
            document, directory, companions={"recorder": recorder}, place=Place.of_environment(os.environ)
        )
    except BigrunError as caught:
        error, code = caught, caught.exit_code
    known = {
        "error": None if error is None else str(error),
        "losses": recorder.losses,
        "hooks": recorder.calls.lines(),
        "events": [attrs.asdict(event) for event in recorder.events],
        "quarantined": [] if recorder.run is None else list(recorder.run.plugins.failures),
        "written": list(dict.fromkeys(written)),
    }
    (folder / f"result-{rank}").write_text(json.dumps(known, default=str), encoding="utf-8")
    return int(code)


def watch_writes(directory: Path) -> list[str]:
    """What this process does to files of a directory from here on."""
    root, written = os.path.realpath(directory), list[str]()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        for path in touched(event, arguments):
            full = Path(os.path.realpath(path.parent)) / path.name  # not what a link leads to
            if full.is_relative_to(root):
                written.append(str(full.relative_to(root)))

    sys.addaudithook(note)
    return written


def touched(event: str, arguments: tuple[Any, ...]) -> Iterator[Path]:
    """Paths that an event of Python's audit (PEP 578) writes, moves or removes."""
    paths: tuple[Any, ...] = ()
    if (event == "open" and arguments[2] & WRITES) or event in OF_ONE:
        paths = arguments[:1]
    elif event in OF_TWO:
        paths = arguments[:2]
    for path in paths:
        if isinstance(path, str | bytes | os.PathLike):
            yield Path(os.fsdecode(path))
