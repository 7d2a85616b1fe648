"""A folder for Hugging Face's transformers: `AutoModel.from_pretrained(FOLDER)`, class `DINOv3ViTModel`."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

from bigrun.export.target import ExportError, Extractor, Target, encode_weights, translate
from bigrun.export.targets.foreign import foreign_options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from bigrun.export.source import Source
    from bigrun.sections import Model

__all__ = ["Transformers", "model_config"]

KEY_BIAS = ".attention.k_proj.bias"


class Transformers(Target):
    """The model, and the processor of its images where they are prepared as transformers can."""

    name = "transformers"
    package = "transformers"

    def obstacles(self, model: Model) -> Iterator[str]:
        yield from foreign_options(model)

    def files(self, source: Source) -> dict[str, bytes]:
        weights = translate("transformers", source, layerscale=source.model.layerscale or 1.0)
        has_key_bias = complete_key_biases(weights)
        documents = {"config.json": model_config(source, has_key_bias=has_key_bias)}
        if source.has_full_range:
            documents["preprocessor_config.json"] = processor_config(source)
        files = {name: (json.dumps(document, indent=2) + "\n").encode() for name, document in documents.items()}
        return files | {"model.safetensors": encode_weights(weights)}

    def usage(self, source: Source) -> str:
        return f"""\
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained(".").eval()
with torch.no_grad():
    tokens = model(images).last_hidden_state
cls, patches = tokens[:, 0], tokens[:, {1 + source.model.storage_tokens}:]"""

    def notes(self, source: Source) -> str:
        processor = (
            '`AutoImageProcessor.from_pretrained(".")` prepares 8-bit images as above.'
            if source.has_full_range
            else "There is no processor of images: those of transformers only divide, which is not what is said below."
        )
        return (
            f"{processor} transformers 4.56 is the first that has the model. The norm of local crops, which only "
            "pre-training needs, is not here."
        )

    def version(self) -> str:
        version = super().version()
        model_class()  # it is imported when it is asked for, and that is when it fails
        return version

    def load(self, folder: Path) -> Extractor:
        model, report = model_class().from_pretrained(str(folder), local_files_only=True, output_loading_info=True)
        wrong = {kind: sorted(names) for kind, names in report.items() if names}
        if wrong:  # transformers only warns, and draws what is missing at random
            raise ExportError(f"transformers does not load the export's tensors as they are: {wrong}")
        model.eval()

        def extract(crops: Tensor) -> tuple[Tensor, Tensor]:
            tokens = model(crops).last_hidden_state  # (n, N, D)
            return tokens[:, 0], tokens[:, 1 + model.config.num_register_tokens :]

        return extract


def model_class() -> Any:
    return importlib.import_module("transformers").DINOv3ViTModel


def complete_key_biases(weights: dict[str, Tensor]) -> bool:
    """Whether keys have a bias; if those of one block do, those of all get one, which may be zero."""
    given = any(name.endswith(KEY_BIAS) for name in weights)
    if given:
        for name in [name for name in weights if name.endswith(".attention.q_proj.bias")]:
            weights.setdefault(name.replace("q_proj", "k_proj"), weights[name].new_zeros(weights[name].shape))
    return given


def model_config(source: Source, *, has_key_bias: bool) -> dict[str, Any]:
    """`DINOv3ViTConfig`."""
    model = source.model
    gated = model.ffn == "swiglu"
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "image_size": source.size,
        "patch_size": model.patch_size_px,
        "num_channels": model.in_channels,
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": model.ffn_hidden,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "num_register_tokens": model.storage_tokens,
        "query_bias": model.qkv_bias,
        "key_bias": has_key_bias,
        "value_bias": model.qkv_bias,
        "proj_bias": model.proj_bias,
        "mlp_bias": model.ffn_bias,
        "layer_norm_eps": 1e-5 if model.norm == "layernormbf16" else 1e-6,
        "layerscale_value": model.layerscale or 1.0,
        "drop_path_rate": 0.0,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "rope_theta": model.rope_base,
        "pos_embed_shift": model.rope_shift,
        "pos_embed_jitter": model.rope_jitter_factor,
        "pos_embed_rescale": model.rope_rescale_factor,
    }


def processor_config(source: Source) -> dict[str, Any]:
    """`DINOv3ViTImageProcessor`: 8-bit values to [0, 1], bicubic to the size of a global crop, normalised."""
    return {
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_resize": True,
        "size": {"height": source.size, "width": source.size},
        "resample": 3,  # PIL's number of bicubic
        "do_normalize": True,
        "image_mean": list(source.views.mean),
        "image_std": list(source.views.std),
    }
