"""Where tests of `bigrun data import` read and write."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def own_salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's configuration of the test's own; where the salt will be."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "bigrun" / "import-salt"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The data set that is made."""
    return tmp_path / "out"
