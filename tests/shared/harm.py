"""Plugins that harm a run, for `--plugin harm:NAME` in a folder that has a copy of this file.

Those that hang do so as long as the folder has a file `harm`: the same command continues when it is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bigrun import hookimpl
from bigrun.checkpoint import disk
from bigrun.checkpoint.layout import MANIFEST
from bigrun.testing.runner import SyntheticImages


def is_on() -> bool:
    return Path("harm").exists()


class Blocks:
    """A step that does not come back."""

    @hookimpl
    def before_step(self, step: int) -> None:
        if step == 4 and is_on():
            never_returns()


def never_returns() -> None:
    time.sleep(3600)


class KeepsTheInterpreter:
    """Native code that waits for ever, and lets no other thread run meanwhile."""

    @hookimpl
    def before_step(self, step: int) -> None:
        if step == 4 and is_on():
            reads_for_ever()


def reads_for_ever() -> None:
    ctypes.PyDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)


class SleepyImages(SyntheticImages):
    """Images of which a process decodes twelve, and then no more."""

    decoded = 0

    def __getitem__(self, index: int) -> Any:
        self.decoded += 1
        if self.decoded > 12 and is_on():
            never_returns()
        return super().__getitem__(index)


class Sleepy:
    """Brings those images."""

    @hookimpl
    def build_dataset(self) -> SleepyImages:
        return SleepyImages()


class SavesSlowly:
    """A save that takes two seconds."""

    @hookimpl
    def on_start(self) -> None:
        self.saves = 0

    def state_dict(self) -> dict[str, int]:
        self.saves += 1
        time.sleep(2.0)
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


class DiskHangs:
    """A disk that takes a process's first checkpoint whole, and is gone at the second; step five cannot be taken."""

    seconds = 3600.0

    def __init__(self) -> None:
        self.checkpoints, self.sync_files = 0, disk.sync_files
        disk.sync_files = self.hangs  # what a test can do to a disk without privileges

    def hangs(self, paths: Iterable[Path]) -> None:
        files = list(paths)
        self.checkpoints += any(path.name == MANIFEST for path in files)  # the last file of each
        if self.checkpoints == 2 and is_on():
            time.sleep(self.seconds)
        self.sync_files(files)

    @hookimpl
    def before_step(self, step: int) -> None:
        if step == 5 and is_on():
            raise RuntimeError("step five cannot be taken")


class DiskIsSlow(DiskHangs):
    """The same, but it comes back."""

    seconds = 3.0


class LosesItsImages:
    """A process that dies with its folder of images."""

    @hookimpl
    def before_step(self, step: int) -> None:
        if step == 3 and not Path("was-away").exists():
            Path("images").rename("was-away")
            os.kill(os.getpid(), signal.SIGKILL)


class ImagesGoAway(LosesItsImages):
    """The same, but they are back when the next process has missed them."""

    @hookimpl
    def on_error(self) -> None:
        Path("was-away").rename("images")
        Path("was-away").touch()


class DiesBeforeItIsBuilt:
    """A first process that is killed before it has anything."""

    @hookimpl
    def configure_runtime(self) -> None:
        if not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)


class DoesNotFinish:
    """A plugin that does not come back when the run has taken its last step."""

    @hookimpl
    def on_finish(self) -> None:
        if is_on():
            never_returns()


class FailsAtFour:
    """An error that is always the same."""

    @hookimpl
    def before_step(self, step: int) -> None:
        if step == 4:
            raise RuntimeError("step four cannot be taken")


class DiesAtItsThird:
    """A process that the kernel kills in its third step, whatever step that is."""

    def __init__(self) -> None:
        self.steps = 0

    @hookimpl
    def before_step(self) -> None:
        self.steps += 1
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGKILL)


class CannotBegin:
    """A run that ends before it has anything."""

    def __init__(self) -> None:
        raise RuntimeError("not today")


class ConstantFeatures:
    """Student and teacher give the same features to everything: of the final norms, only the bias is left."""

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        with torch.no_grad():
            for network in (run.objective.student, run.objective.teacher):
                for norm in (network.backbone.norm, network.backbone.local_cls_norm):
                    if norm is not None:
                        norm.weight.zero_()
                        norm.bias += step == 1
