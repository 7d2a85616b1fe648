"""The copy of the state: of its moment, in buffers that are used again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.checkpoint.staging import Staging, count_bytes

Groups = dict[str, dict[str, torch.Tensor]]


def state() -> Groups:
    generator = torch.Generator().manual_seed(0)
    return {
        "student": {"w": torch.randn(3, 4, generator=generator), "b": torch.randn(4, generator=generator)},
        "teacher": {"w": torch.randn(3, 4, generator=generator)},
        "optimizer": {"step": torch.tensor(7), "half": torch.ones(2, dtype=torch.bfloat16)},
        "frozen": {},
    }


def pointers(copied: Groups) -> dict[tuple[str, str], int]:
    return {(group, name): tensor.data_ptr() for group, names in copied.items() for name, tensor in names.items()}


def test_a_copy_has_every_group_name_shape_dtype_and_value() -> None:
    original = state()
    copied = Staging().copy(original)
    assert copied.keys() == original.keys()
    for group, members in original.items():
        assert copied[group].keys() == members.keys()
        for name, tensor in members.items():
            assert copied[group][name].dtype == tensor.dtype
            assert copied[group][name].shape == tensor.shape
            assert torch.equal(copied[group][name], tensor)


def test_a_copy_stays_what_it_was_when_the_networks_change_in_place() -> None:
    original = state()
    copied = Staging().copy(original)
    for members in original.values():
        for tensor in members.values():
            tensor.zero_()
    assert torch.equal(copied["student"]["w"], state()["student"]["w"])
    assert copied["optimizer"]["step"] == 7
    copied["teacher"]["w"].fill_(9)
    assert not original["teacher"]["w"].any(), "nor does the copy reach the networks"


def test_tensors_that_share_storage_have_a_buffer_each() -> None:
    whole = torch.arange(6.0)
    copied = Staging().copy({"g": {"whole": whole, "part": whole[:3], "turned": whole.reshape(2, 3).T}})
    whole.zero_()
    assert torch.equal(copied["g"]["part"], torch.arange(3.0))
    assert torch.equal(copied["g"]["turned"], torch.arange(6.0).reshape(2, 3).T)
    assert len(set(pointers(copied).values())) == 3


def test_a_parameter_is_copied_without_its_gradient() -> None:
    copied = Staging().copy({"g": {"w": torch.nn.Parameter(torch.ones(3))}})
    assert not copied["g"]["w"].requires_grad


def test_buffers_are_used_again() -> None:
    staging = Staging()
    first = pointers(staging.copy(state()))
    changed = state()
    changed["student"]["w"] += 1
    second = staging.copy(changed)
    assert pointers(second) == first
    assert torch.equal(second["student"]["w"], changed["student"]["w"])


def test_another_shape_or_dtype_gets_another_buffer_and_what_is_gone_has_none() -> None:
    staging = Staging()
    staging.copy(state())
    changed: Groups = {"student": {"w": torch.zeros(5), "b": torch.zeros(4, dtype=torch.float64)}}
    copied = staging.copy(changed)
    assert copied["student"]["w"].shape == (5,)
    assert copied["student"]["b"].dtype == torch.float64
    assert copied.keys() == {"student"}


def test_no_room_in_memory_is_a_memory_error_and_leaves_no_buffers() -> None:
    staging = Staging()
    before = pointers(staging.copy(state()))
    endless = torch.zeros(1).expand(1 << 46)  # more bytes than there are addresses
    with pytest.raises(MemoryError):
        staging.copy({**state(), "more": {"w": endless}})
    taken = [torch.empty(3, 4) for _ in range(8)]  # what was given back may be given to others
    assert pointers(staging.copy(state())).keys() == before.keys()
    assert taken
    assert torch.equal(staging.copy(state())["student"]["w"], state()["student"]["w"])


@given(st.lists(st.tuples(st.sampled_from(["f4", "f2", "i8", "u1"]), st.lists(st.integers(0, 4), max_size=3))))
@settings(deadline=None, max_examples=30)
def test_bytes_are_those_of_all_tensors(parts: list[tuple[str, list[int]]]) -> None:
    dtypes = {"f4": torch.float32, "f2": torch.float16, "i8": torch.int64, "u1": torch.uint8}
    tensors = [torch.zeros(shape, dtype=dtypes[kind]) for kind, shape in parts]
    assert count_bytes(tensors) == sum(len(t.numpy().tobytes()) for t in tensors)


@pytest.mark.gpu
def test_a_copy_of_a_gpu_is_pinned_and_of_its_moment() -> None:
    tensors = {"g": {"w": torch.ones(1000, 1000, device="cuda")}}
    staging = Staging()
    copied = staging.copy(tensors)
    tensors["g"]["w"].zero_()
    torch.cuda.synchronize()
    assert copied["g"]["w"].is_pinned()
    assert copied["g"]["w"].device.type == "cpu"
    assert bool((copied["g"]["w"] == 1).all())
