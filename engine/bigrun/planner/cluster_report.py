"""A plan of several processes in lines for people, and as JSON. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from bigrun.planner.cluster import Cluster
from bigrun.planner.efficiency import collective_seconds
from bigrun.planner.sizes import human_gib

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["cluster_lines", "cluster_table", "cluster_to_json"]

GB = 1e9


def cluster_lines(cluster: Cluster) -> Iterator[str]:
    """What is sent, and what that comes to."""
    plan, sharing, links = cluster.plan, cluster.plan.sharing, cluster.links
    if sharing.processes == 1:
        return
    yield f"sent         by each process in a step, and as much received: {cluster.sent_bytes / GB:.3g} GB, in rings"
    for one in cluster.collectives:
        seconds = collective_seconds(one, sharing, links)
        among = f"{one.operation} among {one.members}, {one.count} times, {seconds:.3g} s"
        yield f"    {one.sent_bytes / GB:9.3g} GB  {one.what}: {among}"
    network = f"; {links.network}" if sharing.nodes > 1 else ""
    yield f"links        {links.node}{network}: {cluster.communication_seconds:.3g} s a step, without latencies"
    efficiency, computing = cluster.efficiency, cluster.computing
    if efficiency is None or computing is None:
        yield "efficiency   n/a without a speed: see --step-seconds, --tflops, --measured and --gpu"
        return
    yield f"computing    {computing.seconds:.3g} s a step on each process: {computing.source}"
    least, most = (100 * share for share in (efficiency.least, efficiency.most))
    yield (
        f"efficiency   {least:.1f} % if nothing overlaps to {most:.1f} % if everything does: "
        f"{span(cluster.per_second(efficiency.longest_seconds), cluster.per_second(efficiency.shortest_seconds))} "
        f"images/s, {span(efficiency.shortest_seconds, efficiency.longest_seconds)} s a step"
    )
    if plan.max_steps is not None:
        shortest, longest = (
            plan.max_steps * s / 3600 for s in (efficiency.shortest_seconds, efficiency.longest_seconds)
        )
        yield f"hours        {span(shortest, longest)} of training"


def span(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def cluster_table(clusters: Sequence[Cluster]) -> Iterator[str]:
    """A column for each number of processes."""
    first = clusters[0]
    names = dict.fromkeys(name for cluster in clusters for name in cluster.plan.memory.by_category)
    rows = [
        ["GPUs", *(str(c.plan.sharing.processes) for c in clusters)],
        ["strategy", *(described(c) for c in clusters)],
        ["micro-batch", *(f"{c.plan.micro_batch} x {c.plan.accumulate}" for c in clusters)],
    ]
    largest = {name: max(c.plan.memory.by_category.get(name, 0) for c in clusters) for name in names}
    for name in sorted(names, key=lambda name: -largest[name]):
        if largest[name] > 0:
            rows.append([name, *(human_gib(c.plan.memory.by_category.get(name, 0)) for c in clusters)])
    rows.append(["in all", *(human_gib(c.plan.memory.peak_bytes) for c in clusters)])
    rows.append(["of the device", *(human_gib(c.plan.need_bytes) for c in clusters)])
    if first.plan.device_memory_bytes is not None:
        rows.append(["fits", *("yes" if c.plan.fits_as_it_is else "no" for c in clusters)])
    rows.append(["sent, GB", *(f"{c.sent_bytes / GB:.3g}" for c in clusters)])
    rows.append(["sending, s", *(f"{c.communication_seconds:.3g}" for c in clusters)])
    if first.computing is not None:
        rows.append(["computing, s", *(f"{c.computing.seconds:.3g}" for c in clusters if c.computing)])
        found = [c.efficiency for c in clusters if c.efficiency]
        rows.append(["efficiency, %", *(f"{100 * e.least:.1f} to {100 * e.most:.1f}" for e in found)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(clusters) + 1)]
    yield f"plan         {first.plan.source}, in {first.plan.precision}: memory of each process at the peak of a step"
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        yield "    " + "  ".join(cells)
    network = f"; {first.links.network}" if first.plan.sharing.nodes > 1 else ""
    yield f"links        {first.links.node}{network}"
    if first.computing is not None:
        yield f"computing    {first.computing.source}"
    yield from (f"note         {note}" for note in dict.fromkeys(n for c in clusters for n in c.plan.notes))


def described(cluster: Cluster) -> str:
    """How networks are shared, in a word or two."""
    sharing = cluster.plan.sharing
    if sharing.strategy != "fsdp":
        return sharing.strategy
    return f"fsdp {sharing.shard}" + (f" x {sharing.groups}" if sharing.groups > 1 else "")


def cluster_to_json(cluster: Cluster) -> dict[str, Any]:
    """Plain values by name; bytes, seconds and shares are numbers."""
    efficiency, sharing = cluster.efficiency, cluster.plan.sharing
    return {
        "sharing": attrs.asdict(sharing) | {"processes": sharing.processes, "shards": sharing.shards},
        "collectives": [
            attrs.asdict(one)
            | {"sent_bytes": one.sent_bytes, "seconds": collective_seconds(one, sharing, cluster.links)}
            for one in cluster.collectives
        ],
        "sent_bytes": cluster.sent_bytes,
        "links": attrs.asdict(cluster.links),
        "communication_seconds": cluster.communication_seconds,
        "computing": None if cluster.computing is None else attrs.asdict(cluster.computing),
        "efficiency": None
        if efficiency is None
        else {
            "least": efficiency.least,
            "most": efficiency.most,
            "shortest_seconds": efficiency.shortest_seconds,
            "longest_seconds": efficiency.longest_seconds,
        },
    }
