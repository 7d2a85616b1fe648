"""What a process ends with when it is another one of its run that has failed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bigrun.errors import BigrunError, ExitCode, PluginError

__all__ = [
    "ApartError", "NotTogetherError", "PeerLostError", "SaidElsewhere", "first_line", "is_met_by_all", "loss_of_a_peer",
    "mark_met_by_all",
]  # fmt: skip

# Before the reason gloo names a line of its own source, as [../pair.cc:537]; behind it there is advice for its users.
LOCATION = re.compile(r"^\[(?:enforce fail at )?[^\]\s]+\.(?:cc|cpp|cu|h):\d+\]\s*")
ADVICE = re.compile(r"\s*(?:This is typically caused|Check the logs of the remote worker|GLHF)")


class ApartError(BigrunError):
    """The processes of the run are not together any more: each ends, wherever it is."""


class SaidElsewhere(ApartError):
    """Another process has met an error, and says so: nobody else has to."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = ExitCode(exit_code)


class PeerLostError(ApartError):
    """Another process of the run is gone, or is silent."""

    def __init__(self, message: str, exit_code: int = ExitCode.ERROR) -> None:
        """`exit_code`: that of the other one, where it is known."""
        super().__init__(message)
        self.exit_code = ExitCode(exit_code)


class NotTogetherError(ApartError):
    """Processes of the run wait for each other in different exchanges."""

    def __init__(self, topics: Sequence[str]) -> None:
        """`topics`: what each tells the others, by rank."""
        named = {topic: rank for rank, topic in reversed(list(enumerate(topics)))}
        super().__init__(
            "\n".join(
                [
                    "the processes of this run tell each other different things:",
                    *(f"  process {rank}: {topic}" for topic, rank in sorted(named.items(), key=lambda item: item[1])),
                    "every process has to take part in an exchange, in the same order: look there for a call of "
                    "`run.peers` that only some reach; the checkpoints are whole",
                ]
            )
        )


def mark_met_by_all(error: Exception) -> Exception:
    """Every process leaves what it does with an error here, this one with its own."""
    error.__dict__["met_by_all"] = True
    return error


def is_met_by_all(error: Exception) -> bool:
    """Whether the others leave what they do at the same place: bigrun's own errors are raised by all alike."""
    return isinstance(error, BigrunError) or bool(error.__dict__.get("met_by_all"))


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
