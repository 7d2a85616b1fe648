"""The `bigrunner` fixture for plugin authors; pytest finds it through an entry point."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bigrun.testing.runner import Runner

__all__ = ["bigrunner"]

# Before anybody imports them: their assertions then say what they compared.
pytest.register_assert_rewrite("bigrun.testing.agreement", "bigrun.testing.contract", "bigrun.testing.runner")


@pytest.fixture
def bigrunner(tmp_path: Path) -> Iterator[Runner]:
    """Run plugins in this process on a tiny vision transformer and synthetic images, in under two seconds.

    The process must be afterwards as it was: environment, random generators and root logger are compared.
    """
    from bigrun.testing.guard import unchanged_process
    from bigrun.testing.runner import Runner

    with unchanged_process():
        yield Runner(tmp_path)
