"""Plugin distributions of others: built as wheels, installed beside bigrun in one fresh environment."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from layered import Environment, build

ROOT = Path(__file__).parent.parent
SOURCES = {"bigrun-acme": ROOT / "third_party", "bigrun-mae": ROOT / "third_party_objective"}


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Copies of the distributions' sources by name, since a build leaves folders in them."""
    folder = tmp_path_factory.mktemp("sources")
    return {name: Path(shutil.copytree(source, folder / name)) for name, source in SOURCES.items()}


@pytest.fixture(scope="session")
def wheels(sources: Mapping[str, Path]) -> Mapping[str, Path]:
    """The distributions' wheels by name."""
    return {name: build(source) for name, source in sources.items()}


@pytest.fixture(scope="session")
def environment(wheels: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with all wheels."""
    environment = Environment.create(tmp_path_factory.mktemp("fresh") / "venv")
    environment.install(*wheels.values())
    return environment
