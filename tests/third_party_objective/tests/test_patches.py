"""Patches, their normalisation, and which of them are hidden."""

from __future__ import annotations

import numpy as np
import torch
from bigrun_mae.objective import hidden_patches, normalised, patch_pixels


def test_a_row_has_the_pixels_of_one_patch_in_the_order_of_the_tokens() -> None:
    crops = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).view(2, 3, 8, 12)
    rows = patch_pixels(crops, 4)
    assert rows.shape == (2, 2 * 3, 3 * 4 * 4)
    row, column = 1, 2
    patch = crops[1, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
    assert torch.equal(rows[1, row * 3 + column], patch.flatten())


def test_normalised_patches_have_mean_zero_and_variance_one_and_flat_ones_are_zero() -> None:
    rows = torch.randn(5, 7, 48, generator=torch.Generator().manual_seed(0)) * 3 + 10
    rows[0, 0] = 4.0
    result = normalised(rows)
    assert torch.equal(result[0, 0], torch.zeros(48))
    torch.testing.assert_close(result.mean(-1), torch.zeros(5, 7), atol=1e-5, rtol=0)
    torch.testing.assert_close(result[1:].var(-1), torch.ones(4, 7), atol=1e-5, rtol=0)


def test_the_hidden_patches_are_different_ones_of_each_crop_and_follow_their_image() -> None:
    epochs, indices = np.array([0, 0, 3]), np.array([5, 6, 5])
    together = hidden_patches(0, epochs, indices, crops=2, patches=16, count=9)
    assert together.shape == (2 * 3, 9)
    assert together.min() >= 0
    assert together.max() < 16
    assert all(len(set(row.tolist())) == 9 for row in together)
    assert len({tuple(sorted(row.tolist())) for row in together}) == 6
    alone = hidden_patches(0, epochs[1:2], indices[1:2], crops=2, patches=16, count=9)
    assert torch.equal(alone, together.view(2, 3, 9)[:, 1])
    assert not torch.equal(hidden_patches(1, epochs, indices, crops=2, patches=16, count=9), together)


def test_every_patch_is_hidden_equally_often() -> None:
    indices = np.arange(2000)
    hidden = hidden_patches(0, np.zeros_like(indices), indices, crops=1, patches=16, count=4)
    share = torch.bincount(hidden.flatten(), minlength=16) / 2000
    assert (share - 4 / 16).abs().max() < 0.05  # 5 standard deviations
