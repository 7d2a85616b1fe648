"""Linear layers in fp8 by torchao: scales of whole tensors, products on the tensor cores of sm_89 and later."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bigrun.devices import Setting
from bigrun.imports import failure_text, import_quietly

if TYPE_CHECKING:
    from torch import nn

    from bigrun.config import Config
    from bigrun.devices import DeviceFacts

__all__ = ["convert", "float8_refusal", "float8_row", "torchao_problem"]

NAME = "fp8 linear layers"
MULTIPLE = 16
FIRST = (8, 9)
REMEDY = "set plugins.cuda-tuning.fp8 = false"


def torchao_problem() -> str | None:
    """Why torchao's fp8 training cannot be used; importing it is the only way to know."""
    try:
        import_quietly("torchao.float8")
    except Exception as error:  # whatever a package that was built for another torch raises
        if isinstance(error, ModuleNotFoundError) and error.name == "torchao":
            return "torchao is not installed: pip install 'bigrun[fp8]'"
        return f"torchao cannot be imported: {failure_text(error)}"
    return None


def float8_refusal(facts: DeviceFacts, config: Config, torchao: str | None) -> str | None:
    """Why this GPU, this network or this installation cannot train in fp8, and what to do.

    Args:
        torchao: what `torchao_problem` says.
    """
    asked = "plugins.cuda-tuning.fp8 = true, but "
    if (facts.capability or (0, 0)) < FIRST:
        return f"{asked}{facts.arch} multiplies no matrices in fp8 (sm_89 and later do): {REMEDY}"
    if config.hardware.precision != "bf16":
        return f"{asked}hardware.precision is '{config.hardware.precision}', and fp8 needs 'bf16': {REMEDY}"
    for name in ("width", "ffn_hidden"):
        if (size := getattr(config.model, name)) % MULTIPLE:
            return f"{asked}model.{name} = {size} is no multiple of {MULTIPLE}: change it, or {REMEDY}"
    return f"{asked}{torchao}, or {REMEDY}" if torchao else None


def convert(blocks: Iterable[nn.Module], *, emulate: bool = False) -> tuple[int, int]:
    """Let torchao compute the linear layers of blocks; returns how many, and of how many.

    A layer of a class of its own stays: the projection to queries, keys and values with a masked key bias, whose mask
    torchao would drop. Tokens of a step are no multiple of 16, so the inner dimension of a weight's gradient is padded.

    Args:
        emulate: compute the products in fp32 from rounded numbers, for tests without a GPU.
    """
    from torch import nn

    float8: Any = import_quietly("torchao.float8")
    config = float8.Float8LinearConfig.from_recipe_name("tensorwise")
    config = dataclasses.replace(config, pad_inner_dim=True, emulate=emulate)

    def is_plain(module: nn.Module, _: str) -> bool:
        return type(module) is nn.Linear

    converted = total = 0
    for block in blocks:
        total += sum(isinstance(module, nn.Linear) for module in block.modules())
        float8.convert_to_float8_training(block, config=config, module_filter_fn=is_plain)
        converted += sum(isinstance(module, float8.float8_linear.Float8Linear) for module in block.modules())
    return converted, total


def float8_row(converted: int, total: int) -> Setting:
    """Of what was converted."""
    kept = "" if converted == total else "; the others (queries, keys and values with a masked key bias) stay in bf16"
    evidence = f"{converted} of {total} linear layers of blocks are torchao's{kept}"
    return Setting(NAME, "0", str(converted), converted > 0, evidence, is_custom=True)
