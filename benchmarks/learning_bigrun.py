"""One run of bigrun whose features are wanted: `python benchmarks/learning_bigrun.py SPEC.json`, called by learning.py.

The run is that of `bigrun run`; a companion beside its plugins hands the teacher to the log.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features import Embedding, FeatureLog

from bigrun import hookimpl
from bigrun.config import read_preset
from bigrun.session import run_training

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.run import Run


class Recorder:
    """The teacher's features at the start and after each step that is wanted."""

    def __init__(self, log: FeatureLog) -> None:
        self.features = log

    @hookimpl
    def on_start(self, run: Run) -> None:
        self.features.start()
        self._record(run, step=0)

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        self._record(run, step)

    def _record(self, run: Run, step: int) -> None:
        teacher: Any = run.objective.teacher

        def embed(crops: Tensor) -> Embedding:
            tokens = teacher.backbone(crops)
            return tokens.cls, tokens.patches, teacher.dino_head(tokens.cls)

        self.features.record(step, embed)


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    document = read_preset(spec["preset"], spec["sets"], no_plugins=spec["without"])
    with tempfile.TemporaryDirectory(prefix="bigrun-") as scratch:
        _, code = run_training(document, Path(scratch) / "run", companions={"recorder": Recorder(FeatureLog(spec))})
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
