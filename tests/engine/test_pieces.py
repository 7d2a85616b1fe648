"""Groups of tensors that several processes have rows of, in a file for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from bigrun.checkpoint.pieces import group_of_file
from bigrun.checkpoint.strict import load_strict
from bigrun.checkpoint.tensors import load_tensors
from bigrun.errors import CheckpointError
from bigrun.shards import rows_of

WHOLE = {"weight": torch.arange(15.0).reshape(5, 3), "bias": torch.arange(5.0)}


@given(st.integers(0, 1000), st.integers(1, 64))
def test_shards_are_chunks(rows: int, shards: int) -> None:
    chunks = torch.arange(rows).chunk(shards)
    for number in range(shards):
        expected = chunks[number].tolist() if number < len(chunks) else []
        assert torch.arange(rows)[rows_of(rows, number, shards)].tolist() == expected


def write(folder: Path, shards: int) -> Path:
    for number in range(shards):
        rows = rows_of(5, number, shards)
        tensors = {name: tensor[rows].clone() for name, tensor in WHOLE.items()}
        tensors |= {"step": torch.tensor(7)} if number == 0 else {}
        save_file(tensors, folder / f"part-{number + 1:05d}-of-{shards:05d}.safetensors")
    shapes = {name: list(tensor.shape) for name, tensor in WHOLE.items()}
    (folder / "part.pieces.json").write_text(json.dumps({"pieces": shards, "shapes": shapes}))
    return folder


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_what_was_cut_is_put_together(tmp_path: Path, shards: int) -> None:
    tensors = load_tensors(write(tmp_path, shards), "part")
    assert set(tensors) == {"weight", "bias", "step"}
    assert "other" not in tensors
    assert int(tensors["step"]) == 7
    for name, tensor in WHOLE.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors.shape(name) == tuple(tensor.shape)
    assert tensors.form("weight") == "F32 [5, 3]"


def test_a_module_is_loaded_from_pieces_or_says_what_does_not_fit(tmp_path: Path) -> None:
    tensors = load_tensors(write(tmp_path, 2), "part")
    with pytest.raises(CheckpointError, match=r"unknown \(1\): step"):
        load_strict(nn.Linear(3, 5), tensors, "part")
    with pytest.raises(CheckpointError, match=r"weight has shape \(5, 3\), expected \(5, 4\)"):
        load_strict(nn.Linear(4, 5), tensors, "part")
    module = nn.Linear(3, 5)
    module.register_buffer("step", torch.tensor(0))
    load_strict(module, tensors, "part")
    assert torch.equal(module.weight, WHOLE["weight"])


def test_pieces_that_do_not_add_up_are_named(tmp_path: Path) -> None:
    write(tmp_path, 2)
    save_file({"weight": torch.zeros(1, 3), "bias": torch.zeros(2)}, tmp_path / "part-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"the pieces of weight have shapes \[\(3, 3\), \(1, 3\)\], not \(5, 3\)"):
        load_tensors(tmp_path, "part")
    save_file({"bias": torch.zeros(2)}, tmp_path / "part-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"part-00002-of-00002\.safetensors: has no weight, which is in pieces"):
        load_tensors(tmp_path, "part")
    (tmp_path / "part-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"pieces\.json: says 2 pieces, but .*part-00002-of-00002\.safetensors is missing"):
        load_tensors(tmp_path, "part")


@pytest.mark.parametrize(
    "index", ["[]", '{"pieces": "two", "shapes": {}}', '{"pieces": 2}', '{"pieces": 0, "shapes": {}}']
)
def test_an_index_that_is_none_is_named(tmp_path: Path, index: str) -> None:
    (tmp_path / "part.pieces.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"part\.pieces\.json: is no index of pieces"):
        load_tensors(tmp_path, "part")


def test_a_file_belongs_to_a_group_by_its_name() -> None:
    assert group_of_file("student-00001-of-00002.safetensors") == group_of_file("student.safetensors") == "student"
    assert group_of_file("student.pieces.json") is None
