"""Another patch size: tokens are kept, not pixels of the kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.weights.resample import resample_patch_embedding


@given(old=st.integers(1, 10), more=st.integers(0, 6), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=12)
def test_an_enlarged_patch_gives_the_token_of_the_patch(old: int, more: int, seed: int) -> None:
    """<B x, w'> = <x, w>, the law of the pseudo-inverse (arXiv 2212.08013, section 3.4)."""
    generator = torch.Generator().manual_seed(seed)
    kernel, patches = (torch.randn(n, 3, old, old, generator=generator) for n in (4, 5))
    enlarged = F.interpolate(patches, (old + more,) * 2, mode="bicubic", align_corners=False)
    before = torch.einsum("dcij,ncij->nd", kernel, patches)
    after = torch.einsum("dcij,ncij->nd", resample_patch_embedding(kernel, old + more), enlarged)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


def test_the_same_size_is_the_same_kernel() -> None:
    kernel = torch.randn(8, 3, 14, 14)
    torch.testing.assert_close(resample_patch_embedding(kernel, 14), kernel)


def test_a_smaller_kernel_is_the_nearest_in_the_mean_square() -> None:
    """No change of the reduced kernel makes the tokens of reduced patches come nearer to those of the patches."""
    torch.manual_seed(0)
    kernel, patches = (
        torch.randn(1, 1, 8, 8),
        torch.eye(64).view(64, 1, 8, 8),
    )  # the identity: white noise's mean square
    reduced = F.interpolate(patches, (4, 4), mode="bicubic", align_corners=False)

    def error(w: torch.Tensor) -> torch.Tensor:
        return (
            (torch.einsum("dcij,ncij->nd", w, reduced) - torch.einsum("dcij,ncij->nd", kernel, patches)).square().sum()
        )

    best = resample_patch_embedding(kernel, 4).requires_grad_()
    (slope,) = torch.autograd.grad(error(best), best)
    assert slope.abs().max() < 1e-4
    assert error(best) < error(F.interpolate(kernel, (4, 4), mode="bicubic", align_corners=False))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shape_and_dtype(device: str) -> None:
    """A smaller dtype of the file is kept in no place where it would cost precision."""
    resized = resample_patch_embedding(torch.zeros(4, 3, 14, 14, dtype=torch.bfloat16, device=device), 16)
    assert resized.shape == (4, 3, 16, 16)
    assert resized.device.type == device
    assert resized.dtype is (torch.float32 if device == "cpu" else torch.bfloat16)
