"""Gradients that are never there all at once: the backward pass is taken twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

import torch
import torch._functorch.config as functorch_config
import torch._inductor.config as inductor_config
from torch import Tensor, nn

from bigrun.strategy import Agreement, Strategy, clip_factor

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["PORTION_BYTES", "TwoPasses", "keep_buffers"]

PORTION_BYTES = 64 * 2**20
"""Gradients that wait for one update. An update looks at every parameter, so one for each gradient would take 10^6
looks a step where there are 1000 parameters."""


class TwoPasses(Strategy):
    """Measures every gradient in a first backward pass and lets it go. In a second one, which is the optimizer's step,
    each gradient is clipped by what was measured and its parameter is updated before the next ones are there.

    In between lies all that decides about a step: the norms of whole modules, whether every number is finite, what
    plugins say to it. Both passes give the same gradients, so the update is the usual one, bit for bit where kernels
    repeat themselves. (In one pass, as in arXiv 2306.09782, none of this would be known.) A parameter may be changed as
    soon as its gradient is complete: every operation that reads it has been differentiated by then.
    """

    def __init__(self, run: Run) -> None:
        self.inner = run.strategy
        self.is_updating = False
        """Whether the second pass is under way."""
        self._run = run
        self._optimizer = run.optimizer
        self._loss: Tensor | None = None
        self._norms: dict[Tensor, Tensor] = {}
        self._factors: dict[Tensor, Tensor] = {}
        self._waiting: list[Tensor] = []
        parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
        self._handles: list[Any] = [listen(parameter, self._arrived) for parameter in parameters]
        self._handles.append(run.optimizer.register_step_pre_hook(self._step))

    def remove(self) -> Strategy:
        """Leave parameters and optimizer as they were found; returns the strategy that was wrapped."""
        for handle in self._handles:
            handle.remove()
        self.release()
        return self.inner

    def release(self) -> None:
        """Let go of a graph whose step was left out."""
        self._loss = None
        self._norms, self._factors, self._waiting = {}, {}, []

    # -- the strategy -----------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.inner.device

    @property
    def rank(self) -> int:  # type: ignore[override]
        return self.inner.rank

    @property
    def world_size(self) -> int:  # type: ignore[override]
        return self.inner.world_size

    def place(self, module: nn.Module) -> nn.Module:
        return self.inner.place(module)

    def precision(self) -> AbstractContextManager[None]:
        return self.inner.precision()

    def micro_batch(self, *, synchronize: bool) -> AbstractContextManager[None]:
        return self.inner.micro_batch(synchronize=synchronize)

    def differentiate(self, call: Callable[[], Tensor]) -> Tensor:
        return self.inner.differentiate(call)

    def agree(self, finite: Sequence[Tensor], *, stop: bool, failed: int) -> Agreement:
        return self.inner.agree(finite, stop=stop, failed=failed)

    def backward(self, loss: Tensor, *, keep_graph: bool = False) -> None:
        """The first pass."""
        self.release()
        self.inner.backward(loss, keep_graph=True)
        self._loss = loss

    def clip_gradients(self, modules: Mapping[str, nn.Module], max_norm: float | None) -> dict[str, Tensor]:
        """Norms of the gradients that were measured; they are scaled when they come again."""
        return {name: self._clip(module, max_norm) for name, module in modules.items()}

    def _clip(self, module: nn.Module, max_norm: float | None) -> Tensor:
        measured = [parameter for parameter in module.parameters() if parameter in self._norms]
        if not measured:
            return torch.zeros((), device=self.device)
        norm: Tensor = torch.linalg.vector_norm(torch.stack([self._norms[parameter] for parameter in measured]))
        if max_norm is not None:
            self._factors.update(dict.fromkeys(measured, clip_factor(norm, max_norm)))
        return norm.float()

    # -- what happens to a gradient ---------------------------------------------------------------------------

    def _step(self, *_: Any) -> None:
        """Before the optimizer's step: the second pass, within which it steps for a portion at a time, and which leaves
        it nothing to do. Until its first update the state is that before the step."""
        if self._loss is None:
            return
        loss, self._loss = self._loss, None
        self.is_updating, self._run.is_updating = True, False
        try:
            self.inner.backward(loss)
            self._update()
        finally:
            self.is_updating = False
            self.release()

    def _arrived(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        if not self.is_updating:
            self._norms[parameter] = torch._foreach_norm([parameter.grad])[0]  # as torch's clipping does
            parameter.grad = None
            return
        if parameter in self._factors:
            parameter.grad.mul_(self._factors[parameter])
        self._waiting.append(parameter)
        if sum(waiting.nbytes for waiting in self._waiting) >= PORTION_BYTES:
            self._update()

    def _update(self) -> None:
        self._run.is_updating = True
        self._optimizer.step()
        for parameter in self._waiting:
            parameter.grad = None
        self._waiting.clear()


def listen(parameter: nn.Parameter, hear: Callable[[Tensor], None]) -> Any:
    """When a gradient has come; torch refuses that of a parameter that does not learn, but keeps it when one is told to
    stop, and to go on."""
    learns = parameter.requires_grad
    handle = parameter.requires_grad_(True).register_post_accumulate_grad_hook(hear)  # type: ignore[no-untyped-call]
    parameter.requires_grad_(learns)
    return handle


def keep_buffers() -> Callable[[], None]:
    """Have what torch.compile makes from here on allow a second backward pass: by default it writes over what it saved.
    Returns what undoes it.

    Without inductor's cache on the disk, which does not ask how its entries were compiled: one of an earlier run would
    write over what the second pass needs, and nobody would say so (torch 2.13).
    """
    stack = ExitStack()
    options: Any = functorch_config, inductor_config
    stack.enter_context(options[0].patch(donated_buffer=False))
    stack.enter_context(options[1].patch(fx_graph_cache=False))
    return stack.close
