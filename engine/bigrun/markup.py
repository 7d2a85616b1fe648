"""HTML out of texts that may come from anywhere: what is not made here is text, and shown as such."""

from __future__ import annotations

import html

from bigrun.terminal import printable

__all__ = ["Markup", "element", "join", "page", "text"]

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
"""A browser that obeys it runs no script, and asks for and sends nothing, whatever a page says. What a form does, and
where links lead, `default-src` does not cover."""


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


def page(title: str, style: str, body: Markup) -> str:
    """A whole page under a policy that allows neither scripts nor anything from a network.

    Args:
        style: CSS, a constant of the caller's.
        body: the element.
    """
    meta = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    )
    head = element("head", Markup(meta), element("title", title), element("style", Markup(style)))
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en")
