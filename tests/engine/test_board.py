"""What processes write down for each other, when whoever has the board is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from torch.distributed import TCPStore

from bigrun.peers import board as module
from bigrun.peers.board import Board

HOST = """
import sys, time
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def host() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_board_whose_host_is_stopped_is_not_waited_for_and_answers_when_it_goes_on(
    host: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 2.0)
    assert host.stdout is not None
    port = int(host.stdout.readline())
    board = Board(TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False), rank=1, size=2)
    board.post({"beat": 1})
    board.say("end", {"message": "one"})
    assert board.posted() == {1: {"beat": 1}}
    assert [words["message"] for words in board.heard("end")] == ["one"]
    host.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, host.pid, os.WSTOPPED | os.WNOWAIT)  # each of its threads: until then it answers

    def ask() -> None:
        for beat in range(100):
            board.post({"beat": beat})
            board.posted()
            board.heard("end")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(30)
    assert not asking.is_alive()
    assert board.posted() == {1: {"beat": 1}}
    assert [words["message"] for words in board.known("end")] == ["one"]
    host.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 60
    while board.posted() != {1: {"beat": 1000}}:
        assert time.monotonic() < deadline
        board.post({"beat": 1000})
        time.sleep(0.05)
    board.say("end", {"message": "two"})
    assert [words["message"] for words in board.heard("end")] == ["one", "two"]


LISTENERS = """
import time
from torch.distributed import TCPStore
from bigrun.peers import board as module
module.LISTENING_SECONDS = 0.0
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
boards = [module.Board(store, rank=1, size=2) for _ in range(20)]
for board in boards:
    board.listen("end", "end-heard")
time.sleep(0.3)
for board in boards:
    board.stop_listening()
    board.close()
    board.close()
"""


def test_a_process_that_has_closed_its_board_ends_well() -> None:
    """A thread that comes back from torch's C++ while Python goes away would end the process with SIGABRT."""
    done = subprocess.run([sys.executable, "-c", LISTENERS], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
