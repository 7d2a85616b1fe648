"""Which view options fit the number of channels. Torch-free: it is asked before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bigrun.sections import Views

__all__ = ["check_channels"]


def check_channels(section: Views, channels: int) -> Iterator[tuple[str, str]]:
    """Problems of [views] with images of `channels` channels, as (option, what is wrong)."""
    for option in ("mean", "std"):
        values = getattr(section, option)
        if len(values) != channels:
            yield option, f"expected {channels} values (model.in_channels), got {len(values)}: {list(values)}"
    if channels != 3:
        for option in ("colour_probability", "grayscale_probability"):
            value = getattr(section, option)
            if value > 0:
                yield option, f"expected 0 because model.in_channels = {channels} is not RGB, got {value}"
