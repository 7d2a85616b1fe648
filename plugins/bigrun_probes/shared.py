"""The images as all processes of a run ask about them: the main process chooses, the others are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from bigrun.errors import UsageError
from bigrun.evaluation.common import done_by_all
from bigrun.evaluation.images import FixedImages
from bigrun_probes.config import TABLE
from bigrun_probes.names import sample_names
from bigrun_probes.probe_set import Masked, ProbeSet, looked_at

if TYPE_CHECKING:
    from bigrun.run import Run
    from bigrun_probes.config import ProbesConfig

__all__ = ["shared_set"]


def shared_set(run: Run, config: ProbesConfig, chosen: Callable[[], ProbeSet]) -> ProbeSet:
    """The main process's set, on all processes. The others know no labels and no masks, which only it needs.

    Args:
        chosen: the set as this process chooses it; called on the main one.

    Raises:
        UsageError, DataError: it cannot be chosen, or this process does not find the images.
        FailedElsewhereError: that is so on another process.
    """
    if run.peers.size == 1:
        return chosen()
    told = run.peers.gathered(done_by_all(run.peers, lambda: facts_of(chosen()) if run.is_main else None))[0]
    return done_by_all(run.peers, lambda: chosen() if run.is_main else as_told(run, config, told))


def facts_of(asked: ProbeSet) -> dict[str, Any]:
    names = sample_names(asked.images.part.dataset)

    def named(images: FixedImages) -> list[str]:
        return [names[index] for index in images.indices]

    masked = None if asked.masked is None else named(asked.masked.images)
    return {"images": named(asked.images), "masked": masked, "identity": asked.identity, "summary": asked.summary}


def as_told(run: Run, config: ProbesConfig, told: Mapping[str, Any]) -> ProbeSet:
    """By names, since a folder may have more files here than there."""
    part = looked_at(run, config)
    numbers = {name: number for number, name in enumerate(sample_names(part.dataset))}

    def images(names: Sequence[str]) -> FixedImages:
        lost = [name for name in names if name not in numbers]
        if lost:
            raise UsageError(
                f"{TABLE}: {len(lost):,} of the {len(names):,} images that the main process asks about are not there, "
                f"the first is {lost[0]}: expected the same files on every node"
            )
        return FixedImages(run, [numbers[name] for name in names], config.side_px, part)

    masked = None
    if told["masked"] is not None:
        nothing = torch.zeros(0, dtype=torch.uint8)
        masked = Masked(images(told["masked"]), nothing, nothing.bool(), ())
    return ProbeSet(images(told["images"]), None, masked, told["identity"], told["summary"])
