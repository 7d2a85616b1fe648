"""Libraries that talk when they are imported: heard only when the import fails."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch  # noqa: F401 - it has filters of its own

from bigrun.imports import failure_text, import_quietly

TALKS = """
import logging, warnings
logging.getLogger("talkative").warning("Failed to load _C_mxfp8.so: undefined symbol\\nand more")
logging.getLogger("talkative.inner").error("its part")
logging.getLogger("talkative").info("a detail")
warnings.warn("torch.x is deprecated", FutureWarning)
"""


@pytest.fixture
def talkative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source of a library that is not imported yet."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "talkative", raising=False)
    (tmp_path / "talkative.py").write_text(TALKS)
    return tmp_path / "talkative.py"


def test_what_a_library_says_reaches_nobody(talkative: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger, filters = logging.getLogger("talkative"), list(warnings.filters)
    assert import_quietly("talkative").__name__ == "talkative"
    assert caplog.records == []
    assert (logger.handlers, logger.propagate, warnings.filters) == ([], True, filters)
    logger.warning("later")
    assert [record.message for record in caplog.records] == ["later"]


def test_what_it_said_is_told_when_the_import_fails(talkative: Path) -> None:
    talkative.write_text(f"{TALKS}\nraise OSError('no such library')\n")
    with pytest.raises(OSError, match="no such library") as raised:
        import_quietly("talkative")
    assert failure_text(raised.value) == (
        "OSError: no such library (before it: Failed to load _C_mxfp8.so: undefined symbol; its part; torch.x is "
        "deprecated)"
    )
    assert (logging.getLogger("talkative").handlers, logging.getLogger("talkative").propagate) == ([], True)


def test_a_library_that_is_not_there_is_said_as_always() -> None:
    with pytest.raises(ModuleNotFoundError) as raised:
        import_quietly("no_such_library.part")
    assert raised.value.name == "no_such_library"
    assert failure_text(raised.value) == "ModuleNotFoundError: No module named 'no_such_library'"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_torchao_is_silent() -> None:
    """It has a line for each of its libraries that does not fit, and calls what torch warns of."""
    program = "from bigrun.imports import import_quietly as f; f('torchao.optim.quant_utils'); f('torchao.float8')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
