"""Versions of what a run is made of, from the metadata of installed packages."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bigrun.entry_points import installed

__all__ = ["describe_plugins", "edited_folders", "versions_of"]


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Installed versions by package; a package that is not installed has none."""
    found = {name: version_of(name) for name in names}
    return {name: version for name, version in found.items() if version is not None}


@functools.cache  # 3 ms for each of forty; what is imported stays as it was
def version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_plugins(active: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Distribution and version of each active plugin; of one that is in no distribution its file and that file's
    SHA-256."""
    known = installed()
    return {
        name: {"distribution": known[name].distribution, "version": known[name].version}
        if name in known
        else source_of(type(plugin))
        for name, plugin in active.items()
    }


def source_of(cls: type) -> dict[str, Any]:
    try:
        file = Path(inspect.getfile(cls))
        return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    except (OSError, TypeError):  # a class of an interactive session
        return {"file": None, "sha256": None}


def edited_folders(distributions: Iterable[str]) -> dict[str, Path]:
    """The folders of distributions that are installed from where they are edited (`pip install -e`): there a version
    says little of the code."""
    folders = {}
    for name in distributions:
        try:
            text = importlib.metadata.distribution(name).read_text("direct_url.json")
            origin = json.loads(text or "{}")
            is_edited = origin.get("dir_info", {}).get("editable", False)
            path = Path(unquote(urlsplit(origin.get("url", "")).path))
        except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError, TypeError):
            continue
        if is_edited and path.is_dir():
            folders[name] = path
    return folders
