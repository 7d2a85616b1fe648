"""The one option of both plugins."""

from __future__ import annotations

from typing import Literal

import attrs

from bigrun import option

__all__ = ["AttentionConfig"]


@attrs.frozen
class AttentionConfig:
    """What happens where the kernel cannot be used."""

    otherwise: Literal["refuse", "default"] = option(
        "refuse",
        help="Where the kernel has no operator for device, type and head size, or gives other numbers than the "
        "engine's own attention: do not start; or train with the engine's own, and say so in an event.",
    )
