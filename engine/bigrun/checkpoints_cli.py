"""`bigrun checkpoints`: look at the checkpoints of a run, check, compare and remove them. Imports when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bigrun.terminal import printable, say

if TYPE_CHECKING:
    from bigrun.checkpoint.listing import Entry

__all__ = ["checkpoints"]

RUN = click.argument("run", type=click.Path(path_type=Path))


@click.group()
def checkpoints() -> None:
    """List, verify, compare and remove the checkpoints of a run.

    RUN is a run directory. Nothing that is read is executed, and only `prune` changes anything.
    """


@checkpoints.command("list")
@RUN
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="A measured value to show.  [default: loss]")
@click.option("--verify", is_flag=True, help="Read every byte, instead of comparing sizes.")
@click.option("--json", "as_json", is_flag=True, help="For programs: a list of objects, with every measured value.")
def list_(run: Path, metrics: tuple[str, ...], verify: bool, as_json: bool) -> None:
    """One line for each checkpoint: when it was saved, its size, what was wrong before it, what was measured; and in
    how many pieces it is, where one was written by several processes.

    Emergency checkpoints follow, and whatever else lies there.
    """
    import json

    import attrs

    from bigrun.checkpoint.listing import look
    from bigrun.listing import table

    entries = look(run, verify=verify)
    if as_json:
        click.echo(json.dumps([attrs.asdict(entry) for entry in entries], indent=2))
        return
    shown = metrics or ("loss",)
    has_pieces = any(entry.pieces > 1 for entry in entries)
    titles = ("checkpoint", "saved (UTC)", "size", *["pieces"] * has_pieces, "health", *shown, "condition")
    for line in table(titles, (row(entry, shown, has_pieces) for entry in entries)).splitlines():
        say(line)


def row(entry: Entry, metrics: tuple[str, ...], has_pieces: bool) -> tuple[str, ...]:
    from bigrun.checkpoint.space import human_bytes

    is_good = entry.condition in ("verified", "complete")
    values = (f"{entry.measured[name]:.6g}" if name in entry.measured else "-" for name in metrics)
    meaning = {"foreign": "no checkpoint: ignored", "unfinished": "being written, or cleared away at the next start"}
    notes = [meaning.get(entry.condition, entry.condition), *entry.problems[:1], *entry.stays]
    cells = (
        entry.label,
        (entry.created_utc or "-")[:19].replace("T", " "),
        human_bytes(entry.bytes) if entry.bytes else "-",
        *[str(entry.pieces) if is_good else "-"] * has_pieces,
        (", ".join(entry.anomalies) or "healthy") if is_good else "-",
        *values,
        "; ".join(notes),
    )
    return tuple(printable(cell).replace("\n", "\\n").replace("\t", "\\t") for cell in cells)


@checkpoints.command()
@RUN
@click.argument("steps", type=int, nargs=-1, metavar="[STEP]...")
def verify(run: Path, steps: tuple[int, ...]) -> None:
    """Read every byte of all checkpoints, or of those of each STEP, and compare it with its hash.

    RUN may also be the directory of one checkpoint. The exit code is 1 if one is damaged.
    """
    from bigrun.checkpoint.listing import find_checkpoints, verify_one
    from bigrun.checkpoint.space import human_bytes

    damaged = 0
    for path in find_checkpoints(run, steps):
        size, problems = verify_one(path)
        damaged += bool(problems)
        say(f"{path}: {'damaged' if problems else 'verified'} ({human_bytes(size)})")
        for problem in problems:
            say(f"  {problem}")
    if damaged:
        click.get_current_context().exit(1)


@checkpoints.command()
@click.argument("places", nargs=-1, required=True, metavar="A B | RUN STEP STEP")
@click.option(
    "--limit", type=click.IntRange(min=1), default=10, metavar="N", help="So many lines of each kind.  [default: 10]"
)
def diff(places: tuple[str, ...], limit: int) -> None:
    """Compare two checkpoints: configuration, facts and tensors.

    Tensors are compared one at a time, and told by parts of the network, the most changed first. The exit code is 0
    if the two are equal bit for bit, 1 if they differ, 2 if they cannot be compared, as that of `diff`.
    """
    from bigrun.checkpoint.difference import compare, describe

    difference = compare(*two_checkpoints(places))
    for line in describe(difference, limit):
        say(line)
    if not difference.is_equal:
        click.get_current_context().exit(1)


def two_checkpoints(places: tuple[str, ...]) -> tuple[Path, Path]:
    from bigrun.checkpoint.listing import find_step
    from bigrun.errors import UsageError

    if len(places) == 2:
        return Path(places[0]), Path(places[1])
    if len(places) == 3 and places[1].isdecimal() and places[2].isdecimal():
        return find_step(Path(places[0]), int(places[1])), find_step(Path(places[0]), int(places[2]))
    raise UsageError("expected two checkpoints, A B, or a run and two steps, RUN STEP STEP")


@checkpoints.command()
@RUN
@click.option("--keep-last", type=click.IntRange(min=2), required=True, metavar="N", help="The newest N stay.")
@click.option("--keep-every", type=click.IntRange(min=1), metavar="N", help="Those of every N steps stay.")
@click.option("--keep", "keep", type=int, multiple=True, metavar="STEP", help="The one of this step stays.")
@click.option(
    "--keep-healthy/--no-keep-healthy",
    default=True,
    help="The last one before which no anomaly was reported stays; so it does unless --no-keep-healthy is given.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go, and why the others stay.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(
    run: Path,
    keep_last: int,
    keep_every: int | None,
    keep: tuple[int, ...],
    keep_healthy: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Remove old checkpoints of a run that is not in use, after a question.

    Only verified checkpoints count, and only they go; the newest two stay in any case.
    """
    import contextlib

    from bigrun.checkpoint.pruning import plan_pruning, remove, unused
    from bigrun.checkpoint.retention import Policy
    from bigrun.checkpoint.space import human_bytes

    policy = Policy(keep_last, keep_every, keep, keep_healthy)
    with contextlib.nullcontext() if dry_run else unused(run) as lock:
        plan = plan_pruning(run, policy)
        for line in plan.lines:
            say(line)
        what = f"{len(plan.goes)} of {len(plan.lines)} checkpoints, {human_bytes(plan.bytes)}"
        if lock is None or not plan.goes:
            say(f"to remove: {what}" if plan.goes else "nothing to remove")
            return
        if not yes:
            click.confirm(f"Remove {what}?", abort=True)
        remove(run, plan, lock)
        say(f"removed {what}")
