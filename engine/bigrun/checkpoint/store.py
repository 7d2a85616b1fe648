"""The checkpoints of one run: a kill, a full disk or a flipped bit never costs more than the newest.

A checkpoint is written to a directory beside the others, synced, read back, and published by one rename.
Nothing that was published is ever changed. One process at a time may use it. Torch-free until tensors are
saved or loaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigrun.checkpoint import disk
from bigrun.checkpoint.draft import begin_draft, complete_draft, copy_draft, refusals
from bigrun.checkpoint.facts import load_facts
from bigrun.checkpoint.layout import (
    Stale,
    holds_checkpoint,
    is_real_directory,
    parse_stale,
    parse_step,
    stale_name,
    step_name,
)
from bigrun.checkpoint.share import share_by_rank, write_share
from bigrun.checkpoint.tensors import load_tensors
from bigrun.checkpoint.verified import Verified, every_damaged, find_problems, has_manifest
from bigrun.errors import CheckpointError
from bigrun.peers.peers import Peers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from bigrun.checkpoint.saved_tensors import SavedTensors

__all__ = ["CheckpointStore"]

LOOKS = 20
"""At a folder whose checkpoints go away before they are read."""


class CheckpointStore:
    """The published checkpoints in `directory`, which need not exist yet."""

    def __init__(self, directory: Path, before_publishing: Callable[[], None] = lambda: None) -> None:
        """`before_publishing` is called before a checkpoint gets its name, and raises when it may not."""
        self.directory = directory
        self.before_publishing = before_publishing
        self._verified = Verified()

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is published, whether it is there or not."""
        return self.directory / step_name(step)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        facts: Mapping[str, Any],
        config_toml: str,
        writers: Peers | None = None,
    ) -> Path:
        """Publish a checkpoint; what stood at `step` before is replaced, and then removed.

        Args:
            step: optimizer steps taken.
            tensors: stem -> name -> tensor; each group becomes `<stem>.safetensors` (see `load_tensors`).
            facts: name -> JSON; each becomes `<name>.json` (see `load_facts`).
            config_toml: the resolved configuration, kept as `config.toml`.
            writers: processes that write a checkpoint together: each calls this with its own groups of tensors, writes
                and reads back its files, and the main one publishes when all have. None: one process.

        Returns: the directory of the published checkpoint.

        Raises:
            NotSavedError: the disk has refused (ENOSPC, EFBIG, EIO, ...; its cause is the OSError) or gives back other
                bytes. Nothing was published, no temporary is left, older checkpoints are as they were. Of several
                writers the main one raises it; the others raise `SaidElsewhere`.
            CheckpointError: the same, for a tensor or a fact that cannot be saved.
        """
        writers = writers or Peers()
        draft = Path(writers.by_main(lambda: str(begin_draft(self.directory, step))))
        try:
            shares = share_by_rank(write_share(draft, tensors), writers)

            def publish() -> str:
                with refusals(self.path(step)):
                    complete_draft(draft, step, shares, facts, config_toml)
                    return str(self._publish(draft, step))

            return Path(writers.by_main(publish))
        finally:
            if writers.is_main:
                shutil.rmtree(draft, ignore_errors=True)

    def amend(self, step: int, facts: Mapping[str, Any]) -> Path:
        """Save the checkpoint of `step` again with other facts; what is not given stays as it is, and its files are
        the same ones (hard links) where the file system has such.

        Raises:
            CheckpointError: as `save` does, or there is no such checkpoint.
        """
        draft = begin_draft(self.directory, step)
        try:
            with refusals(self.path(step)):
                copy_draft(self.path(step), draft, facts)
                return self._publish(draft, step)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def delete(self, step: int) -> None:
        """Remove the checkpoint of `step`. It is gone with the first rename, whatever happens after it.

        Raises:
            CheckpointError: there is no such directory, or it cannot be removed.
        """
        trash = self.directory / stale_name(Stale.TRASH, step)
        try:
            self.path(step).rename(trash)
            disk.sync_directory(self.directory)
            shutil.rmtree(trash)
        except OSError as error:
            raise CheckpointError(f"{self.path(step)}: not deleted: {error}") from error

    def sweep(self) -> list[str]:
        """Clear away what a killed process left; call it at the start of a run, before anything else.

        Where a kill fell between two renames, so that a step is not published but a complete and verified
        copy of it waits under another name, that copy is published: the new one, else the old one.

        Returns:
            What was done, one line for each directory.

        Raises:
            CheckpointError: something cannot be removed, or a newer version of bigrun wrote it.
        """
        lines = []
        try:
            for kind, step, path in self._find_stale():
                is_wanted = kind is not Stale.TRASH and not is_real_directory(self.path(step))
                if is_wanted and not find_problems(path, step):
                    disk.sync(path)
                    self._publish(path, step)
                    lines.append(f"{path.name}: complete, published as {step_name(step)}")
                else:
                    shutil.rmtree(path)
                    lines.append(f"{path.name}: removed")
        except OSError as error:
            raise CheckpointError(f"{self.directory}: cannot be swept: {error}") from error
        return lines

    def steps(self) -> list[int]:
        """The steps of the published checkpoints with a readable manifest, ascending; nothing is hashed."""
        return [step for step, path in self._find_published() if has_manifest(path)]

    def verified_steps(self) -> list[int]:
        """The steps of the checkpoints of which every byte is as it was saved, ascending; all are read that were not
        yet. What this object has read once, or written itself, is not read again while its manifest is the same.
        """
        return [step for step, path in self._find_published() if self._verified.holds(step, path)]

    def known_steps(self) -> list[int]:
        """Those of the verified steps that are known to be so already: nothing is read."""
        return [step for step, path in self._find_published() if self._verified.is_known(step, path)]

    def is_verified(self, step: int) -> bool:
        """Whether the checkpoint of a step is one of the verified ones; it is read if it was not yet."""
        return self._verified.holds(step, self.path(step))

    def newest_before(self, step: int) -> int | None:
        """The newest verified checkpoint of an earlier step; as few are read as need be."""
        earlier = [entry for entry in self._find_published() if entry[0] < step]
        return next((old for old, path in reversed(earlier) if self._verified.holds(old, path)), None)

    def is_whole(self, step: int) -> bool:
        """Whether the checkpoint of a step is as it was saved now, whatever was known of it."""
        return not find_problems(self.path(step), step)

    def newest_verified(self, on_problem: Callable[[Path, list[str]], None]) -> Path | None:
        """The newest checkpoint of which every byte is as it was saved; None when there is no checkpoint.

        Args:
            on_problem: called with each newer checkpoint that was passed over, and what is wrong with it.

        Raises:
            CheckpointError: there are checkpoints and all are damaged, or a newer version of bigrun wrote one
                that would have to be passed over.
        """
        for _ in range(LOOKS):
            damaged, is_gone = [], False
            for step, path in reversed(self._find_published()):
                problems = find_problems(path, step)
                if not problems:
                    self._verified.add(step, path)
                    return path
                if not path.is_dir():  # a run that goes on has removed it meanwhile, and has saved newer ones
                    is_gone = True
                    continue
                on_problem(path, problems)
                damaged.append(f"  {path.name}: {problems[0]}")
            if not is_gone:
                break
        if damaged:
            raise every_damaged(self.directory, damaged)
        if is_gone:
            raise CheckpointError(f"{self.directory}: checkpoints are removed faster than they can be read; try again")
        return None

    @staticmethod
    def load_tensors(checkpoint: Path, stem: str) -> SavedTensors:
        """See `tensors.load_tensors`."""
        return load_tensors(checkpoint, stem)

    @staticmethod
    def load_facts(checkpoint: Path, name: str) -> Any:
        """See `facts.load_facts`."""
        return load_facts(checkpoint, name)

    def _publish(self, complete: Path, step: int) -> Path:
        """Rename a complete, synced directory to its published name.

        Between the two renames of a replacement neither is published: the old one is put back if the second
        fails, and `sweep` finds both if the process is killed.
        """
        final = self.path(step)
        aside = self.directory / stale_name(Stale.ASIDE, step)
        self.before_publishing()
        replaces = is_real_directory(final)
        if replaces:
            final.rename(aside)
        try:
            complete.rename(final)
        except OSError:
            if replaces:
                aside.rename(final)
            raise
        disk.sync_directory(self.directory)
        if replaces:
            shutil.rmtree(aside, ignore_errors=True)  # it is published: what remains is the next sweep's
        self._verified.add(step, final)
        return final

    def _find_published(self) -> list[tuple[int, Path]]:
        """(step, directory) of every published checkpoint, damaged or not, in ascending order."""
        if not self.directory.is_dir():
            return []
        entries = [(parse_step(path.name), path) for path in self.directory.iterdir()]
        return sorted((step, path) for step, path in entries if step is not None and holds_checkpoint(path))

    def _find_stale(self) -> list[tuple[Stale, int, Path]]:
        """(kind, step, directory) of what a killed process left, in the order of `Stale`."""
        if not self.directory.is_dir():
            return []
        entries = [(parse_stale(path.name), path) for path in self.directory.iterdir() if is_real_directory(path)]
        found = [(*parsed, path) for parsed, path in entries if parsed is not None]
        return sorted(found, key=lambda entry: list(Stale).index(entry[0]))
