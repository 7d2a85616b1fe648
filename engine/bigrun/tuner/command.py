"""`bigrun tune`: find the fastest settings. Imports when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bigrun.command_options import device_option, preset_options
from bigrun.finite import FiniteRange

__all__ = ["tune"]


Read = Callable[[str], Any]


def several(what: str, read: Read) -> Callable[[click.Context, click.Parameter, str | None], tuple[Any, ...] | None]:
    """A callback that reads values separated by commas; None where the option is not given."""

    def callback(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[Any, ...] | None:
        if text is None:
            return None
        try:
            return tuple(dict.fromkeys(read(word.strip()) for word in text.split(",")))
        except ValueError:
            raise click.BadParameter(f"{text!r}: expected {what}, separated by commas", ctx, param) from None

    return callback


def at_least(least: int) -> Read:
    def read(word: str) -> int:
        if int(word) < least:
            raise ValueError(word)
        return int(word)

    return read


def switch(word: str) -> bool:
    if word not in ("true", "false"):
        raise ValueError(word)
    return word == "true"


def name(word: str) -> str:
    if not word:
        raise ValueError(word)
    return word


SWITCHES = several("true, false or both", switch)


@click.command()
@preset_options
@device_option
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=10,
    metavar="N",
    help="Steps that a trial measures at least.  [default: 10]",
)
@click.option(
    "--seconds",
    type=FiniteRange(min=0),
    default=3,
    metavar="SECONDS",
    help="Seconds that a trial measures at least.  [default: 3]",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results.  [default: runs/<preset>-tune]")
@click.option(
    "--micro-batch",
    "micro_batches",
    metavar="N,N,...",
    callback=several("sizes from 1 on", at_least(1)),
    help="To try, as 8,16,32.  [default: powers of two]",
)
@click.option(
    "--workers",
    metavar="N,N,...",
    callback=several("numbers from 0 on", at_least(0)),
    help="To try, as 0,2,4,8.  [default: up to the processor's cores]",
)
@click.option(
    "--pin",
    "pin_memory",
    metavar="true,false",
    callback=SWITCHES,
    help="To try, one or both.  [default: both on a GPU]",
)
@click.option(
    "--compile", metavar="false,true", callback=SWITCHES, help="To try, one or both.  [default: both on a GPU]"
)
@click.option(
    "--attention",
    metavar="NAME,...",
    callback=several("names", name),
    help="Plugins to try.  [default: on a GPU those named ...-attention]",
)
@click.option(
    "--inflate",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Take the images in the order of a data set that is so many times as long.",
)
@click.option(
    "--trial-seconds",
    type=FiniteRange(min=1),
    default=600,
    metavar="SECONDS",
    help="Limit of one trial.  [default: 600]",
)
@click.option("--retry", is_flag=True, help="Try again what failed in an earlier start of this command.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tune(
    preset: str,
    steps: int,
    seconds: float,
    out: Path | None,
    micro_batches: tuple[int, ...] | None,
    workers: tuple[int, ...] | None,
    pin_memory: tuple[bool, ...] | None,
    compile: tuple[bool, ...] | None,
    attention: tuple[str, ...] | None,
    inflate: int,
    trial_seconds: float,
    retry: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Find the settings with which a preset trains fastest on this machine, by short runs of it.

    Micro-batch, workers, pinning, compile and attention are tried one after the other, each trial in a process of its
    own: memory that runs out, a crash or a hang is a row. The same command goes on where it was stopped. What is learnt
    depends on none of these settings.

    Exit code 0: there is a recommendation. 1: no trial succeeded.
    """
    import json

    from bigrun.config import read_preset
    from bigrun.peers.place import refuse_several
    from bigrun.terminal import say
    from bigrun.tuner.report import conclusion, line, row_line, to_json, write
    from bigrun.tuner.space import Wishes
    from bigrun.tuner.trials import Effort
    from bigrun.tuner.tune import Tuner

    refuse_several("bigrun tune")
    document = read_preset(preset, **overrides)
    directory = out or Path("runs") / f"{document.name}-tune"
    effort = Effort(steps, seconds, inflate, trial_seconds, retry)

    def tell(text: str) -> None:
        say(text, error=as_json)

    tuner = Tuner(
        document, directory, effort, lambda row: tell(row_line(row)), lambda name, text: tell(line(name, text))
    )
    found = tuner.run(Wishes(micro_batches, workers, pin_memory, compile, attention))
    write(found, directory)
    for text in [json.dumps(to_json(found))] if as_json else conclusion(found, directory):
        say(text)
    sys.exit(0 if found.best is not None else 1)
