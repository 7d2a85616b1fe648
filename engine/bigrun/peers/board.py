"""What each process of a run has written down for the others, who read it when they like and wait for nobody."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["Board"]

ANSWER_SECONDS = 10.0
"""So long the process that has the board may take to answer; it does so in a thread of native code."""

LISTENING_SECONDS = 1.0


class Board:
    """Notes of the processes, in the store by which they have found each other: on the host of the main process, or of
    torchrun. Any thread may call any method. None raises, and none waits for long: whoever has the board may be gone or
    stopped, and what was read from it before is still known."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        shared: Any = store  # of whose methods torch describes to mypy only some
        self._store: Any = shared.clone()  # a connection of its own: the other one may be waiting for somebody
        self._store.set_timeout(timedelta(seconds=ANSWER_SECONDS))
        self._is_gone = False
        """Whoever has the board: torch prints a stack of C++ each time it is asked for in vain."""
        self._lock = threading.Lock()
        """Held until the store has answered."""
        self._is_late = False
        self._is_deaf = threading.Event()
        self._is_closed = False
        self._heard: dict[str, str] = {}
        self._posted: dict[int, Any] = {}

    def say(self, what: str, facts: Mapping[str, Any]) -> None:
        """Add to what all say of one thing; JSON."""
        line = json.dumps({"rank": self.rank, **facts}) + "\n"
        self._ask(lambda store: store.append(f"bigrun/{what}", line))

    def heard(self, what: str) -> list[dict[str, Any]]:
        """All that was said of it, in order, each with its `rank`."""
        key = f"bigrun/{what}"

        def hear(store: Any) -> None:
            if store.check([key]):
                self._heard[what] = store.get(key).decode()

        self._ask(hear)
        return self.known(what)

    def known(self, what: str) -> list[dict[str, Any]]:
        """As much of that as this process has heard already."""
        return [json.loads(line) for line in self._heard.get(what, "").splitlines()]

    def listen(self, what: str, answer: str) -> None:
        """From here on hear what another process says of it, while this one is waiting elsewhere, and answer once: it
        may be gone, and the board with it, when this one asks."""

        def listening() -> None:
            while not self._is_deaf.wait(LISTENING_SECONDS):
                if any(words["rank"] != self.rank for words in self.heard(what)):
                    self.say(answer, {})
                    return

        threading.Thread(target=listening, name="board", daemon=True).start()

    def stop_listening(self) -> None:
        """Answer nobody from here on."""
        self._is_deaf.set()

    def close(self) -> None:
        """Ask no more; waits for what is asked at this moment, unless its answer is late. A thread that came back from
        torch's C++ while Python goes away would end a process with SIGABRT that is not a command's (`process_end`)."""
        self.stop_listening()
        if not self._is_closed:
            self._is_closed = True
            self._lock.acquire(timeout=0 if self._is_late else ANSWER_SECONDS)

    def wait_for_others(self, what: str, seconds: float) -> None:
        """Until all others have said something of it, or so long, or the board is gone."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._is_gone:
            if len({words["rank"] for words in self.heard(what)} - {self.rank}) == self.size - 1:
                return
            time.sleep(0.02)

    def post(self, facts: Mapping[str, Any]) -> None:
        """Replace this process's note of how it is."""
        note = json.dumps(facts)
        self._ask(lambda store: store.set(f"bigrun/note/{self.rank}", note))

    def posted(self) -> dict[int, Any]:
        """The notes of those that have one, by rank, as far as they could be read."""

        def read(store: Any) -> None:
            for rank in range(self.size):
                if store.check([f"bigrun/note/{rank}"]):
                    self._posted[rank] = json.loads(store.get(f"bigrun/note/{rank}"))

        self._ask(read)
        return dict(self._posted)

    def _ask(self, question: Callable[[Any], object]) -> None:
        """Ask the store, in a thread: torch waits for ever for one whose process is stopped, or whose machine is lost.
        Until that one has answered after all nothing more is asked; of one that is gone, never again."""
        if self._is_gone or self._is_closed:
            return
        if not self._lock.acquire(timeout=0 if self._is_late else ANSWER_SECONDS):
            return
        answered = threading.Event()

        def asking() -> None:
            from torch.distributed import DistNetworkError

            try:
                if not self._is_gone and not self._is_closed:
                    question(self._store)
            except RuntimeError as error:
                self._is_gone = self._is_gone or isinstance(error, DistNetworkError)
            finally:
                self._is_late = False
                self._lock.release()
                answered.set()

        threading.Thread(target=asking, name="board-asks", daemon=True).start()
        self._is_late = not answered.wait(ANSWER_SECONDS)
