"""Names of checkpoints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigrun.checkpoint.layout import Stale, is_file_name, parse_stale, parse_step, stale_name, step_name


@given(st.integers(0, 10**15))
def test_step_round_trips_through_its_name(step: int) -> None:
    assert parse_step(step_name(step)) == step


def test_a_name_has_at_least_eight_digits() -> None:
    assert step_name(12_000) == "step-00012000"
    assert step_name(123_456_789) == "step-123456789"


@pytest.mark.parametrize(
    "name",
    [
        "step-999",
        "step-000000100",
        "old-step-100-backup",
        "step-",
        "step-0000001x",
        "00000001",
        "step-0000000\N{ARABIC-INDIC DIGIT ONE}",
        "step-00000001 ",
        "step--0000001",
        "step-00000001-backup",
        "final_00000001",
    ],
)
def test_other_names_are_not_checkpoints(name: str) -> None:
    assert parse_step(name) is None


def test_a_negative_step_has_no_name() -> None:
    with pytest.raises(ValueError, match="-1"):
        step_name(-1)


@given(st.sampled_from(Stale), st.integers(0, 10**12))
def test_stale_names_round_trip_and_never_repeat(kind: Stale, step: int) -> None:
    name = stale_name(kind, step)
    assert parse_stale(name) == (kind, step)
    assert name != stale_name(kind, step)
    assert parse_step(name) is None


@pytest.mark.parametrize(
    "name", [".tmp-1", "tmp-00000001-" + "0" * 32, ".tmp-00000001-mine", ".cache", "step-00000001"]
)
def test_other_names_are_not_stale(name: str) -> None:
    assert parse_stale(name) is None


@pytest.mark.parametrize("name", ["../state.json", "a/b", "..", "", ".hidden", "-rf", "a\n", "é", "a\0b"])
def test_file_names_cannot_leave_the_directory_or_hide(name: str) -> None:
    assert not is_file_name(name)
