"""HTML out of texts that may come from anywhere: what is not made here is text, and shown as such."""

from __future__ import annotations

import html

from bigrun.terminal import printable

__all__ = ["Markup", "element", "join", "text"]


class Markup(str):
    """HTML."""

    __slots__ = ()


def text(value: str) -> Markup:
    """A text as HTML shows it; what a terminal would obey is written out, as in `bigrun.terminal.printable`."""
    return value if isinstance(value, Markup) else Markup(html.escape(printable(value)))


def join(*parts: str) -> Markup:
    """Parts one behind the other; each that is not Markup is a text."""
    return Markup("".join(map(text, parts)))


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """An element.

    Args:
        name: a constant of the caller's.
        children: Markup, or texts.
        attributes: names are constants of the caller's (`class_` is `class`), values are texts.
    """
    words = [name, *(f'{key.strip("_").replace("_", "-")}="{text(str(value))}"' for key, value in attributes.items())]
    return Markup(f"<{' '.join(words)}>{join(*children)}</{name}>")
