"""The default suite runs in two processes (pytest-xdist): torch takes one thread in each, and in whatever they start.
Two with two threads each on two cores were ten times slower."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
