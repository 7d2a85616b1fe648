"""What the documentation says of GPUs, each claim a check with the result pass, fail or skip: `gpu.py --checks`."""
