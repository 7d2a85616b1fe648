"""What is installed, against what it says that it needs."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bigrun.devices import torch_build
from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject
from bigrun.entry_points import Installed, installed
from bigrun.version import __version__

__all__ = ["dependency_rows", "plugin_rows", "problem_of", "requirements_of", "version_rows"]

DISTRIBUTION = "bigrun"


def version_rows(subject: Subject) -> Iterator[Row]:
    """Python, bigrun, what it needs, and plugins; no plugin is imported, for none is named by a configuration."""
    metadata = importlib.metadata.metadata(DISTRIBUTION)
    yield python_row(platform.python_version(), metadata["Requires-Python"] or "")
    yield Row("bigrun", "info", __version__)
    yield from dependency_rows(requirements_of(DISTRIBUTION))
    yield from plugin_rows(list(installed().values()))


def python_row(version: str, needed: str) -> Row:
    good = SpecifierSet(needed).contains(version, prereleases=True)
    return judged("Python", good, version, needed, f"install Python {needed}", otherwise="fail")


def requirements_of(distribution: str, extra: str = "") -> list[Requirement]:
    """What a distribution needs here: always, or for one of its extras besides."""
    found = [Requirement(text) for text in importlib.metadata.requires(distribution) or []]

    def applies(requirement: Requirement, to: str) -> bool:
        return requirement.marker is None or requirement.marker.evaluate({"extra": to})

    if not extra:
        return [requirement for requirement in found if applies(requirement, "")]
    return [requirement for requirement in found if applies(requirement, extra) and not applies(requirement, "")]


def problem_of(requirement: Requirement) -> str | None:
    """`attrs 22.1, not >=23.2` or `attrs is missing`; None when it is met."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} {version}, not {requirement.specifier}"


def dependency_rows(requirements: list[Requirement]) -> Iterator[Row]:
    """torch by itself, with what it is built for; the others together."""
    for requirement in requirements:
        if requirement.name == "torch":
            yield torch_row(requirement)
    others = [requirement for requirement in requirements if requirement.name != "torch"]
    problems = [problem for problem in map(problem_of, others) if problem]
    found = "; ".join(problems) or f"{len(others)} as needed"
    remedy = f"pip install --upgrade {DISTRIBUTION}"
    yield judged("dependencies", not problems, found, "all installed", remedy, otherwise="fail")


def torch_row(requirement: Requirement) -> Row:
    problem, expected = problem_of(requirement), str(requirement.specifier)
    remedy = f"pip install --upgrade 'torch{expected}', from the index of the build that this machine needs"
    try:
        found = str(torch_build())
    except ModuleNotFoundError:
        found = "not installed"
    return judged("torch", problem is None, found, expected, remedy, otherwise="fail")


def plugin_rows(plugins: list[Installed]) -> Iterator[Row]:
    """A row for each distribution that brings plugins."""
    for distribution in dict.fromkeys(plugin.distribution for plugin in plugins):
        mine = [plugin for plugin in plugins if plugin.distribution == distribution]
        names = ", ".join(plugin.name for plugin in mine)
        yield Row("plugins", "info", f"{distribution} {mine[0].version}: {names}")
