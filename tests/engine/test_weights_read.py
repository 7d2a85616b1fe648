"""Files with weights: what is read, and what is refused with a reason."""

from __future__ import annotations

import collections
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bigrun.errors import UsageError
from bigrun.testing.runner import Runner
from bigrun.weights.read import backbone_of, read_weights

ANCHOR = "patch_embed.proj.weight"
WEIGHTS = {"cls_token": torch.randn(1, 1, 4), ANCHOR: torch.randn(4, 3, 2, 2)}


class Malicious:
    """An object whose reading would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_both_formats_are_read(tmp_path: Path, name: str, meta: bool) -> None:
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(WEIGHTS, path)
    found = read_weights(path, meta=meta)
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in WEIGHTS.items()}
    if meta:
        assert all(tensor.is_meta for tensor in found.values())
    else:
        assert all(torch.equal(tensor, WEIGHTS[n]) for n, tensor in found.items())


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda w: w, ""),
        (lambda w: {"model": w, "epoch": 3}, "model."),
        (lambda w: {"state_dict": {f"module.{n}": t for n, t in w.items()}}, "state_dict.module."),
        (lambda w: collections.OrderedDict((f"backbone.{n}", t) for n, t in w.items()), "backbone."),
        (
            lambda w: {kind: {f"backbone.{n}": t for n, t in w.items()} for kind in ("student", "teacher")},
            "teacher.backbone.",
        ),
        (lambda w: {"model": {f"{k}.backbone.{n}": t for k in ("student", "teacher") for n, t in w.items()}},
         "model.teacher.backbone."),
    ],
)  # fmt: skip
def test_the_backbone_is_found_in_a_training_checkpoint(tmp_path: Path, wrap: Any, prefix: str) -> None:
    """Where there are a student and a teacher, it is the teacher's."""
    heads = {"teacher.dino_head.last_layer.weight": torch.randn(2, 2), "optimizer": {"state": {0: [1, 2]}}}
    torch.save({**wrap(WEIGHTS), **heads}, tmp_path / "weights.pth")
    weights = backbone_of(read_weights(tmp_path / "weights.pth"), tmp_path)
    assert weights.prefix == prefix
    assert {ANCHOR, "cls_token"} <= weights.backbone.keys()
    assert torch.equal(weights.backbone[ANCHOR], WEIGHTS[ANCHOR])
    assert "teacher.dino_head.last_layer.weight" in {*weights.others, *weights.backbone}


@pytest.mark.parametrize("names", [["head.weight"], [f"a.{ANCHOR}", f"b.{ANCHOR}"], [f"xpatch{ANCHOR}"]])
def test_no_backbone_or_several_are_refused_by_name(names: list[str]) -> None:
    with pytest.raises(UsageError, match="expected one backbone") as caught:
        backbone_of({name: torch.zeros(1) for name in names}, Path("w.pth"))
    assert all(name.removesuffix(ANCHOR) in str(caught.value) for name in names)


@pytest.mark.parametrize("meta", [False, True])
def test_code_in_a_file_is_never_run(tmp_path: Path, meta: bool) -> None:
    torch.save({**WEIGHTS, "x": Malicious(tmp_path / "pwned")}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"holds more than tensors \(\w+\.mkdir\), and code in a file is never run"):
        read_weights(tmp_path / "weights.pth", meta=meta)
    assert not (tmp_path / "pwned").exists()


def test_a_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "network.pt")
    with pytest.raises(UsageError, match="save its state dict alone"):
        read_weights(tmp_path / "network.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100), bytes(64)])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"safetensors file"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match="or is damaged"):
        read_weights(path)


def test_a_list_has_no_tensors_by_name(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="no tensors by name"):
        read_weights(tmp_path / "list.pth")


def test_what_is_not_there_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file; nothing is downloaded"):
        read_weights(tmp_path / "facebook" / "dinov3")


def test_a_checkpoint_is_its_teacher_and_is_verified(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=1)
    checkpoint = result.directory / "checkpoints" / "step-00000001"
    found = read_weights(checkpoint)
    assert all(torch.equal(tensor, result.parameters[f"teacher.{name}"]) for name, tensor in found.items())
    assert backbone_of(found, checkpoint).prefix == "backbone."
    with pytest.raises(UsageError, match=r"no checkpoint \(its newest is .*step-00000001\)"):
        read_weights(result.directory)
    result.damage(1, "teacher")
    with pytest.raises(UsageError, match=r"damaged: teacher\.safetensors"):
        read_weights(checkpoint)


def test_weights_in_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    parts = {"one.safetensors": {"cls_token": WEIGHTS["cls_token"]}, "two.safetensors": {ANCHOR: WEIGHTS[ANCHOR]}}
    for name, tensors in parts.items():
        save_file(tensors, tmp_path / name)
    places = {name: file for file, tensors in parts.items() for name in tensors}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    found = read_weights(index)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in found.items())
    assert read_weights(index, meta=True)[ANCHOR].is_meta
    save_file(WEIGHTS, tmp_path / "two.safetensors")
    save_file({"cls_token": torch.zeros(1)}, tmp_path / "one.safetensors")
    assert read_weights(index)["cls_token"].shape == (1,)  # from the file that the index names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "is not an index"),
        ('{"metadata": {}}', "is not an index"),
        ('{"weight_map": {"cls_token": "two.safetensors"}}', r"names two\.safetensors, which is not beside it"),
        ('{"weight_map": {"cls_token": "../one.safetensors"}}', "which is not beside it"),
        ('{"weight_map": {"cls_token": 5}}', "names 5, which is not beside it"),
        ('{"weight_map": {"norm.weight": "one.safetensors"}}', r"one\.safetensors: has no norm\.weight, which"),
    ],
)
def test_an_index_that_is_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for place in (folder, tmp_path):
        save_file({"cls_token": WEIGHTS["cls_token"]}, place / "one.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_weights(index)
