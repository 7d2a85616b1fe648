"""What a run is, as questions that anybody may ask of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bigrun.parts import Parts

if TYPE_CHECKING:
    import torch

    from bigrun.config import Config
    from bigrun.incidents import Incidents
    from bigrun.peers.peers import Peers
    from bigrun.plugins import Plugins
    from bigrun.process import Process

__all__ = ["RunFacts"]


class RunFacts(Parts):
    """A run's answers; what they are read from is `Run`'s."""

    config: Config
    plugins: Plugins
    process: Process
    incidents: Incidents
    step: int

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.strategy.device

    @property
    def peers(self) -> Peers:
        """The processes of the run."""
        return self.process.peers

    @property
    def is_main(self) -> bool:
        """True on the one process that writes files and speaks."""
        return self.peers.is_main

    @property
    def max_steps(self) -> int | None:
        """The last step, or None for a run without end."""
        return self.config.run.max_steps

    @property
    def finished(self) -> bool:
        """True when the last step was taken."""
        return self.max_steps is not None and self.step >= self.max_steps

    @property
    def stop_signal(self) -> int | None:
        """The signal that asked the process to stop."""
        return self.process.stop_signal

    @property
    def is_rehearsal(self) -> bool:
        """Whether nothing of it is to stay, here or elsewhere."""
        return self.process.is_rehearsal

    @property
    def is_in_step(self) -> bool:
        """Whether a step has begun and is not over."""
        return self.plugins.step > self.step

    @property
    def rollbacks(self) -> list[dict[str, Any]]:
        """`from_step`, `to_step` and `kind` of every time the run went back, in order."""
        return self.incidents.rollbacks

    @property
    def accumulate(self) -> int:
        """Micro-batches per step."""
        data = self.config.data
        assert data.micro_batch is not None
        return data.effective_batch // (data.micro_batch * self.strategy.world_size)
