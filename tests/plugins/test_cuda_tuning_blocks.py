"""cuda-tuning: blocks that are compiled, and layers in fp8, on a processor: the same numbers, and the same names.

What they gain needs a GPU. fp8 is emulated by torchao, where it is installed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bigrun.ema import ema_update, frozen_copy
from bigrun.model.attention import Attention, attend_by_products
from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model
from bigrun.testing.devices import device
from bigrun.testing.runner import Runner
from bigrun_cuda import blocks, tuning
from bigrun_cuda.blocks import blocks_of, compile_blocks, compile_event, compile_row, raise_recompile_limit
from bigrun_cuda.float8 import convert, float8_row

MODEL = Model(width=64, depth=3, heads=2, ffn_hidden=128, patch_size_px=8, layerscale=0.3, drop_path_fraction=0.3)
NEEDS_TORCHAO = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


def build(mode: str = "none") -> VisionTransformer:
    torch.manual_seed(0)
    network = VisionTransformer(MODEL).train()
    network.checkpoint_activations(mode)  # type: ignore[arg-type]
    return network


def loss_of(network: VisionTransformer, *, bf16: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    crops = [torch.randn(4, 3, 32, 48, generator=generator), torch.randn(6, 3, 16, 16, generator=generator)]
    torch.manual_seed(5)  # drop path and positions
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = network.forward_list(crops, [torch.arange(24).expand(4, -1) < 5, None])
        return torch.stack([f.cls.float().pow(3).mean() + f.patches.float().pow(3).mean() for f in features]).sum()


def gradients(network: VisionTransformer) -> dict[str, Tensor]:
    loss_of(network).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def assert_same_gradients(ours: VisionTransformer, theirs: VisionTransformer, tolerance: float) -> None:
    wanted = gradients(theirs)
    found = gradients(ours)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, atol=tolerance), name


def by_products(groups: Any) -> list[Tensor]:
    """Another kernel of attention, as a plugin may put in place."""
    return [attend_by_products(*qkv) for qkv in groups]


def replace_kernel(network: VisionTransformer) -> None:
    for module in network.modules():
        if isinstance(module, Attention):
            module.kernel = by_products


# -- compiled blocks --------------------------------------------------------------------------------------------------


def test_every_block_is_found_once() -> None:
    network = build()
    teacher = frozen_copy(network)
    found = blocks_of([nn.ModuleList([network, teacher]), network])
    assert found == [*network.blocks, *teacher.blocks]


def test_names_stay_and_a_copy_is_not_compiled() -> None:
    plain, compiled = build(), build()
    compile_blocks(compiled.blocks, backend="eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in compiled.named_parameters()] == [name for name, _ in plain.named_parameters()]
    compiled.load_state_dict(plain.state_dict())
    copy: Any = frozen_copy(compiled).blocks[0]
    assert copy._compiled_call_impl is None


def test_the_row_is_read_back() -> None:
    network = build()
    assert compile_row([*network.blocks], is_custom=True).took_effect is False
    compile_blocks(network.blocks, backend="eager")
    row = compile_row([*network.blocks], is_custom=True)
    assert (row.before, row.after, row.took_effect) == ("0", "3", True)
    assert compile_row([], is_custom=True).took_effect is False


def test_there_is_room_for_a_graph_of_each_size_of_crops() -> None:
    import torch._dynamo.config as dynamo

    before = dynamo.recompile_limit
    raise_recompile_limit(1)()
    undo = raise_recompile_limit(10)
    assert dynamo.recompile_limit == 44
    undo()
    assert dynamo.recompile_limit == before


@pytest.mark.filterwarnings("default")
def test_all_blocks_of_a_network_share_a_graph() -> None:
    """torch.compile without code of its own: what is traced and counted is the same, in a second instead of minutes."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, network = build(), build()
    teacher = frozen_copy(network)
    compile_blocks([*network.blocks, *teacher.blocks], backend="eager")
    assert_same_gradients(network, plain, 1e-5)
    with torch.no_grad():
        teacher(torch.zeros(4, 3, 32, 48))
    loss_of(network).backward()
    assert compile_event() == ("blocks are compiled: 2 graphs, 0 graph breaks", {"graphs": 2, "graph_breaks": 0})


@pytest.mark.filterwarnings("default")
def test_stochastic_depth_makes_three_graphs_at_most() -> None:
    """It keeps one of two numbers of crops, of both sizes by the same draw."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    network = build()
    compile_blocks(network.blocks, backend="eager")
    for draw in (0.0, 0.25, 0.5, 0.75, 0.99):
        network.draw = lambda draw=draw: draw
        loss_of(network).backward()
    assert 1 < compile_event()[1]["graphs"] <= 3


@pytest.mark.filterwarnings("default")
def test_a_run_with_compiled_blocks_says_so(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    facts = device("rtx4090")
    monkeypatch.setattr("bigrun.devices.read.read_facts", lambda *_: facts)
    monkeypatch.setattr(tuning, "what_compiles", lambda _: {"has_triton": True, "has_compiler": True})
    monkeypatch.setattr(tuning, "compile_blocks", lambda found: blocks.compile_blocks(found, backend="eager"))
    plain = bigrunner.run(steps=2)
    result = bigrunner.run("cuda-tuning", config={"compile": True}, steps=2)
    result.assert_finished()
    assert result.losses == pytest.approx(plain.losses, abs=1e-5)
    assert result.parameters.keys() == plain.parameters.keys()
    assert result.run is not None
    (row,) = [row for row in result.run.settings if row.name == "compiled blocks"]
    assert (row.after, row.took_effect, row.is_custom) == ("4", True, True)  # two of the student, two of the teacher
    (event,) = [event for event in result.events if event.kind == "compiled"]
    assert (event.step, event.facts["graph_breaks"]) == (1, 0)
    resumed = bigrunner.resume(result, at_step=1)
    assert resumed.losses == result.losses


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("replaced", [False, True], ids=["own-kernel", "replaced-kernel"])
@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_compiled_blocks_give_the_same_gradients(mode: str, replaced: bool) -> None:
    """With torch's own compiler: C++ on a processor, Triton on a GPU."""
    torch._dynamo.reset()
    plain, compiled = build(), build(mode)
    compile_blocks(compiled.blocks)
    if replaced:  # in whatever order plugins come
        replace_kernel(compiled)
    assert_same_gradients(compiled, plain, 1e-4)


# -- fp8 --------------------------------------------------------------------------------------------------------------


@NEEDS_TORCHAO
@pytest.mark.filterwarnings("default")
def test_plain_linear_layers_are_torchaos_and_names_and_tensors_stay() -> None:
    network = build()
    names, tensors = [n for n, _ in network.named_parameters()], list(network.parameters())
    assert convert(network.blocks, emulate=True) == (9, 12)
    assert [n for n, _ in network.named_parameters()] == names
    assert all(a is b for a, b in zip(network.parameters(), tensors, strict=True))
    assert list(network.state_dict()) == list(build().state_dict())
    qkv: Any = network.blocks[0].attn.qkv
    assert type(qkv).__name__ == "QkvLinear"
    projection: Any = network.blocks[0].attn.proj
    assert projection.config.pad_inner_dim  # a weight's gradient sums over tokens, whose number is no multiple of 16
    ema_update(frozen_copy(network), network, 0.5)


@NEEDS_TORCHAO
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_emulated_fp8_is_near_fp32_for_any_number_of_tokens(mode: str) -> None:
    plain, rounded = build(), build(mode)
    convert(rounded.blocks, emulate=True)
    wanted, found = gradients(plain), gradients(rounded)
    assert found.keys() == wanted.keys()
    unlike = [name for name, g in wanted.items() if (found[name] - g).norm() > 0.25 * g.norm()]
    assert not unlike
    assert any(not torch.equal(found[name], g) for name, g in wanted.items())


@NEEDS_TORCHAO
@pytest.mark.filterwarnings("default")
def test_a_block_in_fp8_is_one_graph() -> None:
    plain, network = build(), build()
    convert([*plain.blocks, *network.blocks], emulate=True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile_blocks(network.blocks, backend="eager")
    assert_same_gradients(network, plain, 1e-5)
    assert compile_event()[1] == {"graphs": 1, "graph_breaks": 0}


def test_the_row_of_fp8_says_what_stays() -> None:
    row = float8_row(9, 12)
    assert (row.after, row.took_effect) == ("9", True)
    assert "9 of 12 linear layers" in row.evidence
    assert "stay in bf16" in row.evidence
    assert "stay in bf16" not in float8_row(12, 12).evidence
    assert float8_row(0, 12).took_effect is False
