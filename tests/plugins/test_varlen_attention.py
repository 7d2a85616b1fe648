"""varlen-attention: packing, what torch's kernel needs, and runs with it.

No kernel for sequences of several lengths exists on a CPU. Here the lowest operator of flash attention has a form for
the CPU, written from its formula; all above it, `varlen_attn`, its gradient and its compiled form, is torch's own.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from bigrun import hookimpl
from bigrun.devices import DeviceFacts
from bigrun.ema import frozen_copy
from bigrun.errors import ExitCode, UsageError
from bigrun.model.activation_checkpointing import policy
from bigrun.model.attention import Attention, attend_by_group
from bigrun.model.groups import Group, Qkv
from bigrun.model.vit import VisionTransformer
from bigrun.run import Run
from bigrun.sections import Model
from bigrun.testing.contract import PluginContract
from bigrun.testing.devices import device
from bigrun.testing.runner import Runner
from bigrun_attention.kernel import PackedAttention
from bigrun_attention.needs import Work, varlen_obstacle
from bigrun_attention.packing import groups_of, lengths_of, pack, starts_of, unpack
from bigrun_attention.proof import TOLERANCES, largest_error
from bigrun_attention.varlen import build_varlen

CPU = torch.device("cpu")


class TestContract(PluginContract):
    plugin = "varlen-attention"
    config: ClassVar[dict[str, Any]] = {"otherwise": "default"}


# -- a kernel of flash attention for the CPU --------------------------------------------------------------------------


def sequences(starts: Tensor) -> list[slice]:
    places = starts.tolist()
    return [slice(a, b) for a, b in itertools.pairwise(places)]


def weights_of(q: Tensor, k: Tensor, at: slice) -> Tensor:
    return (torch.einsum("ihd,jhd->hij", q[at].float(), k[at].float()) * q.shape[-1] ** -0.5).softmax(-1)


class FlashOnCpu:
    """`_flash_attention_forward` and `_backward`, tensors (T, h, d)."""

    def __init__(self) -> None:
        self.forwards = 0

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        starts: Tensor,
        starts_k: Tensor,
        longest: int,
        *rest: Any,
        **options: Any,
    ) -> Any:
        self.forwards += 1
        assert starts.dtype is torch.int32
        assert torch.equal(starts_k, starts)
        assert longest == rest[0] == int(starts.diff().max())  # a kernel looks at no token beyond
        out = torch.empty_like(q)
        for at in sequences(starts):
            out[at] = torch.einsum("hij,jhd->ihd", weights_of(q, k, at), v[at].float()).to(q.dtype)
        nothing = torch.empty(0)
        return out, torch.zeros(q.shape[1], len(q)), torch.zeros(2, dtype=torch.uint64), nothing, nothing

    def backward(
        self, g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, starts: Tensor, *rest: Any, **o: Any
    ) -> tuple[Tensor, ...]:
        gq, gk, gv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for at in sequences(starts):
            weights, upper = weights_of(q, k, at), g[at].float()
            by_weight = torch.einsum("ihd,jhd->hij", upper, v[at].float())
            by_logit = weights * (by_weight - (by_weight * weights).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
            gq[at] = torch.einsum("hij,jhd->ihd", by_logit, k[at].float()).to(q.dtype)
            gk[at] = torch.einsum("hij,ihd->jhd", by_logit, q[at].float()).to(q.dtype)
            gv[at] = torch.einsum("hij,ihd->jhd", weights, upper).to(q.dtype)
        return gq, gk, gv


@pytest.fixture(scope="module")
def flash() -> Iterator[FlashOnCpu]:
    flash = FlashOnCpu()
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", flash.forward, "CPU")
    library.impl("_flash_attention_backward", flash.backward, "CPU")
    yield flash
    library._destroy()


def draw(groups: list[Group], heads: int = 2, size: int = 8, dtype: torch.dtype = torch.float32) -> list[Qkv]:
    generator = torch.Generator().manual_seed(3)

    def one(group: Group) -> Tensor:
        drawn = torch.randn(group.crops, group.tokens, heads, size, generator=generator)
        return drawn.to(dtype).transpose(1, 2)  # (n, h, N, d) in the order in which the engine has it

    return [(one(group), one(group), one(group)) for group in groups]


# -- packing ----------------------------------------------------------------------------------------------------------

GROUPS = st.lists(st.builds(Group, st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=4)
FAST = settings(max_examples=60, deadline=None)


@FAST
@given(GROUPS, st.integers(1, 3), st.integers(1, 5))
def test_what_is_packed_comes_back(groups: list[Group], heads: int, size: int) -> None:
    tensors = [q for q, _, _ in draw(groups, heads, size)]
    packed = pack(tensors)
    assert packed.shape == (sum(group.rows for group in groups), heads, size)
    back = unpack(packed, groups_of(tensors))
    assert [t.shape for t in back] == [t.shape for t in tensors]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(back, tensors, strict=True))


@FAST
@given(GROUPS)
def test_starts_say_where_each_sequence_is(groups: list[Group]) -> None:
    starts = starts_of(tuple(groups), CPU)
    assert starts.dtype is torch.int32
    assert starts.diff().tolist() == lengths_of(groups)
    assert (starts[0], starts[-1]) == (0, sum(group.rows for group in groups))
    tensors = [q for q, _, _ in draw(groups)]
    alone = [crop.transpose(0, 1) for tensor in tensors for crop in tensor]  # (N, h, d) each
    assert all(torch.equal(pack(tensors)[at], crop) for at, crop in zip(sequences(starts), alone, strict=True))


def test_starts_are_built_once_for_the_same_groups_and_device() -> None:
    with torch.inference_mode():
        first = starts_of((Group(2, 5), Group(3, 2)), CPU)
    assert starts_of((Group(2, 5), Group(3, 2)), CPU) is first
    assert not first.is_inference()  # or no gradient could be had of what saves it
    assert starts_of((Group(3, 5), Group(2, 2)), CPU) is not first


# -- the kernel -------------------------------------------------------------------------------------------------------


def test_torch_has_no_such_kernel_for_a_cpu() -> None:
    """What the plugin asks first; should torch have one some day, this test says so."""
    (qkv,) = draw([Group(2, 5)], dtype=torch.bfloat16)
    with pytest.raises(NotImplementedError):
        PackedAttention(build_varlen(), torch.bfloat16, "cpu")([qkv])
    work = Work(2, 8, "bfloat16")
    assert "no such kernel for a CPU" in str(
        varlen_obstacle(device("cpu"), work, has_flash=True, has_experimental=True)
    )


def test_torch_takes_it_as_it_is_called() -> None:
    bound = inspect.signature(varlen_attn).bind(*"qkv", "starts", "starts", 7, 7)
    assert list(bound.arguments) == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]


@FAST
@given(groups=GROUPS, data=st.data())
def test_it_is_attention_by_group_and_no_token_sees_another_sequence(
    flash: FlashOnCpu, groups: list[Group], data: st.DataObject
) -> None:
    kernel = PackedAttention(build_varlen(), torch.float32, "cpu")
    inputs = draw(groups)
    before = kernel(inputs)
    for ours, theirs in zip(before, attend_by_group(inputs), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    group = data.draw(st.integers(0, len(groups) - 1))
    crop = data.draw(st.integers(0, groups[group].crops - 1))
    for tensor in inputs[group]:
        tensor[crop] += 5
    for number, (ours, theirs) in enumerate(zip(kernel(inputs), before, strict=True)):
        changed = [i for i in range(len(ours)) if not torch.equal(ours[i], theirs[i])]
        assert changed == ([crop] if number == group else [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_proof_passes_it(flash: FlashOnCpu, dtype: torch.dtype) -> None:
    state = torch.get_rng_state()
    error = largest_error(PackedAttention(build_varlen(), dtype, "cpu"), 3, 64, dtype, CPU)
    assert error < (1e-6 if dtype is torch.float32 else TOLERANCES[dtype])
    assert torch.equal(torch.get_rng_state(), state)


WRONG = {
    "one sequence sees another": lambda q, k, v, groups: varlen_attn(
        q, k, v, *[torch.tensor([0, len(q)], dtype=torch.int32)] * 2, len(q), len(q)
    ),
    "another scale": lambda q, k, v, groups: build_varlen()(1.1 * q, k, v, groups),
    "no gradient of the keys": lambda q, k, v, groups: build_varlen()(q, k.detach() + 0 * k, v, groups),
    "not a number": lambda q, k, v, groups: build_varlen()(q, k, v / 0, groups),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_proof_finds_what_is_wrong(flash: FlashOnCpu, wrong: str) -> None:
    error = largest_error(PackedAttention(WRONG[wrong], torch.bfloat16, "cpu"), 2, 64, torch.bfloat16, CPU)
    assert not error <= TOLERANCES[torch.bfloat16]


def test_tensors_of_another_type_have_the_engines_own_attention(flash: FlashOnCpu) -> None:
    kernel = PackedAttention(build_varlen(), torch.bfloat16, "cpu")
    inputs = draw([Group(2, 5), Group(3, 2)])
    before = flash.forwards
    for ours, theirs in zip(kernel(inputs), attend_by_group(inputs), strict=True):
        assert torch.equal(ours, theirs)
    assert flash.forwards == before
    kernel(draw([Group(2, 5)], dtype=torch.bfloat16))
    assert flash.forwards == before + 1


# -- activation checkpointing and compilation -------------------------------------------------------------------------

MODEL = Model(width=32, depth=2, heads=2, ffn_hidden=64, patch_size_px=8, layerscale=0.3, drop_path_fraction=0.3)


def network_of(mode: str, *, packed: bool) -> VisionTransformer:
    torch.manual_seed(0)
    network = VisionTransformer(MODEL).train()
    network.checkpoint_activations(mode)
    kernel = PackedAttention(build_varlen(), torch.float32, "cpu")
    for block in network.blocks if packed else ():
        block.attn.kernel = kernel
    return network


def learn(network: VisionTransformer, crops: int = 4) -> list[Tensor]:
    """Gradients."""
    generator = torch.Generator().manual_seed(crops)
    images = [torch.randn(crops, 3, side, side, generator=generator) for side in (32, 16)]
    torch.manual_seed(5)  # drop path
    sum(f.cls.pow(3).mean() + f.patches.pow(3).mean() for f in network.forward_list(images)).backward()
    return [parameter.grad for parameter in network.parameters()]


@pytest.mark.parametrize(("mode", "calls"), [("none", 1), ("selective", 1), ("full", 2)])
def test_activation_checkpointing_knows_it_as_attention(flash: FlashOnCpu, mode: str, calls: int) -> None:
    before = flash.forwards
    ours, theirs = learn(network_of(mode, packed=True)), learn(network_of(mode, packed=False))
    assert flash.forwards - before == calls * MODEL.depth
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))
    assert policy(None, torch.ops.torch_attn._varlen_attn.default).name == "MUST_SAVE"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_a_compiled_block_is_one_graph(flash: FlashOnCpu, mode: str) -> None:
    torch._dynamo.reset()
    network, plain = network_of(mode, packed=True), network_of(mode, packed=False)
    for block in network.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    for crops in (4, 6, 3):  # from the second on their number is a symbol of the graph
        ours, theirs = learn(network, crops), learn(plain, crops)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_a_copy_of_a_network_has_the_kernel(flash: FlashOnCpu) -> None:
    network = network_of("none", packed=True)
    before = flash.forwards
    copy.deepcopy(network)(torch.randn(2, 3, 16, 16))
    assert flash.forwards == before + MODEL.depth


# -- what it needs, on facts of devices that are not here -------------------------------------------------------------

BF16 = Work(6, 64, "bfloat16")


def obstacle(facts: DeviceFacts, work: Work = BF16, *, flash: bool = True, experimental: bool = False) -> str | None:
    return varlen_obstacle(facts, work, has_flash=flash, has_experimental=experimental)


@pytest.mark.parametrize("name", ["rtx3090", "rtx4090", "rtx5090", "a100", "h100", "h200", "gfx942", "gfx1151-c"])
def test_nothing_speaks_against_it_recorded(name: str) -> None:
    assert obstacle(device(name)) is None
    if device(name).backend == "cuda":
        assert obstacle(device(name, "2.10.0")) is None


TURING = attrs.evolve(device("rtx3090"), arch="sm_75")


@pytest.mark.parametrize(
    ("facts", "work", "told"),
    [
        (device("cpu"), BF16, "no such kernel for a CPU"),
        (device("h200", "2.9.1"), BF16, "torch 2.9.1 has no torch.nn.attention.varlen: install torch 2.10"),
        (device("gfx1151-b"), BF16, "torch 2.9.1+rocm7.1.1 has no torch.nn.attention.varlen"),
        (device("h200"), attrs.evolve(BF16, dtype="float32"), "set hardware.precision = 'bf16'"),
        (device("h200"), attrs.evolve(BF16, head_size=264), "heads of 8, 16, ... 256, not of 264"),
        (device("h200"), attrs.evolve(BF16, head_size=60), "not of 60"),
        (TURING, BF16, "needs compute capability 8.0, this GPU is sm_75"),
        (device("rtx4090"), attrs.evolve(BF16, head_size=200), "no backward pass for heads of 200 on sm_89"),
        (device("rtx5090"), attrs.evolve(BF16, head_size=224), "no backward pass for heads of 224 on sm_120"),
        (device("gfx942", "2.10.0+rocm7.1"), BF16, "install torch 2.11"),
        (device("gfx1151-a"), BF16, "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1"),
    ],
)
def test_what_speaks_against_it_recorded(facts: DeviceFacts, work: Work, told: str) -> None:
    assert told in str(obstacle(facts, work))


def test_what_may_be_changed_helps_recorded() -> None:
    assert obstacle(device("gfx1151-a"), experimental=True) is None
    assert obstacle(device("gfx942", "2.11.0+rocm7.1")) is None
    assert obstacle(device("a100"), attrs.evolve(BF16, head_size=200)) is None
    assert "built without flash attention" in str(obstacle(device("h200"), flash=False))


# -- runs -------------------------------------------------------------------------------------------------------------


def test_without_a_gpu_it_does_not_start(bigrunner: Runner) -> None:
    result = bigrunner.run("varlen-attention")
    assert isinstance(result.error, UsageError)
    assert result.exit_code == ExitCode.USAGE
    for part in ("plugins.varlen-attention: torch has no such kernel for a CPU", "otherwise = 'default'"):
        assert part in str(result.error)


def test_otherwise_the_engines_own_attention_stays_and_an_event_says_so(bigrunner: Runner) -> None:
    result, plain = bigrunner.run("varlen-attention", config={"otherwise": "default"}), bigrunner.run()
    result.assert_finished()
    assert result.losses == plain.losses
    (event,) = [event for event in result.events if event.kind == "attention"]
    assert (event.level, event.facts["error"]) == ("warning", None)
    assert "no such kernel for a CPU" in event.facts["obstacle"]
    assert any(line.startswith("attention    varlen-attention is not in use") for line in result.run.header)


class Frozen:
    """A network beside student and teacher."""

    @hookimpl
    def frozen_modules(self, run: Run) -> dict[str, Any]:
        return {"anchor": frozen_copy(run.objective.teacher.backbone)}


@pytest.fixture
def as_on_a_gpu(flash: FlashOnCpu, monkeypatch: pytest.MonkeyPatch) -> FlashOnCpu:
    """The facts of an H200 for the CPU of this machine."""
    monkeypatch.setattr("bigrun.devices.read.read_facts", lambda *_: device("h200"))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    return flash


def test_student_teacher_and_frozen_networks_compute_with_it(as_on_a_gpu: FlashOnCpu, bigrunner: Runner) -> None:
    tables = {"hardware": {"precision": "bf16"}, "model": {"drop_path_fraction": 0.5}}
    plain = bigrunner.run(companions=[Frozen()], **tables)
    before = as_on_a_gpu.forwards
    result = bigrunner.run("varlen-attention", companions=[Frozen()], **tables)
    result.assert_finished()
    assert as_on_a_gpu.forwards - before == 1 + 3 * 2 * 2  # the proof; 3 steps, student and teacher, 2 blocks
    assert result.losses == pytest.approx(plain.losses, rel=0.01)
    kernels = [m.kernel for root in (result.run.objective, *result.run.frozen.values()) for m in root.modules()
               if isinstance(m, Attention)]  # fmt: skip
    assert [type(kernel) for kernel in kernels] == [PackedAttention] * 6
    (event,) = [event for event in result.events if event.kind == "attention"]
    assert (event.level, event.facts["layers"], event.facts["obstacle"]) == ("info", 6, None)
    assert event.facts["work"] == {"heads": 2, "head_size": 16, "dtype": "bfloat16"}
    assert 0 < event.facts["error"] < TOLERANCES[torch.bfloat16]


def test_a_resumed_run_is_the_straight_one(as_on_a_gpu: FlashOnCpu, bigrunner: Runner) -> None:
    straight = bigrunner.run("varlen-attention", hardware={"precision": "bf16"})
    assert bigrunner.resume(straight, 2).losses == straight.losses


class Broken:
    """A kernel that gives other numbers, or an error."""

    def __init__(self, harm: float | str) -> None:
        self.harm = harm

    def __call__(self, *arguments: Any) -> Tensor:
        if isinstance(self.harm, str):
            raise RuntimeError(self.harm)
        return self.harm * build_varlen()(*arguments)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (1.1, "it gives other numbers than the engine's own attention: off by 0.1"),
        pytest.param(
            float("nan"), "it gives other numbers than the engine's own attention: off by nan", marks=pytest.mark.slow
        ),
        ("no\nimage", "failed (RuntimeError: no image)"),
    ],
)
def test_a_kernel_that_does_not_do_its_work_is_refused(
    as_on_a_gpu: FlashOnCpu, bigrunner: Runner, monkeypatch: pytest.MonkeyPatch, harm: float | str, told: str
) -> None:
    from bigrun_attention.plugin import VarlenAttention

    broken = Broken(harm)
    monkeypatch.setattr(VarlenAttention, "build", lambda self: broken)
    result = bigrunner.run("varlen-attention", hardware={"precision": "bf16"})
    assert isinstance(result.error, UsageError)
    assert told in str(result.error)
    default = bigrunner.run("varlen-attention", config={"otherwise": "default"}, hardware={"precision": "bf16"})
    assert default.losses == bigrunner.run(hardware={"precision": "bf16"}).losses
    assert told in next(event.message for event in default.events if event.kind == "attention")


class Replaces:
    """Another plugin that has replaced the attention."""

    @hookimpl(tryfirst=True)
    def configure_model(self, objective: Any) -> None:
        for module in objective.modules():
            if isinstance(module, Attention):
                module.kernel = lambda groups: attend_by_group(groups)


def test_two_plugins_do_not_replace_it_one_after_the_other(bigrunner: Runner) -> None:
    result = bigrunner.run("varlen-attention", companions=[Replaces()])
    assert "another plugin has replaced the attention already" in str(result.error)
    assert result.exit_code == ExitCode.USAGE
