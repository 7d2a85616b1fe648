"""Small photographs in folders by class, and a preset for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["TOML", "write_masks", "write_photos"]

TOML = """
[run]
max_steps = {steps}
log_every_steps = {log}
checkpoint_every_steps = {save}
background_checkpoints = false
[data]
path = "{path}"
effective_batch = 4
micro_batch = 4
workers = 0
[model]
width = 32
depth = 2
heads = 2
ffn_hidden = 64
patch_size_px = 8
layerscale = 0.1
[views]
global_size_px = 32
local_size_px = 16
local_crops = 2
[objective]
head_hidden = 32
head_bottleneck = 16
prototypes = 64
koleo_weight = 0.0
[teacher]
momentum = 0.5
momentum_end = 0.5
[optimizer]
base_lr = {lr}
warmup_steps = 0
freeze_last_layer_steps = 0
[hardware]
device = "cpu"
precision = "fp32"
threads = 1
"""


def write_photos(folder: Path, classes: int = 3, each: int = 8) -> None:
    """Noise, each class in a colour of its own, 44 x 40 pixels; names do not say the order of the classes."""
    generator = np.random.default_rng(0)
    for number in range(classes):
        (folder / f"class{number}").mkdir(parents=True)
        for image in range(each):
            pixels = generator.integers(0, 60, (40, 44, 3)).astype(np.uint8)
            pixels[..., number % 3] += 150
            pixels[10:30, 12:32] = 255 - pixels[10:30, 12:32]
            Image.fromarray(pixels).save(folder / f"class{number}" / f"{image}.png")


def write_masks(folder: Path, classes: int = 3, each: int = 8) -> None:
    """The square in the middle is of the image's class, its surroundings are 0, the first row is nothing."""
    for number in range(classes):
        (folder / f"class{number}").mkdir(parents=True)
        for image in range(each):
            mask = np.zeros((40, 44), np.uint8)
            mask[10:30, 12:32] = 10 * (number + 1)
            mask[0] = 255
            Image.fromarray(mask).save(folder / f"class{number}" / f"{image}.png")
