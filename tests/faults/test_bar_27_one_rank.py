"""Bar 27: an infinite gradient on one process. All processes leave the step out, or their weights would part for ever.

The strategy here does nothing but agree, over a real process group of two processes, each of which has its own run. So
it is the loop that is tested: its one decision is that of all. With DDP and FSDP2: tests/engine/test_peers.py and
test_fsdp.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from bigrun import hookimpl
from bigrun.strategy import Agreement, SingleProcess
from bigrun.testing.runner import Runner


class TwoProcesses(SingleProcess):
    """Two runs that agree; each has rank 0 for its draws, so that they are equal."""

    def agree(self, finite: Sequence[Tensor], *, stop: bool, failed: int) -> Agreement:
        mine = super().agree(finite, stop=stop, failed=failed)
        facts = torch.tensor([not mine.healthy, mine.stop], dtype=torch.int64)
        dist.all_reduce(facts, op=dist.ReduceOp.MAX)
        return Agreement(not facts[0], bool(facts[1]), mine.failed)


class OneBadGradient:
    """Joins the run to the other one; the gradient of process 1 is infinite in step 3."""

    @hookimpl
    def extra_views(self, run: Any) -> dict[str, Any]:
        run.strategy = TwoProcesses(run.config.hardware)
        return {}

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        if step == 3 and dist.get_rank() == 1:
            next(run.objective.student.parameters()).grad.flatten()[0] = float("inf")


def take_part(folder: Path, rank: int) -> None:
    """What each of the two processes does; writes what came of it."""
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    (folder / str(rank)).mkdir()
    result = Runner(folder / str(rank)).run(steps=5, companions=[OneBadGradient()])
    weights = sorted((name, float(tensor.double().sum())) for name, tensor in result.parameters.items())
    told = [(e.step, e.facts["anomaly"], e.facts["action"]) for e in result.events if e.kind == "anomaly"]
    facts = {"code": result.exit_code, "losses": result.losses, "weights": weights, "told": told}
    (folder / f"{rank}.json").write_text(json.dumps(facts))
    dist.destroy_process_group()


@pytest.mark.slow
def test_bar_27_an_infinite_gradient_on_one_process_is_skipped_on_all(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    processes = [Popen([*command, str(rank)], stderr=PIPE, text=True) for rank in (0, 1)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    zero, one = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert zero == one
    assert zero["code"] == 0
    assert zero["told"] == [[3, "nonfinite", "skip"]]
    assert len(zero["losses"]) == 4


if __name__ == "__main__":
    take_part(Path(sys.argv[1]), int(sys.argv[2]))
