"""reference-band: who leaves a band is named, who does not is left in peace."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bands import recorded, recorded_rows, run_directory

from bigrun import hookimpl
from bigrun.activation import activate
from bigrun.config import shipped_presets
from bigrun.errors import ExitCode, UsageError
from bigrun.events import Event
from bigrun.record.record import RunRecord
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult
from bigrun_band.band import Band, Curve
from bigrun_band.comparison import Comparison
from bigrun_band.health import section
from bigrun_band.make import make_band
from bigrun_band.relevant import differences, relevant

HOLD = 3
STEPS = 12


def flat_band(low: float = 4.0, high: float = 5.0, last: int = 1000, smooth_steps: int = 1) -> Band:
    """Loss between two numbers."""
    curves = {"loss": Curve((1, last), (low, low), (high, high))}
    return Band("test", {}, 1, smooth_steps, {"loss": 1.0}, 0.02, ({"seed": 0},), curves, "test.band.json")


def told(comparison: Comparison, values: Mapping[int, float]) -> list[tuple[int, str]]:
    """(step, kind) of the events of a loss."""
    return [(step, e.kind) for step, value in values.items() for e in comparison.take(step, {"loss": value})]


def through(band: Band, rows: list[dict[str, Any]]) -> list[Event]:
    comparison = Comparison(band, HOLD)
    return [event for row in rows for event in comparison.take(row["step"], row)]


# -- a plugin like any other --------------------------------------------------------------------------------------


class TestContract(PluginContract):
    plugin = "reference-band"
    steps = 3

    @pytest.fixture(autouse=True)
    def _band(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that the run leaves, so that there is something to do."""
        path = tmp_path / "x.band.json"
        path.write_text(flat_band().as_json(), encoding="utf-8")
        monkeypatch.setattr(type(self), "config", {"file": str(path), "force": True, "hold_rows": 1})


# -- leaving, and coming back ---------------------------------------------------------------------------------------


def test_a_curve_that_leaves_for_longer_than_hold_is_told_once_and_its_return_once() -> None:
    comparison = Comparison(flat_band(), HOLD)
    values = dict.fromkeys(range(1, 11), 4.5) | dict.fromkeys(range(11, 21), 6.0) | dict.fromkeys(range(21, 31), 4.5)
    assert told(comparison, values) == [(14, "left-band"), (24, "back-in-band")]


@pytest.mark.parametrize("rows_outside", [1, 2, 3])
def test_a_few_rows_outside_are_nothing(rows_outside: int) -> None:
    comparison = Comparison(flat_band(), HOLD)
    values = {step: 9.0 if step % 10 < rows_outside else 4.5 for step in range(1, 100)}
    assert told(comparison, values) == []


def test_what_is_told_names_metric_value_band_and_since() -> None:
    comparison = Comparison(flat_band(), 0)
    ((left,), (back,)) = (list(comparison.take(step, {"loss": value})) for step, value in ((7, 6.25), (8, 4.5)))
    assert left.message == "loss has left its band since step 7: 6.25, above 4 to 5"
    assert left.level == "warning"
    assert left.facts == {
        "flag": "band:loss", "state": "began", "metric": "loss", "value": 6.25, "low": 4.0, "high": 5.0,
        "since_step": 7,
    }  # fmt: skip
    assert back.message == "loss is back in its band, which it had left at step 7: 4.5, in 4 to 5"
    assert back.level == "info"
    assert (back.facts["flag"], back.facts["state"], back.facts["since_step"]) == ("band:loss", "ended", 7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_outside_and_the_state_is_still_json(value: float) -> None:
    comparison = Comparison(flat_band(), HOLD)
    assert told(comparison, dict.fromkeys(range(1, 9), value)) == [(4, "left-band")]
    state = json.loads(json.dumps(comparison.state_dict(), allow_nan=False))
    json.dumps([e.facts for e in Comparison(flat_band(), 0).take(1, {"loss": value})], allow_nan=False)
    again = Comparison(flat_band(), HOLD)
    again.load_state_dict(state)
    assert again.state_dict() == comparison.state_dict()
    assert again.out == ["loss"]


def test_the_run_is_smoothed_as_the_band_was() -> None:
    comparison = Comparison(flat_band(smooth_steps=10), 1)  # one: the first row is a mean of itself
    assert told(comparison, {step: 4.5 + 3 * (-1) ** (step // 5) for step in range(10, 200, 5)}) == []
    assert comparison.places["loss"].value == pytest.approx(4.5)


def test_before_and_after_the_band_nothing_is_judged() -> None:
    comparison = Comparison(flat_band(last=10), 0)
    assert told(comparison, {0: 99.0, 11: 99.0, 12: 99.0}) == []
    assert comparison.places == {}


def test_metrics_that_the_run_has_not_and_others_that_the_band_has_not_are_passed_over() -> None:
    assert list(Comparison(flat_band(), 0).take(5, {"class_spread": 0.1})) == []


# -- real curves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left_out", range(5))
@pytest.mark.parametrize("preset", ["quickstart", "quickstart_ct"])
def test_a_run_with_another_seed_stays_in_the_band_of_the_others(preset: str, left_out: int, tmp_path: Path) -> None:
    """Each of five measured runs against the band of the other four, which knows nothing of it."""
    records = recorded(tmp_path, preset)
    band = make_band([record for i, record in enumerate(records) if i != left_out])
    assert through(band, list(recorded_rows(preset))[left_out]) == []


@pytest.mark.parametrize("metric", ["loss", "class_spread", "target_entropy_fraction"])
def test_a_run_whose_curve_goes_elsewhere_is_found(metric: str, tmp_path: Path) -> None:
    """As when learning stops, classes collapse, targets become uniform: from half of the run on."""
    band = make_band(recorded(tmp_path))
    rows = next(recorded_rows())
    elsewhere = {"loss": rows[0]["loss"], "class_spread": 0.05, "target_entropy_fraction": 0.999}[metric]
    for row in rows[len(rows) // 2 :]:
        row[metric] = elsewhere
    events = through(band, rows)
    assert [(e.kind, e.facts["metric"]) for e in events] == [("left-band", metric)]
    assert events[0].facts["since_step"] - rows[len(rows) // 2]["step"] <= band.smooth_steps


# -- which band, and whether it holds -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_band(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three real runs."""
    runner = Runner(tmp_path_factory.mktemp("runs"))
    results = [runner.run("metrics-log", steps=STEPS, run={"seed": seed, "max_steps": STEPS}) for seed in range(3)]
    path = runner.tmp_path / "tiny.band.json"
    path.write_text(make_band([RunRecord(r.directory) for r in results]).as_json(), encoding="utf-8")
    return path


class Harm:
    """Adds to the loss from a step on, without changing what is learnt."""

    def __init__(self, from_step: int, to_step: int) -> None:
        self.steps = range(from_step, to_step)

    @hookimpl
    def loss_terms(self, step: int, outputs: Any) -> Mapping[str, Any]:
        import torch

        return {"harm": torch.tensor(5.0)} if step in self.steps else {}


def with_band(bigrunner: Runner, path: Path, steps: int = STEPS, **options: Any) -> RunResult:
    seed = {"run": {"seed": 7, "max_steps": steps, **options.pop("run", {})}}
    config = {"file": str(path), **options.pop("config", {})}
    return bigrunner.run("reference-band", steps=steps, config=config, **seed, **options)


def of_bands(result: RunResult) -> list[Event]:
    return [event for event in result.events if "band" in event.kind]


@pytest.mark.slow
def test_a_run_with_another_seed_is_quiet_and_one_that_is_harmed_is_told_also_after_it_continues(
    bigrunner: Runner, tiny_band: Path
) -> None:
    quiet = with_band(bigrunner, tiny_band)
    quiet.assert_finished()
    assert of_bands(quiet) == []
    assert quiet.run is not None
    assert any("curves of 3 runs, to step 12" in line for line in quiet.run.header)
    harmed = with_band(bigrunner, tiny_band, companions=[Harm(3, 99)])
    events = [(e.kind, e.step, e.facts["metric"], e.facts["since_step"]) for e in of_bands(harmed)]
    assert events == [("left-band", 6, "loss", 3)]
    # It is out since step 3, and that was told: a process that continues does not tell it again, but of its return.
    continued = bigrunner.resume(harmed, at_step=6)
    assert [(e.kind, e.facts["since_step"]) for e in of_bands(continued)] == [("back-in-band", 3)]
    # One row was out when this checkpoint was saved, and through the mean over three steps two more were.
    assert of_bands(bigrunner.resume(harmed, at_step=3)) == []


@pytest.mark.slow
def test_a_run_of_another_configuration_is_told_once_why_the_band_does_not_apply(
    bigrunner: Runner, tiny_band: Path
) -> None:
    other = {"model": {"width": 64}, "companions": [Harm(1, 99)]}
    result = with_band(bigrunner, tiny_band, **other)
    said = "band does not apply: model.width 32 -> 64"
    assert [(e.kind, e.message, e.level) for e in of_bands(result)] == [("band-does-not-apply", said, "info")]
    assert result.run is not None
    assert [line for line in result.run.header if said in line]
    forced = with_band(bigrunner, tiny_band, config={"force": True}, **other)
    assert [e.kind for e in of_bands(forced)].count("left-band") >= 1
    rare = with_band(bigrunner, tiny_band, run={"log_every_steps": 4})
    assert [e.message for e in of_bands(rare)] == ["band does not apply: run.log_every_steps 1 -> 4"]


def test_what_was_told_of_another_band_does_not_count(bigrunner: Runner, tmp_path: Path) -> None:
    """The first process is outside of its band and has said so; the second one has another band."""
    path = tmp_path / "x.band.json"
    path.write_text(flat_band().as_json(), encoding="utf-8")
    config = {"file": str(path), "force": True, "hold_rows": 0}

    def of_steps(steps: int, **options: Any) -> RunResult:
        return bigrunner.run("reference-band", steps=steps, config=config, run={"max_steps": steps}, **options)

    first = of_steps(3, companions=[Harm(1, 99)])
    assert [e.kind for e in of_bands(first)] == ["left-band"]
    same = of_steps(4, directory=first.directory, companions=[Harm(1, 99)])
    assert of_bands(same) == []
    path.write_text(flat_band(low=0.0, high=1.0).as_json(), encoding="utf-8")
    other = of_steps(8, directory=first.directory, companions=[Harm(1, 99)])
    assert [e.kind for e in of_bands(other)] == ["band-changed", "left-band"]
    assert of_bands(other)[0].level == "info"
    assert of_bands(other)[1].facts["since_step"] > 4


def test_a_run_that_begins_to_be_watched_in_the_middle_waits_for_full_windows(
    bigrunner: Runner, tmp_path: Path
) -> None:
    path = tmp_path / "x.band.json"
    path.write_text(flat_band(smooth_steps=3).as_json(), encoding="utf-8")
    before = bigrunner.run("metrics-log", steps=4)
    config = {"file": str(path), "force": True, "hold_rows": 0}
    result = bigrunner.run("reference-band", steps=9, config=config, directory=before.directory, run={"max_steps": 9})
    assert [e.facts["since_step"] for e in of_bands(result) if e.kind == "left-band"] == [8]


def test_the_band_beside_the_preset_is_found_and_a_preset_without_one_is_said_once(tmp_path: Path) -> None:
    from bigrun.config import Document
    from bigrun.session import run_training
    from bigrun.testing.runner import TINY, SyntheticImages

    tables = {**TINY, "data": {**TINY["data"], "micro_batch": 4}, "plugins": {"reference-band": {"force": True}}}
    preset = tmp_path / "mine.toml"
    preset.write_text("", encoding="utf-8")

    class Data:
        @hookimpl
        def build_dataset(self) -> SyntheticImages:
            return SyntheticImages()

    def header(name: str) -> list[str]:
        run, _ = run_training(Document(str(preset), "mine", tables), tmp_path / name, companions={"data": Data()})
        return [line for line in run.header if line.startswith("band ")]

    assert header("a") == ["band         none ships with preset mine; `bigrun band` makes one of runs of yours"]
    (tmp_path / "mine.band.json").write_text(flat_band().as_json(), encoding="utf-8")
    assert header("b") == [f"band         1 curves of 1 runs, to step 1000 ({tmp_path / 'mine.band.json'})"]


def test_a_file_that_is_no_band_is_one_error_before_anything_is_built(bigrunner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("<script>", encoding="utf-8")
    with pytest.raises(UsageError, match="no reference band") as error:
        activate(bigrunner.document({"reference-band": {"file": str(path)}}))
    assert error.value.exit_code == ExitCode.USAGE


def test_an_option_that_is_younger_than_the_band_counts_only_when_it_is_set() -> None:
    band, run = {"model.width": 96}, {"model.width": 96, "model.new": 1}
    assert differences(band, run, explicit=()) == []
    assert differences(band, run, explicit=("model.new",)) == ["model.new absent -> 1"]


def test_of_plugins_those_that_bring_images_or_change_what_is_learnt_are_relevant() -> None:
    plugins = {"demo-photos": {"tile_px": 320}, "gram-anchoring": {"weight": 2.0}, "console": {}, "anomaly-guard": {}}
    found = relevant({"plugins": plugins, "data": {"effective_batch": 4, "path": "/x"}, "run": {"seed": 3}})
    assert found == {
        "data.effective_batch": 4, "plugins.demo-photos": "active", "plugins.demo-photos.tile_px": 320,
        "plugins.gram-anchoring": "active", "plugins.gram-anchoring.weight": 2.0,
    }  # fmt: skip


# -- what ships -----------------------------------------------------------------------------------------------------


def shipped() -> list[Path]:
    return sorted((Path(__file__).parents[2] / "presets").glob("*.band.json"))


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.name)
def test_a_shipped_band_is_of_its_preset_as_it_is(path: Path) -> None:
    """Or nobody who runs the preset would ever be compared with it."""
    from bigrun.config import read_preset
    from bigrun_band.band import read_band

    name = path.name.removesuffix(".band.json")
    assert name in shipped_presets()
    band = read_band(path)
    assert band.preset == name
    assert len(band.runs) >= 3
    sets = ["data.path=/images"] if name == "quickstart_ct" else []
    config, _ = activate(read_preset(name, sets))
    assert differences(band.relevant, relevant(config.public_tables()), config.explicit) == []
    assert config.run.log_every_steps == band.log_every_steps
    assert config.run.max_steps == band.last_step


@pytest.mark.parametrize("preset", ["quickstart", "quickstart_ct"])
def test_the_measured_runs_of_a_shipped_band_stay_in_it(preset: str) -> None:
    from bigrun_band.band import read_band

    band = read_band(shipped()[0].with_name(f"{preset}.band.json"))
    for rows in recorded_rows(preset):
        assert through(band, rows) == []


# -- the report -----------------------------------------------------------------------------------------------------


def test_the_section_of_a_report_has_the_band_of_every_curve() -> None:
    comparison = Comparison(flat_band(last=40), 0)
    early = section(comparison, "")
    assert (early["status"], early["lines"][1]) == ("none", "no row could be compared yet")
    list(comparison.take(3, {"loss": 4.5}))
    fine = section(comparison, "")
    assert (fine["status"], fine["lines"][1]) == ("ok", "every metric is in its band")
    (curve,) = fine["curves"]
    assert curve["metrics"] == ["loss"]
    assert curve["band"] == {"steps": [1, 40], "low": [4.0, 4.0], "high": [5.0, 5.0]}
    list(comparison.take(4, {"loss": 8.0}))
    bad = section(comparison, "")
    assert (bad["status"], bad["lines"][1]) == ("warn", "loss has left its band since step 4")
    assert bad["table"]["rows"] == [["loss", "8, above 4 to 5", "4", "4"]]
    json.dumps(bad, allow_nan=False)
    assert section(None, "band does not apply: a 1 -> 2")["status"] == "none"


def test_names_that_are_hostile_stay_text(tmp_path: Path) -> None:
    name = "loss/<script>"
    records = [
        run_directory(tmp_path / f"{k}", [{"step": 5 * n, name: 1.0 + n + k} for n in range(1, 9)], k) for k in (0, 1)
    ]
    band = make_band(records)
    assert list(band.curves) == [name]
    assert next(Comparison(band, 0).take(40, {name: 99.0})).facts["metric"] == name
