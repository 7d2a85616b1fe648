"""Bar 33: a broken plugin. Unnamed, it is never imported; named, it is an error before step 0, or is isolated."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from training import Training
from typed import Done, Typed

from bigrun.errors import ExitCode


def install(site: Path, name: str, source: str) -> None:
    """A distribution `name` with one plugin of that name, as pip leaves one behind: importable, with its metadata."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(source, encoding="utf-8")
    facts = site / f"{module}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (facts / "entry_points.txt").write_text(f"[bigrun]\n{name} = {module}:Plugin\n", encoding="utf-8")


CANARY = "import pathlib; pathlib.Path({canary!r}).touch()\n"
BROKEN = {
    "raises": "raise RuntimeError('broken inside')",
    "leaves": "import sys; sys.exit(0)",
    "hangs": "import time; time.sleep(3600)\nclass Plugin: ...",
    "is-no-python": "def (",
    "has-no-class": "x = 1",
    "needs-what-is-not-there": "import nothing_of_that_name\nclass Plugin: ...",
    "is-no-class": "Plugin = 5",
    "cannot-be-made": "class Plugin:\n    def __init__(self):\n        raise OSError('no licence')",
    "leaves-when-made": "import sys\nclass Plugin:\n    def __init__(self):\n        sys.exit(0)",
    "has-an-unknown-hook": "from bigrun import hookimpl\nclass Plugin:\n    @hookimpl\n    def after_stepp(self): ...",
    "has-unknown-arguments": "from bigrun import hookimpl\nclass Plugin:\n    @hookimpl\n    def on_start(self, x): 0",
}
NAMED = {
    "raises": "RuntimeError: broken inside",
    "leaves": "cannot be imported from leaves:Plugin: SystemExit",
    "is-no-python": "SyntaxError",
    "has-no-class": "has no attribute 'Plugin'",
    "needs-what-is-not-there": "No module named 'nothing_of_that_name'",
    "is-no-class": "is not a class",
    "cannot-be-made": "cannot-be-made failed in __init__ at step 0: OSError: no licence",
    "leaves-when-made": "leaves-when-made failed in __init__ at step 0: SystemExit",
    "has-an-unknown-hook": "unknown hook 'after_stepp' - did you mean 'after_step'?",
    "has-unknown-arguments": "plugins.has-unknown-arguments: ",
}
IN_A_HOOK = """
import sys
from bigrun import hookimpl

class Plugin:
    observer = {observer}

    @hookimpl
    def {hook}(self, run):
        {deed}
"""
BOOM = ("raise ValueError('boom')", "ValueError: boom")
LEAVES = ("sys.exit(0)", "SystemExit: 0")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "imported"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, canary: Path) -> Path:
    """A folder of packages in which every plugin of BROKEN is installed; importing one makes the canary."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name, source in BROKEN.items():
        install(folder, name, CANARY.format(canary=str(canary)) + source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    return folder


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return Typed(tmp_path, monkeypatch, run={"max_steps": 2})


@pytest.fixture(autouse=True)
def forget_modules() -> None:
    for name in BROKEN:
        sys.modules.pop(name.replace("-", "_"), None)


def expect(done: Done, code: int, *words: str) -> None:
    assert done.code == code, done.said
    assert "Traceback" not in done.said
    for word in words:
        assert word in done.said


@pytest.mark.usefixtures("site")
def test_bar_33_plugins_that_nobody_names_are_never_imported(tmp_path: Path, canary: Path) -> None:
    """In a process of its own, with eleven broken ones installed."""
    training = Training(tmp_path, run={"max_steps": 2})
    done = training()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not canary.exists()


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    "words",
    [("plugins",), ("presets",), ("check", "tiny.toml"), ("explain", "model"), ("explain", "plugins"), ("--help",),
     ("run", "tiny.toml", "--plugin", "gram-anchorin"), ("run", "tiny.toml", "--no-plugin", "hangs")],
    ids=" ".join,
)  # fmt: skip
def test_bar_33_no_command_imports_a_plugin_that_nobody_names(
    typed: Typed, canary: Path, words: tuple[str, ...]
) -> None:
    done = typed.type(*words)
    assert done.code in (0, 2)
    assert not canary.exists()
    if words == ("plugins",):
        assert all(name in done.said for name in BROKEN)


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", NAMED)
def test_bar_33_a_broken_plugin_that_is_named_is_an_error_before_step_0(typed: Typed, canary: Path, name: str) -> None:
    """The one that hangs while it is imported hangs: it was asked for, and nobody can tell it from a slow one."""
    made = name in ("cannot-be-made", "leaves-when-made")
    expect(typed.train("--plugin", name), ExitCode.ERROR if made else ExitCode.USAGE, name, NAMED[name])
    assert canary.exists() or name == "is-no-python"
    assert not typed.run.exists()


@pytest.mark.usefixtures("site")
def test_bar_33_every_broken_plugin_is_named_at_once(typed: Typed) -> None:
    words = [word for name in ("raises", "leaves", "has-no-class") for word in ("--plugin", name)]
    expect(typed.train(*words), ExitCode.USAGE, "3 problems", *(NAMED[n] for n in ("raises", "leaves", "has-no-class")))


@pytest.mark.parametrize(
    ("hook", "deed", "says"),
    [("on_start", *BOOM), ("before_step", *BOOM), ("after_step", *BOOM), ("on_finish", *BOOM), ("after_step", *LEAVES)],
)
def test_bar_33_an_observer_that_fails_in_a_hook_is_isolated(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, hook: str, deed: str, says: str
) -> None:
    """Training is as it would be without it; the exit code says that something was not as it should be."""
    (typed.folder / "mine.py").write_text(IN_A_HOOK.format(observer=True, hook=hook, deed=deed), encoding="utf-8")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    done = typed.train("--plugin", "mine:Plugin")
    expect(done, ExitCode.QUARANTINED, "finished: 2", f"quarantined: mine:Plugin failed in {hook}", says)
    assert [row["step"] for row in typed.metrics()] == [1, 2]
    losses = [row["loss"] for row in typed.metrics()]
    typed.train("--run-dir", "without")
    typed.run = typed.folder / "without"
    assert [row["loss"] for row in typed.metrics()] == losses


@pytest.mark.parametrize(
    ("hook", "deed", "says"),
    [
        ("configure_runtime", *BOOM),
        ("on_start", *BOOM),
        ("before_step", *BOOM),
        ("after_step", *BOOM),
        ("on_finish", *BOOM),
        ("after_step", *LEAVES),
    ],
)
def test_bar_33_a_critical_plugin_that_fails_in_a_hook_ends_the_run_with_its_name(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, hook: str, deed: str, says: str
) -> None:
    (typed.folder / "mine.py").write_text(IN_A_HOOK.format(observer=False, hook=hook, deed=deed), encoding="utf-8")
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    done = typed.train("--plugin", "mine:Plugin")
    expect(done, ExitCode.ERROR, f"mine:Plugin failed in {hook}", says, "mine.py, line 10")


def test_bar_33_a_plugin_that_sleeps_only_costs_time(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What never wakes up is the watchdog's (bar 31)."""
    (typed.folder / "mine.py").write_text(
        IN_A_HOOK.format(observer=True, hook="after_step", deed="import time; time.sleep(0.2)"), encoding="utf-8"
    )
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    expect(typed.train("--plugin", "mine:Plugin"), 0, "finished: 2")
