"""Tensors and facts: what comes back is what was given, to the bit."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from bigrun.checkpoint import disk
from bigrun.checkpoint.facts import encode_facts, load_facts
from bigrun.checkpoint.tensors import encode_tensors, load_tensors
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
SIGNED = [torch.int64, torch.int32, torch.int16, torch.int8]
UNSIGNED = [torch.uint64, torch.uint32, torch.uint16, torch.uint8]


def encoded(tensors: Mapping[str, Tensor]) -> bytes:
    return b"".join(bytes(chunk) for chunk in encode_tensors(tensors, "group"))


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


@st.composite
def arbitrary_tensors(draw: st.DrawFn) -> Tensor:
    """Any dtype, any bit pattern (NaNs too), 0 to 3 dimensions of 0 to 4."""
    dtype = draw(st.sampled_from([*FLOATS, *SIGNED, *UNSIGNED, torch.bool]))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    raw = torch.tensor(list(data), dtype=torch.uint8)
    return (raw % 2).bool().reshape(shape) if dtype is torch.bool else raw.view(dtype).reshape(shape)


@given(st.dictionaries(st.text(max_size=8), arbitrary_tensors(), max_size=6))
@settings(deadline=None, max_examples=60)
def test_tensors_of_every_dtype_come_back_to_the_bit(tensors: dict[str, Tensor]) -> None:
    loaded = load(encoded(tensors))
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert bits(loaded[name]) == bits(tensor)


def test_equal_groups_give_equal_bytes_in_any_order() -> None:
    a, b = torch.arange(3), torch.ones(2, dtype=torch.bfloat16)
    assert encoded({"a": a, "b": b}) == encoded({"b": b, "a": a})


def test_every_tensor_is_aligned_to_its_element_size() -> None:
    data = encoded({"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(1, dtype=torch.int16), "c": torch.ones(5)})
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert all(header[name]["data_offsets"][0] % size == 0 for name, size in {"a": 1, "b": 2, "c": 4}.items())


def test_views_are_saved_by_their_values_and_shared_storage_twice() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    group = {
        "base": base,
        "same": base,
        "transposed": base.T,
        "column": base[:, 1],
        "expanded": base[:1].expand(5, 4),
    }
    loaded = load(encoded(group))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in group.items())
    loaded["base"].zero_()
    assert torch.equal(loaded["same"], base)


def test_parameters_that_require_grad_are_saved() -> None:
    parameter = torch.nn.Parameter(torch.randn(3))
    assert torch.equal(load(encoded({"p": parameter}))["p"], parameter.detach())


@pytest.mark.parametrize("name", ["complex", "__metadata__"])
def test_what_the_format_does_not_have_is_named(name: str) -> None:
    dtype = torch.complex128 if name == "complex" else torch.float32
    with pytest.raises(CheckpointError, match=f"group: tensor '{name}'"):
        encoded({name: torch.ones(2, dtype=dtype)})


def test_changing_loaded_tensors_leaves_the_file_alone(tmp_path: Path) -> None:
    disk.write(tmp_path / "model.safetensors", encode_tensors({"w": torch.ones(4)}, "model"))
    load_tensors(tmp_path, "model")["w"].zero_()
    assert torch.equal(load_tensors(tmp_path, "model")["w"], torch.ones(4))


def test_loaded_tensors_outlive_their_file(tmp_path: Path) -> None:
    disk.write(tmp_path / "model.safetensors", encode_tensors({"w": torch.arange(1000.0)}, "model"))
    loaded = load_tensors(tmp_path, "model")["w"]
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(loaded, torch.arange(1000.0))


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"\xff" * 100, b"\x08" + bytes(7) + b"{}      x"])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        load_tensors(tmp_path, "model")


def test_a_fifo_or_a_link_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / "state.json")
    (tmp_path / "linked.json").symlink_to("/etc/hostname")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load_tensors(tmp_path, "model")
    for name in ("state", "linked"):
        with pytest.raises(CheckpointError, match="not a regular file"):
            load_facts(tmp_path, name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
@settings(deadline=None, max_examples=60)
def test_facts_come_back_equal_and_have_one_spelling(facts: Any) -> None:
    text = encode_facts(facts, "state.json")
    back = json.loads(text)
    assert back == facts
    assert encode_facts(back, "state.json") == text


def test_floats_come_back_to_the_bit(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 5e-324, -0.0, 1.7976931348623157e308, math.pi]
    disk.write(tmp_path / "state.json", [encode_facts(values, "state.json")])
    assert [value.hex() for value in load_facts(tmp_path, "state")] == [value.hex() for value in values]


@pytest.mark.parametrize(
    "facts",
    [math.nan, {"a": [math.inf]}, {"a": (1, 2)}, {1: "a"}, {"a": {1, 2}}, {"a": torch.ones(1)}, [b"x"]],
)
def test_facts_that_would_not_come_back_are_refused(facts: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^state\.json: "):
        encode_facts(facts, "state.json")


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", "{", "", "[" * 100_000, "9" * 5000])
def test_text_that_is_not_json_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json: cannot be read as JSON"):
        load_facts(tmp_path, "state")
