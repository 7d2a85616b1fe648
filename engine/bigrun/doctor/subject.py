"""What is examined."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    import torch

    from bigrun.devices import DeviceFacts

__all__ = ["Subject"]


@attrs.define(slots=False)
class Subject:
    """A machine, one device of it, and the disk of a run directory."""

    run_dir: Path = Path("runs")
    """It need not be there, and is not made."""
    wish: str = "auto"
    """`hardware.device`"""
    is_quick: bool = False
    """Nothing is measured that takes long."""
    root: Path = Path("/")
    """Where `proc` and `sys` are."""

    def as_facts(self) -> dict[str, Any]:
        return {**attrs.asdict(self), "run_dir": str(self.run_dir), "root": str(self.root)}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Subject:
        return cls(**{**facts, "run_dir": Path(facts["run_dir"]), "root": Path(facts["root"])})

    @property
    def place(self) -> Path:
        """The directory nearest to the run directory that is there: on the same disk, as far as anybody can tell."""
        place = self.run_dir.absolute()
        while place != place.parent:
            try:
                place.stat()
            except (FileNotFoundError, NotADirectoryError):
                place = place.parent
                continue
            except OSError:  # it may be there, and may not be looked at
                pass
            break
        return place

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory on the disk of the run, gone afterwards.

        Raises:
            OSError: none can be made.
        """
        with tempfile.TemporaryDirectory(prefix=".bigrun-doctor-", dir=self.place, ignore_cleanup_errors=True) as path:
            yield Path(path)

    @functools.cached_property
    def device(self) -> torch.device:
        """
        Raises:
            UsageError: there is none of the kind that was asked for.
            ImportError, OSError: torch is not installed, or its libraries are not.
        """
        from bigrun.devices.choose import choose_device

        return choose_device(self.wish)

    @functools.cached_property
    def facts(self) -> DeviceFacts:
        """Of the device; raises what `device` does."""
        from bigrun.devices.read import read_facts

        return read_facts(self.device, self.run_dir)

    def obstacle(self, need: str | None) -> str | None:
        """Why there is no `device`, or no `disk` that can be written; None when there is one."""
        try:
            if need == "device":
                _ = self.device
            elif need == "disk":
                with self.scratch():
                    pass
        except Exception as error:  # whatever torch raises when its libraries are not there
            return f"{type(error).__name__}: {error}"
        return None
