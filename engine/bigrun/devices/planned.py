"""What is to be set on process or device, decided before anything is touched."""

from __future__ import annotations

import attrs

__all__ = ["Planned"]


@attrs.frozen
class Planned:
    """One setting, and why it is to have this value."""

    name: str
    """As its users know it."""
    value: str | None
    """To be set; None: it stays as it is."""
    reason: str
    is_custom: bool = False
    """The user's own choice, by an option of the plugin or by the environment."""
    obstacle: str | None = None
    """Why the value has no effect although it can be set."""

    @property
    def is_left_alone(self) -> bool:
        """Whether nothing is to be set."""
        return self.value is None

    @property
    def is_on(self) -> bool:
        """Of what is on or off."""
        return self.value == "on"
