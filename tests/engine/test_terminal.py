"""Text on its way to a terminal."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from bigrun.terminal import printable, say


@settings(deadline=None, max_examples=200)
@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(text)
    assert not [c for c in shown if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]
    assert not set(shown) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
    shown.encode()  # halves of characters have no encoding
    assert printable(shown) == shown


def test_what_people_read_stays_as_it_is() -> None:
    text = "Größe: 5 px\n\t… \N{GREEK SMALL LETTER ALPHA} 図 \\x1b"
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb", "a\\x0db"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb", "a\\u202eb"),
        ("\udcff", "\\udcff"),
    ],
)
def test_everything_else_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_the_command_line_says_neither_secrets_nor_escapes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "a-very-secret-word")
    say("\x1b]0;title\x07 a-very-secret-word")
    say("token=abc", error=True)
    assert capsys.readouterr() == ("\\x1b]0;title\\x07 [redacted]\n", "token=[redacted]\n")
