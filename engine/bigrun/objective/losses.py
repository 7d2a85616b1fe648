"""The losses of the recipe. Each is a mean over images, so the mean over micro-batches of equal size is the whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bigrun.objective.cross_entropy import cross_entropy
from bigrun.objective.targets import Targets

__all__ = ["dino_loss", "ibot_loss", "koleo_loss"]

EPSILON = 1e-8


def dino_loss(
    student: Tensor, prototypes: Tensor, targets: Targets, temperature: float, *, ignore_diagonal: bool
) -> Tensor:
    """Cross-entropy between every crop of the student and every crop of the teacher, of the same image.

        -mean over pairs (s, t) and images i of sum_k target[t, i, k] * ln softmax(student[s, i] / T)_k

    (arXiv 2104.14294, eq. 3.)

    Args:
        student: bottlenecks (ns, b, e) of class tokens.
        prototypes: of the student (K, e).
        targets: of nt crops of the same b images.
        temperature: T of the student.
        ignore_diagonal: leave out the pairs s == t, where both saw the same crop.

    Returns:
        Scalar, float32.
    """
    ns, nt = len(student), len(targets.bottlenecks)
    # Without the diagonal, all crops of the student have one target: the sum of the teacher's.
    pairs = torch.ones(ns if ignore_diagonal else 1, nt, device=student.device)
    if ignore_diagonal:
        pairs.fill_diagonal_(0)
    count = ns * nt - (min(ns, nt) if ignore_diagonal else 0)
    images = student.shape[1]
    weights = torch.full((images,), 1 / images, device=student.device)
    return cross_entropy(student, prototypes, targets, pairs / count, weights, temperature)


def ibot_loss(
    student: Tensor, prototypes: Tensor, targets: Targets, weights: Tensor, crops: int, temperature: float
) -> Tensor:
    """Cross-entropy of masked patches: -1/Nc * sum_j w_j * sum_k target[j, k] * ln softmax(student[j] / T)_k

    with w_j = 1 / masked patches of the same crop, so that every masked crop counts alike (iBOT, arXiv 2111.07832,
    eq. 2). Nc counts crops without a mask too, so the loss begins near the share of masked crops times ln K.

    Args:
        student: bottlenecks (M, e) of the masked patches; M = 0 is allowed and gives 0 with zero gradients.
        prototypes: of the student (K, e).
        targets: of the same M patches, G = 1.
        weights: w (M,), float32.
        crops: Nc = G * b.
        temperature: T of the student.

    Returns:
        Scalar, float32.
    """
    pairs = torch.ones(1, 1, device=student.device)
    return cross_entropy(student[None], prototypes, targets, pairs, weights / crops, temperature)


def koleo_loss(tokens: Tensor, group_size: int, neighbours: int = 1) -> Tensor:
    """-mean ln of the distance from each token to its nearest in the group (Kozachenko-Leonenko entropy estimate;
    arXiv 1806.03198, section 3.2).

    Directions only: tokens are L2-normalised. A token is kept from being its own neighbour by -inf on the diagonal; -1
    would tie with an opposite token. The choice of neighbours is not differentiated, the distance is, on both sides.

    Args:
        tokens: class tokens (b, D) of one crop of b images.
        group_size: g; neighbours are sought among g consecutive tokens, and g divides b.
        neighbours: mean over so many nearest, less than g.

    Returns:
        Scalar, float32.

    Raises:
        ValueError: g does not divide b, or a group has too few tokens for the neighbours.
    """
    if len(tokens) % group_size or not 1 <= neighbours < group_size:
        raise ValueError(
            f"expected groups of more than {neighbours} tokens that divide {len(tokens)} tokens, got {group_size}"
        )
    with torch.autocast(tokens.device.type, enabled=False):
        z = F.normalize(tokens.float(), dim=-1).view(-1, group_size, tokens.shape[1])  # (b / g, g, D)
        with torch.no_grad():
            similar = z @ z.mT  # (b / g, g, g)
            similar.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
            nearest = similar.topk(neighbours, dim=-1).indices.flatten(1)  # (b / g, g * k)
        others = z.gather(1, nearest[..., None].expand(-1, -1, z.shape[-1]))  # (b / g, g * k, D)
        others = others.view(*z.shape[:2], neighbours, -1)
        distances = (z[:, :, None] - others + EPSILON).norm(dim=-1)  # (b / g, g, k)
        loss: Tensor = -(distances + EPSILON).log().mean()
    return loss
