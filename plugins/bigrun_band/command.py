"""`bigrun band`: make a reference band of runs, or show one."""

from __future__ import annotations

from pathlib import Path

import click

from bigrun.finite import FiniteRange

__all__ = ["band"]


@click.command(short_help="Make a reference band of runs, or show one.")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where the band is written.")
@click.option(
    "--smooth-rows",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Rows of metrics that are averaged before anything is compared.",
)
@click.option(
    "--widen",
    type=FiniteRange(min=0),
    metavar="F",
    help="Widen the range of the runs by so many times itself to either side; absent: what makes the band "
    "3.5 standard deviations wide to either side, by the number of runs.",
)
@click.option(
    "--floor",
    type=FiniteRange(min=0, min_open=True),
    metavar="F",
    help="The least fraction of the value, or of the curve's whole range, to either side; absent: 0.02. A "
    "band of a single run needs it.",
)
@click.option(
    "--allow-other-data", is_flag=True, help="Make the band although the runs have seen other images than each other."
)
@click.option("--show", type=click.Path(path_type=Path), metavar="FILE", help="Say what is in a band.")
def band(
    runs: tuple[Path, ...], out: Path | None, smooth_rows: int, widen: float | None, floor: float | None,
    allow_other_data: bool, show: Path | None,
) -> None:  # fmt: skip
    """Make a reference band of runs of one configuration with different seeds.

    The band holds for each loss, class_spread, the entropies of the targets, koleo and probes: the smallest and the
    largest value of all runs at each step, widened. The plugin reference-band compares other runs with it.
    """
    from bigrun.errors import UsageError
    from bigrun.out_file import require_place, write_out
    from bigrun.record.record import RunRecord
    from bigrun_band.band import read_band
    from bigrun_band.describe import description
    from bigrun_band.make import make_band

    if show is not None:
        if runs or out is not None:
            raise UsageError("bigrun band: --show FILE stands alone")
        click.echo(description(read_band(show)))
        return
    if not runs or out is None:
        raise UsageError("bigrun band: expected runs and --out FILE, or --show FILE")
    require_place(out)
    records = [RunRecord(run) for run in runs]
    made = make_band(
        records, smooth_rows=smooth_rows, widen=widen, floor=floor, preset=out.name.removesuffix(".band.json"),
        other_data=allow_other_data,
    )  # fmt: skip
    write_out(out, made.as_json().encode())
    click.echo(description(read_band(out)))
