"""What a data set says is wrong with itself: a run that is told so does not start."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from bigrun.data.check.finding import Finding
from bigrun.errors import UnfitDataError

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset
    from bigrun.run import Run

__all__ = ["ACCEPT", "accept", "ask_problems", "refuse_problems", "refuse_unsearched"]

ACCEPT = "data.accept_findings"


def ask_problems(dataset: Dataset) -> list[Finding]:
    """The findings of the data set's `problems()`, if it has such."""
    problems = getattr(dataset, "problems", None)
    return [] if problems is None else list(problems())


def accept(findings: Collection[Finding], accepted: Collection[str]) -> Iterator[tuple[Finding, bool]]:
    """(finding, whether it refuses): those of accepted kinds do not."""
    for finding in findings:
        yield finding, finding.refuses and finding.kind not in accepted


def refuse_problems(run: Run) -> None:
    """Ask the data set what is wrong with it; `run.findings` has what does not refuse.

    Raises:
        UnfitDataError: naming every finding with which training must not start.
    """
    judged = list(accept(ask_problems(run.dataset), run.config.data.accept_findings))
    run.findings = [finding for finding, refuses in judged if not refuses]
    refusing = [finding for finding, refuses in judged if refuses]
    if refusing:
        raise unfit(refusing, "`bigrun data check` shows more; if this is as it should be")


def refuse_unsearched(run: Run) -> None:
    """Refuse a data set of which nobody knows how much is missing (its `unsearched()`, if it has such): nothing can be
    said of it as a whole.

    Raises:
        UnfitDataError: naming the folders, unless `data.accept_findings` has the finding.
    """
    unsearched = getattr(run.dataset, "unsearched", None)
    found = [] if unsearched is None else list(unsearched())
    if refusing := [finding for finding, refuses in accept(found, run.config.data.accept_findings) if refuses]:
        raise unfit(refusing, "if this is as it should be")


def unfit(refusing: Sequence[Finding], way_out: str) -> UnfitDataError:
    kinds = ", ".join(f'"{kind}"' for kind in dict.fromkeys(finding.kind for finding in refusing))
    lines = [f"  {finding.kind}: {finding.message}" for finding in refusing]
    return UnfitDataError(
        "\n".join(["the data set is not fit to be trained on:", *lines, f"{way_out}: {ACCEPT} = [{kinds}]"])
    )
