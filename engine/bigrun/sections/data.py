"""[data]: which images, and how many per step."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from bigrun.options import between, not_blank, option, within

__all__ = ["Data"]


@attrs.frozen
class Data:
    """Which images, and how many per step."""

    path: str | None = option(
        None,
        check=not_blank(),
        fixed=True,
        help="Folder of images, searched recursively; absent when a plugin brings the data set.",
    )
    split: str | None = option(
        None,
        check=not_blank(),
        fixed=True,
        help="Manifest of `bigrun data split`: the run trains on its training part alone.",
    )
    index: str | None = option(
        None,
        check=not_blank(),
        help="The index of data.path (`bigrun data index --out`); absent when it lies there, or there is none.",
    )
    accept_findings: tuple[str, ...] = option(
        (),
        help="Findings about the data set that do not keep the run from starting, by kind, as `bigrun data check` "
        "names them.",
    )
    effective_batch: int = option(
        64, check=between(1, 2**24), fixed=True, help="Images per optimizer step, over all micro-batches and processes."
    )
    micro_batch: int | None = option(
        None, check=between(1, 2**24), rule="micro-batch", help="Images per forward pass; divides the effective batch."
    )
    workers: int = option(
        2, check=between(0, 1000), help="Processes that decode images; 0 decodes in the main process."
    )
    prefetch: int = option(
        2,
        check=between(1, 1000),
        effective=lambda data: data.workers > 0,
        otherwise="data.workers = 0 decodes each batch when it is needed",
        help="Micro-batches that each worker decodes ahead.",
    )
    worker_timeout_seconds: float = option(
        300.0,
        check=within(0, 1e9),
        effective=lambda data: data.workers > 0,
        otherwise="data.workers = 0 decodes in the main process, which nobody ends",
        help="A worker that has not finished an image for so long is ended, and all are started again.",
    )
    max_bad_fraction: float = option(
        0.001,
        check=between(0, 1),
        help="The run stops when more of the data set's files than this cannot be used; a single one never stops it.",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        micro = self.micro_batch
        if micro is not None and self.effective_batch % micro:
            yield (
                "micro_batch",
                f"{micro} does not divide effective_batch = {self.effective_batch}; "
                f"the nearest that does is {nearest_divisor(self.effective_batch, micro)}",
            )


def nearest_divisor(total: int, wish: int) -> int:
    return min((d for d in range(1, total + 1) if total % d == 0), key=lambda d: (abs(d - wish), d))
