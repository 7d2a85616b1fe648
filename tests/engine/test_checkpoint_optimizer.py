"""Optimizer state by name, and strict loading: a resumed optimizer takes the same steps to the bit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from bigrun.checkpoint.optimizer_state import flatten, restore
from bigrun.checkpoint.strict import load_strict
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim import Optimizer

OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2),
    "adamw fused": lambda groups: torch.optim.AdamW(groups, lr=1e-2, fused=True),
    "adamw foreach": lambda groups: torch.optim.AdamW(groups, lr=1e-2, foreach=True, amsgrad=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-2),
    "sgd momentum": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9, nesterov=True),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=1e-2),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-2, centered=True),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=1e-2),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=1e-2),
}


class Net(nn.Module):
    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.second = nn.Linear(width, 3)
        self.unused = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x).tanh())
        return result


def build(kind: str, net: Net) -> Optimizer:
    """Two groups, in another order than the module's."""
    weights = [p for p in net.parameters() if p.ndim == 2]
    others = [p for p in net.parameters() if p.ndim == 1]
    return OPTIMIZERS[kind]([{"params": others, "weight_decay": 0.0}, {"params": weights, "weight_decay": 0.1}])


def names_of(net: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in net.named_parameters()}


def train(net: Net, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def trained(kind: str = "adamw", steps: int = 3) -> tuple[Net, Optimizer]:
    torch.manual_seed(0)
    net = Net()
    optimizer = build(kind, net)
    train(net, optimizer, range(steps))
    return net, optimizer


def saved(net: Net, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As they come back from a checkpoint: tensors apart, facts through JSON."""
    tensors, facts = flatten(optimizer, names_of(net))
    return {key: tensor.clone() for key, tensor in tensors.items()}, json.loads(json.dumps(facts))


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_restored_optimizer_goes_on_to_the_bit(kind: str, steps: int) -> None:
    net, optimizer = trained(kind, steps)
    tensors, facts = saved(net, optimizer)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    train(net, optimizer, range(steps, 6))

    torch.manual_seed(99)
    resumed = Net()
    load_strict(resumed, weights, "model")
    other = build(kind, resumed)
    restore(other, names_of(resumed), tensors, facts)
    train(resumed, other, range(steps, 6))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in resumed.state_dict().items())
    assert flatten(other, names_of(resumed))[1] == flatten(optimizer, names_of(net))[1]


def test_restoring_into_a_used_optimizer_replaces_its_state() -> None:
    net, optimizer = trained()
    tensors, facts = saved(net, optimizer)
    train(net, optimizer, range(3, 5))
    restore(optimizer, names_of(net), tensors, facts)
    again, _ = flatten(optimizer, names_of(net))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_state_is_copied_not_shared() -> None:
    net, optimizer = trained()
    tensors, facts = saved(net, optimizer)
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    restore(optimizer, names_of(net), tensors, facts)
    train(net, optimizer, range(3, 5))
    assert all(torch.equal(before[key], tensors[key]) for key in tensors)


def test_state_keeps_its_own_dtype() -> None:
    net, optimizer = trained("sgd momentum")
    tensors, facts = saved(net, optimizer)
    wide = {key: tensor.double() for key, tensor in tensors.items()}
    restore(optimizer, names_of(net), wide, facts)
    assert all(tensor.dtype == torch.float64 for tensor in flatten(optimizer, names_of(net))[0].values())


def test_hyperparameters_and_grouping_are_the_new_runs() -> None:
    net, optimizer = trained()
    tensors, facts = saved(net, optimizer)
    other = torch.optim.AdamW(net.parameters(), lr=0.5)
    restore(other, names_of(net), tensors, facts)
    assert other.param_groups[0]["lr"] == 0.5
    assert torch.equal(other.state[net.first.weight]["exp_avg"], optimizer.state[net.first.weight]["exp_avg"])


def test_plain_values_and_names_with_slashes_round_trip() -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    names = {a: "part", b: "part/exp"}
    optimizer = torch.optim.SGD([a, b], lr=0.1)
    optimizer.state[a] = {"count": 3, "rate": 0.1, "best": None, "exp": torch.tensor([1.0, 2.0])}
    optimizer.state[b] = {"avg": torch.tensor([3.0, 4.0])}
    tensors, facts = flatten(optimizer, names)
    other = torch.optim.SGD([a, b], lr=0.1)
    restore(other, names, tensors, json.loads(json.dumps(facts)))
    assert {key: value for key, value in other.state[a].items() if key != "exp"} == {
        "count": 3,
        "rate": 0.1,
        "best": None,
    }
    assert other.state[a]["exp"].tolist() == [1.0, 2.0]
    assert other.state[b]["avg"].tolist() == [3.0, 4.0]


def refused(net: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """The message of a restore that must be refused, and must change nothing."""
    before = {key: tensor.clone() for key, tensor in flatten(optimizer, names_of(net))[0].items()}
    with pytest.raises(CheckpointError) as caught:
        restore(optimizer, names_of(net), tensors, facts)
    after, _ = flatten(optimizer, names_of(net))
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in after)
    return str(caught.value)


def test_missing_unknown_and_misshapen_tensors_are_all_named() -> None:
    net, optimizer = trained()
    tensors, facts = saved(net, optimizer)
    del tensors["first.weight/exp_avg"]
    tensors["third.weight/exp_avg"] = torch.zeros(1)
    tensors["second.bias/exp_avg_sq"] = torch.zeros(7)
    message = refused(net, optimizer, tensors, facts)
    assert "missing (1): first.weight/exp_avg" in message
    assert "unknown (1): third.weight/exp_avg" in message
    assert "wrong (1): second.bias/exp_avg_sq has shape (7,), expected (3,)" in message


def test_missing_unknown_and_misshapen_parameters_are_all_named() -> None:
    net, optimizer = trained()
    tensors, facts = saved(net, optimizer)
    facts["parameters"]["old"] = facts["parameters"].pop("unused")
    facts["parameters"]["first.weight"]["shape"] = [6, 4]
    message = refused(net, optimizer, tensors, facts)
    assert "missing (1): unused" in message
    assert "unknown (1): old" in message
    assert "wrong (1): first.weight has shape (6, 4), expected (5, 4)" in message


def test_the_state_of_another_optimizer_is_refused() -> None:
    net, optimizer = trained("sgd momentum")
    message = refused(net, build("adamw", net), *saved(net, optimizer))
    assert "class: saved from SGD, expected AdamW" in message


@pytest.mark.parametrize("facts", [{}, {"class": "AdamW"}, {"class": "AdamW", "parameters": {"first.weight": {}}}])
def test_facts_of_another_kind_are_refused(facts: dict[str, Any]) -> None:
    net, optimizer = trained()
    assert "no optimizer state" in refused(net, optimizer, {}, facts)


def test_every_parameter_needs_a_name_of_its_own() -> None:
    net, optimizer = trained()
    names = names_of(net)
    with pytest.raises(CheckpointError, match="needs a name of its own, got 'twice'"):
        flatten(optimizer, dict.fromkeys(names, "twice"))
    del names[net.unused]
    with pytest.raises(CheckpointError, match=r"shape \(2,\) needs a name of its own, got None"):
        flatten(optimizer, names)


def test_state_of_another_form_is_refused_by_name() -> None:
    net, optimizer = trained()
    optimizer.state[net.first.weight]["history"] = [torch.zeros(1)]
    with pytest.raises(CheckpointError, match=r"'history' of first\.weight cannot be saved.*got list"):
        flatten(optimizer, names_of(net))


def test_load_strict_loads_parameters_and_buffers() -> None:
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    source(torch.randn(8, 3))
    load_strict(target, source.state_dict(), "model")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_load_strict_names_every_key_that_does_not_fit_and_changes_nothing() -> None:
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    tensors = {name: value + 1 for name, value in before.items()}
    del tensors["first.bias"], tensors["unused"]
    tensors |= {"third.bias": torch.zeros(1), "second.weight": torch.zeros(3, 6)}
    with pytest.raises(CheckpointError) as caught:
        load_strict(net, tensors, "step-00000012/model.safetensors")
    assert str(caught.value).splitlines() == [
        "step-00000012/model.safetensors: does not fit Net",
        "  missing (2): first.bias, unused",
        "  unknown (1): third.bias",
        "  wrong (1): second.weight has shape (3, 6), expected (3, 5)",
    ]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_long_lists_of_names_are_shortened() -> None:
    with pytest.raises(CheckpointError, match=r"unknown \(50\): key00, .*key19, and 30 more$"):
        load_strict(nn.Identity(), {f"key{i:02d}": torch.zeros(1) for i in range(50)}, "model")
