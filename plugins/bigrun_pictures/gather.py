"""One look at a run's networks: everything that its pictures and numbers are made of, on the CPU."""

from __future__ import annotations

from pathlib import PurePath
from statistics import fmean
from typing import TYPE_CHECKING

import attrs
from torch import Tensor

from bigrun.data.tone import FullRange, describe_tone
from bigrun_pictures.attention import Seen, look
from bigrun_pictures.networks import compared_networks, precision_of, teacher_of
from bigrun_pictures.similarity import entropy_fraction, gram, mean_difference, patch_at, similarity_to

if TYPE_CHECKING:
    from bigrun.evaluation.images import FixedImages, Shown
    from bigrun.model.vit import VisionTransformer
    from bigrun.run import Run
    from bigrun_pictures.config import MapsConfig

__all__ = ["Look", "Sample", "gathered", "window_of"]

AT_ONCE = 4
"""Images in a forward pass: a small part of what a step takes."""


@attrs.frozen(eq=False)
class Sample:
    """One image, as the networks see it; lists are by block."""

    position: int
    """Counted from 1 among those that are asked for."""
    name: str
    picture: Tensor  # (1 or 3, s, s) in [0, 1]
    attention: list[Tensor]  # (h, Hp, Wp): of the class token to patches
    prefix_share: list[float]
    """Attention of the class token to itself and the storage tokens, mean over heads."""
    patches: list[Tensor]  # (P, D)
    similarity: list[Tensor]  # (Hp, Wp): cosines with the marked patch
    grams: dict[str, Tensor]  # (Q, Q) by network


@attrs.frozen(eq=False)
class Look:
    """What is seen at a step."""

    step: int
    blocks: list[int]
    depth: int
    grid: tuple[int, int]
    marked: tuple[int, int]
    """Row and column of the patch that all are compared with."""
    window: str | None
    samples: list[Sample]
    missing: list[str]
    """Names of images that could not be read."""

    @property
    def is_finite(self) -> bool:
        """Whether there is anything to see in the features."""
        return all(bool(patches.isfinite().all()) for sample in self.samples for patches in sample.patches)

    def entropies(self) -> list[float]:
        """Block by block, of the class token's attention to the patches over that of even attention."""
        return [
            fmean(entropy_fraction(s.attention[b].flatten(1)) for s in self.samples) for b in range(len(self.blocks))
        ]

    def prefix_shares(self) -> list[float]:
        """Block by block, of the class token's attention to class and storage tokens."""
        return [fmean(s.prefix_share[b] for s in self.samples) for b in range(len(self.blocks))]

    def differences(self) -> dict[str, float]:
        """Mean absolute difference of the teacher's Gram matrices from those of each other network."""
        others = [name for name in self.samples[0].grams if name != "teacher"]
        return {n: fmean(mean_difference(s.grams["teacher"], s.grams[n]) for s in self.samples) for n in others}

    def metrics(self) -> dict[str, float]:
        """The numbers of the look by the names of metrics."""
        found = {f"attention/entropy/block_{b}": e for b, e in zip(self.blocks, self.entropies(), strict=True)}
        found |= {
            f"attention/prefix_share/block_{b}": s for b, s in zip(self.blocks, self.prefix_shares(), strict=True)
        }
        differences = self.differences()
        if "student" in differences:
            found["gram/teacher_student_difference"] = differences["student"]
        return found


def gathered(run: Run, images: FixedImages, config: MapsConfig) -> Look | None:
    """Show the images to all networks, few at a time; None when none of them can be read. All processes do, since a
    network may be spread over them."""
    teacher, others = teacher_of(run), compared_networks(run)
    depth = len(teacher.blocks)
    blocks, samples, grid = config.blocks(depth), list[Sample](), (1, 1)
    with run.objective.whole():  # gathered once for all passes
        for shown in images.batches(run.device, AT_ONCE):
            seen = seen_by(run, teacher, shown, blocks)
            grams = {"teacher": gram(seen.patches[-1], seen.grid)} if blocks[-1] == depth else {}
            if not grams:
                grams["teacher"] = gram(seen_by(run, teacher, shown, [depth]).patches[0], seen.grid)
            for name, network in others.items():
                grams[name] = gram(seen_by(run, network, shown, [len(network.blocks)]).patches[0], seen.grid)
            samples += samples_of(images, shown, seen, grams, config, teacher.prefix)
            grid = seen.grid
    if not samples:
        return None
    read = {sample.position for sample in samples}
    missing = [name_of(images, i) for n, i in enumerate(images.indices, 1) if n not in read]
    return Look(run.step, blocks, depth, grid, patch_at(config.patch, grid), window_of(images), samples, missing)


def seen_by(run: Run, network: VisionTransformer, shown: Shown, blocks: list[int]) -> Seen:
    """Within `run.objective.whole()`."""
    with precision_of(run, network):
        return look(network, shown.crops, blocks, shown.spacing_mm)


def samples_of(
    images: FixedImages, shown: Shown, seen: Seen, grams: dict[str, Tensor], config: MapsConfig, prefix: int
) -> list[Sample]:
    grid = seen.grid
    similarities = [similarity_to(patches, *patch_at(config.patch, grid), grid).cpu() for patches in seen.patches]
    attention, patches = ([tensor.cpu() for tensor in tensors] for tensors in (seen.attention, seen.patches))
    pictures = in_channels_of_a_picture(images.plain(shown.crops), config.channel, is_windowed=bool(window_of(images)))
    grams = {name: matrices.cpu() for name, matrices in grams.items()}
    return [
        Sample(
            position=images.indices.index(index) + 1,
            name=name_of(images, index),
            picture=pictures[k],
            attention=[weights[k, :, prefix:].view(-1, *grid) for weights in attention],
            prefix_share=[float(weights[k, :, :prefix].sum(-1).mean()) for weights in attention],
            patches=[features[k] for features in patches],
            similarity=[similarity[k] for similarity in similarities],
            grams={name: matrices[k] for name, matrices in grams.items()},
        )
        for k, index in enumerate(shown.indices.tolist())
    ]


def in_channels_of_a_picture(plain: Tensor, channel: int | None, *, is_windowed: bool) -> Tensor:
    """(n, C, s, s) to (n, 3, s, s) in colour or (n, 1, s, s) in grey."""
    count = plain.shape[1]
    if channel is None and count == 3 and not is_windowed:
        return plain
    chosen = count // 2 if channel is None and is_windowed else min(channel or 0, count - 1)
    return plain[:, chosen : chosen + 1]


def window_of(images: FixedImages) -> str | None:
    """What becomes black and what white, where the data set has a window of its own."""
    told = describe_tone(images.part.tone)
    return None if told == FullRange().describe() else told.partition(";")[0]


def name_of(images: FixedImages, index: int) -> str:
    """Of a file also its folder: slices of two series are called alike."""
    return "/".join(PurePath(images.part.name(index)).parts[-2:])
