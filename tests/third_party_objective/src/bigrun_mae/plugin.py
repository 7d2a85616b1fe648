"""masked-reconstruction: trains the network to predict the pixels of hidden patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bigrun import hookimpl, option
from bigrun.errors import UsageError
from bigrun.options import at_least, between

if TYPE_CHECKING:
    from bigrun.objective.base import Objective
    from bigrun.run import Run

__all__ = ["MaskedConfig", "MaskedReconstruction"]


@attrs.frozen
class MaskedConfig:
    """What is hidden, and who fills it in."""

    mask_fraction: float = option(
        0.6, check=between(0.1, 0.9), help="Share of a crop's patches that the student does not see."
    )
    decoder_hidden: int = option(
        256, check=at_least(1), fixed=True, help="Hidden width of the decoder from a patch token to pixels."
    )


class MaskedReconstruction:
    """Brings an objective without a teacher: the pixels of hidden patches are predicted from the others."""

    Config = MaskedConfig
    replaces = ("objective", "masking", "teacher")  # these tables are of bigrun's own objective

    def __init__(self, config: MaskedConfig) -> None:
        self.config = config

    @hookimpl
    def build_objective(self, run: Run) -> Objective:
        from bigrun_mae.objective import MaskedObjective

        if run.config.views.local_crops:
            raise UsageError(
                "plugins.masked-reconstruction: only global crops are reconstructed; set views.local_crops to 0, "
                f"not {run.config.views.local_crops}"
            )
        return MaskedObjective(
            run.config.model,
            seed=run.config.run.seed,
            mask_fraction=self.config.mask_fraction,
            decoder_hidden=self.config.decoder_hidden,
        )
