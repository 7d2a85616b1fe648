"""xformers-attention: the mask against attention by group, what the package needs, and runs with a stand-in for it.

xformers has no operator for a CPU, and need not be installed here. The stand-in has the names that the plugin uses, and
computes attention through the mask in full; where xformers is installed, its own mask is tested too.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import attrs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bigrun.devices import DeviceFacts
from bigrun.errors import ExitCode, UsageError
from bigrun.model.activation_checkpointing import policy
from bigrun.model.attention import attend_by_group
from bigrun.model.groups import Group, Qkv
from bigrun.testing.contract import PluginContract
from bigrun.testing.devices import device
from bigrun.testing.runner import Runner
from bigrun_attention.kernel import PackedAttention
from bigrun_attention.memory_efficient import build_memory_efficient, read_xformers
from bigrun_attention.needs import Work, XformersFacts, xformers_obstacle
from bigrun_attention.packing import lengths_of
from bigrun_attention.proof import TOLERANCES, largest_error

CPU = torch.device("cpu")
BF16 = Work(6, 64, "bfloat16")
FP32 = Work(6, 64, "float32")


class TestContract(PluginContract):
    plugin = "xformers-attention"
    config: ClassVar[dict[str, Any]] = {"otherwise": "default"}


# -- a stand-in for xformers ------------------------------------------------------------------------------------------


class BlockDiagonalMask:
    """Zeros in the blocks of one sequence each, minus infinity elsewhere."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    @classmethod
    def from_seqlens(cls, q_seqlen: list[int], kv_seqlen: None = None, *, device: torch.device) -> BlockDiagonalMask:
        return cls(q_seqlen)

    def materialize(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        blocks = torch.block_diag(*(torch.ones(length, length) for length in self.lengths))
        return torch.zeros(shape, dtype=dtype).masked_fill(blocks == 0, -torch.inf)


@attrs.frozen
class Inputs:
    query: Tensor
    key: Tensor
    value: Tensor
    attn_bias: Any = None


@attrs.frozen
class Operator:
    """An operator, and why it does not take what it is asked for."""

    NAME: str
    reasons: tuple[str, ...] = ()

    def not_supported_reasons(self, inputs: Inputs) -> list[str]:
        assert isinstance(inputs.attn_bias, BlockDiagonalMask)
        assert sum(inputs.attn_bias.lengths) == inputs.query.shape[1]
        return list(self.reasons)


def through_the_mask(q: Tensor, k: Tensor, v: Tensor, attn_bias: Any = None) -> Tensor:
    """(1, T, h, d) each."""
    bias = attn_bias.materialize((1, 1, q.shape[1], q.shape[1]), q.dtype, q.device)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


class Xformers:
    """Puts the stand-in where Python looks for the package."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.fmha: Any = ModuleType("xformers.ops.fmha")
        self.library: Any = ModuleType("xformers._cpp_lib")
        self.fmha.BlockDiagonalMask, self.fmha.Inputs = BlockDiagonalMask, Inputs
        self.fmha.memory_efficient_attention = self.attend
        self.offer({"fa2F@2.5.7-pt": (), "fa2B@2.5.7-pt": ()})
        package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
        for module in (package, ops, self.fmha, self.library):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        version = importlib.metadata.version
        monkeypatch.setattr(importlib.metadata, "version", lambda n: "0.0.35" if n == "xformers" else version(n))

    def offer(self, operators: Mapping[str, tuple[str, ...]]) -> None:
        known = [Operator(name, reasons) for name, reasons in operators.items()]
        self.fmha.ALL_FW_OPS = [operator for operator in known if "F" in operator.NAME]
        self.fmha.ALL_BW_OPS = [operator for operator in known if "F" not in operator.NAME]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None) -> Tensor:
        self.calls.append(tuple(query.shape))
        return through_the_mask(query, key, value, attn_bias)


@pytest.fixture
def xformers(monkeypatch: pytest.MonkeyPatch) -> Xformers:
    return Xformers(monkeypatch)


# -- the mask ---------------------------------------------------------------------------------------------------------

GROUPS = st.lists(st.builds(Group, st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=3)
MASKS = [
    pytest.param(lambda: BlockDiagonalMask, id="stand-in"),
    pytest.param(lambda: pytest.importorskip("xformers.ops.fmha").BlockDiagonalMask, id="xformers"),
]


def draw(groups: list[Group], dtype: torch.dtype = torch.float32) -> list[Qkv]:
    generator = torch.Generator().manual_seed(3)

    def one(group: Group) -> Tensor:
        return torch.randn(group.crops, 2, group.tokens, 8, generator=generator).to(dtype).requires_grad_()

    return [(one(group), one(group), one(group)) for group in groups]


def outputs_and_gradients(kernel: Any, inputs: list[Qkv]) -> tuple[list[Tensor], list[Tensor]]:
    outputs = kernel(inputs)
    leaves = [tensor for qkv in inputs for tensor in qkv]
    return outputs, list(torch.autograd.grad(sum(out.pow(2).sum() for out in outputs), leaves))


# fp32 rounds the gradients of a softmax to some 1e-6 of the values that cancel in them, on either way.
TYPES = [(torch.float64, 1e-12, 1e-12), (torch.float32, 1e-6, 1e-5)]


@pytest.mark.filterwarnings("default")  # those of xformers' import
@pytest.mark.parametrize(("dtype", "out_error", "gradient_error"), TYPES, ids=["fp64", "fp32"])
@pytest.mark.parametrize("mask", MASKS)
def test_the_block_diagonal_mask_is_attention_by_group(
    mask: Any, dtype: torch.dtype, out_error: float, gradient_error: float
) -> None:
    kind = mask()

    def attend(q: Tensor, k: Tensor, v: Tensor, groups: tuple[Group, ...]) -> Tensor:
        return through_the_mask(q[None], k[None], v[None], kind.from_seqlens(lengths_of(groups), device=CPU))[0]

    @settings(max_examples=40, deadline=None)
    @given(GROUPS)
    def law(groups: list[Group]) -> None:
        inputs = draw(groups, dtype)
        ours, theirs = (
            outputs_and_gradients(kernel, inputs) for kernel in (PackedAttention(attend, dtype, "cpu"), attend_by_group)
        )
        for got, expected, error in zip(ours, theirs, (out_error, gradient_error), strict=True):
            assert all(torch.allclose(a, b, atol=error, rtol=error) for a, b in zip(got, expected, strict=True))

    law()


@pytest.mark.filterwarnings("default")
def test_xformers_own_operators_say_that_there_is_none_for_a_cpu() -> None:
    pytest.importorskip("xformers.ops.fmha")
    facts = read_xformers(CPU, BF16)
    assert facts.version is not None
    assert facts.import_error is None
    assert facts.operators
    assert facts.runs() == []
    assert "device=cpu" in facts.refusals()


# -- the kernel -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_proof_passes_it(xformers: Xformers, dtype: torch.dtype) -> None:
    error = largest_error(PackedAttention(build_memory_efficient(), dtype, "cpu"), 3, 64, dtype, CPU)
    assert error < (1e-5 if dtype is torch.float32 else TOLERANCES[dtype])
    assert xformers.calls == [(1, 2 * 197 + 3 * 37, 3, 64)]  # all crops in one call


def test_a_mask_is_built_once_for_the_same_groups(xformers: Xformers) -> None:
    seen: list[Any] = []
    xformers.fmha.memory_efficient_attention = lambda q, k, v, attn_bias: seen.append(attn_bias) or q
    kernel = PackedAttention(build_memory_efficient(), torch.float32, "cpu")
    for groups in ([Group(2, 5), Group(3, 2)], [Group(3, 2)], [Group(2, 5), Group(3, 2)]):
        kernel(draw(groups))
    assert seen[0] is seen[2]
    assert [mask.lengths for mask in seen[:2]] == [[5, 5, 2, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize("name", ["xformers_flash::flash_fwd", "xformers::efficient_attention_forward_ck"])
def test_selective_checkpointing_keeps_what_its_operators_give(name: str) -> None:
    """Names of xformers 0.0.35 (flash.py, ck.py); its third kind is aten::_efficient_attention_forward."""
    namespace, operator = name.split("::")
    library = torch.library.Library(namespace, "FRAGMENT")
    library.define(f"{operator}(Tensor q) -> Tensor")
    kept = policy(None, getattr(getattr(torch.ops, namespace), operator).default)
    library._destroy()
    assert kept.name == "MUST_SAVE"
    assert policy(None, torch.ops.aten._efficient_attention_forward.default).name == "MUST_SAVE"


# -- what it needs, on facts that were recorded -----------------------------------------------------------------------

# By xformers 0.0.35's own operators (`not_supported_reasons`) with the capability of each GPU in the place of torch's
# answer; those that were not built for any are left out. ckF and ckB are what its source says of ROCm.
TOO_NEW = "requires device with capability <= (9, 0) but your GPU has capability (12, 0) (too new)"
NO_FP32 = "dtype=torch.float32 (supported: {torch.float16, torch.bfloat16})"
NO_CUDA = "xFormers wasn't build with CUDA support"
INFERENCE = {"triton_splitKF": ("attn_bias type is <class 'xformers.ops.fmha.attn_bias.BlockDiagonalMask'>",)}
NOT_LOADED = "xFormers can't load C++/CUDA extensions. xFormers was built for: PyTorch 2.10.0+cu128 with CUDA 1208"


def operators(flash: tuple[str, ...], cutlass: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    names = {"cutlassF-pt": cutlass, "fa2F@2.5.7-pt": flash, "cutlassB-pt": cutlass, "fa2B@2.5.7-pt": flash}
    return {**names, **INFERENCE}


UP_TO_9 = XformersFacts("0.0.35", operators=operators((), ()))
UP_TO_9_FP32 = XformersFacts("0.0.35", operators=operators((NO_FP32,), ()))
BLACKWELL = XformersFacts("0.0.35", operators=operators((), (TOO_NEW,)))
BLACKWELL_FP32 = XformersFacts("0.0.35", operators=operators((NO_FP32,), (TOO_NEW,)))
UNLOADED = XformersFacts("0.0.35", library_error=NOT_LOADED, operators=operators((NO_CUDA,), (NO_CUDA,)))
ROCM = XformersFacts("0.0.35", operators={"ckF": (), "ckB": (), **INFERENCE})
MISSING = XformersFacts()


@pytest.mark.parametrize(
    ("name", "work", "facts", "operator"),
    [
        ("rtx4090", BF16, UP_TO_9, "fa2F@2.5.7-pt"),
        ("a100", BF16, UP_TO_9, "fa2F@2.5.7-pt"),
        ("h100", BF16, UP_TO_9, "fa2F@2.5.7-pt"),
        ("h200", FP32, UP_TO_9_FP32, "cutlassF-pt"),
        ("rtx5090", BF16, BLACKWELL, "fa2F@2.5.7-pt"),
        ("gfx942", BF16, ROCM, "ckF"),
    ],
)
def test_where_an_operator_takes_the_work_recorded(name: str, work: Work, facts: XformersFacts, operator: str) -> None:
    assert xformers_obstacle(device(name), work, facts) is None
    assert operator in facts.runs()


CU130 = "pip install 'xformers>=0.0.35' --index-url https://download.pytorch.org/whl/cu130"
ROCM71 = "pip install 'xformers>=0.0.35' --index-url https://download.pytorch.org/whl/rocm7.1"


@pytest.mark.parametrize(
    ("facts", "work", "xformers", "told"),
    [
        (device("cpu"), BF16, UP_TO_9, ["no operator for a CPU"]),
        (device("gfx1151-c"), BF16, ROCM, ["compiled for gfx90a and gfx942 only, this GPU is gfx1151"]),
        (device("gfx1100"), BF16, MISSING, ["this GPU is gfx1100"]),  # before the advice to install it
        (device("rtx4090"), BF16, MISSING, ["xformers is not installed", CU130]),
        (device("gfx942"), BF16, MISSING, ["xformers is not installed", ROCM71]),
        (
            device("h200", "2.10.0"),
            BF16,
            XformersFacts("0.0.33", import_error="ImportError: no schema"),
            ["xformers 0.0.33 cannot be imported (ImportError: no schema)", CU130],
        ),
        (device("h200"), BF16, UNLOADED, ["the compiled part of xformers 0.0.35 is not loaded", NOT_LOADED, CU130]),
        (
            device("a100"),
            BF16,
            attrs.evolve(UNLOADED, version="0.0.34"),
            ["the compiled part of xformers 0.0.34 is not loaded", CU130],
        ),
        (device("rtx5090"), FP32, BLACKWELL_FP32, [f"fa2F@2.5.7-pt: {NO_FP32}", TOO_NEW, "precision = 'bf16'"]),
    ],
)
def test_where_none_does_the_reason_and_the_remedy_recorded(
    facts: DeviceFacts, work: Work, xformers: XformersFacts, told: list[str]
) -> None:
    obstacle = str(xformers_obstacle(facts, work, xformers))
    assert [part for part in told if part not in obstacle] == []
    assert "triton" not in obstacle  # of inference alone


def test_torchs_own_kernels_count_without_the_compiled_part_where_xformers_says_so() -> None:
    assert xformers_obstacle(device("h200"), BF16, attrs.evolve(UP_TO_9, library_error=NOT_LOADED)) is None


def test_an_operator_without_a_backward_pass_is_none() -> None:
    forward_only = {"fa3F@2.8": (), "fa3B@2.8": (NO_FP32,), "cutlassF-pt": (), **INFERENCE, "triton_splitKF": ()}
    assert XformersFacts("0.0.35", operators=forward_only).runs() == []


# -- what is installed ------------------------------------------------------------------------------------------------


def test_what_is_installed_is_read(xformers: Xformers) -> None:
    xformers.offer({**UP_TO_9_FP32.operators})
    assert read_xformers(CPU, FP32) == UP_TO_9_FP32
    xformers.library._cpp_library_load_exception = ImportError(f"{NOT_LOADED}\n  Please reinstall xformers (see https)")
    assert read_xformers(CPU, FP32).library_error == NOT_LOADED


def test_no_xformers_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert read_xformers(CPU, BF16) == MISSING


def test_an_import_that_fails_is_a_fact(xformers: Xformers, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    told = "OSError: libcudart.so.12: cannot open shared object file"
    assert read_xformers(CPU, BF16) == XformersFacts("0.0.35", import_error=told)


# -- runs -------------------------------------------------------------------------------------------------------------


def test_without_a_gpu_it_does_not_start_and_xformers_is_not_imported(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigrun_attention.memory_efficient.read_xformers", None)
    result = bigrunner.run("xformers-attention")
    assert isinstance(result.error, UsageError)
    assert result.exit_code == ExitCode.USAGE
    for part in ("plugins.xformers-attention: xformers has no operator for a CPU", "otherwise = 'default'"):
        assert part in str(result.error)


@pytest.fixture
def as_on_a_gpu(xformers: Xformers, monkeypatch: pytest.MonkeyPatch) -> Xformers:
    """The facts of an H200 for the CPU of this machine."""
    monkeypatch.setattr("bigrun.devices.read.read_facts", lambda *_: device("h200"))
    return xformers


def test_a_run_with_it_is_the_run_without(as_on_a_gpu: Xformers, bigrunner: Runner) -> None:
    plain, result = bigrunner.run(), bigrunner.run("xformers-attention")
    result.assert_finished()
    assert result.losses == pytest.approx(plain.losses, rel=1e-5)
    assert len(as_on_a_gpu.calls) == 1 + 3 * 2 * 2  # the proof; 3 steps, student and teacher, 2 blocks
    (event,) = [event for event in result.events if event.kind == "attention"]
    assert event.facts["layers"] == 4
    assert event.facts["work"] == {"heads": 2, "head_size": 16, "dtype": "float32"}
    assert event.facts["error"] < 1e-5
    line = next(line for line in result.run.header if line.startswith("attention "))
    assert "xformers-attention computes float32 with heads of 16 in 4 layers" in line


def test_where_no_operator_takes_the_work_it_says_why(as_on_a_gpu: Xformers, bigrunner: Runner) -> None:
    as_on_a_gpu.offer({"fa2F@2.5.7-pt": (NO_FP32,), "fa2B@2.5.7-pt": (NO_FP32,)})
    result = bigrunner.run("xformers-attention")
    assert f"takes float32 with heads of 16 on sm_90 (fa2F@2.5.7-pt: {NO_FP32})" in str(result.error)
    default = bigrunner.run("xformers-attention", config={"otherwise": "default"})
    default.assert_finished()
    assert default.losses == bigrunner.run().losses
    assert as_on_a_gpu.calls == []
    assert NO_FP32 in next(event.message for event in default.events if event.kind == "attention")


def test_the_two_plugins_exclude_each_other(as_on_a_gpu: Xformers, bigrunner: Runner) -> None:
    result = bigrunner.run("varlen-attention", "xformers-attention", config={"otherwise": "default"})
    assert isinstance(result.error, UsageError)
    assert "another plugin has replaced the attention already: use one of them" in str(result.error)
