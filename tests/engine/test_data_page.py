"""The page of `bigrun data check --html`: it shows what there is, and does nothing."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from PIL import Image

from bigrun.cli import main
from bigrun.data.check.picture import thumbnail
from bigrun.markup import Markup, element, join
from bigrun.terminal import printable

HOSTILE = (
    "<script>document.title='owned'<.png",
    '"><img src=x onerror="document.title=\'owned\'">.png',
    "' onmouseover='x",
    "&lt;script&gt;.png",
    "</style><script>document.title='owned'<.png",
    "\x1b]0;owned\x07.png",
    "a\u202egnp.exe",
    "--><!--.png",
)
ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "table", "tr", "th", "td", "div", "figure",
    "figcaption", "img", "br", "svg", "rect", "text",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "name", "content", "http-equiv", "class", "src", "alt", "x", "y", "width", "height", "viewbox",
    "role", "text-anchor",
}  # fmt: skip


class Reader(HTMLParser):
    """What a browser would make of a page: elements, attributes and texts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @classmethod
    def read(cls, page: str) -> Reader:
        reader = cls()
        reader.feed(page)
        reader.close()
        return reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with hostile names, and one of each that cannot be used."""
    root = tmp_path_factory.mktemp("x") / "<b>images"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number, name in enumerate(HOSTILE):
        place = root / name.replace("/", "\u2215")
        Image.fromarray(rng.integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)).save(place, "PNG")
        shutil.copy(place, place.with_name("copy of " + place.name))
        place.with_name("bad " + place.name + ".png").write_bytes(place.read_bytes()[:200])
    Image.fromarray((rng.random((600, 900)) * 60000).astype(np.uint16)).save(root / "deep.png")
    return root


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    out = folder.parent / "page.html"
    result = CliRunner().invoke(main, ["data", "check", str(folder), "--html", str(out)])
    assert result.exit_code == 1, result.output
    return out


def test_no_name_becomes_markup(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    reader = Reader.read(text)
    assert reader.elements <= ELEMENTS
    assert reader.attributes <= ATTRIBUTES
    assert {"table", "svg", "img", "figcaption"} <= reader.elements
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert len(reader.sources) == 17
    assert "http" not in text.replace("http-equiv", "")
    shown = "".join(reader.texts)
    for name in HOSTILE:
        assert printable(name.replace("/", "\u2215")) in shown
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}
    assert "<b>images" in shown


def test_a_browser_is_told_to_run_nothing_and_to_ask_for_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in text
    assert text.index("Content-Security-Policy") < text.index("<title>")


def test_it_says_what_the_table_says(page: Path) -> None:
    shown = Reader.read(page.read_text(encoding="utf-8")).texts
    assert "training must not start: bad-images" in shown
    for cell in ("16 bit", "900x600", "bad-images", "duplicates", "truncated"):
        assert cell in shown, cell


def test_a_real_browser_runs_nothing_of_it(page: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser is installed: chromium or google-chrome")
    without_policy = tmp_path / "page.html"  # the names are harmless by themselves
    without_policy.write_text(
        page.read_text(encoding="utf-8").replace("Content-Security-Policy", "x"), encoding="utf-8"
    )
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", without_policy.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    reader = Reader.read(done.stdout)
    assert reader.elements <= ELEMENTS | {"tbody"}
    assert "<title>Data check:" in done.stdout
    assert "<title>owned" not in done.stdout


# -- its parts --------------------------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_every_text_is_shown_as_it_is(inner: str, value: str) -> None:
    made = element("p", inner, element("b", "x"), title=value)
    reader = Reader.read(made)
    assert reader.elements == {"p", "b"}
    shown = "".join(reader.texts)
    assert shown.replace("\r\n", "\n").replace("\r", "\n") == printable(inner) + "x"
    assert isinstance(made, Markup)


def test_markup_is_not_made_by_accident() -> None:
    assert join("<", Markup("<br>")) == "&lt;<br>"
    assert element("td", Markup("<br>") + "<b>") == "<td>&lt;br&gt;&lt;b&gt;</td>"  # a sum is a text


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (2, "L"), (7, "L")])
def test_a_thumbnail_is_small_and_shows_the_window(channels: int, mode: str) -> None:
    pixels = np.zeros((channels, 300, 500), dtype=np.uint16)
    pixels[:, :, 250:] = 3000
    url = thumbnail(pixels, 1000, 2000)
    picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert (picture.mode, picture.width) == (mode, 96)
    assert picture.height in (57, 58)
    assert picture.convert("L").getpixel((5, 5)) == 0
    assert picture.convert("L").getpixel((90, 5)) == 255


def test_a_thumbnail_of_one_pixel_is_no_error() -> None:
    assert thumbnail(np.zeros((1, 1, 1), dtype=np.uint8), 0, 255).startswith("data:image/png")
    assert thumbnail(np.zeros((1, 1, 4000), dtype=np.uint8), 0, 255).startswith("data:image/png")
