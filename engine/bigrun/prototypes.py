"""How many prototypes fit a batch and a data set: what is refused, what is worth knowing [spec 10.2].

Balanced targets of n rows over K prototypes have an entropy of at least ln(K / n): every prototype gets n / K of the
mass, and a row has no more than 1 to give. docs/explanation/prototypes-and-batch-size.md explains it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.rules import EngineConfig

__all__ = ["balanced_rows", "image_warnings", "prototype_problems", "prototype_warnings", "prototypes_for_images"]

MOST_PER_ROW = 128
HIGH_PER_ROW = 64
FEW_IMAGES = 64

# Images of the data set below which so many prototypes are enough, as lightly-train sizes its heads.
SIZES = ((20_000, 1024), (50_000, 2048), (100_000, 4096), (200_000, 16384), (500_000, 32768))
LARGEST = 65536


def balanced_rows(config: EngineConfig) -> int:
    """Class tokens of one step that are balanced together: G images of the effective batch, or of a micro-batch."""
    data, objective = config.data, config.objective
    is_micro = objective.centring == "sinkhorn" and objective.sinkhorn_scope == "micro"
    images = data.micro_batch if is_micro else data.effective_batch
    assert images is not None
    return config.views.global_crops * images


def prototypes_per_row(config: EngineConfig) -> float:
    """K / n; n counts the rows of a queue too."""
    assert config.objective.prototypes is not None
    return config.objective.prototypes / (balanced_rows(config) * (1 + config.objective.queue_steps))


def prototypes_for_images(images: int) -> int:
    """Prototypes that a data set of so many images can use."""
    return next((prototypes for limit, prototypes in SIZES if images < limit), LARGEST)


def prototype_problems(config: EngineConfig) -> Iterator[tuple[str, str]]:
    """Too many prototypes for the rows that are balanced: (TOML path, message)."""
    if config.objective.centring != "sinkhorn":
        return  # a moving centre has no such bound
    ratio, rows = prototypes_per_row(config), balanced_rows(config) * (1 + config.objective.queue_steps)
    if ratio > MOST_PER_ROW:
        yield (
            "objective.prototypes",
            f"{config.objective.prototypes} prototypes for {rows} rows: K/n = {ratio:.0f}, targets can never "
            f"become sharp above {MOST_PER_ROW}; use at most {MOST_PER_ROW * rows}, a larger effective batch, or "
            "objective.queue_steps",
        )


def prototype_warnings(config: EngineConfig) -> Iterator[str]:
    """What is allowed but worth knowing."""
    if config.objective.centring != "sinkhorn":
        return
    ratio, rows, queue = prototypes_per_row(config), balanced_rows(config), config.objective.queue_steps
    assert config.objective.prototypes is not None
    if HIGH_PER_ROW < ratio <= MOST_PER_ROW:
        yield (
            f"objective.prototypes: K/n = {ratio:.0f} is high, so targets stay soft; published runs have 16 to 32, "
            f"which are {16 * rows} to {32 * rows} prototypes here"
        )
    if queue and config.objective.prototypes <= HIGH_PER_ROW * rows:
        yield (
            f"objective.queue_steps = {queue}: the {rows} rows of a step balance {config.objective.prototypes} "
            "prototypes without it; older rows are of older teachers"
        )
    if rows < FEW_IMAGES * config.views.global_crops and not queue:
        micro = config.objective.sinkhorn_scope == "micro"
        option = "data.micro_batch" if micro else "data.effective_batch"
        yield (
            f"{option} = {rows // config.views.global_crops}: below {FEW_IMAGES} images Sinkhorn-Knopp has few "
            "rows to balance; objective.centring = 'softmax' with objective.teacher_temperature = 0.05 needs no rows"
        )


def image_warnings(config: Config, images: int) -> Iterator[str]:
    """More prototypes, chosen by rule, than the data set can use. It is not part of the rule: the number of images is
    known only where they are, and a folder grows, while K is part of the network."""
    prototypes, enough = config.objective.prototypes, prototypes_for_images(images)
    assert prototypes is not None
    if images and prototypes > enough and any(c.path == "objective.prototypes" for c in config.choices):
        yield (
            f"objective.prototypes: {prototypes} fit the batch, but {enough} are enough for {images:,} images; set one "
            "of the two before the run begins, it cannot change later"
        )
