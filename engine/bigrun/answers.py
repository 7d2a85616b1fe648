"""What plugins may answer, checked where they answer: a wrong answer is the failure of the plugin that gave it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bigrun.anomaly import Action
from bigrun.errors import UsageError

__all__ = ["check_answer", "merged"]


def merged(answers: list[Mapping[str, Any]], what: str) -> dict[str, Any]:
    """All contributions in one mapping.

    Raises:
        UsageError: two have the same name; neither may silently replace the other.
    """
    everything: dict[str, Any] = {}
    for answer in answers:
        for name, value in answer.items():
            if name in everything:
                raise UsageError(
                    f"the {what} {name!r} comes twice: rename one, or switch a plugin off with --no-plugin"
                )
            everything[name] = value
    return everything


def check_answer(hook: str, answer: Any) -> None:
    """Raises: TypeError when a plugin's answer to a hook is not what the hook's specification says."""
    if answer is not None and hook in CHECKS:
        expected, is_right = CHECKS[hook]
        if not is_right(answer):
            raise TypeError(f"expected {expected}, got {describe(answer)}")


def describe(answer: Any) -> str:
    if isinstance(answer, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(value)}" for key, value in answer.items()) + "}"
    shape = getattr(answer, "shape", None)
    return type(answer).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")


def is_lines(answer: Any) -> bool:
    return isinstance(answer, list | tuple) and all(isinstance(line, str) for line in answer)


def is_terms(answer: Any) -> bool:
    import torch

    return is_named(answer, lambda term: isinstance(term, torch.Tensor) and term.ndim == 0)


def is_modules(answer: Any) -> bool:
    import torch

    return is_named(answer, lambda module: isinstance(module, torch.nn.Module))


def is_objective(answer: Any) -> bool:
    from bigrun.objective.base import Objective

    return isinstance(answer, Objective)


def is_optimizer(answer: Any) -> bool:
    import torch

    return isinstance(answer, torch.optim.Optimizer)


def is_views(answer: Any) -> bool:
    from bigrun.data.views import ExtraView

    return is_named(answer, lambda view: isinstance(view, ExtraView))


def is_named(answer: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(answer, Mapping) and all(isinstance(k, str) and is_right(v) for k, v in answer.items())


CHECKS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "header_lines": ("a list of strings", is_lines),
    "build_objective": ("an Objective", is_objective),
    "build_optimizer": ("a torch.optim.Optimizer", is_optimizer),
    "loss_terms": ("a mapping of names to tensors of shape ()", is_terms),
    "frozen_modules": ("a mapping of names to modules", is_modules),
    "extra_views": ("a mapping of names to ExtraView", is_views),
    "on_anomaly": ("an Action", lambda answer: isinstance(answer, Action)),
}
