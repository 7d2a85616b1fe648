"""telemetry.jsonl: whole rows, in files of bounded size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from disks import file_size_limit

from bigrun_telemetry import rows as module
from bigrun_telemetry.rows import Rows
from bigrun_telemetry.sample import Sample
from bigrun_telemetry.summary import Distribution, Summary

GIB = 2**30


def rows_in(tmp_path: Path, rank: int = 0, keep_bytes: int = GIB) -> Rows:
    folder = tmp_path / "telemetry"
    folder.mkdir(exist_ok=True)
    return Rows(tmp_path, folder, rank, keep_bytes)


def test_rows_are_there_at_once_and_behind_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "telemetry.jsonl").write_text('{"step": 9}\n')
    rows = rows_in(tmp_path)
    rows.add('{"step": 3}')
    rows.add('{"step": 4}')
    text = (tmp_path / "telemetry.jsonl").read_text()
    assert text == '{"step": 9}\n{"step": 3}\n{"step": 4}\n', "history stays, also behind a resumed step"


@pytest.mark.parametrize("left", ['{"step": 1}\n{"st', '{"st'])
def test_what_a_kill_has_left_of_a_row_goes_before_another_follows(tmp_path: Path, left: str) -> None:
    (tmp_path / "telemetry.jsonl").write_text(left)
    rows_in(tmp_path).add("next")
    assert (tmp_path / "telemetry.jsonl").read_text() == left[: left.rfind("\n") + 1] + "next\n"


@pytest.mark.parametrize("limit", [0, 3, 7, 10])
def test_no_part_of_a_row_that_the_disk_refuses_stands_there(tmp_path: Path, limit: int) -> None:
    rows = rows_in(tmp_path)
    written = 0
    with file_size_limit(limit):
        for _ in range(3):
            try:
                rows.add("a row.")
                written += 1
            except OSError:
                assert (tmp_path / "telemetry.jsonl").read_text() == "a row.\n" * written
    rows.add("last")
    assert written == limit // 7
    assert (tmp_path / "telemetry.jsonl").read_text() == "a row.\n" * written + "last\n"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "telemetry.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        rows_in(tmp_path).add("a row")
    assert not (tmp_path / "elsewhere").exists()


def test_large_files_are_put_aside_and_the_oldest_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 100)
    rows = rows_in(tmp_path, keep_bytes=350)
    for number in range(60):
        rows.add(f"row {number:05}")  # 10 bytes each: ten make a part
    parts = sorted((tmp_path / "telemetry").iterdir())
    text = "".join(part.read_text() for part in parts) + rows.path.read_text() if rows.path.exists() else ""
    text = text or "".join(part.read_text() for part in parts)
    numbers = [int(line.split()[1]) for line in text.splitlines()]
    assert numbers == list(range(numbers[0], 60)), "in order, without a gap"
    assert len(parts) == 2, "with the file that grows again they are at most 350 bytes"
    assert all(part.stat().st_size == 100 for part in parts)


def test_each_rank_has_files_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 10)
    for rank in (0, 1, 11):
        rows_in(tmp_path, rank, keep_bytes=10).add("a long row of one rank")
        rows_in(tmp_path, rank).add("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "telemetry",
        "telemetry-rank-1.jsonl",
        "telemetry-rank-11.jsonl",
        "telemetry.jsonl",
    ]


def test_a_row_is_strict_json_and_has_what_is_known() -> None:
    sample = Sample(
        step=3,
        gpu_power_watts=412.34567,
        gpu_throttle=("power-cap",),
        gpu_memory_used_bytes=20 * GIB,
        torch_reserved_bytes=16 * GIB,
        torch_allocated_bytes=3 * GIB,
        torch_peak_bytes=12 * GIB,
        flags=(),
    )
    assert json.loads(sample.line()) == {
        "step": 3,
        "gpu_power_watts": 412.346,
        "gpu_throttle": ["power-cap"],
        "gpu_memory_used_bytes": 20 * GIB,
        "torch_reserved_bytes": 16 * GIB,
        "torch_allocated_bytes": 3 * GIB,
        "torch_peak_bytes": 12 * GIB,
        "torch_fragmentation_fraction": 0.25,
        "gpu_memory_other_bytes": 4 * GIB,
        "flags": [],
    }
    assert Sample().line() == "{}"


def test_fragmentation_is_what_was_in_no_tensor_when_most_was() -> None:
    def fraction(**sizes: int) -> float | None:
        return Sample(**{f"torch_{name}_bytes": size for name, size in sizes.items()}).torch_fragmentation_fraction

    # between two steps weights and states are left, 4 of 20 GiB: nothing is wrong with that
    assert fraction(allocated=4 * GIB, peak=19 * GIB, reserved=20 * GIB) == pytest.approx(0.05)
    assert fraction(allocated=4 * GIB, peak=19 * GIB, reserved=10 * GIB) == 0  # some of it was given back
    assert fraction(allocated=4 * GIB, reserved=20 * GIB) is fraction(peak=GIB) is None


# -- the summary of a process -----------------------------------------------------------------------------------


def test_energy_is_the_counters_or_power_times_time() -> None:
    by_counter, by_power = Summary(), Summary()
    for second in range(0, 3601, 10):
        joules = 5e9 + 400.0 * second
        by_counter.add(Sample(elapsed_seconds=float(second), gpu_energy_joules=joules, gpu_power_watts=1.0), [])
        by_power.add(Sample(elapsed_seconds=float(second), gpu_power_watts=400.0), [])
    assert by_counter.energy_kwh == pytest.approx(0.4)
    assert by_power.energy_kwh == pytest.approx(0.4)


def test_a_distribution_is_exact_to_a_unit() -> None:
    values = Distribution()
    assert (values.quantile(0.5), values.mean, values.last) == (None, None, None)
    for celsius in range(1, 101):
        values.add(celsius + 0.2)
    values.add(None)
    assert [values.quantile(f) for f in (0.01, 0.5, 0.95, 1.0)] == [1, 50, 95, 100]
    assert values.mean == pytest.approx(50.5)
    assert values.last == 100.2
