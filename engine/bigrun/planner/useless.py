"""Options of a plan for several GPUs that have no effect beside the others. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bigrun.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bigrun.planner.cluster_options import ClusterOptions
    from bigrun.planner.gpus import Gpu
    from bigrun.planner.measured import Speed
    from bigrun.planner.sharing import Sharing

__all__ = ["refuse_useless"]


def refuse_useless(
    options: ClusterOptions, sharings: Sequence[Sharing], *, gpu: Gpu | None, tflops: float | None, speed: Speed | None
) -> None:
    """
    Args:
        sharings: what `options` plan for; none without --gpus.
        gpu: the listed one that is planned for.
        tflops: as stated.
        speed: as measured.

    Raises:
        UsageError: an option was typed that the plan would not use.
    """
    given = {name: value for name, value in attrs.asdict(options).items() if value is not None}
    if not sharings:
        useless = dict.fromkeys(given, "without --gpus, the number of GPUs on each node")
    else:
        useless = dict([*of_links(given, sharings), *of_speed(given, sharings, gpu, tflops, speed)])
    for name in given:
        if name in useless:
            raise UsageError(f"--{name.replace('_', '-')} has no effect {useless[name]}")


def of_links(given: Mapping[str, object], sharings: Sequence[Sharing]) -> Iterator[tuple[str, str]]:
    """Options, and why each has no effect."""
    if "node_gb_per_second" in given:
        yield "node_link", "beside --node-gb-per-second"
    if "network_gbit_per_second" in given:
        yield "network", "beside --network-gbit-per-second"
    if all(sharing.processes == 1 for sharing in sharings):
        yield from ((name, "with one GPU") for name in ("node_link", "node_gb_per_second"))
    if all(sharing.nodes == 1 for sharing in sharings):
        yield from ((name, "with one node") for name in ("network", "network_gbit_per_second"))


def of_speed(
    given: Mapping[str, object],
    sharings: Sequence[Sharing],
    gpu: Gpu | None,
    tflops: float | None,
    speed: Speed | None,
) -> Iterator[tuple[str, str]]:
    """The same, in the order in which `bigrun.planner.cluster.computing` takes what is known."""
    if "step_seconds" in given:
        yield "mfu", "beside --step-seconds"
    elif tflops is not None:
        yield "mfu", "beside --tflops"
    elif speed is not None and speed.training_tflops is not None:
        yield "mfu", f"beside the speed that was measured: {speed.source}"
    elif gpu is None:
        yield "mfu", "without --gpu, a listed one: the peak of another is not known"
    if all(sharing.processes == 1 for sharing in sharings):
        yield from ((name, "with one GPU") for name in ("step_seconds", "mfu"))
