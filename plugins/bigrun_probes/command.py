"""`bigrun eval`: what a checkpoint's features know. Imports when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bigrun.command_options import device_option, overridden
from bigrun_probes.config import LABELS, NAMES, TABLE

if TYPE_CHECKING:
    from bigrun.errors import ConfigError, UsageError

__all__ = ["eval_"]

PATH = click.Path(path_type=Path)
SPELLED = {"probes": "probe"}
"""Options of the command that are called otherwise in the configuration."""


@click.command("eval")
@click.argument("source", metavar="CHECKPOINT|RUN", type=PATH)
@click.option("--probe", "probes", multiple=True, type=click.Choice(NAMES), help="What to ask; several may be given.")
@click.option("--path", type=PATH, metavar="DIR", help="Ask about the images of this folder, not the run's own.")
@click.option("--labels", type=click.Choice(LABELS), help="Where labels come from: plugins.probes.labels.")
@click.option("--labels-file", type=PATH, metavar="FILE", help="A CSV file of the columns path and label.")
@click.option("--masks", type=PATH, metavar="DIR", help="PNG files of classes at the relative paths of the images.")
@click.option("--k", type=int, metavar="N", help="Neighbours that vote.  [default: 10]")
@click.option("--images", type=int, metavar="N", help="At most so many images.  [default: 1024]")
@click.option("--student", is_flag=True, help="Ask the student instead of the teacher.")
@click.option(
    "--min",
    "least",
    multiple=True,
    metavar="NAME=VALUE",
    help="Exit with 1 if the value is smaller: knn=0.8, or the name of a metric, retrieval_top5=0.5.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object.")
@click.option("--out", type=PATH, metavar="FILE", help="Write that object to a file, too.")
@overridden
@device_option
def eval_(
    source: Path,
    probes: tuple[str, ...],
    least: tuple[str, ...],
    student: bool,
    as_json: bool,
    out: Path | None,
    sets: tuple[str, ...],
    plugins: tuple[str, ...],
    no_plugins: tuple[str, ...],
    **options: Any,
) -> None:
    """Ask a checkpoint's features what nobody has taught them.

    CHECKPOINT is a checkpoint's directory; of a run directory the newest verified one is taken, while the run goes on.
    Nothing is written there. Without labels and masks, from here or from the run's configuration, view retrieval alone
    can be asked for. It computes on the CPU unless --device says otherwise: the GPU is the run's.

    The exit code is 0 if every --min is met, 1 if one is not, 2 if it cannot be known.
    """
    from bigrun.errors import BigrunError, ConfigError, UsageError
    from bigrun.interruption import Interrupted, interrupting
    from bigrun.out_file import write_out
    from bigrun.terminal import say
    from bigrun_probes.evaluate import evaluate
    from bigrun_probes.thresholds import judged, parsed

    thresholds = parsed(least)
    if out is not None:
        require_free(out, source)
    given = {"probes": list(probes) or None, **options}
    chosen = {name: as_option(value) for name, value in given.items() if value is not None}
    try:
        with interrupting():
            found = evaluate(
                source, chosen, student=student, sets=("hardware.device=cpu", *sets), plugins=plugins,
                no_plugins=no_plugins, say=lambda line: say(line, error=True),
            )  # fmt: skip
        found["thresholds"] = judged(thresholds, {name: row["value"] for name, row in found["values"].items()})
        if out is not None:
            write_out(out, (json.dumps(found, indent=2) + "\n").encode())
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    except ConfigError as error:
        raise by_option(error, chosen) from None
    except UsageError:
        raise
    except BigrunError as error:  # exit code 1 says that a value is too small
        raise UsageError(str(error)) from error
    for line in [json.dumps(found)] if as_json else lines(found):
        say(line)
    if not all(row["met"] for row in found["thresholds"]):
        sys.exit(1)


def by_option(error: ConfigError, chosen: Mapping[str, Any]) -> UsageError:
    """The same refusal; what the command line has brought in is called what it is called there, and not after the
    checkpoint's configuration, which has another value."""
    from bigrun.errors import ConfigError, UsageError

    options = {f"{TABLE}.{name}": "--" + SPELLED.get(name, name).replace("_", "-") for name in chosen}
    typed = [f"{options[path]}: {text}" for path, text in error.problems if path in options]
    others = [problem for problem in error.problems if problem[0] not in options]
    if not typed:
        return error
    return UsageError("\n".join([*typed, *([str(ConfigError(error.source, others))] if others else [])]))


def as_option(value: Any) -> Any:
    """A path as the configuration has it: from wherever a run may be started."""
    return str(value.absolute()) if isinstance(value, Path) else value


def require_free(out: Path, source: Path) -> None:
    """Raises: UsageError when it would be in a run directory or a checkpoint, or cannot be written."""
    from bigrun.checkpoint.layout import CHECKPOINTS, EMERGENCY
    from bigrun.evaluation.outcome import require_outside
    from bigrun.out_file import require_place

    require_place(out)
    home = source.resolve()
    require_outside(out, home.parent.parent if home.parent.name in (CHECKPOINTS, EMERGENCY) else home)


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Which checkpoint, which images, a table of values, and the thresholds."""
    from bigrun.listing import table
    from bigrun_probes.health import TITLES, shown

    yield f"checkpoint   {found['checkpoint']}"
    yield f"identity     step {found['step']}, saved {found['created_utc']}, manifest sha256 {found['manifest_sha256']}"
    yield f"network      {found['network']}, on {found['device']} in {found['precision']}"
    yield f"asked        {found['set']['summary']}"
    columns = ("value", "before_step_1", "raw_pixels", "chance")
    rows = (
        (TITLES[name], *(shown(name, row.get(column)) for column in columns), f"{row['asked']:,}")
        for name, row in found["values"].items()
    )
    yield from table(("probe", "value", "before step 1", "raw pixels", "chance", "images"), rows).splitlines()
    if not found["values"]:
        yield "nothing is measured: the features are not finite"
    for row in found["thresholds"]:
        verdict = "met" if row["met"] else "not met"
        yield f"{verdict:<12} {row['metric']} is {row['value']:.4g}, expected {row['least']:g} or more"
