"""lightly-train's `dinov2` method (Lightly AG, AGPL-3.0 or commercial) as a peer, through `lightly_train.pretrain`.

    PEER/bin/python benchmarks/peers/lightly_dinov2.py learn SPEC.json      train, and write features
    PEER/bin/python benchmarks/peers/lightly_dinov2.py step SPEC.json       take steps on demand

Run by `learning.py` and `step.py` in an environment that has it. Networks start from random weights, nothing is
downloaded, and its usage events are off.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# Before its import: no usage events, nothing in the user's cache.
os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"
os.environ["LIGHTLY_TRAIN_LOG_LEVEL"] = "WARNING"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lightly_train
import torch
from features import Embedding, FeatureLog
from lightly_train._models.dinov2_vit.dinov2_vit_src.models.vision_transformer import DinoVisionTransformer
from pytorch_lightning import Callback
from torch import Tensor
from turns import Turns

Spec = dict[str, Any]


def network(model: Spec, size_px: int) -> DinoVisionTransformer:
    """Its own vision transformer, in the shape of a [model] table of bigrun's. `pretrain` takes an instance; the names
    that it also takes have fixed shapes."""
    return DinoVisionTransformer(
        img_size=size_px,
        patch_size=model["patch_size_px"],
        embed_dim=model["width"],
        depth=model["depth"],
        num_heads=model["heads"],
        mlp_ratio=model["ffn_hidden"] / model["width"],
        num_register_tokens=model["storage_tokens"],
        init_values=model["layerscale"] or None,
        drop_path_rate=model["drop_path_fraction"],
        drop_path_uniform=True,
        block_chunks=0,
    )


def transform_args(views: Spec) -> Spec:
    """A [views] table. The strengths of the colour jitter are its defaults, which are bigrun's too."""

    def crop(scale: list[float]) -> Spec:
        return {"min_scale": scale[0], "max_scale": scale[1]}

    def blur(probability: float) -> Spec | None:
        return {"prob": probability} if probability else None

    first, second, local = views["blur_probability"]
    solarise = views["solarise_probability"]
    return {
        "image_size": (views["global_size_px"],) * 2,
        "random_resize": crop(views["global_scale"]),
        "random_flip": {"horizontal_prob": views["flip_probability"], "vertical_prob": 0.0},
        "color_jitter": {"prob": views["colour_probability"]},
        "random_gray_scale": views["grayscale_probability"],
        "gaussian_blur": blur(first),
        "global_view_1": {
            "gaussian_blur": blur(second),
            "solarize": {"prob": solarise, "threshold": 0.5} if solarise else None,
        },
        "local_view": {
            "num_views": views["local_crops"],
            "view_size": (views["local_size_px"],) * 2,
            "random_resize": crop(views["local_scale"]),
            "gaussian_blur": blur(local),
        },
        "normalize": {"mean": tuple(views["mean"]), "std": tuple(views["std"])},
    }


def pretrain(spec: Spec, callback: Callback, scratch: Path) -> None:
    """Its own entry point with everything off that is not the method: loggers, exports, checkpoints, progress bar."""
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(spec["seed"])
    per_epoch = len(list(Path(spec["images"]).glob("*.png"))) // spec["batch"]
    lightly_train.pretrain(
        out=scratch / "out",
        data=spec["images"],
        model=network(spec["model"], spec["views"]["global_size_px"]),
        method="dinov2",
        method_args=spec["method_args"],
        optim_args=spec["optim_args"],
        transform_args=transform_args(spec["views"]),
        epochs=math.ceil(spec["steps"] / per_epoch),
        batch_size=spec["batch"],
        num_workers=0,
        accelerator="cpu",
        devices=1,
        precision=spec["precision"],
        seed=spec["seed"],
        loggers={"jsonl": None, "tensorboard": None},
        trainer_args={
            "callbacks": [callback],
            "max_steps": spec["steps"],
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
        },
    )


class Loggable(dict[str, Any], Callback):
    """`pretrain` writes its arguments to a log as JSON, so a callback among them has to be JSON: an empty object."""


class Recorder(Loggable):
    """Hands the teacher to the log. Its moving average follows after a step's last hook for callbacks, so a step is
    recorded when the next one begins."""

    def __init__(self, log: FeatureLog) -> None:
        super().__init__()
        self.features = log  # Lightning sets `log` of every callback

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.features.start()
        self._record(trainer, pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step:
            self._record(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._record(trainer, pl_module)

    def _record(self, trainer: Any, method: Any) -> None:
        def embed(crops: Tensor) -> Embedding:
            tokens = method.teacher_embedding_model.wrapped_model.forward_features(crops)
            logits = method.teacher_head.dino_head(tokens["cls_token"])
            return tokens["cls_token"], tokens["features"].flatten(2).mT, logits

        self.features.record(trainer.global_step, embed)


class OnDemand(Loggable):
    """Takes steps as Lightning would, when it is told to, on crops of random numbers; never lets training begin."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        views, batch = spec["views"], spec["batch"]
        sizes = [views["global_size_px"]] * 2 + [views["local_size_px"]] * views["local_crops"]
        self.batch = {"views": [torch.randn(batch, 3, size, size) for size in sizes]}
        self.turns = Turns()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.turns.say(
            software=f"lightly-train {lightly_train.__version__}, torch {torch.__version__}",
            parameters=sum(p.numel() for p in pl_module.student_embedding_model.parameters()),
            start_rss_bytes=self.turns.start_rss_bytes,
        )
        for _ in self.turns:
            self._step(trainer, pl_module)
        raise SystemExit

    def _step(self, trainer: Any, method: Any) -> None:
        (optimizer,) = trainer.optimizers
        with trainer.precision_plugin.forward_context():
            loss = method.training_step_impl(self.batch, 0).loss
        loss.backward()
        method.on_before_optimizer_step(optimizer)
        method.configure_gradient_clipping(optimizer)
        optimizer.step()
        optimizer.zero_grad()
        method.on_train_batch_end(outputs=None, batch=self.batch, batch_idx=0)  # the teacher's moving average


def main() -> None:
    verb, path = sys.argv[1:]
    spec: Spec = json.loads(Path(path).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="lightly-train-") as scratch:
        os.environ["LIGHTLY_TRAIN_CACHE_DIR"] = scratch
        pretrain(spec, Recorder(FeatureLog(spec)) if verb == "learn" else OnDemand(spec), Path(scratch))


if __name__ == "__main__":
    main()
