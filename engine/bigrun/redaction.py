"""Secrets in what is written or printed. What counts as one:

1. the value of an option that its plugin declares with `option(..., secret=True)`;
2. by its name, a text below a key that ends in one of `ENDINGS` (`hf_token`, `apiKey`, `Proxy-Authorization`), unless
   it is declared with `secret=False`; `cls_token` and its like (`NETWORK_TOKENS`) are parts of a network;
3. the same text, of at least `SHORTEST` characters, wherever else it stands; also the values of environment variables
   with such names, or with KEY, TOKEN, SECRET or PASSWORD in theirs (not `KEYBOARD`, `TOKENIZERS_...`, `..._FILE`);
4. in any text: user and password of a URL, signatures and keys in its query, `name=value` and `name: value` with such
   names, `Bearer ...`, and tokens of known shapes.

Each is replaced by `[redacted]`; everything else stays as it is. Rules 1 to 3 are exact; rule 4 is the best that
can be done in free text. Redacting twice changes nothing.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, quote_plus

import attrs

from bigrun.errors import BigrunError
from bigrun.secret_names import ENDINGS, is_query_secret, is_secret_name, is_secret_variable

if TYPE_CHECKING:
    from bigrun.events import Event

__all__ = ["REDACTED", "Redactor", "equal_but_secrets", "find_redacted", "is_secret", "redact_error", "secrets_of"]

T = TypeVar("T")

REDACTED = "[redacted]"
SHORTEST = 6
"""A shorter secret is only redacted where it stands by itself: as a part of words it would be everywhere."""

ANY_ENDING = "|".join(ending.replace("_", r"[_\- ]?") for ending in sorted(ENDINGS, key=len, reverse=True))
VALUE = re.compile(
    r"""(?:"[^"\n]*"?|'[^'\n]*'?|(?:bearer|basic|digest|token)[ \t]+[^\s"',;&<>]+|[^\s"',;&<>]+)""",
    re.IGNORECASE,
)
# What messages about an option, or a file of such a name, say behind it, or in place of a value.
OWN_WORDS = (
    r"(?:expected|is required|is not what|a secret was|unknown option|has no effect"
    r"|no such (?:file|folder)|cannot be (?:read|written)|(?:is )?not a (?:file|folder))(?=[ :;\n]|\Z)|\.\.\."
)
ASSIGNMENT = re.compile(
    rf"""(?<![\w.\-])(?P<name>[\w.\-]{{0,200}}?(?:{ANY_ENDING}))"""
    rf"""["']?[ \t]{{0,3}}[:=][ \t]{{0,3}}(?!{OWN_WORDS})""",
    re.IGNORECASE,
)
ARGUMENT = re.compile(rf"""(?<![\w.\-])(?P<name>--[\w\-]{{0,200}}?(?:{ANY_ENDING}))[ \t]""", re.IGNORECASE)
QUERY = re.compile(r"""(?P<name>(?<=[?&;])[\w.\-]{1,80})=(?P<value>[^&;\s"'<>#]+)""")
USER_OF_URL = re.compile(r"(?<![a-z0-9+.\-])([a-z][a-z0-9+.\-]{0,30}:/{1,3})[^/\s\"'<>]+@", re.IGNORECASE)
SHAPES = re.compile(
    r"(?P<before>\b(?i:bearer)[ \t]+)(?![^\s\"',;&<>]*\[redacted\])[^\s\"',;&<>]{8,}"
    r"|(?P<hook>https://hooks\.slack\.com/services/|https://discord(?:app)?\.com/api/webhooks/)[^\s\"'<>]+"
    r"|\b(?:gh[opsur]_|hf_|npm_)[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\b(?:glpat-|sk-|xox[abeoprs]-|pypi-)[\w\-]{20,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\beyJ[\w\-]{10,}\.[\w\-]{10,}\.[\w\-]{10,}"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


def is_secret(field: attrs.Attribute[Any]) -> bool:
    """Whether an option is one: as it is declared, or else by its name."""
    declared = field.metadata.get("secret")
    return is_secret_name(field.name) if declared is None else bool(declared)


def secrets_of(instance: Any) -> Iterator[str]:
    """The values of an attrs instance's secret options, at any depth."""
    for field in attrs.fields(type(instance)):
        value = getattr(instance, field.name)
        if is_secret(field):
            yield from texts_of(value)
        elif attrs.has(type(value)):
            yield from secrets_of(value)
        elif isinstance(value, Mapping):
            yield from secrets_below(value)


def secrets_below(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if is_secret_name(str(key)):
            yield from texts_of(value)
        elif attrs.has(type(value)):
            yield from secrets_of(value)
        elif isinstance(value, Mapping):
            yield from secrets_below(value)


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_of(inner)


class Redactor:
    """Replaces secrets in texts, tables and lists."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """
        Args:
            secrets: texts that are secrets wherever they stand (rule 3), beside those of the environment.
        """
        secrets = list(secrets)
        self._exact = frozenset(secret for secret in secrets if secret)
        known = {REDACTED}.union(*(forms(secret) for secret in secrets if len(secret) >= SHORTEST))
        self._known = re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))))

    @classmethod
    def of_environment(cls, secrets: Iterable[str] = ()) -> Redactor:
        """One that also knows the secrets of this process's environment."""
        return cls([*secrets, *(value for name, value in os.environ.items() if is_secret_variable(name))])

    def text(self, text: str) -> str:
        """The text without secrets (rules 3 and 4)."""
        text = self._known.sub(REDACTED, text)
        text = USER_OF_URL.sub(rf"\1{REDACTED}@", text)
        text = SHAPES.sub(lambda match: (match["before"] or match["hook"] or "") + REDACTED, text)
        text = QUERY.sub(queried, text)
        return without_secrets(ARGUMENT, without_secrets(ASSIGNMENT, text))

    def value(self, value: T) -> T:
        """The same tables, lists and texts without secrets (rules 2 to 4); other values stay."""
        result: Any = value
        if isinstance(value, str):
            result = self.text(value)
        elif isinstance(value, Mapping):
            result = {k: masked(v) if is_secret_name(str(k)) else self.value(v) for k, v in value.items()}
        elif isinstance(value, list | tuple):
            result = [self.value(inner) for inner in value]
            result = tuple(result) if isinstance(value, tuple) else result
        return result  # type: ignore[no-any-return]

    def command(self, words: Iterable[str]) -> list[str]:
        """A command line without secrets, word by word: also what follows `--token`, and short ones behind `=`."""
        result: list[str] = []
        follows = False
        for word in words:
            result.append(REDACTED if follows and not word.startswith("--") else self._word(word))
            follows = word.startswith("-") and "=" not in word and is_secret_name(word)
        return result

    def _word(self, word: str) -> str:
        name, equals, value = word.partition("=")
        if not equals:
            return REDACTED if word.strip("\"' ") in self._exact else self.text(word)
        if is_secret_name(name):
            return f"{self.text(name)}={REDACTED if value else ''}"
        return self.text(f"{name}={self._word(value)}")

    def event(self, event: Event) -> Event:
        """The event with neither in its message nor in its facts."""
        return attrs.evolve(event, message=self.text(event.message), facts=self.value(dict(event.facts)))

    def table(self, table: Mapping[str, Any], instance: Any) -> dict[str, Any]:
        """The table of an attrs instance without secrets; its options are judged as they are declared (rule 1)."""
        fields = attrs.fields_dict(type(instance))
        result = {}
        for key, value in table.items():
            part = getattr(instance, key)
            if is_secret(fields[key]):
                result[key] = masked(value, everything=bool(fields[key].metadata.get("secret")))
            else:
                result[key] = self.table(value, part) if attrs.has(type(part)) else self.value(value)
        return result


def forms(secret: str) -> set[str]:
    """How a secret may be spelled: as it is, in Python's and JSON's quotes, in a URL, in HTML."""
    in_urls = {quote(secret, errors="replace"), quote_plus(secret, errors="replace")}
    quoted = {repr(secret)[1:-1], json.dumps(secret)[1:-1], html.escape(secret)}
    return {secret, quote(secret, "", errors="replace")} | quoted | in_urls


def queried(match: re.Match[str]) -> str:
    """A part of a URL's query."""
    name = match["name"]
    is_one = is_query_secret(name.lower()) or is_secret_name(name)
    return f"{name}={hidden(match['value'])}" if is_one else match[0]


def without_secrets(beginning: re.Pattern[str], text: str) -> str:
    """The text with `[redacted]` in place of what stands behind secret names. Behind another one (`cls_token: `) there
    may be one that is: only the values of secret names are passed over, which also keeps this linear."""
    found, done, at = [], 0, 0
    while match := beginning.search(text, at):
        at = match.end()
        value = VALUE.match(text, at) if is_secret_name(match["name"]) else None
        if value is not None:
            found += [text[done:at], hidden(value[0])]
            done = at = value.end()
    return "".join([*found, text[done:]])


def hidden(value: str) -> str:
    """`[redacted]`, in the quotes that were there."""
    begins = value[0] if value[0] in "\"'" else ""
    return f"{begins}{REDACTED}{begins if len(value) > 1 and value.endswith(begins) else ''}"


def masked(value: Any, *, everything: bool = False) -> Any:
    """The value with every text in it replaced; `everything`: numbers too."""
    if isinstance(value, Mapping):
        return {key: masked(inner, everything=everything) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inner, everything=everything) for inner in value]
    is_text = isinstance(value, str) and value != ""
    return REDACTED if is_text or (everything and value is not None and not isinstance(value, bool)) else value


def redact_error(error: BaseException, redactor: Redactor) -> None:
    """Take the secrets out of an expected error's message."""
    if isinstance(error, BigrunError):
        error.args = (redactor.text(str(error)),)


def equal_but_secrets(a: Any, b: Any) -> bool:
    """Whether two values are the same as far as they can be compared: what is redacted in either equals any text."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal_but_secrets, a, b))
    if REDACTED in (a, b) and not isinstance(a, list) and not isinstance(b, list):
        return a is not None and b is not None
    return a == b or (isinstance(a, str) and isinstance(b, str) and (covers(a, b) or covers(b, a)))


def covers(redacted: str, text: str) -> bool:
    """Whether `text` is `redacted` with other texts in place of `[redacted]`; in linear time."""
    first, *others = redacted.split(REDACTED)
    if not others or not text.startswith(first):
        return False
    *middle, last = others
    rest = text[len(first) :]
    for part in filter(None, middle):
        _, found, rest = rest.partition(part)
        if not found:
            return False
    return rest.endswith(last)


def find_redacted(tables: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Problems of a document that was written by a run: options whose value was not written."""
    for key, value in tables.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from find_redacted(value, here)
        elif any(REDACTED in text for text in texts_of(value)):
            yield here, f"a secret was left out where this was written ({REDACTED}): give it with --set {here}=..."
