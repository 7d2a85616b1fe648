"""[teacher]: how the teacher follows the student."""

from __future__ import annotations

import attrs

from bigrun.options import between, option

__all__ = ["Teacher"]


@attrs.frozen
class Teacher:
    """The teacher is an exponential moving average of the student [spec 7.1]."""

    momentum: float | None = option(
        None, check=between(0, 1), rule="teacher-momentum", help="Momentum at the first step."
    )
    momentum_end: float | None = option(
        None, check=between(0, 1), rule="teacher-momentum-end", help="Momentum at the last step (cosine)."
    )
