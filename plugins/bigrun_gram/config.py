"""The options of gram-anchoring, and what they may not be beside the engine's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import attrs

from bigrun import option
from bigrun.options import NoEffect, above, at_least, between, not_blank

if TYPE_CHECKING:
    from bigrun.config import Config

__all__ = ["TABLE", "GramConfig", "cross_problems"]

TABLE = "plugins.gram-anchoring"
DEFAULT_LOCAL_WEIGHT = 0.5


def _in(*modes: str) -> Callable[[GramConfig], bool]:
    """Whether an option counts; "off" keeps the whole table for later."""
    return lambda config: config.mode in (*modes, "off")


def _refresh(default: int | None, **declaration: Any) -> Any:
    return option(
        default,
        effective=lambda c: c.mode == "off" or (c.mode != "ema" and c.max_refreshes != 0),
        otherwise="max_refreshes = 0, or mode = 'ema', which has nothing to refresh",
        **declaration,
    )


@attrs.frozen
class GramConfig:
    """Where the Gram teacher comes from, when the loss begins, how strong it is. Open values follow the run's length;
    in mode snapshot a run of fewer than 5,000 steps has none unless start_step or snapshot_step is given."""

    mode: Literal["snapshot", "ckpt", "ema", "off"] = option(
        "snapshot",
        help="The Gram teacher: an earlier teacher of this run; a file (checkpoint); the teacher as it moves, which "
        "holds nothing back; none (the other options are kept and do nothing).",
    )
    checkpoint: str | None = option(
        None,
        check=not_blank(),
        effective=_in("ckpt"),
        otherwise="mode is not 'ckpt'",
        help="The Gram teacher in mode ckpt: a checkpoint of bigrun (its teacher), or a file of backbone weights.",
    )
    snapshot_step: int | None = option(
        None,
        check=at_least(1),
        effective=_in("snapshot"),
        otherwise="mode is not 'snapshot'",
        help="Step after which the teacher becomes the Gram teacher; absent: the best of several candidates.",
    )
    candidates_every_steps: int | None = option(
        None,
        check=at_least(1),
        effective=lambda c: c.mode == "off" or (c.mode == "snapshot" and c.snapshot_step is None),
        otherwise="snapshot_step names the one that is taken, or mode is not 'snapshot'",
        help="Steps between two candidates, from the end of the warm-ups to start_step; absent: 5 % of the run.",
    )
    choose_by: str | None = option(
        None,
        check=not_blank(),
        effective=lambda c: c.mode == "off" or (c.mode == "snapshot" and c.snapshot_step is None),
        otherwise="snapshot_step names the one that is taken, or mode is not 'snapshot'",
        help="The metric whose highest value is the best candidate's, as 'probe/dense_miou'; a plugin must record it "
        "in every candidate's step; absent: what a plugin says (hook `dense_score`), or scores without labels.",
    )
    start_step: int | None = option(
        None, check=at_least(1), help="First step with the Gram loss; absent: at 83 % of the run."
    )
    ramp_steps: int | None = option(
        None,
        check=at_least(1),
        help="Cosine ramp of the weight from 0; absent: 0.1 % of the run, at least 100, at most what is left.",
    )
    weight: float = option(
        2.0, check=above(0), help="Weight of the Gram loss (a mean over all entries) after the ramp."
    )
    first_refresh_step: int | None = _refresh(
        None,
        check=at_least(1),
        help="First step after which the Gram teacher is replaced by the teacher; absent: refresh_every_steps with "
        "the loss.",
    )
    refresh_every_steps: int | None = _refresh(
        None, check=at_least(1), help="Steps between refreshes; absent: 1 % of the run, at least 500."
    )
    max_refreshes: int | None = option(
        3,
        check=at_least(0),
        effective=_in("snapshot", "ckpt"),
        otherwise="mode = 'ema' has nothing to refresh",
        help="The Gram teacher is refreshed at most so many times; false: no limit.",
    )
    local_weight: float | None = option(
        DEFAULT_LOCAL_WEIGHT,
        check=at_least(0),
        help="Weight of the local crops' share of the DINO loss once the Gram loss counts, reached on the same ramp; "
        "false: as before.",
    )
    teacher_momentum: float | None = option(
        None,
        check=between(0, 1),
        help="Least momentum of the teacher once the Gram loss counts; absent: 1 - 20 / run.max_steps, and 0, which "
        "changes nothing, in a run without end.",
    )
    crop_factor: float = option(
        1.0,
        check=between(1, 8),
        effective=_in("snapshot", "ckpt"),
        otherwise="mode = 'ema' uses the patches that the teacher has seen anyway",
        help="Side of the Gram teacher's crops over that of the global crops. Above 1 they are undistorted, and its "
        "features are resized; 2 pays off where images are at least twice as large as the global crops.",
    )
    teacher_dtype: Literal["fp32", "bf16"] = option(
        "fp32",
        effective=_in("snapshot", "ckpt"),
        otherwise="mode = 'ema' has no network of its own",
        help="Type of the Gram teacher's linear layers, on the device and in checkpoints; bf16: half the memory, and "
        "the same numbers where `hardware.precision` is bf16, which rounds them for every forward pass anyway.",
    )
    level: Literal["image", "batch"] = option(
        "image", help="Similarities of the patches of each crop, or of all patches of a step (no accumulation)."
    )
    tokens: Literal["all", "masked", "unmasked"] = option(
        "all", help="Patches that count, by whether they were hidden from the student; not all of them: level batch."
    )
    negatives: Literal["keep", "clamp", "clamp-teacher"] = option(
        "keep",
        help="Similarities below 0: kept; set to 0; set to 0 where the Gram teacher's is below 0, except that a "
        "student's above 0 stays.",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.mode == "off":
            return
        if self.mode == "ckpt" and self.checkpoint is None:
            yield "checkpoint", "mode = 'ckpt' has no Gram teacher: name a checkpoint directory or a .safetensors file"
        start, snapshot, first = self.start_step, self.snapshot_step, self.first_refresh_step
        if start is not None and snapshot is not None and start <= snapshot:
            yield "start_step", f"{start} is not after snapshot_step = {snapshot}"
        if start is not None and first is not None and first < start:
            yield "first_refresh_step", f"{first} is before start_step = {start}"
        if self.tokens != "all" and self.level == "image":
            yield "tokens", f"'{self.tokens}' needs level = 'batch': crops have different numbers of such patches"


def cross_problems(options: GramConfig, config: Config) -> Iterator[tuple[str, str]]:
    """What is wrong between these options and the engine's: (TOML path, message)."""
    if options.mode == "off":
        return
    data, patch, replaced = config.data, config.model.patch_size_px, config.replaced
    if options.level == "batch" and data.micro_batch != data.effective_batch:
        yield (
            f"{TABLE}.level",
            f"'batch' compares all patches of a step: expected data.micro_batch = data.effective_batch = "
            f"{data.effective_batch}, got {data.micro_batch}; or use level = 'image'",
        )
    if options.tokens != "all" and "objective" not in replaced and config.objective.ibot_weight == 0:
        yield f"{TABLE}.tokens", f"'{options.tokens}' needs masks, and objective.ibot_weight = 0 draws none"
    for size in sorted({size for size, _ in config.views.pairs}):
        side = options.crop_factor * size
        if abs(side / patch - round(side / patch)) > 1e-6:
            yield (
                f"{TABLE}.crop_factor",
                f"{options.crop_factor:g} x global crops of {size} pixels is {side:g}, "
                f"which is not a multiple of model.patch_size_px = {patch}",
            )
    if options.local_weight != DEFAULT_LOCAL_WEIGHT and ("objective" in replaced or config.views.local_crops == 0):
        yield f"{TABLE}.local_weight", NoEffect("has no effect: there is no loss of local crops")
    if options.teacher_momentum is not None and "teacher" in replaced:
        yield f"{TABLE}.teacher_momentum", NoEffect(f"has no effect: plugin {replaced['teacher']} replaces [teacher]")
