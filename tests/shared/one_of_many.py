"""What happens to one process of several; `--plugin one_of_many:NAME`."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bigrun import hookimpl
from bigrun.anomaly import Action, Anomaly
from bigrun.data.faults import BadImageError
from bigrun.errors import DataError
from bigrun.testing.runner import SyntheticImages


def is_other(run: Any) -> bool:
    return bool(run.strategy.rank == run.strategy.world_size - 1 > 0)


class Infinite:
    @hookimpl
    def loss_terms(self, run: Any, step: int, outputs: Any) -> dict[str, Tensor]:
        zero = 0 * outputs.global_features.cls.sum()
        return {"infinite": zero + (float("inf") if step == 2 and is_other(run) else 0)}


class Fails:
    observer = True

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            raise ValueError("on one process")


class Stops:
    observer = True

    @hookimpl
    def after_update(self, run: Any, step: int) -> None:
        if step == 4 and is_other(run):
            os.kill(os.getpid(), signal.SIGTERM)


class Empty:
    """The loader of one process ends after three steps."""

    @hookimpl(wrapper=True)
    def build_loader(self, run: Any) -> Any:
        loader = yield
        return itertools.islice(loader, 3 * run.accumulate) if is_other(run) else loader


class Halts:
    """Asked what to do about what another process has found, the main one answers for all."""

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            run.report_anomaly(Anomaly("odd", step, "something is odd"))

    @hookimpl
    def on_anomaly(self, run: Any) -> Action:
        return Action.WARN if is_other(run) else Action.HALT


class Dies:
    observer = True

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        if step == 4 and str(run.strategy.rank) == os.environ["DIES"]:
            os.kill(os.getpid(), signal.SIGKILL)


class DoesNotStart:
    """A critical plugin fails on one process when the others are ready."""

    @hookimpl
    def on_start(self, run: Any) -> None:
        if is_other(run):
            raise ValueError("not here")


class CannotLook:
    """What only the main process does meets images that cannot be read."""

    @hookimpl
    def on_metrics(self, run: Any, step: int) -> None:
        if step == 3:
            raise DataError("no image to look at")


class AsksLate:
    """An anomaly of which the main process is told, and asks for a checkpoint; the others are in the next thing."""

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 3:
            run.report_anomaly(Anomaly("odd", step, "something is odd"))

    @hookimpl
    def on_anomaly(self) -> Action:
        return Action.WARN

    @hookimpl
    def on_event(self, run: Any, event: Any) -> None:
        if event.kind == "anomaly":
            run.request_checkpoint("an anomaly")


class Disagrees:
    """Processes that have seen other things answer differently; `ANSWERS` has the one of each."""

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 3:
            run.report_anomaly(Anomaly("odd", step, "something is odd"))

    @hookimpl
    def on_anomaly(self, run: Any) -> Action:
        return Action(os.environ["ANSWERS"].split()[run.strategy.rank])


class Raises:
    """A critical plugin fails on one process in the middle of a step."""

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        if step == 4 and str(run.strategy.rank) == os.environ["RAISES"]:
            raise ValueError("in the middle")


class Leaves(Raises):
    """It ends the process, or means to."""

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        if step == 4 and is_other(run):
            sys.exit(0)


class NoMemory:
    """The allocator of one process has nothing left in a forward pass."""

    @hookimpl
    def loss_terms(self, run: Any, step: int) -> dict[str, Tensor]:
        if step == 4 and str(run.strategy.rank) == os.environ["NO_MEMORY"]:
            torch.empty(1 << 60)
        return {}


class OtherImages:
    """One process has found one image less."""

    @hookimpl
    def build_dataset(self, run: Any) -> SyntheticImages:
        return SyntheticImages(64 - is_other(run))


class BadFor(SyntheticImages):
    """Images of which some are bad; every process meets those that are its own."""

    def __getitem__(self, index: int) -> Any:
        if index % 8 == 7:
            raise BadImageError(f"{index}.png", "truncated", "half of it is missing")
        return super().__getitem__(index)


class BadImages:
    @hookimpl
    def build_dataset(self) -> BadFor:
        return BadFor(64)


class Spikes:
    """The loss of one process is 40 times itself, in the steps that `SPIKES` names; it says where it goes on."""

    @hookimpl
    def loss_terms(self, run: Any, step: int, outputs: Any) -> dict[str, Tensor]:
        zero = 0 * outputs.global_features.cls.sum()
        is_hit = is_other(run) and str(step) in os.environ["SPIKES"].split() and not run.rollbacks
        return {"spike": zero + (400.0 if is_hit else 0.0)}


class Slow:
    """One process sleeps, in its hooks or for its images, as `SLOW` says."""

    observer = True

    @hookimpl
    def after_backward(self, run: Any) -> None:
        if is_other(run) and os.environ["SLOW"] == "compute":
            time.sleep(0.3)


class SlowImages(Slow):
    observer = False

    @hookimpl(wrapper=True)
    def build_loader(self, run: Any) -> Any:
        loader = yield
        return sleeping(loader) if is_other(run) else loader


def sleeping(loader: Any) -> Any:
    for samples in loader:
        time.sleep(0.3 if os.environ["SLOW"] == "data" else 0)
        yield samples


class Hangs:
    """One process does not come back, as long as the folder has a file `harm`; `HANGS` says which, `WHERE` in what."""

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        self._hang(run, step, "before_step")

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        self._hang(run, step, "after_backward")

    @hookimpl
    def on_metrics(self, run: Any, step: int) -> None:
        self._hang(run, step, "on_metrics")

    def _hang(self, run: Any, step: int, where: str) -> None:
        is_here = f"{run.strategy.rank} {where}" == os.environ["HANGS"]
        if step == 4 and is_here and Path("harm").exists():
            never_returns()


def never_returns() -> None:
    time.sleep(3600)


class SavesSlowly:
    """A save that takes longer than a step may."""

    def state_dict(self) -> dict[str, int]:
        time.sleep(2)
        return {}


class KeepsInterpreter:
    """Native code of one process lets no Python run for longer than a step may take."""

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        if step == 4 and is_other(run):
            ctypes.PyDLL(None).usleep(4_000_000)


class NoRoom:
    """Files of one process end at so many bytes in the steps 3 and 4."""

    @hookimpl(tryfirst=True)
    def before_step(self, run: Any, step: int) -> None:
        if str(run.strategy.rank) == os.environ["NO_ROOM"] and step in (3, 5):
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["BYTES"]) if step == 3 else hard, hard))
            time.sleep(0.5 if step == 5 else 0)


class StopsAgain:
    """Signals to both, again and again, also in the save that follows."""

    @hookimpl
    def after_update(self, run: Any, step: int) -> None:
        if step == 4:
            stop_twice()

    def state_dict(self) -> dict[str, int]:
        stop_twice()
        return {}


def stop_twice() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)


class DiesAtRandom:
    """Killed at a random moment within some steps, each of which is saved; `DIES` says who."""

    observer = True

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        if step == run.step + 1 and not hasattr(self, "_timer") and str(run.strategy.rank) in os.environ["DIES"]:
            delay = random.SystemRandom().uniform(0.1, 1.5)
            self._timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
            self._timer.daemon = True
            self._timer.start()


class EndsLate:
    """The main process has something to do when the others have ended."""

    @hookimpl
    def on_finish(self, run: Any) -> None:
        if run.is_main:
            time.sleep(float(os.environ["LATE_SECONDS"]))
            Path("late").touch()


class Waits:
    """Steps are slow until somebody says `go`."""

    observer = True

    @hookimpl
    def before_step(self) -> None:
        if not Path("go").exists():
            time.sleep(0.2)


class Passes:
    """Writes down whose forward passes each process has made, in their order."""

    def __init__(self) -> None:
        self.made: list[str] = []

    @hookimpl(tryfirst=True)
    def on_start(self, run: Any) -> None:
        networks = {"student": run.objective.student, "teacher": run.objective.teacher, **run.frozen}
        for name, network in networks.items():
            for module in network.modules():
                if hasattr(module, "blocks"):
                    module.blocks[0].register_forward_pre_hook(lambda *_, name=name: self.made.append(name))

    @hookimpl
    def before_step(self, step: int) -> None:
        self.made.append(f"step {step}")

    @hookimpl(trylast=True)
    def on_finish(self, run: Any) -> None:
        path = run.path_for("passes") / f"rank-{run.peers.rank}"
        path.write_text("\n".join(self.made), encoding="utf-8")


class AsksAlone:
    """One process asks for a checkpoint."""

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            run.request_checkpoint("one of two wants it")


class FailsAtEnd:
    """On the process that is not the main one, in its last hooks; and nothing is told there."""

    observer = True

    @hookimpl
    def on_event(self, run: Any) -> None:
        assert run.is_main

    @hookimpl
    def on_picture(self, run: Any) -> None:
        assert run.is_main

    @hookimpl
    def on_finish(self, run: Any) -> None:
        run.picture("nothing", run.directory / "nothing.png")
        if is_other(run):
            raise ValueError("in the last hook")


class FailsInTeardown:
    @hookimpl
    def teardown(self, run: Any) -> None:
        if is_other(run):
            raise ValueError("behind the last hook")


class FailsInHeader:
    @hookimpl
    def header_lines(self) -> list[str]:
        raise ValueError("on the main process alone")


class FailsInStart:
    @hookimpl
    def on_start(self, run: Any) -> None:
        if is_other(run):
            raise ValueError("on another process alone")


class CompilesBlocks:
    @hookimpl
    def configure_model(self, run: Any, objective: Any) -> None:
        for network in (objective.student, objective.teacher):
            for block in network.backbone.blocks:
                block.compile(backend="aot_eager", dynamic=False)


class AsksOthers:
    """One process asks all of something, which nobody else does; where `ASKS` is `both` the others ask more."""

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            run.peers.gathered("of the one")
        elif step == 3 and os.environ["ASKS"] == "both":
            self.ask(run)

    def ask(self, run: Any) -> None:
        run.peers.gathered(["of", "the others"])


class AsksFirst:
    """One process fails before it asks, and goes on without this observer."""

    observer = True

    @hookimpl(tryfirst=True)
    def after_step(self, run: Any, step: int) -> None:
        if step == 3:
            if is_other(run):
                raise ValueError("before it asks")
            run.peers.gathered("first")


class AsksSecond:
    observer = True

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 3:
            run.peers.gathered("second")


class StudentNorm:
    """Of weights of which each process may have a shard."""

    observer = True

    @hookimpl
    def after_step(self, run: Any) -> None:
        norms = [parameter.detach().norm() for parameter in run.objective.student.parameters()]
        run.metrics.record("student_norm", torch.stack(norms).norm())


class FailsInLook:
    observer = True

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        with run.objective.evaluation() as backbone:
            crops = torch.zeros(1, run.config.model.in_channels, 32, 32)
            if step == 3 and is_other(run):
                raise ValueError("in the middle of a look")
            backbone(crops)


class SeenByOne(SyntheticImages):
    """One process cannot read some: those that `UNSEEN` names, for the reason that it begins with. With `until 4`, only
    before step 4."""

    def __init__(self, run: Any) -> None:
        super().__init__(5)
        self.run = run

    def describe(self, index: int) -> str:
        return f"kept/{index}.png"

    def __getitem__(self, index: int) -> Any:
        why, *numbers = os.environ["UNSEEN"].split()
        if is_other(self.run) and str(index) in numbers and (why != "until" or self.run.step < 3):
            if why == "memory":
                raise MemoryError("no memory")
            raise BadImageError(f"{index}.png", "missing", "no such file on this node")
        return super().__getitem__(index)


class LooksAtSome:
    """What is looked at is kept apart from what is trained on."""

    @hookimpl(tryfirst=True)
    def build_loader(self, run: Any) -> None:
        run.validation, run.validation_tone = SeenByOne(run), run.views.tone


class LooksAtTrained:
    """What is looked at of the images that are trained on."""

    @hookimpl(tryfirst=True)
    def build_loader(self, run: Any) -> None:
        run.dataset = SeenByOne(run)  # the loader has been given the other one


class FewerPhotos:
    """One process has a version of a package that lacks some photographs."""

    @hookimpl
    def configure_runtime(self, run: Any) -> None:
        from bigrun_demo import photos

        if run.peers.rank == run.peers.size - 1:
            photos.PHOTOS["sklearn"] = photos.PHOTOS["sklearn"][1:]
