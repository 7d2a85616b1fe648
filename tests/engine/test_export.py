"""`bigrun export`: what a library loads gives the checkpoint's features, and what cannot is refused before."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import peer, randomise
from PIL import Image

from bigrun.checkpoint.store import CheckpointStore
from bigrun.cli import main
from bigrun.export.card import without_places
from bigrun.export.export import TARGETS, export_checkpoint
from bigrun.export.folder import new_folder
from bigrun.export.source import Source, read_source
from bigrun.export.target import ExportError
from bigrun.export.targets.timm import SHAPES as NAMED
from bigrun.export.targets.timm import architecture, ratio
from bigrun.export.verify import LIMIT, largest_difference, verify
from bigrun.model.vit import Features, VisionTransformer
from bigrun.sections import Model
from bigrun.testing.runner import Runner

SHAPES: dict[str, dict[str, Any]] = {
    "mlp": {"storage_tokens": 3, "layerscale": 0.1},
    "swiglu": {"ffn": "swiglu", "ffn_hidden": 72, "storage_tokens": 2, "norm": "layernorm", "layerscale": False},
    "few-biases": {"qkv_bias": False, "proj_bias": False, "ffn_bias": False, "storage_tokens": 0, "rope_base": 900.0},
}
EVERYTHING = {
    "norm": "rmsnorm", "rope_coordinates": "max", "rope_base": False, "rope_period_range": [0.5, 90.0],
    "untie_cls_and_patch_norms": True, "rope_dtype": "bf16", "mask_k_bias": False,
}  # fmt: skip
PEERS = ("timm", "transformers")
ROUNDING = 3e-6  # fp32 sums in another order give 3e-7, another eps of the norms gives 1e-5


def train(root: Path, model: Mapping[str, Any], **tables: Mapping[str, Any]) -> Path:
    """A run directory with two steps of training, and a third checkpoint in which every weight has moved."""
    folder = root / "hospital" / "patients"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (45, 50, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    result = Runner(root).run(steps=2, dataset=False, model=tiny(model), data=data(folder), **tables)
    result.assert_finished()
    store = CheckpointStore(result.directory / "checkpoints")
    newest = store.path(2)
    source = read_source(newest)
    network = VisionTransformer(source.model)
    randomise(network)
    moved = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    store.save(
        3, {"teacher": moved}, {"state": store.load_facts(newest, "state")}, (newest / "config.toml").read_text()
    )
    return result.directory


def tiny(model: Mapping[str, Any]) -> dict[str, Any]:
    return {"width": 32, "depth": 2, "heads": 2, "ffn_hidden": 64, "patch_size_px": 8} | dict(model)


def data(folder: Path) -> dict[str, Any]:
    return {"path": str(folder), "effective_batch": 4, "micro_batch": 4, "workers": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: train(tmp_path_factory.mktemp(name), model) for name, model in SHAPES.items()}


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the first run, to be damaged."""
    return Path(shutil.copytree(runs["mlp"], tmp_path / "run"))


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def lines_of_the_card(folder: Path) -> dict[str, Any]:
    """What the card's Python has computed, in the folder as its reader is told."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    return names


def features(run: Path, images: torch.Tensor) -> Features:
    """The checkpoint's own."""
    with torch.no_grad():
        return read_source(run / "checkpoints/step-00000003").backbone()(images)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


FILES = {
    "timm": {"README.md", "config.json", "model.safetensors"},
    "transformers": {"README.md", "config.json", "preprocessor_config.json", "model.safetensors"},
    "torchhub": {"README.md", "config.json", "backbone.safetensors", "hubconf.py"},
    "safetensors": {"README.md", "config.json", "backbone.safetensors"},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("target", TARGETS)
def test_the_library_gives_the_features_of_the_checkpoint(
    target: str, shape: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured by the command on the run's images, and here by the card's own lines."""
    if target in PEERS:
        peer(target)
    if target == "torchhub":  # importing hubconf.py may leave a folder with its byte code
        monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder = tmp_path / "out"
    generators = torch.get_rng_state()
    said: list[str] = []
    assert export_checkpoint(runs[shape], target, folder, say=said.append) == folder
    assert torch.equal(torch.get_rng_state(), generators)
    assert files(folder) == FILES[target]
    assert said[-1].startswith(f"verified in {TARGETS[target].package} ")
    assert "on 4 images of the run's data set" in said[-1]
    monkeypatch.chdir(folder)
    found = lines_of_the_card(folder)
    expected = features(runs[shape], found["images"])
    assert largest_difference(expected.cls, found["cls"]) < ROUNDING
    assert largest_difference(expected.patches, found["patches"]) < ROUNDING


def test_the_command_offers_every_target() -> None:
    (option,) = (o for o in main.commands["export"].params if o.name == "target")
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == list(TARGETS)


def test_timm_takes_other_sizes_and_gives_the_class_token(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = peer("timm")
    export_checkpoint(runs["mlp"], "timm", tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randn(2, 3, 48, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = features(runs["mlp"], images)
        assert largest_difference(expected.cls, model(images)) < ROUNDING
        assert largest_difference(expected.patches, model.forward_features(images)[:, 4:]) < ROUNDING
    config = peer("timm.data").resolve_data_config({}, model=model)
    assert config["input_size"] == (3, 32, 32)
    assert (config["interpolation"], config["crop_pct"]) == ("bicubic", 1.0)
    assert tuple(config["mean"]) == (0.485, 0.456, 0.406)


def test_transformers_prepares_images_as_the_run_did(runs: dict[str, Path], tmp_path: Path) -> None:
    transformers = peer("transformers")
    export_checkpoint(runs["mlp"], "transformers", tmp_path / "out")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    white = processor(np.full((50, 60, 3), 255, dtype=np.uint8), return_tensors="pt")["pixel_values"]
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(white, expected.view(1, 3, 1, 1).expand(1, 3, 32, 32))


def test_key_biases_that_are_trained_go_to_transformers_and_not_to_timm(tmp_path: Path) -> None:
    peer("transformers")
    run = train(tmp_path / "run", {"mask_k_bias": False})
    export_checkpoint(run, "transformers", tmp_path / "out", require_verified=True)
    assert json.loads((tmp_path / "out/config.json").read_text())["key_bias"] is True
    refused = command(run, "--to", "timm")
    assert refused.exit_code == 2
    assert "model.mask_k_bias = false" in refused.output
    assert "--to transformers or torchhub or safetensors" in refused.output


def test_a_shape_that_others_cannot_express_is_refused_once_for_everything(tmp_path: Path) -> None:
    run = train(tmp_path / "run", EVERYTHING)
    for target in ("timm", "transformers"):
        refused = command(run, "--to", target)
        assert refused.exit_code == 2
        for option in ("norm", "rope_coordinates", "rope_period_range", "untie_cls_and_patch_norms", "rope_dtype"):
            assert f"model.{option}" in refused.output
        assert refused.output.strip().endswith("this backbone can be exported with --to torchhub or safetensors")
    assert not (run / "export").exists()
    for target in ("torchhub", "safetensors"):
        assert "verified in" in command(run, "--to", target, "--require-verified").output


def test_a_run_directory_means_its_newest_checkpoint_that_is_whole(run: Path) -> None:
    damaged = run / "checkpoints/step-00000003/teacher.safetensors"
    flip(damaged)
    result = command(run, "--to", "safetensors")
    assert result.exit_code == 0, result.output
    assert "step-00000003 is damaged and was passed over: teacher.safetensors" in result.output
    assert re.search(r"checkpoint   .*step-00000002\n", result.output)
    assert (run / "export/safetensors-step-2").is_dir()


def flip(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)


def test_a_damaged_checkpoint_is_not_exported(run: Path) -> None:
    checkpoint = run / "checkpoints/step-00000002"
    flip(checkpoint / "optimizer.safetensors")
    result = command(checkpoint, "--to", "safetensors")
    assert result.exit_code == 2
    assert "damaged, not exported" in result.output
    assert "optimizer.safetensors: has sha256" in result.output
    assert not (run / "export").exists()


def test_what_is_there_is_left_alone(run: Path, tmp_path: Path) -> None:
    checkpoint, taken, empty = run / "checkpoints/step-00000003", tmp_path / "taken", tmp_path / "empty"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    refused = command(checkpoint, "--to", "safetensors", "--out", taken)
    assert refused.exit_code == 2
    assert "not empty" in refused.output
    assert files(taken) == {"mine.txt"}
    empty.mkdir()
    assert command(checkpoint, "--to", "safetensors", "--out", empty).exit_code == 0
    assert files(empty) == FILES["safetensors"]
    below_a_file = command(checkpoint, "--to", "safetensors", "--out", taken / "mine.txt" / "out")
    assert below_a_file.exit_code == 1
    assert "not written" in below_a_file.output


@pytest.mark.parametrize("make", [False, True])
def test_a_directory_without_checkpoints_is_named(make: bool, tmp_path: Path) -> None:
    if make:
        (tmp_path / "nothing").mkdir()
    result = command(tmp_path / "nothing", "--to", "timm")
    assert result.exit_code == 2
    assert "expected a run directory" in result.output
    assert "or one of its checkpoints" in result.output


def test_other_features_are_found_and_nothing_is_kept(run: Path, tmp_path: Path) -> None:
    source = read_source(run / "checkpoints/step-00000003")
    with pytest.raises(ExportError, match="does not give the checkpoint's features"):
        write_and_verify(tmp_path / "new/out", wrong(source), source)
    assert files(tmp_path) == {"run"}


def write_and_verify(final: Path, written: Source, expected: Source) -> None:
    target = TARGETS["safetensors"]
    with new_folder(final) as folder:
        for name, contents in target.files(written).items():
            (folder / name).write_bytes(contents)
        verify(target, folder, expected, print)


def wrong(source: Source) -> Source:
    """One block's values are those of another."""
    weights = dict(source.weights)
    name = "blocks.1.attn.proj.weight"
    weights[name] = weights[name].flip(0)
    return attrs.evolve(source, weights=weights)


def test_weights_that_the_library_does_not_take_are_an_error(run: Path, tmp_path: Path) -> None:
    peer("transformers")
    source = read_source(run / "checkpoints/step-00000003")
    contents = TARGETS["transformers"].files(source)
    for name, text in contents.items():
        (tmp_path / name).write_bytes(text.replace(b'"num_hidden_layers": 2', b'"num_hidden_layers": 3'))
    with pytest.raises(ExportError, match="does not load the export's tensors as they are"):
        verify(TARGETS["transformers"], tmp_path, source, print)


@pytest.mark.parametrize(("channels", "target"), [(1, "timm"), (5, "timm"), (5, "transformers"), (1, "torchhub")])
def test_without_the_runs_images_photographs_are_used(channels: int, target: str, tmp_path: Path) -> None:
    if target in PEERS:
        peer(target)
    views = {"mean": [0.5] * channels, "std": [0.2] * channels, "colour_probability": 0.0, "grayscale_probability": 0.0}
    grey = Runner(tmp_path).run(steps=1, model=tiny({"in_channels": channels}), views=views, dataset=Grey())
    grey.assert_finished()
    result = command(grey.directory, "--to", target)
    assert result.exit_code == 0, result.output
    assert "on 4 photographs of scikit-image" in result.output
    assert "images       the run's images are of a plugin, which an export does not start" in result.output


class Grey:
    """A data set that nobody can find again."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((1, 40, 40), 50 * index, dtype=torch.uint8)


def test_the_card_says_where_the_weights_come_from_and_names_no_folder(run: Path) -> None:
    assert command(run, "--to", "safetensors").exit_code == 0
    folder = run / "export/safetensors-step-3"
    card = (folder / "README.md").read_text(encoding="utf-8")
    source = read_source(run / "checkpoints/step-00000003")
    for text in (
        "6 images of the folder `patients`", 'path = "patients"', "4 images per step", source.manifest_sha256,
        source.manifest.config_sha256, "| seed | 0 |", f"{source.parameters:,} parameters", "0.485, 0.456, 0.406",
        "belong to whoever trained them", "Verified in bigrun",
    ):  # fmt: skip
        assert text in card
    for path in folder.iterdir():
        assert b"hospital" not in path.read_bytes()


@pytest.mark.parametrize("norm", ["layernorm", "layernormbf16"])
@pytest.mark.parametrize("bias", [False, True])
def test_every_architecture_is_one_of_timm(bias: bool, norm: Any) -> None:
    for width, depth, heads, ffn, hidden in [*NAMED, (32, 2, 2, "mlp", 64)]:
        model = Model(width=width, depth=depth, heads=heads, ffn=ffn, ffn_hidden=hidden, qkv_bias=bias, norm=norm)
        assert peer("timm").is_model(architecture(model))


PATHS = st.text(alphabet="ab /\\.", max_size=12)
TABLES = st.recursive(
    PATHS | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner)
)


@settings(deadline=None, max_examples=50)
@given(TABLES)
def test_no_value_of_a_card_has_more_than_the_last_part_of_a_path(value: Any) -> None:
    def strings(value: Any) -> list[str]:
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        return [value] if isinstance(value, str) else [text for item in inner for text in strings(item)]

    assert not any("/" in text or "\\" in text for text in strings(without_places(value)))
    assert len(strings(without_places(value))) == len(strings(value))


@settings(deadline=None, max_examples=200)
@given(hidden=st.integers(1, 2**20), width=st.integers(1, 65536))
def test_timm_gets_the_hidden_width_back_from_its_ratio(hidden: int, width: int) -> None:
    assert int(width * ratio(hidden, width)) == hidden


def test_a_difference_without_a_number_is_no_agreement() -> None:
    one = torch.ones(2, 3)
    assert largest_difference(one, one + 2e-4) == pytest.approx(2e-4, rel=1e-2)
    for other in (torch.ones(2, 4), one * float("nan")):
        assert not largest_difference(one, other) <= LIMIT
    assert not largest_difference(torch.zeros(2, 3), torch.zeros(2, 3)) <= LIMIT
