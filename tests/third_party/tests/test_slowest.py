"""slowest-step: its promises as a plugin, and its file."""

from __future__ import annotations

import json
import time

from bigrun import hookimpl
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner


class TestContract(PluginContract):
    plugin = "slowest-step"
    depends_on_clock = ("step", "seconds")


class Slow:
    """Makes step 3 take a second."""

    @hookimpl
    def before_update(self, step: int) -> None:
        if step == 3:
            time.sleep(1)


def test_the_slowest_step_is_kept_over_a_resume(bigrunner: Runner) -> None:
    slow = bigrunner.run("slowest-step", steps=4, companions=[Slow()])
    slow.assert_finished()
    resumed = bigrunner.resume(slow, at_step=3)  # step 4 is fast
    resumed.assert_finished()
    for result in (slow, resumed):
        slowest = json.loads((result.directory / "slowest-step" / "slowest.json").read_text(encoding="utf-8"))
        assert slowest["step"] == 3
        assert slowest["seconds"] >= 1
