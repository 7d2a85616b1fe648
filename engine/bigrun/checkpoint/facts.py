"""Facts as JSON text: the same facts give the same bytes, and come back equal or are refused. Torch-free."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import tomli

from bigrun.checkpoint import disk
from bigrun.checkpoint.layout import CONFIG
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["encode_facts", "load_facts", "read_config", "read_facts"]


def encode_facts(facts: Any, where: str) -> bytes:
    """The JSON text of `facts`: sorted keys, floats in their shortest form that reads back to the same bits.

    Raises:
        CheckpointError: naming `where`, when the facts would not come back equal: NaN and infinity, tuples
            (they come back as lists), keys that are not strings, objects of other types.
    """
    try:
        text = json.dumps(facts, sort_keys=True, indent=2, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: cannot be written as JSON: {error}") from error
    if json.loads(text) != facts:
        raise CheckpointError(
            f"{where}: would not come back from JSON as it is: use lists, not tuples, and strings as keys"
        )
    return text.encode() + b"\n"


def read_facts(path: Path) -> Any:
    """The facts in a JSON file.

    Raises:
        CheckpointError: the file cannot be read, or is not JSON (NaN and infinity are not).
    """
    try:
        facts = json.loads(disk.read_text(path), parse_constant=refuse_constant)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    return facts


def load_facts(checkpoint: Path, name: str) -> Any:
    """The facts that were saved as `name` in the directory `checkpoint`.

    Raises:
        CheckpointError: there are none, or the file is damaged.
    """
    return read_facts(checkpoint / f"{name}.json")


def read_config(checkpoint: Path) -> str:
    """The configuration in the directory `checkpoint`, as TOML.

    Raises:
        CheckpointError: the file cannot be read, or is not TOML.
    """
    path = checkpoint / CONFIG
    try:
        text = disk.read_text(path)
        tomli.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as TOML: {error}") from error
    return text


def refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
