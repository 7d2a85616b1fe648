"""The tables that the tiny presets of these tests have in common: a network that trains in a fraction of a second."""

from __future__ import annotations

NETWORK = """
[views]
global_size_px = 32
local_size_px = 16
local_crops = 2

[model]
width = 32
depth = 2
heads = 2
ffn_hidden = 64
patch_size_px = 8

[objective]
head_hidden = 32
head_bottleneck = 16
prototypes = 64
"""
