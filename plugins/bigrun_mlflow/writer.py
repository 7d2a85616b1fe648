"""The process that has mlflow: one of its runs for each run directory, continued by each start."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bigrun.directory import replace_file
from bigrun.scribe.child import Announce, serve

__all__ = ["MlflowWriter"]

MEMORY = Path("bigrun.json")
"""In the plugin's folder: the run's id, where it is, and how many starts there were."""
EVENTS = 1000
"""Events that become tags, at most, in all starts: MLflow keeps each in a file or a row, and shows all at once."""
STORE = "store"
NAME_LENGTH, PARAMETER_LENGTH, TAG_LENGTH, BATCH = 250, 500, 5000, 100
"""What MLflow 2.14 takes; later versions take more."""
ENDS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "died": "FAILED", "rolled-back": "RUNNING"}


class MlflowWriter:
    """Metrics by the optimizer's step, with the metric `start` beside: MLflow never takes a point back. A run that goes
    back to a checkpoint takes steps again, and they stand there twice; the point with the higher `start`, which is also
    the later one, is valid."""

    def __init__(self, settings: Mapping[str, Any], announce: Announce) -> None:
        from mlflow import MlflowClient

        memory = json.loads(MEMORY.read_text(encoding="utf-8")) if MEMORY.exists() else {}
        self._start, self._events = memory.get("starts", 0), memory.get("events", 0)
        self._store = memory.get("store", STORE)
        self._uri = settings["tracking_uri"] or (Path.cwd() / self._store).as_uri()
        if memory and memory["place"] != self._place and not settings["tracking_uri"]:
            self._store = f"{STORE}-{self._start}"  # in a store are the paths of where it was made
            self._uri = (Path.cwd() / self._store).as_uri()
        self._client = MlflowClient(self._uri)
        self._id = memory["id"] if memory and memory["place"] == self._place else self._create(settings)
        if memory and memory["id"] != self._id:
            announce(f"what was recorded is elsewhere; a new run of MLflow at {self._uri}", "warning")
        self._remember()
        self._client.update_run(self._id, status="RUNNING")
        self._write_parameters(settings)
        self._tag(f"start.{self._start}", f"after step {settings['step']}")

    def metrics(self, step: int, values: Mapping[str, float], time_seconds: float) -> None:
        from mlflow.entities import Metric

        rows = [*values.items(), ("start", float(self._start))]
        points = [Metric(clean(name), value, int(time_seconds * 1000), step) for name, value in rows]
        self._client.log_batch(self._id, metrics=points)

    def event(self, step: int, kind: str, level: str, message: str, time_utc: str) -> None:
        self._events += 1
        if self._events > EVENTS:
            return
        last = "; later ones are in events.jsonl of the run directory only" if self._events == EVENTS else ""
        self._tag(f"event.{self._events:04d}", f"{time_utc} step {step} {level} {kind}: {message}{last}")
        self._remember()

    def picture(self, step: int, name: str, path: str) -> None:
        from PIL import Image

        with contextlib.suppress(FileNotFoundError), Image.open(path) as image:  # rotated away before its turn came
            self._client.log_image(self._id, image, key=clean(name.removesuffix(".png")), step=step)

    def checkpoint(self, step: int, path: str) -> None:
        self._tag("checkpoint.step", str(step))
        self._tag("checkpoint.path", path)

    def finish(self, status: str) -> None:
        self._tag("status", status)
        if ENDS[status] != "RUNNING":
            self._client.set_terminated(self._id, ENDS[status])

    @property
    def _place(self) -> str:
        """Where the run is; a URI may have a password in it."""
        return hashlib.sha256(self._uri.encode()).hexdigest()

    def _create(self, settings: Mapping[str, Any]) -> str:
        found = self._client.get_experiment_by_name(settings["experiment"])
        experiment = found.experiment_id if found else self._client.create_experiment(settings["experiment"])
        return str(self._client.create_run(experiment, run_name=settings["name"]).info.run_id)

    def _write_parameters(self, settings: Mapping[str, Any]) -> None:
        """Parameters of MLflow never change: what a later start has otherwise is a tag."""
        from mlflow.entities import Param

        texts = {clean(name): str(value)[:PARAMETER_LENGTH] for name, value in flat(settings["config"])}
        known = self._client.get_run(self._id).data.params
        new = [Param(name, text) for name, text in texts.items() if name not in known]
        for begin in range(0, len(new), BATCH):
            self._client.log_batch(self._id, params=new[begin : begin + BATCH])
        for name, text in texts.items():
            if known.get(name, text) != text:
                self._tag(f"start.{self._start}.{name}", text)
        self._tag("header", "\n".join(settings["header"]))

    def _tag(self, name: str, text: str) -> None:
        self._client.set_tag(self._id, name[:NAME_LENGTH], text[:TAG_LENGTH])

    def _remember(self) -> None:
        facts = {"id": self._id, "place": self._place, "store": self._store}
        counts = {"starts": self._start + 1, "events": self._events}
        replace_file(MEMORY, json.dumps(facts | counts).encode())


def clean(name: str) -> str:
    """A name as MLflow takes it: letters, digits, and some signs. Its file store makes a folder of what is before a
    slash, and has no room for the metric `loss` beside `loss/ibot`: they become `loss` and `loss.ibot`."""
    return re.sub(r"[^\w.\- :]", "_", name.replace("/", "."))[:NAME_LENGTH]


def flat(tables: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Options by their dotted names; those without a value are left out."""
    for name, value in tables.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            yield from flat(value, here)
        elif value is not None:
            yield here, value


if __name__ == "__main__":
    sys.exit(serve(MlflowWriter))
