"""Tuning of an NVIDIA GPU under CUDA: precision, attention, allocator, compiled blocks, fp8, and what fits into it."""
