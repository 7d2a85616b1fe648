"""Does it know which photograph a patch is from? Patches of the left halves against patches of the right halves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bigrun.evaluation.knn import knn_accuracy

__all__ = ["PatchProbe"]


class PatchProbe:
    """Patches of every photograph: the left half is the gallery, the right half asks; the label is the photograph."""

    def __init__(self, photos: dict[str, Tensor], patch_px: int) -> None:
        self.patch_px = patch_px
        gallery, queries = [], []
        for label, photo in enumerate(photos.values()):
            middle = photo.shape[2] // 2
            gallery += [(patch, label) for patch in patches_of(photo[:, :, :middle], patch_px)]
            queries += [(patch, label) for patch in patches_of(photo[:, :, middle:], patch_px)]
        self.gallery = torch.stack([patch for patch, _ in gallery]).float() / 255  # (n, 3, p, p)
        self.queries = torch.stack([patch for patch, _ in queries]).float() / 255  # (m, 3, p, p)
        self.gallery_labels = torch.tensor([label for _, label in gallery])
        self.query_labels = torch.tensor([label for _, label in queries])

    def score(self, features: Callable[[Tensor], Tensor]) -> float:
        """Accuracy of `features`: (n, 3, p, p) in [0, 1] -> (n, D)."""
        return knn_accuracy(features(self.gallery), self.gallery_labels, features(self.queries), self.query_labels)

    def raw_pixel_score(self) -> float:
        """The baseline: the pixels themselves."""
        return self.score(lambda patches: patches.flatten(1))


def patches_of(image: Tensor, size: int) -> list[Tensor]:
    """Non-overlapping patches (3, size, size) of an image (3, H, W)."""
    _, height, width = image.shape
    return [
        image[:, y : y + size, x : x + size]
        for y in range(0, height - size + 1, size)
        for x in range(0, width - size + 1, size)
    ]
