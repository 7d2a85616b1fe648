"""What the verdict says: which of several troubles is named, and how errors, disks and checkpoints are told."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from killing import save
from stories import Story, utc

from bigrun import hookimpl
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import UsageError
from bigrun.lock import LOCK
from bigrun.record.reason import Gravity
from bigrun.record.record import RunRecord
from bigrun.record.sound import newest_states
from bigrun.record.verdict import Verdict, verdict
from bigrun.testing.runner import Runner
from bigrun_watch.row import Row

REPLAY = "look at the step itself: `bigrun replay RUN --step N`"


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A run on another machine that is well, at step 12,300."""
    return Story(tmp_path / "run").held_elsewhere().started(ago_seconds=7000).rows(10, 12_300)


def judged(story: Story) -> Verdict:
    return verdict(story.read())


def ended(story: Story) -> Story:
    (story.directory / LOCK).unlink()
    return story


# -- of several anomalies ------------------------------------------------------------------------------------------


def test_the_gravest_anomaly_is_named_and_not_the_newest(story: Story) -> None:
    story.lasting("divergence", "the loss is high", 11_000, 10_900, severity="grave")
    story.lasting("stuck", "not moved", 11_500, 11_400, "b")  # as in a log that knows of no severity
    story.lasting("koleo-duplicates", "some images", 12_000, 11_900, severity="minor")
    found = judged(story)
    assert [reason.kind for reason in found.reasons] == ["divergence", "stuck", "koleo-duplicates"]
    assert found.headline == "look at this: divergence since step 10,900: the loss is high"


def test_the_answer_counts_before_the_severity_and_then_the_onset(story: Story) -> None:
    story.lasting("koleo-duplicates", "some images", 11_000, 10_900, severity="minor", action="save")
    story.lasting("collapse", "alike", 11_500, 11_400, severity="grave")
    story.lasting("divergence", "high", 11_600, 11_500, severity="grave")
    assert [reason.kind for reason in judged(story).reasons] == ["koleo-duplicates", "divergence", "collapse"]


@pytest.mark.parametrize("severity", ["enormous", 7, None, ["grave"], {"a": 1}])
def test_a_severity_that_is_none_is_the_middle(story: Story, severity: Any) -> None:
    story.lasting("a", "x", 11_000, 10_900, severity=severity).lasting("b", "y", 12_000, 11_900, severity="minor")
    assert [reason.kind for reason in judged(story).reasons] == ["a", "b"]


# -- a damaged checkpoint ------------------------------------------------------------------------------------------


def with_checkpoints(story: Story, *steps: int) -> CheckpointStore:
    store = CheckpointStore(story.directory / "checkpoints")
    for step in steps:
        save(store, step)
    return store


def cut(store: CheckpointStore, step: int) -> int:
    """Cuts a file; returns how many bytes it had."""
    path = store.path(step) / "teacher.safetensors"
    size = path.stat().st_size
    os.truncate(path, 1000)
    return size


def test_a_newest_checkpoint_that_is_damaged_is_trouble_also_in_a_list_of_runs(story: Story) -> None:
    store = with_checkpoints(story, 12_000, 12_300)
    assert judged(story).level == "healthy"
    size = cut(store, 12_300)
    expected = (
        "look at this: the newest checkpoint, step 12,300, is damaged (teacher.safetensors: has 1000 bytes, expected "
        f"a file of {size}): bigrun checkpoints verify {story.directory}"
    )
    found = judged(story)
    assert found.headline == expected == Row.of(story.directory).verdict
    assert found.reasons[0].gravity == Gravity.UNSAVED
    assert "a start would continue from step 12,000" in found.reasons[0].advice[0]
    save(store, 12_400)
    assert judged(story).level == "healthy"


def test_a_run_that_is_over_says_both(story: Story) -> None:
    cut(with_checkpoints(story, 50_000), 50_000)
    story.rows(12_310, 50_000).event("finished", "finished at step 50000", 50_000)
    headline = judged(ended(story)).headline
    assert headline.startswith("look at this: the newest checkpoint, step 50,000, is damaged (")
    assert headline.endswith("; finished at step 50,000, loss 7.5")
    story.started(50_000).event("stopped", "stopped", 50_000, reason="SIGINT")
    assert "SIGINT; the newest checkpoint, step 50,000, is damaged (" in judged(story).headline


@pytest.mark.parametrize("is_removed", [True, False])
def test_a_checkpoint_that_is_removed_or_replaced_at_this_moment_is_not_damaged(
    story: Story, is_removed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the run itself does it while somebody looks: after the look has begun, the directory gets another name."""
    import bigrun.record.sound as sound

    store = with_checkpoints(story, 12_000, 12_300)
    begun: list[Path] = []
    real = sound.examine

    def examine(path: Path, *arguments: Any, **options: Any) -> Any:
        if not begun:
            begun.append(path)
            cut(store, 12_300)
            if is_removed:
                store.delete(12_300)
                return real(path, *arguments, **options)
            entry = real(path, *arguments, **options)
            save(store, 12_300)
            return entry
        return real(path, *arguments, **options)

    monkeypatch.setattr(sound, "examine", examine)
    found = newest_states(story.directory)
    assert (found.step, found.damaged) == (12_000 if is_removed else 12_300, None)


def test_what_is_being_written_is_no_checkpoint(story: Story) -> None:
    store = with_checkpoints(story, 12_000)
    shutil.copytree(store.path(12_000), store.directory / f".tmp-00012300-{'0' * 32}")
    (store.directory / f".tmp-00012300-{'0' * 32}" / "teacher.safetensors").unlink()
    assert judged(story).level == "healthy"


# -- a process that is gone ----------------------------------------------------------------------------------------


def test_a_run_that_died_says_from_where_the_same_command_goes_on(story: Story) -> None:
    assert judged(ended(story)).reasons[0].advice == (
        "give the same command again: it begins anew, for there is no checkpoint",
    )
    store = with_checkpoints(story, 12_000, 12_200)
    assert judged(story).reasons[0].advice == ("give the same command again: it continues from step 12,200",)
    cut(store, 12_200)
    assert judged(story).reasons[0].advice == ("give the same command again: it continues from step 12,000",)
    cut(store, 12_000)
    assert judged(story).reasons[0].advice == ("give the same command again: it says what is left of it",)


def refused(story: Story, log: str = "metrics", error: int = errno.ENOSPC, ago_seconds: float = 0.0) -> Story:
    text = f"{story.directory}/{log}.jsonl cannot be written ({os.strerror(error)}); training goes on"
    return story.event("log-degraded", text, 12_300, "error", ago_seconds=ago_seconds)


def taken(story: Story, log: str = "metrics") -> Story:
    return story.event("log-recovered", f"{story.directory}/{log}.jsonl is written again", 12_300, "warning")


def test_a_full_disk_is_among_the_causes_of_a_death(story: Story) -> None:
    full = "(a kill, a power cut, too little memory, or its last words could not be written: the disk was full)"
    assert full in judged(ended(refused(story))).headline
    assert full in str(story.read().status)
    refused(story, "events")
    taken(story)
    assert full in judged(story).headline
    taken(story, "events")
    assert "(a kill, a power cut, or too little memory)" in judged(story).headline
    story.event("checkpoint-failed", "not saved: a checkpoint takes 2 GB, and the disk has 0 B left", 12_300, "error")
    assert full in judged(story).headline
    assert full not in judged(story.started(12_300)).headline


def test_a_disk_that_fails_is_told_as_such(story: Story) -> None:
    headline = judged(ended(refused(story, error=errno.EIO))).headline
    assert "or its last words could not be written: the disk refused them)" in headline


def test_failed_attempts_to_write_make_no_row_newer(story: Story) -> None:
    refused(story, ago_seconds=500)
    os.utime(story.directory / "metrics.jsonl", (time.time(), time.time()))
    age = story.read().row_age_seconds
    assert age is not None
    assert 499 < age < 520
    taken(story)
    age = story.read().row_age_seconds
    assert age is not None
    assert age < 20


def test_a_row_that_tells_its_time_is_as_old_as_that(story: Story) -> None:
    story.rows(12_310, 12_310, time_utc=utc(300))
    age = story.read().row_age_seconds
    assert age is not None
    assert 299 < age < 320


# -- errors and commands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message", "headline"),
    [
        (
            "DataError",
            "no image can be used. It is broken, or cannot be reached:\n  a.png: no such file\n  b.png: no such file",
            "no image can be used. It is broken, or cannot be reached: a.png: no such file (and 1 more)",
        ),
        ("ConfigError", "my.toml: 1 problem:\n  a.b: unknown", "my.toml: 1 problem: a.b: unknown"),
        ("DataError", "it cannot be read:", "it cannot be read"),
        ("OSError", "the disk\nsays no", "OSError: the disk"),
    ],
)
def test_an_error_of_several_lines_ends_in_no_colon(story: Story, kind: str, message: str, headline: str) -> None:
    story.event("error", message, 12_300, "error", type=kind)
    assert judged(ended(story)).headline == f"stopped: an error at step 12,300: {headline}"


def test_of_many_numbers_that_are_not_finite_two_are_named(story: Story) -> None:
    evidence = dict.fromkeys(("loss", "loss/ibot", "loss/koleo", *(f"grad_norm/{n}" for n in range(6))), "nan")
    story.anomaly("nonfinite", "not finite", 12_301, "halt", evidence=evidence)
    found = judged(ended(story.event("error", "halted", 12_301, "error", type="TrainingHalted")))
    assert found.headline == "stopped: not finite: loss/ibot = nan, loss/koleo = nan and 7 more, at step 12,301"


def test_a_command_among_the_advice_names_the_run_and_the_step(tmp_path: Path) -> None:
    story = Story(tmp_path / "my run").held_elsewhere().started().rows(10, 100)
    story.anomaly("loss-spike", "high", 90, "skip", step=90, advice=[REPLAY, "RUN and --step N in words"])
    command = f"bigrun replay '{story.directory}' --step 90"
    assert judged(story).reasons[0].advice == (f"look at the step itself: `{command}`", "RUN and --step N in words")


class Refuses:
    @hookimpl
    def on_metrics(self) -> None:
        raise UsageError("plugins.probes.labels: none of 40 images has a label")


def test_an_option_that_is_refused_is_told_without_the_name_of_a_class(bigrunner: Runner) -> None:
    result = bigrunner.run("metrics-log", companions=[Refuses()])
    headline = verdict(RunRecord(result.directory)).headline
    assert headline == "stopped: an error at step 1: plugins.probes.labels: none of 40 images has a label"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("bigrun.errors.UsageError: none of 40 images has a label", "probes: none of 40 images has a label"),
        ("ValueError: x", "observer probes failed in on_start: ValueError: x"),
    ],
)
def test_an_option_that_an_observer_refuses_is_told_in_its_own_words(story: Story, error: str, told: str) -> None:
    story.event("observer-failed", f"observer probes failed in on_start: {error}", 12_000, "error", plugin="probes")
    assert judged(story).headline == f"look at this: {told}"
    story.event("quarantined", "observer probes is switched off", 12_000, "warning", plugin="probes")
    assert judged(story).headline == f"look at this: {told}; it is switched off"
