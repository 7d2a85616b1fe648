"""The allocator's own word on its settings."""

from __future__ import annotations

import pytest
import torch

from bigrun.devices.allocator import allocator_settings


def test_a_build_for_the_cpu_has_no_such_allocator() -> None:
    if torch.version.cuda or torch.version.hip:
        pytest.skip("this torch has one")
    assert allocator_settings() is None


@pytest.mark.parametrize("error", [RuntimeError("no driver"), KeyError("allocator_settings")])
def test_one_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def snapshot() -> dict[str, object]:
        raise error

    monkeypatch.setattr(torch.cuda.memory, "_snapshot", snapshot)
    assert allocator_settings() is None


def test_its_settings_are_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"expandable_segments": True}
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda: {"segments": [], "allocator_settings": own})
    found = allocator_settings()
    assert found == own
    assert found is not own
