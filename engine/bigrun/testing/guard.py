"""A run must leave the process as it found it."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["unchanged_process"]


# pytest names the running test; the first optimizer of a process makes torch 2.13 import its compiler, which sets
# the second; the import of tensorboardX 2.6 sets the third.
NOT_OURS = frozenset({"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "CRC32C_SW_MODE"})


def snapshot() -> dict[str, Any]:
    """What a run may not change."""
    environment = {k: v for k, v in os.environ.items() if k not in NOT_OURS}
    root = logging.getLogger()
    numpy_state = np.random.get_state(legacy=False)
    return {
        "environment": environment,
        "random": random.getstate(),
        "numpy.random": (numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"]),
        "torch.random": torch.get_rng_state().tolist(),
        "root logger": (root.level, list(root.filters), list(root.handlers), root.disabled),
        "working directory": Path.cwd(),
        "signal handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "torch threads": torch.get_num_threads(),
        "torch default type": torch.get_default_dtype(),
        "torch matmul precision": torch.get_float32_matmul_precision(),
    }


@contextlib.contextmanager
def unchanged_process() -> Iterator[None]:
    """Compare the process before and after.

    Raises:
        AssertionError: naming what changed.
    """
    before = snapshot()
    yield
    after = snapshot()
    changed = [name for name in before if before[name] != after[name]]
    if "environment" in changed:
        variables = {name for name, _ in before["environment"].items() ^ after["environment"].items()}
        changed[changed.index("environment")] = f"environment ({', '.join(sorted(variables))})"
    assert not changed, f"the run changed the process: {', '.join(changed)}"
