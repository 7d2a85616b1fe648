"""What the watchdogs of the processes of one run know of each other: who stands still, and who only waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from bigrun.peers.peers import Peers
    from bigrun_watchdog.watcher import State

__all__ = ["Others", "Stand"]


@attrs.frozen
class Stand:
    """Where a process stands."""

    name: str
    rank: int
    step: int
    activity: str
    seconds: float
    limit_seconds: float | None
    """How long it may; None: for ever."""
    exchanges: int | None
    """How many exchanges with the others it has begun."""

    @property
    def is_too_long(self) -> bool:
        return self.limit_seconds is not None and self.seconds > self.limit_seconds

    def __str__(self) -> str:
        return f"{self.name}, for {self.seconds:.0f} s in {self.activity!r} of step {self.step}"


class Others:
    """Notes on the board of a run's processes; for one alone there is none."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._board = peers.board
        self._alarms = 0

    @property
    def several(self) -> bool:
        return self._board is not None

    def post(self, state: State, seconds: float, limit: float | None) -> None:
        """Say where this process stands."""
        if self._board is not None:
            name, exchanges = self._peers.name(self._peers.rank), self._peers.exchanges()
            stand = Stand(name, self._peers.rank, *state, seconds, limit, exchanges)
            self._board.post(attrs.asdict(stand))

    def behind(self) -> list[Stand]:
        """Those that have begun fewer exchanges than another one, who waits for them; nobody where all have begun as
        many, or nobody knows."""
        stands = [] if self._board is None else [Stand(**facts) for facts in self._board.posted().values()]
        counts = [stand.exchanges for stand in stands if stand.exchanges is not None]
        return [stand for stand in stands if stand.exchanges is not None and stand.exchanges < max(counts)]

    def is_only_waiting(self) -> bool:
        """Whether this process waits for others, none of which has stood still for longer than it may: the main one
        saves, and may take longer than a step."""
        behind = self.behind()
        mine = any(stand.rank == self._peers.rank for stand in behind)
        return bool(behind) and not mine and not any(stand.is_too_long for stand in behind)

    def describe(self) -> tuple[str, bool]:
        """Who waits for whom, in words, and whether this process is the one that waits."""
        behind = self.behind()
        if not behind:
            return "", False
        if any(stand.rank == self._peers.rank for stand in behind):
            return f"; the others wait for this one, {self._peers.name(self._peers.rank)}", False
        return f"; it waits for {' and for '.join(map(str, behind[:3]))}", True

    def raise_alarm(self, message: str) -> None:
        """Let the others write down where they stand."""
        if self._board is not None:
            self._board.say("alarm", {"message": message})

    def new_alarm(self) -> str | None:
        """What another process has said since this was asked last, as it stands still; None where none has."""
        alarms = [] if self._board is None else self._board.heard("alarm")
        new, self._alarms = alarms[self._alarms :], len(alarms)
        told = [f"{self._peers.name(a['rank'])}: {a['message']}" for a in new if a["rank"] != self._peers.rank]
        return told[0] if told else None

    def end(self) -> tuple[str, int] | None:
        """Why another process has ended, and with which exit code."""
        for words in [] if self._board is None else self._board.heard("end"):
            if words["rank"] != self._peers.rank:
                return f"{self._peers.name(words['rank'])} has ended: {words['message']}", words["exit_code"]
        return None

    def say_end(self, message: str, exit_code: int) -> None:
        """This process ends; the others do so alike."""
        self._peers.say_end(message, exit_code)
