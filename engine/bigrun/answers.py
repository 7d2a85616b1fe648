"""What plugins may answer, checked where they answer: a wrong answer is the failure of the plugin that gave it.

An objective answers the loop as a plugin answers a hook, and is checked alike (`ask`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bigrun.anomaly import Action
from bigrun.errors import BigrunError, PluginError, UsageError

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["CHECKS", "Check", "ask", "check_answer", "merged"]

Check = tuple[str, Callable[[Any], bool]]
"""In words what a hook is to be answered with, and whether an answer is that."""

GROUP_KEYS = ("params", "lr_factor", "weight_decay_factor", "last_layer")


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


def check_answer(hook: str, answer: Any, checks: Mapping[str, Check]) -> None:
    """Raises: TypeError when a plugin's answer to a hook is not what the hook's specification says."""
    if answer is not None and hook in checks:
        expected, is_right = checks[hook]
        if not is_right(answer):
            raise TypeError(f"expected {expected}, got {describe(answer)}")


def ask(run: Run, method: str, *arguments: Any) -> Any:
    """What a method of the run's objective answers; for `forward` the objective is called, as torch's modules are.

    Raises:
        PluginError: it raised, or its answer is not what `Objective` says, and a plugin has built it. The engine's
            own objective keeps its traceback.
    """
    plugin, where = run.plugins.builders.get("build_objective"), f"{type(run.objective).__name__}.{method}"
    try:
        answer = (run.objective if method == "forward" else getattr(run.objective, method))(*arguments)
    except BigrunError:
        raise
    except Exception as error:
        if plugin is None:
            raise
        raise PluginError(plugin, where, run.plugins.step, error) from error
    problem = OBJECTIVE_CHECKS[method](run.objective, answer) if method in OBJECTIVE_CHECKS else None
    if problem is None:
        return answer
    if plugin is None:
        raise TypeError(f"{where}: {problem}")
    raise PluginError(plugin, where, run.plugins.step, TypeError(problem))


def describe(answer: Any) -> str:
    if isinstance(answer, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(value)}" for key, value in answer.items()) + "}"
    shape = getattr(answer, "shape", None)
    return type(answer).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")


# -- hooks ----------------------------------------------------------------------------------------------------


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


def is_choices(answer: Any) -> bool:
    return is_named(answer, lambda c: isinstance(c, tuple) and len(c) == 2 and isinstance(c[1], str))


def is_measured(answer: Any) -> bool:
    return is_named(answer, lambda v: isinstance(v, int | float) and not isinstance(v, bool))


CHECKS: Mapping[str, Check] = {
    "header_lines": ("a list of strings", is_lines),
    "build_objective": ("an Objective", is_objective),
    "build_optimizer": ("a torch.optim.Optimizer", is_optimizer),
    "hardware_defaults": ("a mapping of options to (value, why)", is_choices),
    "loss_terms": ("a mapping of names to tensors of shape ()", is_terms),
    "frozen_modules": ("a mapping of names to modules", is_modules),
    "extra_views": ("a mapping of names to ExtraView", is_views),
    "measurements": ("a mapping of names to numbers", is_measured),
    "on_anomaly": ("an Action", lambda answer: isinstance(answer, Action)),
}


# -- the objective: what is wrong with an answer, or None --------------------------------------------------------


def outputs_problem(objective: Any, answer: Any) -> str | None:
    from bigrun.model.vit import Features
    from bigrun.objective.base import Outputs

    if not isinstance(answer, Outputs):
        return f"expected Outputs, got {describe(answer)}"
    near: Any = answer.global_features
    far: Any = answer.local_features
    if not isinstance(near, Features):
        return f"expected Features of the global crops in Outputs, got {describe(near)}"
    if not isinstance(far, Features | None):
        return f"expected Features of the local crops in Outputs, or None, got {describe(far)}"
    return None


def loss_problem(objective: Any, answer: Any) -> str | None:
    if not answer or not is_terms(answer):
        return f"expected a mapping of one or more names to tensors of shape (), got {describe(answer)}"
    if not any(term.requires_grad for term in answer.values()):
        return f"none of the terms has a gradient: {', '.join(answer)}"
    return None


def statistics_problem(objective: Any, answer: Any) -> str | None:
    import torch

    if is_named(answer, lambda value: isinstance(value, torch.Tensor) and value.numel() == 1):
        return None
    return f"expected a mapping of names to tensors of one element, got {describe(answer)}"


def groups_problem(objective: Any, answer: Any) -> str | None:
    """A parameter that the optimizer and the checkpoint do not both know would be lost at a resume."""
    if not isinstance(answer, list) or not all(isinstance(g, dict) and g.keys() >= set(GROUP_KEYS) for g in answer):
        return f"expected a list of groups, each with {', '.join(GROUP_KEYS)}, got {describe(answer)}"
    names = {parameter: name for name, parameter in objective.named_parameters()}
    grouped = [parameter for group in answer for parameter in group["params"]]
    if len(set(grouped)) < len(grouped):
        return "a parameter is in two groups, or twice in one"
    if not set(grouped) <= names.keys():
        return "a group has a parameter that belongs to no child module of the objective: no checkpoint would hold it"
    forgotten = [name for parameter, name in names.items() if parameter.requires_grad and parameter not in set(grouped)]
    if forgotten:
        return f"in no group, but not frozen with requires_grad_(False): {', '.join(forgotten)}"
    return None


OBJECTIVE_CHECKS: Mapping[str, Callable[[Any, Any], str | None]] = {
    "forward": outputs_problem,
    "loss_terms": loss_problem,
    "statistics": statistics_problem,
    "parameter_groups": groups_problem,
}
