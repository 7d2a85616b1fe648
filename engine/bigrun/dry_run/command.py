"""What `bigrun run --dry-run` and `bigrun launch --dry-run` print, write and return. Imports when it runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from bigrun.config import Config, Document

__all__ = ["dry_run"]


def dry_run(
    document: Document,
    run_dir: Path | None,
    steps: int,
    scratch: Path | None,
    json_file: Path | None,
    *,
    fresh: bool,
    processes: Callable[[Config], int],
) -> int:
    """Rehearse the run; returns the exit code of the command.

    Args:
        processes: how many it has.

    Raises:
        UsageError, ConfigError: there is nothing to rehearse.
    """
    from bigrun.dry_run.rehearse import rehearse
    from bigrun.dry_run.report import lines, to_json
    from bigrun.dry_run.verdict import judge
    from bigrun.interruption import Interrupted, interrupting
    from bigrun.terminal import say

    try:
        with interrupting():
            tell = partial(say, error=True)
            found = rehearse(document, run_dir, steps, scratch, fresh=fresh, processes=processes, say=tell)
    except Interrupted as interrupted:
        say(f"interrupted by {interrupted.name}: nothing of the dry run is left", error=True)
        return interrupted.exit_code
    verdict = judge(found)
    redactor = found.config.redactor()
    for line in lines(found, verdict):
        say(redactor.text(line))
    if json_file is not None:
        write_json(json_file, redactor.value(to_json(found, verdict)))
    return verdict.exit_code


def write_json(path: Path, facts: Any) -> None:
    """Raises: UsageError when it cannot be written."""
    import json

    from bigrun.errors import UsageError

    try:
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--json {path}: cannot be written: {error.strerror}") from None
