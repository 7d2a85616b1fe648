"""Bar 38 in what people are given as data: names, tables and links do nothing, and provenance tells no secret."""

from __future__ import annotations

import json
import subprocess
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from training import Training
from typed import Typed

from bigrun.data.fingerprint import fingerprint
from bigrun.data.split import file_groups
from bigrun.errors import ExitCode
from bigrun.redaction import REDACTED

# -- a table of somebody else's ---------------------------------------------------------------------------------------

TABLE = """
import csv
from pathlib import Path
from bigrun import hookimpl
from bigrun.data.files import Entry, open_files

class Table:
    def __init__(self, root):
        self.files = open_files(root, lambda: rows(root))
    def __len__(self):
        return len(self.files)
    def __getitem__(self, index):
        return self.files[index]
    def describe(self, index):
        return self.files.path(index)

def rows(root):
    with (root / "index.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield Entry(row["path"], {"patient": row["patient"]})

class Plugin:
    @hookimpl
    def build_dataset(self, run):
        return Table(Path(run.config.data.path))
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """A table whose rows lead out of the data's folder: to a picture that must never be seen, and to others' files."""
    (tmp_path / "table.py").write_text(textwrap.dedent(TABLE), encoding="utf-8")
    typed = Typed(tmp_path, monkeypatch, run={"max_steps": 2}, plugins={"table:Plugin": {}})
    secret = tmp_path / "secret.png"
    Image.new("RGB", (40, 40), (1, 2, 3)).save(secret)
    (tmp_path / "images" / "link.png").symlink_to(secret)
    (tmp_path / "images" / "folder").symlink_to(tmp_path)
    outside = [
        "../secret.png",
        str(secret),
        "link.png",
        "folder/secret.png",
        "../../../../../../etc/passwd",
        "/etc/passwd",
    ]
    rows = [(f"{number}.png", f"p{number}") for number in range(10)] + [(path, "out") for path in outside]
    lines = ["path,patient", *(",".join(row) for row in rows)]
    (tmp_path / "images" / "index.csv").write_text("\n".join(lines), encoding="utf-8")
    return typed


def test_bar_38_a_table_leads_nowhere_out_of_its_folder(table: Typed) -> None:
    done = table.type("data", "check", "tiny.toml", "--json", "--html", "page.html")
    report = json.loads(done.said)
    assert done.code == 1
    assert report["bad"]["causes"] == {"outside": 6}
    assert report["findings"][0]["kind"] == "bad-images"
    (kind,) = report["kinds"]
    assert kind["images"] == 10
    assert "root:" not in Path("page.html").read_text(encoding="utf-8") + done.said  # a line of /etc/passwd
    refused = table.train()
    assert refused.code != 0
    assert table.train("--set", "data.max_bad_fraction=0.9", "--run-dir", "runs/some").code == 0


def test_bar_38_nothing_outside_is_hashed_either(table: Typed) -> None:
    from bigrun.data.source import data_run, read_source

    with data_run(read_source("tiny.toml")) as run:
        dataset: Any = run.dataset
        before = fingerprint(dataset), file_groups(dataset.files, "image").tolist()
        Image.new("RGB", (77, 77), (9, 9, 9)).save("secret.png")
        assert (fingerprint(dataset), file_groups(dataset.files, "image").tolist()) == before
    assert len(set(before[1])) == 16  # six files that cannot be read are six groups: none has the secret's hash


# -- names ------------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag, *(name for name, _ in attrs)]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)<.png", '"><img src=x onerror=alert(1)>.png'], ids=["script", "onerror"]
)
def test_bar_38_a_hostile_name_is_text_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """tests/engine/test_data_page.py has more, and a browser."""
    typed = Typed(tmp_path, monkeypatch)
    for number in (3, 4):
        Path(f"images/{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        Path(f"images/{number}.png").rename(f"images/{number}{name}")
    Path("images/5.png").rename(f"images/{name}")
    assert typed.type("data", "check", "images", "--html", "page.html").code == 1
    page = Path("page.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert not {"script", "onerror"} & set(tags.found)
    assert page.count("alert(1)") >= 4


# -- secrets ----------------------------------------------------------------------------------------------------------

SECRETS = {
    "environment": "env-S3cret-5711", "key": "key-S3cret-5712", "option": "opt-S3cret-5713",
    "remote": "git-S3cret-5714", "flag": "flag'S3cret\"5715", "query": "sig-S3cret-5716",
}  # fmt: skip
PLUGIN = """
import attrs
from bigrun import option

@attrs.frozen
class Options:
    upload_token: str = option("", help="By its name.")
    address: str = option("", help="A URL.")
    pin: str = option("", secret=True, help="Declared, and short.")

class Plugin:
    Config = Options
    observer = True
    def __init__(self, config):
        self.config = config
"""


def test_bar_38_provenance_tells_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment, the configuration, the command line and the remote of the repository that it is run in."""
    (tmp_path / "mine.py").write_text(PLUGIN, encoding="utf-8")
    address = f"https://host/x?sig={SECRETS['query']}"
    training = Training(tmp_path, run={"max_steps": 1}, plugins={"mine:Plugin": {"address": address}})
    remote = f"https://user:{SECRETS['remote']}@host/me/it.git"
    for words in (["init", "-q"], ["remote", "add", "origin", remote]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setenv("UPLOAD_TOKEN_OF_MINE", SECRETS["environment"])
    monkeypatch.setenv("DEPLOY_KEY", SECRETS["key"])
    token = json.dumps(SECRETS["flag"] + SECRETS["option"])
    done = training("--set", f"plugins.'mine:Plugin'.upload_token={token}", "--set", "plugins.'mine:Plugin'.pin='q9Zx'")
    assert done.returncode == 0, done.stderr
    written = {path: path.read_bytes() for path in training.run.rglob("*") if path.is_file()}
    written[Path("output")] = (done.stdout + done.stderr).encode()
    for what, secret in (SECRETS | {"pin": "q9Zx"}).items():
        assert not [path for path, data in written.items() if secret.encode() in data], what
        assert not [path for path, data in written.items() if json.dumps(secret)[1:-1].encode() in data], what
    (start,) = json.loads(written[training.run / "provenance.json"])["starts"]
    (repository,) = [entry for entry in start["repositories"] if "preset" in entry["of"]]
    assert repository["remote"] == f"https://{REDACTED}@host/me/it.git"
    assert f"plugins.'mine:Plugin'.upload_token={REDACTED}" in start["command"]
    assert f"plugins.'mine:Plugin'.pin={REDACTED}" in start["command"]
    assert "environ" not in json.dumps(start)
    checkpoint = training.run / "checkpoints" / "step-00000001" / "provenance.json"
    assert json.loads(written[checkpoint]) == start


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["provenance.json", "split.json"])
def test_bar_38_no_link_in_a_run_directory_is_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    typed = Typed(tmp_path, monkeypatch, run={"max_steps": 2}, data={"split": "division.json"})
    assert typed.type("data", "split", "images", "--fraction", "0.3", "--out", "division.json").code == 0
    assert typed.train("--set", "run.max_steps=1").code == 0
    precious = tmp_path / "precious"
    precious.write_text("{}")
    (typed.run / name).unlink()
    (typed.run / name).symlink_to(precious)
    done = typed.train()
    assert done.code == ExitCode.USAGE
    assert f"runs/tiny/{name} -> {precious}" in done.said
    assert precious.read_text() == "{}"


def test_bar_38_a_page_or_manifest_replaces_a_link_and_not_what_it_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = Typed(tmp_path, monkeypatch)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    Path("page.html").symlink_to(precious)
    assert typed.type("data", "check", "images", "--html", "page.html").code == 0
    Path("split.json").symlink_to(precious)
    refused = typed.type("data", "split", "images")
    assert refused.code == ExitCode.USAGE
    assert typed.type("data", "split", "images", "--force").code == 0
    assert precious.read_text() == "mine"
    assert not Path("page.html").is_symlink()
