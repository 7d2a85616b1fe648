"""Figures as the checks of `gpu.py` give them, made up: of an H200 on which every claim holds. None was measured."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

__all__ = ["HEALTHY", "changed"]

GIB = 2**30


def setting(name: str, *, took_effect: bool | None = True, evidence: str = "") -> dict[str, Any]:
    return {"name": name, "before": None, "after": None, "took_effect": took_effect, "evidence": evidence}


def training(peak_mib: float = 9000.0, **more: Any) -> dict[str, Any]:
    return {
        "losses": [9.8, 9.7, 9.6, 9.5],
        "gradient_norms": [2.0, 2.0, 1.2, 0.9],
        "images_per_second": 900.0,
        "peak_mib": peak_mib,
        "reserved_mib": 1.05 * peak_mib,
        **more,
    }


def saver(name: str, peak_mib: float) -> dict[str, Any]:
    return training(peak_mib, setting=setting(name))


def predicted(batch: int, checkpointing: str) -> dict[str, Any]:
    return {
        "preset": "vit_large",
        "batch": batch,
        "checkpointing": checkpointing,
        "predicted_mib": 28000.0,
        "need_mib": 31000.0,
    }


HEALTHY: dict[str, dict[str, Any]] = {
    "settings": {
        "exit_code": 0,
        "said": "",
        "backend": "cuda",
        "arch": "sm_90",
        "expected_arch": "sm_90",
        "memory_bytes": 140 * GIB,
        "torch_memory_bytes": 140 * GIB,
        "changes_nothing": [],
        "settings": [
            setting("PYTORCH_CUDA_ALLOC_CONF", evidence="torch... says expandable_segments = True; ..."),
            setting("float32 matmul precision"),
            setting("sums of bf16 products"),
            setting("cuDNN benchmark"),
            setting("kernels of attention"),
            setting("AdamW"),
        ],
    },
    "tf32": {
        "took_effect": True,
        "before": {"product_error": 1e-6, "gram_error": 1e-6, "small_gram_error": 1e-6, "koleo_error": 1e-7},
        "with_tf32": {"product_error": 8e-4, "gram_error": 5e-5, "small_gram_error": 2.5e-3, "koleo_error": 1e-5},
        "given_back": 1e-6,
    },
    "bf16_sums": {
        "before": "fast",
        "after": "fast",
        "took_effect": True,
        "tolerance": 2.0**-7,
        "fast": {"error": 2e-3, "tflop_per_second": 650.0},
        "precise": {"error": 1.7e-3, "tflop_per_second": 640.0},
    },
    "attention_kernels": {
        "backend": "cuda",
        "reported": "cudnn",
        "expected": "cudnn",
        "order": ["cudnn", "flash", "efficient", "math"],
        "order_after": ["cudnn", "flash", "efficient", "math"],
        "tokens": [{"tokens": 197, "meant": "cudnn", "operator": "cudnn", "kernel": "cudnn", "kernels": []}],
        "alone": [
            {"allowed": "flash", "reported": "flash", "operator": "flash", "kernel": "flash", "kernels": []},
            {"allowed": "math", "reported": "math", "operator": "math", "kernel": None, "kernels": []},
        ],
    },
    "transfers": {
        "is_gpu": True,
        "images_equal": True,
        "numbers_equal": True,
        "ways": {
            "images, pinned": {"host_ms": 5.0, "gpu_still_busy": True},
            "images, pageable": {"host_ms": 600.0, "gpu_still_busy": False},
            "numbers": {"host_ms": 0.1, "gpu_still_busy": True},
        },
    },
    "host_syncs": {"steps": 4, "waits": 4, "where": {"strategy.py:93": 4}},
    "optimizer": {
        "is_gpu": True,
        "is_fused": True,
        "weights_mib": 1160.0,
        "fused": {"milliseconds": 3.0, "temporary_mib": 0.1},
        "foreach": {"milliseconds": 5.0, "temporary_mib": 1160.0},
        "difference": 1e-7,
        "teacher_difference": 1e-8,
    },
    "memory_prediction": {
        "backend": "cuda",
        "tolerance": 0.1,
        "runs": [
            {
                **predicted(32, "none"),
                "measured_mib": 29000.0,
                "error": -0.034,
                "device_mib": 30500.0,
            },
            {
                **predicted(32, "none"),
                "grows": True,
                "grew": True,
                "measured_mib": 29000.0,
                "error": -0.034,
                "device_mib": 30000.0,
            },
            {**predicted(128, "full"), "why": "it does not fit here"},
        ],
    },
    "training": {
        "is_gpu": True,
        "ways": {
            "eager": training(9000.0, mfu=0.3),
            "cuda-tuning": training(9000.0, mfu=0.31),
            "unfused AdamW": training(9050.0, mfu=0.3),
            "selective checkpointing": training(6000.0, mfu=0.28),
            "full checkpointing": training(3000.0, mfu=0.24),
        },
    },
    "one_pass": {
        "must_work": True,
        "ways": {
            "varlen-attention": {"error": 4e-3, "tolerance": 2e-2, "failure": None, "training": training()},
            "xformers-attention": {"obstacle": "xformers is not installed"},
            "one call for each size": {"training": training()},
        },
    },
    "out_of_memory": {
        "micro_batch": 64,
        "cramped": {
            "exit_code": 0,
            "said": "",
            "ran_out": [{"message": "step 1 needs more", "micro_batch": 64, "starts_again": True}],
            **training(),
            "micro_batch_at_the_end": [32, 64],
        },
        "roomy": {"exit_code": 0, "said": "", "ran_out": [], **training()},
    },
    "background_checkpoint": {
        "slack_seconds": 0.1,
        "copy_seconds": 0.05,
        "checkpoints": [{"stall_seconds": stall, "total_seconds": 2.0} for stall in (0.6, 0.06, 0.07, 0.05)],
    },
    "savers": {
        "is_gpu": True,
        "has_host_memory": True,
        "ways": {
            "none": training(6000.0, setting=None),
            "teacher_offload": saver("teacher in host memory", 5900.0),
            "activation_offload": saver("activations in host memory", 3000.0),
            "states bf16": saver("optimizer states", 5950.0),
        },
        "large": {
            "none": training(7000.0, setting=None),
            "update_in_backward": saver("update in the backward pass", 5900.0),
        },
    },
    "telemetry": {
        "is_gpu": True,
        "exit_code": 3,
        "said": "",
        "rows": 25,
        "sources_left_out": [],
        "missing": [],
        "ranges": {
            "gpu_temperature_celsius": [45.0, 61.0],
            "gpu_power_watts": [300.0, 640.0],
            "gpu_power_limit_watts": [700.0, 700.0],
            "gpu_clock_mhz": [1700.0, 1980.0],
            "gpu_busy_fraction": [0.7, 1.0],
            "gpu_memory_used_bytes": [10 * GIB, 12 * GIB],
            "torch_reserved_bytes": [9 * GIB, 11 * GIB],
        },
        "no_wait": {"milliseconds": 8.0, "gpu_still_busy": True},
    },
    "compiled": {
        "eager": training(),
        "compiled": training(8000.0),
        "setting": setting("compiled blocks"),
        "event": {"graphs": 4, "graph_breaks": 0},
        "stochastic_depth": {"combinations": 3, "failure": None, "images_per_second": 800.0, "graphs": 6},
    },
    "doctor": {
        "exit_code": 0,
        "said": "",
        "fail": [],
        "names": ["bf16 products ViT-L", "attention of a run ViT-L", "disk contents"],
    },
}


def changed(figures: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy in which one thing is another: `path` has names, and numbers in lists, with `.` between them."""
    copied: dict[str, Any] = copy.deepcopy(dict(figures))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = copied
    for part in way:
        place = place[part]
    place[last] = value
    return copied
