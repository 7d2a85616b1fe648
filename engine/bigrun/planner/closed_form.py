"""Memory of a training step as a closed form: what decides the micro-batch before anything is on the device.

Of a student with P weights in fp32, of which bf16 copies live from the forward to the backward pass, with its gradients
and two moments of AdamW, and a teacher of as many weights. A token that a block keeps for the backward pass takes, in
bytes, with D the width, F the hidden width and h the bytes of the compute type:

    8 D               inputs of the two norms, in fp32; 16 D with RMSNorm, which also keeps them scaled
    h (1 + 3 + 2) D   input of the first linear layer; queries, keys and values as one; queries and keys rotated
    h (1 + 1) D       attention, and its projection
    h (1 + 1) D       input and output of the feed-forward layer
    2 h F             its hidden layer before and after GELU; with SwiGLU 4 h F, and h D for a second input in bf16
    8 D               results of both branches in fp32, with stochastic depth
    4 heads           log-sums of attention

and with stochastic depth only for the kept crops, at most (their number is rounded at random). Beside fake runs of
whole steps (ViT-S, B, L and g, each way of activation checkpointing, on a CPU with torch 2.13) it is at most 3 % below
and 7 % above their peak.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.model.activation_checkpointing import ActivationCheckpointing
    from bigrun.sections import Model

__all__ = ["StepMemory", "block_bytes", "kept_bytes", "kept_share", "parameters_of", "tokens_of"]

ENDS = 8
"""Bytes per token and channel that are kept outside of the blocks: before and behind the final norm."""
TEMPORARY = {"none": 0.75, "selective": 0.7, "full": 1.3}
"""Of what one block keeps without checkpointing: what its backward pass takes beside what was kept. Fitted to the fake
runs; everything else is counted."""
KEPT_LOGITS, LOGITS_AT_ONCE = 2**26, 2**25
"""Numbers, see bigrun.objective.targets."""
AT_ONCE_BYTES = 24
"""Of logits, their logarithms, targets and slopes, for each number that is computed at a time."""


def tokens_of(config: Config) -> int:
    """The student's tokens for each image, at the largest sizes of crops."""
    model, views = config.model, config.views
    prefix = 1 + model.storage_tokens

    def tokens(crops: int, size: int) -> int:
        return crops * (prefix + (size // model.patch_size_px) ** 2)

    return max(tokens(views.global_crops, g) + tokens(views.local_crops, s) for g, s in views.pairs)


def block_parameters(model: Model) -> int:
    matrices = 3 if model.ffn == "swiglu" else 2
    return 4 * model.width**2 + matrices * model.width * model.ffn_hidden


def parameters_of(config: Config) -> int:
    """Weights of the student, but for biases, norms and tokens (0.3 %)."""
    model, objective = config.model, config.objective
    embedding = model.in_channels * model.patch_size_px**2 * model.width
    heads = head_parameters(model.width, objective.head_hidden, objective.head_bottleneck, objective.head_layers)
    heads += objective.head_bottleneck * (objective.prototypes or 0)
    if objective.ibot_weight > 0:
        hidden = objective.ibot_head_hidden or objective.head_hidden
        bottleneck = objective.ibot_head_bottleneck or objective.head_bottleneck
        heads += head_parameters(model.width, hidden, bottleneck, objective.head_layers)
        heads += bottleneck * (objective.ibot_prototypes or 0)
    return model.depth * block_parameters(model) + embedding + heads


def head_parameters(width: int, hidden: int, bottleneck: int, layers: int) -> int:
    if layers == 1:
        return width * bottleneck
    return width * hidden + (layers - 2) * hidden**2 + hidden * bottleneck


def block_bytes(model: Model, h: int) -> float:
    """What one block keeps for each token of a crop that it does not leave out."""
    scaled = 2 * h if model.layerscale is not None else 0
    dropped = 8 if model.drop_path_fraction > 0 else 0
    gated = model.ffn == "swiglu"
    inputs = h if gated and h == 2 else 0  # autocast casts it for each of the two layers
    hidden = (4 if gated else 2) * h * model.ffn_hidden
    norms = 16 if model.norm == "rmsnorm" else 8
    return model.width * (norms + 8 * h + scaled + dropped + inputs) + hidden + 4 * model.heads


def kept_share(config: Config, micro_batch: int) -> float:
    """Of the student's tokens, those of crops for which a branch is computed, when most are."""
    views, left = config.views, 1 - config.model.drop_path_fraction
    near, far = views.global_crops * micro_batch, views.local_crops * micro_batch
    prefix, patch = 1 + config.model.storage_tokens, config.model.patch_size_px
    shares = []
    for g, s in views.pairs:
        each = [(near, prefix + (g // patch) ** 2), (far, prefix + (s // patch) ** 2)]
        kept = sum(min(math.ceil(crops * left), crops) * tokens for crops, tokens in each)
        shares.append(kept / sum(crops * tokens for crops, tokens in each))
    return max(shares)


def kept_bytes(model: Model, mode: ActivationCheckpointing, h: int, share: float | None = None) -> float:
    """What one block keeps for each token of the student, on average over kept and left out crops.

    Args:
        share: of the tokens, those of kept crops; None: of many crops.
    """
    share = 1 - model.drop_path_fraction if share is None else share
    if mode == "none":
        return share * block_bytes(model, h)
    if mode == "full":
        return 4.0 * model.width
    products = 6 * h * model.width + (2 if model.ffn == "swiglu" else 1) * h * model.ffn_hidden + 4 * model.heads
    return 4.0 * model.width + share * products


@attrs.frozen
class StepMemory:
    """What torch's allocator needs at the peak of a step, in bytes."""

    config: Config
    frozen_backbones: int = 0
    """Networks that plugins keep beside the teacher, each as large as its backbone."""

    @property
    def compute_bytes(self) -> int:
        """Of a number in the compute type."""
        return 2 if self.config.hardware.precision == "bf16" else 4

    @property
    def static_bytes(self) -> float:
        """Weights and moments of the student, weights of the teacher and of other networks."""
        model = self.config.model
        frozen = 4 * self.frozen_backbones * model.depth * block_parameters(model)
        return 16 * parameters_of(self.config) + frozen

    def logits_bytes(self, micro_batch: int) -> float:
        """Of the losses, which compute some rows of logits at a time."""
        config, h = self.config, self.compute_bytes
        views, objective, masking = config.views, config.objective, config.masking
        patches = max((g // config.model.patch_size_px) ** 2 for g, _ in views.pairs)
        masked = masking.crop_fraction * sum(masking.ratio) / 2 * patches * views.global_crops * micro_batch
        classes = max(views.global_crops, views.local_crops) * micro_batch * (objective.prototypes or 0)
        patch_prototypes = (objective.ibot_prototypes or 0) if objective.ibot_weight > 0 else 0
        numbers = max(classes, masked * patch_prototypes)
        slopes = 4 * objective.head_bottleneck * ((objective.prototypes or 0) + patch_prototypes)
        return h * min(numbers, KEPT_LOGITS) + AT_ONCE_BYTES * min(numbers, LOGITS_AT_ONCE) + slopes

    def peak_bytes(self, micro_batch: int, mode: ActivationCheckpointing) -> float:
        """Of a step with so many images at a time; where there are several such micro-batches, the gradients of those
        before are there in every forward pass."""
        config, h = self.config, self.compute_bytes
        model, views, tokens = config.model, config.views, tokens_of(config) * micro_batch
        parameters = parameters_of(config)
        casts = 2 * parameters if h == 2 else 0
        share = kept_share(config, micro_batch)
        crops = max(views.global_crops * g**2 + views.local_crops * s**2 for g, s in views.pairs)  # pixels of an image
        kept = tokens * (model.depth * kept_bytes(model, mode, h, share) + ENDS * model.width)
        kept += micro_batch * h * model.in_channels * crops  # what patches are embedded from
        block = TEMPORARY[mode] * tokens * share * block_bytes(model, h)
        accumulates = config.data.effective_batch > micro_batch
        pixels = 4 * model.in_channels * max(config.data.effective_batch, micro_batch) * crops  # of the whole window
        # The losses are over when the backward pass reaches the blocks.
        widest, gradients = casts + kept + max(self.logits_bytes(micro_batch), block), 4 * parameters
        both = widest + gradients if accumulates else max(widest, gradients + block)
        return self.static_bytes + pixels + both
