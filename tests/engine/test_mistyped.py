"""A path that leads nowhere: the messages name the one that was meant, if there is one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.checkpoint.layout import holds_checkpoint
from bigrun.cli import main
from bigrun.data.folder import ImageFolder
from bigrun.errors import NoImagesError, UsageError
from bigrun.mistyped import did_you_mean_path
from bigrun.weights.read import read_weights

NAMES = st.text("abcdefghij-_0123", min_size=5, max_size=12)
STEP = "runs/quickstart/checkpoints/step-00001000"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a run with a checkpoint, a preset, what was tuned, images."""
    monkeypatch.chdir(tmp_path)
    Path(STEP).mkdir(parents=True)
    Path(STEP, "MANIFEST.json").write_text("{}")
    Path("runs/quickstart/config.toml").write_text("[run]\n")
    Path("runs/quickstar").write_text("a file, and no run\n")
    Path("my_run.toml").write_text("[run]\n")
    Path("tuned.toml").write_text("[run]\n")
    Path("images").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("report runs/quickstrat", "no run (there is no config.toml) - did you mean 'runs/quickstart'?; expected"),
        ("watch runs/quickstar", "did you mean 'runs/quickstart'?"),
        ("watch run/quickstart", "did you mean 'runs/quickstart'?"),
        ("compare runs/quickstart rns/quickstrat", "rns/quickstrat: no run (there is no config.toml) - did you mean"),
        ("report runs/quickstart --compare runs/Quickstart", "did you mean 'runs/quickstart'?"),
        ("replay runs/quickstrat", "did you mean 'runs/quickstart'?"),
        ("runs rns", "rns: no such folder - did you mean 'runs'?"),
        ("checkpoints list runs/quickstrat", "no such directory - did you mean 'runs/quickstart'?"),
        (f"checkpoints verify {STEP[:-1]}1", f"no such directory - did you mean '{STEP}'?"),
        (f"checkpoints diff {STEP[:-1]} {STEP}", f"{STEP[:-1]}: is no checkpoint - did you mean '{STEP}'?"),
        (f"monitor {STEP[:-1]}", f"{STEP[:-1]}: no such directory - did you mean '{STEP}'?"),
        ("eval runs/quickstart/chekpoints", "did you mean 'runs/quickstart/checkpoints'?; expected"),
        ("monitor runs/quickstart/chekpoints", "did you mean 'runs/quickstart/checkpoints'?"),
        ("eval runs/quickstrat", "runs/quickstrat: no such directory - did you mean 'runs/quickstart'?"),
        ("export runs/quickstrat --to safetensors", "no such directory - did you mean 'runs/quickstart'?"),
        ("check my_rum.toml", "my_rum.toml: no such file - did you mean 'my_run.toml'?"),
        ("check my_run.toml --with tund.toml", "--with tund.toml: cannot be read: No such file or directory - did you"),
        ("data check ./imges", "no such folder, and no preset of that name - did you mean 'images'?"),
    ],
)  # fmt: skip
def test_a_message_names_what_was_meant(here: Path, words: str, said: str) -> None:
    before = sorted(here.rglob("*"))
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert "Traceback" not in done.output
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("quickstart_imgs", "quickstart_images"),  # 0.94, the preset 0.8
        ("quickstrt", "quickstart"),  # 0.95, the folder 0.69
        ("./quickstart_imags/", "quickstart_images"),
        ("vit_smal", "vit_small"),
    ],
)
def test_of_folders_and_presets_the_nearest_is_named(here: Path, typed: str, meant: str) -> None:
    Path("quickstart_images").mkdir()
    done = CliRunner().invoke(main, ["data", "check", typed])
    assert done.exit_code == 2
    assert f"no such folder, and no preset of that name - did you mean {meant!r}?; expected" in done.output


@pytest.mark.parametrize(
    "words",
    [
        "report elsewhere",
        "monitor runs/elsewhere",
        "check other.toml",
        "watch images",
        "eval image",  # near, but no place where checkpoints are
        "monitor image",
        "export image --to safetensors",
        "checkpoints list image",
    ],
)
def test_a_message_names_nothing_that_is_far_away_or_of_another_kind(here: Path, words: str) -> None:
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == 2
    assert "did you mean" not in done.output


def test_the_images_and_the_weights_of_a_preset(here: Path) -> None:
    Path("weights.pth").touch()
    with pytest.raises(NoImagesError, match=r"imges: no such folder - did you mean 'images'\?.*check data\.path"):
        ImageFolder.search("imges")
    with pytest.raises(UsageError, match=r"weight\.pth: no such file - did you mean 'weights\.pth'\?; nothing is"):
        read_weights(Path("weight.pth"))


@given(names=st.sets(NAMES, min_size=1, max_size=8), files=st.sets(NAMES, max_size=4), data=st.data())
@settings(deadline=None, max_examples=60)
def test_one_letter_less_is_noticed_and_only_what_is_right_is_named(
    names: set[str], files: set[str], data: st.DataObject
) -> None:
    meant = data.draw(st.sampled_from(sorted(names)))
    at = data.draw(st.integers(0, len(meant) - 1))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, name).mkdir()
        for name in files - names:
            Path(folder, name).touch()
        typed = Path(folder, meant[:at] + meant[at + 1 :])
        hint = did_you_mean_path(typed, Path.is_dir)
        if typed.is_dir():
            assert hint == ""
        else:
            named = Path(hint.removeprefix(" - did you mean '").removesuffix("'?"))
            assert named.parent == Path(folder)
            assert named.name in names
            assert (named.name == meant) or len(names) > 1


def test_odd_paths_are_answered_too(here: Path) -> None:
    deep = Path(*["a"] * 1900)
    assert did_you_mean_path(deep, Path.is_dir) == ""
    assert did_you_mean_path(Path("x" * 300), Path.is_dir) == ""
    assert did_you_mean_path(Path("image\0"), Path.is_dir) == " - did you mean 'images'?"
    assert did_you_mean_path(Path(), holds_checkpoint) == ""
    assert did_you_mean_path(Path("/"), holds_checkpoint) == ""
    assert did_you_mean_path(Path("images/../rns"), Path.is_dir) == " - did you mean 'images/../runs'?"
    Path("escape-\x1b[31m").mkdir()
    assert "\x1b" not in did_you_mean_path(Path("escape-[31m"), Path.is_dir)
