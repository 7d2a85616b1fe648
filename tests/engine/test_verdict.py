"""The verdict on a run, told as made-up stories. Real runs: test_verdict_real.py; its words: test_verdict_words.py."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from killing import save
from stories import Story

from bigrun.checkpoint.layout import step_name
from bigrun.checkpoint.store import CheckpointStore
from bigrun.lock import LOCK
from bigrun.record.reason import Gravity
from bigrun.record.verdict import Verdict, verdict
from bigrun.saved import note_saved

COLLAPSE = "class tokens of different images are almost the same"


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A run on another machine that is well, at step 12,300."""
    return Story(tmp_path / "run").held_elsewhere().started(ago_seconds=7000).rows(10, 12_300)


def judged(story: Story, *sections: dict[str, Any]) -> Verdict:
    return verdict(story.read(), sections)


def ended(story: Story) -> Story:
    (story.directory / LOCK).unlink()
    return story


# -- healthy ------------------------------------------------------------------------------------------------------


def test_a_healthy_run_says_how_far_it_is_and_how_long_it_takes(story: Story) -> None:
    found = judged(story)
    assert found == Verdict("healthy", "healthy: step 12,300 of 50,000, loss 7.877, 5 h 14 min left")


def test_a_run_that_starts_is_healthy(tmp_path: Path) -> None:
    story = Story(tmp_path).held_elsewhere()
    assert judged(story).headline == "healthy: no log yet: it starts, or writes none"
    assert judged(story.started()).headline == "healthy: starting, no row of metrics yet"


def test_a_run_without_end_has_no_time_left(tmp_path: Path) -> None:
    found = judged(Story(tmp_path, max_steps="none").held_elsewhere().started().rows(10, 100))
    assert found.headline == "healthy: step 100, without end, loss 7.999"


def test_a_finished_run_is_healthy(story: Story) -> None:
    found = judged(ended(story.rows(12_310, 50_000).event("finished", "finished at step 50000", 50_000)))
    assert found.headline == "healthy: finished at step 50,000, loss 7.5"


# -- stopped ------------------------------------------------------------------------------------------------------


def test_a_stop_on_request_says_who_asked(story: Story) -> None:
    found = judged(ended(story.event("stopped", "stopped after step 12300: SIGTERM", 12_300, reason="SIGTERM")))
    assert (found.level, found.headline) == ("stopped", "stopped: on request at step 12,300: SIGTERM")


def test_an_error_is_named_in_one_line(story: Story) -> None:
    story.event("error", "the disk\nsays no", 12_300, "error", type="OSError", traceback="...")
    found = judged(ended(story))
    assert found.headline == "stopped: an error at step 12,300: OSError: the disk"


def test_a_process_that_is_gone_died(story: Story) -> None:
    found = judged(ended(story.telemetry(activity="data", standstill_seconds=900.0)))
    assert found.headline.startswith("stopped: it died at step 12,300: its process is gone and has not said why")
    assert found.headline.endswith("before that it had not moved for 15 min, waiting for images")


def test_a_run_that_was_halted_names_the_anomaly_and_not_the_machinery(story: Story) -> None:
    story.anomaly(
        "nonfinite",
        "not finite: grad_norm = nan, loss/koleo = nan; weights and teacher are untouched",
        12_301,
        "halt",
        evidence={"grad_norm": "nan", "loss": "nan", "loss/koleo": "nan"},
        causes=["a"],
    )
    found = judged(ended(story.event("error", "halted at step 12301: ...", 12_301, "error", type="TrainingHalted")))
    assert found.headline == "stopped: not finite: loss/koleo = nan, grad_norm = nan and 1 more, at step 12,301"
    assert found.reasons[0].causes == ("a",)


def test_a_run_that_was_halted_without_a_word_in_the_log_says_what_the_error_says(story: Story) -> None:
    story.event("error", "halted at step 7: three bad steps\n  try: x", 7, "error", type="TrainingHalted")
    assert judged(ended(story)).headline == "stopped: halted at step 7: three bad steps"


def test_a_run_that_was_stopped_in_trouble_says_both(story: Story) -> None:
    story.anomaly("collapse", f"{COLLAPSE}, since step 12200", 12_250)
    found = judged(ended(story.event("stopped", "stopped", 12_300, reason="SIGINT")))
    assert "stopped: on request at step 12,300: SIGINT; before that: collapse since step 12,200" in found.headline


def test_a_directory_in_which_nothing_has_begun(tmp_path: Path) -> None:
    assert judged(Story(tmp_path)).headline.startswith("stopped: it has not begun")


@pytest.mark.parametrize("has_folder", [True, False])
def test_without_a_log_checkpoints_tell_how_far_a_run_is(tmp_path: Path, has_folder: bool) -> None:
    """And where their folder is gone, the note of the one that was published last."""
    story = Story(tmp_path, max_steps=900).held_elsewhere()
    note_saved(tmp_path, 800)
    for step in (700, 800) if has_folder else ():
        save(CheckpointStore(tmp_path / "checkpoints"), step)
    (tmp_path / "checkpoints" / step_name(900)).mkdir(parents=True)  # a folder without a manifest is none
    found = judged(story)
    assert found.headline == "healthy: its newest checkpoint is that of step 800; no log is written"
    found = judged(ended(story))
    assert found.headline == (
        "stopped: it ended before its last step, its newest checkpoint is that of step 800: its process is gone, and "
        "no log was written that says why"
    )
    note_saved(tmp_path, 900)
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    assert judged(story).headline == "healthy: finished at step 900"


# -- anomalies ----------------------------------------------------------------------------------------------------


def test_an_anomaly_that_lasts_is_named_with_its_onset_and_advice(story: Story) -> None:
    story.anomaly("collapse", f"{COLLAPSE}, since step 12200", 12_250, advice=["try this"], causes=["because"])
    found = judged(story)
    assert (found.level, found.headline) == ("look", f"look at this: collapse since step 12,200: {COLLAPSE}")
    assert found.reasons[0].advice == ("try this",)
    assert found.reasons[0].kind == "collapse"


@pytest.mark.parametrize(("step", "level"), [(11_300, "look"), (11_280, "look"), (11_270, "healthy")])
def test_an_anomaly_that_lasts_is_said_again_after_a_thousand_steps_or_is_over(
    story: Story, step: int, level: str
) -> None:
    """And it is judged at a row, of which the newest may not be here: 20 steps more."""
    found = judged(story.anomaly("entropy-wall", "the targets are uniform, since step 9000", step))
    assert found.level == level
    assert "entropy wall since step 9,000" in found.reasons[0].text


def test_an_anomaly_of_which_somebody_says_when_it_is_over_lasts_until_then(story: Story) -> None:
    """However long ago it was said: the time between two reminders is an option of whoever reports it."""
    story.lasting("collapse", COLLAPSE, 1250, 1200)
    found = judged(story)
    assert found.headline == f"look at this: collapse since step 1,200: {COLLAPSE}"
    assert judged(story.started(12_300)).level == "look"  # nor is it over when the run is started again
    assert judged(story.over("near-collapse", 1200, 12_300)).level == "look"
    assert judged(story.over("collapse", 1300, 12_300)).level == "look"
    found = judged(story.over("collapse", 1200, 12_300))
    assert found.level == "healthy"
    assert found.reasons[0].text.startswith("1 anomaly so far, all over; the last one: collapse since step 1,200")
    assert judged(story.lasting("collapse", COLLAPSE, 12_310, 12_305)).level == "look"


def test_of_two_conditions_of_one_kind_the_one_that_is_over_is_history(story: Story) -> None:
    story.lasting("collapse", "of spread", 12_000, 11_900, "spread").lasting(
        "collapse", "of rank", 12_000, 11_900, "rank"
    )
    story.over("collapse", 11_900, 12_100, "rank")
    assert [reason.text for reason in judged(story).reasons] == ["collapse since step 11,900: of spread"]


def test_what_was_over_in_steps_that_are_taken_anew_is_not_over(story: Story) -> None:
    story.lasting("collapse", COLLAPSE, 12_050, 12_000).over("collapse", 12_000, 12_290)
    assert judged(story).level == "healthy"
    assert judged(story.started(12_200)).level == "look"


def test_what_was_measured_before_the_row_says_its_own_step_once(story: Story) -> None:
    """What a plugin offers was found where it has measured it, and has other numbers in every report."""
    for step, value in ((11_000, 0.011), (12_000, 0.012)):
        told = f"step {step}: the spread is {value}, since step 10500"
        story.event("anomaly", told, step + 10, "warning", anomaly="collapse", action="warn", step=step, onset=10_000,
                    lasts=True, evidence={"health/spread": value})  # fmt: skip
    (reason,) = judged(story).reasons
    assert (reason.text, reason.step) == ("collapse since step 10,000: the spread is 0.012", 12_000)


@pytest.mark.parametrize(
    ("steps", "level"),
    [([12_290], "look"), ([12_200], "healthy"), ([11_400, 11_800], "healthy"), ([11_400, 11_800, 12_200], "look"),
     ([100, 200, 300, 12_000], "healthy")],
)  # fmt: skip
def test_one_skipped_step_is_soon_history_and_three_are_not(story: Story, steps: list[int], level: str) -> None:
    for step in steps:
        story.anomaly("loss-spike", f"the loss is {step / 100:g}; the median was 7.9", step, "skip")
    found = judged(story)
    assert found.level == level
    if level == "healthy":
        assert found.reasons[0].gravity == Gravity.NOTE
        assert f"{len(steps)} anomal" in found.reasons[0].text


def test_the_strongest_answer_goes_first_and_then_what_began_last(story: Story) -> None:
    story.anomaly("near-collapse", f"{COLLAPSE}, nearly, since step 12000", 12_050)
    story.anomaly("loss-spike", "the loss is 80", 12_290, "skip")
    story.anomaly("collapse", f"{COLLAPSE}, since step 12100", 12_150)
    found = judged(story)
    assert [reason.kind for reason in found.reasons] == ["collapse", "near-collapse", "loss-spike"]
    assert judged(story.anomaly("divergence", "worse than nothing", 12_100, "save")).reasons[0].kind == "divergence"


def test_two_conditions_of_one_kind_are_two_reasons_and_a_reminder_is_none(story: Story) -> None:
    for step in (11_500, 12_280):
        story.anomaly("entropy-wall", "of images, since step 11400", step)
        story.anomaly("entropy-wall", "of patches, since step 11450", step)
    texts = [reason.text for reason in judged(story).reasons]
    assert texts == ["entropy wall since step 11,400: of images", "entropy wall since step 11,450: of patches"]


def test_what_was_met_in_steps_that_are_taken_anew_is_not_of_this_course(story: Story) -> None:
    story.anomaly("collapse", f"{COLLAPSE}, since step 12400", 12_450)
    assert judged(story.started(12_300)).level == "healthy"
    story.anomaly("collapse", f"{COLLAPSE}, since step 12100", 12_150)
    assert judged(story.started(12_300)).level == "look"


def test_a_run_that_went_back_says_so_until_it_is_past_that_step(story: Story) -> None:
    story.anomaly("nonfinite", "not finite: loss = nan", 12_390, "roll-back", evidence={"loss": "nan"})
    story.event("rolled-back", "back to step-00012300", 12_390, "warning", from_step=12_390, to_step=12_300,
                anomaly="nonfinite", position=9)  # fmt: skip
    found = judged(story.started(12_300))
    assert found.headline == (
        "look at this: not finite: loss = nan, at step 12,390; the run went back from step 12,390 to 12,300"
    )
    assert judged(story.rows(12_310, 12_440)).level == "look"
    assert judged(story.rows(12_450, 12_460)).level == "healthy"


# -- the machine and the disk -------------------------------------------------------------------------------------


def test_a_run_that_waits_for_images_is_named_with_what_to_change(story: Story) -> None:
    story.rows(12_310, 30_000, data_wait_fraction=0.71)
    story.event("data-wait", "71% of the time the step waits for images: raise data.workers", 12_400, "warning")
    found = judged(story)
    assert found.headline == "look at this: the loader is too slow: data wait 71%"
    assert found.reasons[0].advice == ("raise data.workers",)
    assert judged(story.rows(30_010, 45_000, data_wait_fraction=0.05)).level == "healthy"


def test_a_flag_is_trouble_while_it_is_up(story: Story) -> None:
    hot = "the GPU is at 91 °C; heat slowed it down in 40% of the last 5 minutes (sw-thermal)"
    found = judged(story.flag("THERMAL", "began", hot, 12_000))
    assert found.headline == f"look at this: THERMAL: {hot}"
    story.flag("SLOW", "began", "steps went at 93% of their usual speed", 12_000)
    story.flag("SLOW", "worse", "steps went at 60% of their usual speed", 12_100, "error")
    found = judged(story)
    assert [reason.kind for reason in found.reasons] == ["SLOW", "THERMAL"]
    assert "60%" in found.headline
    story.flag("SLOW", "ended", "over", 12_200, "info").flag("THERMAL", "ended", "over", 12_250, "info")
    assert judged(story).level == "healthy"


def test_flags_that_are_normal_and_those_of_a_process_before_are_no_trouble(story: Story) -> None:
    assert judged(story.flag("POWER-CAP", "began", "normal under load", 12_000, "info")).level == "healthy"
    story.flag("THERMAL", "began", "hot", 12_100)
    assert judged(story.started(12_300)).level == "healthy"


@pytest.mark.parametrize(
    ("ago_seconds", "row", "level"),
    [
        (100, None, "healthy"),
        (290, None, "healthy"),
        (400, None, "look"),
        (400, {"standstill_seconds": 12.0, "activity": "step"}, "healthy"),
        (400, {"standstill_seconds": 390.0, "activity": "data"}, "look"),
        (4000, {"standstill_seconds": 3990.0, "activity": "checkpoint"}, "healthy"),
        (15_000, {"standstill_seconds": 14_990.0, "activity": "checkpoint"}, "look"),
    ],
)
def test_a_run_that_does_not_move_although_it_runs(
    tmp_path: Path, ago_seconds: float, row: dict[str, Any] | None, level: str
) -> None:
    story = Story(tmp_path).held_elsewhere().started(ago_seconds=20_000).rows(10, 800, ago_seconds=ago_seconds)
    if row is not None:
        story.telemetry(**row)
    found = judged(story)
    assert found.level == level
    if level == "look":
        assert found.headline.startswith("look at this: it stands still: not moved for ")
        assert ("waiting for images" in found.headline) == (row is not None and row["activity"] == "data")


def test_a_first_step_may_take_an_hour_unless_the_run_says_how_long(tmp_path: Path) -> None:
    def begun(name: str, ago_seconds: float, **run: float) -> Story:
        return Story(tmp_path / name, **run).held_elsewhere().started(ago_seconds=ago_seconds)

    assert judged(begun("a", 3000)).level == "healthy"
    assert judged(begun("b", 4000)).level == "look"
    assert judged(begun("c", 4000, first_step_limit_seconds=14_400)).level == "healthy"
    assert judged(begun("d", 15_000, first_step_limit_seconds=14_400.0)).level == "look"


def test_a_run_may_say_how_long_a_save_takes(tmp_path: Path) -> None:
    story = Story(tmp_path, save_limit_seconds=600.0).held_elsewhere().started(ago_seconds=20_000)
    story.rows(10, 800, ago_seconds=700).telemetry(standstill_seconds=690.0, activity="checkpoint")
    assert "while it saves" in judged(story).headline


def test_a_checkpoint_that_could_not_be_saved_is_trouble_until_one_was(story: Story) -> None:
    text = "the checkpoint of step 12000 could not be saved (no space left)"
    assert judged(story.event("checkpoint-failed", text, 12_000, "error")).headline == f"look at this: {text}"
    assert judged(story.event("checkpoint", "saved the checkpoint of step 12200", 12_200)).level == "healthy"
    story.event("disk-space-low", "there is room for one more checkpoint", 12_200, "warning")
    assert "room for one more" in judged(story.event("checkpoint", "saved", 12_250)).headline
    assert judged(story.event("checkpoint", "saved", 12_300)).level == "healthy"


def test_what_is_degraded_is_trouble_until_it_has_recovered(story: Story) -> None:
    story.event("log-degraded", "metrics.jsonl cannot be written", 12_000, "error")
    story.event("memory-low", "the GPU is full", 12_000, "warning", memory="gpu")
    story.event("memory-low", "the host is full", 12_000, "warning", memory="host")
    assert judged(story).headline == "look at this: metrics.jsonl cannot be written"
    story.event("log-recovered", "it can be written", 12_100, "warning")
    story.event("memory-recovered", "over", 12_100, memory="gpu")
    assert [reason.text for reason in judged(story).reasons] == ["the host is full"]


def test_an_observer_that_is_off_is_named_with_its_error_once(story: Story) -> None:
    story.event("observer-failed", "observer probes failed in on_metrics: ValueError: x", 12_000, "error", plugin="p")
    story.event("quarantined", "observer probes is switched off for the rest of the run", 12_000, "warning", plugin="p")
    (reason,) = judged(story).reasons
    assert reason.text == "observer probes failed in on_metrics: ValueError: x; it is switched off"


def test_a_name_of_a_plugin_that_is_none_does_no_harm(story: Story) -> None:
    story.event("quarantined", "off", 12_000, "warning", plugin=["p"])
    story.event("observer-failed", "failed", 12_000, "error", plugin=["p"])
    assert judged(story).headline == "look at this: failed; it is switched off"


def test_errors_and_restarts_are_trouble_for_a_day(story: Story) -> None:
    story.event("checkpoint-refused", "step-00000100 is damaged", 100, "error", ago_seconds=90_000)
    story.event("restarted", "start 2", 100, "warning", ago_seconds=90_000)
    assert judged(story).level == "healthy"
    story.event("hang", "the process before was ended", 100, "warning", ago_seconds=80_000)
    story.event("restarted", "start 3", 100, "warning", ago_seconds=80_000)
    found = judged(story)
    assert found.headline == "look at this: start 3, the last of 2 such events in a day"
    story.event("checkpoint-refused", "step-00000200 is damaged", 200, "error", ago_seconds=80_000)
    assert judged(story).headline == "look at this: step-00000200 is damaged"


def test_sections_that_fail_are_trouble_and_those_that_warn_are_notes(story: Story) -> None:
    warns = {"title": "Hardware", "status": "warn", "lines": ["SLOW began 2 times"]}
    found = judged(story, warns, {"title": "Features", "status": "ok"})
    assert found.level == "healthy"
    assert [reason.text for reason in found.reasons] == ["Hardware: SLOW began 2 times"]
    found = judged(story, warns, {"title": "Features", "status": "fail", "lines": []}, {"status": 3})
    assert found.headline == "look at this: Features: see its section"


def test_damaged_lines_are_a_note(story: Story) -> None:
    with (story.directory / "metrics.jsonl").open("ab") as file:
        file.write(b"\x00\x00\n")
    found = judged(story)
    assert (found.level, found.reasons[0].text) == ("healthy", "1 damaged lines in its logs were passed over")


def test_the_gravest_comes_first(story: Story) -> None:
    """In the order of `Gravity`, in whatever order things have happened."""
    story.event("observer-failed", "broken", 12_000, "error", plugin="p")
    story.flag("THERMAL", "began", "hot", 12_000).event("restarted", "again", 12_000, "warning")
    story.event("checkpoint-failed", "unsaved", 12_000, "error")
    story.anomaly("loss-spike", "the loss is 80", 12_290, "skip").anomaly("collapse", COLLAPSE, 12_000)
    story.rows(12_310, 12_320, data_wait_fraction=0.9)
    gravities = [reason.gravity for reason in judged(story, {"title": "t", "status": "fail"}).reasons]
    assert gravities == sorted(gravities)
    assert len(set(gravities)) == 7


# Any order of any lines, as hostile or half-written logs have them.
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 13_000) | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=4,
)  # fmt: skip
ODD = st.sampled_from([math.inf, -math.inf, math.nan, 10**400, 2**53, 1e308, 1e-320, 400.0, True, ["a"], {}, None])
"""What is no number that anybody has measured."""
FACTS = st.dictionaries(
    st.sampled_from(["flag", "state", "anomaly", "action", "evidence", "causes", "advice", "plugin", "memory", "type",
                     "from_step", "to_step", "position", "reason", "step", "onset", "since", "lasts"]),
    JUNK | ODD, max_size=6,
)  # fmt: skip
KINDS = ["started", "finished", "stopped", "error", "anomaly", "anomaly-over", "rolled-back", "checkpoint",
         "checkpoint-failed", "hang",
         "telemetry-flag", "memory-low", "memory-recovered", "quarantined", "observer-failed", "data-wait"]  # fmt: skip
MESSAGES = st.sampled_from(["it says\nso", "so it is, since step 40", f"so it is, since step {'9' * 5000}"])
ROW = st.dictionaries(st.sampled_from(["step", "loss", "steps_per_second", "data_wait_fraction"]), ODD, max_size=4)
LOOK = st.fixed_dictionaries(dict.fromkeys(("standstill_seconds", "activity", "flags"), ODD | JUNK))
serial = itertools.count()


@settings(max_examples=80, deadline=None)
@example(
    [("started", 50, {}, None, "")], [], [], {"standstill_seconds": math.inf, "activity": "data", "flags": 0}, True
)
@example([("started", 50, {}, None, "")], [], [], {"standstill_seconds": 400, "activity": ["a"], "flags": 0}, True)
@example(
    [], [], [{"step": 10**400}, {"steps_per_second": 1e-320}], {"standstill_seconds": 10**400, "activity": 0}, False
)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 13_000), FACTS, JUNK, MESSAGES), max_size=8),
    st.lists(st.dictionaries(st.sampled_from(["title", "status", "lines"]), JUNK, max_size=3), max_size=2),
    st.lists(ROW, max_size=4), LOOK, st.booleans(),
)  # fmt: skip
def test_whatever_the_logs_say_there_is_a_verdict_of_one_line(
    tmp_path_factory: Any, told: list[Any], sections: list[Any], rows: list[Any], look: Any, is_dead: bool
) -> None:
    story = Story(tmp_path_factory.mktemp("story") / str(next(serial))).held_elsewhere().rows(10, 50)
    with (story.directory / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": 51 + n, **row}) + "\n" for n, row in enumerate(rows))
    story.telemetry(**look)
    if is_dead:
        ended(story)
    for kind, step, facts, moment, message in told:
        line = {
            "kind": kind,
            "message": message,
            "step": step,
            "facts": facts,
            "time_utc": moment,
            "level": moment,
        }
        with (story.directory / "events.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    record = story.read()
    found = verdict(record, sections)
    assert found.headline.startswith(("healthy: ", "look at this: ", "stopped: "))
    assert "\n" not in found.headline
    assert (found.level == "healthy") == all(reason.gravity == Gravity.NOTE for reason in found.reasons)
    for number in (record.seconds_left, record.newest("loss"), *attrs.astuple(record.pace)):
        assert number is None or math.isfinite(number)
