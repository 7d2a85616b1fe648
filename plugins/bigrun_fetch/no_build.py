"""A build backend that builds nothing, so that `pip download` of a source distribution runs none of its code.

pip asks a source distribution for its metadata before it hands it over, and for that calls the build backend, which
runs `setup.py`. A copy of this file is put where pip looks for setuptools; it answers with the metadata that the
distribution carries (PKG-INFO).
"""

from __future__ import annotations

import shutil
import sys
from email.parser import Parser
from pathlib import Path
from typing import Any

__all__ = ["get_requires_for_build_wheel", "prepare_metadata_for_build_wheel"]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return []


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    """Called in the folder of the distribution; returns the name of the metadata's folder."""
    facts = Parser().parsestr(Path("PKG-INFO").read_text(encoding="utf-8", errors="replace"), headersonly=True)
    name, version = (facts[field].replace("-", "_") for field in ("Name", "Version"))  # pip reads both from the name
    folder = Path(metadata_directory) / f"{name}-{version}.dist-info"
    folder.mkdir()
    shutil.copyfile("PKG-INFO", folder / "METADATA")
    return folder.name


__legacy__ = sys.modules[__name__]  # pip's name for the backend of distributions that name none
