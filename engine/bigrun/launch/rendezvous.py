"""Where the processes of a machine meet all others, as torchrun tells them by their environment. Torch-free."""

from __future__ import annotations

import attrs

__all__ = ["Rendezvous"]


@attrs.frozen(kw_only=True)
class Rendezvous:
    """Of the processes that one launcher has started."""

    size: int
    """Processes of the run."""
    local_size: int
    """Those of this machine."""
    node_rank: int = 0
    nodes: int = 1
    host: str
    port: int
    """Of the store at which they meet."""
    run_id: str
    is_in_launcher: bool
    """Whether the launcher has that store, and not the main process."""

    def environment(self, rank: int, local_rank: int) -> dict[str, str]:
        """What one of them is told, as far as torch or bigrun ask."""
        return {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "GROUP_RANK": str(self.node_rank),
            "GROUP_WORLD_SIZE": str(self.nodes),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "0",
            "TORCHELASTIC_RUN_ID": self.run_id,
            "TORCHELASTIC_USE_AGENT_STORE": str(self.is_in_launcher),
        }
