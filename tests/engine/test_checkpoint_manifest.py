"""MANIFEST.json: damage is found and named; nothing that is read is ever executed."""

from __future__ import annotations

import json
import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch

from bigrun.checkpoint import manifest
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tensors = {"model": {"w": torch.arange(6.0)}, "optimizer": {}}
    return CheckpointStore(tmp_path).save(12, tensors, {"state": {"step": 12}}, "seed = 0\n")


def flip_bit(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_saved_checkpoint_has_the_files_it_lists(checkpoint: Path) -> None:
    document = json.loads((checkpoint / "MANIFEST.json").read_text())
    assert document.keys() == {"format_version", "step", "config_sha256", "files", "created_utc"}
    assert document["files"].keys() == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "config.toml",
    }
    assert {path.name for path in checkpoint.iterdir()} == {*document["files"], "MANIFEST.json"}
    assert manifest.verify(checkpoint) == []


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "config.toml"])
def test_any_flipped_bit_names_its_file(checkpoint: Path, name: str) -> None:
    path = checkpoint / name
    for bit in range(path.stat().st_size * 8):
        flip_bit(path, bit)
        problems = manifest.verify(checkpoint)
        assert len(problems) == 1
        assert problems[0].startswith(f"{name}: has sha256")
        flip_bit(path, bit)


@pytest.mark.slow
def test_a_flipped_bit_in_the_manifest_is_found_wherever_it_matters(checkpoint: Path) -> None:
    path = checkpoint / "MANIFEST.json"
    before = manifest.read(checkpoint)
    for bit in range(path.stat().st_size * 8):
        flip_bit(path, bit)
        try:
            after = manifest.read(checkpoint)
        except CheckpointError as error:
            assert str(path) in str(error)  # noqa: PT017 - most flips are refused, the others are harmless
        else:
            assert after.config_sha256 == before.config_sha256
            assert after.files == before.files or manifest.verify(checkpoint)
        flip_bit(path, bit)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncation_names_the_file_and_both_sizes(checkpoint: Path, keep: float) -> None:
    path = checkpoint / "model.safetensors"
    size = path.stat().st_size
    os.truncate(path, int(size * keep))
    assert manifest.verify(checkpoint) == [f"model.safetensors: has {int(size * keep)} bytes, expected {size}"]


def test_missing_extra_and_irregular_files_are_named_together(checkpoint: Path) -> None:
    (checkpoint / "state.json").unlink()
    (checkpoint / "notes.txt").write_text("mine")
    (checkpoint / "model.safetensors").unlink()
    os.mkfifo(checkpoint / "model.safetensors")
    problems = manifest.verify(checkpoint)
    assert [problem.split(":")[0] for problem in problems] == ["notes.txt", "model.safetensors", "state.json"]
    assert "not a regular file" in problems[1]
    assert problems[2] == "state.json: is missing"


def test_a_file_behind_a_link_does_not_count(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "state.json").rename(tmp_path / "elsewhere.json")
    (checkpoint / "state.json").symlink_to(tmp_path / "elsewhere.json")
    assert "not a regular file" in manifest.verify(checkpoint)[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"step": "12"}, "'step' cannot be '12'"),
        ({"step": True}, "'step' cannot be True"),
        ({"step": -1}, "'step' cannot be -1"),
        ({"step": None}, "'step' is missing"),
        ({"format_version": 0}, "'format_version' cannot be 0"),
        ({"config_sha256": "0" * 64}, "'config_sha256' is not the sha256 of config.toml"),
        ({"config_sha256": "beef"}, "'config_sha256' cannot be 'beef'"),
        ({"created_utc": 3}, "'created_utc' cannot be 3"),
        ({"author": "me"}, "unknown key 'author'"),
        ({"files": []}, "'files' cannot be []"),
        ({"files": {}}, "config.toml is not listed"),
        ({"files": {"../x": {"bytes": 1, "sha256": "0" * 64}}}, "'../x' is not a name"),
        ({"files": {"MANIFEST.json": {"bytes": 1, "sha256": "0" * 64}}}, "'MANIFEST.json' is not a name"),
        ({"files": {"x": {"bytes": 1.0, "sha256": "0" * 64}}}, "the record of 'x'"),
        ({"files": {"x": {"bytes": 1}}}, "the record of 'x'"),
        ({"files": {"x": {"bytes": 1, "sha256": "A" * 64}}}, "the record of 'x'"),
    ],
)
def test_a_manifest_is_read_strictly(checkpoint: Path, change: dict[str, Any], text: str) -> None:
    path = checkpoint / "MANIFEST.json"
    document = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    with pytest.raises(CheckpointError) as caught:
        manifest.read(checkpoint)
    assert str(caught.value).startswith(f"{path}: is not a valid manifest: ")
    assert text in str(caught.value)
    assert manifest.verify(checkpoint) == [str(caught.value)]


@pytest.mark.parametrize("text", ["[]", "null", "3"])
def test_a_manifest_is_an_object(checkpoint: Path, text: str) -> None:
    (checkpoint / "MANIFEST.json").write_text(text)
    assert "expected an object" in manifest.verify(checkpoint)[0]


def test_a_newer_format_says_what_to_do(checkpoint: Path) -> None:
    path = checkpoint / "MANIFEST.json"
    path.write_text(json.dumps({"format_version": 2, "shards": []}))
    with pytest.raises(manifest.NewerFormatError, match=r"format 2.*resume with the version of bigrun that wrote it"):
        manifest.read(checkpoint)
    with pytest.raises(manifest.NewerFormatError):
        manifest.verify(checkpoint)


class Canary:
    """Unpickling it creates a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["MANIFEST.json", "model.safetensors", "state.json", "config.toml", ".metadata"])
@pytest.mark.parametrize("save", [pickle.dump, torch.save])
def test_a_pickle_in_place_of_any_file_is_never_executed(
    checkpoint: Path, tmp_path: Path, name: str, save: Any
) -> None:
    canary = tmp_path / "canary"
    with (checkpoint / name).open("wb") as file:
        save(Canary(canary), file)
    store = CheckpointStore(tmp_path)
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        store.newest_verified(lambda path, problems: None)
    store.sweep()
    for stem in ("model", "optimizer"):
        if name == f"{stem}.safetensors":
            with pytest.raises(CheckpointError):
                store.load_tensors(checkpoint, stem)
    if name == "state.json":
        with pytest.raises(CheckpointError):
            store.load_facts(checkpoint, "state")
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists(), "the canary must be able to sing"
