"""Where tests of `bigrun data import` read and write, and which of the contracts' tests are slow."""

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """test_several_processes.py has most plugins together in two processes, in the time of one of these."""
    for item in items:
        is_here = Path(__file__).parent in item.path.parents
        if is_here and isinstance(item, pytest.Function) and item.originalname.startswith("test_two_processes_"):
            item.add_marker(pytest.mark.slow)
