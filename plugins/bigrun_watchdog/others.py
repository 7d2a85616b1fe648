"""What the watchdogs of the processes of one run know of each other: who stands still, and who only waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bigrun_watchdog.sentinel import Patience

if TYPE_CHECKING:
    from bigrun.peers.peers import Peers
    from bigrun_watchdog.watcher import State

__all__ = ["TICKS_TO_HEAR", "Others", "Stand"]

TICKS_TO_HEAR = 3
"""So long other processes need to hear of something; one of which nothing new was heard for longer is silent."""


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
    beat: int = 0
    """Of its watcher: whoever reads this sees it move, and compares no clock of one machine with that of another."""
    silent_seconds: float = 0.0
    """So long whoever reads this has seen no new note, by its own clock; what the note says may be as old."""

    @property
    def is_too_long(self) -> bool:
        """By what it says itself."""
        return not self.silent_seconds and self.limit_seconds is not None and self.seconds > self.limit_seconds

    def __str__(self) -> str:
        if self.silent_seconds:
            return (
                f"{self.name}, which has said nothing for {self.silent_seconds:.0f} s: stopped, or its machine is gone"
            )
        return f"{self.name}, for {self.seconds:.0f} s in {self.activity!r} of step {self.step}"


class Others:
    """Notes on the board of a run's processes; for one alone there is none."""

    def __init__(self, peers: Peers, tick_seconds: float, limit_seconds: float) -> None:
        """
        Args:
            limit_seconds: so long a process may run no Python: then its own sentinel ends it, unless it is stopped.
        """
        self._peers = peers
        self._board = peers.board
        self._alarms = 0
        self._note = Stand(peers.name(peers.rank), peers.rank, 0, "start", 0.0, None, None)
        self._stands: dict[int, Stand] = {}
        self._silences: dict[int, Patience] = {}
        self._tick_seconds = tick_seconds
        self._hear_seconds = TICKS_TO_HEAR * tick_seconds
        self.limit_seconds = limit_seconds

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self._board is not None

    def note(self, state: State, seconds: float, limit: float | None) -> None:
        """Where this process stands, for the next beat; where it has not moved see how the others do."""
        if self._board is None:
            return
        name, exchanges = self._peers.name(self._peers.rank), self._peers.exchanges()
        self._note = Stand(name, self._peers.rank, *state, seconds, limit, exchanges, self._note.beat)
        if seconds:
            self._look()
        else:  # it waits for nobody
            self._stands, self._silences = {}, {}

    def beat(self) -> None:
        """Say where this process stands, and that it looks."""
        if self._board is not None:
            self._note = attrs.evolve(self._note, beat=self._note.beat + 1)
            self._board.post(attrs.asdict(self._note))

    def withdraw(self) -> None:
        """Nobody looks at this process any more."""
        if self._board is not None:
            self._board.post({})

    def _look(self) -> None:
        assert self._board is not None
        before, self._stands = self._stands, {}
        for rank, facts in self._board.posted().items():
            if facts:
                stand = Stand(**facts)
                seconds = self._silence(rank, moved=rank not in before or stand.beat != before[rank].beat)
                self._stands[rank] = attrs.evolve(stand, silent_seconds=seconds)
        if self._peers.rank not in self._stands:
            self._silence(self._peers.rank, moved=False)

    def _silence(self, rank: int, *, moved: bool) -> float:
        """Look once more; for how long it was silent, 0 where that is no longer than others need to hear of it."""
        seconds = self._silences.setdefault(rank, Patience(self._tick_seconds)).tick(moved=moved)
        return seconds if seconds > self._hear_seconds else 0.0

    def behind(self) -> list[Stand]:
        """Those for whom another one waits: they are silent, or have begun fewer exchanges than another one. Nobody
        where all have begun as many, or nobody knows."""
        stands, me = list(self._stands.values()), self._peers.rank
        if me in self._silences and (seconds := self._silences[me].seconds) > self._hear_seconds:
            # what this process writes down does not come back: the main process has the board, or what has started it
            name = f"{self._peers.name(0)} or its launcher"
            lost = attrs.evolve(self._note, name=name, rank=0, silent_seconds=seconds)
            return [lost] if me > 0 else []
        silent = [stand for stand in stands if stand.silent_seconds]
        if silent:
            return silent
        counts = [stand.exchanges for stand in stands if stand.exchanges is not None]
        return [stand for stand in stands if stand.exchanges is not None and stand.exchanges < max(counts)]

    def is_only_waiting(self) -> bool:
        """Whether this process waits for others, none of which has stood still for longer than it may: the main one
        saves, and may take longer than a step. What a silent one does nobody knows."""
        behind = self.behind()
        mine = any(stand.rank == self._peers.rank for stand in behind)
        return bool(behind) and not mine and not any(stand.is_too_long for stand in behind)

    def has_lost_one(self, *, is_over: bool) -> bool:
        """Whether another one was silent for longer than native code may keep its interpreter, and this one needs it.

        Args:
            is_over: this one has stood still for longer than it may by itself, as it may for long in a save.
        """
        lost_seconds = self.limit_seconds + self._hear_seconds
        needs = is_over or self._peers.is_together
        return needs and any(stand.silent_seconds > lost_seconds for stand in self.behind())

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
