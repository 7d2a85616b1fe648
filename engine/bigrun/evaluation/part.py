"""The samples that are looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bigrun.data.tone import Tone

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset
    from bigrun.data.spacing import Spacing
    from bigrun.run import Run

__all__ = ["Part"]


@attrs.frozen(eq=False)
class Part:
    """The validation part of a run's data set; all that is trained on where nothing is kept apart."""

    dataset: Dataset
    tone: Tone
    """By the indices of `dataset`."""
    spacing_mm: Spacing | None
    is_validation: bool

    @classmethod
    def of(cls, run: Run) -> Part:
        """That of a run whose data is built."""
        if run.validation is None:
            return cls(run.dataset, run.views.tone, run.views.spacing_mm, False)
        assert run.validation_tone is not None
        spacing = getattr(run.validation, "spacing_mm", None)
        return cls(run.validation, run.validation_tone, spacing, True)

    def name(self, index: int) -> str:
        """What the data set calls a sample."""
        describe = getattr(self.dataset, "describe", None)
        return str(describe(index)) if describe else f"image {index}"
