"""Data sets that are decoded in other processes, in a module that these import quickly."""

from __future__ import annotations

import errno
import os
import time
from typing import Any

import torch
from torch import Tensor

from bigrun.data.dataset import Samples
from bigrun.data.faults import BadImageError
from bigrun.errors import DataError

__all__ = [
    "LENGTH", "Deadly", "Faulty", "Giving", "Named", "OutOfFiles", "Processes", "Raising", "Slow", "Squares",
    "process_of",
]  # fmt: skip

LENGTH = 10


class Squares:
    """Image i is (C, i + 1, 2), filled with i, with i / 10 as floats; dtype and channels change with i."""

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int, /) -> Tensor:
        if index in self.broken:
            raise DataError(f"image-{index}.png: not a readable image")
        kind = (torch.uint8, torch.uint16, torch.float32)[index % 3]
        value = index / LENGTH if kind.is_floating_point else index
        return torch.full((1 if index % 2 else 3, index + 1, 2), value, dtype=torch.float32).to(kind)


class Named(Squares):
    def describe(self, index: int) -> str:
        return f"scan-{index}.png"


class Processes:
    """Every image is the id of the process that decoded it, as `process_of` reads it."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int, /) -> Tensor:
        return torch.tensor(list(os.getpid().to_bytes(4, "big")), dtype=torch.uint8).view(1, 1, 4)


def process_of(samples: Samples) -> int:
    return int.from_bytes(bytes(samples.images[0].flatten().tolist()), "big")


class Slow(Processes):
    def __getitem__(self, index: int, /) -> Tensor:
        time.sleep(0.1)
        return super().__getitem__(index)


class Special(Processes):
    """Its image 7 is not as the others."""

    def __getitem__(self, index: int, /) -> Tensor:
        if index == 7:
            self.happens()
        return super().__getitem__(index)

    def happens(self) -> None:
        raise NotImplementedError


class Raising(Special):
    def happens(self) -> None:
        raise KeyError("scan")


class Giving(Squares):
    """Its image 6, which would be uint8 of 3 channels, is what it was given."""

    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.thing = thing

    def __getitem__(self, index: int, /) -> Any:
        return self.thing if index == 6 else super().__getitem__(index)


class Faulty(Special):
    def happens(self) -> None:
        raise BadImageError("b/scan.png", "truncated", "truncated: it ends too early")


class OutOfFiles(Special):
    def happens(self) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Deadly(Special):
    """It is decoded by a library that crashes."""

    def __init__(self, number: int) -> None:
        self.number = number

    def happens(self) -> None:
        os.kill(os.getpid(), self.number)
        time.sleep(60)
