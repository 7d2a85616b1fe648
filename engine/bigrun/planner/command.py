"""`bigrun plan`: what a run will need, before there is a GPU. Imports when it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bigrun.command_options import preset_options
from bigrun.finite import FiniteRange
from bigrun.planner.cluster_options import ClusterOptions, cluster_options

if TYPE_CHECKING:
    from bigrun.planner.cluster import Cluster
    from bigrun.planner.gpus import Gpu
    from bigrun.planner.plan import Plan

__all__ = ["plan"]

ANY_FLOPS = 1.0
"""Of an image: whether a speed was measured does not depend on them, and they are not known before the rehearsal."""


@click.command()
@preset_options
@click.option("--device-memory", metavar="SIZE", help="Memory of the GPU: 24GiB.  [default: that of --gpu]")
@click.option("--gpu", metavar="NAME", help='A listed GPU, as "RTX 4090": its memory and its peak speed.')
@click.option(
    "--tflops",
    type=FiniteRange(min=0, min_open=True),
    help="TFLOP/s that the device achieves in training, measured or assumed; gives images per second and hours.",
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="Where the speed was measured: the folder of `bigrun tune`, or the output of `bigrun doctor --json`.  "
    "[default: the folder that `bigrun tune` makes for the preset, if it is there]",
)
@click.option("--ram", metavar="SIZE", help="Memory of the machine: 64GiB.  [default: that of this one]")
@click.option("--images", type=click.IntRange(min=1), metavar="N", help="Images of the data set, if it is not here.")
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; of several numbers of GPUs, a list.")
def plan(
    preset: str,
    device_memory: str | None,
    gpu: str | None,
    tflops: float | None,
    measured: Path | None,
    ram: str | None,
    images: int | None,
    cluster: ClusterOptions,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Predict memory, time and disk of a run; neither a GPU nor the images are needed.

    Networks, optimizer and plugins are built as in the run, and its heaviest step is taken with tensors that have no
    values. With the memory of the device known, plugins choose for it what nobody has set, as they would in the run,
    and the largest micro-batch that fits is sought, with and without activation checkpointing. Memory is that of one
    process, also with --gpus; see docs/how-to/does-it-fit.md for how near it is, and for what several send each other.
    """
    from bigrun.activation import activate
    from bigrun.config import read_preset
    from bigrun.peers.size import check_size
    from bigrun.planner.device import backend_of
    from bigrun.planner.images import look_at_images
    from bigrun.planner.measured import read_speed, tuned_speed
    from bigrun.planner.predict import predict
    from bigrun.planner.sharing import ALONE
    from bigrun.planner.sizes import parse_bytes
    from bigrun.terminal import say

    memory = None if device_memory is None else parse_bytes(device_memory, "--device-memory")
    ram_bytes = None if ram is None else parse_bytes(ram, "--ram")
    document = read_preset(preset, **overrides)
    config, _ = activate(document)  # before torch: a typo is answered at once
    known = None if gpu is None else named_gpu(gpu, config.hardware.device, knows_memory=memory is not None)
    backend = backend_of(known, config.hardware.device)
    speed = partial(tuned_speed, config, backend, gpu) if measured is None else partial(read_speed, measured)
    sharings = cluster.sharings(gpu=known, tflops=tflops, speed=speed(ANY_FLOPS))
    for sharing in sharings:  # before the first rehearsal: each takes seconds
        check_size(config, sharing.processes)
    seen = look_at_images(document) if images is None else None
    planned = partial(
        predict,
        document,
        device=backend,
        device_memory_bytes=memory,
        gpu=gpu,
        ram_bytes=ram_bytes,
        tflops=tflops,
        images=images if seen is None else seen.count,
        image_bytes=None if seen is None else seen.each_bytes,
        measured=speed,
        tell=lambda line: say(line, error=True),
        seeks=len(sharings) < 2,
    )
    plans = [planned(sharing=sharing) for sharing in sharings or [ALONE]]
    for line in said(plans, [cluster.cluster(plan) for plan in plans] if sharings else [], as_json=as_json):
        say(line)


def said(plans: list[Plan], clusters: list[Cluster], *, as_json: bool) -> Iterator[str]:
    """One plan, or a table of several."""
    from bigrun.planner.cluster_report import cluster_table
    from bigrun.planner.report import lines, to_json

    if len(plans) == 1:
        (found,), cluster = plans, clusters[0] if clusters else None
        yield from [json.dumps(to_json(found, cluster))] if as_json else lines(found, cluster)
    elif as_json:
        yield json.dumps([to_json(found, cluster) for found, cluster in zip(plans, clusters, strict=True)])
    else:
        yield from cluster_table(clusters)


def named_gpu(name: str, device: str, *, knows_memory: bool) -> Gpu | None:
    """The GPU of --gpu; one that is not listed is said.

    Args:
        knows_memory: --device-memory was given: then a GPU that is not listed can be planned for.

    Raises:
        UsageError: there is no name, the run is to be on the CPU, or nothing is known of the GPU's memory: whether the
            run fits is what its name is given for.
    """
    from bigrun.errors import UsageError
    from bigrun.planner.gpus import GPUS, find_gpu
    from bigrun.terminal import say
    from bigrun.values import did_you_mean

    if not name.strip():
        raise UsageError("--gpu: expected the name of a GPU, as 'RTX 4090'")
    if device == "cpu":
        raise UsageError(f"--gpu {name}: the run is to be on the CPU (hardware.device); add --set hardware.device=auto")
    known = find_gpu(name)
    if known is None:
        names = [gpu.name for gpu in GPUS]
        hint = did_you_mean(name, names)
        if not knows_memory:
            raise UsageError(
                f"--gpu {name}: not listed, so that its memory is not known{hint}; listed: {', '.join(names)}; for "
                "another GPU give its memory too, as --device-memory 24GiB"
            )
        say(f"warning: --gpu {name}: not listed, peak speed n/a{hint}; listed: {', '.join(names)}", error=True)
    return known
