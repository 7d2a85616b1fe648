"""What the dashboard shows of a run, part by part. Text of the run is never markup, and nothing a terminal obeys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigrun.checkpoint.space import human_bytes
from bigrun.record.pace import number
from bigrun.record.reason import Gravity, Reason
from bigrun.record.status import epoch_seconds
from bigrun.record.words import duration
from bigrun.terminal import printable
from bigrun_watch.block import Block
from bigrun_watch.sparkline import BLOCKS, sparkline

if TYPE_CHECKING:
    from rich.text import Text

    from bigrun.record.record import RunRecord

__all__ = ["checkpoints", "curves", "events", "machine", "metric_names", "plain", "reasons", "speed"]

FIRST = ("loss", "loss/", "probe/", "health/", "band/", "learning_rate", "grad_norm", "grad_norm/")
"""Metrics of these names, or that begin with one that ends in a slash, are shown first and in this order."""
OF_SPEED = ("images_per_second", "data_wait_fraction", "steps_per_second", "mfu_fraction")
STALE_SECONDS = 120.0
STYLES = {"error": "bold red", "warning": "yellow"}
POINTS = 4
"""Points of a curve for each of its characters."""


def plain(value: Any, style: str = "") -> Text:
    """Anything that a run says, as one line of text that is shown as it is."""
    from rich.text import Text

    return Text(printable(" ".join(str(value).split())), style=style, no_wrap=True)


# -- numbers ------------------------------------------------------------------------------------------------------


def curves(record: RunRecord, width: int | None, skipped: int = 0, shades: str = BLOCKS) -> Block:
    """A row for every metric: name, newest number, curve.

    Args:
        skipped: so many of the first ones are passed over.
    """
    names = metric_names(record)
    shown = names[min(skipped, max(len(names) - 1, 0)) :]
    beyond = f", from number {len(names) - len(shown) + 1} on" if len(shown) < len(names) else ""
    return Block(
        f"{len(names)} metrics{beyond}", list(rows_of(record, shown, width, shades)) or [plain("none yet", "dim")], 6
    )


def metric_names(record: RunRecord) -> list[str]:
    """Every metric but those that `speed` shows, the most wanted first."""
    return sorted((name for name in record.names() if name not in OF_SPEED), key=rank)


def rank(name: str) -> tuple[int, str]:
    found = (n for n, first in enumerate(FIRST) if name == first or (first[-1] == "/" and name.startswith(first)))
    return next(found, len(FIRST)), name


def rows_of(record: RunRecord, names: Sequence[str], width: int | None, shades: str) -> Iterator[Text]:
    wide = min(max(map(len, names), default=0), 28 if width is None else max(width // 3, 8))
    room = 40 if width is None else max(width - wide - 14, 0)
    for name in names:
        yield row_of(record, name, name, wide, room, shades)


def row_of(record: RunRecord, name: str, label: str, wide: int, room: int, shades: str, factor: float = 1.0) -> Text:
    """`loss  7.812  ▇▅▃▂▁`."""
    steps, values = record.curve(name, POINTS * room + 1)
    value = record.newest(name)
    row = plain(label)
    row.truncate(wide, overflow="ellipsis", pad=True)
    is_finite = bool(record.metrics) and (
        name not in record.metrics[-1] or number(record.metrics[-1], name) is not None
    )
    row.append(f"  {'-' if value is None else f'{value * factor:.4g}':>9}  ", style="bold" if is_finite else "bold red")
    return row.append(sparkline(steps, values, room, shades), style="cyan" if is_finite else "red")


def speed(record: RunRecord, width: int | None, shades: str = BLOCKS) -> Block:
    """Images a second and the wait for them, now and over the run."""
    pace, room = record.pace, 40 if width is None else max(width - 28, 0)
    lines = [
        row_of(record, name, label, 14, room, shades, factor)
        for name, label, factor in (
            ("images_per_second", "images/s", 1.0),
            ("data_wait_fraction", "data wait, %", 100.0),
            ("mfu_fraction", "MFU, %", 100.0),
        )
        if record.newest(name) is not None
    ]
    if pace.steps_per_second is not None:
        share = "" if pace.data_wait_fraction is None else f", {pace.data_wait_fraction:.0%} of it waiting for images"
        images = "" if pace.images_per_second is None else f", {pace.images_per_second:.4g} images/s"
        lines.append(plain(f"last {duration(pace.seconds)}: {pace.steps_per_second:.3g} steps/s{images}{share}"))
    return Block("speed", lines or [plain("no row of metrics yet", "dim")], 3)


# -- the machine --------------------------------------------------------------------------------------------------


def machine(record: RunRecord) -> Block:
    """Memory, heat, power, clock and what holds it down, by the newest row of telemetry."""
    if not record.telemetry:
        return Block("machine", [plain("no telemetry: its plugin is not active, or has not looked yet", "dim")], 1)
    row, age = record.telemetry[-1], record.telemetry_age_seconds
    is_old = age is not None and age > STALE_SECONDS
    title = f"machine, {duration(age)} ago" if is_old and age is not None else "machine"
    texts = [text for text in (gpu(row), held_down(row), gpu_memory(row), host(row)) if text]
    up = row.get("flags")
    lines = [plain(f"flags: {', '.join(map(str, up))}", "bold yellow")] if isinstance(up, list) and up else []
    lines += [plain(text, "dim" if is_old else "") for text in texts]
    return Block(title, lines or [plain("nothing is known of it", "dim")], 3)


def gpu(row: Mapping[str, Any]) -> str:
    """`71 °C (hot spot 84), 280 of 450 W, 2520 MHz of 2700, fan 61 %, busy 99 %`."""
    hot, most, limit = (
        number(row, f"gpu_{name}") for name in ("hotspot_celsius", "clock_max_mhz", "power_limit_watts")
    )
    parts = [
        said(row, "gpu_temperature_celsius", "{:.0f} °C" + ("" if hot is None else f" (hot spot {hot:.0f})")),
        said(row, "gpu_power_watts", "{:.0f}" + (" W" if limit is None else f" of {limit:.0f} W")),
        said(row, "gpu_clock_mhz", "{:.0f} MHz" + ("" if most is None else f" of {most:.0f}")),
        said(row, "gpu_fan_fraction", "fan {:.0%}"),
        said(row, "gpu_busy_fraction", "busy {:.0%}"),
    ]
    known = ", ".join(part for part in parts if part)
    return f"GPU: {known}" if known else ""


def held_down(row: Mapping[str, Any]) -> str:
    reasons = row.get("gpu_throttle")
    if not isinstance(reasons, list):
        return ""
    return f"clock held down by: {', '.join(map(str, reasons))}" if reasons else "clock not held down"


def gpu_memory(row: Mapping[str, Any]) -> str:
    used, total, peak = (
        number(row, n) for n in ("gpu_memory_used_bytes", "gpu_memory_total_bytes", "torch_peak_bytes")
    )
    parts = [f"{human_bytes(used)} of {human_bytes(total)}"] if used is not None and total else []
    parts += [f"tensors took {human_bytes(peak)} at most"] if peak else []
    return f"GPU memory: {', '.join(parts)}" if parts else ""


def host(row: Mapping[str, Any]) -> str:
    names = ("host_memory_available_bytes", "host_memory_total_bytes", "process_rss_bytes", "disk_free_bytes")
    free, total, own, disk = (number(row, name) for name in names)
    parts = [f"{human_bytes(free)} of {human_bytes(total)} memory free"] if free is not None and total else []
    parts += [f"run {human_bytes(own)}"] if own else []
    parts += [said(row, "cpu_busy_fraction", "CPU {:.0%}"), said(row, "cpu_temperature_celsius", "{:.0f} °C")]
    parts += [f"disk {human_bytes(disk)} free"] if disk is not None else []
    known = ", ".join(part for part in parts if part)
    return f"host: {known}" if known else ""


def said(row: Mapping[str, Any], name: str, form: str) -> str:
    value = number(row, name)
    return "" if value is None else form.format(value)


# -- what happened ------------------------------------------------------------------------------------------------


def checkpoints(record: RunRecord) -> Block:
    """The newest first. The run reads back every one before it publishes it; here sizes are compared."""
    found = [entry for entry in record.checkpoints() if entry.step is not None]
    lines = [plain(text, STYLES["error"]) for text in record.unreadable]
    for entry in sorted(found, key=lambda entry: (entry.folder != "checkpoints", -(entry.step or 0))):
        made = epoch_seconds(entry.created_utc)
        age = "" if made is None else f", {duration(record.read_at - made)} ago"
        trouble = f"; {'; '.join(entry.problems)}" if entry.problems else ""
        marked = f"; after {', '.join(entry.anomalies)}" if entry.anomalies else ""
        text = f"{entry.label}: {entry.condition}, {human_bytes(entry.bytes)}{age}{marked}{trouble}"
        lines.append(plain(text, STYLES["error"] if entry.condition == "damaged" else ""))
    return Block(f"checkpoints ({len(found)})", lines or [plain("none yet", "dim")], 1)


def events(record: RunRecord, most: int = 100) -> Block:
    """The newest last."""
    lines = []
    for event in record.events[-most:]:
        moment = epoch_seconds(event.get("time_utc"))
        age = "" if moment is None else f"{duration(max(record.read_at - moment, 0.0))} ago, "
        message = event["message"].removeprefix(f"step {event['step']}: ")  # as that of an anomaly begins
        text = f"{age}step {event['step']:,}, {event['kind']}: {message}"
        lines.append(plain(text, STYLES.get(str(event.get("level")), "")))
    return Block("events", lines or [plain("none: no log of them is written, or nothing has happened", "dim")], 3, True)


def reasons(found: Sequence[Reason]) -> Block | None:
    """Everything besides the first line that is worth a look, with causes and advice; None where there is nothing."""
    from rich.text import Text

    lines: list[Text] = []
    for reason in found:
        lines.append(plain(f"- {reason.text}", "" if reason.gravity == Gravity.NOTE else "bold"))
        lines += [Text("  ") + plain(f"likely: {cause}") for cause in reason.causes[:2]]
        lines += [Text("  ") + plain(f"try: {advice}") for advice in reason.advice[:3]]
    return Block("why, and what to try", lines, 2) if lines else None
