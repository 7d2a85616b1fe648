"""What one process has written of a checkpoint. Torch-free until tensors are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from bigrun.checkpoint import disk
from bigrun.checkpoint.contents import write_tensors
from bigrun.checkpoint.disk import FileRecord
from bigrun.checkpoint.manifest import find_difference
from bigrun.errors import CheckpointError, NotSavedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from bigrun.peers.peers import Peers

__all__ = ["Share", "share_by_rank", "write_share"]


class Refusal(OSError):
    """What a disk has said to another process."""

    def __str__(self) -> str:
        return str(self.args[1])


@attrs.frozen
class Share:
    """Files with tensors, of which every byte was read back; or why there are none."""

    files: Mapping[str, FileRecord] = attrs.field(factory=dict)
    failure: Exception | None = None

    def tell(self) -> dict[str, Any]:
        """As JSON, for the others."""
        failure = None
        if self.failure is not None:
            is_refusal = isinstance(self.failure, OSError | NotSavedError)
            failure = [str(self.failure), is_refusal, getattr(self.failure, "errno", None)]
        return {"files": {name: attrs.asdict(record) for name, record in self.files.items()}, "failure": failure}

    @classmethod
    def told(cls, said: Mapping[str, Any], rank: int) -> Share:
        """What another process has told."""
        files = {name: FileRecord(**record) for name, record in said["files"].items()}
        if said["failure"] is None:
            return cls(files)
        text, is_refusal, number = said["failure"]
        text = f"process {rank}: {text}"
        return cls(files, Refusal(number, text) if is_refusal else CheckpointError(text))

    def check(self) -> None:
        """Raises: OSError or CheckpointError: what kept the process from writing."""
        if self.failure is not None:
            raise self.failure


def share_by_rank(mine: Share, writers: Peers) -> list[Share]:
    """What each process has written: on the main one, who goes on with it, its own is the first."""
    told = writers.gathered(mine.tell())
    return [mine, *(Share.told(said, rank) for rank, said in enumerate(told) if rank > 0)]


def write_share(directory: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> Share:
    """Write groups of tensors, force them to the disk and read them back."""
    try:
        files = write_tensors(directory, tensors)
        disk.sync_files(directory / name for name in files)
        for name, record in files.items():
            if (difference := find_difference(directory / name, record)) is not None:
                raise NotSavedError(f"{directory / name}: the disk gives back other bytes: {difference}")
        disk.sync_directory(directory)
    except (OSError, CheckpointError) as error:
        return Share(failure=error)
    return Share(files)
