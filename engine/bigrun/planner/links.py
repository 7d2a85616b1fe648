"""How fast GPUs are connected, by name: nominal speeds of one direction. Torch-free.

PCIe of 16 lanes: 8, 16, 32 GT/s a lane with 128 bits in 130 (PCI-SIG, base specifications 3.0, 4.0, 5.0). NVLink and
Infinity Fabric: half of what the makers' data sheets state for both directions together: A100 600 GB/s, H100 and H200
900, B200 1800 (NVIDIA), MI300X 896 over its seven links (AMD). Networks: the standard's name is its speed (IEEE 802.3;
InfiniBand HDR 200 and NDR 400 Gbit/s a port), of one port for each node.

What collectives reach is less: nccl-tests print it as `busbw`. On H100 with NVLink about 360 of 450 GB/s are seen
(github.com/NVIDIA/nccl/issues/1281), on A100 in one direction 195 of 300. Where it was measured, state it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from bigrun.planner.gpus import Gpu

__all__ = ["DEFAULT_NETWORK", "NETWORKS", "NODE_LINKS", "Links", "links_for"]

GB, GBIT = 1e9, 1e9 / 8

NODE_LINKS = {
    "pcie3": 15.75,
    "pcie4": 31.5,
    "pcie5": 63.0,
    "nvlink3": 300.0,
    "nvlink4": 450.0,
    "nvlink5": 900.0,
    "infinity-fabric": 448.0,
}
"""GB/s that a GPU sends to those of its node, and receives at the same time."""
NETWORKS = {
    "ethernet-10": 10.0,
    "ethernet-25": 25.0,
    "ethernet-100": 100.0,
    "infiniband-200": 200.0,
    "infiniband-400": 400.0,
}
"""Gbit/s that a node sends, and receives at the same time."""
DEFAULT_LINK, DEFAULT_NETWORK = "pcie4", "ethernet-100"
BY_GPU = {
    "RTX 5090": "pcie5",
    "A100": "nvlink3",
    "A100-SXM4-40GB": "nvlink3",
    "A100-SXM4-80GB": "nvlink3",
    "H100": "nvlink4",
    "H100 PCIe": "pcie5",
    "H100 NVL": "pcie5",
    "H200": "nvlink4",
    "H200 NVL": "pcie5",
    "MI300X": "infinity-fabric",
}
"""By the names of `bigrun.planner.gpus.GPUS`. Cards with a bridge have NVLink to one or three others only."""


@attrs.frozen
class Links:
    """Bytes per second in one direction."""

    node_bytes_per_second: float
    """Of a GPU, to those of its node."""
    network_bytes_per_second: float
    """Of a node, to other nodes."""
    node: str
    """What they are, for people."""
    network: str


def links_for(
    gpu: Gpu | None,
    *,
    node_link: str | None = None,
    node_gb_per_second: float | None = None,
    network: str | None = None,
    network_gbit_per_second: float | None = None,
) -> Links:
    """As stated by number, else by name, else that of the GPU, else an assumption.

    Args:
        gpu: as which one is connected, if it is listed.
        node_link: one of NODE_LINKS.
        network: one of NETWORKS.
    """
    own = None if gpu is None else BY_GPU.get(gpu.name)
    link, between = node_link or own or DEFAULT_LINK, network or DEFAULT_NETWORK
    node = NODE_LINKS[link] if node_gb_per_second is None else node_gb_per_second
    gbit = NETWORKS[between] if network_gbit_per_second is None else network_gbit_per_second
    node_source = source(link, is_stated=node_gb_per_second is not None, is_assumed=not (node_link or own))
    network_source = source(between, is_stated=network_gbit_per_second is not None, is_assumed=not network)
    return Links(node * GB, gbit * GBIT, f"{node:g} GB/s ({node_source})", f"{gbit:g} Gbit/s a node ({network_source})")


def source(name: str, *, is_stated: bool, is_assumed: bool) -> str:
    """Of a speed, for people."""
    if is_stated:
        return "stated"
    return f"{name}, nominal, assumed" if is_assumed else f"{name}, nominal"
