"""What the processes of a run tell each other: small things, on the host."""

from __future__ import annotations

import functools
import inspect
import operator
import platform
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from bigrun.errors import BigrunError
from bigrun.peers.board import Board
from bigrun.peers.channel import Channel
from bigrun.peers.errors import NotTogetherError, PeerLostError, SaidElsewhere, first_line, loss_of_a_peer
from bigrun.peers.meeting import meet, slack
from bigrun.peers.pace import Pace
from bigrun.peers.place import Place
from bigrun.terminal import place_of_errors

__all__ = ["NotTogetherError", "PeerLostError", "Peers", "SaidElsewhere"]

E = TypeVar("E", bound=BaseException)
END, HEARD = "end", "end-heard"
"""Of what is written on the board."""
FAILURE = "failure"
"""What a process says in place of what the others talk about."""
HELPERS = ("bigrun.peers.", "bigrun.evaluation.")
HEARING_SECONDS = 5.0
"""So long a process that ends alone waits for the others to have read why; one that is gone, too, never does."""


class Peers:
    """The processes of one run; one alone is enough, and waits for nobody.

    Every method but `leave` is to be called by all processes, in the same order and from the same functions. What they
    send is JSON: no process runs what another one says.
    """

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()
        self.pace = Pace()
        self._paces = [self.pace]
        self.board: Board | None = None
        """What the processes write down for each other; None for one alone."""
        self.hosts: list[str] = [platform.node()]
        """Of the processes, by rank."""
        self._readers: list[list[str]] = []
        """By rank, the machine and the place of what a process says: equal where one reader sees both."""
        self._channel: Channel | None = None
        self._store: Any = None
        self._known: BaseException | None = None
        self._is_quiet = self._has_said_end = False
        self._patience = timedelta()

    @property
    def rank(self) -> int:
        return self.place.rank

    @property
    def size(self) -> int:
        return self.place.size

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_together(self) -> bool:
        """Whether this process, in any thread, does what others have to take part in, and may be waiting for them."""
        return any(pace.is_together for pace in self._paces)

    def join(self, *, uses_gpu: bool, patience_seconds: float) -> None:
        """Wait for the others; from here on a process that dies ends the others' waiting with an error.

        Args:
            uses_gpu: gradients are on GPUs, of which this process takes the one of its place.
            patience_seconds: so long the others may be busy with something else, once all have begun.

        Raises:
            PeerLostError: they have not begun in time.
        """
        if self.size == 1 or self._channel is not None:
            return
        self._patience = timedelta(seconds=patience_seconds)
        store = meet(self.place, uses_gpu=uses_gpu, patience=self._patience)
        self._channel = Channel(self.size, self.pace)
        self._store = store  # it ends with the last who holds it
        self.board = Board(store, self.rank, self.size)
        self.board.listen(END, HEARD)
        self._readers = self.gathered([platform.node(), place_of_errors()])
        self.hosts = [host for host, _ in self._readers]

    @property
    def patience_seconds(self) -> float:
        """So long one may let the others wait."""
        return self._patience.total_seconds()

    def beside(self) -> Peers:
        """The same processes for another thread, which tells those of the others things while this one goes on. It
        needs no `leave` of its own."""
        other = Peers(self.place)
        other.hosts, other._readers = self.hosts, self._readers
        self._paces.append(other.pace)
        if self._channel is not None:
            import torch.distributed as dist

            group = dist.new_group(backend="gloo", timeout=slack(self._patience))
            other._channel = Channel(self.size, other.pace, group)
        return other

    def leave(self) -> None:
        """Say nothing more to the others, who notice; where this process has said why, they have the time to read it:
        what is written on the board goes away with whoever has it."""
        if self._channel is not None:
            import torch.distributed as dist

            self._channel = None
            dist.destroy_process_group()
        if self.board is not None:
            if self._has_said_end:
                self.board.wait_for_others(HEARD, HEARING_SECONDS)
            self.board.close()

    def any(self, flag: bool) -> bool:
        """Whether it is up anywhere."""
        return bool(self.bits([flag])[0])

    def bits(self, numbers: Sequence[int]) -> list[int]:
        """Of each number, none below 0, the bits that are set anywhere.

        Raises: as `gathered` does.
        """
        mine = list(map(int, numbers))
        told = self._exchanged(f"bits of {len(mine)}", mine)
        return [functools.reduce(operator.or_, column) for column in zip(*told, strict=True)]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; each is JSON, with NaN and infinities.

        Raises:
            SaidElsewhere: one has ended with an error in place of this (`say_failure`).
            PeerLostError: the same, on the main process where the other one speaks to somebody else.
            NotTogetherError: one tells the others something else; all raise it.
        """
        return self._exchanged("gathered", value)

    def _exchanged(self, kind: str, value: Any) -> list[Any]:
        if self._channel is None:
            return [value]
        told = self._channel.exchanged(f"{kind} in {caller()}", value)
        for rank, failure in ((rank, said) for rank, (topic, said) in enumerate(told) if topic == FAILURE):
            raise self._ended(rank, *failure)
        topics = [topic for topic, _ in told]
        if len(set(topics)) > 1:
            error = NotTogetherError(topics)
            self.say_end(str(error), int(error.exit_code))
            raise error
        return [said for _, said in told]

    def say_failure(self, error: BigrunError) -> bool:
        """Tell the others, who wait in `gathered` or end as well, that this process ends with an error; returns whether
        a process before this one says the same.

        An error that `by_main` has raised is known to them.
        """
        if self._channel is None or isinstance(error, PeerLostError | SaidElsewhere) or error is self._known:
            return False
        told = self._channel.exchanged(FAILURE, [str(error), int(error.exit_code)])
        return any(topic == FAILURE and said[0] == str(error) for topic, said in told[: self.rank])

    def by_main(self, work: Callable[[], Any]) -> Any:
        """Let the main process do something; everybody gets what it has given, as JSON.

        Raises:
            BigrunError: it could not: its own error there, `SaidElsewhere` elsewhere.
        """
        if self.size == 1:
            return work()
        try:
            answer = work() if self.is_main else None
        except BigrunError as error:
            self.say_failure(error)
            self._known = error
            raise
        return self.gathered(answer)[0]

    # -- how it ends ------------------------------------------------------------------------------------------

    def agree_to_end(self, error: BaseException, *, quiet: bool) -> None:
        """All processes end with an error, at this point.

        Args:
            quiet: another process says it.
        """
        self._known, self._is_quiet = error, quiet
        if self.board is not None:
            self.board.stop_listening()  # it goes away with the process that has it, and nobody ends alone from here on

    def alike(self, error: E) -> E:
        """An error that all processes raise here, and of which the main one tells."""
        self.agree_to_end(error, quiet=not self.is_main)
        return error

    def knows(self, error: BaseException) -> bool:
        """Whether all processes end with it, so that they may still do something together."""
        return self.size == 1 or error is self._known

    def shared(self, error: BaseException) -> BigrunError | None:
        """What to raise for an error that has to do with the others: one is gone or silent, as torch says; or all end
        alike, and another process says so."""
        if self._channel is None:
            return None
        if isinstance(error, BigrunError) and error is self._known and self._is_quiet:
            return SaidElsewhere(str(error), int(error.exit_code))
        lost = loss_of_a_peer(error)
        if lost is None:
            return None
        said = (self.board.known(END) or self.board.heard(END)) if self.board else []
        others = [words for words in said if words["rank"] != self.rank]
        if not others:
            return PeerLostError(
                f"another process of the run is gone, or has been silent for too long: see what it says "
                f"({first_line(lost)}); the checkpoints are whole, and the same command continues"
            )
        first = others[0]
        if not self.is_main:
            return SaidElsewhere(first["message"], first["exit_code"])
        return PeerLostError(f"{self.name(first['rank'])} has ended: {first['message']}", first["exit_code"])

    def _ended(self, rank: int, message: str, exit_code: int) -> BigrunError:
        """What to raise when another process has ended with an error. It has said so; the main process, at which
        whoever runs this looks, repeats it to another reader."""
        if self.is_main and self._readers[rank] != self._readers[0]:
            return PeerLostError(f"{self.name(rank)} has ended: {message}", exit_code)
        return SaidElsewhere(message, exit_code)

    def say_end(self, message: str, exit_code: int) -> None:
        """This process ends with an error, and takes part in nothing any more: those that wait for it learn why."""
        if self.board is not None:
            self.board.say(END, {"message": message, "exit_code": exit_code})
            self._has_said_end = True

    def name(self, rank: int) -> str:
        """`process 3 on node-b`."""
        return f"process {rank} on {self.hosts[rank]}"

    def exchanges(self) -> int | None:
        """How many exchanges with the others this process has begun; the one whom others wait for has begun fewer. None
        where torch does not tell."""
        return None if self._channel is None else self._channel.exchanges()


def caller() -> str:
    """The function that has something to tell: what helps it to do so would be the same for all."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(HELPERS):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
