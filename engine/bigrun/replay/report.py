"""What a replay found, in lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bigrun.replay.births import Birth
    from bigrun.replay.replay import Replayed

__all__ = ["report_lines"]

IMAGES_SHOWN = 8


def report_lines(replayed: Replayed) -> Iterator[str]:
    """The step, its images, its numbers beside those of the first time, and where the first bad value came from."""
    yield f"step {replayed.step}, replayed from {replayed.checkpoint}"
    for number, names in enumerate(replayed.images):
        more = f" and {len(names) - IMAGES_SHOWN} more" if len(names) > IMAGES_SHOWN else ""
        yield f"  micro-batch {number}: {', '.join(names[:IMAGES_SHOWN])}{more}"
    yield from value_lines(replayed)
    yield from (f"  reported: {anomaly.message}" for anomaly in replayed.anomalies)
    if replayed.bad_tensors:
        yield f"  not finite in the checkpoint already: {', '.join(replayed.bad_tensors[:20])}"
    if not replayed.births:
        yield "every operation gave finite values"
    for number, birth in enumerate(replayed.births):
        yield "the first value that is not finite:" if number == 0 else "the next that came of finite values:"
        yield from birth_lines(birth)


def value_lines(replayed: Replayed) -> Iterator[str]:
    recorded = replayed.recorded
    if recorded is None:
        yield "  there is no record of the first time; the numbers of now:"
        recorded = replayed.values
    differ = [name for name in recorded if recorded[name] != replayed.values.get(name)]
    if not differ and replayed.recorded is not None:
        yield f"  all {len(recorded)} numbers are those of the first time, bit for bit; among them"
    for name in sorted(replayed.values, key=lambda name: (name not in differ, name)):
        then = "" if name not in differ else f", the first time {show(recorded.get(name, 'none'))}"
        yield f"    {name} {show(replayed.values[name])}{then}"


def show(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def birth_lines(birth: Birth) -> Iterator[str]:
    yield f"  where      {birth.phase}{', ' + birth.module if birth.module else ''}"
    yield f"  operation  {birth.operation}"
    yield f"  source     {birth.source or 'unknown'}"
    yield from (f"  from       {look}" for look in birth.inputs)
    yield f"  came       {birth.output}"
