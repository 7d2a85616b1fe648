"""An optimizer's state by parameter name instead of by position, as tensors and JSON facts.

    tensors:  "blocks.0.mlp.fc1.weight/exp_avg" -> tensor
    facts:    {"class": "AdamW",
               "parameters": {"blocks.0.mlp.fc1.weight": {"shape": [4096, 1024],
                                                          "tensors": {"exp_avg": [4096, 1024], "step": []},
                                                          "values": {}}}}

Hyperparameters (learning rate, betas, weight decay) are not state: config and schedules own them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from bigrun.checkpoint.group import TensorGroup
from bigrun.checkpoint.staging import count_bytes
from bigrun.checkpoint.strict import list_misfits
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.nn import Parameter

__all__ = ["expected_state_bytes", "flatten", "restore"]

SEPARATOR = "/"  # between a parameter's name and the state's key; a key never holds it, a name may
MOMENTS = 2
"""Tensors of a parameter's size and type that AdamW keeps."""


def expected_state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What an optimizer's states take when all parameters learn: as it says itself if it has a method
    `state_bytes() -> int`, else of each parameter its state, or two moments where it has none yet."""
    if hasattr(optimizer, "state_bytes"):
        return int(optimizer.state_bytes())
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = {parameter: optimizer.state.get(parameter) for parameter in parameters}
    found = [tensor for state in states.values() if state for tensor in state.values() if isinstance(tensor, Tensor)]
    return count_bytes(found) + MOMENTS * count_bytes(parameter for parameter, state in states.items() if not state)


@attrs.frozen
class SavedState:
    """What the facts say of one parameter: its shape, its state's tensors' shapes, plain values."""

    shape: list[int]
    tensors: dict[str, list[int]]
    values: dict[str, Any]


def flatten(
    optimizer: torch.optim.Optimizer, names: Mapping[Parameter, str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of every parameter of the optimizer: (tensors, facts).

    The tensors are the optimizer's own, not copies. A parameter that never had a gradient has an entry
    without state. Any `torch.optim.Optimizer` whose state holds tensors and plain values per parameter will
    do; LBFGS, which holds lists of tensors, will not.

    Args:
        optimizer: of any class.
        names: a unique name for each of its parameters.

    Raises:
        CheckpointError: a parameter has no name of its own, or the state holds something else than tensors
            and plain values.
    """
    tensors: dict[str, Tensor] = {}
    parameters: dict[str, Any] = {}
    for name, parameter in named_parameters(optimizer, names).items():
        shapes: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and SEPARATOR not in key:
                tensors[join(name, key)] = value
                shapes[key] = list(value.shape)
            elif value is None or isinstance(value, bool | int | float | str):
                values[key] = value
            else:
                raise CheckpointError(
                    f"optimizer state '{key}' of {name} cannot be saved: expected a tensor or a plain value, "
                    f"and no '{SEPARATOR}' in its key, got {type(value).__name__}"
                )
        parameters[name] = {"shape": list(parameter.shape), "tensors": shapes, "values": values}
    return tensors, {"class": type(optimizer).__name__, "parameters": parameters}


def restore(
    optimizer: torch.optim.Optimizer,
    names: Mapping[Parameter, str],
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Replace the optimizer's state by what `flatten` gave; tensors are copied, their dtype is kept.

    Devices are the optimizer's choice (AdamW keeps `step` on the CPU unless it is fused or capturable): its
    `load_state_dict` is called, but of tensors of a parameter's shape it sees zeros, which take no memory. The
    hyperparameters of its groups stay as they are, and so may the grouping differ from the saved one.

    Args:
        optimizer: of the class that was saved, over parameters of the same names and shapes.
        names: a unique name for each of its parameters.
        tensors, facts: what was saved.

    Raises:
        CheckpointError: naming every parameter and tensor that is missing, unknown or of another shape. The
            optimizer is untouched.
    """
    parameters = named_parameters(optimizer, names)
    saved_class, saved = parse_facts(facts)
    group = TensorGroup.of(tensors)
    misfits = find_misfits(parameters, saved, group)
    if saved_class != type(optimizer).__name__:
        misfits.insert(
            0,
            f"  class: saved from {saved_class}, expected {type(optimizer).__name__}: go on with the plugin that "
            "built it, whose documentation says how to leave it",
        )
    if misfits:
        raise CheckpointError("\n".join(["the saved optimizer state does not fit the optimizer", *misfits]))
    packed = {
        index: {key: placeholder(group, join(name, key), parameter) for key in saved[name].tensors} | saved[name].values
        for index, (name, parameter) in enumerate(parameters.items())
        if saved[name].tensors or saved[name].values
    }
    optimizer.load_state_dict({"state": packed, "param_groups": optimizer.state_dict()["param_groups"]})
    for name, parameter in parameters.items():
        loaded = optimizer.state[parameter] if saved[name].tensors else {}
        for key in saved[name].tensors:
            # load_state_dict has chosen the device, but it also casts to the parameter's dtype.
            loaded[key] = fitted(group, join(name, key), parameter).to(loaded[key].device, copy=True)


def placeholder(group: TensorGroup, name: str, parameter: Parameter) -> Tensor:
    """What `load_state_dict` gets to choose a device for: of a tensor of the parameter's shape one number, so that all
    tensors are not there twice while it is called; it has nothing to cast or to move of it."""
    if is_like(group, name, parameter):
        return torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand(parameter.shape)
    return group[name]


def fitted(group: TensorGroup, name: str, parameter: Parameter) -> Tensor:
    """Of a tensor with a sharded parameter's shape, this process's rows."""
    return group.like(name, parameter) if is_like(group, name, parameter) else group[name]


def is_like(group: TensorGroup, name: str, parameter: Parameter) -> bool:
    return parameter.ndim > 0 and group.shape(name) == tuple(parameter.shape)


def named_parameters(optimizer: torch.optim.Optimizer, names: Mapping[Parameter, str]) -> dict[str, Parameter]:
    """name -> parameter in the order of the optimizer's groups, which is that of its own `state_dict()`."""
    parameters: dict[str, Parameter] = {}
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        name = names.get(parameter)
        if name is None or name in parameters:
            shape = tuple(parameter.shape)
            raise CheckpointError(f"optimizer parameter of shape {shape} needs a name of its own, got {name!r}")
        parameters[name] = parameter
    return parameters


def parse_facts(facts: Mapping[str, Any]) -> tuple[str, dict[str, SavedState]]:
    """The optimizer's class and the saved state by parameter name."""
    try:
        return facts["class"], {name: SavedState(**entry) for name, entry in facts["parameters"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the saved facts are no optimizer state: {error!r}") from error


def find_misfits(
    parameters: Mapping[str, Parameter],
    saved: Mapping[str, SavedState],
    group: TensorGroup,
) -> list[str]:
    """One line for each way in which the saved state does not fit, as `list_misfits` writes them."""
    wrong = [
        f"{name} has shape {tuple(entry.shape)}, expected {tuple(parameters[name].shape)}"
        for name, entry in saved.items()
        if name in parameters and entry.shape != list(parameters[name].shape)
    ]
    lines = list_misfits(parameters.keys(), saved.keys(), wrong)
    shapes = {join(name, key): shape for name, entry in saved.items() for key, shape in entry.tensors.items()}
    wrong = [
        f"{key} has shape {group.shape(key)}, expected {tuple(shape)}"
        for key, shape in shapes.items()
        if key in group and list(group.shape(key)) != shape
    ]
    return lines + list_misfits(shapes.keys(), group.keys(), wrong)


def join(name: str, key: str) -> str:
    return f"{name}{SEPARATOR}{key}"
