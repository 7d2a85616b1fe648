"""What the tensors of a rehearsed run are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bigrun.model.vit import VisionTransformer
from bigrun.planner.memory import ACTIVATIONS, GRADIENTS, TEACHER, WEIGHTS, frozen_category

if TYPE_CHECKING:
    from bigrun.planner.live_bytes import LiveBytes
    from bigrun.run import Run

__all__ = ["label_frozen", "label_state", "trained"]


def label_state(run: Run, live: LiveBytes) -> None:
    """Say what the tensors are that stay, and have the others say it of themselves."""
    objective = run.objective
    label_module(live, objective, WEIGHTS)
    if objective.teacher is not objective.student:
        label_module(live, objective.teacher, TEACHER)
    label_frozen(run, live)
    for parameter in trained(run):
        label_gradient(live, parameter)
    networks = [objective.student.backbone, objective.teacher.backbone]
    networks += [m for f in run.frozen.values() for m in f.modules() if isinstance(m, VisionTransformer)]
    for network in dict.fromkeys(networks):
        for method in ("forward", "forward_list"):
            if hasattr(network, method):
                setattr(network, method, inside(live, getattr(network, method)))


def label_frozen(run: Run, live: LiveBytes) -> None:
    """Of plugins, as far as they have storage."""
    for name, module in run.frozen.items():
        label_module(live, module, frozen_category(name))


def label_gradient(live: LiveBytes, parameter: nn.Parameter) -> None:
    """As soon as there is one."""

    def label(accumulated: Tensor) -> None:
        if accumulated.grad is not None:
            live.label(accumulated.grad, GRADIENTS)

    parameter.register_post_accumulate_grad_hook(label)  # type: ignore[no-untyped-call]


def label_module(live: LiveBytes, module: nn.Module, category: str) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        if not tensor.is_meta:
            live.label(tensor, category)


def inside(live: LiveBytes, forward: Callable[..., Any]) -> Callable[..., Any]:
    """What is allocated in a backbone's forward pass is activations."""

    def tracked(*args: Any, **kwargs: Any) -> Any:
        with live.during(ACTIVATIONS):
            return forward(*args, **kwargs)

    return tracked


def trained(run: Run) -> list[nn.Parameter]:
    """What the optimizer changes."""
    return [p for group in run.optimizer.param_groups for p in group["params"]]
