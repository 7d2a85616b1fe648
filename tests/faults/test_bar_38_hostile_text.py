"""Bar 38: hostile text. Links are not followed, names do nothing to a terminal, secrets are nowhere, nonsense is named
before any data is read."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from training import Training
from typed import Done, Typed, forge, held, train_once

from bigrun.config import Document, build_config
from bigrun.errors import ConfigError, ExitCode
from bigrun.lock import LOCK
from bigrun.redaction import REDACTED
from bigrun.rules import EngineConfig
from bigrun.values import type_name

# -- secrets ----------------------------------------------------------------------------------------------------------

SECRETS = {
    "environment": "env-S3cret-4711", "by name": "name-S3cret-4712", "declared": "decl-S3cret-4713", "short": "q9Zx!",
    "url": "urlpw-S3cret-4714", "query": "sig-S3cret-4715", "set": "set-S3cret-4716", "inside": "deep-S3cret-4717",
}  # fmt: skip
TALKATIVE = """
import os
import attrs
from bigrun import hookimpl, option

@attrs.frozen
class Options:
    api_token: str = option("", help="By its name.")
    address: str = option("", secret=True, help="Declared.")
    pin: str = option("", secret=True, help="Declared, and short.")
    url: str = option("", help="With a password and a signature.")
    password: str = option("", help="By its name.")
    headers: dict[str, str] = attrs.field(factory=dict)
    fail: str = option("", help="Where it fails.")

class Plugin:
    Config = Options
    observer = True

    def __init__(self, config):
        self.config = config
        if config.fail == "init":
            raise OSError(self.everything())

    def everything(self):
        c = self.config
        return f"{c.api_token} {c.address} pin={c.pin!r} {c.url} {c.password} {c.headers} {os.environ['ANY_API_KEY']}"

    @hookimpl
    def header_lines(self, run):
        return ["talks " + self.everything().replace(repr(self.config.pin), "")]

    @hookimpl
    def on_start(self, run):
        facts = {"token": self.config.api_token, "deep": {"a": [self.config.address]}}
        run.event("talk", self.everything().replace(repr(self.config.pin), ""), **facts)

    @hookimpl
    def after_step(self, run, step):
        if step == 2 and self.config.fail == "observer":
            raise ValueError(self.everything().replace(repr(self.config.pin), ""))

class Critical(Plugin):
    observer = False

    @hookimpl
    def before_step(self, run, step):
        raise ValueError(self.everything().replace(repr(self.config.pin), ""))
"""


def talkative(fail: str = "", secrets: dict[str, str] | None = None) -> dict[str, Any]:
    s = secrets or SECRETS
    return {
        "api_token": s["by name"], "address": s["declared"], "pin": s["short"],
        "url": f"https://user:{s['url']}@host/x?a=1&sig={s['query']}", "password": s["set"],
        "headers": {"Authorization": f"Bearer {s['inside']}", "Accept": "json"}, "fail": fail,
    }  # fmt: skip


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    monkeypatch.setenv("ANY_API_KEY", SECRETS["environment"])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(TALKATIVE, encoding="utf-8")
    return Typed(tmp_path, monkeypatch, run={"max_steps": 3}, plugins={"tensorboard": {}})


def leaks(typed: Typed, said: str, secrets: dict[str, str] = SECRETS) -> list[tuple[str, str]]:
    """(what, where) of every secret that is in a file of the run directory, or was said."""
    files = {str(path): path.read_bytes() for path in typed.run.rglob("*") if path.is_file()}
    places = {**files, "output": said.encode()}
    return [
        (what, where) for what, secret in secrets.items() for where, data in places.items() if secret.encode() in data
    ]


def configure(typed: Typed, plugin: str, options: dict[str, Any], **tables: Any) -> None:
    typed.configure(**{"run": {"max_steps": 3}, "plugins": {"tensorboard": {}, plugin: options}, **tables})


def test_bar_38_no_secret_is_in_the_run_directory_or_on_the_terminal(typed: Typed) -> None:
    """An observer that fails, so that its message is an event and the end of the output."""
    configure(typed, "mine:Plugin", talkative("observer"))
    done = typed.train("--set", f"plugins.'mine:Plugin'.password='{SECRETS['set']}'")
    assert done.code == ExitCode.QUARANTINED, done.said
    assert leaks(typed, done.said) == []
    assert done.said.count(REDACTED) > 10
    written = (typed.run / "config.toml").read_text(encoding="utf-8")
    assert f'api_token = "{REDACTED}"' in written
    assert f'url = "https://{REDACTED}@host/x?a=1&sig={REDACTED}"' in written
    assert 'Accept = "json"' in written
    assert written == (typed.checkpoint(2) / "config.toml").read_text(encoding="utf-8")
    (event,) = typed.events("talk")
    assert event["facts"] == {"token": REDACTED, "deep": {"a": [REDACTED]}}


def test_bar_38_no_secret_is_in_what_a_real_process_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANY_API_KEY", SECRETS["environment"])
    (tmp_path / "mine.py").write_text(TALKATIVE, encoding="utf-8")
    training = Training(tmp_path, run={"max_steps": 3}, plugins={"mine:Critical": talkative()})
    done = training()
    assert done.returncode == ExitCode.ERROR
    assert "mine:Critical failed in before_step at step 1: ValueError" in done.stderr
    files = [path for path in training.run.rglob("*") if path.is_file()]
    assert {"config.toml", "events.jsonl"} <= {path.name for path in files}
    for secret in SECRETS.values():
        assert secret not in done.stdout + done.stderr
        assert not [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "words",
    [
        ("check",),
        ("explain", "plugins.mine:Plugin.api_token", "--preset"),
        ("explain", "plugins.mine:Plugin", "--preset"),
    ],
)
def test_bar_38_no_command_says_a_secret(typed: Typed, words: tuple[str, ...]) -> None:
    configure(typed, "mine:Plugin", talkative())
    done = typed.type(*words, "tiny.toml")
    assert done.code == 0, done.said
    assert leaks(typed, done.said) == []


def test_bar_38_an_error_before_the_run_says_no_secret(typed: Typed) -> None:
    configure(typed, "mine:Plugin", talkative("init"))
    done = typed.train()
    assert done.code == ExitCode.ERROR
    assert "mine:Plugin failed in __init__" in done.said
    assert [what for what, _ in leaks(typed, done.said) if what != "short"] == []
    wrong = typed.train("--set", f"plugins.'mine:Plugin'.api_token=['{SECRETS['set']}']")
    assert wrong.code == ExitCode.USAGE
    broken = typed.train("--set", f"plugins.'mine:Plugin'.api_token={SECRETS['set']}=[")
    assert broken.code == ExitCode.USAGE
    assert leaks(typed, wrong.said + broken.said) == []


def test_bar_38_a_resumed_run_has_its_secrets_from_the_command_and_may_have_others(typed: Typed) -> None:
    configure(typed, "mine:Plugin", talkative(), run={"max_steps": 2})
    configure_url(typed, "old-Passw0rd")
    first = typed.train()
    assert first.code == 0, first.said
    others = {what: f"other-{secret}" for what, secret in SECRETS.items()}
    configure(typed, "mine:Plugin", talkative(secrets=others))
    configure_url(typed, "new-Passw0rd")
    second = typed.train()
    assert second.code == 0, second.said
    assert "resumed from" in second.said
    changed = [event["message"] for event in typed.events("config-changed")]
    assert not [message for message in changed if "mine:Plugin" in message or "data.path" in message]
    everything = {**SECRETS, **others, "old": "old-Passw0rd", "new": "new-Passw0rd"}
    assert leaks(typed, first.said + second.said, everything) == []


def configure_url(typed: Typed, password: str) -> None:
    """Let data.path be a URL with a password. It is a folder as well: the engine fetches nothing."""
    folder = typed.folder / "https:" / f"user:{password}@host"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "images").exists():
        shutil.copytree(typed.folder / "images", folder / "images")
    preset = (typed.folder / "tiny.toml").read_text(encoding="utf-8")
    preset = preset.replace('path = "images"', f'path = "https://user:{password}@host/images"')
    (typed.folder / "tiny.toml").write_text(preset, encoding="utf-8")


def test_bar_38_the_secrets_of_an_older_checkpoint_are_not_repeated(typed: Typed) -> None:
    """One that was written before secrets were left out, or by hand."""
    configure(typed, "mine:Plugin", talkative(), run={"max_steps": 2})
    assert typed.train().code == 0
    config = typed.checkpoint(2) / "config.toml"
    config.write_text(config.read_text().replace(f'api_token = "{REDACTED}"', 'api_token = "0lder-S3cret-99"'))
    forge(typed.checkpoint(2))
    configure(typed, "mine:Plugin", talkative())
    done = typed.train()
    assert done.code == 0, done.said
    assert "0lder-S3cret-99" not in done.said
    configure(typed, "mine:Plugin", talkative(), model={"depth": 3})
    assert "0lder-S3cret-99" not in typed.train().said


def test_bar_38_a_written_configuration_as_a_preset_asks_for_its_secrets(typed: Typed) -> None:
    configure(typed, "mine:Plugin", talkative())
    assert typed.train().code == 0
    done = typed.type("run", typed.run / "config.toml", "--run-dir", "again")
    assert done.code == ExitCode.USAGE
    assert "plugins.mine:Plugin.api_token: a secret was left out where this was written" in done.said


# -- names ------------------------------------------------------------------------------------------------------------

NAMES = [
    "<script>alert(1)<.png",
    "\x1b[31mred\x07\x1b]0;owned\x07.png",
    "a\rb\u202egnp.png",
    "'; rm -rf $HOME `id` $(id).png",
]


@pytest.mark.parametrize("name", NAMES, ids=["script", "escapes", "reversed", "shell"])
def test_bar_38_an_image_with_a_hostile_name_does_nothing(typed: Typed, name: str) -> None:
    image = next((typed.folder / "images").iterdir())
    image.rename(image.with_name(name))
    done = typed.train()
    assert done.code == 0, done.said
    (typed.folder / "images" / name).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    failed = typed.train("--run-dir", "broken", "--set", "run.max_steps=9")
    (typed.folder / "images" / f"{name}.txt").write_text("no image")
    third = typed.train("--run-dir", "third", "--set", "run.max_steps=1")
    said = done.said + failed.said + third.said
    assert failed.code in (0, 1), failed.said
    assert "alert(1)" in said or not name.startswith("<")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said)
    pages = [path for path in typed.folder.rglob("*") if path.suffix in (".html", ".htm", ".svg")]
    assert not [page for page in pages if "<script>alert" in page.read_text(encoding="utf-8")]


def test_bar_38_a_name_that_is_no_text_is_no_crash(typed: Typed) -> None:
    image = next((typed.folder / "images").iterdir())
    image.rename(image.with_name("\udcff\udcfe.png"))
    (typed.folder / "images" / "\udcff.txt").write_text("no image")
    done = typed.train()
    assert done.code == 0, done.said
    assert "\\udcff.txt" in done.said


def test_bar_38_a_hostile_name_is_code_in_a_model_card(typed: Typed) -> None:
    name = "x`<script>alert(1)<y"
    (typed.folder / "images").rename(typed.folder / name)
    assert typed.train("--set", f'data.path="{name}"').code == 0
    done = typed.type("export", typed.run, "--to", "safetensors", "--out", "out")
    assert done.code == 0, done.said
    card = (typed.folder / "out" / "README.md").read_text(encoding="utf-8")
    assert "alert(1)" in card
    without_code = re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", card, flags=re.DOTALL | re.MULTILINE))
    assert "<script>" not in without_code


def test_bar_38_a_lock_with_escapes_does_nothing(typed: Typed) -> None:
    assert typed.train().code == 0
    with held(typed.run):
        owner = {"host": "\x1b[2Jhost", "pid": 1, "started_utc": "\x9b31m"}
        (typed.run / LOCK).write_text(json.dumps(owner, ensure_ascii=False), encoding="utf-8")
        done = typed.train()
    assert done.code == ExitCode.USAGE
    assert "in use by process 1 on \\x1b[2Jhost, since \\x9b31m" in done.said


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_once(tmp_path_factory, 2)


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """A run of two steps, which is to go on to step 3."""
    shutil.copytree(trained_once / "runs", tmp_path / "runs")
    return Typed(tmp_path, monkeypatch, run={"max_steps": 3}, data={"path": str(trained_once / "images")})


@pytest.mark.parametrize(
    "name",
    ["checkpoints", "checkpoints/step-00000002", "checkpoints/step-00000002/state.json",
     "checkpoints/step-00000002/MANIFEST.json", "checkpoints/.trash-00000001-" + 32 * "0", "metrics.jsonl",
     "events.jsonl", "config.toml", ".config.toml.new", ".metrics.jsonl.new", "run.lock", "tensorboard",
     "emergency", "gram-anchoring", "supervisor", "branch.json"],
)  # fmt: skip
@pytest.mark.parametrize(
    "exists", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["to-something", "to-nothing"]
)
def test_bar_38_a_link_out_of_the_run_directory_is_not_followed(trained: Typed, name: str, exists: bool) -> None:
    typed = trained
    path, outside = typed.run / name, typed.folder / "outside"
    if path.exists():  # what was there, somewhere else: following the link would work
        shutil.move(path, outside)
    if not exists and outside.exists():
        shutil.move(outside, typed.folder / "elsewhere")
    elif exists and not outside.exists():
        outside.mkdir() if "." not in path.name else outside.write_text("precious")
    path.symlink_to(outside)
    before = snapshot(typed.folder)
    done = typed.train()
    assert done.code == ExitCode.USAGE, done.said
    assert f"runs/tiny/{name} -> {outside}" in done.said
    assert snapshot(typed.folder) == before


def snapshot(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): (path.is_symlink(), path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def test_bar_38_a_run_directory_may_be_a_link_itself(typed: Typed) -> None:
    """That is how a run gets to another disk."""
    (typed.folder / "big-disk").mkdir()
    (typed.folder / "runs").mkdir()
    typed.run.symlink_to(typed.folder / "big-disk")
    assert typed.train("--set", "run.max_steps=2").code == 0
    done = typed.train()
    assert done.code == 0, done.said
    assert "resumed from" in done.said
    assert (typed.folder / "big-disk" / "checkpoints" / "step-00000003").is_dir()


def test_bar_38_a_link_inside_the_run_directory_is_left_alone(trained: Typed) -> None:
    typed = trained
    (typed.run / "latest").symlink_to("checkpoints/step-00000002")
    assert typed.train().code == 0
    assert (typed.run / "latest").is_symlink()


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_bar_38_a_link_made_while_a_run_lives_is_not_written_through(typed: Typed, name: str) -> None:
    """The log falls silent, the run goes on."""
    (typed.folder / "precious").write_text("precious")
    (typed.folder / "mine.py").write_text(f"""
from bigrun import hookimpl
class Plugin:
    @hookimpl
    def before_step(self, run, step):
        if step == 2:
            path = run.directory / {name!r}
            path.rename(path.with_name("kept"))
            path.symlink_to({str(typed.folder / "precious")!r})
""")
    done = typed.train("--plugin", "mine:Plugin")
    assert (typed.folder / "precious").read_text() == "precious"
    assert done.code == ExitCode.QUARANTINED, done.said
    assert "finished: 3" in done.said


# -- nonsense in a configuration --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "meant"),
    [("optimizer.leraning_rate", "optimizer.base_lr"), ("leraning_rate", "optimizer.base_lr"),
     ("optimizer.base_lrr", "base_lr"), ("run.batch_size", "data.effective_batch"), ("optimzer.base_lr", "optimizer"),
     ("model.max_steps", "run.max_steps"),
     ("plugins.metrics-log.x", "no options"), ("plugins.metrics-logg", "metrics-log")],
)  # fmt: skip
def test_bar_38_a_typo_is_told_what_was_meant(typed: Typed, key: str, meant: str) -> None:
    value = "{}" if key == "plugins.metrics-logg" else "1"
    done = typed.train("--set", f"{key}={value}", "--set", "data.path='/nowhere'")
    assert done.code == ExitCode.USAGE
    assert meant in done.said
    assert "nowhere" not in done.said


def engine_options() -> Iterator[tuple[str, Any, attrs.Attribute[Any]]]:
    for section, cls in typing.get_type_hints(EngineConfig).items():
        hints = typing.get_type_hints(cls)
        for field in attrs.fields(cls):
            yield f"{section}.{field.name}", hints[field.name], field


def of_another_type(kind: str) -> list[Any]:
    """Values that are not of a declared type, in the words of `type_name`."""
    words = kind.split()
    if kind == "list of string":
        return ["text", 5, [5], [[]]]
    if kind.startswith(("list", "[")):
        return ["text", 5, ["text"], [[]]] + ([[1.0] * 7, [float("nan")] * 3] if kind.startswith("[") else [])
    if "'" in kind:
        return ["no such word", 5, []]
    if "int" in words:
        return ["text", "12", 1.5, True, float("nan"), [1], {}]
    if "float" in words:
        return ["text", "0.5", True, float("nan"), float("inf"), -float("inf"), [1.0]]
    return ["text", 5, []] if "bool" in words else [5, True, 1.5, []]


def out_of_range(check: Any) -> list[Any]:
    """Values that a check of `bigrun.options` refuses; what it refuses otherwise is tested where it is declared."""
    limits, name = inspect.getclosurevars(check).nonlocals, check.__qualname__.partition(".")[0]
    low, high = limits.get("low"), limits.get("high")
    if name == "not_blank":
        return ["", "  "]
    if name == "interval":
        return [[low, low], [high, low], [low - 1, high], [1, high * 10]]
    below = [] if low is None else [low - 1, -(10**9), *([low] if name in ("above", "within") else [])]
    return below + ([] if high is None else [high * 2 + 1, 10**30])


OPTIONS = list(engine_options())
CHECKED = [option for option in OPTIONS if option[2].metadata.get("check")]


def problems_of(path: str, value: Any) -> dict[str, str]:
    """By path; the data set that the configuration names is not there, and nobody looks."""
    section, _, name = path.partition(".")
    tables = {"data": {"path": "/nowhere"}, "init": {"path": "/nowhere"}}
    try:
        build_config(Document("t", "t", {**tables, section: {**tables.get(section, {}), name: value}}), {}, [])
    except ConfigError as error:
        return dict(error.problems)
    return {}


@pytest.mark.parametrize(("path", "kind", "field"), OPTIONS, ids=[path for path, _, _ in OPTIONS])
def test_bar_38_a_value_of_another_type_is_named(path: str, kind: Any, field: attrs.Attribute[Any]) -> None:
    kind = type_name(kind)
    for value in of_another_type(kind):
        if not (value == "text" and kind.startswith("string")):
            assert "expected" in problems_of(path, value)[path], value


@pytest.mark.parametrize(("path", "kind", "field"), CHECKED, ids=[path for path, _, _ in CHECKED])
def test_bar_38_a_value_out_of_range_is_named(path: str, kind: Any, field: attrs.Attribute[Any]) -> None:
    for value in out_of_range(field.metadata["check"]):
        number = float(value) if "float" in type_name(kind).split() and not isinstance(value, list | str) else value
        assert path in problems_of(path, number), value


def test_bar_38_every_number_of_the_engine_has_a_range() -> None:
    """A list of numbers is checked as a whole, in `problems` of its table."""
    bare = [
        path
        for path, kind, field in OPTIONS
        if not field.metadata.get("check") and type_name(kind).split()[0] in ("int", "float")
    ]
    assert not bare


@pytest.mark.parametrize("path", [path for path, kind, _ in OPTIONS if "float" in type_name(kind).split()])
def test_bar_38_no_float_is_as_large_as_1e300(path: str) -> None:
    assert path in problems_of(path, 1e300) or path == "run.max_hours"


def test_bar_38_ranges_are_told_before_the_data_is_read(typed: Typed) -> None:
    """All at once, and the folder of images, which is not there, is not among them."""
    wrong = {
        "run.max_steps": "-5",
        "optimizer.base_lr": "nan",
        "model.width": 10**30,
        "data.workers": "-1",
        "views.global_size_px": "'x'",
    }
    words = [word for key, value in wrong.items() for word in ("--set", f"{key}={value}")]
    done = typed.train(*words, "--set", "data.path='/nowhere'")
    assert done.code == ExitCode.USAGE
    assert "5 problems" in done.said
    assert all(f"  {key}: " in done.said for key in wrong)
    assert "nowhere" not in done.said
    assert not typed.run.exists()
    assert isinstance(done, Done)
