"""The options of reference-band."""

from __future__ import annotations

import attrs

from bigrun import option
from bigrun.options import at_least, not_blank

__all__ = ["BandConfig"]


@attrs.frozen
class BandConfig:
    """Which band the run is compared with, and how patiently."""

    file: str | None = option(
        None,
        check=not_blank(),
        help="The band, a file of `bigrun band`; absent: NAME.band.json beside the preset NAME.toml.",
    )
    hold_rows: int = option(
        3,
        check=at_least(0),
        help="A metric has left its band when more rows than these, one after the other, are outside; it is back when "
        "as many are inside.",
    )
    force: bool = option(False, help="Compare although the run has other options than those of the band.")
