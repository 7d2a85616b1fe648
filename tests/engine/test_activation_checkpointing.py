"""Activation checkpointing: less memory, the same numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from bigrun.ema import frozen_copy
from bigrun.model.activation_checkpointing import policy
from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model
from bigrun.testing.runner import Runner

MODEL = Model(
    width=64, depth=3, heads=2, ffn="swiglu", ffn_hidden=128, patch_size_px=8, layerscale=0.3, drop_path_fraction=0.3,
    rope_shift=0.2, rope_jitter_factor=1.2,
)  # fmt: skip
MODES = ["selective", "full"]


def build(mode: str) -> VisionTransformer:
    torch.manual_seed(0)
    network = VisionTransformer(MODEL).train()
    network.checkpoint_activations(mode)
    return network


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 32, 48, generator=generator), torch.randn(6, 3, 16, 16, generator=generator)]


def loss_of(network: VisionTransformer, *, bf16: bool) -> Tensor:
    torch.manual_seed(5)  # drop path and positions
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = network.forward_list(images(), [torch.arange(24).expand(4, -1) < 5, None])
        return torch.stack([f.cls.float().pow(3).mean() + f.patches.float().pow(3).mean() for f in features]).sum()


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_bitwise_those_without_it(mode: str, bf16: bool) -> None:
    plain, saving = build("none"), build(mode)
    losses = [loss_of(network, bf16=bf16) for network in (plain, saving)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for (name, ours), theirs in zip(saving.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name


def test_draws_after_the_backward_pass_are_those_without_it() -> None:
    after = []
    for mode in ("none", *MODES):
        loss_of(build(mode), bf16=False).backward()
        after.append(torch.rand(()))
    assert after[0] == after[1] == after[2]


def held_bytes(mode: str) -> int:
    """What a forward pass leaves allocated for its backward pass."""
    network = build(mode)
    loss_of(network, bf16=True)  # what is made once
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss = loss_of(network, bf16=True)
    assert loss.requires_grad
    return sum(event.self_cpu_memory_usage for event in profile.events())


def test_less_memory_is_held() -> None:
    everything, selective, full = held_bytes("none"), held_bytes("selective"), held_bytes("full")
    assert selective < 0.75 * everything
    assert full < 0.5 * selective


def test_names_and_tensors_stay() -> None:
    plain, saving = build("none"), build("full")
    assert list(plain.state_dict()) == list(saving.state_dict())
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in saving.named_parameters()]


def test_a_copy_computes_again_with_its_own_weights() -> None:
    network = build("full")
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    loss_of(other, bf16=False).backward()
    assert all(p.grad is None for p in network.parameters())
    assert all(p.grad is not None for p in other.parameters())


def test_a_teacher_keeps_nothing_and_computes_once() -> None:
    network = build("full")
    teacher = frozen_copy(network)
    calls: list[str] = []
    for each, name in ((network, "student"), (teacher, "teacher")):
        each.blocks[0].mlp.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        teacher(images()[0])
    network(images()[0]).cls.sum().backward()
    assert calls == ["teacher", "student", "student"]


def test_selective_keeps_matrix_products_and_every_kind_of_attention() -> None:
    aten = torch.ops.aten
    names = [n for n in torch._C._dispatch_get_all_op_names() if "scaled_dot_product" in n and "backward" not in n]
    kinds = {n.split("::")[1].split(".")[0] for n in names if n.startswith("aten::_scaled_dot_product")}
    assert {
        "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_flash_attention_for_cpu",
    } <= kinds  # fmt: skip
    for kind in kinds - {"_scaled_dot_product_attention_math", "_scaled_dot_product_attention_math_for_mps"}:
        assert policy(None, getattr(aten, kind).default).name == "MUST_SAVE"
    for product in (aten.mm, aten.addmm, aten.bmm):
        assert policy(None, product.default).name == "MUST_SAVE"
    for cheap in (aten.gelu, aten.native_layer_norm, aten.mul, aten.index_select, aten.randperm):
        assert policy(None, getattr(cheap, cheap.overloads()[0])).name == "PREFER_RECOMPUTE"


@pytest.mark.parametrize("mode", MODES)
def test_a_run_with_it_is_the_run_without(bigrunner: Runner, mode: str) -> None:
    plain = bigrunner.run(accumulate=2, model={"drop_path_fraction": 0.5})
    saving = bigrunner.run(accumulate=2, model={"drop_path_fraction": 0.5}, hardware={"activation_checkpointing": mode})
    saving.assert_finished()
    assert saving.losses == plain.losses
    assert saving.parameters.keys() == plain.parameters.keys()
    for name, tensor in saving.parameters.items():
        assert torch.equal(tensor, plain.parameters[name]), name
    objective = saving.run.objective
    assert {block.activation_checkpointing for block in objective.student.backbone.blocks} == {mode}
    assert {block.activation_checkpointing for block in objective.teacher.backbone.blocks} == {"none"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("mode", ["none", *MODES])
def test_compiled_blocks_give_the_same_gradients(mode: str) -> None:
    """Checkpointing is inside the block, so `block.compile()` compiles it too; the whole block is one graph."""
    plain, compiled = build("none"), build(mode)
    for block in compiled.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    for network in (plain, compiled):
        loss_of(network, bf16=False).backward()
    for (name, ours), theirs in zip(compiled.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6), name
