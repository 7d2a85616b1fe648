"""The data set of a preset or of a folder, built as a run would build it, without a run."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.config import Document, read_preset, shipped_presets
from bigrun.errors import UsageError
from bigrun.mistyped import did_you_mean_path
from bigrun.overrides import override
from bigrun.values import did_you_mean

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset
    from bigrun.data.files.entry import Files
    from bigrun.run import Run

__all__ = ["data_run", "files_of", "read_source"]


def read_source(
    source: str, sets: Sequence[str] = (), plugins: Sequence[str] = (), no_plugins: Sequence[str] = ()
) -> Document:
    """What PRESET|DIR and its overrides mean: an existing folder is one of images, anything else a preset.

    Raises:
        UsageError: as `read_preset`, or it is neither.
    """
    if Path(source).is_dir():
        tables = {"data": {"path": source}}
        return Document(source, Path(source).resolve().name, override(tables, sets, plugins, no_plugins))
    if source.endswith(".toml") or source in shipped_presets() or Path(source).exists():
        return read_preset(source, sets, plugins, no_plugins)
    raise UsageError(
        f"{source}: no such folder, and no preset of that name{nearest(source)}; "
        "expected a folder of images, or a preset: a file that ends in .toml, or a name of `bigrun presets`"
    )


def nearest(source: str) -> str:
    """` - did you mean 'x'?` for the folder or the preset that is nearest to `source`, or nothing."""
    typed, presets = Path(source), shipped_presets()

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, name, str(typed)).ratio()

    least = max(map(likeness, presets), default=0.0)
    hint = did_you_mean_path(typed, lambda other: other.is_dir() and likeness(str(other)) >= least)
    return hint or did_you_mean(source, presets)


@contextlib.contextmanager
def data_run(document: Document) -> Iterator[Run]:
    """A run that has a data set and nothing else: `run.config`, `run.plugins`, `run.dataset`.

    Nothing is written, no device is used. Plugins are torn down when the context ends.

    Raises:
        UnfitDataError: a folder of it cannot be searched, and that is not accepted.
        BigrunError: as the run itself would, up to `build_dataset`.
    """
    from bigrun.activation import activate

    config, plugins = activate(document)

    from bigrun.data.check.problems import refuse_unsearched
    from bigrun.run import Run
    from bigrun.session import tear_down

    run = Run(config, Path("runs") / config.name, plugins)
    try:
        run.dataset = run.hook.build_dataset(run=run)
        refuse_unsearched(run)
        yield run
    finally:
        tear_down(run)


def files_of(dataset: Dataset, source: str) -> Files:
    """The files that a data set is made of.

    Raises:
        UsageError: it is not made of files.
    """
    files: Files | None = getattr(dataset, "files", None)
    if files is None:
        raise UsageError(
            f"{source}: its data set, {type(dataset).__name__}, is not made of files (it has no attribute `files`); "
            "expected a folder of images, or a preset of one"
        )
    return files
