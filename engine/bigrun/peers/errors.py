"""What a process ends with when it is another one of its run that has failed."""

from __future__ import annotations

import re

from bigrun.errors import BigrunError, ExitCode, PluginError

__all__ = ["PeerLostError", "SaidElsewhere", "first_line", "loss_of_a_peer"]

# Before the reason gloo names a line of its own source, as [../pair.cc:537]; behind it there is advice for its users.
LOCATION = re.compile(r"^\[(?:enforce fail at )?[^\]\s]+\.(?:cc|cpp|cu|h):\d+\]\s*")
ADVICE = re.compile(r"\s*(?:This is typically caused|Check the logs of the remote worker|GLHF)")


class SaidElsewhere(BigrunError):
    """Another process has met an error, and says so: nobody else has to."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = ExitCode(exit_code)


class PeerLostError(BigrunError):
    """Another process of the run is gone, or is silent."""

    def __init__(self, message: str, exit_code: int = ExitCode.ERROR) -> None:
        """`exit_code`: that of the other one, where it is known."""
        super().__init__(message)
        self.exit_code = ExitCode(exit_code)


def loss_of_a_peer(error: BaseException | None) -> RuntimeError | None:
    """Torch's word for that, which a plugin may have met first."""
    while error is not None:
        if isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", "Connection")):
            return error
        error = error.__cause__ if isinstance(error, PluginError) else None
    return None


def first_line(error: BaseException) -> str:
    """What torch or gloo says of an error, without where in its source and without its advice."""
    line = LOCATION.sub("", str(error).strip().partition("\n")[0])
    return ADVICE.split(line, maxsplit=1)[0].rstrip(". ")
