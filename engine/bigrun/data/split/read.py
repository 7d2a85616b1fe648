"""A manifest from its file, which people may have written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bigrun.data.split.manifest import FORMAT_VERSION, LEVELS, RULES, Split
from bigrun.data.split.rule import normal
from bigrun.errors import UsageError

__all__ = ["read_document", "read_split"]


def read_document(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a manifest, and its JSON.

    Raises:
        UsageError: there is no such file, or it is no JSON object of a known version.
    """
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); `bigrun data split ... --out {path.name}` writes a manifest"
        ) from None
    try:
        document = json.loads(contents)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a split manifest: no JSON: {error}") from None
    if not isinstance(document, dict) or "format_version" not in document:
        raise UsageError(f"{path}: not a split manifest: expected a JSON object with `format_version`")
    if document["format_version"] != FORMAT_VERSION:
        raise UsageError(
            f"{path}: a split manifest of format {document['format_version']!r}, expected {FORMAT_VERSION}: use the "
            "version of bigrun that wrote it"
        )
    return contents, document


def read_split(path: Path) -> Split:
    """A manifest.

    Raises:
        UsageError: naming the key that is wrong.
    """
    contents, document = read_document(path)

    def get(key: str, expected: str, accept: Callable[[Any], bool]) -> Any:
        value = document.get(key)
        if key in document and accept(value):
            return value
        got = repr(value) if key in document else "nothing"
        raise UsageError(f"{path}: {key}: expected {expected}, got {got[:80]}")

    rule = get("rule", " or ".join(RULES), lambda value: value in RULES)
    listed = rule == "list"
    return Split(
        rule=rule,
        seed=0 if listed else get("seed", "a whole number", is_whole),
        fraction=0.0 if listed else float(get("fraction", "a number above 0 and below 1", is_fraction)),
        level=get("level", f"one of {', '.join(LEVELS)}", lambda value: value in LEVELS),
        validation_groups=names(get("validation_groups", "a list of texts", is_texts)),
        training_groups=frozenset() if listed else names(get("training_groups", "a list of texts", is_texts)),
        path=path,
        contents=contents,
    )


def names(groups: list[str]) -> frozenset[str]:
    return frozenset(map(normal, groups))


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 < value < 1


def is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
