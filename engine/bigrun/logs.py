"""The logs of a run and the events that tell its story, by name: who writes them and who reads them agree here.

Plugins write the logs, and others beside them; what is named here is what `bigrun.record` reads.
"""

from __future__ import annotations

__all__ = [
    "ANOMALY",
    "ANOMALY_OVER",
    "CHECKPOINT",
    "ERROR",
    "EVENTS",
    "FINISHED",
    "METRICS",
    "STARTED",
    "STOPPED",
    "TELEMETRY",
]

METRICS = "metrics.jsonl"
"""A row for every so many steps."""
EVENTS = "events.jsonl"
"""A row for everything that happened."""
TELEMETRY = "telemetry.jsonl"
"""A row for every look at the hardware."""

STARTED = "started"
"""The kind of event with which a process begins."""
FINISHED, STOPPED, ERROR = "finished", "stopped", "error"
"""Those with which one ends: after the last step; on request, with `facts.reason`; by an error of `facts.type`."""
CHECKPOINT = "checkpoint"
"""A checkpoint was published."""
ANOMALY, ANOMALY_OVER = "anomaly", "anomaly-over"
"""Something is wrong; one that lasted (`facts.lasts`) is over."""
