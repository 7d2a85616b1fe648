"""What all processes of a run have: whoever looks together looks at that, so that all make the same passes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeVar

from bigrun.peers.errors import mark_met_by_all

if TYPE_CHECKING:
    from bigrun.peers.peers import Peers

__all__ = ["FailedElsewhereError", "done_by_all", "lacked"]

T = TypeVar("T")
WORD = 62
"""Images to a number that processes tell each other, which is below 2**63."""


class FailedElsewhereError(Exception):
    """Another process could not do what all do; that one raises its own error."""


def done_by_all(peers: Peers, work: Callable[[], T]) -> T:
    """What all processes do here, each for itself: none goes on where one has failed, for it would wait for that one.

    Raises:
        FailedElsewhereError: it failed on another process alone. Where it failed on this one, its own error.
    """
    result, error = attempted(work)
    if peers.any(error is not None):
        raise failure(peers, error)
    assert result is not None
    return result[0]


def lacked(peers: Peers, asked: Sequence[int], read: Callable[[], Collection[int]]) -> dict[int, list[int]]:
    """Some processes could not read some of the images that all are asked for: which these are, and the ranks of those.

    All processes call it, with the same `asked`. One exchange of a few numbers, and one more where something lacks.

    Args:
        read: gives those that this process could read, or raises.

    Raises:
        FailedElsewhereError: it raised on another process. Where it raised on this one, its own error.
    """
    result, error = attempted(read)
    have = result[0] if result is not None else ()
    lacking = [place for place, index in enumerate(asked) if index not in have]
    words = [0] * -(-len(asked) // WORD)
    for place in lacking:
        words[place // WORD] |= 1 << place % WORD
    failed, *anywhere = peers.bits([error is not None, *words])
    if failed:
        raise failure(peers, error)
    found: dict[int, list[int]] = {}
    for rank, places in enumerate(peers.gathered(lacking) if any(anywhere) else ()):
        for place in places:
            found.setdefault(asked[place], []).append(rank)
    return found


def attempted(work: Callable[[], T]) -> tuple[tuple[T] | None, Exception | None]:
    try:
        return (work(),), None
    except Exception as error:
        return None, error


def failure(peers: Peers, mine: Exception | None) -> Exception:
    """What this process raises, when some process has failed."""
    said = peers.gathered(None if mine is None else f"{type(mine).__name__}: {mine}")
    first = next(rank for rank, text in enumerate(said) if text is not None)
    return mark_met_by_all(mine or FailedElsewhereError(f"{peers.name(first)} has failed here: {said[first]}"))
