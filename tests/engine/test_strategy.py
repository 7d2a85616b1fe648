"""Where and how a step runs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bigrun.devices.choose import choose_device
from bigrun.errors import ExitCode, UsageError
from bigrun.sections import Hardware
from bigrun.strategy import SingleProcess, clip_factor

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")


@NO_GPU
def test_a_gpu_that_is_not_there_is_refused_with_a_way_out() -> None:
    with pytest.raises(UsageError, match=r"torch .* or set hardware\.device = '") as caught:
        choose_device("cuda")
    assert caught.value.exit_code == ExitCode.USAGE
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")


@pytest.mark.gpu
def test_auto_takes_the_gpu() -> None:
    assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_forward_passes_are_in_the_configured_precision(precision: str) -> None:
    strategy = SingleProcess(Hardware(device="cpu", precision=precision))
    layer, expected = nn.Linear(4, 4), {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    with strategy.precision():
        assert layer(torch.ones(1, 4)).dtype == expected
    assert layer.weight.dtype == torch.float32


def test_gradients_of_micro_batches_add_up_and_each_module_is_clipped_alone() -> None:
    strategy = SingleProcess(Hardware(device="cpu", precision="fp32"))
    modules: dict[str, nn.Module] = {"large": nn.Linear(2, 1, bias=False), "small": nn.Linear(2, 1, bias=False)}
    for last in (False, True):
        with strategy.micro_batch(synchronize=last):
            x = torch.tensor([[3.0, 4.0]])
            strategy.backward((modules["large"](x) + 0.1 * modules["small"](x)).sum())
    norms = strategy.clip_gradients(modules, 2.0)
    assert {name: norm.item() for name, norm in norms.items()} == pytest.approx({"large": 10.0, "small": 1.0})
    clipped = {name: next(module.parameters()).grad.norm().item() for name, module in modules.items()}  # type: ignore[union-attr]
    assert clipped == pytest.approx({"large": 2.0, "small": 1.0})


@given(st.floats(0, 1e4, width=32), st.floats(2**-10, 1e3, width=32))
def test_a_strategy_of_its_own_clips_as_torch_does(norm: float, max_norm: float) -> None:
    parameter = nn.Parameter(torch.ones(()))
    parameter.grad = torch.ones(())
    nn.utils.clip_grads_with_norm_([parameter], max_norm, torch.tensor(norm))
    assert clip_factor(torch.tensor(norm), max_norm) == parameter.grad


def test_processes_agree_on_finite_stop_and_failures() -> None:
    strategy = SingleProcess(Hardware(device="cpu"))
    yes, no = torch.tensor(True), torch.tensor(False)
    assert strategy.agree([yes, yes], stop=False, failed=0).healthy
    told = strategy.agree([yes, no], stop=True, failed=5)
    assert (told.healthy, told.stop, told.failed) == (False, True, 5)


def test_a_module_without_storage_stays_where_it_is() -> None:
    strategy = SingleProcess(Hardware(device="cpu"))
    with torch.device("meta"):
        module = nn.Linear(2, 2)
    assert strategy.place(module).weight.is_meta
    assert not strategy.place(nn.Linear(2, 2)).weight.is_meta
