"""Groups of tensors that several processes have rows of, in a file for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killing import begin
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from watched import Net, Watched, names_of, restore_shards

from bigrun.checkpoint.optimizer_state import flatten, restore
from bigrun.checkpoint.pieces import group_of_file
from bigrun.checkpoint.strict import load_strict
from bigrun.checkpoint.tensors import load_tensors
from bigrun.errors import CheckpointError
from bigrun.shards import rows_of

WHOLE = {"weight": torch.arange(15.0).reshape(5, 3), "bias": torch.arange(5.0)}
GROUP = WHOLE | {"step": torch.tensor(7)}


@given(st.integers(0, 1000), st.integers(1, 64))
def test_shards_are_chunks(rows: int, shards: int) -> None:
    chunks = torch.arange(rows).chunk(shards)
    for number in range(shards):
        expected = chunks[number].tolist() if number < len(chunks) else []
        assert torch.arange(rows)[rows_of(rows, number, shards)].tolist() == expected


def write(folder: Path, shards: int, stem: str = "part", group: dict[str, Tensor] = GROUP) -> Path:
    sharded = {name: tensor for name, tensor in group.items() if tensor.ndim}
    for number in range(shards):
        tensors = {name: tensor[rows_of(len(tensor), number, shards)].clone() for name, tensor in sharded.items()}
        tensors |= {name: tensor for name, tensor in group.items() if number == 0 and not tensor.ndim}
        save_file(tensors, folder / f"{stem}-{number + 1:05d}-of-{shards:05d}.safetensors")
    shapes = {name: list(tensor.shape) for name, tensor in sharded.items()}
    (folder / f"{stem}.pieces.json").write_text(json.dumps({"pieces": shards, "shapes": shapes}))
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
    with pytest.raises(
        CheckpointError, match=r"pieces\.json: says 2 pieces, but .*part-00002-of-00002\.safetensors is missing"
    ):
        load_tensors(tmp_path, "part")


SHAPES: dict[str, Any] = {"weight": [5, 3], "bias": [5]}
NOT_AN_INDEX: list[Any] = [
    [],
    {"pieces": 2},
    {"pieces": 2, "shapes": []},
    *({"pieces": pieces, "shapes": SHAPES} for pieces in ("two", "2", 2.9, 2.0, True, None, 0, -1, [2])),
    *(
        {"pieces": 2, "shapes": SHAPES | {"bias": shape}}
        for shape in ([], 5, "5", ["5"], [5.0], [True], [-5], {}, None)
    ),
]


@pytest.mark.parametrize("index", [*map(json.dumps, NOT_AN_INDEX), '{"pieces": 1e999, "shapes": {}}'])
def test_an_index_that_is_none_is_named(tmp_path: Path, index: str) -> None:
    (write(tmp_path, 2) / "part.pieces.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"part\.pieces\.json: is no index of pieces: .*expected"):
        load_tensors(tmp_path, "part")


def test_more_pieces_than_files_cost_nothing(tmp_path: Path) -> None:
    facts = {"pieces": 10**17, "shapes": SHAPES}
    (write(tmp_path, 2) / "part.pieces.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=r"part\.pieces\.json: says 10+ pieces, but .* is missing"):
        load_tensors(tmp_path, "part")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"bias": torch.zeros(2).bfloat16()}, r"part: the pieces of bias have several types: BF16, F32"),
        ({"bias": torch.zeros(())}, r"part: the pieces of bias have shapes \[\(3,\), \(\)\], not \(5,\) in all"),
        ({"bias": torch.zeros(2, 1)}, r"part: the pieces of bias have shapes \[\(3,\), \(2, 1\)\], not"),
        ({"bias": torch.zeros(1), "weight": torch.zeros(2, 3)}, r"the pieces of bias have shapes \[\(3,\), \(1,\)\]"),
        ({"more": torch.zeros(1)}, r"part-00002-of-00002\.safetensors: has more, which the index does not name"),
    ],
    ids=["type", "no-rows", "rank", "rows", "extra"],
)
def test_a_piece_of_another_group_is_named(tmp_path: Path, change: dict[str, Tensor], problem: str) -> None:
    path = write(tmp_path, 2) / "part-00002-of-00002.safetensors"
    save_file({name: tensor.clone() for name, tensor in load_file(path).items()} | change, path)
    with pytest.raises(CheckpointError, match=problem):
        load_tensors(tmp_path, "part")


def test_a_piece_in_the_place_of_another_one_is_named(tmp_path: Path) -> None:
    one, two = (write(tmp_path, 2) / f"part-0000{number}-of-00002.safetensors" for number in (1, 2))
    first, second = ({name: t.clone() for name, t in load_file(path).items() if t.ndim} for path in (one, two))
    save_file(second, one)
    save_file(first, two)
    with pytest.raises(CheckpointError, match=r"the pieces of weight have \[2, 3\] rows, expected \[3, 2\]"):
        load_tensors(tmp_path, "part")


# -- only what is needed --------------------------------------------------------------------------------------

BOUND = st.none() | st.integers(-12, 12)


@given(
    shards=st.integers(1, 12),
    rows=st.builds(slice, BOUND, BOUND, st.none() | st.integers(1, 3)),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_those_of_the_whole_in_any_number_of_pieces(tmp_path: Path, shards: int, rows: slice) -> None:
    whole = torch.arange(30).reshape(10, 3)
    write(tmp_path, shards, "cut", {"rows": whole})
    save_file({"rows": whole}, tmp_path / "one.safetensors")
    for stem in ("cut", "one"):
        found = load_tensors(tmp_path, stem).rows("rows", rows)
        assert found.shape == whole[rows].shape
        assert torch.equal(found, whole[rows])


def test_tensors_outlive_what_has_read_them(tmp_path: Path) -> None:
    saved = load_tensors(write(tmp_path, 2), "part")
    tensors = [*saved.values(), saved.rows("weight", slice(1, 2)), saved.rows("weight", slice(2, 4))]
    expected = [tensor.clone() for tensor in tensors]
    del saved
    for path in tmp_path.iterdir():
        path.unlink()
    assert all(map(torch.equal, tensors, expected))


def test_a_part_of_a_group_has_the_rest_of_the_names(tmp_path: Path) -> None:
    group = {"a/weight": torch.ones(4), "a/step": torch.tensor(1), "b/weight": torch.zeros(3)}
    saved = load_tensors(write(tmp_path, 2, group=group), "part")
    part = saved.part("a/")
    assert set(part) == {"weight", "step"}
    assert torch.equal(part["weight"], torch.ones(4))
    assert (part.shape("weight"), part.form("step"), part.rows("weight", slice(1, 3)).tolist()) == (
        (4,),
        "I64 []",
        [1, 1],
    )
    assert "b/weight" not in part
    assert (part.is_in_pieces, saved.part("a/step").is_in_pieces) == (True, False)


def state(folder: Path, shards: int) -> tuple[Net, torch.optim.Optimizer, dict[str, Any]]:
    """A network and its optimizer after a step, written in pieces; and the facts."""
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters())
    sum(parameter.square().sum() for parameter in net.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    tensors, facts = flatten(optimizer, names_of(net))
    write(folder, shards, "net", {name: tensor.detach() for name, tensor in net.named_parameters()})
    write(folder, shards, "optimizer", tensors)
    return net, optimizer, facts


def test_one_tensor_is_put_together_at_a_time(tmp_path: Path) -> None:
    net, optimizer, facts = state(tmp_path, 3)
    other = Net()
    weights, states = Watched(tmp_path, "net"), Watched(tmp_path, "optimizer")
    load_strict(other, weights, "net")
    resumed = torch.optim.AdamW(other.parameters())
    restore(resumed, names_of(other), states, facts)
    assert (weights.read, weights.most) == (10 * 168, 168)
    assert (states.read, states.most) == (20 * 168, 168)
    for old, new in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(old, new)
        assert optimizer.state[old].keys() == resumed.state[new].keys()
        assert all(torch.equal(value, resumed.state[new][key]) for key, value in optimizer.state[old].items())
        assert all(value.is_contiguous() for value in resumed.state[new].values())


@pytest.mark.slow
def test_a_process_reads_its_rows_of_the_pieces_of_others(tmp_path: Path) -> None:
    net, optimizer, facts = state(tmp_path, 3)
    processes = [begin(restore_shards, rank, tmp_path, facts) for rank in (0, 1)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    for rank, rows in enumerate((slice(0, 4), slice(4, 7))):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        size = 24 * (rows.stop - rows.start)
        assert (told["net"], told["optimizer"]) == ([10 * size, size], [20 * size, size])
        for name, parameter in net.named_parameters():
            assert told["rows"][name] == parameter[rows].tolist()
            assert told["moments"][name] == optimizer.state[parameter]["exp_avg"][rows].tolist()


class Seen(nn.Linear):
    """Counts how often it is loaded, as a module does that derives something from its weights."""

    times = 0

    def _load_from_state_dict(self, tensors: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(tensors, prefix, *rest)
        self.times += {f"{prefix}weight", f"{prefix}bias"} <= tensors.keys()


def test_what_a_module_does_when_it_is_loaded_is_done_for_pieces_too(tmp_path: Path) -> None:
    module = nn.Sequential(Seen(3, 5), nn.Linear(5, 5))
    group = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    load_strict(module, load_tensors(write(tmp_path, 2, group=group), "part"), "part")
    assert module[0].times == 1
    assert all(torch.equal(tensor, group[name]) for name, tensor in module.state_dict().items())


def test_a_file_belongs_to_a_group_by_its_name() -> None:
    assert group_of_file("student-00001-of-00002.safetensors") == group_of_file("student.safetensors") == "student"
    assert group_of_file("student.pieces.json") is None
