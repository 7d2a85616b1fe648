"""Tuning of an AMD GPU under ROCm: libraries, kernels of attention, memory shared with the host, and known crashes."""
