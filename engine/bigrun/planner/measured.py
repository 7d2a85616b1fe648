"""How fast a device is, as `bigrun tune` or `bigrun doctor` have measured it. Torch-free."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.errors import UsageError

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.devices.facts import Backend

__all__ = ["TRIALS", "Speed", "read_speed", "tuned_speed"]

TRIALS = "trials.json"
"""What `bigrun tune` leaves in its folder."""
PRODUCTS = "bf16 speed"
"""The row of `bigrun doctor --json`."""


@attrs.frozen
class Speed:
    """What one file says; one of both is known."""

    source: str
    device: str
    """As its driver calls it."""
    training_tflops: float | None = None
    """Of short runs, in model FLOPs."""
    product_tflops: float | None = None
    """Of large matrix products in bf16, which training does not reach."""

    def images_per_second(self, flops_per_image: float) -> float | None:
        """Of a run whose images take so many model FLOPs."""
        return None if self.training_tflops is None else 1e12 * self.training_tflops / flops_per_image


def read_speed(path: Path, flops_per_image: float | None) -> Speed:
    """
    Args:
        path: the folder of `bigrun tune` or its trials.json, or the output of `bigrun doctor --json`.
        flops_per_image: of the run that is planned, for which `bigrun tune` has measured images per second unless its
            file says otherwise.

    Raises:
        UsageError: it is neither, or says nothing about speed.
    """
    file = path / TRIALS if path.is_dir() else path
    try:
        facts: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--measured {path}: cannot be read: {error.strerror}") from None
    except ValueError:
        facts = None
    found = None
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        found = of_tuner(file, facts, flops_per_image) if "trials" in facts else of_doctor(file, facts)
    if found is None:
        raise UsageError(
            f"--measured {path}: expected what `bigrun tune` leaves in its folder, with a trial that succeeded, or the "
            "output of `bigrun doctor --json` without --quick"
        )
    return found


def of_tuner(file: Path, facts: Mapping[str, Any], flops_per_image: float | None) -> Speed | None:
    flops = facts.get("flops_per_image") or flops_per_image
    speed = facts["images_per_second"]
    return Speed(str(file), facts["device"]["name"], training_tflops=speed * flops / 1e12) if flops else None


def of_doctor(file: Path, facts: Mapping[str, Any]) -> Speed:
    rows = {row["name"]: row for row in facts["rows"]}
    name = rows["device"]["facts"]["device"]["name"]
    return Speed(str(file), name, product_tflops=float(rows[PRODUCTS]["facts"]["measured"]))


def tuned_speed(config: Config, backend: Backend, device: str | None, flops_per_image: float | None) -> Speed | None:
    """What `bigrun tune` has found for the same preset, in its usual folder; None where it has not, or on another
    device.

    Args:
        backend: of the device that is planned for; a CPU's speed says nothing of a GPU's.
        device: a part of its name; None: any of that kind.
    """
    folder = Path("runs") / f"{config.name}-tune"
    try:
        facts: Any = json.loads((folder / TRIALS).read_text(encoding="utf-8"))
        same = (facts["source"], facts["effective_batch"]) == (config.source, config.data.effective_batch)
        found = facts["device"]
        named = found["backend"] == backend and (device is None or device.lower() in found["name"].lower())
        return of_tuner(folder / TRIALS, facts, flops_per_image) if same and named else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
