"""[data]: which images, and how many per step."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from bigrun.options import between, not_blank, option

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
