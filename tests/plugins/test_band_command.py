"""`bigrun band`: bands of runs, and the law by which they are made."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from bands import recorded, run_directory
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.cli import main
from bigrun.errors import UsageError
from bigrun.record.record import RunRecord
from bigrun_band.band import Curve, read_band
from bigrun_band.envelope import Envelope, chosen_widen, usual_widen
from bigrun_band.make import make_band

values = st.floats(-1e6, 1e6, allow_nan=False)


def bigrun(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["band", *map(str, arguments)])


def rows(offset: float = 0.0, steps: int = 8) -> list[dict[str, float | str]]:
    return [{"step": 5 * n, "loss": 9.0 - n / 10 + offset, "learning_rate": 0.1} for n in range(1, steps + 1)]


def test_a_band_of_real_runs_is_written_and_shown(tmp_path: Path) -> None:
    runs = [record.directory for record in recorded(tmp_path)]
    out = tmp_path / "quickstart.band.json"
    done = bigrun(*runs, "--out", out)
    assert done.exit_code == 0, done.output
    assert "10 curves of 5 runs (run.seed = 0, 1, 2, 3, 4)" in done.output
    assert bigrun("--show", out).output == done.output
    band = read_band(out)
    assert band.preset == "quickstart"
    assert set(band.curves) >= {"loss", "loss/gram", "class_spread", "target_entropy_fraction", "koleo"}
    assert not set(band.curves) & {"learning_rate", "grad_norm", "patch_cosine"}
    assert (band.log_every_steps, band.smooth_steps) == (5, 15)
    low, high = band.curves["loss"].at(160) or (0, 0)
    assert 4.5 < low < 5.0 < high < 5.5
    assert "/secret/" not in out.read_text(encoding="utf-8")


def test_every_run_that_it_was_made_of_is_in_the_band(tmp_path: Path) -> None:
    records = recorded(tmp_path)
    band = make_band(records)
    from bigrun_band.make import smoothed

    for record in records:
        for name, curve in band.curves.items():
            for step, value in smoothed(record.metrics, name, band.smooth_steps).items():
                low, high = curve.at(step) or (math.nan, math.nan)
                assert low < value < high, (record.directory.name, name, step)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"model": {"width": 192}}, "model.width 96 -> 192"),
        ({"run": {"max_steps": 80}}, "run.max_steps 160 -> 80"),
        ({"run": {"log_every_steps": 10}}, "run.log_every_steps 5 -> 10"),
        ({"data": {"effective_batch": 32}}, "data.effective_batch 64 -> 32"),
        ({"plugins": {"gram-anchoring": {}}}, "plugins.gram-anchoring absent -> active"),
        ({"plugins": {"demo-photos": {}}}, "plugins.demo-photos absent -> active"),
    ],
)
def test_runs_of_different_configurations_are_refused(
    tmp_path: Path, other: dict[str, dict[str, int]], said: str
) -> None:
    run_directory(tmp_path / "a", rows(), 0)
    run_directory(tmp_path / "b", rows(), 1, **other)
    done = bigrun(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "x.json")
    assert done.exit_code == 2
    assert "not runs of one configuration" in done.output
    assert said in done.output
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    "other",
    [
        {"plugins": {"console": {}, "tensorboard": {}, "anomaly-guard": {}}},
        {"hardware": {"precision": "bf16"}},
        {"data": {"micro_batch": 4, "workers": 9}},
    ],
)
def test_what_curves_do_not_depend_on_may_differ(tmp_path: Path, other: dict[str, dict[str, object]]) -> None:
    records = [run_directory(tmp_path / "a", rows(), 0), run_directory(tmp_path / "b", rows(0.1), 1, **other)]
    assert make_band(records).curves


def test_one_run_twice_one_run_alone_and_no_rows_are_refused(tmp_path: Path) -> None:
    one = run_directory(tmp_path / "one", rows())
    again = run_directory(tmp_path / "again", rows())
    empty = run_directory(tmp_path / "empty", [], 1)
    with pytest.raises(UsageError, match=r"have the same run\.seed, 0"):
        make_band([one, again])
    with pytest.raises(UsageError, match=r"as --floor 0\.1"):
        make_band([one])
    with pytest.raises(UsageError, match="no row of metrics that all these runs have"):
        make_band([one, empty])


def test_one_run_with_a_tolerance_makes_a_band(tmp_path: Path) -> None:
    band = make_band([run_directory(tmp_path / "one", rows())], smooth_rows=1, floor=0.1)
    assert band.curves["loss"].at(40) == (pytest.approx(8.2 * 0.9), pytest.approx(8.2 * 1.1))


def test_runs_of_different_length_make_a_band_of_the_steps_that_all_have(tmp_path: Path) -> None:
    records = [run_directory(tmp_path / "a", rows(), 0), run_directory(tmp_path / "b", rows(0.1, steps=4), 1)]
    assert make_band(records).last_step == 20


def test_numbers_that_are_not_finite_and_rows_that_are_noise_leave_gaps(tmp_path: Path) -> None:
    bad: list[dict[str, float | str]] = [{"step": 45, "loss": "nan"}, {"step": 50, "loss": "<script>"}, {"loss": 1.0}]
    records = [run_directory(tmp_path / "a", [*rows(), *bad], 0), run_directory(tmp_path / "b", rows(0.1, 12), 1)]
    assert make_band(records, smooth_rows=1).last_step == 40


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected runs and --out FILE, or --show FILE"),
        (["somewhere"], "expected runs and --out FILE, or --show FILE"),
        (["somewhere", "--out", "x.json"], "somewhere: no run"),
        (["somewhere", "--show", "x.json"], "--show FILE stands alone"),
        (["--show", "x.json"], "x.json: the band cannot be read: No such file or directory"),
    ],
)
def test_bad_usage_is_one_error(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = bigrun(*arguments)
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:200], "no reference band: "),
        (lambda text: "", "no reference band: "),
        (lambda text: "[]", "expected a JSON object"),
        (lambda text: "[" * 100_000, "no reference band: "),
        (lambda text: text.replace('"format": 1', '"format": 2'), "its format is 2, and this bigrun reads 1"),
        (lambda text: text.replace('"model.width": 96', '"model.width": 97'), "changed by hand"),
        (lambda text: text.replace('"low": [', '"low": [1.0, '), "not of one length"),
        (lambda text: text.replace('"steps": [5, 10', '"steps": [10, 5'), "its steps do not ascend"),
        (lambda text: text.replace('"low": [', '"low": [1e999, ', 1).replace('"high": [', '"high": [1e999, ', 1)
            .replace('"steps": [5,', '"steps": [4, 5,', 1), "low is not below high"),
        (lambda text: text.replace('"curves"', '"curve"'), "'curves' is missing"),
    ],
)  # fmt: skip
def test_a_damaged_band_is_one_error(damage: object, said: str, tmp_path: Path) -> None:
    assert callable(damage)
    records = [run_directory(tmp_path / f"{k}", rows(k / 10), k) for k in range(2)]
    text = make_band(records).as_json()
    changed = damage(text)
    assert changed != text
    (tmp_path / "x.json").write_text(changed, encoding="utf-8")
    done = bigrun("--show", tmp_path / "x.json")
    assert done.exit_code == 2
    assert said in done.output
    assert done.output.count("\n") == 1


MAY_BE_SHOWN = ("steps", "log_every_steps", "runs")
"""A number of 401 digits is a step; a band of no runs says of none."""


@pytest.mark.parametrize("harm", ["low", "steps", "widen", "floor", "log_every_steps", "runs", "relevant", "curves"])
def test_a_band_of_numbers_that_nothing_can_hold_is_one_error_or_shown(harm: str, tmp_path: Path) -> None:
    records = [run_directory(tmp_path / f"{k}", rows(k / 10), k) for k in range(2)]
    for odd in (10**400, -(10**400), None, [], "x", {"a": 10**400}):
        document = json.loads(make_band(records).as_json())
        if harm in ("low", "steps"):
            document["curves"]["loss"][harm][0] = odd
        elif harm == "widen":
            document["widen"]["loss"] = odd
        else:
            document[harm] = odd
        (tmp_path / "x.json").write_text(json.dumps(document), encoding="utf-8")
        done = bigrun("--show", tmp_path / "x.json")
        assert done.exit_code == 2 or (harm in MAY_BE_SHOWN and done.exit_code == 0), (odd, done.output)
        assert "Traceback" not in done.output
        assert done.exit_code == 0 or "no reference band" in done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        ("run", {"log_every_steps": None}, "run.log_every_steps: expected a whole number of at least 1, got nothing"),
        ("run", {"log_every_steps": 0}, "expected a whole number of at least 1, got 0"),
        ("run", {"seed": None}, "run.seed: expected a whole number of at least 0, got nothing"),
        ("run", {"seed": "<script>"}, "run.seed: expected a whole number of at least 0, got '<script>'"),
    ],
)
def test_a_run_whose_configuration_lacks_an_option_is_one_error(
    table: str, options: dict[str, object], said: str, tmp_path: Path
) -> None:
    import tomli
    import tomli_w

    for k in range(2):
        record = run_directory(tmp_path / f"{k}", rows(k / 10), k)
        config = tomli.loads((record.directory / "config.toml").read_text())
        config[table] = {n: v for n, v in {**config[table], **options}.items() if v is not None}
        (record.directory / "config.toml").write_text(tomli_w.dumps(config))
    done = bigrun(tmp_path / "0", tmp_path / "1", "--out", tmp_path / "x.json")
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert isinstance(done.exception, SystemExit)


def test_tables_that_are_none_are_no_traceback(tmp_path: Path) -> None:
    for k in range(2):
        record = run_directory(tmp_path / f"{k}", rows(k / 10), k)
        text = (record.directory / "config.toml").read_text()
        odd = "model = 5\nhardware = 3\nplugins = [1]\ndata = 2020-01-01\n"
        (record.directory / "config.toml").write_text(odd + "[run]" + text.partition("[run]")[2].partition("[")[0])
    done = bigrun(tmp_path / "0", tmp_path / "1", "--out", tmp_path / "x.json")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("no/where.json", "--out no/where.json: there is no folder no"),
        (".", "that is a folder"),
        ("/proc/x.json", "--out /proc/x.json: cannot be written"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_named_as_such(
    out: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for k in range(2):
        run_directory(tmp_path / f"{k}", rows(k / 10), k)
    done = bigrun("0", "1", "--out", out)
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert "--run-dir" not in done.output


def with_start(record: RunRecord, **facts: object) -> RunRecord:
    start = {"packages": {"bigrun": "1.2", "torch": "2.9"}, **facts}
    (record.directory / "provenance.json").write_text(json.dumps({"starts": [{}, start]}))
    return record


def test_runs_that_have_seen_other_images_are_refused_unless_one_says_so(tmp_path: Path) -> None:
    records = [run_directory(tmp_path / f"{k}", rows(k / 10), k) for k in range(3)]
    out = tmp_path / "x.json"
    runs = [record.directory for record in records]
    for record, sha256 in zip(records[:2], ("a" * 64, "b" * 64), strict=True):
        with_start(record, data={"kind": "content", "sha256": sha256, "files": 3})
    done = bigrun(*runs, "--out", out)
    assert done.exit_code == 2, done.output
    assert f"{runs[0]} and {runs[1]} have seen other images (sha256 aaaaaaaaaaaa and bbbbbbbbbbbb)" in done.output
    assert "--allow-other-data" in done.output
    assert not out.exists()
    assert bigrun(*runs, "--out", out, "--allow-other-data").exit_code == 0
    with_start(records[1], data={"kind": "content", "sha256": "a" * 64, "files": 3})
    assert bigrun(*runs, "--out", out).exit_code == 0, "of the third nobody knows what it has seen"
    assert [run["torch"] for run in json.loads(out.read_text())["runs"]] == ["2.9", "2.9", None]


@pytest.mark.parametrize("odd", [5, [], {"starts": 5}, {"starts": []}, {"starts": [5]}, {"starts": [{"data": 5}]}])
def test_a_provenance_that_is_odd_is_none(odd: object, tmp_path: Path) -> None:
    records = [run_directory(tmp_path / f"{k}", rows(k / 10), k) for k in range(2)]
    for record in records:
        (record.directory / "provenance.json").write_text(json.dumps(odd))
    assert make_band(records).runs[0]["torch"] is None


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    band = make_band(recorded(tmp_path), preset="quickstart")
    path = tmp_path / "x.json"
    path.write_text(band.as_json(), encoding="utf-8")
    assert read_band(path).as_json() == band.as_json()
    assert json.loads(band.as_json())["format"] == 1


# -- the law ------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(values, min_size=4, max_size=4), min_size=2, max_size=6), st.floats(0.001, 0.5))
@settings(max_examples=60, deadline=None)
def test_a_band_holds_its_runs_and_widening_never_narrows_it(curves: list[list[float]], floor: float) -> None:
    found = [dict(enumerate(curve)) for curve in curves]
    envelope = Envelope.of(found, floor)
    assert envelope is not None
    narrow, wide = envelope.widened(0.5), envelope.widened(1.5)
    for i in range(4):
        slack = 1e-5 * max(1.0, abs(narrow.low[i]), abs(narrow.high[i]))  # six digits
        assert wide.low[i] <= narrow.low[i] + slack
        assert narrow.high[i] <= wide.high[i] + slack
        assert all(narrow.low[i] - slack <= curve[i] <= narrow.high[i] + slack for curve in curves)


@given(st.lists(st.lists(values, min_size=4, max_size=4), min_size=3, max_size=5))
@settings(max_examples=60, deadline=None)
def test_the_chosen_widening_holds_each_run_in_the_band_of_the_others(curves: list[list[float]]) -> None:
    found = [dict(enumerate(curve)) for curve in curves]
    widen = chosen_widen(found, 0.02)
    assert widen >= usual_widen(len(curves))
    for i, curve in enumerate(found):
        others = Envelope.of([other for j, other in enumerate(found) if j != i], 0.02)
        assert others is not None
        assert others.needed(curve) <= widen


def test_the_usual_widening_reaches_three_and_a_half_standard_deviations() -> None:
    """By simulation: the mean of half a band's width, over draws of a normal distribution."""
    import numpy as np

    draw = np.random.default_rng(0).standard_normal
    for runs in (2, 3, 5, 10):
        sample = draw((20_000, runs))
        ranges = sample.max(1) - sample.min(1)
        assert np.mean(ranges * (0.5 + usual_widen(runs))) == pytest.approx(3.5, rel=0.02)


def test_between_its_points_a_band_is_a_straight_line_and_outside_there_is_none() -> None:
    curve = Curve((10, 20), (0.0, 1.0), (2.0, 5.0))
    assert curve.at(15) == (0.5, 3.5)
    assert curve.at(10) == (0.0, 2.0)
    assert curve.at(20) == (1.0, 5.0)
    assert curve.at(9) is None
    assert curve.at(21) is None
