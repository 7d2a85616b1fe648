"""What is installed for options: whether it can be imported."""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Iterator
from pathlib import PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bigrun.doctor.row import Row
from bigrun.doctor.subject import Subject
from bigrun.doctor.versions import DISTRIBUTION, problem_of, requirements_of
from bigrun.entry_points import installed

__all__ = ["extra_rows", "extras_of", "import_problem"]

DEVELOPMENT = {"dev", "docs", "lint", "peers", "test", "tests", "type"}
"""Extras for those who develop a distribution; a run needs none."""


def extra_rows(subject: Subject) -> Iterator[Row]:
    """Each extra of bigrun and of the distributions that bring plugins.

    One that is not installed is a fact; one that is there, too old or broken, would fail in the middle of a run. With
    `--quick` nothing is imported.
    """
    for distribution in dict.fromkeys([DISTRIBUTION, *(plugin.distribution for plugin in installed().values())]):
        for extra in extras_of(distribution):
            yield extra_row(distribution, extra, must_import=not subject.is_quick)


def extras_of(distribution: str) -> list[str]:
    names = importlib.metadata.metadata(distribution).get_all("Provides-Extra") or []
    return sorted(name for name in names if name not in DEVELOPMENT)


def extra_row(distribution: str, extra: str, *, must_import: bool) -> Row:
    requirements = requirements_of(distribution, extra)
    name, package = f"extra {extra}", f"'{distribution}[{extra}]'"
    present = [requirement for requirement in requirements if is_installed(requirement)]
    absent = [requirement.name for requirement in requirements if requirement not in present]
    problems = [problem for problem in map(problem_of, present) if problem]
    if must_import:
        problems += [problem for requirement in present if (problem := import_problem(requirement.name))]
    if problems:
        remedy = f"pip install --upgrade {package}; until then nothing that needs it works"
        return Row(name, "warn", "; ".join(problems), "what is installed can be used", remedy)
    versions = ", ".join(f"{each.name} {importlib.metadata.version(each.name)}" for each in present)
    lacking = f"not installed: {', '.join(absent)} (pip install {package})" if absent else ""
    return Row(name, "info" if absent else "ok", "; ".join(filter(None, (versions, lacking))) or "needs nothing here")


def is_installed(requirement: Requirement) -> bool:
    try:
        importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def import_problem(distribution: str) -> str | None:
    """Why the modules of an installed distribution cannot be imported; its libraries may be those of another system."""
    for module in modules_of(distribution):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        except Exception as error:  # a library that is not there may be a KeyError
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            return f"{distribution} {importlib.metadata.version(distribution)} cannot be imported: {text}"
    return None


def modules_of(distribution: str) -> list[str]:
    """Its packages, as they are imported: those that are named after it, else all."""
    files = importlib.metadata.files(distribution) or []
    paths = [PurePosixPath(str(file)) for file in files]
    names = {path.parts[0] for path in paths if len(path.parts) == 2 and path.name == "__init__.py"}
    names |= {path.stem for path in paths if len(path.parts) == 1 and path.suffix == ".py"}
    public = sorted(name for name in names if not name.startswith("_"))
    return [name for name in public if canonicalize_name(name) == canonicalize_name(distribution)] or public
