"""How the averages of an optimizer are kept between two steps: fp32, bf16, or 8 bits with a scale for each block."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import torch
from torch import Tensor

from bigrun.imports import import_quietly
from bigrun.shards import local

__all__ = ["BLOCK", "MOMENTS", "SMALLEST", "Bf16", "EightBit", "Float32", "Format", "State", "round_at_random"]

State = dict[str, Tensor]
"""Of one parameter: `step`, and the tensors of its format."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""torch's names of the averages of gradients and of their squares."""
SMALLEST = 4096
"""Parameters of fewer elements stay in fp32: norms and biases, a thousandth of a vision transformer's bytes."""
BLOCK = 256
"""Elements that share a scale in 8 bits, torchao's default."""


class Format(abc.ABC):
    """A way to keep both averages of a parameter; `part` is a range of its elements, in multiples of BLOCK."""

    seed = 0
    generator: torch.Generator | None = None

    def reseed(self, seed: int) -> None:
        """Make everything that is drawn from here on a function of the seed, whatever others draw."""
        self.seed, self.generator = seed, None

    @abc.abstractmethod
    def begin(self, parameter: Tensor) -> State:
        """Averages that are zero."""

    @abc.abstractmethod
    def read(self, state: State, moment: str, part: slice) -> Tensor:
        """The elements in fp32, flat."""

    @abc.abstractmethod
    def write(self, state: State, moment: str, part: slice, values: Tensor) -> None:
        """Keep what `read` gave and somebody changed."""


class Float32(Format):
    """As torch keeps them; `read` gives the state itself."""

    dtype: ClassVar[torch.dtype] = torch.float32

    def begin(self, parameter: Tensor) -> State:
        return {name: torch.zeros_like(parameter, dtype=self.dtype) for name in MOMENTS}

    def read(self, state: State, moment: str, part: slice) -> Tensor:
        return local(state[moment]).view(-1)[part].float()

    def write(self, state: State, moment: str, part: slice, values: Tensor) -> None:
        local(state[moment]).view(-1)[part].copy_(values)


class Bf16(Float32):
    """8 bits of mantissa. The average of squares is rounded at random.

    Rounded to the nearest it would never fall: a step changes it by at most 1 - beta2 = 0.001 of its value, and half of
    the distance between two bf16 numbers is 0.002 to 0.004 of theirs. At random the mean over many steps is right.
    """

    dtype = torch.bfloat16

    def write(self, state: State, moment: str, part: slice, values: Tensor) -> None:
        if moment == "exp_avg_sq":
            if self.generator is None:
                self.generator = torch.Generator(values.device).manual_seed(self.seed)
            values = round_at_random(values, self.generator)
        super().write(state, moment, part, values)


class EightBit(Format):
    """Codes of a dynamic map and a scale for each block of 256, by torchao (arXiv 2110.02861, section 2).

    As tensors of their own (`exp_avg_codes`, `exp_avg_scales`) and not as torchao's subclass, so that a checkpoint
    holds the very bits. The scales are fp32, so that averages that only shrink do so exactly.
    """

    def __init__(self) -> None:
        self._torchao: Any = import_quietly("torchao.optim.quant_utils")
        # In a thread: under FakeTensorMode, which is a thread's own, the map would have no values.
        with ThreadPoolExecutor(1) as thread:
            signed, unsigned = thread.map(self._torchao.create_dynamic_map, (True, False))
        self._maps: dict[str, Sequence[float]] = dict(zip(MOMENTS, (signed, unsigned), strict=True))
        self._tensors: dict[tuple[str, torch.device], Tensor] = {}

    def begin(self, parameter: Tensor) -> State:
        state: State = {}
        blocks, device = parameter.numel() // BLOCK, parameter.device
        for name in MOMENTS:  # as the quantisation of zeros
            zero = min(range(256), key=lambda code: abs(self._maps[name][code]))
            state[f"{name}_codes"] = torch.full_like(parameter, zero, dtype=torch.uint8)
            state[f"{name}_scales"] = torch.full((blocks,), 1e-12, device=device)
        return state

    def read(self, state: State, moment: str, part: slice) -> Tensor:
        codes, scales = self._tensors_of(state, moment, part)
        values: Tensor = self._torchao.dequant_with_qmap(codes, self._map(moment, codes.device), scales)
        return values

    def write(self, state: State, moment: str, part: slice, values: Tensor) -> None:
        codes, scales = self._tensors_of(state, moment, part)
        scaled, new_scales = self._torchao.scale_tensor(values, BLOCK)
        codes.copy_(self._torchao.quantize_8bit_with_qmap(scaled, self._map(moment, codes.device)))
        scales.copy_(new_scales)

    def _tensors_of(self, state: State, moment: str, part: slice) -> tuple[Tensor, Tensor]:
        start, stop, _ = part.indices(state[f"{moment}_codes"].numel())
        scales = state[f"{moment}_scales"][start // BLOCK : stop // BLOCK]
        return state[f"{moment}_codes"].view(-1)[start:stop], scales

    def _map(self, moment: str, device: torch.device) -> Tensor:
        if (moment, device) not in self._tensors:
            self._tensors[moment, device] = torch.tensor(self._maps[moment], device=device)
        return self._tensors[moment, device]


def round_at_random(values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """fp32 to bf16, up or down with the probabilities that make the mean right.

    bf16 is the upper half of fp32: a random number added to the lower half carries into the upper one as often as it
    should. For finite values below the largest bf16 number.
    """
    bits = values.view(torch.int32)
    noise = torch.randint(0, 1 << 16, values.shape, generator=generator, dtype=torch.int32, device=values.device)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).bfloat16()
